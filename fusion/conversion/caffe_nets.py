"""ONNX files and PyTorch nets as Caffe nets, compared with the original before they are used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fusion.conversion.net_names import is_torch_net
from fusion.conversion.onnx_files import onnx_path
from fusion.errors import OnnxError
from fusion.onnx.graphs.normalize import load_graph
from fusion.onnx.graphs.read import read_graph
from fusion.onnx.to_caffe import CaffeNet, convert_graph

if TYPE_CHECKING:
    from torch import Tensor, nn

PathLike = str | os.PathLike[str]
_RTOL = 1e-4  # deep trained nets in torch and in ONNX Runtime differ by up to 2e-5 through rounding
_ROUNDINGS = 10  # the same as a factor of the net's own rounding, where that is large, but never more than 1 %


def to_caffe(
    source: PathLike | nn.Module,
    *,
    example: Tensor | tuple[Tensor, ...] | None = None,
    shapes: Mapping[str, tuple[int | None, ...]] | None = None,
    only_bvlc: bool = False,
) -> CaffeNet:
    """Convert an ONNX file or a PyTorch net to a Caffe net that computes the same.

    source     an ONNX file, the name of a PyTorch net such as `torchvision:resnet18:weights.pth`, or a module
    example    an input of the module, or a tuple of its inputs
    shapes     of inputs whose sizes after the batch are open in the file; for a PyTorch net: of its input `data`
    only_bvlc  refuse layers that BVLC Caffe lacks
    Raises: OnnxError listing all operators that Caffe's layers cannot express, with the values before the first one; or
    if ONNX Runtime is installed and the converted net's outputs differ by more than 1e-4 of the largest, or than ten
    times what rounding to float32 changes in the net, if that is more, or than 1 %.
    """
    path = _onnx_path(source, example, shapes)
    place = os.fspath(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    graph = replace(load_graph(path, shapes), place=place)
    made = convert_graph(graph, outputs=read_graph(path).outputs, only_bvlc=only_bvlc)
    if find_spec("onnxruntime") is None:
        return replace(made, notes=("not checked, since onnxruntime is not installed", *made.notes))
    from fusion.export.verify import rounding, verify_onnx

    found = verify_onnx(made.net, made.weights, path, rtol=_RTOL, inputs=shapes)
    said = f"within {found.largest:.1e} of ONNX Runtime's largest output"
    if found.first is not None:
        own = rounding(made.net, made.weights)
        if not found.largest <= min(_ROUNDINGS * own, 0.01):
            hint = "an operator is converted wrongly: use the net in its own form, and report it"
            text = (
                f"the converted net differs from it by {found.largest:.1e} of its largest output; nothing was written"
            )
            raise OnnxError(text, place=place, hint=hint)
        said += f" (rounding to float32 alone changes it by {own:.1e})"
    return replace(made, notes=(said, *made.notes))


def _onnx_path(source: PathLike | nn.Module, example: Tensor | tuple[Tensor, ...] | None,
               shapes: Mapping[str, tuple[int | None, ...]] | None) -> str:  # fmt: skip
    if isinstance(source, (str, os.PathLike)):
        given = next(iter((shapes or {}).values()), ())[1:]
        sizes = tuple(size for size in given if size is not None)
        if is_torch_net(source) and len(sizes) < len(given):
            raise OnnxError("a PyTorch net is converted for one size of its input", place=os.fspath(source),
                            hint="give all sizes after the batch")  # fmt: skip
        return onnx_path(source, sizes or None)
    from fusion.conversion.export_module import module_onnx

    return module_onnx(source, example)
