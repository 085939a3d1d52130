from prototxt import messages as _caffe_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor
POOLING_FIELD_NUMBER: int
pooling: _descriptor.FieldDescriptor

class PoolingParameter(_message.Message):
    __slots__ = ("ceil_mode",)
    CEIL_MODE_FIELD_NUMBER: _ClassVar[int]
    ceil_mode: bool
    def __init__(self, ceil_mode: _Optional[bool] = ...) -> None: ...

class UnknownField(_message.Message):
    __slots__ = ("name", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...
