"""What is wrong with a Chakra file is said with the file, the record or node, and what was expected."""

import pytest

from llmservingsim.errors import TraceError
from llmservingsim.trace.chakra import et_def_pb2 as et
from llmservingsim.trace.chakra import read_traces
from llmservingsim.trace.chakra.records import frame

METADATA, COMP, SEND, RECV, COLL = 1, 4, 5, 6, 7
MESSAGE = {"comm_src": 0, "comm_dst": 0, "comm_size": 8, "comm_tag": 1}


def node(kind, *, node_id=1, deps=(), ints=(), **attributes):
    """Return a node whose integer attributes are ``ints``; others are given as name=(member, value)."""
    message = et.Node(id=node_id, name="x", type=kind, data_deps=deps)
    for name, value in dict(ints).items():
        message.attr.add(name=name, int64_val=value)
    for name, (member, value) in attributes.items():
        message.attr.add(name=name, **{member: value})
    return message


def without(name):
    return {k: v for k, v in MESSAGE.items() if k != name}


def read(tmp_path, *nodes, **options):
    data = b"\x00" + b"".join(frame(n.SerializeToString()) for n in nodes)
    return read_bytes(tmp_path, data, **options)


def read_bytes(tmp_path, data, **options):
    (tmp_path / "t.0.et").write_bytes(data)
    return read_traces(tmp_path / "t", **options)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x80", r"t\.0\.et: the length of record 2 is truncated"),
        (b"\x80\x80\x80\x80\x80\x01", "the length of record 1 is a varint of more than 5 bytes"),
        (b"\x00\x05\x08\x01", "record 2 is truncated: expected 5 bytes at offset 2, the file has 2"),
        (b"\x00\x02\x08\x01\x02\xff\xff", "record 3 is no Chakra Node"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"\x00\x07\x08\x01\x18\x04\x52\x01\xff", r"node 1 \(''\) has an attribute that is no Chakra AttributeProto"),
        (b"", "none of 0 nodes can begin"),
        (b"\x00", "none of 0 nodes can begin"),
    ],
)
def test_bytes_that_are_no_trace(tmp_path, data, message):
    with pytest.raises(TraceError, match=message):
        read_bytes(tmp_path, data)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (node(COLL, ints={"comm_type": 0}), r"t\.0\.et: node 1 \('x'\) lacks the attribute 'comm_size'"),
        (node(COLL, ints={"comm_size": 0}), "lacks the attribute 'comm_type'.*dialect='llmservingsim2'"),
        (node(SEND, ints=without("comm_dst")), "lacks the attribute 'comm_dst'"),
        (node(SEND, ints=without("comm_tag")), "lacks the attribute 'comm_tag'"),
        (node(SEND, ints=without("comm_size")), "lacks the attribute 'comm_size'"),
        (node(RECV, ints=without("comm_src")), "lacks the attribute 'comm_src'"),
        (node(RECV, ints=MESSAGE | {"comm_dst": 3}), "'comm_dst' is 3; expected 0, the rank of the file"),
        (node(2), "lacks the attribute 'tensor_size'"),
        (node(2, ints={"tensor_size": 1, "tensor_loc": 9}), "'tensor_loc' is 9; expected 0 to 4"),
        (node(8), "unknown type 8; expected one of 0 INVALID.*7 COMM_COLL.*dialect='llmservingsim2'"),
        (node(COLL, ints={"comm_type": 10, "comm_size": 1}), "'comm_type' is 10; expected 0 to 9"),
        (node(COLL, ints={"comm_type": 0, "comm_size": -1}), "'comm_size' is -1; expected 0 to"),
        (node(COLL, ints={"comm_type": 0}, comm_size=("double_val", 8.0)), "'comm_size' is 8.0; expected an integer"),
        (node(COLL, ints={"comm_type": 0}, comm_size=("string_val", "8")), "'comm_size' is '8'; expected an integer"),
        (node(COLL, ints={"comm_type": 0, "comm_size": 1, "comm_priority": 2**31}), "'comm_priority' is 2147483648"),
        (node(COMP, ints={"num_ops": -1}), "'num_ops' is -1; expected 0 to"),
        (node(COMP, deps=[1]), "none of 1 nodes can begin"),
    ],
)
def test_a_node_that_is_wrong(tmp_path, message, text):
    with pytest.raises(TraceError, match=text):
        read(tmp_path, message)


def test_an_attribute_without_a_value_is_no_integer(tmp_path):
    message = node(COLL, ints={"comm_type": 0})
    message.attr.add(name="comm_size")
    with pytest.raises(TraceError, match="'comm_size' is None; expected an integer"):
        read(tmp_path, message)


def test_a_dependency_that_nobody_defines(tmp_path):
    with pytest.raises(TraceError, match=r"node 6 depends on node 7; expected the id of a node of this file"):
        read(tmp_path, node(COMP, node_id=8, deps=[6]), node(COMP, node_id=2), node(COMP, node_id=6, deps=[2, 7]))


def test_an_id_defined_twice(tmp_path):
    with pytest.raises(TraceError, match="node 5 is defined twice"):
        read(tmp_path, node(COMP, node_id=5), node(COMP, node_id=5))


def test_a_duration_too_long_for_nanoseconds(tmp_path):
    message = node(COMP)
    message.duration_micros = 2**63
    with pytest.raises(TraceError, match=r"t\.0\.et: node 1 \('x'\): duration_micros 9223372036854775808 is too"):
        read(tmp_path, message)


@pytest.mark.parametrize(
    ("name", "groups", "text"),
    [
        ("1", None, "names communicator group '1', but no groups were given"),
        ("3", {1: [0], 2: [1]}, "names communicator group '3'; expected one of those given: 1, 2"),
        ("tp", {1: [0]}, "names communicator group 'tp'; expected one of those given: 1"),
        ("2", {1: [0], 2: [1, 4]}, r"group '2'; expected one that rank 0 is in, not \[1, 4\]"),
        ("", {0: [0]}, "communicator group id 0 is not allowed"),
    ],
)
def test_a_communicator_group_that_cannot_be(tmp_path, name, groups, text):
    message = node(COLL, ints={"comm_type": 0, "comm_size": 1}, pg_name=("string_val", name))
    with pytest.raises(TraceError, match=text):
        read(tmp_path, message, groups=groups)


def test_involved_dim_that_is_no_list(tmp_path):
    message = node(COLL, ints={"comm_type": 0, "comm_size": 1, "involved_dim": 1})
    with pytest.raises(TraceError, match="'involved_dim' is 1; expected a bool_list"):
        read(tmp_path, message)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (node(4), "lacks the attribute 'tensor_size'"),
        (node(4, ints={"tensor_size": 1, "tensor_loc": 2, "tensor_channel": -1}), "'tensor_channel' is -1"),
        (node(9), "unknown type 9; expected one of .*8 COMM_COLL.*dialect='mlcommons'"),
        (node(2, ints={"tensor_size": 1}), "lacks the attribute 'tensor_loc'"),
        (node(2, ints={"tensor_size": 1, "tensor_loc": 0}), "'tensor_loc' is 0; expected 1 to 4"),
        (node(2, ints={"tensor_size": 1, "tensor_loc": 1, "tensor_device": -2}), "'tensor_device' is -2; expected -1"),
    ],
)
def test_a_node_of_the_other_dialect_that_is_wrong(tmp_path, message, text):
    with pytest.raises(TraceError, match=text):
        read(tmp_path, message, dialect="llmservingsim2")


@pytest.mark.parametrize(("there", "missing"), [({"num_ops": 1}, "tensor_size"), ({"tensor_size": 1}, "num_ops")])
def test_roofline_needs_operations_and_bytes_of_what_the_accelerator_computes(tmp_path, there, missing):
    assert len(read(tmp_path, node(COMP, ints=there))) == 1
    assert len(read(tmp_path, node(COMP, ints={"is_cpu_op": 1}), roofline=True)) == 1
    with pytest.raises(TraceError, match=rf"node 1 \('x'\) lacks the attribute '{missing}'"):
        read(tmp_path, node(COMP, ints=there), roofline=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "its process groups are not JSON"),
        ("3", "expected process groups .*, not 3"),
        ('[{"ranks": [0]}]', "expected process groups"),
        ('[{"pg_name": "1", "ranks": 3}]', "process group '1' has the ranks 3; expected different ranks"),
        ('[{"pg_name": "1", "ranks": [2, 2]}]', r"has the ranks \[2, 2\]"),
        ('[{"pg_name": "1", "ranks": ["2"]}]', r"has the ranks \['2'\]"),
        ('[{"pg_name": "1", "ranks": [1]}, {"pg_name": "1", "ranks": [2]}]', r"'1' as \[2\]; it is \[1\]"),
    ],
)
def test_process_groups_that_are_none_name_their_node(tmp_path, text, message):
    metadata = node(METADATA, node_id=4)
    metadata.inputs.values = text
    with pytest.raises(TraceError, match=rf"t\.0\.et: node 4 \('x'\).*{message}"):
        read(tmp_path, metadata)


def test_a_group_that_the_trace_and_the_file_of_groups_define_otherwise(tmp_path):
    metadata = node(METADATA, node_id=4)
    metadata.inputs.values = '{"pg_name": "1", "ranks": [0, 2]}'
    message = node(COLL, ints={"comm_type": 0, "comm_size": 1}, pg_name=("string_val", "1"))
    with pytest.raises(TraceError, match=r"which is \[0, 1\] as given and \[0, 2\] in the trace"):
        read(tmp_path, metadata, message, groups={1: [0, 1]})


def test_a_program_for_a_node_that_is_no_collective(tmp_path):
    with pytest.raises(TraceError, match="no rank has a collective with the id 1, whose algorithm was given"):
        read(tmp_path, node(COMP), programs_by_node={1: 0})


def test_a_missing_trace_names_the_nearest(tmp_path):
    (tmp_path / "train.0.et").write_bytes(b"\x00")
    with pytest.raises(TraceError, match=r"trian\.0\.et: no such trace; expected .*\(nearest there: train\.0\.et\)"):
        read_traces(tmp_path / "trian")
    with pytest.raises(TraceError, match=r"there is no directory .*nowhere"):
        read_traces(tmp_path / "nowhere" / "t")


def test_a_missing_rank_is_an_error_when_the_number_of_ranks_is_given(tmp_path):
    read(tmp_path, node(COMP))
    with pytest.raises(TraceError, match=r"t\.1\.et: no such trace"):
        read_traces(tmp_path / "t", ranks=2)


def test_an_unknown_dialect_names_the_nearest(tmp_path):
    with pytest.raises(TraceError, match=r"expected one of llmservingsim2, mlcommons \(did you mean 'mlcommons'\?\)"):
        read_traces(tmp_path / "t", dialect="ml-commons")
