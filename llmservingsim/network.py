"""The network of a run: what the file says about links and collectives, as the backend takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, get_args

import msgspec

from llmservingsim.backend import NetworkModel, SystemModel
from llmservingsim.backend.collectives import COLLECTIVES
from llmservingsim.backend.config import LINK_GB, MEMORY_GB
from llmservingsim.backend.measured import read_measured
from llmservingsim.backend.topologies import Topology, Torus, build_network, device_ids, parse_topology, read_topology
from llmservingsim.config import NetworkSpec
from llmservingsim.config.catalog import AcceleratorSpec, catalogued_networks, find_network
from llmservingsim.config.load import SUFFIXES
from llmservingsim.config.quantities import Shape
from llmservingsim.errors import ConfigError, PluginError, located, nearest, one_of
from llmservingsim.plugins import find_plugin
from llmservingsim.ranks import Box, Footprint, box_of, communicators, place
from llmservingsim.strict import convert
from llmservingsim.units import parse_bandwidth, parse_time_ns

_SHAPES = get_args(Shape)
_POWERS_OF_TWO = ("halvingDoubling", "doubleBinaryTree")


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """What the instances run on.

    Attributes:
        network: Links.
        system: Collectives.
        ranks: The devices of every instance, in file order.
        endpoints: Memories of the topology, and their numbers among the devices of the network.
    """

    network: NetworkModel
    system: SystemModel
    ranks: tuple[Sequence[int], ...]
    endpoints: Mapping[str, int]


def plan_network(
    spec: NetworkSpec, footprints: Sequence[Footprint], accelerators: Sequence[AcceleratorSpec], base: Path
) -> NetworkPlan:
    """Build network and system layer, and give every instance its ranks.

    Args:
        spec: The section ``network``.
        footprints: Of every instance, in file order.
        accelerators: Of every instance.
        base: Where relative paths start.

    Raises:
        ConfigError: If something is wrong, or the network has too few ranks.
    """
    with located("network"):
        shapes, endpoints = _shapes(spec), dict[str, int]()
        if shapes is not None:
            network = _grid(spec, shapes, sum(f.devices for f in footprints), accelerators)
            has_servers = len(shapes) > 1 and any(f.nnodes > 1 for f in footprints)
            npus_per_node = prod(network.npus_count[:-1]) if has_servers else None
        else:
            topology = _named(spec, base)
            network, npus_per_node = build_network(topology, spec.model), getattr(topology, "npus_per_node", None)
            endpoints = _endpoints(topology)
        ranks = place(footprints, network.npus, npus_per_node)
        boxes = {
            collective: [box for group in groups if (box := box_of(group, network.npus_count)) is not None]
            for collective, groups in communicators(footprints, ranks).items()
        }
        system = _system(spec, network, boxes, accelerators, base)
        return NetworkPlan(network, system, ranks, endpoints)


def _shapes(spec: NetworkSpec) -> tuple[str, ...] | None:
    """The dimensions of a grid; None for a topology with a name of its own."""
    if isinstance(spec.topology, tuple):
        return spec.topology
    return (spec.topology,) if spec.topology in _SHAPES else None


def _grid(
    spec: NetworkSpec, shapes: Sequence[str], devices: int, accelerators: Sequence[AcceleratorSpec]
) -> NetworkModel:
    """A dimension per shape; what the file does not state of one dimension comes from the slowest device's entry."""
    if spec.options is not None:
        raise ConfigError("options: a grid has none; expected bandwidth, latency and npus_count")
    many = len(shapes) > 1
    for key in ("npus_count", "bandwidth", "latency") if many else ():
        if getattr(spec, key) is None:
            raise ConfigError(f"{key}: missing; a network of {len(shapes)} dimensions has to state it")
    slowest = min(accelerators, key=lambda a: a.link_bandwidth)
    bandwidths = [parse_bandwidth(b) for b in _each("bandwidth", spec.bandwidth, len(shapes))]
    latencies = [parse_time_ns(n) for n in _each("latency", spec.latency, len(shapes))]
    counts = spec.npus_count or (devices,)
    if len(counts) != len(shapes):
        raise ConfigError(f"npus_count: expected one per dimension, {len(shapes)}, got {list(counts)}")
    return NetworkModel(
        topology=list(shapes),
        npus_count=list(counts),
        bandwidth_gbps=[b / LINK_GB for b in bandwidths or [slowest.link_bandwidth * slowest.efficiency.link]],
        latency_ns=list(latencies or [slowest.link_latency_ns]),
        model=spec.model,
    )


def _each(key: str, stated: str | tuple[str, ...] | None, dimensions: int) -> tuple[str, ...]:
    """One value per dimension; a single one holds for all, none is none."""
    if stated is None:
        return ()
    values = stated if isinstance(stated, tuple) else (stated,) * dimensions
    if len(values) != dimensions:
        raise ConfigError(f"{key}: expected one value, or one per dimension, {dimensions}, got {list(values)}")
    return values


def _named(spec: NetworkSpec, base: Path) -> Topology | Torus:
    """A topology from the catalogue, a file or the user's own class."""
    name = str(spec.topology)
    for key in ("npus_count", "bandwidth", "latency"):
        if getattr(spec, key) is not None:
            raise ConfigError(f"{key}: the topology {name!r} states its own; expected its keys under 'options'")
    options = spec.options or {}
    if ":" in name:
        return _own(name, options)
    if Path(name).suffix in SUFFIXES:
        return read_topology(base / name, options)
    known = catalogued_networks()
    try:
        entry = find_network(name)
    except ConfigError:
        raise ConfigError(
            f"topology: {name!r} is unknown{nearest(name, [*_SHAPES, *known])}; expected {one_of(_SHAPES)}, a list of "
            f"these, one of {one_of(known, 24)}, a file that ends in {one_of(SUFFIXES)}, or your own class as "
            "'package.module:Class'"
        ) from None
    return parse_topology(entry.topology, entry.name, options)


def _endpoints(topology: Topology | Torus) -> dict[str, int]:
    """The memories of a topology."""
    names = getattr(topology, "endpoints", ())
    if isinstance(topology, Torus) or not names:
        return {}
    numbers = device_ids(topology)
    return {name: numbers[name] for name in names}


def _own(name: str, options: Mapping[str, Any]) -> Topology:
    make = find_plugin("topology", name, {})
    try:
        is_struct = isinstance(make, type) and issubclass(make, msgspec.Struct)
        made = convert(options, make, f"topology: {name}: options", ConfigError) if is_struct else make(**options)
    except TypeError as error:
        raise PluginError(f"topology: {name!r} cannot be built from options {dict(options)}: {error}") from error
    for member in ("npus_count", "links"):
        if not hasattr(made, member):
            raise PluginError(f"topology: {name!r} has no {member!r}; expected npus_count and links")
    own: Topology = made
    return own


def _system(
    spec: NetworkSpec,
    network: NetworkModel,
    boxes: Mapping[str, Sequence[Box]],
    accelerators: Sequence[AcceleratorSpec],
    base: Path,
) -> SystemModel:
    algorithms: dict[str, Any] = {name: _algorithms(spec, network, boxes[name], name) for name in COLLECTIVES}
    return SystemModel(
        preferred_dataset_splits=spec.preferred_dataset_splits,
        active_chunks_per_dimension=spec.active_chunks_per_dimension,
        num_queues_per_dim=spec.num_queues_per_dim,
        scheduling_policy=spec.scheduling_policy,
        collective_optimization=spec.collective_optimization,
        endpoint_delay_ns=parse_time_ns(spec.endpoint_delay),
        local_mem_bw_gbps=min(a.memory_bandwidth for a in accelerators) / MEMORY_GB,
        measured=read_measured(base / path for path in spec.measured_collectives),
        **algorithms,
    )


def _algorithms(spec: NetworkSpec, network: NetworkModel, boxes: Sequence[Box], collective: str) -> list[str]:
    stated = getattr(spec, collective)
    if stated == "auto":
        return auto_algorithms(network, collective, boxes)
    if stated and len(stated) != len(network.npus_count):
        raise ConfigError(
            f"{collective}: expected an algorithm per dimension, {len(network.npus_count)}, or none at all, "
            f"got {list(stated)}"
        )
    for dimension, name in enumerate(stated):
        if name in _POWERS_OF_TWO and (odd := [box[dimension] for box in boxes if box[dimension].bit_count() != 1]):
            raise ConfigError(
                f"{collective}: {name!r} needs a power of two of ranks, but a collective has {odd[0]} in dimension "
                f"{dimension}; expected ring or direct"
            )
    return list(stated)


def auto_algorithms(network: NetworkModel, collective: str, boxes: Sequence[Box] = ()) -> list[str]:
    """Choose an algorithm per dimension where the file says ``auto``.

    - A grid of one dimension: ``ring`` for everything, as in the files of LLMServingSim and most of ASTRA-sim's.
    - A ``Ring`` dimension: ``ring``, whose messages cross one link each.
    - All-to-all elsewhere: ``direct``, because every message then crosses the network once, while a ring passes it on
      through half of the ranks.
    - The innermost dimension elsewhere: ``ring``. It moves the fewest bytes that any algorithm can, and hops inside a
      node are short.
    - Outer dimensions elsewhere, if they and all collectives along them are a power of two: ``halvingDoubling``. It
      moves as few bytes in log2(n) instead of n - 1 hops, and the farther a hop, the less it carries, which is what an
      oversubscribed spine needs. Other sizes: ``ring``.

    Args:
        network: Its logical shape, and the shapes of a grid's dimensions.
        collective: ``all_reduce``, ``all_gather``, ``reduce_scatter`` or ``all_to_all``.
        boxes: Of those that the run has.
    """
    if network.fabric is None and len(network.topology) == 1:
        return ["ring"]
    shapes = network.topology or ["Switch"] * len(network.npus_count)
    chosen = []
    for dimension, (shape, ranks) in enumerate(zip(shapes, network.npus_count, strict=True)):
        if shape == "Ring":
            chosen.append("ring")
        elif collective == "all_to_all":
            chosen.append("direct")
        else:
            is_power = all(size.bit_count() == 1 for size in (ranks, *(box[dimension] for box in boxes)))
            chosen.append("halvingDoubling" if dimension and is_power else "ring")
    return chosen
