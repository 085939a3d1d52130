"""The schema's three forms agree: the reference table, the .proto files, and what is compiled from them."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

import prototxt
from prototxt.schema import fork_messages, messages
from prototxt.schema.scalars import is_repeated, is_required

PACKAGE = Path(prototxt.__file__).parent / "schema"
TYPES = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
}
OWN = {"onnx_param": 9001, "pct_param": 9002, "weighted_sum_param": 9003, "gate_param": 9004, "in_step_with": 9005}


def label(field: FieldDescriptor) -> str:
    if is_repeated(field):
        return "repeated"
    return "required" if is_required(field) else "optional"


def type_name(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    return named.full_name.removeprefix("caffe.").removeprefix("forks.") if named else TYPES[field.type]


def default(field: FieldDescriptor) -> object:
    if not field.has_default_value:
        return ""
    if field.enum_type is not None:
        return field.enum_type.values_by_number[field.default_value].name
    return field.default_value


def read_default(text: str, field: FieldDescriptor) -> object:
    if text == "" or field.enum_type is not None:
        return text
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text.strip('"')
    return text == "true" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else pytest.approx(float(text))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restval=""))


def find_enum(name: str, package: str = "caffe") -> EnumDescriptor:
    return messages.POOL.FindEnumTypeByName(f"{package}.{name}")


def test_messages_are_those_of_caffe(reference: Path) -> None:
    table = rows(reference / "caffe" / "schema.tsv")
    seen: dict[str, set[str]] = {}
    for row in table:
        if row["message"].startswith("enum "):
            values = find_enum(row["message"].removeprefix("enum ")).values_by_name
            assert values[row["field"]].number == int(row["number"]), row
            continue
        field = messages.POOL.FindMessageTypeByName(f"caffe.{row['message']}").fields_by_name[row["field"]]
        assert field.number == int(row["number"]), row
        assert (label(field), type_name(field)) == (row["label"], row["type"])
        assert default(field) == read_default(row["default"], field), row
        assert bool(field.GetOptions().packed) == (row["options"] == "packed"), row
        seen.setdefault(row["message"], set()).add(field.name)
    for message, names in seen.items():
        extra = set(messages.POOL.FindMessageTypeByName(f"caffe.{message}").fields_by_name) - names
        assert extra == (set(OWN) if message == "LayerParameter" else set()), message


WIDENED = {("TransformationParameter", "resize_param")}  # one in SSD, several in other forks


def test_fork_fields_are_all_there(reference: Path) -> None:
    for row in rows(reference / "caffe" / "schema_forks.tsv"):
        if row["message"].startswith("enum "):
            values = find_enum(row["message"].removeprefix("enum "), "caffe.forks").values_by_name
            assert values[row["field"]].number == int(row["number"]), row
            continue
        message = messages.POOL.FindMessageTypeByName(f"caffe.forks.{row['message']}")
        field = message.fields_by_name[row["field"]]
        one = row["label"] if (row["message"], row["field"]) not in WIDENED else "repeated"
        assert (label(field), type_name(field)) == (one, row["type"])
        assert default(field) == read_default(row["default"], field), row


@pytest.mark.parametrize(("name", "number"), OWN.items())
def test_own_entries(name: str, number: int) -> None:
    assert messages.LayerParameter.DESCRIPTOR.fields_by_name[name].number == number


def test_what_is_generated_is_up_to_date(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools.protoc")
    code = (
        "import sys, pathlib; from prototxt.schema.generate import compile_schema\n"
        "folder, out = map(pathlib.Path, sys.argv[1:]); folder.mkdir(); out.mkdir()\n"
        "for name, content in compile_schema(folder).items(): (out / pathlib.Path(name).name).write_bytes(content)"
    )
    made = tmp_path / "made"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "work"), str(made)], check=True)
    for name in ("schema.binpb", "messages.pyi", "fork_messages.pyi"):
        new, kept = (made / Path(name).name).read_bytes(), (PACKAGE / name).read_bytes()
        if name.endswith(".binpb"):
            assert descriptors(new) == descriptors(kept), "run python -m prototxt.schema.generate"
        else:
            assert sorted(names(new)) == sorted(names(kept)), "run python -m prototxt.schema.generate"


def descriptors(data: bytes) -> object:
    from google.protobuf import descriptor_pb2

    return descriptor_pb2.FileDescriptorSet.FromString(data)


def names(stub: bytes) -> list[str]:
    """The stub's declarations; protoc's own imports and formatting change with its version."""
    lines = (line.strip() for line in stub.decode().splitlines())
    return [line.split(":")[0] for line in lines if line.startswith("class ") or (":" in line and "import" not in line)]


def test_a_users_own_caffe_pb2_does_not_clash() -> None:
    code = """
from google.protobuf import descriptor_pb2, descriptor_pool
other = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
other.message_type.add(name="NetParameter").field.add(name="name", number=7, label=1, type=9)
descriptor_pool.Default().AddSerializedFile(other.SerializeToString())
from prototxt.schema import messages
assert messages.NetParameter.DESCRIPTOR.fields_by_name["name"].number == 1
assert descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter").fields_by_name["name"].number == 7
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fork_messages_ride_in_the_messages_they_extend() -> None:
    for name, extension in fork_messages.DESCRIPTOR.extensions_by_name.items():
        assert extension.number == 20000, name
        assert extension.message_type.name == extension.containing_type.name
