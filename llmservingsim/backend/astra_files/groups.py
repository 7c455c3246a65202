"""Communicator groups JSON: ``{"1": [0, 2], "2": [1, 3]}``, each list in ring order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llmservingsim.backend.astra_files.text import read_json, write_json


def read_groups(path: Path) -> dict[int, tuple[int, ...]]:
    """Read a communicator-group JSON as id -> ranks in ring order.

    Raises:
        TraceError: Naming the file and the group, if an id or a rank is wrong.
    """
    fields = read_json(path)
    groups: dict[int, tuple[int, ...]] = {}
    for key in fields:
        fields.require(key, key.isdecimal() and len(key) <= 20 and int(key) > 0, "a positive integer as the group's id")
        ranks = tuple(int(r) for r in fields.array(key, int))
        fields.require(key, len(ranks) == len(set(ranks)) > 0 and min(ranks) >= 0, "different ranks, at least one")
        fields.require(key, max(ranks) < 2**31, "ranks below 2^31")
        groups[int(key)] = ranks
    return groups


def write_groups(path: Path, groups: Mapping[int, Sequence[int]]) -> None:
    """Write id -> ranks as a communicator-group JSON."""
    write_json(path, {str(i): list(ranks) for i, ranks in sorted(groups.items())})
