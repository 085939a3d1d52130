"""The trained nets that a fused net takes its weights from: a file or arrays, and the net's prototxt if given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fusion.composition.folds import folds
from fusion.conversion.net_names import is_onnx_path, is_torch_net
from fusion.errors import FusionError, MergeError
from fusion.onnx.sidecar import MergedWeights, read_pair
from prototxt.errors import PrototxtError
from prototxt.formats.copy import FileSlice, LazyBlob, Payload
from prototxt.formats.index import Shape
from prototxt.formats.weights import Weights
from prototxt.schema.duplicate_names import check_layer_names
from prototxt.schema.load import load_net

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

Path: TypeAlias = "str | os.PathLike[str]"
Arrays: TypeAlias = "Mapping[str, Sequence[NDArray[Any]]]"
SourceLike: TypeAlias = "Path | Arrays | tuple[Path, Path]"


@dataclass(frozen=True, eq=False)
class MergeSource:
    """One opened source.

    label   its name in tables and errors: the path of the weights
    layers  the layers of its prototxt by name; None where none was given
    onnx    the path if the source is an ONNX file, else ""
    """

    prefix: str
    label: str
    weights: Arrays
    prototxt: str = ""
    layers: Mapping[str, LayerParameter] | None = None
    onnx: str = ""

    def own_name(self, fused: str) -> str:
        """Return the name in this source of the fused net's layer; the source's names may already have the prefix."""
        bare = fused.removeprefix(f"{self.prefix}/") if self.prefix else fused
        known = self.weights if self.layers is None else self.layers
        return fused if bare not in known and fused in known else bare

    def shapes(self, name: str) -> list[Shape]:
        """Return the shapes of a layer's blobs, without reading them."""
        file = self._file(name)
        if file is not None:
            return [blob.shape for blob in file.entry(name).blobs]
        return [tuple(np.shape(blob)) for blob in self.weights[name]]

    def blob_type(self, name: str) -> str:
        """Return the layer's type in the weights file, or ""."""
        file = self._file(name)
        return file.entry(name).type if file is not None else ""

    def payload(self, name: str, index: int, shape: Shape) -> Payload:
        """Return a blob to be written in `shape`: a byte range of the file where it has the blob as float32."""
        file = self._file(name)
        if file is None:
            return np.asarray(self.weights[name][index], np.float32).reshape(shape)
        blob = file.entry(name).blobs[index]
        if blob.copyable:  # float32 in one piece; others are converted when they are written
            return FileSlice(file.scan, blob, shape)
        return LazyBlob(shape, lambda: file.array(name, index).reshape(shape))

    def _file(self, name: str) -> Weights | None:
        """Return the file with the layer's blobs, the sidecar for those of Onnx layers; None for arrays."""
        if isinstance(self.weights, MergedWeights):
            return self.weights.file(name)
        return self.weights if isinstance(self.weights, Weights) else None


def expand_merge_sources(sources: Mapping[str, SourceLike]) -> dict[str, SourceLike]:
    """Expand patterns and folders of weights: the source `fold` becomes `fold1`, `fold2`, ...

    Raises: ComposeError, as `fusion.composition.folds.folds`.
    """
    found: dict[str, SourceLike] = {}
    for prefix, source in sources.items():
        if isinstance(source, Mapping):
            found[prefix] = source
            continue
        net, weights = source if isinstance(source, tuple) else (None, source)
        for one in folds(prefix, None if net is None else os.fspath(net), os.fspath(weights)):
            if one.net is None or one.weights is None:
                found[one.prefix] = one.weights or one.net or ""
            else:
                found[one.prefix] = (one.net, one.weights)
    return found


def open_merge_sources(sources: Mapping[str, SourceLike]) -> tuple[dict[str, MergeSource], list[MergeError]]:
    """Open the sources: by prefix, the longest first; and the errors of those that cannot be opened."""
    opened: dict[str, MergeSource] = {}
    errors: list[MergeError] = []
    # The longest first, so that "odd/a" takes its layers before "odd" does.
    for prefix in sorted(sources, key=lambda prefix: (-len(prefix), prefix)):
        clean = prefix.rstrip("/")
        try:
            opened[clean] = _opened(clean, sources[prefix])
        except (PrototxtError, FusionError) as error:
            errors += [MergeError(part.message, place=part.place, hint=part.hint) for part in error.errors]
        except OSError as error:
            errors.append(MergeError(f"{error.strerror}", place=str(error.filename), hint="check the path"))
    return opened, errors


def _opened(prefix: str, source: SourceLike) -> MergeSource:
    if not isinstance(source, (Mapping, tuple)) and is_torch_net(source):
        pair = f"{prefix}=FOLDER/{prefix}.prototxt:FOLDER/{prefix}.caffemodel"
        hint = f"give the file that composing wrote beside the fused net: {prefix}=FOLDER/{prefix}.onnx, or {pair}"
        raise MergeError(
            "the weights of a PyTorch net are merged from its converted form", place=str(source), hint=hint
        )
    if isinstance(source, Mapping):
        label = source.scan.path if isinstance(source, Weights) else f"arrays of '{prefix}'"
        return MergeSource(prefix, label, source)
    if not isinstance(source, tuple):
        if is_onnx_path(source):
            os.stat(source)
            return MergeSource(prefix, os.fspath(source), {}, onnx=os.fspath(source))
        return MergeSource(prefix, os.fspath(source), read_pair(source))
    prototxt, weights = (os.fspath(path) for path in source)
    net = load_net(prototxt)
    check_layer_names(net)
    return MergeSource(prefix, weights, read_pair(weights), prototxt, {layer.name: layer for layer in net.layer})
