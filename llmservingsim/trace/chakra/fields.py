"""One Chakra node's attributes as the numbers of a graph, or a message that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from llmservingsim.errors import TraceError, cut, one_of, shown
from llmservingsim.graph import ALL_DIMENSIONS, CollectiveType, MemoryLocation, NodeType
from llmservingsim.trace.chakra import schema
from llmservingsim.trace.chakra.process_groups import GroupsByName
from llmservingsim.trace.chakra.schema import AttributeValue, RawNode

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
_ID_DIGITS = 20
"""Of the longest id of a group."""
_COLLECTIVE_MAX = int(max(CollectiveType))
_LOCATION_MAX = int(max(MemoryLocation))
_DIMENSIONS_MAX = ALL_DIMENSIONS.bit_length()


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


class Groups:
    """The communicators of a graph: those that were given, and those that traces define themselves.

    A given group keeps its place; one that a trace defines stands behind them, once for each name and ranks.
    """

    def __init__(self, given: Mapping[int, Sequence[int]] | None) -> None:
        """Raises TraceError if an id is not positive."""
        if given and min(given) < 1:
            raise TraceError(f"communicator group id {min(given)} is not allowed; expected a positive integer")
        self.given = given
        self._index = {(str(group), tuple(ranks)): i for i, (group, ranks) in enumerate(sorted((given or {}).items()))}

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each group, in ring order."""
        return tuple(ranks for _, ranks in self._index)

    def index(self, name: str, ranks: Sequence[int]) -> int:
        """Return a group's place in `members`; it becomes the last if it is new."""
        return self._index.setdefault((name, tuple(ranks)), len(self._index))


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are to be read; the same for all ranks.

    Attributes:
        dialect: A key of `schema.NODE_TYPES`.
        groups: The communicators.
        roofline: COMP nodes must say how many operations and bytes they take.
    """

    dialect: str
    groups: Groups
    roofline: bool

    @property
    def is_fork(self) -> bool:
        """Whether LLMServingSim 2.0's rules hold."""
        return self.dialect == schema.LLMSERVINGSIM2

    @property
    def hint(self) -> str:
        """A reminder that there is another dialect, for messages."""
        if self.is_fork:
            return f" (an mlcommons trace is read with dialect={schema.MLCOMMONS!r})"
        return f" (a trace of LLMServingSim 2.0 is read with dialect={schema.LLMSERVINGSIM2!r})"


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of one node by name."""

    values: Mapping[str, AttributeValue]
    path: Path
    node: RawNode
    hint: str

    @property
    def where(self) -> str:
        """The place, for messages."""
        return f"{self.path}: node {self.node.id} ({shown(self.node.name)})"

    def integer(self, name: str, default: int | None = None, low: int = 0, high: int = INT64_MAX) -> int:
        """Return an integer or bool attribute of whichever width, within bounds; required without a default."""
        value = self.values.get(name, default)
        if value is None and name not in self.values:
            raise TraceError(f"{self.where} lacks the attribute {name!r}, which nodes of its type need{self.hint}")
        if not isinstance(value, int):
            raise TraceError(f"{self.where}: attribute {name!r} is {shown(value)}; expected an integer")
        if not low <= value <= high:
            raise TraceError(f"{self.where}: attribute {name!r} is {value}; expected {low} to {high}")
        return int(value)

    def mask(self, name: str) -> int:
        """Return a list of flags as bits, the first the lowest; without the attribute every bit is set."""
        if name not in self.values:
            return ALL_DIMENSIONS
        flags = self.values[name]
        if not isinstance(flags, tuple) or not all(isinstance(flag, int) for flag in flags):
            raise TraceError(f"{self.where}: attribute {name!r} is {shown(flags)}; expected a bool_list")
        return sum(1 << i for i, flag in enumerate(flags[:_DIMENSIONS_MAX]) if flag)


class NodeInterpreter:
    """Turns the nodes of one file into rows."""

    def __init__(
        self, path: Path, rank: int, reading: Reading, decode: Callable[[bytes], tuple[str, AttributeValue]]
    ) -> None:
        self.path = path
        self._rank = rank
        self.reading = reading
        self._decode = decode
        self.own_groups: GroupsByName = {}
        """Groups that the file itself defines."""

    def row(self, node: RawNode) -> Row:
        """Return the node's row; a METADATA node has been heard by then and becomes an INVALID one.

        Raises:
            TraceError: The type is unknown, or an attribute is missing or cannot be held by a graph.
        """
        attributes = Attributes(self._values(node), self.path, node, self.reading.hint)
        kind = self._kind(attributes)
        if kind == NodeType.COMM_COLL:
            fields = self._collective(attributes)
        elif kind in (NodeType.COMM_SEND, NodeType.COMM_RECV):
            fields = self._message(attributes, kind)
        elif kind in (NodeType.MEM_LOAD, NodeType.MEM_STORE, NodeType.PIM_COMP):
            fields = self._memory(attributes, kind)
        else:
            fields = self._compute(attributes, kind)
        return Row(
            type=int(NodeType.INVALID if kind == NodeType.METADATA else kind),
            is_cpu_op=bool(attributes.integer(schema.IS_CPU_OP, 0)),
            duration_ns=attributes.integer(schema.DURATION_NS, -1, low=-1),
            **fields,
        )

    def _kind(self, attributes: Attributes) -> NodeType:
        types, node = schema.NODE_TYPES[self.reading.dialect], attributes.node
        if node.type in types:
            return types[node.type]
        known = ", ".join(f"{number} {kind.name}" for number, kind in types.items())
        raise TraceError(
            f"{attributes.where} has the unknown type {node.type}; expected one of {known}{self.reading.hint}"
        )

    def _values(self, node: RawNode) -> dict[str, AttributeValue]:
        """Decode the attributes; of equal names the first wins, or the last in LLMServingSim 2.0."""
        from google.protobuf.message import DecodeError

        values: dict[str, AttributeValue] = {}
        for raw in node.attr if self.reading.is_fork else reversed(node.attr):
            try:
                name, value = self._decode(raw)
            except DecodeError as error:
                where = Attributes({}, self.path, node, "").where
                raise TraceError(f"{where} has an attribute that is no Chakra AttributeProto: {error}") from error
            values[name] = value
        return values

    def _collective(self, attributes: Attributes) -> dict[str, int]:
        return {
            "collective": attributes.integer(schema.COMM_TYPE, high=_COLLECTIVE_MAX),
            "size_bytes": attributes.integer(schema.COMM_SIZE),
            "group": self._group(attributes),
            "involved_dims": attributes.mask(schema.INVOLVED_DIM),
            "priority": attributes.integer(schema.COMM_PRIORITY, 0, low=-INT32_MAX - 1, high=INT32_MAX),
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

    def _memory(self, attributes: Attributes, kind: NodeType) -> dict[str, int]:
        fields = {
            "size_bytes": attributes.integer(schema.TENSOR_SIZE),
            "device": attributes.integer(schema.TENSOR_DEVICE, 0, low=-1, high=INT32_MAX),
        }
        if self.reading.is_fork:
            fields["location"] = attributes.integer(schema.TENSOR_LOC, low=1, high=_LOCATION_MAX)
        else:
            location = attributes.integer(schema.TENSOR_LOC, 0, high=_LOCATION_MAX)
            fields["location"] = location or int(MemoryLocation.REMOTE)
        if kind == NodeType.PIM_COMP:
            fields["channel"] = attributes.integer(schema.TENSOR_CHANNEL, 0, high=INT32_MAX)
        return fields

    def _compute(self, attributes: Attributes, kind: NodeType) -> dict[str, int]:
        on_accelerator = kind == NodeType.COMP and not attributes.integer(schema.IS_CPU_OP, 0)
        default = None if on_accelerator and self.reading.roofline else 0
        return {
            "size_bytes": attributes.integer(schema.TENSOR_SIZE, default),
            "num_ops": attributes.integer(schema.NUM_OPS, default),
        }

    def _group(self, attributes: Attributes) -> int:
        """Return the place of the collective's group, or -1."""
        groups, given = self.reading.groups, self.reading.groups.given or {}
        if self.reading.is_fork:
            mine = [group for group, ranks in given.items() if self._rank in ranks]
            return groups.index(str(mine[-1]), given[mine[-1]]) if mine else -1
        name = attributes.values.get(schema.PG_NAME, "")
        if name in ("", "0"):
            return -1
        key, ranks = self._find_group(name, attributes.where)
        if self._rank not in ranks:
            raise TraceError(
                f"{attributes.where} names communicator group {shown(name)}; expected one that rank {self._rank} is "
                f"in, not {shown(list(ranks))}"
            )
        return groups.index(key, ranks)

    def _find_group(self, name: AttributeValue, where: str) -> tuple[str, Sequence[int]]:
        """Return the name, as `Groups` knows it, and the members of the group that a collective names."""
        given = {str(group): tuple(ranks) for group, ranks in (self.reading.groups.given or {}).items()}
        known = {**given, **self.own_groups}
        if self.reading.groups.given is None and not known:
            raise TraceError(f"{where} names communicator group {shown(name)}, but no groups were given")
        key = str(int(name)) if isinstance(name, str) and name.isdecimal() and len(name) <= _ID_DIGITS else name
        if not isinstance(key, str) or key not in known:
            raise TraceError(
                f"{where} names communicator group {shown(name)}; expected one of those given: "
                f"{one_of(map(cut, known))}"
            )
        if given.get(key, known[key]) != known[key]:
            raise TraceError(
                f"{where} names communicator group {shown(name)}, which is {shown(list(given[key]))} as given and "
                f"{shown(list(known[key]))} in the trace; expected one of the two"
            )
        return key, known[key]
