"""The analytical network's YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from llmservingsim.backend.astra_files.text import read_yaml
from llmservingsim.backend.config import NetworkModel, TopologyName
from llmservingsim.errors import TraceError


def read_network(path: Path) -> NetworkModel:
    """Read a network YAML: lists with one entry per dimension, or plain values when there is one dimension.

    Raises:
        TraceError: Naming the file and the key, if one is missing or wrong.
    """
    fields = read_yaml(path)
    topology = [str(t) for t in fields.one_or_more("topology", str)]
    for name in topology:
        fields.choice("topology", name, get_args(TopologyName))
    model = NetworkModel(
        topology=topology,
        npus_count=[int(n) for n in fields.one_or_more("npus_count", int)],
        bandwidth_gbps=[float(b) for b in fields.one_or_more("bandwidth", float)],
        latency_ns=[float(n) for n in fields.one_or_more("latency", float)],
    )
    lengths = {len(topology), len(model.npus_count), len(model.bandwidth_gbps), len(model.latency_ns)}
    if len(lengths) > 1 or not topology:
        raise TraceError(f"{path}: topology, npus_count, bandwidth and latency must have one entry per dimension each")
    fields.require("npus_count", min(model.npus_count) >= 1, "numbers of at least 1")
    fields.require("bandwidth", min(model.bandwidth_gbps) > 0, "positive numbers")
    fields.require("latency", min(model.latency_ns) >= 0, "numbers that are not negative")
    return model


def write_network(path: Path, network: NetworkModel) -> None:
    """Write a network YAML that `read_network` and ASTRA-sim read as the same network.

    Raises:
        TraceError: If the network has a fabric, which is no grid of dimensions.
    """
    if network.fabric is not None:
        raise TraceError(f"{path}: a network of arbitrary links has no ASTRA-sim file; expected one of dimensions")
    rows: dict[str, Sequence[object]] = {
        "topology": network.topology,
        "npus_count": network.npus_count,
        "bandwidth": network.bandwidth_gbps,
        "latency": network.latency_ns,
    }
    lines = [f"{key}: [ {', '.join(str(v) for v in values)} ]\n" for key, values in rows.items()]
    path.write_text("".join(lines), encoding="utf-8")
