"""Nets for other runtimes: ONNX, written from the description itself and checked with ONNX Runtime.

    exported = to_onnx("deploy.prototxt", "net.caffemodel")
    exported.save("net.onnx")

Loaded on first use: writing needs `onnx`, checking torch and `onnxruntime`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.export.model import Exported, to_onnx
    from fusion.export.verify import verify_onnx

_HOMES = {"Exported": "model", "to_onnx": "model", "verify_onnx": "verify"}

__all__ = ["Exported", "to_onnx", "verify_onnx"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
