"""The package of `caffe_pb2`, as in pycaffe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from fusion.pycaffe.proto import caffe_pb2 as caffe_pb2
else:
    __getattr__, __dir__ = lazy_exports(__name__)
