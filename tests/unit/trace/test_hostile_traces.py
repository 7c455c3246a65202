"""Traces that no tracer writes: what the fuzzer found, each with what it did before it was refused."""

from pathlib import Path

import pytest

from llmservingsim.errors import TraceError
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.trace.chakra import et_def_pb2 as et
from llmservingsim.trace.chakra import read_tensors, read_traces, round_durations
from llmservingsim.trace.chakra.records import frame


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "t"


def write(prefix: Path, *nodes: et.Node) -> None:
    records = [et.GlobalMetadata().SerializeToString(), *(node.SerializeToString() for node in nodes)]
    prefix.with_name("t.0.et").write_bytes(b"".join(map(frame, records)))


def refusal(prefix: Path) -> str:
    """What the reader says of the trace, on one line of bounded length."""
    with pytest.raises(TraceError, match=r"t\.0\.et: node 1 ") as raised:
        read_traces(prefix, groups={1: (0,)})
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 1500
    return message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[" * 100_000, "its process groups are not JSON"),
        ("{[]: 1}", "its process groups are not JSON"),
        ('["\\ud800"]', "its process groups are not JSON"),
        (f'{{"pg_name": {10**30}, "ranks": [0]}}', "expected process groups"),
        ('{"pg_name": "1", "ranks": [99999999999]}', "expected different ranks"),
        (str([["x" * 100] * 100_000]).replace("'", '"'), "expected process groups"),
    ],
)
def test_text_that_is_no_process_group_ended_in_an_error_of_python_or_a_message_without_end(
    prefix: Path, text: str, parts: str
) -> None:
    write(prefix, et.Node(id=1, type=et.METADATA, inputs=et.IOInfo(values=text)))
    assert parts in refusal(prefix)


def test_inputs_that_are_no_io_info_ended_in_an_error_of_protobuf(prefix: Path) -> None:
    node = et.Node(id=1, type=et.METADATA).SerializeToString() + bytes(
        [8 << 3 | 2, 2, 0x0A, 9]
    )  # a text of 9 bytes in 2
    prefix.with_name("t.0.et").write_bytes(frame(b"") + frame(node))
    assert "its inputs are no Chakra IOInfo" in refusal(prefix)


def test_a_group_named_by_5000_digits_ended_in_a_value_error(prefix: Path) -> None:
    node = et.Node(id=1, type=et.COMM_COLL)
    node.attr.add(name="comm_type", int64_val=0)
    node.attr.add(name="comm_size", int64_val=1)
    node.attr.add(name="pg_name", string_val="9" * 5000)
    write(prefix, node)
    assert "names communicator group '9999" in refusal(prefix)


def test_an_attribute_or_a_name_of_megabytes_was_repeated_in_the_message(prefix: Path) -> None:
    node = et.Node(id=1, name="n" * 10**6, type=et.COMP)
    node.attr.add(name="num_ops", string_val="x" * 10**6)
    write(prefix, node)
    assert "attribute 'num_ops' is 'xxx" in refusal(prefix)


@pytest.mark.parametrize("size", ["9" * 5000, "9" * 30])
def test_the_size_of_a_tensor_beyond_64_bits_ended_in_an_error_of_python(prefix: Path, size: str) -> None:
    node = et.Node(id=1, type=et.COMP)
    for name in ("inputs", "outputs"):
        node.attr.add(name=name).string_list.values.extend(["t", size])
    write(prefix, node)
    with pytest.raises(
        TraceError, match=r"node 1 .* gives 't' the size '999.*; expected a number of bytes, of at most 14"
    ):
        read_tensors(prefix, 1)


def test_the_longest_duration_was_rounded_to_one_microsecond() -> None:
    graph = Graph.from_nodes([Node("n", NodeType.COMP, duration_ns=2**63 - 450)])
    assert round_durations(graph).duration_ns.tolist() == [(2**63 - 450 + 500) // 1000 * 1000]
