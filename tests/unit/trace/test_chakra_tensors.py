"""Tensors that nodes say they read and write."""

import pytest

from llmservingsim.errors import TraceError
from llmservingsim.trace.chakra import Tensor, read_tensors
from llmservingsim.trace.chakra import et_def_pb2 as et
from llmservingsim.trace.chakra.records import frame


def put(tmp_path, *nodes):
    """Write nodes given as (id, inputs, outputs), of which each is a list or None."""
    data = frame(b"")
    for node, *lists in nodes:
        message = et.Node(id=node, name=f"n{node}", type=4)
        for name, values in zip(("inputs", "outputs"), lists, strict=True):
            if values is not None:
                message.attr.add(name=name).string_list.values.extend(values)
        data += frame(message.SerializeToString())
    (tmp_path / "t.0.et").write_bytes(data)
    return tmp_path / "t"


def test_inputs_come_before_outputs_and_nodes_in_the_order_of_their_ids(tmp_path):
    prefix = put(tmp_path, (9, [], ["y", "4"]), (2, ["a", "1", "b", "2"], ["c", "3"]))
    assert read_tensors(prefix, 1) == [[(Tensor("a", 1), Tensor("b", 2), Tensor("c", 3)), (Tensor("y", 4),)]]


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (None, [], "lacks the attribute 'inputs', which track-local-mem needs"),
        ([], None, "lacks the attribute 'outputs'"),
        (["a"], [], r"attribute 'inputs' is \('a',\); expected a string_list of names and sizes"),
        ([], ["a", "many"], "attribute 'outputs' gives 'a' the size 'many'; expected a number of bytes"),
    ],
)
def test_a_node_that_does_not_tell_is_named(tmp_path, inputs, outputs, message):
    with pytest.raises(TraceError, match=rf"t\.0\.et: node 5 \('n5'\).*{message}"):
        read_tensors(put(tmp_path, (5, inputs, outputs)), 1)


def test_an_attribute_of_another_kind_is_no_list(tmp_path):
    message = et.Node(id=1, type=4)
    message.attr.add(name="inputs", string_val="a,1")
    (tmp_path / "t.0.et").write_bytes(frame(b"") + frame(message.SerializeToString()))
    with pytest.raises(TraceError, match="'inputs' is 'a,1'; expected a string_list"):
        read_tensors(tmp_path / "t", 1)
