"""What Chakra files call things: attribute names, node type numbers, and messages that are quick to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, Protocol

from llmservingsim.graph import NodeType

VERSION = "0.0.4"

IS_CPU_OP = "is_cpu_op"
COMM_TYPE = "comm_type"
COMM_SIZE = "comm_size"
COMM_SRC = "comm_src"
COMM_DST = "comm_dst"
COMM_TAG = "comm_tag"
COMM_PRIORITY = "comm_priority"
PG_NAME = "pg_name"
INVOLVED_DIM = "involved_dim"
NUM_OPS = "num_ops"
TENSOR_SIZE = "tensor_size"
TENSOR_LOC = "tensor_loc"
TENSOR_DEVICE = "tensor_device"
TENSOR_CHANNEL = "tensor_channel"
INPUTS = "inputs"
OUTPUTS = "outputs"
DURATION_NS = "llmservingsim.duration_ns"
"""Our own attribute: the exact duration, which the ``duration_micros`` field can only round."""

MLCOMMONS = "mlcommons"
LLMSERVINGSIM2 = "llmservingsim2"

DEFAULT_DIMENSIONS = 4
"""Flags that ASTRA-sim assumes in a collective without ``involved_dim``; it reads no more dimensions than that."""

NODE_TYPES = MappingProxyType(
    {
        MLCOMMONS: MappingProxyType({int(t): t for t in NodeType if t != NodeType.PIM_COMP}),
        LLMSERVINGSIM2: MappingProxyType(
            {
                0: NodeType.INVALID,
                1: NodeType.METADATA,
                2: NodeType.MEM_LOAD,
                3: NodeType.MEM_STORE,
                4: NodeType.PIM_COMP,
                5: NodeType.COMP,
                6: NodeType.COMM_SEND,
                7: NodeType.COMM_RECV,
                8: NodeType.COMM_COLL,
            }
        ),
    }
)
"""Dialect -> number on disk -> node type. LLMServingSim 2.0 put PIM_COMP at 4, which moved the ones behind it."""

AttributeValue = bool | int | float | str | bytes | tuple[object, ...] | None


class RawNode(Protocol):
    """A Chakra node whose attributes are still bytes, so that equal ones are decoded once."""

    id: int
    name: str
    type: int
    duration_micros: int
    ctrl_deps: list[int]
    data_deps: list[int]
    attr: list[bytes]
    inputs: bytes


@cache
def raw_node_parser() -> Callable[[Sequence[bytes]], Sequence[RawNode]]:
    """Return a function that parses node records, given behind their lengths, all at once.

    It reads them as one message that repeats a node: on the wire that is a tag before every record. The node is the
    schema's with its messages declared as bytes, which is the same on the wire.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    from llmservingsim.trace.chakra import et_def_pb2 as et

    kinds = descriptor_pb2.FieldDescriptorProto
    raw_kinds = {kinds.TYPE_MESSAGE: kinds.TYPE_BYTES, kinds.TYPE_ENUM: kinds.TYPE_INT32}
    file = descriptor_pb2.FileDescriptorProto(name="raw_node.proto", package="llmservingsim.raw", syntax="proto3")
    et.Node.DESCRIPTOR.CopyToProto(file.message_type.add())
    for field in file.message_type[0].field:
        if field.type in raw_kinds:
            field.type = raw_kinds[field.type]
            field.ClearField("type_name")
    file.message_type.add(name="Nodes").field.add(
        name="nodes", number=1, label=kinds.LABEL_REPEATED, type=kinds.TYPE_MESSAGE, type_name=".llmservingsim.raw.Node"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("llmservingsim.raw.Nodes"))
    tag = bytes([1 << 3 | 2])  # field 1, length-delimited

    def parse(records: Sequence[bytes]) -> Sequence[RawNode]:
        nodes: Sequence[RawNode] = message.FromString(b"".join([part for r in records for part in (tag, r)])).nodes
        return nodes

    return parse


@cache
def attribute_decoder() -> Callable[[bytes], tuple[str, AttributeValue]]:
    """Return a function from an attribute's bytes to its name and value (None: it has no value)."""
    from llmservingsim.trace.chakra import et_def_pb2 as et

    parse = et.AttributeProto.FromString

    @lru_cache(maxsize=1 << 16)
    def decode(raw: bytes) -> tuple[str, AttributeValue]:
        attribute = parse(raw)
        member = attribute.WhichOneof("value")
        if member is None:
            return attribute.name, None
        value = getattr(attribute, member)
        return attribute.name, tuple(value.values) if member.endswith("_list") else value

    return decode


def input_values(raw: bytes) -> str:
    """Return ``values`` of a node's ``inputs``, an IOInfo still in bytes. Raises DecodeError if it is none."""
    from llmservingsim.trace.chakra import et_def_pb2 as et

    values: str = et.IOInfo.FromString(raw).values
    return values
