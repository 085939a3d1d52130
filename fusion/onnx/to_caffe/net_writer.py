"""A Caffe net under construction: its layers, their weights, and the blob in which each ONNX value is found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fusion.onnx.graphs.graph import Graph
from prototxt.schema.messages import LayerParameter, NetParameter

# As in Caffe's own nets: layers that may overwrite their bottom, on top of layers whose gradient does not need it.
_IN_PLACE = frozenset(("BatchNorm", "Bias", "Dropout", "ELU", "PReLU", "ReLU", "Scale", "Sigmoid", "TanH"))
_OVERWRITABLE = frozenset(("BatchNorm", "Bias", "Convolution", "Deconvolution", "InnerProduct", "Scale"))
_PARAMETER = re.compile(r"(.+)[./](?:weight|bias|running_mean|running_var|gamma|beta)(?::\w+)?")
_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*(:\w+)?")


SCALE = "/scale"  # after the name of a BatchNorm: the Scale layer with its factors


class RefusedError(Exception):
    """Caffe has no layer for a node; the text is the reason."""


class NetWriter:
    """Collects layers.

    blobs    ONNX value -> blob that holds it
    weights  layer -> float32 arrays, as in a caffemodel
    forks    layer types that BVLC Caffe lacks -> the forks that have them
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.net = NetParameter(name=graph.name)
        self.blobs: dict[str, str] = {}
        self.weights: dict[str, list[NDArray[np.float32]]] = {}
        self.forks: dict[str, str] = {}
        self._names: set[str] = set()
        self._parameters: dict[str, tuple[str, ...]] = {}  # layer -> the module that it is, and its constants
        self._makers: dict[str, LayerParameter] = {}
        self._readers = Counter(name for node in graph.nodes for name in set(node.input))
        self._readers.update(graph.outputs)

    def dims(self, value: str) -> tuple[int, ...]:
        """Return a value's shape, the batch as 0. Raises: RefusedError where sizes are open."""
        dims = self.graph.shapes.get(value)
        if value in self.graph.constants:
            dims = self.graph.constants[value].shape
        if dims is None or None in dims[1:]:
            raise RefusedError(f"the size of '{value}' is not known; give --input-shape")
        if not dims:
            raise RefusedError(f"'{value}' is a single number")
        return tuple(0 if dim is None else dim for dim in dims)

    def blob(self, value: str) -> str:
        """Return the blob that holds a value. Raises: RefusedError for a constant."""
        if value not in self.blobs:
            raise RefusedError(f"it reads the constant '{value}' as a value")
        return self.blobs[value]

    def constant(self, value: str) -> NDArray[Any] | None:
        """Return the array of a constant, None for a value that is computed."""
        return self.graph.constants.get(value)

    def learns(self, value: str) -> bool:
        """Return whether a constant has the name of a module's parameter, so that training may change it."""
        return bool(_KEY.fullmatch(value)) and "." in value

    def single(self, value: str) -> bool:
        """Return whether one node reads a value, and nothing else."""
        return self._readers[value] == 1

    def maker(self, blob: str) -> LayerParameter | None:
        """Return the layer that wrote a blob last."""
        return self._makers.get(blob)

    def name(self, node: onnx.NodeProto) -> str:
        """Return a new layer's name: the module's path, from its parameters or the names that exporters give."""
        for value in node.input[1:]:
            if value in self.graph.constants and (found := _PARAMETER.fullmatch(value)):
                name = self.unique(found[1].replace(".", "/"))
                self._parameters[name] = (found[1], *node.input[1:])
                return name
        named = node.name.startswith("/")  # by torch's exporters: the module's path
        text = node.name if named else re.sub(r"_output_\d+$", "", node.output[0] or node.name)
        parts: list[str] = []
        for part in text.strip("/").split("/"):
            if parts and part.startswith(f"{parts[-1]}."):  # torch repeats the path of the parent: layer1/layer1.0
                parts.pop()
            parts.append(part)
        if len(parts) > 1 and parts[-1].partition("_")[0] == node.op_type:
            parts.pop()
        return self.unique("/".join(parts).replace(".", "/"))

    def unique(self, name: str) -> str:
        """Return the name, with a number appended where a layer has it."""
        free, count = name or "layer", 1
        while free in self._names:
            count += 1
            free = f"{name or 'layer'}_{count}"
        self._names.add(free)
        return free

    def layer(
        self,
        kind: str,
        name: str,
        bottoms: Sequence[str],
        tops: Sequence[str] = (),
        arrays: Sequence[NDArray[Any]] = (),
        *,
        learns: bool = True,
    ) -> LayerParameter:
        """Append a layer and return it, for its parameters to be set.

        name    one of `name` or `unique`; also the top, if there is none given
        arrays  its weights; without `learns` their learning rates are 0
        """
        layer: LayerParameter = self.net.layer.add(name=name, type=kind)
        layer.bottom[:] = bottoms
        layer.top[:] = tops or [name]
        if arrays:
            self.weights[name] = [np.ascontiguousarray(array, np.float32) for array in arrays]
            for _ in arrays if not learns else ():
                layer.param.add(lr_mult=0, decay_mult=0)
        self._makers.update(dict.fromkeys(layer.top, layer))
        return layer

    def step(self, kind: str, node: onnx.NodeProto, name: str, arrays: Sequence[NDArray[Any]] = (), *,
             bottom: str | None = None, learns: bool = True) -> LayerParameter:  # fmt: skip
        """Append the layer that computes a node from its first input (or from `bottom`), in place if safe."""
        given = self.blob(node.input[0]) if bottom is None else bottom
        below = self.maker(given)
        free = below is not None and (below.type in _OVERWRITABLE or (kind, below.type) == ("Dropout", "ReLU"))
        alone = all(self._readers[value] <= 1 for value, held in self.blobs.items() if held == given)
        top = given if kind in _IN_PLACE and free and alone else name
        self.blobs[node.output[0]] = top
        return self.layer(kind, name, [given], [top], arrays, learns=learns)

    def share_parameters(self) -> None:
        """Name the parameters of modules that are called several times, so that their layers share them."""
        layers: dict[tuple[str, ...], list[LayerParameter]] = {}
        for layer in self.net.layer:
            owner = layer.name if layer.name in self._parameters else layer.name.removesuffix(SCALE)
            if owner in self._parameters and layer.name in self.weights:
                layers.setdefault((layer.type, *self._parameters[owner]), []).append(layer)
        for (kind, module, *_), alike in layers.items():
            for layer in alike if len(alike) > 1 else ():
                for index in range(len(self.weights[layer.name])):
                    param = layer.param[index] if index < len(layer.param) else layer.param.add()
                    param.name = f"{module}{'.scale' if kind == 'Scale' else ''}.{index}"
                    if kind == "BatchNorm":  # Caffe takes no other rate for statistics
                        param.lr_mult = 0

    def name_outputs(self, names: Sequence[str]) -> None:
        """Give the blobs of the graph's outputs these names, and each output a blob of its own."""
        taken = {top for layer in self.net.layer if layer.type == "Input" for top in layer.top}
        for name, value in dict(zip(names, self.graph.outputs, strict=True)).items():
            blob = self.blobs[value]
            if blob != name:
                if blob in taken:
                    blob = self.unique(f"{name}/copy")
                    self.layer("Power", blob, [self.blobs[value]])  # (0 + 1 * x) ^ 1
                self._rename(name, self.unique(f"{name}/inner"))
                self._rename(blob, name)
            taken.add(name)

    def _rename(self, blob: str, name: str) -> None:
        for layer in self.net.layer:
            for blobs in (layer.bottom, layer.top):
                blobs[:] = [name if each == blob else each for each in blobs]
        self.blobs.update({value: name for value, held in self.blobs.items() if held == blob})

    def fork(self, layer: LayerParameter, origin: str) -> None:
        """Note that a layer's type is only in a fork of Caffe."""
        self.forks[layer.type] = origin
