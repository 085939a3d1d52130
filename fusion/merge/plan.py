"""The plan of a merge, layer by layer: a value that can be shown, compared and applied."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fusion.merge.sources import MergeSource
from prototxt.formats.index import Shape
from prototxt.schema.messages import LayerParameter
from prototxt.text.fold_notes import fold_notes

_MOST = 8  # blobs whose shapes are shown in one line; Caffe's layers have no more


@dataclass(frozen=True, slots=True)
class FromSource:
    """A blob that comes from a source."""

    prefix: str
    layer: str
    index: int


@dataclass(frozen=True, slots=True)
class FromFiller:
    """A blob with the initial value of `layer` in the fused net, which for a shared blob is another layer."""

    layer: str
    index: int
    filler: str


@dataclass(frozen=True, slots=True)
class FromOnnx:
    """A weight of an Onnx layer, from an ONNX file.

    name  of the weight in the file's graph
    """

    file: str
    layer: str
    index: int
    name: str


Origin: TypeAlias = "FromSource | FromFiller | FromOnnx"
ShapesAndOrigins = tuple[tuple[Shape, ...], tuple[Origin, ...]]  # of the blobs of one layer


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """One layer of the fused net with its blobs' shapes and origins, which most layer types have none of."""

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    shapes: tuple[Shape, ...] = ()
    origins: tuple[Origin, ...] = ()

    def shapes_text(self) -> str:
        """Return the shapes of the blobs as text; for the many of an ONNX graph, their count."""
        if len(self.shapes) > _MOST:
            return f"{len(self.shapes)} weights, {sum(map(math.prod, self.shapes)):,} values"
        return shapes_text(self.shapes)

    def origin_text(self) -> str:
        """Return the origins of the blobs as text."""
        words: dict[str, None] = {}  # in order, each once
        for origin in self.origins:
            if isinstance(origin, FromSource):
                words[f"{origin.prefix or 'source'}: {origin.layer}"] = None
            elif isinstance(origin, FromOnnx):
                words[origin.file] = None
            else:
                owner = f" (shared with {origin.layer})" if origin.layer != self.name else ""
                words[f"filled: {origin.filler}{owner}"] = None
        return ", ".join(words).replace(", filled: ", ", ")


@dataclass(frozen=True)
class MergePlan:
    """The input of `apply_merge`.

    name     of the fused net
    layers   in the net's order, each name once, also those without blobs
    unused   source prefix -> its layers with weights that the fused net does not have (normal after the cut)
    allowed  layers that start from their fillers although a source was expected to have them
    seed     of the fillers
    differing  layer -> settings other than in its source, such as a stride: the branch computes something else
    """

    name: str
    layers: tuple[PlannedLayer, ...]
    unused: dict[str, tuple[str, ...]]
    allowed: tuple[str, ...]
    seed: int
    sources: dict[str, MergeSource] = field(repr=False)
    messages: dict[str, LayerParameter] = field(repr=False)
    differing: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def filled(self) -> tuple[str, ...]:
        """Return the layers of which at least one blob starts from its filler."""
        return tuple(
            layer.name for layer in self.layers if any(isinstance(origin, FromFiller) for origin in layer.origins)
        )

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of all values."""
        return 4 * sum(math.prod(shape) for layer in self.layers for shape in layer.shapes)

    def table(self) -> str:
        """Return the plan as text: one line per layer with blobs, then the unused layers, then the sums."""
        rows = [("layer", "type", "blobs", "from")]
        rows += [(layer.name, layer.type, layer.shapes_text(), layer.origin_text()) for layer in self._with_blobs()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
        ]
        lines.insert(1, "-" * min(max(map(len, lines)), 120))
        for prefix, names in self.unused.items():
            if names:
                lines.append(f"not used of {prefix or 'source'} ({self.sources[prefix].label}): {', '.join(names)}")
        if self.allowed:
            lines.append(f"allowed to start from fillers: {', '.join(self.allowed)}")
        differing = fold_notes(("; ".join(words), name) for name, words in self.differing.items())
        lines += [f"warning: {note}" for note in differing]
        files = {origin.file for layer in self.layers for origin in layer.origins if isinstance(origin, FromOnnx)}
        origins = len({source.label for source in self.sources.values()} | files)
        count, filled = len(self._with_blobs()), len(self.filled)
        lines.append(
            f"{count} layers with {self.nbytes // 4:,} values ({self.nbytes / 1e6:.1f} MB): "
            f"{count - filled} from {origins} source{'s' * (origins != 1)}, {filled} filled with seed {self.seed}"
        )
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the plan as JSON, with the same content as the table."""
        layers = [
            {
                "name": layer.name,
                "type": layer.type,
                "blobs": [
                    {"shape": list(shape), **_origin_json(origin)}
                    for shape, origin in zip(layer.shapes, layer.origins, strict=True)
                ],
            }
            for layer in self._with_blobs()
        ]
        content = {
            "name": self.name,
            "seed": self.seed,
            "bytes": self.nbytes,
            "sources": {
                prefix: {"weights": source.label, "prototxt": source.prototxt or None}
                for prefix, source in sorted(self.sources.items())
            },
            "layers": layers,
            "unused": {prefix: list(names) for prefix, names in self.unused.items()},
            "allowed": list(self.allowed),
            "differing": {name: list(words) for name, words in self.differing.items()},
        }
        return json.dumps(content, indent=2)

    def _with_blobs(self) -> list[PlannedLayer]:
        return [layer for layer in self.layers if layer.shapes]


def shapes_text(shapes: Sequence[Sequence[int | None]]) -> str:
    """Return shapes as text: "20x1x5x5, 20"."""
    return ", ".join("x".join("?" if dim is None else str(dim) for dim in shape) or "scalar" for shape in shapes)


def _origin_json(origin: Origin) -> dict[str, object]:
    if isinstance(origin, FromOnnx):
        return {"onnx": origin.file, "weight": origin.name}
    if isinstance(origin, FromSource):
        return {"source": origin.prefix, "layer": origin.layer, "index": origin.index}
    return {"filled": origin.filler, "layer": origin.layer}
