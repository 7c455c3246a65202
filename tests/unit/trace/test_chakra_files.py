"""Chakra files written and read, down to the byte."""

import json

import pytest

from llmservingsim.errors import InvariantError, TraceError
from llmservingsim.graph import CollectiveType, Graph, MemoryLocation, Node, NodeType
from llmservingsim.trace.chakra import et_def_pb2 as et
from llmservingsim.trace.chakra import read_traces, write_comm_groups, write_traces
from llmservingsim.trace.chakra.records import frame, split

COMP, SEND, RECV, COLL = NodeType.COMP, NodeType.COMM_SEND, NodeType.COMM_RECV, NodeType.COMM_COLL

# A file by hand. A field's tag is (number << 3 | wire type), wire type 0 a varint and 2 a length and bytes; a varint
# above 127 continues in the next byte.
METADATA = b"\x00"  # a record of no bytes
COMPUTE = (
    b"\x1f"  # 31 bytes
    b"\x08\x03\x12\x02mm\x18\x04"  # id 3, name, type COMP
    b"\x2a\x02\x02\x01"  # data_deps 2 and 1, packed
    b"\x38\xac\x02"  # duration_micros 300
    b"\x52\x0e\x0a\x09is_cpu_op\xd8\x01\x01"  # bool_val true
)
COLLECTIVE = (
    b"\x37"  # 55 bytes
    b"\x08\x01\x12\x02ar\x18\x07"  # id 1, name, type COMM_COLL
    b"\x52\x0d\x0a\x09comm_type\x48\x02"  # int64_val 2, all-gather
    b"\x52\x0f\x0a\x09comm_size\x48\x80\x80\x40"  # int64_val 1048576
    b"\x52\x0d\x0a\x07pg_name\xea\x01\x012"  # string_val "2"
)
MEMORY = (
    b"\x2e"  # 46 bytes
    b"\x08\x02\x12\x02ld\x18\x02"  # id 2, name, type MEM_LOAD
    b"\x20\x01\x28\x01"  # ctrl_deps 1 and data_deps 1, both unpacked
    b"\x52\x10\x0a\x0btensor_size\x68\x80\x01"  # uint64_val 128
    b"\x52\x0e\x0a\x0atensor_loc\x58\x03"  # uint32_val 3
)


def put(tmp_path, *nodes, rank=0):
    """Write a file of the given messages and return the prefix."""
    data = METADATA + b"".join(frame(n.SerializeToString()) for n in nodes)
    (tmp_path / f"t.{rank}.et").write_bytes(data)
    return tmp_path / "t"


def node(kind, node_id=1, deps=(), **attributes):
    """Return a node message; an attribute is written as ``member__name=value``."""
    message = et.Node(id=node_id, name=f"n{node_id}", type=int(kind), data_deps=deps)
    for key, value in attributes.items():
        member, name = key.split("__", 1)
        if member.endswith("_list"):
            getattr(message.attr.add(name=name), member).values.extend(value)
        else:
            message.attr.add(name=name, **{member: value})
    return message


def collective(**attributes):
    return node(COLL, int64_val__comm_type=0, int64_val__comm_size=8, **attributes)


def only(graph):
    (one,) = graph.nodes()
    return one


def test_a_file_assembled_by_hand_is_read_in_ascending_order_of_ids(tmp_path):
    (tmp_path / "hand.0.et").write_bytes(METADATA + COMPUTE + COLLECTIVE + MEMORY)
    graph = read_traces(tmp_path / "hand", groups={1: [1], 2: [0, 5]})
    assert graph.nodes() == [
        Node("ar", COLL, size_bytes=1048576, collective=CollectiveType.ALL_GATHER, group=1),
        Node("ld", NodeType.MEM_LOAD, size_bytes=128, location=MemoryLocation.CXL, data_deps=(0,), ctrl_deps=(0,)),
        Node("mm", COMP, duration_ns=300_000, is_cpu_op=True, data_deps=(1, 0)),
    ]
    assert graph.groups == ((1,), (0, 5))
    assert graph.rank_classes == ((0,),)


def test_the_writer_uses_the_members_that_every_feeder_reads(tmp_path):
    nodes = [
        Node("load", NodeType.MEM_LOAD, size_bytes=128),
        Node("mm", COMP, duration_ns=1499, data_deps=(0,)),
        Node("ar", COLL, size_bytes=64, collective=CollectiveType.ALL_TO_ALL, group=1, ctrl_deps=(1,)),
        Node("send", SEND, size_bytes=9, peer=2, tag=7),
    ]
    graph = Graph.from_nodes(nodes, groups=[(1, 2), (0, 3)])
    (path,) = write_traces(graph, tmp_path / "new" / "t")
    assert path == tmp_path / "new" / "t.0.et"
    metadata, *records = (record[1:] for record in split(path.read_bytes(), path))  # lengths here are below 128
    assert et.GlobalMetadata.FromString(metadata).version == "0.0.4"
    messages = [et.Node.FromString(r) for r in records]
    assert [m.id for m in messages] == [1, 2, 3, 4]
    assert [list(m.data_deps) for m in messages] == [[], [1], [], []]
    assert [list(m.ctrl_deps) for m in messages] == [[], [], [2], []]
    assert [m.duration_micros for m in messages] == [0, 1, 0, 0]
    written = [{(a.name, a.WhichOneof("value")): getattr(a, a.WhichOneof("value")) for a in m.attr} for m in messages]
    cpu = {("is_cpu_op", "bool_val"): False}
    assert written == [
        cpu | {("tensor_size", "uint64_val"): 128, ("tensor_loc", "uint32_val"): 2},
        cpu | {("llmservingsim.duration_ns", "uint64_val"): 1499},
        cpu | {("comm_type", "int64_val"): 6, ("comm_size", "int64_val"): 64, ("pg_name", "string_val"): "2"},
        cpu
        | {("comm_src", "int32_val"): 0, ("comm_dst", "int32_val"): 2}
        | {("comm_size", "int64_val"): 9, ("comm_tag", "int32_val"): 7},
    ]


@pytest.mark.parametrize(("ns", "micros"), [(0, 0), (1, 1), (499, 1), (1499, 1), (1500, 2), (2_000_000, 2000)])
def test_microseconds_are_rounded_but_never_to_nothing(tmp_path, ns, micros):
    (path,) = write_traces(Graph.from_nodes([Node("c", COMP, duration_ns=ns)]), tmp_path / "t")
    record = split(path.read_bytes(), path)[1]
    assert et.Node.FromString(record[1:]).duration_micros == micros
    assert only(read_traces(tmp_path / "t")).duration_ns == ns


def test_a_group_of_the_whole_network_needs_no_name(tmp_path):
    whole = Graph.from_nodes([Node("ar", COLL, group=0)], rank_classes=[(0, 1)], groups=[(1, 0)])
    write_traces(whole, tmp_path / "whole")
    assert read_traces(tmp_path / "whole").group.tolist() == [-1, -1]
    write_traces(whole, tmp_path / "part", network_ranks=4)
    assert read_traces(tmp_path / "part", groups={1: [1, 0]}).group.tolist() == [0, 0]


def test_communicator_groups_count_from_1_and_keep_their_order(tmp_path):
    write_comm_groups(Graph.from_nodes([], groups=[(2, 0), (1, 3)]), tmp_path / "g" / "groups.json")
    assert json.loads((tmp_path / "g" / "groups.json").read_text()) == {"1": [2, 0], "2": [1, 3]}


def test_lengths_above_127_take_several_bytes(tmp_path):
    assert frame(b"x" * 300) == b"\xac\x02" + b"x" * 300
    assert [len(r) for r in split(frame(b"x" * 300) + frame(b"") + frame(b"y" * 20000), tmp_path)] == [302, 1, 20003]


@pytest.mark.parametrize("member", ["int32_val", "uint64_val", "sint32_val", "fixed64_val", "bool_val"])
def test_any_integer_member_counts(tmp_path, member):
    message = node(COLL, int64_val__comm_type=0, **{f"{member}__comm_size": 1})
    assert only(read_traces(put(tmp_path, message))).size_bytes == 1


def test_the_first_attribute_of_a_name_wins(tmp_path):
    message = collective()
    message.attr.add(name="comm_size", int64_val=99)
    assert only(read_traces(put(tmp_path, message))).size_bytes == 8


def test_our_exact_duration_is_preferred_to_the_rounded_field(tmp_path):
    broadcast = node(COLL, int64_val__comm_type=5, int64_val__comm_size=8, **{
        "uint64_val__llmservingsim.duration_ns": 1234
    })  # fmt: skip
    broadcast.duration_micros = 1
    assert only(read_traces(put(tmp_path, broadcast))).duration_ns == 1234


def test_metadata_nodes_and_forward_references_are_kept(tmp_path):
    prefix = put(tmp_path, node(NodeType.METADATA, 1, deps=[9]), node(COMP, 9))
    assert [(n.type, n.data_deps) for n in read_traces(prefix).nodes()] == [(NodeType.METADATA, (1,)), (COMP, ())]


def test_ranks_follow_one_another_until_a_file_is_missing(tmp_path):
    for rank in (0, 1, 3):
        put(tmp_path, node(COMP, 5), node(COMP, 6, deps=[5]), rank=rank)
    graph = read_traces(tmp_path / "t")
    assert graph.rank_classes == ((0,), (1,))
    assert graph.data_deps.tolist() == [0, 2]
    assert len(read_traces(tmp_path / "t", ranks=1)) == 2


def test_own_side_of_a_message_may_be_left_out(tmp_path):
    receive = node(RECV, int32_val__comm_src=4, int64_val__comm_size=8, int32_val__comm_tag=-3)
    assert only(read_traces(put(tmp_path, receive))) == Node("n1", RECV, peer=4, size_bytes=8, tag=-3)


def test_only_the_dimensions_of_the_network_count_in_involved_dim(tmp_path):
    prefix = put(tmp_path, collective(bool_list__involved_dim=[True, True, False]))
    assert only(read_traces(prefix, dimensions=2)).size_bytes == 8
    with pytest.raises(TraceError, match=r"node 1 \('n1'\).*'involved_dim' is \[True, True, False\]"):
        read_traces(prefix, dimensions=3)


def test_the_dialect_of_llmservingsim_2_has_other_numbers_and_nanoseconds(tmp_path):
    compute = node(5, 1)
    compute.duration_micros = 77
    load = node(2, 2, uint64_val__tensor_size=4, uint32_val__tensor_loc=1, uint32_val__tensor_device=0)
    load.ctrl_deps.append(99)  # control dependencies do not count, not even undefined ones
    reduce = node(8, 3, deps=[1], int64_val__comm_type=7, int64_val__comm_size=8, string_val__pg_name="5")
    prefix = put(tmp_path, compute, load, reduce)
    graph = read_traces(prefix, dialect="llmservingsim2", groups={1: [0, 1], 2: [2], 3: [1, 0]})
    assert graph.nodes() == [
        Node("n1", COMP, duration_ns=77),
        Node("n2", NodeType.MEM_LOAD, size_bytes=4, location=MemoryLocation.LOCAL),
        Node("n3", COLL, size_bytes=8, collective=CollectiveType.REDUCE_SCATTER, group=2, data_deps=(0,)),
    ]
    assert read_traces(prefix, dialect="llmservingsim2").group.tolist() == [-1, -1, -1]


def test_a_rank_of_llmservingsim_2_may_have_nothing_to_do(tmp_path):
    put(tmp_path, node(5, 1))
    prefix = put(tmp_path, rank=1)
    graph = read_traces(prefix, dialect="llmservingsim2")
    assert graph.rank_classes == ((0,), (1,))
    assert graph.rank_class.tolist() == [0]


def test_a_rank_without_a_node_is_not_written(tmp_path):
    graph = Graph.from_nodes([Node("c", COMP)], rank_classes=[(0,), (1,)])
    with pytest.raises(InvariantError, match="rank 1 has no node"):
        write_traces(graph, tmp_path / "t")
    assert not list(tmp_path.iterdir())
