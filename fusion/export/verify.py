"""Comparison of an exported model in ONNX Runtime with its net, for two batch sizes, as the batch is left open."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusion.errors import ExportError
from fusion.nets.build import build, restrict_to_blobs
from fusion.nets.inputs import integer_noise, known_input_shapes, noise
from fusion.nets.weights import load_weights
from fusion.onnx.runtime import cast_input, inference_session, integer_dtype
from fusion.onnx.sidecar import read_pair
from fusion.verification.comparison import RTOL, Comparison, Difference, compare_arrays
from prototxt.schema.messages import NetParameter

Path = str | os.PathLike[str]


def verify_onnx(
    net: NetParameter,
    weights: Path | Mapping[str, Any],
    model: Path | bytes,
    *,
    batches: tuple[int, ...] = (1, 3),
    seed: int = 0,
    rtol: float = RTOL,
    inputs: Mapping[str, tuple[int | None, ...]] | None = None,
) -> Comparison:
    """Run the net and the model on the same noise and compare the model's outputs.

    net      a deploy net of phase TEST
    batches  sizes to try, where the model leaves the batch open
    inputs   shapes of the inputs where the net does not define them
    Raises: ExportError when the model's inputs or outputs are not those of the net, or ONNX Runtime cannot run it.
    """
    runtime = inference_session(model)
    arrays = weights if isinstance(weights, Mapping) else read_pair(weights)
    shapes = {
        item.name: tuple(dim if isinstance(dim, int) else None for dim in item.shape) for item in runtime.get_inputs()
    }
    shapes = _known(shapes, inputs or {})
    kinds = {item.name: item.type for item in runtime.get_inputs()}
    names = [item.name for item in runtime.get_outputs()]
    rows: list[Difference] = []
    for batch in batches if any(None in shape for shape in shapes.values()) else (0,):
        sizes = {name: tuple(batch if dim is None else dim for dim in shape) for name, shape in shapes.items()}
        fed = {name: noise(name, size, seed) if (kind := integer_dtype(kinds[name])) is None
               else integer_noise(name, size, seed, kind) for name, size in sizes.items()}  # fmt: skip
        expected = _expected(net, arrays, fed, names)
        arrays_fed = {name: cast_input(tensor.numpy(), kinds[name], name) for name, tensor in fed.items()}
        try:
            found = runtime.run(names, arrays_fed)
        except Exception as error:  # its exceptions have no base class of their own
            text = f"ONNX Runtime cannot run the model: {str(error).splitlines()[0]}"
            raise ExportError(text, place=None if isinstance(model, bytes) else os.fspath(model)) from error
        rows += [compare_arrays(_maker(net, name), name, expected[name], array)
                 for name, array in zip(names, found, strict=True)]  # fmt: skip
    label = "the exported model" if isinstance(model, bytes) else os.fspath(model)
    title = f"ONNX Runtime on {label} against the net, on noise with seed {seed}"
    return Comparison("onnx", title, tuple(rows), rtol=rtol)


def rounding(net: NetParameter, weights: Mapping[str, Any], seed: int = 0) -> float:
    """Return the largest difference of a deploy net's outputs on noise in float32 and float64, over the largest output.

    Deep nets whose weights are not trained can magnify the rounding of their first layers a thousand times.
    """
    built = build(net, seed=0)
    load_weights(built, weights)
    shapes = {name: [size or 1 for size in shape or ()] for name, shape in known_input_shapes(net).items()}
    fed = {name: noise(name, shape, seed) for name, shape in shapes.items()}
    with torch.no_grad():
        single = built(fed)
        double = built.double()({name: tensor.double() for name, tensor in fed.items()})
    return max(compare_arrays("", name, double[name].numpy(), single[name].numpy()).relative for name in double)


def _known(
    shapes: Mapping[str, tuple[int | None, ...]], given: Mapping[str, tuple[int | None, ...]]
) -> dict[str, tuple[int | None, ...]]:
    """Return the model's shapes, with open sizes after the batch filled in from `given`. Raises: ExportError."""
    found = {}
    for name, shape in shapes.items():
        known = given.get(name, shape)
        rest = [mine if mine is not None else other for mine, other in zip(shape[1:], known[1:], strict=False)]
        if None in rest:
            hint = f"give --input-shape {name}=1,3,224,224"
            raise ExportError(f"the model leaves the size of its input '{name}' open", hint=hint)
        found[name] = (*shape[:1], *rest)
    return found


def _expected(
    net: NetParameter, weights: Mapping[str, Any], fed: Mapping[str, torch.Tensor], names: list[str]
) -> dict[str, NDArray[np.float32]]:
    tops = {top for layer in net.layer for top in layer.top}
    unknown = [name for name in (*fed, *names) if name not in tops]
    if unknown:
        raise ExportError(f"the net has no blob {', '.join(map(repr, unknown))}", hint="compare an export of this net")
    built = build(net, shapes={name: tuple(tensor.shape) for name, tensor in fed.items()}, seed=0)
    load_weights(built, weights) if weights else None
    with torch.no_grad():
        out = restrict_to_blobs(built, names)(fed)
    return {name: out[name].numpy() for name in names}


def _maker(net: NetParameter, blob: str) -> str:
    return next((layer.name for layer in reversed(net.layer) if blob in layer.top), blob)
