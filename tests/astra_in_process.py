"""A stand-in for an ASTRA-sim binary that needs no process of its own."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmservingsim.backend import NetworkModel
from llmservingsim.backend.astra import RankResult, run_traces
from llmservingsim.backend.astra_binary import AstraSimBinary
from llmservingsim.backend.astra_files import read_groups, read_memory, read_network, read_system
from llmservingsim.trace.chakra import read_traces


class InThisProcess(AstraSimBinary):
    """Answers with our own backend, from the files that a stock ASTRA-sim would read.

    Attributes:
        networks: Those that it was given, in order.
    """

    def __init__(self) -> None:
        super().__init__(sys.executable)
        self.networks: list[NetworkModel] = []

    def run(self, options: Mapping[str, Any]) -> list[RankResult]:
        files = {name.removesuffix("-configuration"): Path(file) for name, file in options.items()}
        network, groups = read_network(files["network"]), read_groups(files["comm-group"])
        self.networks.append(network)
        graph = read_traces(files["workload"], ranks=network.npus, groups=groups, exact_durations=False)
        return run_traces(graph, network, read_system(files["system"]), read_memory(files["remote-memory"]))
