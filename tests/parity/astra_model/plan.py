"""What a collective's stream does: its phases, dimension by dimension."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from astra_model.engine import AbortError, EndlessError
from llmservingsim.backend.config import NetworkModel, SystemModel
from llmservingsim.graph import CollectiveType, Node

AR, AG = CollectiveType.ALL_REDUCE, CollectiveType.ALL_GATHER
A2A, RS = CollectiveType.ALL_TO_ALL, CollectiveType.REDUCE_SCATTER

NAME = re.compile(r"(?:one)?(ring|direct|halvingdoubling|doublebinarytree)(\d*)")


class Ring(NamedTuple):
    """A logical ring that a rank is in.

    Attributes:
        dim: Dimension whose queues it uses.
        members: Ranks in order.
        algorithm: ``ring``, ``direct``, ``halvingdoubling`` or ``doublebinarytree``.
        window: Of ``direct``; None: unlimited.
        listed: The type whose list of algorithms it comes from.
        is_group: Of a communicator smaller than the system.
    """

    dim: int
    members: tuple[int, ...]
    algorithm: str
    window: int | None
    listed: CollectiveType
    is_group: bool


class Step(NamedTuple):
    """A phase: its type, where, and which of the queue counters it draws from (``all``, ``first``, ``second``)."""

    kind: CollectiveType
    ring: Ring
    half: str


def chunk_sizes(node: Node, splits: int, ranks: int) -> list[int]:
    """Return the bytes of each stream."""
    size, chunk = node.size_bytes, node.size_bytes // splits
    if node.collective != AG and chunk < ranks:
        chunk, size = ranks, splits * ranks
    if chunk == 0 and size > 0:
        raise EndlessError("an all-gather smaller than its splits")
    sizes = []
    while size > 0:
        size = max(0, size - chunk)
        sizes.append(chunk)
    return sizes


def final_size(step: Step, size: int) -> int:
    """Bytes that a phase leaves, of those that it was given."""
    if step.ring.algorithm == "doublebinarytree" or step.kind in (AR, A2A):
        return size
    n = len(step.ring.members)
    return size // n if step.kind == RS else size * n


def steps_of(rank: int, node: Node, group: Sequence[int], network: NetworkModel, system: SystemModel) -> list[Step]:
    """Return the phases of each of a collective's streams; empty: it never completes."""
    rings = rings_of(rank, node, group, network, system)
    kind = node.collective
    if kind == AR and system.collective_optimization == "localBWAware":
        outward = [Step(RS, r, "first") for r in rings[:-1]]
        return outward + [Step(AR, r, "first") for r in rings[-1:]] + [Step(AG, r, "second") for r in rings[-2::-1]]
    return [Step(kind, r, "all") for r in (rings[::-1] if kind == AG else rings)]


def rings_of(rank: int, node: Node, group: Sequence[int], network: NetworkModel, system: SystemModel) -> list[Ring]:
    """Return the rings over which a collective is decomposed, of usable dimensions only."""
    names = listed(node.collective, system)
    if not names:
        raise AbortError("no algorithm for this type")
    if len(names) > len(network.npus_count):
        raise AbortError("more algorithms than dimensions")
    if group and len(group) < network.npus:
        name = names[0] if len(names) == 1 and system.dialect == "astra-sim" else "ring"
        if len(group) == 1:
            return []
        return [Ring(0, tuple(group), *parse(name), node.collective, True)]
    mask = -1 if group else node.involved_dims
    rings = []
    stride = 1
    for dim, n in enumerate(network.npus_count):
        if dim < len(names):
            first = rank - rank // stride % n * stride
            members = tuple(first + stride * i for i in range(n))
            if names[dim].startswith("one"):
                rings, members = [], tuple(range(network.npus))
            if mask >> dim & 1 and len(members) > 1:
                rings.append(Ring(dim, members, *parse(names[dim]), node.collective, False))
            if names[dim].startswith("one"):
                break
        stride *= n
    return rings


def listed(kind: CollectiveType, system: SystemModel) -> list[str]:
    """Return the algorithms of a type, one per dimension."""
    lists = {AR: system.all_reduce, AG: system.all_gather, RS: system.reduce_scatter, A2A: system.all_to_all}
    if kind not in lists:
        raise AbortError(f"no such collective as {kind.name}")
    return lists[kind]


def parse(name: str) -> tuple[str, int | None]:
    """Return a name's algorithm and window."""
    found = NAME.fullmatch(name.lower())
    if not found or (found[2] and found[1] != "direct"):
        raise AbortError(f"no such algorithm as {name}")
    return found[1], int(found[2][:5]) if found[2] else None
