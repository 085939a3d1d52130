"""Caffe's protobuf messages as classes: `NetParameter`, `LayerParameter`, `BlobProto`, ..., and the enum `Phase`.

They are built at import from the committed descriptor set, in a pool of their own: no generated code that needs one
version of protobuf, and no clash with a `caffe_pb2` in the same process. messages.pyi has their types.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

POOL = descriptor_pool.DescriptorPool()


def _load(path: Path) -> None:
    for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file:
        POOL.AddSerializedFile(file.SerializeToString())


def file_names(file: FileDescriptor) -> dict[str, object]:
    """Return the names that a generated module of the file would have: message classes, enums and their values."""
    names: dict[str, object] = {"DESCRIPTOR": file}
    for name, descriptor in file.message_types_by_name.items():
        names[name] = message_factory.GetMessageClass(descriptor)
    for name, enum in file.enum_types_by_name.items():
        names[name] = EnumTypeWrapper(enum)
        names.update((value.name, value.number) for value in enum.values)
    names.update(file.extensions_by_name)
    return names


_load(Path(__file__).parent / "schema.binpb")
globals().update(file_names(POOL.FindFileByName("caffe.proto")))
