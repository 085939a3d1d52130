"""Another set of classes for a trained classifier: its rows kept, reordered, dropped and added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fusion.errors import FusionError, WeightsMismatch, raise_all
from fusion.merge.initial_fillers import initial_value
from fusion.merge.targets import target_layers
from fusion.surgery.result import SurgeryResult, Weights
from fusion.surgery.text_layers import name_pattern
from prototxt.edit.layer_view import text_layers
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.shapes.loss_kinds import compares_classes
from prototxt.text.class_names import ClassNames, class_names_of, name_of, replace_class_comments
from prototxt.text.edits import Edits
from prototxt.text.parser import parse
from prototxt.text.tree import Document

_PARAMS: Final = {"InnerProduct": "inner_product_param", "Convolution": "convolution_param"}
# Layers that treat every class alike, so that any set of classes passes through them.
_PER_ELEMENT: Final = frozenset(
    ("AbsVal", "BNLL", "Dropout", "ELU", "Exp", "Log", "Power", "ReLU", "Sigmoid", "Softmax", "Split", "TanH")
)
_ENDS: Final = frozenset(("ArgMax", "Silence"))
_IGNORED: Final = {"Accuracy": "accuracy_param", "SoftmaxWithLoss": "loss_param"}


@dataclass(frozen=True)
class _Classes:
    """The new classes in terms of the old: the number of an old class, or the name of a new one."""

    new: Sequence[int | str]

    @property
    def numbers(self) -> dict[int, int]:
        """Return old class -> new class, of those that stay."""
        return {old: number for number, old in enumerate(self.new) if isinstance(old, int)}

    def rows(self, trained: NDArray[Any], filled: NDArray[Any], axis: int) -> NDArray[Any]:
        """Return `filled` with the trained rows of the classes that stay."""
        rows = np.moveaxis(filled.astype(trained.dtype), axis, 0)
        for old, number in self.numbers.items():
            rows[number] = np.moveaxis(trained, axis, 0)[old]
        return np.ascontiguousarray(np.moveaxis(rows, 0, axis))

    def names(self, before: ClassNames) -> ClassNames:
        """Return the names and numbers of the new classes; an entry with a class that is gone is left out."""
        names = [name_of(before.names, one) if isinstance(one, int) else one for one in self.new]
        kept = {key: value for key, value in before.numbers.items() if all(number in self.numbers for number in value)}
        numbers = {key: tuple(self.numbers[number] for number in value) for key, value in kept.items()}
        return ClassNames(tuple(names) if any(names) else (), numbers)

    def summary(self, count: int) -> str:
        """Describe the change of a layer that scored `count` classes."""
        added = len(self.new) - len(self.numbers)
        dropped = count - len(self.numbers)
        parts = [f"{len(self.numbers)} of {count} classes kept"]
        parts += [f"{dropped} dropped"] if dropped else []
        parts += [f"{added} added"] if added else []
        parts += ["in another order"] if list(self.numbers) != sorted(self.numbers) else []
        return ", ".join(parts)


def edit_classes(
    document: Document,
    weights: Weights,
    *,
    keep: Sequence[int] | None = None,
    drop: Sequence[int] = (),
    add: Sequence[str] = (),
    rename: Mapping[int, str] | None = None,
    layers: str | None = None,
    seed: int = 0,
) -> SurgeryResult:
    """Give a trained net other classes. The trained rows of those that stay are kept, new rows start from the filler.

    keep    the old classes that the new net has, in their new order; None: all but `drop`
    add     names of new classes, which follow ("": without a name)
    rename  old class -> its name in the new net
    layers  a regular expression for the names of the layers that score the classes; None: those whose scores the
            losses and measures of classes read, or else the net's Softmax
    seed    of the fillers
    Raises: FusionError for classes that do not exist or are named twice, for layers that cannot be determined, and for
            layers that depend on the set of classes; WeightsMismatch for weights of another net.
    """
    net = load_net(document)
    classifiers = _classifiers(net, document.name, layers)
    count = _count(classifiers, document.name)
    before = _renamed(class_names_of(document), rename or {}, count)
    kept = [number for number in range(count) if number not in drop] if keep is None else keep
    change = _Classes([*kept, *add])
    _check_classes(change, [*kept, *drop, *(rename or {})], count, before, document.name)
    edited = _edit_text(document, net, change, classifiers)
    edited = parse(replace_class_comments(str(edited), change.names(before)), document.name)
    edited_weights = _edit_weights(net, load_net(edited), weights, change, seed, classifiers)
    changed = dict.fromkeys(classifiers, change.summary(count))
    same = tuple(name for name in weights if name not in changed)
    return SurgeryResult(edited, edited_weights, same, changed, (), _not_done(change, count, before))


def _renamed(classes: ClassNames, rename: Mapping[int, str], count: int) -> ClassNames:
    """Return the classes of the net with other names for some."""
    names = [rename.get(number, name_of(classes.names, number)) for number in range(count)]
    return replace(classes, names=tuple(names) if any(names) else ())


def _not_done(change: _Classes, count: int, before: ClassNames) -> dict[str, str]:
    """Return the parts of the net's surroundings that the user must change."""
    found = {}
    if change.numbers != {number: number for number in range(count)}:
        shown = ",".join(f"{old}={new}" for old, new in sorted(change.numbers.items()))
        found["labels of the data"] = f"they have the old numbers: fusion-convert list OLD -o NEW --label-map {shown}"
    lost = [key for key in before.numbers if key not in change.names(before).numbers]
    if lost:
        found["class-numbers"] = f"not written for {', '.join(lost)}, which had a class that is gone"
    return found


def _check_classes(change: _Classes, named: Sequence[int], count: int, before: ClassNames, place: str) -> None:
    """Check the new classes and all numbers that were given. Raises: FusionError with all errors."""
    numbers = Counter(one for one in change.new if isinstance(one, int))
    names = Counter(name for name in change.names(before).names if name)
    twice = [one for values in (numbers, names) for one, times in values.items() if times > 1]
    absent = sorted({number for number in named if not 0 <= number < count})
    few = len(change.new) < 2
    problems = [(f"a classifier needs at least 2 classes, not {len(change.new)}", "keep more, or add some")] * few
    problems += [(f"there is no class {number}", f"the net has 0 to {count - 1}") for number in absent]
    problems += [(f"class '{one}' is there twice", "name each class once") for one in twice]
    raise_all([FusionError(message, place=place, hint=hint) for message, hint in problems])


def _classifiers(net: NetParameter, place: str, pattern: str | None) -> dict[str, LayerParameter]:
    """Return the layers that score the classes, by name. Raises: FusionError if there are none, or no such layers."""
    if pattern is not None:
        wanted = name_pattern(pattern, "'fc8' or 'loss[123]/classifier'")
        found = {layer.name: layer for layer in net.layer if wanted.fullmatch(layer.name)}
        wrong = [name for name, layer in found.items() if layer.type not in _PARAMS]
        if wrong or not found:
            message = f"layer '{wrong[0]}' has no num_output" if wrong else f"no layer's name matches '{pattern}'"
            scoring = [layer.name for layer in net.layer if layer.type in _PARAMS]
            raise FusionError(message, place=place, hint=f"the layers with scores may be {', '.join(scoring)[-300:]}")
        return found
    read = {blob for layer in net.layer for blob in layer.bottom}
    ends = [layer for layer in net.layer if compares_classes(layer)]
    ends = ends or [layer for layer in net.layer if layer.type == "Softmax" and not read.intersection(layer.top)]
    found = {}
    for end in ends:
        layer = _writer(net, end.bottom[0], end)
        if layer is not None:
            found[layer.name] = layer
    if not found:
        hint = "name the layers whose outputs are the scores: --layers fc8"
        raise FusionError("no loss, measure or Softmax shows which layer scores the classes", place=place, hint=hint)
    return found


def _writer(net: NetParameter, blob: str, reader: LayerParameter) -> LayerParameter | None:
    """Return the layer with outputs that computes a blob, through layers that treat every class alike."""
    before = list(net.layer)[: next(index for index, layer in enumerate(net.layer) if layer is reader)]
    for layer in reversed(before):
        if blob not in layer.top:
            continue
        if layer.type in _PARAMS:
            return layer
        if layer.type not in _PER_ELEMENT or not layer.bottom:
            return None
        blob = layer.bottom[0]
    return None


def _count(classifiers: Mapping[str, LayerParameter], place: str) -> int:
    """Return the number of classes that all of them score. Raises: FusionError if they differ, or for groups."""
    counts = {name: int(getattr(layer, _PARAMS[layer.type]).num_output) for name, layer in classifiers.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        hint = "choose those of one set of classes: --layers REGEX"
        raise FusionError(f"the layers score different numbers of classes: {text}", place=place, hint=hint)
    for name, layer in classifiers.items():
        if layer.type == "Convolution" and layer.convolution_param.group != 1:
            raise FusionError(f"layer '{name}' has groups, which belong to its classes", place=place)
    return next(iter(counts.values()))


def _edit_text(
    document: Document, net: NetParameter, change: _Classes, classifiers: Mapping[str, LayerParameter]
) -> Document:
    """Set the number of outputs and the ignored labels. Raises: FusionError for layers that depend on the classes."""
    edits = Edits(document)
    readers = set(_readers(net, change, classifiers, document.name))
    for layer in text_layers(document.root):
        if layer.name in classifiers:
            for block in layer.body.messages(_PARAMS.get(layer.type, "")):
                edits.set(block, "num_output", str(len(change.new)))
        elif layer.name in readers:
            for block in layer.body.messages(_IGNORED.get(layer.type, "")):
                ignored = int(block.string("ignore_label") or "-1", 0)
                if ignored in change.numbers:
                    edits.set(block, "ignore_label", str(change.numbers[ignored]))
    return edits.apply()


def _readers(
    net: NetParameter, change: _Classes, classifiers: Mapping[str, LayerParameter], place: str
) -> Iterator[str]:
    """Yield the names of the losses and measures of these scores. Raises: FusionError for layers of other kinds."""
    count = _count(classifiers, place)
    scores: set[str] = set()
    for layer in net.layer:
        if layer.name in classifiers:
            scores.update(layer.top)
        elif scores.intersection(layer.bottom):
            if compares_classes(layer):
                _check_reader(layer, change, count, place)
                yield layer.name
            elif layer.type in _PER_ELEMENT:
                scores.update(layer.top)
            elif layer.type not in _ENDS:
                message = f"layer '{layer.name}' ({layer.type}) reads the scores, and depends on the set of classes"
                hint = "remove it first, or choose other layers with --layers REGEX"
                raise FusionError(message, place=place, hint=hint)
        else:
            scores.difference_update(layer.top)


def _check_reader(layer: LayerParameter, change: _Classes, count: int, place: str) -> None:
    """Check that a loss or measure fits the new classes. Raises: FusionError."""
    name = f"layer '{layer.name}' ({layer.type})"
    if layer.type == "InfogainLoss":
        raise FusionError(f"{name} has a matrix for its classes", place=place, hint="give the net another loss first")
    if layer.type == "Accuracy" and layer.accuracy_param.top_k > len(change.new):
        message = f"{name} counts the best {layer.accuracy_param.top_k} of {len(change.new)} classes"
        raise FusionError(message, place=place, hint="lower its top_k, or remove the layer first")
    param: Any = getattr(layer, _IGNORED.get(layer.type, ""), None)
    if param is None or not param.HasField("ignore_label"):
        return
    if 0 <= param.ignore_label < count and param.ignore_label not in change.numbers:
        message = f"{name} ignores label {param.ignore_label}, which is no longer a class"
        raise FusionError(message, place=place, hint="keep this class, or remove ignore_label first")
    if count <= param.ignore_label < len(change.new):
        message = f"{name} ignores label {param.ignore_label}, which would be a class"
        raise FusionError(message, place=place, hint="ignore another label first, such as 255")


def _edit_weights(
    net: NetParameter,
    edited: NetParameter,
    weights: Weights,
    change: _Classes,
    seed: int,
    names: Mapping[str, LayerParameter],
) -> dict[str, Sequence[NDArray[Any]]]:
    """Return the weights with the rows of the new classes. Raises: WeightsMismatch."""
    targets = {item.layer.name: item for item in target_layers(net)}
    after = {layer.name: layer for layer in edited.layer}
    result, errors = dict(weights), []
    for name, layer in names.items():
        blobs = weights.get(name, ())
        if not blobs or not targets[name].fits(blobs):
            shapes = [list(blob.shape) for blob in blobs]
            message = (
                f"layer '{name}' needs blobs of shape {[list(s) for s in targets[name].shapes or ()]}, not {shapes}"
            )
            errors.append(WeightsMismatch(message, hint="these are the weights of another net"))
            continue
        rows = []
        for index, blob in enumerate(blobs):
            array = np.asarray(blob)
            if layer.type == "InnerProduct":  # old files have blobs of four axes, the first of size 1
                array = array.reshape(array.shape[-2:] if index == 0 else (-1,))
            axis = 1 if index == 0 and layer.type == "InnerProduct" and layer.inner_product_param.transpose else 0
            shape = [len(change.new) if number == axis else size for number, size in enumerate(array.shape)]
            rows.append(change.rows(array, initial_value(after[name], index, shape, seed), axis))
        result[name] = rows
    raise_all(errors)
    return result
