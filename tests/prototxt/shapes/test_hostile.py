"""Any numbers in any layer's parameters, over any bottoms: shapes or our error, quickly, and never anything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from prototxt.errors import ShapeError
from prototxt.schema import forks
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.shapes import LAYER_TYPES, UNKNOWN, Shape, infer

NUMBERS = [0, 1, 2, 3, 5, -1, -2, 31, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1]
DIMS = st.sampled_from([None, 1, 2, 3, 4, 8, 12, 2**31 - 1])
SHAPES: st.SearchStrategy[Shape] = st.lists(DIMS, max_size=5).map(tuple) | st.just(UNKNOWN)
OTHER_BLOCKS = {
    "Deconvolution": "convolution_param", "Im2col": "convolution_param", "ConvolutionDepthwise": "convolution_param",
    "LSTM": "recurrent_param", "RNN": "recurrent_param", "SoftmaxWithLoss": "softmax_param", "Onnx": "crop_param",
    "InfogainLoss": "infogain_loss_param", "MultiBoxLoss": "multibox_loss_param", "Normalize": "norm_param",
}  # fmt: skip


def block_of(kind: str) -> str:
    return OTHER_BLOCKS.get(kind) or "".join(c if c.islower() else f"_{c.lower()}" for c in kind).strip("_") + "_param"


def parameters(layer: LayerParameter) -> Any:
    """The message that holds the layer's parameters, if its name tells which one it is."""
    wanted = block_of(layer.type).replace("_", "")
    for message in (layer, forks.fields(layer)):
        for field in message.DESCRIPTOR.fields:
            if field.name.replace("_", "") == wanted:
                return getattr(message, field.name)
    return None


def scatter(message: Any, draw: st.DataObject) -> None:
    """Set some of the message's numbers, and one level further down."""
    for field in message.DESCRIPTOR.fields:
        if draw.draw(st.booleans()):
            continue
        if field.message_type is not None:
            if field.message_type.name == "BlobShape" and not hasattr(message.shape, "add"):
                message.shape.dim.extend(draw.draw(st.lists(st.sampled_from(NUMBERS[:-1]), max_size=4)))
            continue
        values = [value.number for value in field.enum_type.values] if field.enum_type else NUMBERS
        for value in draw.draw(st.lists(st.sampled_from(values), min_size=1, max_size=4)):
            try:
                if hasattr(getattr(message, field.name), "append"):
                    getattr(message, field.name).append(value)
                else:
                    setattr(message, field.name, value)
            except (ValueError, TypeError):
                break


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(sorted(LAYER_TYPES)), draw=st.data())
def test_shapes_or_our_error(kind: str, draw: st.DataObject) -> None:
    net, shapes = NetParameter(), {}
    few, many = LAYER_TYPES[kind].bottoms
    for index, shape in enumerate(draw.draw(st.lists(SHAPES, min_size=few, max_size=4 if many is None else many))):
        net.layer.add(name=f"i{index}", type="Input", top=[f"b{index}"])
        shapes[f"b{index}"] = shape
    least, most = LAYER_TYPES[kind].tops
    tops = draw.draw(st.integers(least, 4 if most is None else most))
    layer = net.layer.add(name="l", type=kind, bottom=list(shapes), top=[f"t{index}" for index in range(tops)])
    block = parameters(layer)
    if block is not None:
        scatter(block, draw)
    try:
        result = infer(net, shapes)
    except ShapeError:
        return
    assert len(result.tops[-1]) == tops or LAYER_TYPES[kind].loss
    for top in result.tops[-1]:
        assert top is UNKNOWN or all(dim is None or dim >= 1 for dim in top)
    for param in result.params[-1]:
        assert all(dim is None or dim >= 0 for dim in param)


def test_most_types_have_parameters_to_scatter() -> None:
    found = [kind for kind in LAYER_TYPES if parameters(LayerParameter(type=kind)) is not None]
    assert len(found) >= 60


def test_a_selector_without_axes_is_an_error() -> None:
    net = NetParameter()
    net.layer.add(name="in", type="Input", top=["a", "b"])
    net.layer.add(name="l", type="Filter", bottom=["a", "b"], top=["t"])
    with pytest.raises(ShapeError, match="axis 0 is out of range"):
        infer(net, {"a": (None,), "b": ()})
