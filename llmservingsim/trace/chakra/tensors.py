"""The tensors that Chakra nodes say they read and write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llmservingsim.errors import TraceError, shown
from llmservingsim.trace.chakra import schema
from llmservingsim.trace.chakra.reader import parse_file
from llmservingsim.trace.chakra.records import trace_file
from llmservingsim.trace.chakra.schema import AttributeValue, RawNode

_SIZE_DIGITS = 14
"""Below 100 TB: the bytes that live at a time are a sum over tensors, which must fit in 64 bits."""


class Tensor(NamedTuple):
    """A tensor by its name in the trace."""

    name: str
    size_bytes: int


def read_tensors(prefix: Path, ranks: int) -> list[list[tuple[Tensor, ...]]]:
    """Return the tensors of each rank's nodes, in the order in which `read_traces` has the nodes.

    They stand in the attributes ``inputs`` and ``outputs``, lists of text: name, size, name, size and so on.

    Raises:
        TraceError: Naming the file and the node, if one lacks an attribute or it is no such list.
    """
    found = []
    for rank in range(ranks):
        path = trace_file(prefix, rank)
        found.append([tuple(_tensors(node, path)) for node in parse_file(path)])
    return found


def _tensors(node: RawNode, path: Path) -> Iterator[Tensor]:
    decode = schema.attribute_decoder()
    attributes = dict(decode(raw) for raw in reversed(node.attr))
    where = f"{path}: node {node.id} ({shown(node.name)})"
    for name in (schema.INPUTS, schema.OUTPUTS):
        if name not in attributes:
            raise TraceError(f"{where} lacks the attribute {name!r}, which track-local-mem needs on every node")
        yield from _pairs(attributes[name], f"{where}: attribute {name!r}")


def _pairs(value: AttributeValue, where: str) -> Iterator[Tensor]:
    if not isinstance(value, tuple) or len(value) % 2 or not all(isinstance(v, str) for v in value):
        raise TraceError(f"{where} is {shown(value)}; expected a string_list of names and sizes")
    words = [str(v) for v in value]
    for name, size in zip(words[::2], words[1::2], strict=True):
        if not size.isdecimal() or len(size) > _SIZE_DIGITS:
            raise TraceError(
                f"{where} gives {shown(name)} the size {shown(size)}; expected a number of bytes, of at most "
                f"{_SIZE_DIGITS} digits"
            )
        yield Tensor(name, int(size))
