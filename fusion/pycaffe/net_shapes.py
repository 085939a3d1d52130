"""The shapes of a net's blobs after those of its inputs have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fusion.layers.pycaffe import Blob
from fusion.layers.python import PythonLayer
from fusion.nets.build import build_again
from fusion.pycaffe.errors import CaffeError
from fusion.pycaffe.layer import ModuleLayer, NetLayer
from fusion.stand_in import stand_in
from prototxt.shapes import infer
from prototxt.shapes.dimensions import is_known
from prototxt.shapes.special import python_shapes

if TYPE_CHECKING:
    from fusion.layers.registry import Phase
    from fusion.nets.graph import Net as Module
    from prototxt.schema.messages import LayerParameter, NetParameter
    from prototxt.shapes import NetShapes
    from prototxt.shapes.dimensions import Shape


class NetReshaper:
    """Gives the blobs of a net the shapes that follow from those of its data layers' tops.

    layers  of the net, in order; empty before they exist
    """

    def __init__(self, message: NetParameter, phase: Phase, module: Module, blobs: Mapping[str, Blob]) -> None:
        self.layers: Sequence[NetLayer] = ()
        self._message, self._phase, self._blobs = message, phase, blobs
        parts = (module.get_submodule(call.path) for call in module.plan.calls)
        self._python = [part.instance for part in parts if isinstance(part, PythonLayer)]
        self._data = [name for name, _ in module.plan.inputs]
        self._settled: list[tuple[int, ...]] = []
        self._shapes: NetShapes | None = None

    def settle(self) -> None:
        """Reshape where a top of a data layer has another shape than before."""
        if [self._blobs[name].shape for name in self._data] != self._settled:
            self.reshape()

    def reshape(self, shapes: Mapping[str, Sequence[int]] | None = None) -> None:
        """Reshape all blobs.

        shapes  of data layers' tops; others are as the net describes them. None: the present ones of all

        Raises: CaffeError for inputs that the parameters do not fit; prototxt's ShapeError.
        """
        if shapes is None:
            shapes = {name: self._blobs[name].shape for name in self._data}
        found = self._infer(shapes)
        for index, layer in enumerate(self.layers):
            _check_parameters(layer, found.params[index])
            changed = self._shapes is not None and found.bottoms[index] != self._shapes.bottoms[index]
            # Modules without parameters may keep sizes; an Onnx layer has parameters in its own file.
            if changed and isinstance(layer, ModuleLayer) and not layer.blobs and layer.type != "Onnx":
                layer.module = build_again(layer.ends.layer, found, index, self._phase)
        for name, shape in found.blobs.items():
            self._blobs[name].reshape(*(size or 1 for size in shape))
        for layer in self.layers:
            layer.fill_losses()
        self._shapes, self._settled = found, [self._blobs[name].shape for name in self._data]

    def _infer(self, shapes: Mapping[str, Sequence[int]]) -> NetShapes:
        waiting = iter(self._python)

        def ask(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
            instance = next(waiting)
            for blob, shape in zip(instance.bottoms, bottoms, strict=True):
                blob.reshape(*(size or 1 for size in shape))
            with stand_in():
                instance.user.reshape(instance.bottoms, instance.tops)
            return [top.shape for top in instance.tops], [blob.shape for blob in instance.user.blobs]

        token = python_shapes.set(ask)
        try:
            return infer(self._message, inputs=shapes)
        finally:
            python_shapes.reset(token)


def _check_parameters(layer: NetLayer, shapes: Sequence[Shape]) -> None:
    for index, (blob, shape) in enumerate(zip(layer.blobs, shapes, strict=False)):
        if is_known(shape) and blob.shape != tuple(shape):
            raise CaffeError(
                f"layer '{layer.name}': for these inputs its blob {index} would have the shape {tuple(shape)}, "
                f"but it has {blob.shape}",
                hint="inputs of another size need a net whose layers take them, such as convolutions",
            )
