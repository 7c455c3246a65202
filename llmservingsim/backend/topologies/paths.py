"""The way that a message takes where a topology does not say."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

from llmservingsim.backend.topologies.topology import Device, Link
from llmservingsim.errors import ConfigError
from llmservingsim.units import parse_bandwidth, parse_time_ns

REFERENCE_BYTES = 2**20
"""A path is judged by what a message of so many bytes takes on it."""

_PS_PER_S = 10**12
_PS_PER_NS = 10**3

_Tree = dict[Device, tuple[int, list[Device]]]


@lru_cache(maxsize=1024)
def bytes_per_s(bandwidth: str | float) -> float:
    """Bandwidth of a link as a number. Raises ConfigError unless it is positive and finite."""
    value = parse_bandwidth(bandwidth) if isinstance(bandwidth, str) else float(bandwidth)
    if not 0 < value < float("inf"):
        raise ConfigError(f"bandwidth: expected more than 0, got {bandwidth!r}")
    return value


@lru_cache(maxsize=1024)
def latency_ns(latency: str | float) -> float:
    """Latency of a link as a number. Raises ConfigError unless it is finite and not negative."""
    value = parse_time_ns(latency) if isinstance(latency, str) else latency
    if not 0 <= value < float("inf"):
        raise ConfigError(f"latency: expected a time that is not negative, got {latency!r}")
    return value


def spread(source: Device, target: Device, choices: int, at: Device = "") -> int:
    """Choose one of so many equal ways for a pair: by a hash, so that pairs spread and runs repeat.

    Where one message has several choices, ``at`` tells them apart; otherwise every choice would follow the first, and
    half of the ways stay empty.
    """
    return int.from_bytes(blake2b(f"{source}>{target}@{at}".encode(), digest_size=8).digest()) % choices


class CheapestPaths:
    """Paths of the least sum of ``latency + REFERENCE_BYTES / bandwidth``; equal ones are chosen by a hash of the pair.

    Switches pass messages on. Ranks do only where there is no other way, as in a mesh of chips; memories never.

    Args:
        links: Every cable.
        endpoints: Names of memories.
    """

    def __init__(self, links: Iterable[Link], endpoints: Iterable[str] = ()) -> None:
        self._neighbours: dict[Device, dict[Device, int]] = {}
        self._memories = frozenset(endpoints)
        self._trees: dict[tuple[Device, bool], _Tree] = {}
        for link in links:
            cost = round(
                latency_ns(link.latency) * _PS_PER_NS + REFERENCE_BYTES * _PS_PER_S / bytes_per_s(link.bandwidth)
            )
            self._join(link.source, link.target, cost)
            if link.duplex:
                self._join(link.target, link.source, cost)

    def _join(self, source: Device, target: Device, cost: int) -> None:
        self._neighbours.setdefault(target, {})
        costs = self._neighbours.setdefault(source, {})
        costs[target] = min(cost, costs.get(target, cost))

    def __call__(self, source: Device, target: Device) -> tuple[Device, ...]:
        """Return the devices from source to target, both included. Raises ConfigError if there is no way."""
        tree = self._tree_to(source, target)
        path = [target]
        while path[-1] != source:
            before = tree[path[-1]][1]
            path.append(before[spread(source, target, len(before), path[-1])])
        return tuple(reversed(path))

    def cost_ps(self, source: Device, target: Device) -> int:
        """What the cheapest path costs. Raises ConfigError if there is no way."""
        return self._tree_to(source, target)[target][0]

    def _tree_to(self, source: Device, target: Device) -> _Tree:
        for ranks_pass in (False, True):
            if target in (tree := self._tree(source, ranks_pass)):
                return tree
        raise ConfigError(f"there is no way from {source!r} to {target!r}")

    def _tree(self, source: Device, ranks_pass: bool) -> _Tree:
        """Distances and predecessors of everything that can be reached (Dijkstra)."""
        known = self._trees.get((source, ranks_pass))
        if known is not None:
            return known
        tree: _Tree = {source: (0, [])}
        waiting: list[tuple[int, int, Device]] = [(0, 0, source)]
        while waiting:
            cost, _, device = heapq.heappop(waiting)
            if cost > tree[device][0] or not (device == source or self._passes_on(device, ranks_pass)):
                continue
            for neighbour, step in self._neighbours.get(device, {}).items():
                reached = cost + step
                best = tree.get(neighbour)
                if best is None or reached < best[0]:
                    tree[neighbour] = (reached, [device])
                    heapq.heappush(waiting, (reached, len(tree), neighbour))
                elif reached == best[0]:
                    best[1].append(device)
        self._trees[source, ranks_pass] = tree
        return tree

    def _passes_on(self, device: Device, ranks_pass: bool) -> bool:
        return ranks_pass if isinstance(device, int) else device not in self._memories
