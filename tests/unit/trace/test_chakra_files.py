"""Chakra files written and read, down to the byte."""

import json
from dataclasses import replace

import pytest

from llmservingsim.errors import InvariantError
from llmservingsim.graph import ALL_DIMENSIONS, CollectiveType, Graph, MemoryLocation, Node, NodeType
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


def test_metadata_nodes_do_nothing_and_forward_references_are_kept(tmp_path):
    prefix = put(tmp_path, node(NodeType.METADATA, 1, deps=[9]), node(COMP, 9))
    assert [(n.type, n.data_deps) for n in read_traces(prefix).nodes()] == [(NodeType.INVALID, (1,)), (COMP, ())]


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


@pytest.mark.parametrize(
    ("flags", "mask"),
    [
        ([True, True, False], 0b011),
        ([False, True], 0b010),
        ([True] * 4, 0b1111),
        ([], 0),
        ([True] * 32, ALL_DIMENSIONS),
        ([False] * 32 + [True], 0),
    ],
)
def test_flags_of_dimensions_become_bits(tmp_path, flags, mask):
    assert only(read_traces(put(tmp_path, collective(bool_list__involved_dim=flags)))).involved_dims == mask


def test_a_collective_without_flags_involves_every_dimension(tmp_path):
    assert only(read_traces(put(tmp_path, collective()))).involved_dims == ALL_DIMENSIONS


def test_what_a_node_says_about_scheduling_work_and_devices_is_kept(tmp_path):
    first = collective(int32_val__comm_priority=-7)
    work = node(COMP, 2, int64_val__num_ops=10**12, uint64_val__tensor_size=4096)
    load = node(NodeType.MEM_LOAD, 3, uint64_val__tensor_size=4, uint32_val__tensor_device=2)
    assert read_traces(put(tmp_path, first, work, load)).nodes() == [
        Node("n1", COLL, size_bytes=8, priority=-7),
        Node("n2", COMP, size_bytes=4096, num_ops=10**12),
        Node("n3", NodeType.MEM_LOAD, size_bytes=4, device=2),
    ]


def test_group_0_is_every_rank(tmp_path):
    assert only(read_traces(put(tmp_path, collective(string_val__pg_name="0")))).group == -1


def metadata(text):
    message = node(NodeType.METADATA, 7)
    message.inputs.values = text
    return message


def test_process_groups_of_pytorch_define_groups_behind_those_given(tmp_path):
    default = {"pg_name": "0", "pg_desc": "default_pg", "ranks": [], "group_size": 2}
    text = json.dumps([default, {"pg_name": "tp", "ranks": [1, 0]}, {"pg_name": 5, "ranks": [0]}])
    uses = [collective(string_val__pg_name="tp"), node(COLL, 2, int64_val__comm_type=0, int64_val__comm_size=8)]
    put(tmp_path, *uses, metadata(text))
    prefix = put(tmp_path, *uses, metadata('{"pg_name": "tp", "ranks": [1, 0]}'), rank=1)
    graph = read_traces(prefix, groups={3: [0, 1]})
    assert graph.groups == ((0, 1), (1, 0))
    assert graph.group.tolist() == [1, -1, -1] * 2


@pytest.mark.parametrize("wrap", [repr, json.dumps], ids=["Python", "JSON"])
def test_process_groups_may_stand_as_text_in_a_list(tmp_path, wrap):
    text = wrap(['[{"pg_name": "1", "pg_desc": "Alice\'s", "ranks": [1, 0]}]', '{"pg_name": "2", "ranks": [0]}'])
    uses = [collective(string_val__pg_name="1"), metadata(text)]
    assert read_traces(put(tmp_path, *uses)).groups == ((1, 0),)


def test_a_metadata_node_may_define_nothing(tmp_path):
    assert read_traces(put(tmp_path, metadata("[]"))).groups == ()


def test_sixty_four_small_files_take_a_few_cpu_milliseconds(tmp_path, cpu_s):
    for rank in range(64):
        prefix = put(tmp_path, collective(), rank=rank)
    spent = min(cpu_s(lambda: read_traces(prefix)) for _ in range(10))
    assert spent <= 0.005  # three times what it takes: sweeps read thousands of such files


def test_ranks_may_call_different_groups_the_same(tmp_path):
    for rank in (0, 1):
        text = json.dumps({"pg_name": "1", "ranks": [rank, rank + 2]})
        prefix = put(tmp_path, collective(string_val__pg_name="1"), metadata(text), rank=rank)
    graph = read_traces(prefix)
    assert graph.groups == ((0, 2), (1, 3))
    assert [g for g in graph.group.tolist() if g >= 0] == [0, 1]


def test_collectives_named_by_their_id_get_the_program_given(tmp_path):
    coll = {"int64_val__comm_type": 0, "int64_val__comm_size": 8}
    for rank in (0, 1):
        prefix = put(tmp_path, node(COLL, 4, **coll), node(COLL, 9, **coll), node(COMP, 11), rank=rank)
    assert read_traces(prefix, programs_by_node={9: 3}).program.tolist() == [-1, 3, -1] * 2


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


def test_llmservingsim_2_computes_in_memory_and_lets_the_last_attribute_win(tmp_path):
    place = {"uint32_val__tensor_loc": 2, "uint32_val__tensor_device": 1, "uint32_val__tensor_channel": 3}
    pim = node(4, 1, uint64_val__tensor_size=4, **place)
    pim.duration_micros = 5
    pim.attr.add(name="tensor_size", uint64_val=64)
    expected = Node("n1", NodeType.PIM_COMP, duration_ns=5, size_bytes=64, device=1, channel=3)
    assert only(read_traces(put(tmp_path, pim), dialect="llmservingsim2")) == expected


def test_the_writer_speaks_the_dialect_of_llmservingsim_2(tmp_path):
    nodes = [
        Node("c", COMP, duration_ns=1499),
        Node("p", NodeType.PIM_COMP, duration_ns=7, size_bytes=64, device=1, channel=3, ctrl_deps=(0,)),
        Node("ar", COLL, size_bytes=64, group=0, data_deps=(1, 0), ctrl_deps=(0,)),
    ]
    graph = Graph.from_nodes(nodes, groups=[(0, 1)])
    (path,) = write_traces(graph, tmp_path / "t", dialect="llmservingsim2")
    messages = [et.Node.FromString(record[1:]) for record in split(path.read_bytes(), path)[1:]]
    assert [int(m.type) for m in messages] == [5, 4, 8]
    assert [m.duration_micros for m in messages] == [1499, 7, 0]
    assert [a.name for a in messages[0].attr] == ["is_cpu_op", "num_ops"]
    assert [(list(m.data_deps), list(m.ctrl_deps)) for m in messages] == [([], []), ([1], []), ([2, 1], [])]
    read = read_traces(tmp_path / "t", groups={1: [0, 1]}, dialect="llmservingsim2").nodes()
    assert read == [nodes[0], replace(nodes[1], data_deps=(0,), ctrl_deps=()), replace(nodes[2], ctrl_deps=())]


def test_what_a_dialect_cannot_say_is_not_written(tmp_path):
    pim = Graph.from_nodes([Node("p", NodeType.PIM_COMP)])
    with pytest.raises(InvariantError, match="rank 0: node 'p' is a PIM_COMP, which the dialect mlcommons lacks"):
        write_traces(pim, tmp_path / "t")
    reduce = Graph.from_nodes([Node("ar", COLL, group=0)], groups=[(0,), (0, 1)])
    with pytest.raises(InvariantError, match="node 'ar' is over group 0; expected 1, the last one of the rank"):
        write_traces(reduce, tmp_path / "t", dialect="llmservingsim2")


@pytest.mark.parametrize(
    ("mask", "dimensions", "flags"),
    [
        (ALL_DIMENSIONS, 4, None),
        (ALL_DIMENSIONS, 5, [True] * 32),
        (0b10, 1, [False, True, False, False]),
        (0b10, 6, [False, True] + [False] * 4),
        (0b100001, 2, [True, False, False, False, False, True]),
    ],
)
def test_flags_of_dimensions_are_written_where_astra_sim_would_not_guess_them(tmp_path, mask, dimensions, flags):
    graph = Graph.from_nodes([Node("ar", COLL, involved_dims=mask)])
    (path,) = write_traces(graph, tmp_path / "t", dimensions=dimensions)
    message = et.Node.FromString(split(path.read_bytes(), path)[1][1:])
    written = {a.name: list(a.bool_list.values) for a in message.attr}
    assert written.get("involved_dim") == flags
    assert only(read_traces(tmp_path / "t")).involved_dims == mask


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
