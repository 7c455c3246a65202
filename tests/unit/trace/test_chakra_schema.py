"""The schema on disk is the one that other Chakra tools read, and the generated module is the schema's."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from llmservingsim.graph import CollectiveType, NodeType
from llmservingsim.trace.chakra import et_def_pb2 as et

ROOT = Path(__file__).parents[3]
PROTO = "llmservingsim/trace/chakra/et_def.proto"
GENERATED_BY = "1.63.2"

SCALARS = [
    "double",
    "float",
    "int32",
    "int64",
    "uint32",
    "uint64",
    "sint32",
    "sint64",
    "fixed32",
    "fixed64",
    "sfixed32",
    "sfixed64",
    "bool",
    "string",
    "bytes",
]

# Message -> field -> (number, type, repeated), from the published Chakra schema 0.0.4.
FIELDS = {
    "GlobalMetadata": {"version": (1, "string", False), "attr": (2, "AttributeProto", True)},
    "Node": {
        "id": (1, "uint64", False),
        "name": (2, "string", False),
        "type": (3, "NodeType", False),
        "ctrl_deps": (4, "uint64", True),
        "data_deps": (5, "uint64", True),
        "start_time_micros": (6, "uint64", False),
        "duration_micros": (7, "uint64", False),
        "inputs": (8, "IOInfo", False),
        "outputs": (9, "IOInfo", False),
        "attr": (10, "AttributeProto", True),
    },
    "IOInfo": {"values": (1, "string", False), "shapes": (2, "string", False), "types": (3, "string", False)},
    "Tensor": {
        "tensor_id": (1, "uint64", False),
        "storage_id": (2, "uint64", False),
        "offset": (3, "uint64", False),
        "num_elem": (4, "uint64", False),
        "elem_bytes": (5, "uint64", False),
        "device": (6, "string", False),
    },
}
ATTRIBUTE_NUMBERS = {
    "double_val": 3, "double_list": 4, "float_val": 5, "float_list": 6, "int32_val": 7, "int32_list": 8,
    "int64_val": 9, "int64_list": 10, "uint32_val": 11, "uint32_list": 12, "uint64_val": 13, "uint64_list": 14,
    "sint32_val": 15, "sint32_list": 16, "sint64_val": 17, "sint64_list": 18, "fixed32_val": 19, "fixed32_list": 20,
    "fixed64_val": 21, "fixed64_list": 22, "sfixed32_val": 23, "sfixed32_list": 24, "sfixed64_val": 25,
    "sfixed64_list": 26, "bool_val": 27, "bool_list": 28, "string_val": 29, "string_list": 30, "bytes_val": 31,
    "bytes_list": 32,
}  # fmt: skip
NODE_TYPES = {
    "INVALID": 0, "METADATA": 1, "MEM_LOAD": 2, "MEM_STORE": 3, "COMP": 4, "COMM_SEND": 5, "COMM_RECV": 6,
    "COMM_COLL": 7,
}  # fmt: skip
COLLECTIVES = {
    "ALL_REDUCE": 0, "REDUCE": 1, "ALL_GATHER": 2, "GATHER": 3, "SCATTER": 4, "BROADCAST": 5, "ALL_TO_ALL": 6,
    "REDUCE_SCATTER": 7, "REDUCE_SCATTER_BLOCK": 8, "BARRIER": 9,
}  # fmt: skip


def proto_file():
    proto = descriptor_pb2.FileDescriptorProto()
    et.DESCRIPTOR.CopyToProto(proto)
    return proto


def fields_of(message):
    def type_name(field):
        if field.type_name:
            return field.type_name.rsplit(".", 1)[-1]
        return descriptor_pb2.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()

    repeated = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    return {f.name: (f.number, type_name(f), f.label == repeated) for f in message.field}


def test_messages_have_the_published_fields():
    messages = {m.name: fields_of(m) for m in proto_file().message_type}
    expected = dict(FIELDS)
    for scalar in SCALARS:
        expected[f"{scalar.capitalize()}List"] = {"values": (1, scalar, True)}
    attribute = {"name": (1, "string", False), "doc_string": (2, "string", False)}
    for member, number in ATTRIBUTE_NUMBERS.items():
        scalar, kind = member.split("_")
        attribute[member] = (number, scalar if kind == "val" else f"{scalar.capitalize()}List", False)
    expected["AttributeProto"] = attribute
    assert messages == expected
    assert proto_file().syntax == "proto3"


def test_an_attribute_has_exactly_one_value():
    (value,) = et.AttributeProto.DESCRIPTOR.oneofs
    assert {f.name for f in value.fields} == set(ATTRIBUTE_NUMBERS)


def test_enums_have_the_published_values_and_equal_those_of_the_graph():
    ours = {t.name: int(t) for t in NodeType if t != NodeType.PIM_COMP}  # which only LLMServingSim 2.0's schema has
    assert dict(et.NodeType.items()) == NODE_TYPES == ours
    assert dict(et.CollectiveCommType.items()) == COLLECTIVES == {c.name: int(c) for c in CollectiveType}


def test_the_generated_module_is_fresh(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed; the schema is not regenerated")
    descriptor = tmp_path / "descriptor"
    outputs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--descriptor_set_out={descriptor}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, PROTO], cwd=ROOT, check=True)
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(descriptor.read_bytes()).file
    file.ClearField("source_code_info")
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert file == proto_file()
    if importlib.metadata.version("grpcio-tools") == GENERATED_BY:  # other versions word the same thing differently
        for name in ("et_def_pb2.py", "et_def_pb2.pyi"):
            checked_in = (ROOT / PROTO).with_name(name).read_text(encoding="utf-8")
            assert (tmp_path / PROTO).with_name(name).read_text(encoding="utf-8") == checked_in, f"{name} is stale"


def test_importing_the_codec_does_not_import_protobuf():
    code = "import sys, llmservingsim.trace.chakra; sys.exit(any(m.startswith('google') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
