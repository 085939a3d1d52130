"""Matching of a fused net's blobs with the values of an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from onnx.helper import tensor_dtype_to_np_dtype
from torch import Tensor

from fusion.nets.graph import Net
from fusion.nets.inputs import integer_noise
from fusion.onnx.graphs import Graph, image_entries, load_graph
from fusion.onnx.graphs.layer_graph import layer_graph
from fusion.onnx.graphs.ml_operators import SCORES
from fusion.onnx.sidecar import ONNX
from prototxt.schema.messages import NetParameter


@dataclass(frozen=True)
class BranchValue:
    """A value of the net that an Onnx layer computes, and its counterpart in the file.

    then    maps the net's value to that of the file, where the file has not the same one
    inputs  the file's inputs, the values of the net that feed them, and whether the file takes channels last
    """

    layer: str
    top: str
    value: str
    inputs: tuple[tuple[str, str, bool], ...]
    then: Callable[[Tensor], Tensor] = Tensor.detach


def branch_values(
    message: NetParameter, net: Net, prefix: str, path: str | os.PathLike[str], without: Collection[str]
) -> list[BranchValue]:
    """Return the tops of the Onnx layers with this prefix, in the net's order. Raises: OnnxError.

    message  the net's description, of one phase
    """
    described = {layer.name: layer for layer in message.layer if layer.type == ONNX}
    starts = {value: (name, name != value) for name, value in image_entries(load_graph(path)).items()}
    starts.update({name: (name, False) for name in load_graph(path).inputs})
    calls = [call for call in net.plan.calls if call.type == ONNX and call.name not in without
             and (not prefix or call.name.startswith(f"{prefix}/"))]  # fmt: skip
    graphs = {call.name: layer_graph(described[call.name]) for call in calls}
    fed = {starts[name][0]: (value, starts[name][1]) for call in calls
           for name, value in zip(graphs[call.name].inputs, call.bottoms, strict=True) if name in starts}  # fmt: skip
    inputs = tuple((name, value, last) for name, (value, last) in fed.items())
    found = []
    for call in calls:
        names = list(described[call.name].onnx_param.output) or list(graphs[call.name].outputs)
        found += [_branch_value(call.name, top, name, inputs, graphs[call.name])
                  for top, name in zip(call.tops, names, strict=True)]  # fmt: skip
    return found


def _branch_value(
    layer: str, top: str, name: str, inputs: tuple[tuple[str, str, bool], ...], part: Graph
) -> BranchValue:
    """Return the match of a top; of scores that only the plain form has, with what the file computes from them."""
    if not name.endswith(SCORES):
        return BranchValue(layer, top, name, inputs)
    value = name.removesuffix(SCORES)
    maker = next((node.op_type for node in load_graph(part.place).nodes if value in node.output), "")
    activations: dict[str, Callable[[Tensor], Tensor]] = {"Sigmoid": torch.sigmoid, "Softmax": _softmax}
    then = activations.get(maker, torch.exp)
    return BranchValue(layer, top, value, inputs, then)


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(1)


def whole_numbers(
    path: str | os.PathLike[str], matches: Sequence[BranchValue], found: Mapping[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """Return noise for the values that feed integer inputs of the file.

    found  the values for other noise, for the shapes
    """
    types = load_graph(path).types
    kinds = {value: tensor_dtype_to_np_dtype(types[name]) for match in matches for name, value, _ in match.inputs
             if name in types}  # fmt: skip
    return {value: integer_noise(value, found[value].shape, seed, kind)
            for value, kind in kinds.items() if kind.kind in "iub"}  # fmt: skip
