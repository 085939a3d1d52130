"""Weights of `Onnx` layers, which a caffemodel cannot describe: they are in a safetensors file beside it.

    fused.caffemodel           the layers of Caffe; Onnx layers by name and type alone
    fused.onnx.safetensors     the weights of the Onnx layers, as <layer>/0, <layer>/1, ... in their graphs' order

The second is written first: if the first exists, the pair is complete. A .safetensors file holds all weights itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from fusion.errors import WeightsMismatch
from prototxt.formats import safetensors
from prototxt.formats.copy import Payload
from prototxt.formats.index import LayerEntry
from prototxt.formats.weights import Weights, format_by_name, layers_of, read_weights, save_layers

if TYPE_CHECKING:
    from prototxt.schema.messages import NetParameter

Path: TypeAlias = "str | os.PathLike[str]"
Planned: TypeAlias = "Sequence[tuple[LayerEntry, Sequence[Payload]]]"
ONNX = "Onnx"


def sidecar_path(path: Path) -> str | None:
    """Return the path of the file beside a weights file with the Onnx layers' weights; None for .safetensors."""
    place = os.fspath(path)
    if place.lower().endswith(".safetensors"):
        return None
    for ending in (".h5", ".caffemodel"):
        if place.lower().endswith(ending):
            place = place[: -len(ending)]
    return f"{place}.onnx.safetensors"


class MergedWeights(Mapping[str, "list[NDArray[Any]]"]):
    """Two weights files as one mapping; names of the first take precedence."""

    def __init__(self, first: Weights, second: Weights) -> None:
        self.first, self.second = first, second

    def file(self, name: str) -> Weights:
        """Return the file that a layer's blobs are taken from."""
        return self.first if name in self.first else self.second

    def __getitem__(self, name: str) -> list[NDArray[Any]]:
        return self.file(name)[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.first
        yield from (name for name in self.second if name not in self.first)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self.first or name in self.second


def read_pair(path: Path) -> Weights | MergedWeights:
    """Open a weights file together with its sidecar.

    Raises: WeightsMismatch when the file has Onnx layers and the sidecar is missing; WeightsError, OSError.
    """
    weights = read_weights(path)
    other = sidecar_path(path)
    bare = [entry.name for entry in weights.scan.entries if entry.type == ONNX and not entry.blobs]
    if other is None or not (bare or (weights.scan.format == "hdf5" and os.path.exists(other))):
        return weights
    if not os.path.exists(other):
        hint = f"the two files belong together: copy {os.path.basename(other)} as well, or merge again"
        message = f"the weights of its Onnx layers {', '.join(map(repr, bare))} are in {other}, which does not exist"
        raise WeightsMismatch(message, place=os.fspath(path), hint=hint)
    return MergedWeights(weights, read_weights(other))


def write_companion(
    path: Path,
    layers: Planned,
    *,
    name: str = "",
    format: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Planned:
    """Write the blobs of the Onnx layers beside `path`; return the layers for the file itself.

    layers  all layers of the net with their blobs
    format  of the file itself; None: that of its ending
    Raises: WeightsError for a name whose ending is no known format; OSError.
    """
    if format is None:
        format_by_name(os.fspath(path))
    other = sidecar_path(path)
    if other is None:
        return layers
    apart = [(entry, blobs) for entry, blobs in layers if entry.type == ONNX and blobs]
    if apart:
        safetensors.write_safetensors(other, apart, name=name, progress=progress)
    return [
        (entry, () if entry.type == ONNX else blobs)
        for entry, blobs in layers
        if entry.type != ONNX or blobs  # an Onnx layer without blobs in the file tells `read_pair` to open the sidecar
    ]


def write_pair(
    path: Path,
    weights: Mapping[str, Sequence[NDArray[Any]]],
    *,
    net: NetParameter | None = None,
    format: str | None = None,
) -> list[str]:
    """Write weights as `prototxt.write_weights` does, those of Onnx layers beside them; return the paths written.

    format  "caffemodel" or "hdf5"; None: that of the ending

    Raises: WeightsError, OSError.
    """
    name = net.name if net is not None else ""
    layers = layers_of(weights, net, os.fspath(path))
    save_layers(path, write_companion(path, layers, name=name, format=format), name=name, format=format)
    other = sidecar_path(path) if any(entry.type == ONNX and blobs for entry, blobs in layers) else None
    return [os.fspath(path), *([other] if other is not None else [])]
