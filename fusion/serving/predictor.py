"""What a trained net answers for pictures: prepared as its data layer says, or as one is told.

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

from fusion.data.transforms import Transform
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

if TYPE_CHECKING:
    from prototxt.schema.messages import NetParameter
    from prototxt.text.tree import Document

Path = str | os.PathLike[str]
_SUM = 1e-3  # how far from 1 the sum of a softmax may be


@dataclass(frozen=True)
class PreprocessOverrides:
    """How to prepare pictures for a net whose data layer does not say; None leaves what it says.

    mean   one value per channel, or one for all, in the net's channel order
    size   (height, width) to resize to
    rgb    the net wants red first; Caffe's nets want blue first
    """

    mean: Sequence[float] | None = None
    scale: float | None = None
    size: tuple[int, int] | None = None
    rgb: bool = False


@dataclass(frozen=True, eq=False)
class Predictor:
    """A net ready to answer.

    inputs   how each input is prepared
    notes    what was decided, one sentence each
    classes  for outputs that know some of the net's classes only, such as those of a fused net's sources: which
    shapes   of the inputs
    named    what the net's text says of its classes
    """

    net: Net
    inputs: Mapping[str, ImagePreparation]
    outputs: tuple[str, ...]
    notes: tuple[str, ...] = ()
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    named: ClassNames = field(default_factory=ClassNames)


@dataclass(frozen=True)
class Answer:
    """One output's best classes for one picture, the best first; a label is "" where a class has no name.

    note  what to say of the classes, "" for nothing
    """

    picture: str
    output: str
    classes: tuple[int, ...]
    scores: tuple[float, ...]
    labels: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class OutputClasses:
    """What the scores of an output stand for.

    numbers  the class of each
    labels   its name, "" where it has none
    part     whether these are some of the classes, as was told
    note     what to say where these are numbers of the output's own: which of the named classes they are is not known
    """

    numbers: tuple[int, ...]
    labels: tuple[str, ...]
    part: bool = False
    note: str = ""


def open_predictor(
    net: Path,
    weights: Path,
    *,
    outputs: Sequence[str] = (),
    told: PreprocessOverrides = PreprocessOverrides(),
    shapes: Mapping[str, Sequence[int]] | None = None,
    otherwise: Mapping[str, Sequence[int]] | None = None,
) -> Predictor:
    """Build the deploy form of a net and load its weights.

    outputs  blobs with class scores; by default the net's outputs
    shapes   of inputs that the net does not tell
    otherwise  shapes of what neither tells: those of a net beside it
    Raises: DataError for inputs that take no pictures; what deploying, building and loading raise.
    """
    document = parse_file(net)
    training = filter_net(load_net(document), phase="TEST")
    lacking = {blob for blob, shape in known_input_shapes(training).items() if shape is UNKNOWN or None in shape[1:]}
    lent = {blob: (1, *shape[1:]) for blob, shape in (otherwise or {}).items() if blob in lacking}
    given = {**lent, **(shapes or {})} or None
    message = filter_net(load_net(deploy(document, given, outputs=outputs).document), phase="TEST")
    built = build(message, seed=0)
    missing = load_weights(built, weights).missing
    if missing:
        hint = "give the weights of this net"
        raise FusionError(f"no weights for {', '.join(missing)}", place=os.fspath(weights), hint=hint)
    chosen, left = _of_classes(load_net(document), tuple(key for key, _ in built.plan.outputs), outputs, os.fspath(net))
    running = restrict_to_blobs(built, chosen)
    known = infer(message).blobs
    inputs = {
        key: image_preparation(training, key, [dim or 1 for dim in known[key]]) for key in needed_inputs(running.plan)
    }
    notes = [f"'{blob}' is left out: its loss takes values, not classes" for blob in left] + [
        f"input '{key}' takes pixels as they are, 0 to 255, {'blue first' if item.color else 'gray'}: no data layer "
        "says how to prepare them"
        for key, item in inputs.items()
        if not item.from_data_layer and told == PreprocessOverrides()
    ]
    prepared = {key: _as_told(item, told) for key, item in inputs.items()}
    sizes = {key: tuple(dim or 1 for dim in known[key]) for key in inputs}
    named = class_names_of(document)
    widths = {blob: shape[1] if shape is not UNKNOWN and len(shape) > 1 else None for blob, shape in known.items()}
    classes = _classes(document)
    for blob in chosen:
        found = named.numbers_of(blob)
        if found is not None and widths.get(blob) == len(found):
            classes[blob] = found
    return Predictor(running, prepared, chosen, tuple(notes), classes, sizes, named)


def _of_classes(
    net: NetParameter, outputs: Sequence[str], asked: Sequence[str], place: str
) -> tuple[tuple[str, ...], list[str]]:
    """The outputs to answer for, and those of the net's own that are left out as a loss takes them for values.

    Raises: FusionError for one that is asked for by name, and if no other is there.
    """
    values = [blob for blob in asked or outputs if _holds_values(net, blob)]
    kept = tuple(blob for blob in asked or outputs if blob not in values)
    if values and (asked or not kept):
        check_class_scores(net, values[0], place)
    return kept, values


def _holds_values(net: NetParameter, blob: str) -> bool:
    layer = non_class_loss(net, blob)
    return layer is not None and LOSS_KINDS[layer.type].labels == "target"


def _classes(document: Document) -> dict[str, tuple[int, ...]]:
    """Which classes the references have, as the losses towards them say; in the order of their scores."""
    layers = filter_net(load_net(document), phase="TRAIN").layer
    held = [layer for layer in layers if layer.pct_param.classes and len(layer.bottom) > 2]
    return {blob: tuple(layer.pct_param.classes) for layer in held for blob in layer.bottom[1:-1]}


def output_classes(
    predictor: Predictor, output: str, count: int, labels: Sequence[str] = (), told: Sequence[int] | None = None
) -> OutputClasses:
    """Return what the scores of an output stand for.

    count   how many there are
    labels  names of the classes that are answered in; by default the net's own
    told    the class of each score; by default as the net says, or all in order
    Raises: FusionError where there are not as many classes as scores.
    """
    names = tuple(labels) or predictor.named.names
    numbers = predictor.classes.get(output) if told is None else tuple(told)
    if numbers is None:
        if not names or len(names) == count:
            return OutputClasses(tuple(range(count)), names or ("",) * count)
        own = predictor.named.names
        note = (
            f"'{output}' has {count} scores, and {len(names)} classes are named: its numbers are its own; say which "
            f"classes they are with --classes {output}=N,N,..."
        )
        return OutputClasses(tuple(range(count)), own if len(own) == count else ("",) * count, note=note)
    if len(numbers) != count:
        what = f"{len(numbers)} classes are told for '{output}', which has {count} scores"
        raise FusionError(what, hint="name one class per score, in their order")
    return OutputClasses(tuple(numbers), tuple(name_of(names, number) for number in numbers), part=True)


def _as_told(how: ImagePreparation, told: PreprocessOverrides) -> ImagePreparation:
    old = how.transform
    mean = old.mean if told.mean is None else np.array(told.mean, np.float32).reshape(-1, 1, 1)
    scale = old.scale if told.scale is None else np.float32(told.scale)
    return replace(how, size=told.size or how.size, rgb=told.rgb, transform=Transform(scale, mean, old.crop))


def predict(
    predictor: Predictor,
    pictures: Sequence[str | bytes],
    *,
    top: int = 5,
    names: Sequence[str] | None = None,
    labels: Sequence[str] = (),
    classes: Mapping[str, Sequence[int] | None] | None = None,
) -> list[Answer]:
    """The best classes for each picture, all outputs of one picture together.

    pictures  paths, or the content of picture files
    names     what the pictures are called in the answers; by default their paths
    labels    names of the classes; by default the net's own
    classes   for outputs that know some of the classes only: the class of each score; by default as the net says
    Raises: DataError naming every picture that cannot be read; FusionError for an output that is no row of scores.
    """
    called = list(names or (item if isinstance(item, str) else f"picture {n + 1}" for n, item in enumerate(pictures)))
    found = class_scores(predictor, pictures)
    known = {
        blob: output_classes(predictor, blob, rows.shape[1], labels, (classes or {}).get(blob))
        for blob, rows in found.items()
    }
    return [
        _answer(name, blob, rows[index], top, known[blob])
        for index, name in enumerate(called)
        for blob, rows in found.items()
    ]


def class_scores(predictor: Predictor, pictures: Sequence[str | bytes]) -> dict[str, NDArray[np.float32]]:
    """All scores, float32 [pictures, classes] for each output. Raises: as `predict` does."""
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
    """Scores of one picture as shares that add up to 1, and whether they were so already; others go through softmax."""
    if (row >= 0).all() and abs(float(row.sum()) - 1) < _SUM:
        return row, True
    raised = np.exp(row - row.max())
    return raised / raised.sum(), False


def _rows(blob: str, array: np.ndarray, count: int) -> np.ndarray:
    rows = array.reshape(len(array), -1) if array.ndim > 2 and array[0].size == array.shape[1] else array
    if rows.ndim != 2 or len(rows) != count:
        shape = "x".join(map(str, array.shape))
        raise FusionError(f"blob '{blob}' is {shape}, not one row of scores per picture", hint="name it with --output")
    return rows


def _answer(picture: str, blob: str, row: np.ndarray, top: int, known: OutputClasses) -> Answer:
    order = np.argsort(-row, kind="stable")[:top].tolist()
    numbers, labels = (tuple(values[index] for index in order) for values in (known.numbers, known.labels))
    return Answer(picture, blob, numbers, tuple(float(row[index]) for index in order), labels, known.note)
