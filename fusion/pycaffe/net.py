"""`caffe.Net`: a net whose blobs are memory that scripts read and write between its layers."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusion.layers.pycaffe import Blob, UserLayer
from fusion.layers.python import allowing_python
from fusion.nets.build import build
from fusion.nets.weights import load_weights, save_weights, share_weights
from fusion.pycaffe.batches import append_batch, count_rows, join_batches, padded_batches
from fusion.pycaffe.connections import connect
from fusion.pycaffe.errors import CaffeError, caffe_errors
from fusion.pycaffe.layer import NetLayer
from fusion.pycaffe.mode import device_name, next_seed
from fusion.pycaffe.net_shapes import NetReshaper
from fusion.pycaffe.open_layers import blob_names, net_inputs, net_outputs, open_layers
from fusion.pycaffe.sources import DataLayer, MemoryDataLayer, open_readers
from prototxt.errors import did_you_mean
from prototxt.schema.filter import filter_whole
from prototxt.schema.load import load_net

if TYPE_CHECKING:
    from fusion.layers.registry import Phase
    from fusion.nets.graph import Net as Module
    from prototxt.schema.messages import NetParameter

Path = str | os.PathLike[str]
Item = TypeVar("Item")
Values = dict[str, NDArray[Any]]
Hook = Callable[[int], object]


class ByName(OrderedDict[str, Item]):
    """Parts of a net by name, in Caffe's order; an unknown name is a KeyError with the nearest known one."""

    def __missing__(self, name: str) -> Item:
        hint = did_you_mean(str(name), self, f"known are {', '.join(self)}")
        raise KeyError(f"the net has no {name!r}: {hint}")


class Net:
    """A net of one phase, from a prototxt.

        Net("net.prototxt", caffe.TEST, level=0, stages=["deploy"], weights="trained.caffemodel")
        Net("net.prototxt", "trained.caffemodel", caffe.TEST)

    blobs       by name: `data` and `diff` are float32 arrays, the same memory as long as the shape fits into it
    params      by layer name: the blobs of the layer, whose `data` are the parameters themselves
    layers      each with `type` and `blobs`; a Python layer is the user's own object
    layer_dict  the same by name
    inputs      names of the blobs that Input layers make
    outputs     names of those that no layer reads, sorted
    top_names, bottom_names  names of blobs by layer name
    module      the net as a torch module on the same parameters

    Raises: CaffeError, a RuntimeError; a Python layer's own errors as they are.
    """

    def __init__(
        self,
        network_file: Path,
        *arguments: Any,
        phase: int | None = None,
        level: int = 0,
        stages: Sequence[str] | None = None,
        weights: Path | None = None,
    ) -> None:
        given: dict[str, Any] = {"phase": phase, "level": level, "stages": stages, "weights": weights}
        legacy = bool(arguments) and isinstance(arguments[0], (str, os.PathLike))
        order = ("weights", "phase") if legacy else tuple(given)
        if len(arguments) > len(order):
            raise TypeError(f"Net() takes these arguments: network_file, {', '.join(order)}")
        given.update(zip(order, arguments, strict=False))
        name = _phase_name(given["phase"])
        with caffe_errors():
            stages = tuple(given["stages"] or ())
            message = filter_whole(load_net(network_file), name, int(given["level"] or 0), stages)
            self._open(message, name, next_seed())
            if given["weights"] is not None:
                self.copy_from(given["weights"])

    @classmethod
    def of_message(cls, message: NetParameter, phase: Phase, seed: int) -> Net:
        """Return the net of a filtered description."""
        net = cls.__new__(cls)
        net._open(message, phase, seed)
        return net

    def _open(self, message: NetParameter, phase: Phase, seed: int | None) -> None:
        data_seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self.sources = open_readers(message, phase, data_seed)
        shapes = {top: shape for source in self.sources for top, shape in source.shapes.items()}
        with allowing_python():
            self.module: Module = build(message, phase, shapes=shapes, seed=seed)
        self.device = device_name()
        self.module.to(self.device)
        connections = connect(message, self.module.plan)
        self.blobs: OrderedDict[str, Blob] = ByName(
            (name, Blob(device=self.device)) for name in blob_names(connections)
        )
        self._reshaper = NetReshaper(message, phase, self.module, self.blobs)
        self._reshaper.reshape(shapes)
        self._layers = open_layers(message, connections, self.module, self.blobs, self.sources)
        self._reshaper.layers = self._layers
        self.layers: list[NetLayer | UserLayer] = [layer.shown for layer in self._layers]
        self._layer_names = [layer.name for layer in self._layers]
        self._blob_names = list(self.blobs)
        self.layer_dict = ByName(zip(self._layer_names, self.layers, strict=True))
        self.params = ByName((layer.name, layer.blobs) for layer in self._layers if layer.blobs)
        self.top_names = ByName((layer.name, list(layer.ends.tops)) for layer in self._layers)
        self.bottom_names = ByName((layer.name, list(layer.ends.bottoms)) for layer in self._layers)
        self.inputs, self.outputs = net_inputs(connections), net_outputs(connections)
        self._hooks: dict[str, list[Hook]] = {}

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """Return the weight of each blob in the loss, 0 for most."""
        weights = ByName((name, 0.0) for name in self.blobs)
        for layer in self._layers:
            weights.update(zip(layer.ends.tops, layer.ends.weights, strict=False))
        return weights

    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **inputs: ArrayLike
    ) -> Values:
        """Run the layers from `start` to `end`, both included; returns the net's outputs, or the tops of `end`.

        blobs   more blobs to return
        inputs  values to copy into the net's inputs first: all of them or none

        The returned arrays are the blobs' own memory.

        Raises: ValueError for a name that is no layer, other inputs than the net's, or another shape.
        """
        first = 0 if start is None else self._index(start)
        last = len(self._layers) - 1 if end is None else self._index(end)
        wanted = [*(self.outputs if end is None else self.top_names[end]), *(blobs or [])]
        if inputs:
            self._copy_in(inputs, self.inputs, "data")
        self.run_forward(first, last)
        return {name: self.blobs[name].data for name in wanted}

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **tops: ArrayLike
    ) -> Values:
        """Run the layers backward from `start` to `end`; returns the diffs of the inputs, or of the bottoms of `end`.

        diffs  blobs whose diffs are returned too
        tops   diffs to copy into the net's outputs first; without them those of losses are the loss weights

        The diffs of parameters are added to the present ones (`clear_param_diffs`), those of blobs replaced.

        Raises: ValueError as `forward`.
        """
        first = len(self._layers) - 1 if start is None else self._index(start)
        last = 0 if end is None else self._index(end)
        wanted = [*(self.inputs if end is None else self.bottom_names[end]), *(diffs or [])]
        if tops:
            self._copy_in(tops, self.outputs, "diff")
        self.run_backward(first, last)
        return {name: self.blobs[name].diff for name in wanted}

    def run_forward(self, start: int = 0, end: int | None = None) -> float:
        """Run the layers of these numbers, by default all; returns the loss."""
        loss, end = 0.0, len(self._layers) - 1 if end is None else end
        with caffe_errors():
            self._reshaper.settle()
            for index in range(start, end + 1):
                self._call_hooks("before_forward", index)
                loss += self._layers[index].forward()
                if self._layers[index].ends.call is None:  # a batch may have another shape than the one before
                    self._reshaper.settle()
                self._call_hooks("after_forward", index)
        return loss

    def run_backward(self, start: int | None = None, end: int = 0) -> None:
        """Run the layers of these numbers backward, by default all."""
        written: set[str] = set()
        with caffe_errors():
            for index in range(len(self._layers) - 1 if start is None else start, end - 1, -1):
                self._call_hooks("before_backward", index)
                self._layers[index].backward(written)
                self._call_hooks("after_backward", index)

    _forward, _backward = run_forward, run_backward  # the names in pycaffe, which scripts use too

    def forward_all(self, blobs: Sequence[str] | None = None, **inputs: ArrayLike) -> Values:
        """Run forward on arrays of any length, in batches; returns the outputs and `blobs` of all rows."""
        values: dict[str, list[NDArray[Any]]] = {}
        for batch in self._batches(inputs, self.inputs):
            append_batch(values, self.forward(blobs, None, None, **batch))
        return join_batches(values, self._padding(inputs))

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **arrays: ArrayLike
    ) -> tuple[Values, Values]:
        """Run forward and backward on arrays of any length, in batches.

        blobs, diffs  are returned besides the outputs and the diffs of the inputs
        arrays        values of inputs, and diffs of outputs
        """
        values: dict[str, list[NDArray[Any]]] = {}
        gradients: dict[str, list[NDArray[Any]]] = {}
        none: Values = {}
        below, above = (self._batches(arrays, names) for names in (self.inputs, self.outputs))
        for inputs, outputs in zip_longest(below, above, fillvalue=none):
            append_batch(values, self.forward(blobs, None, None, **inputs))
            append_batch(gradients, self.backward(diffs, None, None, **outputs))
        padding = self._padding(arrays)
        return join_batches(values, padding), join_batches(gradients, padding)

    def set_input_arrays(self, data: NDArray[Any], labels: NDArray[Any]) -> None:
        """Let the MemoryData layer, which must be the first, take its batches from these arrays.

        data    float32 [N, C, H, W], C contiguous, N a multiple of the batch size
        labels  float32 [N] or [N, 1, 1, 1]
        """
        first = self._layers[0]
        if not isinstance(first, MemoryDataLayer):
            raise CaffeError("set_input_arrays may only be called if the first layer is a MemoryData layer")
        if labels.ndim == 1:
            labels = np.ascontiguousarray(labels[:, np.newaxis, np.newaxis, np.newaxis])
        first.set_arrays(data, labels)

    def reshape(self) -> None:
        """Give all blobs the shapes that follow from those of the inputs. Raises: CaffeError where they do not fit."""
        with caffe_errors():
            self._reshaper.reshape()

    def clear_param_diffs(self) -> None:
        """Set the diffs of all parameters to 0."""
        for layer in self._layers:
            for blob in layer.blobs:
                blob.clear_gradients()

    def copy_from(self, path: Path) -> None:
        """Load a caffemodel, or an HDF5 or safetensors file, by layer name; other layers keep their parameters.

        Raises: CaffeError for a blob of another shape, or a file without any of the net's layers.
        """
        with caffe_errors():
            load_weights(self.module, path)
        self.note_update()

    def load_hdf5(self, path: Path) -> None:
        """Load an HDF5 file as `copy_from` does."""
        self.copy_from(path)

    def save(self, path: Path) -> None:
        """Write the parameters as a caffemodel, whatever the ending of the name."""
        self._save(path, "caffemodel")

    def save_hdf5(self, path: Path) -> None:
        """Write the parameters as HDF5."""
        self._save(path, "hdf5")

    def share_with(self, other: Net) -> None:
        """Use the parameters of the layers of the same names in another net; the diffs stay apart."""
        theirs = {layer.name: layer.blobs for layer in reversed(other._layers)}
        with caffe_errors():
            share_weights(self.module, other.module)
        for layer in self._layers:
            for own, blob in zip(layer.blobs, theirs.get(layer.name, ()), strict=False):
                own.share_values(blob)

    def before_forward(self, run: Hook) -> None:
        """Call `run` with the number of each layer before its forward pass."""
        self._hooks.setdefault("before_forward", []).append(run)

    def after_forward(self, run: Hook) -> None:
        """Call `run` with the number of each layer after its forward pass."""
        self._hooks.setdefault("after_forward", []).append(run)

    def before_backward(self, run: Hook) -> None:
        """Call `run` with the number of each layer before its backward pass."""
        self._hooks.setdefault("before_backward", []).append(run)

    def after_backward(self, run: Hook) -> None:
        """Call `run` with the number of each layer after its backward pass."""
        self._hooks.setdefault("after_backward", []).append(run)

    def _call_hooks(self, place: str, index: int) -> None:
        for run in self._hooks.get(place, ()):
            run(index)

    def _index(self, name: str) -> int:
        if name not in self._layer_names:
            hint = did_you_mean(name, self._layer_names, f"known are {', '.join(self._layer_names)}")
            raise ValueError(f"the net has no layer {name!r}: {hint}")
        return self._layer_names.index(name)

    def _copy_in(self, arrays: Mapping[str, ArrayLike], names: Sequence[str], part: str) -> None:
        """Copy arrays into the data or the diffs of these blobs, all of which must be given."""
        ends = "inputs" if part == "data" else "outputs"
        if set(arrays) != set(names):
            raise ValueError(f"the arrays {sorted(arrays)} do not match the net's {ends}, {names}")
        for name, given in arrays.items():
            rows, target = np.asarray(given), getattr(self.blobs[name], part)
            if rows.shape[:1] != target.shape[:1]:
                hint = f"reshape the blob first: net.blobs[{name!r}].reshape{rows.shape}"
                raise ValueError(f"'{name}' is not batch sized: {rows.shape} for {target.shape}; {hint}")
            try:
                target[...] = rows
            except ValueError as error:
                raise ValueError(f"'{name}': {error}") from error

    def _batches(self, arrays: Mapping[str, ArrayLike], names: Sequence[str]) -> Iterator[Values]:
        """Yield padded batches of the arrays with these names."""
        given = {name: np.asarray(arrays[name]) for name in names if name in arrays}
        return padded_batches(given, self._batch_size)

    @property
    def _batch_size(self) -> int:
        return next(iter(self.blobs.values())).shape[0]

    def _padding(self, arrays: Mapping[str, ArrayLike]) -> int:
        """Return the number of rows that fill the last batch. Raises: ValueError for names that are no ends."""
        unknown = set(arrays) - {*self.inputs, *self.outputs}
        if unknown or not arrays:
            raise ValueError(f"give arrays for inputs {self.inputs} or outputs {self.outputs}, not {sorted(unknown)}")
        return -count_rows({name: np.asarray(rows) for name, rows in arrays.items()}) % self._batch_size

    def _save(self, path: Path, format: str) -> None:
        self.synchronize()
        with caffe_errors():
            save_weights(self.module, path, format=format)

    def synchronize(self) -> None:
        """Bring a script's changes of parameters to the GPU."""
        for layer in self._layers:
            for blob in layer.blobs:
                blob.values.read()

    def note_update(self) -> None:
        """Note that the parameters have changed outside their blobs: on a GPU, NumPy's copies of them are old."""
        for layer in self._layers:
            for blob in layer.blobs:
                blob.values.overwrite()

    def find_parameters(self) -> None:
        """Use the present memory of the parameters, which has moved."""
        for layer in self._layers:
            for blob in layer.blobs:
                if blob.parameter is not None:
                    blob.use_parameter(blob.parameter)

    def seek(self, number: int) -> None:
        """Let the data layers continue with this batch."""
        for layer in self._layers:
            if isinstance(layer, DataLayer) and layer.batches is not None:
                layer.batches.position = number

    def close(self) -> None:
        """Stop reading ahead."""
        for layer in self._layers:
            if isinstance(layer, DataLayer) and layer.batches is not None:
                layer.batches.close()


def _phase_name(phase: object) -> Phase:
    if phase not in (0, 1):
        raise TypeError(f"Net() needs a phase, caffe.TRAIN or caffe.TEST, not {phase!r}")
    return "TEST" if phase else "TRAIN"
