"""PyTorch modules as ONNX files, by torch's own exporter, with the names and all parameters of the module."""

from __future__ import annotations

import atexit
import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fusion.conversion.net_names import net_files
from fusion.conversion.torch_nets import TorchNet, open_torch_net, quiet_torch
from fusion.errors import OnnxError

Array = NDArray[Any]
_RTOL = 1e-4  # of the largest output: two programs that compute the same in float32
_ROUNDINGS = 10  # the same factor of the module's own rounding: deep nets that are not trained magnify it


def export_module(net: TorchNet, path: str | os.PathLike[str]) -> None:
    """Write a net as an ONNX file, as it answers in eval mode: BatchNorm apart from its convolution, names kept.

    If onnxruntime is installed, the file's answers to noise are compared with the module's.
    Raises: OnnxError where torch cannot export the net, or the file answers differently; OSError.
    """
    if find_spec("onnxscript") is None:
        raise OnnxError(
            "exporting PyTorch nets needs onnxscript", place=net.name, hint="pip install caffe-fusion[pytorch]"
        )
    names = ["data"] if len(net.example) == 1 else None
    with _evaluating(net.module), quiet_torch():
        try:
            program = torch.onnx.export(net.module, net.example, dynamo=True, optimize=False, input_names=names)
        except Exception as error:  # the exporter raises errors of every kind, with pages of text
            text = str(error.__cause__ or error).strip().partition("\n")[0]
            hint = "write it as an ONNX file with torch.onnx.export in the way that suits it, and give that"
            raise OnnxError(f"torch cannot export it: {text}", place=net.name, hint=hint) from error
        if program is None:
            raise OnnxError("torch gives no ONNX model for it", place=net.name)
        program.save(os.fspath(path))
        _check(net, os.fspath(path))


def _check(net: TorchNet, path: str) -> None:
    """Compare the file with the module on noise. Raises: OnnxError if they differ."""
    if find_spec("onnxruntime") is None or not isinstance(net.module, nn.Module):
        return
    from fusion.onnx.runtime import inference_session

    noise = torch.Generator().manual_seed(0)
    fed = [torch.randn(one.shape, generator=noise) if one.is_floating_point() else one for one in net.example]
    session = inference_session(path)
    inputs = session.get_inputs()
    if len(inputs) != len(fed):
        raise OnnxError("one of its inputs is not used", place=net.name, hint="export the net without this input")
    found = session.run(None, {item.name: one.numpy() for item, one in zip(inputs, fed, strict=True)})
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in _tensors(net.module(*fed))]
    if not _agree(expected, found, [_RTOL] * len(found)) and not _agree(expected, found, _rounding(net, fed, expected)):
        hint = "its answers depend on chance or on data: write it as an ONNX file yourself"
        raise OnnxError("the exported net answers differently from the module", place=net.name, hint=hint)


def _agree(expected: Sequence[Array], found: Sequence[Array], tolerances: Sequence[float]) -> bool:
    """Return whether all outputs that both have agree within the tolerances, in units of the largest value."""
    return all(
        one.shape == other.shape and _difference(one, other) <= tolerance
        for one, other, tolerance in zip(expected, found, tolerances, strict=False)
    )


def _difference(one: Array, other: Array) -> float:
    scale = float(np.abs(other).max(initial=0)) or 1.0
    return float(np.abs(one - other).max(initial=0)) / scale


def _rounding(net: TorchNet, fed: Sequence[torch.Tensor], expected: Sequence[Array]) -> list[float]:
    """Return ten times the change of each output by rounding to float32, at most 1 %.

    0 where the answers depend on chance, or the module does not run in float64.
    """
    module = cast("nn.Module", net.module)  # exported programs are not compared
    double = [one.double() if one.is_floating_point() else one for one in fed]
    try:
        with torch.no_grad():
            again = [tensor.numpy() for tensor in _tensors(module(*fed))]
            exact = [tensor.numpy() for tensor in _tensors(copy.deepcopy(module).double()(*double))]
    except Exception:  # of the user's code
        return [0.0] * len(expected)
    if not all(map(np.array_equal, expected, again)):
        return [0.0] * len(expected)
    return [min(_ROUNDINGS * _difference(one, other), 0.01) for one, other in zip(expected, exact, strict=True)]


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


@contextlib.contextmanager
def _evaluating(module: object) -> Iterator[None]:
    """Put a module into eval mode, and each part of it back afterwards."""
    parts = [part for part in module.modules() if part.training] if isinstance(module, nn.Module) else []
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part in parts:
            part.training = True


def exported(text: str, shape: tuple[int, ...] | None) -> str:
    """Export a PyTorch net to a temporary ONNX file, once while its files are unchanged; return the path."""
    return _exported(text, shape, tuple((os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in net_files(text)))


@lru_cache(maxsize=8)
def _exported(text: str, shape: tuple[int, ...] | None, stamps: tuple[tuple[int, int], ...]) -> str:
    del stamps  # part of the key: a file that changes is exported again
    net = open_torch_net(text, shape)
    return temporary_onnx(net)


def module_onnx(module: nn.Module, example: torch.Tensor | tuple[torch.Tensor, ...] | None) -> str:
    """Export a module to a temporary ONNX file; return its path. Raises: OnnxError."""
    name = type(module).__name__
    if example is None:
        hint = "such as example=torch.zeros(1, 3, 224, 224)"
        raise OnnxError("a module is converted with an example of its input", place=name, hint=hint)
    return temporary_onnx(TorchNet(name, module, example if isinstance(example, tuple) else (example,)))


def temporary_onnx(net: TorchNet) -> str:
    """Export a net to a temporary file, which is removed when the process ends; return its path."""
    folder = tempfile.TemporaryDirectory(prefix="fusion-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / f"{net.name}.onnx"
    export_module(net, path)
    return str(path)
