"""Shapes of the layer types for sequences that forks of Caffe add: another LSTM, CTC, reversing."""

from __future__ import annotations

from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.dimensions import UNKNOWN, Shape, canonical_axis, count, text
from prototxt.shapes.fork_layers import fork_param
from prototxt.shapes.registry import shape_function


@shape_function("Reverse", bottoms=(1, 2), tops=1)
def _reverse(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape; a second bottom holds sequence lengths or markers."""
    canonical_axis(bottoms[0], fork_param(layer, "reverse_param").axis)
    return [bottoms[0]], []


@shape_function("Lstm", bottoms=(1, 2), tops=1)
def _lstm(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Map [T, N, ...] to [T, N, H]; input weights, hidden weights, bias (junhyukoh/caffe-lstm)."""
    param, bottom = fork_param(layer, "lstm_param"), bottoms[0]
    if len(bottom) < 2:
        raise ShapeError(f"the input must be [T, N, ...] or [T * N, ...], not {text(bottom)}")
    hidden = param.num_output
    if hidden <= 0 or param.batch_size <= 0:
        raise ShapeError("num_output and batch_size must be at least 1")
    if len(bottom) == 2:
        time = None if bottom[0] is None else bottom[0] // param.batch_size
        top, inputs = (time, param.batch_size, hidden), bottom[1]
    else:
        top, inputs = (bottom[0], bottom[1], hidden), count(bottom, 2)
    return [top], [(4 * hidden, inputs), (4 * hidden, hidden), (4 * hidden,)]


@shape_function("ContinuationIndicator", bottoms=0, tops=1)
def _continuation_indicator(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return markers [T, N] for LSTM (yalecyu/crnn.caffe)."""
    param = fork_param(layer, "continuation_indicator_param")
    return [(param.time_step, param.batch_size)], []


@shape_function("LabelsequenceAccuracy", "SegAccuracy", bottoms=(2, 3), tops=(1, 3), unknown_rank="own")
def _scalar_measure(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar, followed by tops of unknown shape."""
    return [(), UNKNOWN, UNKNOWN][: len(layer.top)], []


@shape_function("CTCGreedyDecoder", "CTCBeamSearchDecoder", bottoms=(1, 3), tops=(1, 2), unknown_rank="own")
def _ctc_decoder(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return sequences whose length depends on the data."""
    return [UNKNOWN] * len(layer.top), []
