"""Which devices of the network an instance gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from llmservingsim.errors import ConfigError

Box = tuple[int, ...]
"""Extents along the dimensions of a network."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an instance takes of the network.

    Attributes:
        path: Its key path, for messages.
        node: Index of its server, the first one if there are several.
        devices: How many devices.
        nnodes: Over so many servers they are spread evenly.
        stages: Of so many devices each.
        group: Number of the group whose members share experts; -1 for an instance on its own.
    """

    path: str
    node: int
    devices: int
    nnodes: int = 1
    stages: int = 1
    group: int = -1


def place(footprints: Sequence[Footprint], npus: int, npus_per_node: int | None) -> tuple[Sequence[int], ...]:
    """Give every instance its ranks, in file order.

    Without servers they are numbered through. With servers an instance gets free ranks of its own one; one over
    several servers gets as many of each, server by server.

    Args:
        footprints: Of every instance.
        npus: Ranks of the network.
        npus_per_node: Ranks of a server; None if the network has no servers.

    Raises:
        ConfigError: If there are too few ranks, or too few servers, or devices cannot be spread.
    """
    if npus_per_node is None:
        return _numbered_through(footprints, npus)
    shares = [_share(footprint) for footprint in footprints]
    _check_room(footprints, shares, npus // npus_per_node, npus_per_node)
    used: dict[int, int] = {}
    found: list[Sequence[int]] = []
    for footprint, share in zip(footprints, shares, strict=True):
        pieces = []
        for server in _servers(footprint):
            first = server * npus_per_node + used.get(server, 0)
            used[server] = used.get(server, 0) + share
            pieces.append(range(first, first + share))
        found.append(pieces[0] if len(pieces) == 1 else tuple(rank for piece in pieces for rank in piece))
    return tuple(found)


def nodes_of_ranks(footprints: Sequence[Footprint], ranks: Sequence[Sequence[int]], npus: int) -> list[int]:
    """Return on which node each rank of the network is, -1 for one that no instance has.

    Args:
        footprints: Of every instance.
        ranks: What `place` gave each.
        npus: Ranks of the network.
    """
    found = [-1] * npus
    for footprint, own in zip(footprints, ranks, strict=True):
        share = len(own) // footprint.nnodes
        for position, rank in enumerate(own):
            found[rank] = footprint.node + position // share
    return found


def _numbered_through(footprints: Sequence[Footprint], npus: int) -> tuple[range, ...]:
    found = []
    first = 0
    for footprint in footprints:
        if footprint.nnodes > 1:
            raise ConfigError(
                f"{footprint.path}: nnodes: {footprint.nnodes} servers, but the network has none; expected a cluster "
                "as topology, such as DGX-H100-SuperPOD, or a grid of two dimensions or more"
            )
        found.append(range(first, first + footprint.devices))
        first += footprint.devices
    if first > npus:
        raise ConfigError(f"topology: it has {npus} ranks, but the instances use {first}; expected at least as many")
    return tuple(found)


def _servers(footprint: Footprint) -> range:
    return range(footprint.node, footprint.node + footprint.nnodes)


def _share(footprint: Footprint) -> int:
    """Devices of an instance on each of its servers."""
    share, rest = divmod(footprint.devices, footprint.nnodes)
    if rest:
        raise ConfigError(
            f"{footprint.path}: nnodes: its {footprint.devices} devices cannot be spread evenly over "
            f"{footprint.nnodes} servers; expected a divisor of {footprint.devices}"
        )
    return share


def _check_room(footprints: Sequence[Footprint], shares: Sequence[int], servers: int, size: int) -> None:
    uses: dict[int, int] = {}
    for footprint, share in zip(footprints, shares, strict=True):
        last = footprint.node + footprint.nnodes - 1
        if footprint.nnodes > 1 and last >= servers:
            raise ConfigError(
                f"{footprint.path}: nnodes: it would take the servers {footprint.node} to {last}; the topology has "
                f"the servers 0 to {servers - 1}"
            )
        for server in _servers(footprint):
            uses[server] = uses.get(server, 0) + share
    for server, used in sorted(uses.items()):
        if used > size or server >= servers:
            raise ConfigError(
                f"topology: nodes[{server}] uses {used} devices; expected at most {servers} nodes of at most {size} "
                "devices each, which is what the topology has"
            )


def communicators(footprints: Sequence[Footprint], ranks: Sequence[Sequence[int]]) -> dict[str, list[Sequence[int]]]:
    """Return the ranks of every collective that a run may have, by its kind.

    The ranks of a stage reduce and gather; those of the same stage of all members of a group dispatch and combine.
    """
    own: list[Sequence[int]] = []
    members: dict[tuple[int, int], list[int]] = {}
    for footprint, devices in zip(footprints, ranks, strict=True):
        size = footprint.devices // footprint.stages
        for stage in range(footprint.stages):
            of_stage = devices[stage * size : (stage + 1) * size]
            own.append(of_stage)
            if footprint.group >= 0:
                members.setdefault((footprint.group, stage), []).extend(of_stage)
    shared: list[Sequence[int]] = list(members.values())
    return {"all_reduce": own, "all_gather": own + shared, "reduce_scatter": shared, "all_to_all": shared}


def box_of(ranks: Sequence[int], npus_count: Sequence[int]) -> Box | None:
    """Return the extent along each dimension of the box that ranks fill in the network's order, None if they do not.

    Collectives over a box are decomposed along its dimensions, see `docs/concepts/collectives.md`.
    """
    strides = [prod(npus_count[:d]) for d in range(len(npus_count))]
    extents = [
        ranks[-1] // stride % count - ranks[0] // stride % count + 1
        for stride, count in zip(strides, npus_count, strict=True)
    ]
    if min(extents) < 1 or prod(extents) != len(ranks):
        return None
    inner = [prod(extents[:d]) for d in range(len(extents))]
    for position, rank in enumerate(ranks):
        steps = (position // below % extent * s for below, extent, s in zip(inner, extents, strides, strict=True))
        if ranks[0] + sum(steps) != rank:
            return None
    return tuple(extents)
