"""Shapes of Parameter, Python, Onnx, and the losses of positive-congruent training."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeAlias

from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.dimensions import UNKNOWN, Dim, Shape, agree, count, count_text, text
from prototxt.shapes.onnx_files import value_shapes
from prototxt.shapes.registry import shape_function

PythonShapes: TypeAlias = "Callable[[LayerParameter, list[Shape]], tuple[list[Shape], list[Shape]]]"
python_shapes: ContextVar[PythonShapes | None] = ContextVar("python_shapes", default=None)
"""A function that asks users' classes for the shapes of Python layers, set while they may run."""


@shape_function("Parameter", bottoms=0, tops=1)
def _parameter(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return the parameter's shape as the top's."""
    shape = tuple(int(dim) for dim in layer.parameter_param.shape.dim)
    return [shape], [shape]


@shape_function("Python", unknown_rank="own", source=True)
def _python(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return unknown shapes, unless the user's class may be asked."""
    ask = python_shapes.get()
    if ask is not None:
        return ask(layer, bottoms)
    return [UNKNOWN] * len(layer.top), []


@shape_function("Onnx", bottoms=(1, None), tops=(1, None), unknown_rank="own")
def _onnx(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return the shapes of the file's values for these bottoms, with the first bottom's batch; weights are no blobs."""
    file = layer.onnx_param.file
    if not file:
        raise ShapeError("onnx_param.file is missing", hint="name the ONNX file")
    inputs = list(layer.onnx_param.input)
    if inputs and len(inputs) != len(bottoms):
        message = f"{count_text(len(bottoms), 'bottom')} for {count_text(len(inputs), 'name')} in onnx_param.input"
        raise ShapeError(message, hint="name one value of the file for each bottom")
    declared, known = value_shapes(file, inputs, bottoms)
    names = list(layer.onnx_param.output) or list(declared)
    if (declared or layer.onnx_param.output) and len(names) != len(layer.top):
        raise ShapeError(
            f"{count_text(len(layer.top), 'top')} for {count_text(len(names), 'output')} of {file}",
            hint="name them in onnx_param.output",
        )
    batch = None if bottoms[0] is UNKNOWN or not bottoms[0] else bottoms[0][0]
    # Scores before the softmax or logarithm of a value of the file are called `NAME:scores`.
    shapes = [known.get(name, known.get(name.removesuffix(":scores"), UNKNOWN)) for name in names] or [UNKNOWN] * len(
        layer.top
    )
    return [(batch, *shape[1:]) if shape and shape is not UNKNOWN else shape for shape in shapes], []


@shape_function(
    "KDLoss", "FocalDistillationLoss", "LogitMatchingLoss", "LDILoss", "ELODILoss", "NaivePCTLoss",
    bottoms=(3, None), tops=1, loss=True, unknown_rank="own",
)  # fmt: skip
def _reference_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar; bottoms: new logits [N, C], the logits of one or more references, and labels [N]."""
    new, *references, labels = bottoms
    classes = list(layer.pct_param.classes)
    covered = len(classes) if classes else count(new, 1)
    for reference in references:
        if not agree(_rows(reference), _rows(new)) or not agree(count(reference, 1), covered):
            raise ShapeError(
                f"the reference {text(reference)} does not fit the new logits {text(new)}"
                + (f" at {len(classes)} classes" if classes else ""),
                hint="say in pct_param.classes which of the new classes the reference knows",
            )
    _check_classes(classes, count(new, 1))
    if not agree(count(labels), _rows(new)):
        raise ShapeError(f"labels {text(labels)} for logits {text(new)}", hint="one label per row")
    return [()], []


@shape_function("CNALoss", bottoms=(2, None), tops=1, loss=True, unknown_rank="own")
def _neighbourhood_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar; bottoms: features of the new net and of its references, and labels if there are classes."""
    for bottom in bottoms[1:]:
        if not agree(_rows(bottom), _rows(bottoms[0])):
            raise ShapeError(f"bottoms must have one batch size, not {text(bottoms[0])} and {text(bottom)}")
    return [()], []


@shape_function("BCTLoss", bottoms=2, tops=1, loss=True, unknown_rank="own")
def _compatibility_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar; bottoms: the old classifier's scores [N, K] of the new features, and labels [N]."""
    scores, labels = bottoms
    classes = list(layer.pct_param.classes)
    if classes and not agree(count(scores, 1), len(classes)):
        raise ShapeError(f"the scores {text(scores)} are not of the {len(classes)} classes in pct_param.classes")
    if not agree(count(labels), _rows(scores)):
        raise ShapeError(f"labels {text(labels)} for scores {text(scores)}", hint="one label per row")
    _check_classes(classes, None)
    return [()], []


def _rows(shape: Shape) -> Dim:
    return shape[0] if shape else None


def _check_classes(classes: list[int], size: Dim) -> None:
    if len(set(classes)) != len(classes):
        raise ShapeError("pct_param.classes names a class twice")
    if size is not None and any(index >= size for index in classes):
        raise ShapeError(f"pct_param.classes names class {max(classes)}, but the new logits have {size} classes")
