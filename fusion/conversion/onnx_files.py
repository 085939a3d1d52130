"""The ONNX file of a net: its own, or a temporary one that a PyTorch net is exported to."""

from __future__ import annotations

import os

from fusion.conversion.net_names import PathLike, is_torch_net


def onnx_path(name: PathLike, shape: tuple[int, ...] | None = None) -> str:
    """Return the ONNX file of a net: the file itself, or a temporary one that a PyTorch net is exported to.

    shape  C, H, W of a PyTorch net's input, where its own is not wanted
    Raises: OnnxError, WeightsMismatch, OSError for a PyTorch net that cannot be opened or exported.
    """
    if not is_torch_net(name):
        return os.fspath(name)
    from fusion.conversion.export_module import exported

    return exported(os.fspath(name), shape)
