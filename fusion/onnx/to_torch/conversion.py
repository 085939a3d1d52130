"""Conversion of a graph in its plain form to a torch.fx.GraphModule, with the paths of every weight in it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn

from fusion.errors import OnnxError, raise_all
from fusion.onnx.graphs import Graph, check_support, graph_weights, to_model
from fusion.onnx.graphs.graph import OWN, attributes, make_node
from fusion.onnx.graphs.support import REPLACED

_INITIALIZERS = "initializers"


def to_module(graph: Graph) -> tuple[fx.GraphModule, dict[str, list[str]]]:
    """Return a module that takes the graph's inputs in order, and the paths of each weight in it.

    Raises: OnnxError listing all that cannot be converted.
    """
    check_support(graph)
    model = to_model(_static(_with_ends(graph)))
    module = _converted(model, graph)
    return module, _places(module, model, graph)


def _with_ends(graph: Graph) -> Graph:
    """Return the graph with an Identity node for each output: onnx2torch returns nodes, not values."""
    names = [f"output {index}" for index in range(len(graph.outputs))]
    ends = [make_node("Identity", [value], [name]) for value, name in zip(graph.outputs, names, strict=True)]
    known = {name: dims for value, name in zip(graph.outputs, names, strict=True)
             if (dims := graph.shapes.get(value)) is not None}  # fmt: skip
    types = {name: graph.types[value] for value, name in zip(graph.outputs, names, strict=True) if value in graph.types}
    return replace(graph, nodes=(*graph.nodes, *ends), outputs=tuple(names), shapes={**graph.shapes, **known},
                   types={**graph.types, **types})  # fmt: skip


def _static(graph: Graph) -> Graph:
    """Return the graph with operators that we convert ourselves in our domain, and Reshape targets as attributes."""
    nodes = []
    for node in graph.nodes:
        target = graph.constants.get(node.input[1]) if node.op_type == "Reshape" and not node.domain else None
        if target is not None:
            sizes = [int(size) for size in target]
            node = make_node(
                "Reshape", node.input[:1], node.output, domain=OWN, shape=sizes or None, scalar=int(not sizes)
            )
        elif node.op_type in REPLACED and not node.domain and not _is_plain(graph, node):
            node = make_node(node.op_type, node.input, node.output, domain=OWN, **attributes(node))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _is_plain(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return whether onnx2torch's own module, which owns the weights, is correct: plain convolutions and Gemm."""
    values, pads = attributes(node), attributes(node).get("pads", ())
    if node.op_type == "Gemm" and len(node.input) > 2 and graph.constants.get(node.input[2], np.empty(0)).ndim != 1:
        return False
    plain = (
        node.op_type == "Conv"
        or (node.op_type == "Gemm" and not values.get("transA"))
        or (
            node.op_type == "ConvTranspose"
            and not values.get("output_shape")
            and values.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
            and list(pads[: len(pads) // 2]) == list(pads[len(pads) // 2 :])
        )
    )
    return plain and all(name in graph.constants for name in node.input[1:] if name)


def _converted(model: onnx.ModelProto, graph: Graph) -> fx.GraphModule:
    with warnings.catch_warnings(), torch.device("cpu"):
        warnings.simplefilter("ignore")  # onnx2torch warns about Resize; modes that are not exact are refused earlier
        import onnx2torch

        import fusion.onnx.to_torch.converters  # noqa: F401 - fills its registry

        try:
            module: fx.GraphModule = onnx2torch.convert(model, attach_onnx_mapping=True)
        except Exception as error:
            raise_all(list(_refusals(model, graph)))
            hint = "cut the net before that operator, or export it in another way"
            reason = f"{type(error).__name__}: {error}"
            raise OnnxError(f"onnx2torch cannot convert it: {reason}", place=graph.place, hint=hint) from error
    return module


def _refusals(model: onnx.ModelProto, graph: Graph) -> Iterator[OnnxError]:
    """Yield an error for every node that its converter refuses."""
    from onnx2torch.node_converters import get_converter
    from onnx2torch.onnx_graph import OnnxGraph

    versions = {item.domain: item.version for item in model.opset_import}
    whole = OnnxGraph(model.graph)
    for node in whole.nodes.values():
        try:
            get_converter(node.operation_type, versions[node.domain], node.domain)(node, whole)
        except Exception as error:
            message = f"node '{node.output_values[0]}' ({node.operation_type}) cannot be converted: {error}"
            yield OnnxError(message, place=graph.place, hint="cut the net before it, or export it in another way")


def _places(module: fx.GraphModule, model: onnx.ModelProto, graph: Graph) -> dict[str, list[str]]:
    """Return weight -> paths of its tensors, by the order of each node's inputs and by value.

    Raises: OnnxError when a weight is not found.
    """
    arrays = graph_weights(graph)
    found: dict[str, list[str]] = {name: [] for name in arrays}
    count = 0  # onnx2torch numbers the initializers that its modules do not own, in the order of the nodes
    makers = {output for node in model.graph.node for output in node.output}
    inputs = {value.name for value in model.graph.input}
    for node in model.graph.node:
        domain = f"{node.domain}/" if node.domain else ""
        path = f"{domain}{node.name}"
        part = module.get_submodule(path)
        own = [name for name in node.input if name in arrays]
        for tensor_path, tensor in _tensors(part):
            match = next((name for name in own if _equal(tensor, arrays[name])), None)
            if match is not None:
                own.remove(match)
                found[match].append(f"{path}.{tensor_path}")
        mapped: Any = part.onnx_mapping
        for name in mapped.inputs:
            if name and name not in makers and name not in inputs:
                if name in arrays:
                    found[name].append(f"{_INITIALIZERS}.onnx_initializer_{count}")
                count += 1
    lost = [name for name, paths in found.items() if not paths]
    if lost:
        raise OnnxError(f"onnx2torch lost the weights {', '.join(lost[:5])}", place=graph.place)
    return found


def _tensors(part: nn.Module) -> list[tuple[str, Tensor]]:
    tensors = [*part.named_parameters(), *part.named_buffers()]
    order = {name: index for index, name in enumerate(("weight", "bias", "running_mean", "running_var"))}
    floats = [(name, tensor) for name, tensor in tensors if tensor.dtype == torch.float32]
    return sorted(floats, key=lambda pair: order.get(pair[0].rpartition(".")[2], 0))


def _equal(tensor: Tensor, array: np.ndarray[Any, Any]) -> bool:
    return tuple(tensor.shape) == array.shape and bool(np.array_equal(tensor.detach().numpy(), array, equal_nan=True))


def weight_at(module: nn.Module, path: str) -> Tensor:
    """Return the parameter or buffer at a dotted path."""
    folder, _, attribute = path.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(folder), attribute)
    return tensor


def assign_tensor(module: nn.Module, places: Mapping[str, list[str]], name: str, tensor: Tensor) -> None:
    """Assign a parameter or a buffer to all paths of a weight."""
    for path in places[name]:
        folder, _, attribute = path.rpartition(".")
        owner = module.get_submodule(folder)
        owner._parameters.pop(attribute, None)
        owner._buffers.pop(attribute, None)
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(attribute, tensor)
        else:
            owner.register_buffer(attribute, tensor)
