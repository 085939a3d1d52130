"""The Python layer: a user's class, with Caffe's protocol of setup, reshape, forward and backward.

It runs the user's code, which must be allowed: `fusion.build(..., allow_python=True)`, `--allow-python` of the
commands, or FUSION_ALLOW_PYTHON=1 in the environment.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from fusion.errors import BuildError, FusionError, LayerCodeError, raise_all
from fusion.layers.pycaffe import TEST, TRAIN, Blob, Layer, UserLayer
from fusion.layers.registry import Context, Phase, layer
from fusion.layers.uncompiled import keep_from_compiler
from fusion.stand_in import stand_in
from prototxt.errors import ShapeError
from prototxt.shapes.dimensions import is_known
from prototxt.shapes.special import python_shapes

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter, NetParameter
    from prototxt.shapes.dimensions import Shape

VARIABLE = "FUSION_ALLOW_PYTHON"


@dataclass
class Instance:
    """A user's object with its blobs, set up but not yet in a module."""

    user: UserLayer
    bottoms: list[Blob]
    tops: list[Blob]


@dataclass
class _Session:
    """The building of one net: shape inference sets the layers up, the builders then take them in the same order."""

    phase: Phase
    waiting: dict[bytes, list[Instance]] = field(default_factory=dict)

    def shapes(self, layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
        """Return the shapes of tops and blobs after the user's `setup` and `reshape`."""
        if not all(is_known(shape) for shape in bottoms):
            raise ShapeError(
                "the sizes of its bottoms depend on data that is not known yet",
                hint="give the net's input shapes, e.g. shapes={'data': (1, 3, 224, 224)}",
            )
        try:
            instance = self._set_up(layer, [cast("tuple[int, ...]", shape) for shape in bottoms])
        except BuildError as error:
            raise ShapeError(error.message, hint=error.hint) from error
        self.waiting.setdefault(layer.SerializeToString(deterministic=True), []).append(instance)
        return [top.shape for top in instance.tops], [blob.shape for blob in instance.user.blobs]

    def take(self, layer: LayerParameter) -> Instance:
        """Return the instance that shape inference has set up for this layer."""
        # Messages have no identity across copies of the net, so equal layers are distinguished by their order alone.
        return self.waiting[layer.SerializeToString(deterministic=True)].pop(0)

    def _set_up(self, layer: LayerParameter, shapes: Sequence[tuple[int, ...]]) -> Instance:
        param = layer.python_param
        user = new_user_layer(param.module, param.layer)
        user.param_str, user.phase = param.param_str, TRAIN if self.phase == "TRAIN" else TEST
        bottoms, tops = [Blob(*shape) for shape in shapes], [Blob() for _ in layer.top]
        with stand_in(), _blame(layer.name, "setup"):
            user.setup(bottoms, tops)
            user.reshape(bottoms, tops)
        return Instance(user, bottoms, tops)


_session: ContextVar[_Session | None] = ContextVar("python_layers", default=None)
_allowing: ContextVar[bool] = ContextVar("allowing_python", default=False)


def allowed(allow: bool | None) -> bool:
    """Return whether Python layers may run: `allow`, or where it is None the block or the environment variable."""
    if allow is None:
        return _allowing.get() or os.environ.get(VARIABLE, "").lower() in ("1", "true", "yes")
    return allow


@contextmanager
def allowing_python() -> Iterator[None]:
    """Let Python layers run inside the block."""
    token = _allowing.set(True)
    try:
        yield
    finally:
        _allowing.reset(token)


@contextmanager
def python_layers(allow: bool, phase: Phase) -> Iterator[None]:
    """Let shape inference and builders run Python layers inside the block, if `allow`."""
    current = _Session(phase) if allow else None
    token = _session.set(current)
    shapes = python_shapes.set(current.shapes if current else None)
    try:
        yield
    finally:
        python_shapes.reset(shapes)
        _session.reset(token)


def new_user_layer(module: str, name: str) -> UserLayer:
    """Return a new instance of the class.

    Raises: BuildError for a module or class that does not exist or is not a layer.
    """
    with stand_in():
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:
            raise BuildError(
                f"module '{module}' of a Python layer: {error}", hint="put its folder into PYTHONPATH"
            ) from error
        kind = getattr(loaded, name, None)
        if not isinstance(kind, type) or not issubclass(kind, Layer):
            raise BuildError(
                f"module '{module}' has no class '{name}' that derives from caffe.Layer",
                hint="import it after fusion if it was imported with another caffe",
            )
        missing = [method for method in ("setup", "reshape", "forward") if not hasattr(kind, method)]
        if missing:
            raise BuildError(f"class '{name}' of module '{module}' has no {' and no '.join(missing)}")
        return cast("UserLayer", kind())


@contextmanager
def _blame(name: str, method: str) -> Iterator[None]:
    """Name the layer in any error of the user's code."""
    try:
        yield
    except FusionError:
        raise
    except Exception as error:
        raise LayerCodeError(f"layer '{name}': {method}: {type(error).__name__}: {error}") from error


class PythonLayer(nn.Module):
    """A user's object as a module; its blobs are parameters."""

    def __init__(self, instance: Instance, name: str) -> None:
        super().__init__()
        keep_from_compiler(PythonLayer)
        self.instance, self.name = instance, name
        self.caffe_params = tuple(f"blob{index}" for index in range(len(instance.user.blobs)))
        for attribute, blob in zip(self.caffe_params, instance.user.blobs, strict=True):
            setattr(self, attribute, nn.Parameter(blob.values.read().to(torch.get_default_device())))

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the user's forward on bottoms of any shapes."""
        parameters = [getattr(self, attribute) for attribute in self.caffe_params]
        tops: tuple[Tensor, ...] = _Run.apply(self, len(bottoms), *bottoms, *parameters)
        return tops[0] if len(tops) == 1 else tops


class _Run(torch.autograd.Function):
    """One forward of the user's object, and its backward with the values of that forward."""

    @staticmethod
    def forward(ctx: Any, module: PythonLayer, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map the first `count` tensors, the bottoms, and the blobs to the tops."""
        user, bottoms, tops = module.instance.user, module.instance.bottoms, module.instance.tops
        _set_values(bottoms, [_copy(tensor) for tensor in tensors[:count]])
        _set_values(user.blobs, tensors[count:])  # themselves: layers with running statistics update their blobs
        precision = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
        _set_values(tops, [torch.zeros(top.shape, dtype=precision, device="cpu") for top in tops])
        with stand_in(), _blame(module.name, "forward"):
            user.reshape(bottoms, tops)
            user.forward(bottoms, tops)
        for blob in user.blobs:
            blob.values.read()  # on a GPU, brings the user's changes there
        ctx.module, ctx.count, ctx.likes = module, count, tensors
        # Copies: the object has one set of blobs, which a later forward overwrites before this one's backward.
        ctx.values = [blob.values.read().clone() for blob in (*bottoms, *tops)]
        device = tensors[0].device if tensors else None
        return tuple(top.values.read().clone().to(device) for top in tops)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of bottoms and blobs."""
        count, needed = ctx.count, list(ctx.needs_input_grad[2:])
        user, bottoms, tops = ctx.module.instance.user, ctx.module.instance.bottoms, ctx.module.instance.tops
        _set_values((*bottoms, *tops, *user.blobs), (*ctx.values, *ctx.likes[count:]))
        for top, gradient in zip(tops, gradients, strict=True):
            top.set_gradients(_copy(gradient).to(top.values.read().dtype))
        if not hasattr(user, "backward"):
            raise FusionError(
                f"layer '{ctx.module.name}': its class has no backward", hint="define it, or propagate_down: false"
            )
        with stand_in(), _blame(ctx.module.name, "backward"):
            user.backward(tops, needed[:count], bottoms)
        results = [
            blob.gradients.read().clone().to(like) if need else None
            for blob, like, need in zip((*bottoms, *user.blobs), ctx.likes, needed, strict=True)
        ]
        return (None, None, *results)


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU, in float64 for float64, else in float32."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def _set_values(blobs: Sequence[Blob], tensors: Sequence[Tensor]) -> None:
    for blob, tensor in zip(blobs, tensors, strict=True):
        blob.set_values(tensor.detach())


def brings_data(layer: LayerParameter) -> bool:
    """Return whether this is a Python data layer that may not run: its tops are then inputs of the net."""
    return layer.type == "Python" and not layer.bottom and _session.get() is None


def check_data_layers(net: NetParameter) -> None:
    """Check that Python data layers of a training net may run. Raises: BuildError if not."""
    layers = [layer for layer in net.layer if layer.type == "Python" and not layer.bottom]
    raise_all([] if allowed(None) else [_refusal(layer) for layer in layers])


def _refusal(layer: LayerParameter) -> BuildError:
    param = layer.python_param
    return BuildError(
        f"layer '{layer.name}' runs Python code of its own, {param.module}.{param.layer}, which is not allowed",
        hint=f"if you trust it: fusion.build(..., allow_python=True), --allow-python, or {VARIABLE}=1",
    )


@layer("Python")
def _python(layer: LayerParameter, context: Context) -> nn.Module:
    current = _session.get()
    if current is None:
        raise _refusal(layer)
    return PythonLayer(current.take(layer), layer.name)
