"""Communicator groups that a trace defines itself, in METADATA nodes that hold PyTorch's process groups as JSON."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from llmservingsim.errors import TraceError
from llmservingsim.graph import NodeType
from llmservingsim.trace.chakra import schema
from llmservingsim.trace.chakra.schema import RawNode

GroupsByName = Mapping[str, tuple[int, ...]]


def read_process_groups(nodes: Iterable[RawNode], path: Path) -> GroupsByName:
    """Return the groups that a file's METADATA nodes define, by name.

    PyTorch writes a list of objects ``{"pg_name": "1", "ranks": [0, 2], ...}``, of which other keys do not count; a
    single object is one group, and a list of texts holds such JSON in each. A group without ranks is the default one,
    of every rank, which needs no definition.

    Raises:
        TraceError: Naming the node, if its text is no JSON, no process group, or defines a group anew.
    """
    groups: dict[str, tuple[int, ...]] = {}
    metadata = int(NodeType.METADATA)
    for node in nodes:
        if node.type != metadata or not node.inputs:
            continue
        where = f"{path}: node {node.id} ({node.name!r})"
        for name, ranks in _definitions(schema.input_values(node.inputs), where):
            if groups.setdefault(name, ranks) != ranks:
                raise TraceError(f"{where} defines process group {name!r} as {list(ranks)}; it is {list(groups[name])}")
    return groups


def _definitions(text: str, where: str) -> list[tuple[str, tuple[int, ...]]]:
    """Decode a node's text into (name, ranks)."""
    if not text:
        return []
    content = [_decode(inner, where) for inner in _texts_in(text)]
    entries = [entry for part in content for entry in (part if isinstance(part, list) else [part])]
    named = [_definition(entry, where) for entry in entries]
    return [(name, ranks) for name, ranks in named if ranks]


def _texts_in(text: str) -> list[str]:
    """Return the JSON texts: the whole, or those that stand as strings in a list, as converters print Python's."""
    try:
        content = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [text]
    return content if isinstance(content, list) and all(isinstance(part, str) for part in content) else [text]


def _decode(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise TraceError(f"{where}: its process groups are not JSON: {error}") from error


def _definition(entry: object, where: str) -> tuple[str, tuple[int, ...]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("pg_name"), str | int):
        raise TraceError(f'{where}: expected process groups {{"pg_name": ..., "ranks": [...]}}, not {entry!r}')
    name, ranks = str(entry["pg_name"]), entry.get("ranks", [])
    is_ranks = isinstance(ranks, list) and all(type(r) is int and r >= 0 for r in ranks)
    if not is_ranks or len(set(ranks)) != len(ranks):
        raise TraceError(f"{where}: process group {name!r} has the ranks {ranks!r}; expected different ranks")
    return name, tuple(ranks)
