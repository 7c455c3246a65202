"""Communicator groups that a trace defines itself, in METADATA nodes that hold PyTorch's process groups as JSON."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from llmservingsim.errors import TraceError, cut, shown
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
        where = f"{path}: node {node.id} ({shown(node.name)})"
        for name, ranks in _definitions(_text(node, where), where):
            if groups.setdefault(name, ranks) != ranks:
                raise TraceError(
                    f"{where} defines process group {shown(name)} as {shown(list(ranks))}; it is "
                    f"{shown(list(groups[name]))}"
                )
    return groups


def _text(node: RawNode, where: str) -> str:
    from google.protobuf.message import DecodeError

    try:
        return schema.input_values(node.inputs)
    except DecodeError as error:
        raise TraceError(f"{where}: its inputs are no Chakra IOInfo: {error}") from error


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
        with warnings.catch_warnings(action="ignore"):  # of escapes that are none
            content = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return [text]
    return content if isinstance(content, list) and all(isinstance(part, str) for part in content) else [text]


def _decode(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise TraceError(f"{where}: its process groups are not JSON: {cut(str(error))}") from error


def _is_name(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < 2**63)


def _definition(entry: object, where: str) -> tuple[str, tuple[int, ...]]:
    if not isinstance(entry, dict) or not _is_name(entry.get("pg_name")):
        raise TraceError(f'{where}: expected process groups {{"pg_name": ..., "ranks": [...]}}, not {shown(entry)}')
    name, ranks = str(entry["pg_name"]), entry.get("ranks", [])
    is_ranks = isinstance(ranks, list) and all(type(r) is int and 0 <= r < 2**31 for r in ranks)
    if not is_ranks or len(set(ranks)) != len(ranks):
        raise TraceError(f"{where}: process group {shown(name)} has the ranks {shown(ranks)}; expected different ranks")
    return name, tuple(ranks)
