"""Classification of images by a trained net, prepared as its data layer says or as given.

predictor = open_predictor("fused/train_val.prototxt", "trained.caffemodel")
for answer in predict(predictor, ["digit.png"], top=3):
    print(answer.output, answer.classes, answer.scores)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fusion.data.net_classes import classes_of_nets
from fusion.data.transforms import Transform, read_mean_image
from fusion.errors import DataError, FusionError, raise_all
from fusion.nets.build import build, restrict_to_blobs
from fusion.nets.graph import Net, needed_inputs
from fusion.nets.inputs import ImagePreparation, image_preparation, known_input_shapes
from fusion.nets.weights import load_weights
from fusion.references.class_scores import check_class_scores
from prototxt.edit.deploy import deploy
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.shapes.dimensions import UNKNOWN
from prototxt.shapes.loss_kinds import LOSS_KINDS, non_class_loss
from prototxt.shapes.net import infer
from prototxt.text.class_names import ClassNames, class_names_of, name_of
from prototxt.text.parser import parse_file
from prototxt.text.tree import Document

if TYPE_CHECKING:
    from prototxt.schema.messages import NetParameter

Path = str | os.PathLike[str]
_SUM = 1e-3  # how far from 1 the sum of a softmax may be


@dataclass(frozen=True)
class PreprocessOverrides:
    """The preparation of images for a net without a data layer; None keeps the data layer's setting.

    mean   one value per channel, or one for all, in the net's channel order; or the path of a mean image, whose size
           images get before they are cropped to the input's
    size   (height, width) to resize to
    rgb    the net takes red first; Caffe's nets take blue first
    """

    mean: Sequence[float] | str | None = None
    scale: float | None = None
    size: tuple[int, int] | None = None
    rgb: bool = False


@dataclass(frozen=True, eq=False)
class Predictor:
    """A net with its weights and the preparation of its inputs.

    inputs       how each input is prepared
    notes        decisions, one sentence each
    classes      the class of each score, for outputs with some of the net's classes, such as a fused net's sources
    shapes       of the inputs
    class_names  the names in the net's text, or of the class folders that it reads
    """

    net: Net
    inputs: Mapping[str, ImagePreparation]
    outputs: tuple[str, ...]
    notes: tuple[str, ...] = ()
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    class_names: ClassNames = field(default_factory=ClassNames)


@dataclass(frozen=True)
class Answer:
    """One output's best classes for one image, the best first; a label is "" if a class has no name.

    note  a remark on the classes, or ""
    """

    picture: str
    output: str
    classes: tuple[int, ...]
    scores: tuple[float, ...]
    labels: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class OutputClasses:
    """The classes of an output's scores.

    numbers  the class of each score
    labels   its name, "" if it has none
    part     whether the numbers were given, as those of some of the classes
    note     a remark if the numbers are the output's own: which of the named classes they are is not known
    """

    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    part: bool = False
    note: str = ""


def open_predictor(
    net: Path | Document,
    weights: Path | None,
    *,
    outputs: Sequence[str] = (),
    overrides: PreprocessOverrides = PreprocessOverrides(),
    shapes: Mapping[str, Sequence[int]] | None = None,
    fallback: Mapping[str, Sequence[int]] | None = None,
) -> Predictor:
    """Build the deploy form of a net and load its weights.

    net       a file, or a document such as that of an ONNX file (`fusion.composition.onnx_net`)
    weights   None for a net that has them, as ONNX files do
    outputs   blobs with class scores; by default the net's outputs
    shapes    of inputs that the net does not define
    fallback  shapes of the inputs of another net, for inputs still unknown
    Raises: DataError for inputs that take no images; the errors of deploying, building and loading.
    """
    document = net if isinstance(net, Document) else parse_file(net)
    training = filter_net(load_net(document), phase="TEST")
    lacking = {blob for blob, shape in known_input_shapes(training).items() if shape is UNKNOWN or None in shape[1:]}
    given = {blob: (1, *shape[1:]) for blob, shape in (fallback or {}).items() if blob in lacking} | dict(shapes or {})
    message = filter_net(load_net(deploy(document, given or None, outputs=outputs).document), phase="TEST")
    built = build(message, seed=0)
    if weights is not None and (missing := load_weights(built, weights).missing):
        hint = "give the weights of this net"
        raise FusionError(f"no weights for {', '.join(missing)}", place=os.fspath(weights), hint=hint)
    chosen, left = _of_classes(load_net(document), tuple(key for key, _ in built.plan.outputs), outputs, document.name)
    running = restrict_to_blobs(built, chosen)
    known = infer(message).blobs
    inputs = {
        key: image_preparation(training, key, [dim or 1 for dim in known[key]]) for key in needed_inputs(running.plan)
    }
    notes = [f"'{blob}' is left out: its loss takes values, not classes" for blob in left] + [
        f"input '{key}' takes pixels as they are, 0 to 255, {'blue first' if item.color else 'gray'}: no data layer "
        "defines another preparation"
        for key, item in inputs.items()
        if not item.from_data_layer and overrides == PreprocessOverrides()
    ]
    prepared = {key: _with_overrides(item, overrides, known[key][2:]) for key, item in inputs.items()}
    sizes = {key: tuple(dim or 1 for dim in known[key]) for key in inputs}
    names = class_names_of(document)
    if not names.names:
        names = replace(names, names=classes_of_nets([training, filter_net(load_net(document), phase="TRAIN")]))
    widths = {blob: shape[1] if shape is not UNKNOWN and len(shape) > 1 else None for blob, shape in known.items()}
    classes = _classes(document)
    for blob in chosen:
        found = names.numbers_of(blob)  # the net's text takes precedence over the losses towards references
        if found is not None and widths.get(blob) == len(found):
            classes[blob] = found
    return Predictor(running, prepared, chosen, tuple(notes), classes, sizes, names)


def _of_classes(
    net: NetParameter, outputs: Sequence[str], requested: Sequence[str], place: str
) -> tuple[tuple[str, ...], list[str]]:
    """Return the outputs with class scores, and the net's own outputs that hold values for a loss instead.

    Raises: FusionError for an output requested by name that holds values, and if there is no other.
    """
    values = [blob for blob in requested or outputs if _holds_values(net, blob)]
    scores = tuple(blob for blob in requested or outputs if blob not in values)
    if values and (requested or not scores):
        check_class_scores(net, values[0], place)
    return scores, values


def _holds_values(net: NetParameter, blob: str) -> bool:
    layer = non_class_loss(net, blob)
    return layer is not None and LOSS_KINDS[layer.type].labels == "target"


def _classes(document: Document) -> dict[str, tuple[int, ...]]:
    """Return the classes of each reference from the losses towards it, in the order of its scores."""
    layers = filter_net(load_net(document), phase="TRAIN").layer
    losses = [layer for layer in layers if layer.pct_param.classes and len(layer.bottom) > 2]
    return {blob: tuple(layer.pct_param.classes) for layer in losses for blob in layer.bottom[1:-1]}


def output_classes(
    predictor: Predictor, output: str, count: int, labels: Sequence[str] = (), numbers: Sequence[int] | None = None
) -> OutputClasses:
    """Return the classes of an output's scores.

    count    of scores
    labels   names of all classes; by default the net's own
    numbers  the class of each score; by default as in the net's text, or all in order
    Raises: FusionError if the numbers of classes and scores differ.
    """
    names = tuple(labels) or predictor.class_names.names
    numbers = predictor.classes.get(output) if numbers is None else tuple(numbers)
    if numbers is None:
        if not names or len(names) == count:
            return OutputClasses(tuple(range(count)), names or ("",) * count)
        own = predictor.class_names.names
        note = (
            f"'{output}' has {count} scores, but {len(names)} classes have names: its numbers are its own; give their "
            f"classes with --classes {output}=N,N,..."
        )
        return OutputClasses(tuple(range(count)), own if len(own) == count else ("",) * count, note=note)
    if len(numbers) != count:
        message = f"{len(numbers)} classes are given for '{output}', which has {count} scores"
        raise FusionError(message, hint="give one class per score, in their order")
    return OutputClasses(tuple(numbers), tuple(name_of(names, number) for number in numbers), part=True)


def _with_overrides(how: ImagePreparation, new: PreprocessOverrides, window: Sequence[int | None]) -> ImagePreparation:
    """Return the preparation with some settings replaced.

    window  height and width of the input
    """
    old, size, crop = how.transform, new.size or how.size, how.transform.crop
    mean, scale = old.mean, old.scale if new.scale is None else np.float32(new.scale)
    if isinstance(new.mean, str):
        mean = read_mean_image(new.mean)
        if mean.shape[1:] != (1, 1):
            size = new.size or mean.shape[1:]
        # Caffe crops squares only; a window of another form needs a mean of its own size
        if mean.shape[1:] not in ((1, 1), tuple(window)) and window[0] == window[1]:
            crop = window[0] or 0
    elif new.mean is not None:
        mean = np.array(new.mean, np.float32).reshape(-1, 1, 1)
    return replace(how, size=size, rgb=new.rgb, transform=Transform(scale, mean, crop))


def predict(
    predictor: Predictor,
    pictures: Sequence[str | bytes],
    *,
    top: int = 5,
    names: Sequence[str] | None = None,
    labels: Sequence[str] = (),
    classes: Mapping[str, Sequence[int] | None] | None = None,
) -> list[Answer]:
    """Return the best classes for each image, all outputs of one image together.

    pictures  paths, or the content of image files
    names     of the images in the answers; by default their paths
    labels    names of the classes; by default the net's own
    classes   the class of each score, for outputs with some of the classes; by default as in the net's text
    Raises: DataError naming every image that cannot be read; FusionError for an output that is not a row of scores.
    """
    titles = list(names or (item if isinstance(item, str) else f"picture {n + 1}" for n, item in enumerate(pictures)))
    found = class_scores(predictor, pictures)
    known = {
        blob: output_classes(predictor, blob, rows.shape[1], labels, (classes or {}).get(blob))
        for blob, rows in found.items()
    }
    return [
        _answer(name, blob, rows[index], top, known[blob])
        for index, name in enumerate(titles)
        for blob, rows in found.items()
    ]


def class_scores(predictor: Predictor, pictures: Sequence[str | bytes]) -> dict[str, NDArray[np.float32]]:
    """Return all scores, float32 [images, classes] for each output. Raises: as `predict` does."""
    errors: list[FusionError] = []
    fed = {}
    for key, how in predictor.inputs.items():
        try:
            fed[key] = how.tensor(pictures)
        except DataError as error:
            errors.append(error)
    raise_all(errors)
    with torch.no_grad():
        out = predictor.net(fed)
    return {blob: _rows(blob, out[blob].float().numpy(), len(pictures)) for blob in predictor.outputs}


def class_shares(row: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """Return one image's scores as shares that add up to 1, by softmax if necessary, and whether they did already."""
    if (row >= 0).all() and abs(float(row.sum()) - 1) < _SUM:
        return row, True
    powers = np.exp(row - row.max())
    return powers / powers.sum(), False


def _rows(blob: str, array: np.ndarray, count: int) -> np.ndarray:
    rows = array.reshape(len(array), -1) if array.ndim > 2 and array[0].size == array.shape[1] else array
    if rows.ndim != 2 or len(rows) != count:
        shape = "x".join(map(str, array.shape))
        raise FusionError(
            f"blob '{blob}' is {shape}, not one row of scores per image", hint="select another with --output-blob"
        )
    return rows


def _answer(picture: str, blob: str, row: np.ndarray, top: int, known: OutputClasses) -> Answer:
    order = np.argsort(-row, kind="stable")[:top].tolist()
    numbers, labels = (tuple(values[index] for index in order) for values in (known.numbers, known.labels))
    return Answer(picture, blob, numbers, tuple(float(row[index]) for index in order), labels, known.note)
