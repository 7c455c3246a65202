"""One Chakra node's attributes as the numbers of a graph, or a message that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from llmservingsim.errors import TraceError, one_of
from llmservingsim.graph import ALL_DIMENSIONS, CollectiveType, MemoryLocation, NodeType
from llmservingsim.trace.chakra import schema
from llmservingsim.trace.chakra.schema import AttributeValue, RawNode

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
_COLLECTIVE_MAX = int(max(CollectiveType))
_LOCATION_MAX = int(max(MemoryLocation))


class Row(NamedTuple):
    """A node's fixed-size columns of `Graph`; ``duration_ns`` is -1 where only ``duration_micros`` tells."""

    type: int
    is_cpu_op: bool = False
    duration_ns: int = -1
    size_bytes: int = 0
    collective: int = int(CollectiveType.ALL_REDUCE)
    peer: int = -1
    tag: int = 0
    location: int = int(MemoryLocation.REMOTE)
    group: int = -1
    involved_dims: int = ALL_DIMENSIONS
    priority: int = 0
    num_ops: int = 0
    device: int = 0
    channel: int = 0
    program: int = -1


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are to be read; the same for all ranks.

    Attributes:
        dialect: A key of `schema.NODE_TYPES`.
        groups: Communicator group id -> ranks, or None when none were given.
        dimensions: How many flags of ``involved_dim`` count, or None for all.
        exact_durations: Whether ``llmservingsim.duration_ns`` counts.
    """

    dialect: str
    groups: Mapping[int, Sequence[int]] | None
    dimensions: int | None
    exact_durations: bool = True

    @property
    def hint(self) -> str:
        """A reminder that there is another dialect, for messages."""
        if self.dialect == schema.LLMSERVINGSIM2:
            return f" (an mlcommons trace is read with dialect={schema.MLCOMMONS!r})"
        return f" (a trace of LLMServingSim 2.0 is read with dialect={schema.LLMSERVINGSIM2!r})"


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of one node by name; the first of a name wins."""

    values: Mapping[str, AttributeValue]
    path: Path
    node: RawNode
    hint: str

    @property
    def where(self) -> str:
        """The place, for messages."""
        return f"{self.path}: node {self.node.id} ({self.node.name!r})"

    def integer(self, name: str, default: int | None = None, low: int = 0, high: int = INT64_MAX) -> int:
        """Return an integer or bool attribute of whichever width, within bounds; required without a default."""
        value = self.values.get(name, default)
        if value is None and name not in self.values:
            raise TraceError(f"{self.where} lacks the attribute {name!r}, which nodes of its type need{self.hint}")
        if not isinstance(value, int):
            raise TraceError(f"{self.where}: attribute {name!r} is {value!r}; expected an integer")
        if not low <= value <= high:
            raise TraceError(f"{self.where}: attribute {name!r} is {value}; expected {low} to {high}")
        return int(value)


class NodeInterpreter:
    """Turns the nodes of one file into rows."""

    def __init__(
        self, path: Path, rank: int, reading: Reading, decode: Callable[[bytes], tuple[str, AttributeValue]]
    ) -> None:
        self._path = path
        self._rank = rank
        self._reading = reading
        self._decode = decode
        self._group_index = {group: i for i, group in enumerate(sorted(reading.groups or {}))}

    def row(self, node: RawNode) -> Row:
        """Return the node's row.

        Raises:
            TraceError: The type is unknown, or an attribute is missing or cannot be held by a graph.
        """
        attributes = Attributes(self._values(node), self._path, node, self._reading.hint)
        kind = self._kind(attributes)
        if kind == NodeType.COMM_COLL:
            fields = self._collective(attributes)
        elif kind in (NodeType.COMM_SEND, NodeType.COMM_RECV):
            fields = self._message(attributes, kind)
        elif kind in (NodeType.MEM_LOAD, NodeType.MEM_STORE):
            fields = self._memory(attributes)
        else:
            fields = {"size_bytes": attributes.integer(schema.TENSOR_SIZE, 0)}
        return Row(
            type=int(kind),
            is_cpu_op=bool(attributes.integer(schema.IS_CPU_OP, 0)),
            duration_ns=attributes.integer(schema.DURATION_NS, -1, low=-1),
            **fields,
        )

    def _kind(self, attributes: Attributes) -> NodeType:
        types, node = schema.NODE_TYPES[self._reading.dialect], attributes.node
        if node.type in types:
            return types[node.type]
        where = attributes.where
        known = ", ".join(f"{number} {kind.name}" for number, kind in types.items())
        if self._reading.dialect == schema.LLMSERVINGSIM2 and node.type == schema.PIM_COMP:
            raise TraceError(f"{where} is a PIM_COMP, which a graph has no node for; expected one of {known}")
        raise TraceError(f"{where} has the unknown type {node.type}; expected one of {known}{self._reading.hint}")

    def _values(self, node: RawNode) -> dict[str, AttributeValue]:
        from google.protobuf.message import DecodeError

        values: dict[str, AttributeValue] = {}
        for raw in node.attr:
            try:
                name, value = self._decode(raw)
            except DecodeError as error:
                where = Attributes({}, self._path, node, "").where
                raise TraceError(f"{where} has an attribute that is no Chakra AttributeProto: {error}") from error
            values.setdefault(name, value)
        return values

    def _collective(self, attributes: Attributes) -> dict[str, int]:
        self._check_dimensions(attributes)
        return {
            "collective": attributes.integer(schema.COMM_TYPE, high=_COLLECTIVE_MAX),
            "size_bytes": attributes.integer(schema.COMM_SIZE),
            "group": self._group(attributes),
        }

    def _message(self, attributes: Attributes, kind: NodeType) -> dict[str, int]:
        own, other = schema.COMM_SRC, schema.COMM_DST
        if kind == NodeType.COMM_RECV:
            own, other = other, own
        fields = {
            "peer": attributes.integer(other, high=INT32_MAX),
            "size_bytes": attributes.integer(schema.COMM_SIZE),
            "tag": attributes.integer(schema.COMM_TAG, low=-INT32_MAX - 1, high=INT32_MAX),
        }
        rank = attributes.integer(own, self._rank)
        if rank != self._rank:
            raise TraceError(
                f"{attributes.where}: attribute {own!r} is {rank}; expected {self._rank}, the rank of the file"
            )
        return fields

    def _memory(self, attributes: Attributes) -> dict[str, int]:
        size_bytes = attributes.integer(schema.TENSOR_SIZE)
        if self._reading.dialect == schema.MLCOMMONS:
            location = attributes.integer(schema.TENSOR_LOC, 0, high=_LOCATION_MAX)
            return {"size_bytes": size_bytes, "location": location or int(MemoryLocation.REMOTE)}
        device = attributes.integer(schema.TENSOR_DEVICE, 0)
        if device != 0:
            raise TraceError(
                f"{attributes.where} is on memory device {device}; expected {schema.TENSOR_DEVICE!r} 0, "
                "because a graph knows one device per location"
            )
        return {"size_bytes": size_bytes, "location": attributes.integer(schema.TENSOR_LOC, low=1, high=_LOCATION_MAX)}

    def _check_dimensions(self, attributes: Attributes) -> None:
        flags = attributes.values.get(schema.INVOLVED_DIM, ())
        if not isinstance(flags, tuple):
            raise TraceError(
                f"{attributes.where}: attribute {schema.INVOLVED_DIM!r} is {flags!r}; expected a bool_list"
            )
        if not all(flags[: self._reading.dimensions]):
            raise TraceError(
                f"{attributes.where}: attribute {schema.INVOLVED_DIM!r} is {[bool(f) for f in flags]}; expected true "
                "for every dimension of the network, because a graph cannot leave one out"
            )

    def _group(self, attributes: Attributes) -> int:
        groups = self._reading.groups
        if self._reading.dialect == schema.LLMSERVINGSIM2:
            mine = [group for group, ranks in (groups or {}).items() if self._rank in ranks]
            return self._group_index[mine[-1]] if mine else -1
        name = attributes.values.get(schema.PG_NAME, "")
        if name in ("", "0"):
            return -1
        if groups is None:
            raise TraceError(f"{attributes.where} names communicator group {name!r}, but no groups were given")
        if not isinstance(name, str) or not name.isdecimal() or int(name) not in groups:
            known = one_of(str(g) for g in groups)
            raise TraceError(
                f"{attributes.where} names communicator group {name!r}; expected one of those given: {known}"
            )
        if self._rank not in groups[int(name)]:
            raise TraceError(
                f"{attributes.where} names communicator group {name!r}; expected one that rank {self._rank} is in, "
                f"not {list(groups[int(name)])}"
            )
        return self._group_index[int(name)]
