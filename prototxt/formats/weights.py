"""Trained weights in any of Caffe's formats: layer name -> arrays, read on demand, written by the file's ending."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prototxt.errors import WeightsError
from prototxt.formats import caffemodel
from prototxt.formats.copy import FileSlice, LazyBlob, Payload, payload_bytes
from prototxt.formats.index import LayerEntry, Scan, Shape
from prototxt.formats.mmap_reader import Array, MmapReader
from prototxt.formats.scan import scan_weights

if TYPE_CHECKING:
    from prototxt.schema.messages import NetParameter

# Actual axes of blob 0 in files whose blobs all have four dims, or in C3D five.
_AXES = {"Convolution": 4, "Deconvolution": 4, "InnerProduct": 2, "Embed": 2, "Convolution3D": 5, "Deconvolution3D": 5}


class Weights(Mapping[str, list[Array]]):
    """A weights file as a mapping: layer name -> its blobs, float32 and read-only, in Caffe's order.

    It has only the layers with blobs. Each look-up makes new arrays (views of the file where possible), so that memory
    is used only for arrays in use. Blobs with the old four dims keep them: compare with
    `prototxt.formats.index.shape_fits`.
    """

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self._entries = scan.with_blobs()
        self._reader = _reader(scan)
        self._check_names()

    def __getitem__(self, name: str) -> list[Array]:
        return [self._reader.array(blob) for blob in self._entries[name].blobs]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def array(self, name: str, index: int) -> Array:
        """Read one blob of a layer."""
        blob: Array = self._reader.array(self._entries[name].blobs[index])
        return blob

    def entry(self, name: str) -> LayerEntry:
        """Return the layer's type and the shapes of its blobs, without reading values."""
        return self._entries[name]

    def _check_names(self) -> None:
        """Check that layers with the same name hold equal blobs, or one would be lost. Raises: WeightsError."""
        seen: dict[str, LayerEntry] = {}
        for entry in self.scan.entries if len(self._entries) < len(self.scan.entries) else ():
            if entry.blobs and (other := seen.setdefault(entry.name, entry)) is not entry:
                pairs = [[self._reader.array(blob) for blob in one.blobs] for one in (other, entry)]
                if len(pairs[0]) != len(pairs[1]) or not all(map(np.array_equal, *pairs)):
                    message = f"two layers named '{entry.name}' hold different weights, which are identified by name"
                    hint = "give one of them another name, in the net and in its weights (Caffe would load the last)"
                    raise WeightsError(message, place=self.scan.path, hint=hint)

    def __repr__(self) -> str:
        return f"<Weights {self.scan.path}: {len(self)} layers>"


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Open a .caffemodel (V0, V1, V2), .caffemodel.h5 or .safetensors file; values are read on demand.

    Raises: WeightsError with a remedy if the file is damaged or something else.
    """
    return Weights(scan_weights(path))


def _reader(scan: Scan) -> Any:
    if scan.format == "hdf5":
        from prototxt.formats import hdf5

        return hdf5.HDF5Reader(scan)
    return MmapReader(scan)


def write_weights(
    path: str | os.PathLike[str],
    weights: Mapping[str, Sequence[NDArray[Any]]],
    *,
    net: NetParameter | None = None,
) -> None:
    """Write weights atomically as .caffemodel (V2), .h5 or .safetensors, by the ending of `path`.

    weights  layer name -> arrays in Caffe's order; the result of `read_weights` is copied as bytes
    net      gives the order of the layers, their types, bottoms and tops; by default the order is that of `weights`
    Raises: WeightsError for another ending, a layer that `net` lacks, or a caffemodel over 2 GiB.
    """
    save_layers(path, layers_of(weights, net, os.fspath(path)), name=net.name if net is not None else "")


def layers_of(
    weights: Mapping[str, Sequence[NDArray[Any]]], net: NetParameter | None, place: str
) -> list[tuple[LayerEntry, Sequence[Payload]]]:
    """Return each layer to be written with its blobs, if any; blobs of `Weights` stay in their file."""
    if net is None:
        return [(_entry_of(weights, name), blobs_of(weights, name)) for name in weights]
    entries = {
        layer.name: LayerEntry(layer.name, layer.type, (), tuple(layer.bottom), tuple(layer.top)) for layer in net.layer
    }
    unknown = [name for name in weights if name not in entries]
    if unknown:
        names = ", ".join(f"'{name}'" for name in unknown[:10])
        hint = "give the net that the weights belong to, or leave these layers out"
        raise WeightsError(f"the net '{net.name}' has no layer {names}", place=place, hint=hint)
    return [(entry, blobs_of(weights, name) if name in weights else ()) for name, entry in entries.items()]


def _entry_of(weights: Mapping[str, Any], name: str) -> LayerEntry:
    return weights.entry(name) if isinstance(weights, Weights) else LayerEntry(name)


def blobs_of(weights: Mapping[str, Sequence[NDArray[Any]]], name: str) -> Sequence[Payload]:
    """Return a layer's blobs for writing: slices of the file if the bytes can be copied, else loaded when written."""
    if not isinstance(weights, Weights):
        return [np.asarray(blob) for blob in weights[name]]
    entry = weights.entry(name)
    shapes = [modern_shape(entry, index) for index in range(len(entry.blobs))]
    if all(blob.copyable for blob in entry.blobs):
        old = not entry.type
        return [
            FileSlice(weights.scan, blob, shape, old and blob.legacy)
            for blob, shape in zip(entry.blobs, shapes, strict=True)
        ]
    return [
        LazyBlob(shape, lambda index=index, shape=shape: weights.array(name, index).reshape(shape))  # type: ignore[misc]
        for index, shape in enumerate(shapes)
    ]


def modern_shape(entry: LayerEntry, index: int) -> Shape:
    """Return the current shape of a blob: old four dims lose the leading 1s that the layer's type does not have."""
    blob = entry.blobs[index]
    if not blob.legacy or not entry.type:
        return blob.shape
    axes = 1 if index else _AXES.get(entry.type, 1)
    cut = max(0, len(blob.shape) - axes)
    # A leading dim above 1 means that the type's number of axes does not hold for this blob: keep the dims.
    lead, tail = blob.shape[:cut], blob.shape[cut:]
    return tail if set(lead) <= {1} else blob.shape


def save_layers(
    path: str | os.PathLike[str],
    layers: Sequence[tuple[LayerEntry, Sequence[Payload]]],
    *,
    name: str = "",
    format: str | None = None,
    check: Callable[[Scan, Callable[[int, int], bytes]], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write layers in a format.

    format    "caffemodel", "hdf5" or "safetensors"; None: that of the file's ending
    check     called with the scan of the written file and a function (offset, count) -> bytes; if it raises, an older
              caffemodel of this name stays unchanged
    progress  called with the number of bytes of each written blob
    """
    place = os.fspath(path)
    kind = format or format_by_name(place)
    if kind == "caffemodel":
        least = sum(payload_bytes(blob) for _, blobs in layers for blob in blobs)
        caffemodel.check_size(place, least)
        with caffemodel.CaffemodelWriter(place, name, least=least) as writer:
            for entry, blobs in layers:
                writer.add_layer(entry.name, entry.type, entry.bottoms, entry.tops, blobs)
                if progress:
                    progress(sum(map(payload_bytes, blobs)))
            if check:
                check(writer.written(), writer.read)
        return
    if kind == "hdf5":
        from prototxt.formats import hdf5_writer

        hdf5_writer.write_hdf5(place, layers, progress)
    else:
        from prototxt.formats import safetensors

        safetensors.write_safetensors(place, layers, name=name, progress=progress)
    if check:
        with open(place, "rb") as file:
            check(scan_weights(place), lambda offset, count: os.pread(file.fileno(), count, offset))


def format_by_name(place: str) -> str:
    """Return the format for a file name.

    Raises: WeightsError for an unknown ending.
    """
    for ending, kind in ((".caffemodel", "caffemodel"), (".h5", "hdf5"), (".safetensors", "safetensors")):
        if place.lower().endswith(ending):
            return kind
    hint = "end the name in .caffemodel, .caffemodel.h5 or .safetensors"
    raise WeightsError("the format to write cannot be derived from the name", place=place, hint=hint)
