"""A topology as the backend's `NetworkModel`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import prod

from llmservingsim.backend.config import LINK_GB, CongestionModel, FabricModel, LinkModel, NetworkModel
from llmservingsim.backend.topologies.parts import devices_of
from llmservingsim.backend.topologies.paths import CheapestPaths, bytes_per_s, latency_ns, spread
from llmservingsim.backend.topologies.topology import Device, Link, Topology
from llmservingsim.backend.topologies.torus import Torus
from llmservingsim.errors import ConfigError, nearest


def build_network(topology: Topology | Torus, model: CongestionModel = "unaware") -> NetworkModel:
    """Turn a topology into what a backend times.

    Raises:
        ConfigError: If a link or a name is wrong, or some device cannot be reached from some other.
    """
    if isinstance(topology, Torus):
        return topology.network(model)
    links = list(topology.links())
    ids = _ids(topology, links)
    endpoints = tuple(getattr(topology, "endpoints", ()))
    both_ways = [way for link in links for way in _ways(link, ids)]
    _check_reach(both_ways, ids, _ranks(topology) + len(endpoints))
    route: Callable[[Device, Device], Sequence[Device]]
    route = getattr(topology, "route", None) or CheapestPaths(links, endpoints)
    fabric = FabricModel(
        links=both_ways,
        endpoints=len(endpoints),
        switches=len(ids) - _ranks(topology) - len(endpoints),
        route=_LinkRoute(route, ids, both_ways),
    )
    return NetworkModel([], list(topology.npus_count), [], [], model, fabric)


def device_ids(topology: Topology) -> dict[Device, int]:
    """Return the number of every device in the built network: ranks, then endpoints, then switches."""
    return _ids(topology, list(topology.links()))


def _ranks(topology: Topology) -> int:
    return prod(topology.npus_count)


def _ids(topology: Topology, links: Sequence[Link]) -> dict[Device, int]:
    ranks = _ranks(topology)
    if not topology.npus_count or min(topology.npus_count) < 1:
        raise ConfigError(f"npus_count: expected a count of at least 1 per dimension, got {topology.npus_count!r}")
    found = devices_of(links)
    for device in found:
        if isinstance(device, int) and not 0 <= device < ranks:
            raise ConfigError(f"links: there is no rank {device}; npus_count has the ranks 0 to {ranks - 1}")
    endpoints = tuple(getattr(topology, "endpoints", ()))
    names = [name for name in found if isinstance(name, str)]
    for endpoint in endpoints:
        if endpoint not in found:
            raise ConfigError(f"endpoints: no link leads to {endpoint!r}{nearest(endpoint, names)}")
    switches = [name for name in names if name not in endpoints]
    devices: list[Device] = [*range(ranks), *endpoints, *switches]
    return {device: number for number, device in enumerate(devices)}


def _ways(link: Link, ids: dict[Device, int]) -> Iterable[LinkModel]:
    source, target = ids[link.source], ids[link.target]
    if source == target:
        raise ConfigError(f"links: {link.source!r} is linked to itself; expected two devices")
    try:
        bandwidth, latency = bytes_per_s(link.bandwidth) / LINK_GB, latency_ns(link.latency)
    except ConfigError as error:
        raise ConfigError(f"links: {link.source!r} to {link.target!r}: {error}") from None
    yield LinkModel(source, target, bandwidth, latency)
    if link.duplex:
        yield LinkModel(target, source, bandwidth, latency)


def _check_reach(links: Sequence[LinkModel], ids: dict[Device, int], talkers: int) -> None:
    """Raise unless rank 0 reaches every rank and memory, and every one of them reaches rank 0."""
    names = list(ids)
    forward = {(link.source, link.target) for link in links}
    for ways, text in ((forward, "from rank 0 to {}"), ({(b, a) for a, b in forward}, "from {} to rank 0")):
        neighbours: dict[int, list[int]] = {}
        for source, target in ways:
            neighbours.setdefault(source, []).append(target)
        reached, waiting = {0}, deque([0])
        while waiting:
            for device in neighbours.get(waiting.popleft(), ()):
                if device not in reached:
                    reached.add(device)
                    waiting.append(device)
        for device in range(talkers):
            if device not in reached:
                name = names[device]
                what = f"rank {name}" if isinstance(name, int) else repr(name)
                raise ConfigError(f"links: there is no way {text.format(what)}")


class _LinkRoute:
    """Devices on the way, as links: what `FabricModel.route` promises. Parallel links are chosen by a hash."""

    def __init__(
        self,
        route: Callable[[Device, Device], Sequence[Device]],
        ids: dict[Device, int],
        links: Sequence[LinkModel],
    ) -> None:
        self._route, self._ids, self._names = route, ids, list(ids)
        self._between: dict[tuple[int, int], list[int]] = {}
        for number, link in enumerate(links):
            self._between.setdefault((link.source, link.target), []).append(number)

    def __call__(self, source: int, target: int) -> list[int]:
        start, end = self._names[source], self._names[target]
        path = list(self._route(start, end))
        if not path or path[0] != start or path[-1] != end:
            raise ConfigError(f"route from {start!r} to {end!r}: expected a path between these two, got {path!r}")
        found = []
        for here, there in pairwise(path):
            parallel = self._between.get((self._ids.get(here, -1), self._ids.get(there, -1)))
            if parallel is None:
                raise ConfigError(f"route from {start!r} to {end!r}: no link leads from {here!r} to {there!r}")
            found.append(parallel[spread(start, end, len(parallel), here)])
        return found
