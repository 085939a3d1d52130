"""Nets for other runtimes: ONNX, written from the description itself and checked with ONNX Runtime.

    exported = to_onnx("deploy.prototxt", "net.caffemodel")
    exported.save("net.onnx")

Loaded on first use: writing needs `onnx`, checking torch and `onnxruntime`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from fusion.export.model import Exported as Exported, to_onnx as to_onnx
    from fusion.export.verify import verify_onnx as verify_onnx
else:
    __getattr__, __dir__ = lazy_exports(__name__)
