"""Prepare the branches' features for joining: maps of one size, projected to one width, on one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fusion.composition.net_text import format_layer
from fusion.composition.options import ComposeOptions
from fusion.errors import ComposeError

Shape = tuple[int | None, ...]
Shapes = Mapping[str, Shape]  # of blobs
MAPS: Final = ("pool", "upsample", "levels")
_MAP: Final = 4  # axes of a map: Caffe's Pooling takes no others
_GLOBAL = "pooling_param { pool: AVE global_pooling: true }"


def size_from(shape: Shape | None, axis: int) -> int | None:
    """Return the number of values along the axes from `axis` on; None if it is not known."""
    dims = [dim for dim in shape[axis:] if dim is not None] if shape is not None else []
    return math.prod(dims) if shape is not None and len(dims) == len(shape[axis:]) else None


@dataclass(frozen=True)
class Features:
    """A blob to be joined.

    stem   begins the names of the layers that the head puts on it
    shape  None if not even its rank is known
    level  its index among the cuts of its source
    steps  whether it is a sequence [steps, streams, values], each step of which is scored
    """

    stem: str
    blob: str
    shape: Shape | None
    level: int = 0
    steps: bool = False

    @property
    def width(self) -> int | None:
        """Return the values per sample, or per step of a sequence; None if unknown."""
        return size_from(self.shape or None, self.axis)

    @property
    def axis(self) -> int:
        """Return the axis of its values."""
        return 2 if self.steps else 1

    @property
    def is_map(self) -> bool:
        """Return whether it has a height and a width, over which Pooling can average."""
        return self.shape is not None and len(self.shape) == _MAP


@dataclass(frozen=True)
class HeadRequest:
    """The inputs and settings of a head.

    features    the cut blobs
    classifiers names of the layers and blobs with scores -> the number of scores
    joined      name of the blob that holds all features
    options     those of the fusion, of which heads use hidden, project, batch_norm and maps
    positions   whether every position of the maps is scored by itself
    steps       whether every step of the sequences is scored by itself
    scores      per source its blob with class scores, and the fused classes that these stand for
    shares      of the sources in an ensemble; 1 for those that it lacks
    """

    features: Sequence[Features]
    classifiers: Mapping[str, int]
    joined: str
    options: ComposeOptions
    positions: bool = False
    steps: bool = False
    scores: Mapping[str, tuple[str, Sequence[int]]] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the classifiers' names."""
        return tuple(self.classifiers)

    @property
    def classifier(self) -> str:
        """Return the name of the only classifier, or the first."""
        return next(iter(self.classifiers))

    @property
    def num_output(self) -> int:
        """Return the number of scores of that classifier."""
        return next(iter(self.classifiers.values()))


@dataclass(frozen=True)
class PreparedFeatures:
    """The prepared blobs, the layers that make them as text, and notes."""

    features: tuple[Features, ...]
    text: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def prepare_features(features: Sequence[Features], request: HeadRequest, *, equal: bool) -> PreparedFeatures:
    """Return blobs that a Concat along axis 1 can join, or, if `equal`, an Eltwise. Raises: ComposeError."""
    sized = _upsample(features) if request.options.maps == "upsample" else _pool_if_sizes_differ(features, request)
    width = _projection_width(sized.features, request, equal)
    if width is not None:
        done = [_project(item, width, request.options.batch_norm) for item in sized.features]
        widths = [_channels(item) for item in sized.features]
        notes = [f"head: features of widths {', '.join(map(str, widths))} are each projected to {width}"]
    elif request.options.batch_norm:
        done = [_normalize(item) for item in sized.features]
        notes = []
    else:
        return sized
    if request.options.batch_norm:
        notes.append("head: each source's features are normalised by a BatchNorm of their own, which learns")
    text = [piece for _, pieces in done for piece in pieces]
    return PreparedFeatures(tuple(item for item, _ in done), (*sized.text, *text), (*sized.notes, *notes))


def global_average_pool(item: Features) -> tuple[Features, list[str]]:
    """Return the mean of a map over its positions, as a row per sample, and the layers that compute it."""
    shape = item.shape or (None, None)
    pool, flat = f"{item.stem}_pooled", f"{item.stem}_flat"
    text = [format_layer(pool, "Pooling", [item.blob], [pool], _GLOBAL), format_layer(flat, "Flatten", [pool], [flat])]
    return Features(item.stem, flat, shape[:2], item.level), text


def format_shape(shape: Shape) -> str:
    """Return a shape in the form `?x3x8x8`."""
    return "x".join("?" if dim is None else str(dim) for dim in shape)


def _pool_if_sizes_differ(features: Sequence[Features], request: HeadRequest) -> PreparedFeatures:
    """Average maps over their positions where sizes differ. Raises: ComposeError where positions are to be scored."""
    unknown = [item for item in features if item.shape is None]
    notes = [f"head: the shape of '{item.blob}' is not known; it is joined as it is" for item in unknown]
    if len({item.shape[2:] for item in features if item.shape is not None}) < 2 or features[0].steps:
        return PreparedFeatures(tuple(features), (), tuple(notes))
    unjoinable = [item for item in features if item.shape is not None and len(item.shape) not in (2, _MAP)]
    if unjoinable:
        shapes = ", ".join(f"'{item.blob}' {format_shape(item.shape)}" for item in features if item.shape is not None)
        message = f"features of different shapes cannot be joined: {shapes}; averaging takes maps of 4 axes"
        raise ComposeError(message, hint="cut all sources at rows or maps (@BLOB), or where the shapes are alike")
    if request.positions:
        sizes = ", ".join(f"'{item.blob}' {format_shape(item.shape or ())}" for item in features)
        message = f"every position is scored by itself, and the maps differ in size: {sizes}"
        raise ComposeError(message, hint="bring them to one size (--maps upsample), or cut where they are alike")
    found, text = [], []
    for item in features:
        if item.is_map:
            notes.append(f"head: '{item.blob}' {format_shape(item.shape or ())} is averaged over its positions")
            item, pieces = global_average_pool(item)
            text += pieces
        found.append(item)
    return PreparedFeatures(tuple(found), tuple(text), tuple(notes))


def _upsample(features: Sequence[Features]) -> PreparedFeatures:
    """Upsample all maps to the largest, by bilinear interpolation with whole factors. Raises: ComposeError."""
    sizes = [_size(item) for item in features]
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    found, text, notes = [], [], []
    for item, size in zip(features, sizes, strict=True):
        factor = height // size[0]
        if (size[0] * factor, size[1] * factor) != (height, width):
            raise ComposeError(
                f"maps of {size[0]}x{size[1]} ('{item.blob}') cannot be brought to {height}x{width} by a whole factor",
                hint="cut where the sizes are multiples of each other, or let maps be pooled (--maps pool)",
            )
        if factor > 1:
            top = f"{item.stem}_upsampled"
            text.append(_interpolation(top, item, factor))
            notes.append(f"head: '{item.blob}' {format_shape(item.shape or ())} is upsampled {factor} times")
            item = Features(item.stem, top, (*(item.shape or ())[:2], height, width), item.level)
        found.append(item)
    return PreparedFeatures(tuple(found), tuple(text), tuple(notes))


def _size(item: Features) -> tuple[int, int]:
    shape = item.shape or ()
    if len(shape) != 4 or shape[1] is None or shape[2] is None or shape[3] is None:
        is_map = len(shape) in (0, 4)  # () is an unknown shape
        reason = f"the size of '{item.blob}' is unknown" if is_map else f"'{item.blob}' {format_shape(shape)} is no map"
        raise ComposeError(
            f"maps cannot be upsampled: {reason}",
            hint="cut all sources at maps, give --input-shape C,H,W, or let maps be pooled (--maps pool)",
        )
    return shape[2], shape[3]


def _interpolation(name: str, item: Features, factor: int) -> str:
    """Return a frozen Deconvolution that upsamples bilinearly, with the settings that Caffe documents for it."""
    channels = (item.shape or ())[1]
    # As the comment of Caffe's BilinearFiller has it: pad is ceil((factor - 1) / 2).
    kernel, pad = 2 * factor - factor % 2, factor // 2
    body = f"""param {{ lr_mult: 0 decay_mult: 0 }}
convolution_param {{
  num_output: {channels} group: {channels}
  kernel_size: {kernel} stride: {factor} pad: {pad}
  bias_term: false
  weight_filler {{ type: "bilinear" }}
}}"""
    return format_layer(name, "Deconvolution", [item.blob], [name], body)


def _projection_width(features: Sequence[Features], request: HeadRequest, equal: bool) -> int | None:
    """Return the width to project to, None for none. Raises: ComposeError where it must be given and is not."""
    requested = request.options.project or (request.options.hidden if equal else None)
    if requested is not None or not equal:
        return requested
    shapes = {item.shape[1:] if item.shape is not None else None for item in features}
    # Features of one known shape need no projection; with unknown dims equality cannot be seen.
    if len(shapes) == 1 and (shapes != {None}) and not any(None in shape for shape in shapes if shape):
        return None
    widths = [_channels(item) for item in features]
    known = [width for width in widths if width is not None]
    if len(known) < len(widths):
        raise ComposeError(
            "the widths of the features are not known, so they cannot be projected to one width",
            hint="give the width (--project), or sources whose input shapes are known",
        )
    return max(known)


def _channels(item: Features) -> int | None:
    """Return the width that a projection replaces: the channels of a map, the width of anything else."""
    return item.shape[1] if _has_positions(item) and item.shape is not None else item.width


def _has_positions(item: Features) -> bool:
    """Return whether it is a map of more than one position."""
    return item.shape is not None and len(item.shape) == 4 and item.shape[2:] != (1, 1)


def _project(item: Features, width: int, batch_norm: bool) -> tuple[Features, list[str]]:
    name = f"{item.stem}_projection"
    bias = ["  bias_term: false"] if batch_norm else ['  bias_filler { type: "constant" }']
    inner = [f"  num_output: {width}", '  weight_filler { type: "xavier" }', *bias]
    # BatchNorm subtracts the mean, so a bias before it would have no effect.
    rates = ["param { lr_mult: 1 }", *([] if batch_norm else ["param { lr_mult: 2 }"])]
    if _has_positions(item):
        kind, block = "Convolution", ["convolution_param {", "  kernel_size: 1", *inner, "}"]
        shape: Shape = (None, width, *(item.shape or ())[2:])
    else:
        kind, block, shape = "InnerProduct", ["inner_product_param {", *inner, "}"], (None, width)
    text = [format_layer(name, kind, [item.blob], [name], "\n".join([*rates, *block]))]
    text += _batch_norm(item.stem, name, name) if batch_norm else []
    return Features(item.stem, name, shape, item.level), text


def _normalize(item: Features) -> tuple[Features, list[str]]:
    top = f"{item.stem}_normalized"
    return Features(item.stem, top, item.shape, item.level), _batch_norm(item.stem, item.blob, top)


def _batch_norm(stem: str, bottom: str, top: str) -> list[str]:
    """Return a BatchNorm, and the Scale that Caffe makes a separate layer."""
    rates = "\n".join(["param { lr_mult: 0 }"] * 3)  # the blobs are running statistics: no solver may change them
    return [
        format_layer(f"{stem}_batch_norm", "BatchNorm", [bottom], [top], rates),
        format_layer(f"{stem}_scale", "Scale", [top], [top], "scale_param { bias_term: true }"),
    ]
