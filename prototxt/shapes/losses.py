"""Shapes of the losses and of Accuracy. A loss exists even when its top has no name: Caffe adds an unnamed one."""

from __future__ import annotations

from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.dimensions import UNKNOWN, Dim, Shape, agree, canonical_axis, count, product, text
from prototxt.shapes.registry import shape_function


def _same_rows(bottoms: list[Shape]) -> None:
    first, second = bottoms[:2]
    if not agree(_rows(first), _rows(second)):
        raise ShapeError(f"predictions {text(first)} and labels {text(second)} must have the same first dimension")


def _rows(shape: Shape) -> Dim:
    return shape[0] if shape is UNKNOWN or shape else None


def _check_labels(predictions: Shape, labels: Shape, axis: int) -> None:
    """Check that there is one label for each position outside the class axis."""
    if predictions is UNKNOWN:
        return
    axis = canonical_axis(predictions, axis)
    needed = product((count(predictions, 0, axis), count(predictions, axis + 1)))
    if not agree(needed, count(labels)):
        raise ShapeError(
            f"predictions {text(predictions)} need {needed} labels, but {text(labels)} holds {count(labels)}",
            hint=f"one label for each position outside axis {axis}: [N] for [N, C], [N, H, W] for [N, C, H, W]",
        )


@shape_function("SoftmaxWithLoss", bottoms=2, tops=(1, 2), loss=True, unknown_rank="own")
def _softmax_with_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar, and optionally the probabilities."""
    _check_labels(bottoms[0], bottoms[1], layer.softmax_param.axis)
    return [(), bottoms[0]][: max(1, len(layer.top))], []


@shape_function("InfogainLoss", bottoms=(2, 3), tops=(1, 2), loss=True, unknown_rank="own")
def _infogain_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar, and optionally the probabilities; the matrix H is the third bottom or a file."""
    param, predictions = layer.infogain_loss_param, bottoms[0]
    _check_labels(predictions, bottoms[1], param.axis)
    if len(bottoms) == 2 and not param.source:
        raise ShapeError(
            "the infogain matrix is missing", hint="give it as third bottom or as infogain_loss_param.source"
        )
    if len(bottoms) == 3 and predictions is not UNKNOWN:
        classes = predictions[canonical_axis(predictions, param.axis)]
        if not agree(product((classes, classes)), count(bottoms[2])):
            raise ShapeError(f"the infogain matrix must be {classes}x{classes}, not {text(bottoms[2])}")
    return [(), predictions][: max(1, len(layer.top))], []


@shape_function("SigmoidCrossEntropyLoss", bottoms=2, tops=1, loss=True, unknown_rank="own")
def _sigmoid_cross_entropy_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar; targets have as many elements as the predictions."""
    _same_rows(bottoms)
    _same_count(bottoms, 0)
    return [()], []


@shape_function("EuclideanLoss", bottoms=2, tops=1, loss=True, unknown_rank="own")
def _euclidean_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar; both bottoms have the same number of elements per row."""
    _same_rows(bottoms)
    _same_count(bottoms, 1)
    return [()], []


def _same_count(bottoms: list[Shape], start: int) -> None:
    first, second = bottoms
    if not agree(count(first, start), count(second, start)):
        raise ShapeError(f"both bottoms must have as many elements, not {text(first)} and {text(second)}")


@shape_function("HingeLoss", bottoms=2, tops=1, loss=True, unknown_rank="own")
def _hinge_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar."""
    _same_rows(bottoms)
    return [()], []


@shape_function("MultinomialLogisticLoss", bottoms=2, tops=1, loss=True, unknown_rank="own")
def _multinomial_logistic_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar; one label per row."""
    _same_rows(bottoms)
    if not agree(count(bottoms[1], 1), 1):
        raise ShapeError(f"labels must be one per row, not {text(bottoms[1])}")
    return [()], []


@shape_function("ContrastiveLoss", bottoms=3, tops=1, loss=True, unknown_rank="own")
def _contrastive_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar; two equal batches of feature vectors and one label per pair."""
    _same_rows(bottoms)
    first, second, label = bottoms
    for bottom in (first, second):
        if bottom is not UNKNOWN and not agree(count(bottom, 2), 1):
            raise ShapeError(
                f"features must be vectors, not {text(bottom)}",
                hint="pool or flatten height and width to 1 before",
            )
    if UNKNOWN not in (first, second) and not agree(count(first, 1), count(second, 1)):
        raise ShapeError(f"both feature bottoms must have as many channels, not {text(first)} and {text(second)}")
    if not agree(count(label, 1), 1):
        raise ShapeError(f"labels must be one per pair, not {text(label)}")
    return [()], []


@shape_function("Accuracy", bottoms=2, tops=(1, 2), unknown_rank="own")
def _accuracy(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar, and optionally one number per class."""
    param, (predictions, labels) = layer.accuracy_param, bottoms
    _check_labels(predictions, labels, param.axis)
    classes = None if predictions is UNKNOWN else predictions[canonical_axis(predictions, param.axis)]
    if classes is not None and param.top_k > classes:
        raise ShapeError(f"top_k is {param.top_k}, but there are only {classes} classes")
    return [(), (classes,)][: len(layer.top)], []
