"""Caffe's messages as in the `caffe_pb2` of a fork that has the fields of all forks, with `google.protobuf` as usual.

    net = caffe_pb2.NetParameter()
    text_format.Merge(open("ssd.prototxt").read(), net)
    net.layer[0].permute_param.order

The toolkit keeps the fields of forks apart from Caffe's (`prototxt.schema.forks`); scripts know them as fields of their
own, so this is a second pool of descriptors, made from the same two files. Forks number their fields in ways that
clash; here each has a number that no fork uses. Text is thus read and written like a fork's, and of a fork's binary
files all that is Caffe's: names, types, blobs. Where a fork widens a field of Caffe's, Caffe's is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from prototxt.schema import fork_messages, messages

_FIRST_NUMBER = 21_000  # of the forks' fields, after protobuf's own range and the extension that holds them elsewhere

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


def _whole_schema() -> FileDescriptorProto:
    """Return Caffe's file with the forks' messages, and the forks' fields in the messages that they extend."""
    caffe, forks = FileDescriptorProto(), FileDescriptorProto()
    messages.DESCRIPTOR.CopyToProto(caffe)
    fork_messages.DESCRIPTOR.CopyToProto(forks)
    known = {message.name: message for message in caffe.message_type}
    for message in caffe.message_type:
        message.ClearField("extension_range")
    for message in forks.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".caffe.forks.", ".caffe.")
        if message.name in known:
            _add_fields(known[message.name], message)
        else:
            caffe.message_type.append(message)
    caffe.enum_type.extend(forks.enum_type)
    return caffe


def _add_fields(caffe: DescriptorProto, fork: DescriptorProto) -> None:
    names = {field.name for field in caffe.field}
    for field in fork.field:
        if field.name not in names:
            added: FieldDescriptorProto = caffe.field.add()
            added.CopyFrom(field)
            added.number += _FIRST_NUMBER
    enums = {enum.name for enum in caffe.enum_type}
    caffe.enum_type.extend(enum for enum in fork.enum_type if enum.name not in enums)
    caffe.nested_type.extend(fork.nested_type)


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_whole_schema().SerializeToString())
globals().update(messages.file_names(_pool.FindFileByName("caffe.proto")))
