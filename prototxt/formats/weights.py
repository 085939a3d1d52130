"""Trained weights in any of Caffe's forms: layer name -> arrays, read when asked for, written by the file's name."""

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

# Axes of blob 0, when the blobs of all layers had four, or in C3D five.
_AXES = {"Convolution": 4, "Deconvolution": 4, "InnerProduct": 2, "Embed": 2, "Convolution3D": 5, "Deconvolution3D": 5}


class Weights(Mapping[str, list[Array]]):
    """A weights file as a mapping: layer name -> its blobs, float32 and read-only, in Caffe's order.

    Only layers that hold blobs are in it. Each look-up makes new arrays (views of the file where possible), so that
    what is not kept costs no memory. Blobs with the old four dims keep them: compare with
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
        """One blob of a layer, read alone."""
        blob: Array = self._reader.array(self._entries[name].blobs[index])
        return blob

    def entry(self, name: str) -> LayerEntry:
        """The layer's type and the shapes of its blobs, without reading values."""
        return self._entries[name]

    def _check_names(self) -> None:
        """Raises: WeightsError when two layers of one name hold different blobs, of which one would be lost."""
        seen: dict[str, LayerEntry] = {}
        for entry in self.scan.entries if len(self._entries) < len(self.scan.entries) else ():
            if entry.blobs and (other := seen.setdefault(entry.name, entry)) is not entry:
                pairs = [[self._reader.array(blob) for blob in one.blobs] for one in (other, entry)]
                if len(pairs[0]) != len(pairs[1]) or not all(map(np.array_equal, *pairs)):
                    what = f"two layers named '{entry.name}' hold different weights, and layers are told apart by name"
                    hint = "give one of them another name, in the net and in its weights (Caffe would load the last)"
                    raise WeightsError(what, place=self.scan.path, hint=hint)

    def __repr__(self) -> str:
        return f"<Weights {self.scan.path}: {len(self)} layers>"


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Open a .caffemodel (V0, V1, V2), .caffemodel.h5 or .safetensors file; no value is read before it is asked for.

    Raises: WeightsError when the file is damaged or something else, with what to do.
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
    """Write weights as .caffemodel (V2), .h5 or .safetensors, by the name of `path`; in place at once or not at all.

    weights  layer name -> arrays in Caffe's order; what `read_weights` gives is copied as bytes
    net      gives the order of the layers, their types, bottoms and tops; without it the order is that of `weights`
    Raises: WeightsError for a name with another ending, a layer that `net` lacks, or a caffemodel over 2 GiB.
    """
    save(path, layers_of(weights, net, os.fspath(path)), name=net.name if net is not None else "")


def layers_of(
    weights: Mapping[str, Sequence[NDArray[Any]]], net: NetParameter | None, place: str
) -> list[tuple[LayerEntry, Sequence[Payload]]]:
    """Each layer to be written, with its blobs or none; blobs of a lazy mapping stay in their file."""
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
    """A layer's blobs for writing: stretches of the file where the bytes can be copied, else read one by one."""
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
    """A blob's shape in today's form: old four dims lose the leading ones that the layer's type does not have."""
    blob = entry.blobs[index]
    if not blob.legacy or not entry.type:
        return blob.shape
    axes = 1 if index else _AXES.get(entry.type, 1)
    cut = max(0, len(blob.shape) - axes)
    lead, tail = blob.shape[:cut], blob.shape[cut:]
    return tail if set(lead) <= {1} else blob.shape


def save(
    path: str | os.PathLike[str],
    layers: Sequence[tuple[LayerEntry, Sequence[Payload]]],
    *,
    name: str = "",
    check: Callable[[Scan, Callable[[int, int], bytes]], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write layers in the format that the file's name asks for.

    check     called with the scan of what was written and a function (offset, count) -> bytes; what it raises leaves
              an older caffemodel of this name untouched
    progress  called with the number of bytes of each blob that was written
    """
    place = os.fspath(path)
    kind = format_by_name(place)
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
    """The format in which a file of this name is written.

    Raises: WeightsError when the name does not say.
    """
    for ending, kind in ((".caffemodel", "caffemodel"), (".h5", "hdf5"), (".safetensors", "safetensors")):
        if place.lower().endswith(ending):
            return kind
    hint = "end the name in .caffemodel, .caffemodel.h5 or .safetensors"
    raise WeightsError("the name does not say in which format to write", place=place, hint=hint)
