"""ASTRA-sim's flags, and what they say: graphs, network, system and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from llmservingsim.backend.astra_files import (
    CHAKRA_DIALECTS,
    read_groups,
    read_memory,
    read_network,
    read_programs_by_node,
    read_system,
    read_tensor_tracking,
)
from llmservingsim.backend.config import Dialect, MemoryModel, NetworkModel, SystemModel
from llmservingsim.errors import TraceError
from llmservingsim.graph import Graph
from llmservingsim.trace.chakra import read_traces, round_durations


class Congestion(StrEnum):
    """Which network model times messages."""

    AWARE = "aware"
    UNAWARE = "unaware"
    FLOW = "flow"


class DialectName(StrEnum):
    """Whose files and rules."""

    ASTRA_SIM = "astra-sim"
    LLMSERVINGSIM = "llmservingsim"


class Truth(StrEnum):
    """A flag that takes its value, as ASTRA-sim's do."""

    TRUE = "true"
    FALSE = "false"


Workloads = Annotated[
    list[Path],
    typer.Option(
        "--workload-configuration",
        help="Prefix: rank i reads PREFIX.i.et. In the dialect llmservingsim repeatable: one runs after another.",
    ),
]
System = Annotated[Path, typer.Option("--system-configuration", help="System layer, JSON.")]
Network = Annotated[Path, typer.Option("--network-configuration", help="Network, YAML.")]
Memory = Annotated[
    Path,
    typer.Option("--remote-memory-configuration", "--memory-configuration", help="Memory beyond the rank's, JSON."),
]
Groups = Annotated[
    str, typer.Option("--comm-group-configuration", help='Communicator groups, JSON; none if it contains "empty".')
]
CongestionOption = Annotated[
    Congestion,
    typer.Option(help="Messages wait for a whole link, never, or share it (flow, which ASTRA-sim does not have)."),
]
DialectOption = Annotated[DialectName, typer.Option(help="Whose traces, files and rules: llmservingsim is 2.0's fork.")]
NumQueues = Annotated[int, typer.Option("--num-queues-per-dim", min=1, help="Queues of each dimension.")]
InjectionScale = Annotated[float, typer.Option(min=0, help="Multiplies the endpoint delay.")]
Rendezvous = Annotated[Truth, typer.Option("--rendezvous-protocol", help="Sends wait for a handshake.")]
WholeMicroseconds = Annotated[
    bool,
    typer.Option("--whole-microseconds", help="Round durations as Chakra's field does, which a stock ASTRA-sim reads."),
]


@dataclass(frozen=True, slots=True)
class AstraFlags:
    """What ASTRA-sim's flags said.

    Attributes:
        workloads: Prefixes of traces.
        system, network, memory, groups: Files; ``groups`` is none if it contains "empty".
        congestion: The network model.
        dialect: Whose files and rules.
        num_queues_per_dim, injection_scale, rendezvous, whole_microseconds: As in the flags.
    """

    workloads: list[Path]
    system: Path
    network: Path
    memory: Path
    groups: str = "empty"
    congestion: Congestion = Congestion.UNAWARE
    dialect: DialectName = DialectName.ASTRA_SIM
    num_queues_per_dim: int = 1
    injection_scale: float = 1.0
    rendezvous: bool = False
    whole_microseconds: bool = False

    @property
    def rules(self) -> Dialect:
        """The dialect as the backend calls it."""
        return "llmservingsim" if self.dialect is DialectName.LLMSERVINGSIM else "astra-sim"


@dataclass(frozen=True, slots=True)
class AstraInputs:
    """What the files behind the flags hold.

    Attributes:
        graphs: One per workload, expanded.
        network, system, memory: What runs them.
        tensor_file: What files of tensor lifetimes are called, None if none are wanted.
    """

    graphs: list[Graph]
    network: NetworkModel
    system: SystemModel
    memory: MemoryModel
    tensor_file: str | None


def load_inputs(flags: AstraFlags) -> AstraInputs:
    """Read everything that the flags name.

    Raises:
        TraceError: Naming the file and what is wrong in it, or the flag.
    """
    if len(flags.workloads) > 1 and flags.dialect is DialectName.ASTRA_SIM:
        raise TraceError(
            "--workload-configuration: given more than once; expected one, or --dialect llmservingsim, which runs them "
            "one after another"
        )
    network = msgspec.structs.replace(read_network(flags.network), model=flags.congestion.value)
    system = msgspec.structs.replace(
        read_system(flags.system, flags.injection_scale, flags.rules),
        num_queues_per_dim=flags.num_queues_per_dim,
        rendezvous=flags.rendezvous,
    )
    read = _trace_reader(flags, network, system)
    return AstraInputs(
        graphs=[read(prefix) for prefix in flags.workloads],
        network=network,
        system=system,
        memory=read_memory(flags.memory, flags.rules),
        tensor_file=read_tensor_tracking(flags.system),
    )


def _trace_reader(flags: AstraFlags, network: NetworkModel, system: SystemModel) -> Callable[[Path], Graph]:
    groups = None if "empty" in flags.groups else read_groups(Path(flags.groups))
    programs = read_programs_by_node(flags.system, flags.rules)

    def read(prefix: Path) -> Graph:
        graph = read_traces(
            prefix,
            ranks=network.npus,
            groups=groups,
            dialect=CHAKRA_DIALECTS[flags.rules],
            roofline=system.roofline_enabled,
            programs_by_node=programs,
        )
        return round_durations(graph) if flags.whole_microseconds else graph

    return read
