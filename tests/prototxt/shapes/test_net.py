"""Inference over a whole net: connections, all errors at once, unknown types, the caller's shapes, own layer types."""

from __future__ import annotations

from importlib import metadata

import pytest

import prototxt
from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.shapes import LAYER_TYPES, UNKNOWN, Shape, infer, infer_shapes, registry, shape_function

DATA = 'layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }\n'


def net_of(text: str) -> NetParameter:
    return prototxt.load_net(prototxt.parse(DATA + text, name="net.prototxt"))


def errors_of(text: str) -> list[str]:
    with pytest.raises(ShapeError) as caught:
        infer(net_of(text))
    return [str(error) for error in caught.value.errors]


def test_all_errors_are_raised_at_once_with_their_places() -> None:
    errors = errors_of(
        'layer { name: "a" type: "Convolution" bottom: "x" top: "a" }\n'
        'layer { name: "b" type: "Pooling" bottom: "a" top: "b" pooling_param { kernel_size: 2 pad: 2 } }\n'
        'layer { name: "c" type: "InerProduct" bottom: "b" top: "c" }\n'
        'layer { name: "e" type: "Softmax" bottom: "c" bottom: "nothing" top: "e" }\n'
        'layer { type: "ReLU" bottom: "e" top: "f" top: "g" }\n'
    )
    assert [error.splitlines()[0] for error in errors] == [
        "net.prototxt:2:1: layer 'a' (Convolution): kernel_size is given 0 times for 2 spatial axes",
        "net.prototxt:3:1: layer 'b' (Pooling): the pad 2x2 must be smaller than the kernel 2x2",
        "net.prototxt:4:1: layer 'c': unknown type 'InerProduct'",
        "net.prototxt:5:1: layer 'e' (Softmax): unknown bottom blob 'nothing' (bottom 1)",
        "net.prototxt:5:1: layer 'e' (Softmax): takes 1 bottom blob, but has 2",
        "net.prototxt:6:1: a layer without a name (ReLU): takes 1 top blob, but has 2",
    ]
    assert "hint: did you mean 'InnerProduct'?" in errors[2]


def test_a_misspelt_bottom_is_guessed() -> None:
    errors = errors_of(
        'layer { name: "conv1" type: "ReLU" bottom: "x" top: "conv1" }'
        'layer { name: "r" type: "ReLU" bottom: "convl" top: "r" }'
    )
    assert [error.splitlines()[1] for error in errors] == ["  hint: did you mean 'conv1'?"]


def test_a_blob_may_not_be_used_before_it_is_made() -> None:
    (error,) = errors_of(
        'layer { name: "a" type: "ReLU" bottom: "late" top: "a" }'
        'layer { name: "b" type: "ReLU" bottom: "x" top: "late" }'
    )
    assert "layer 'a' (ReLU): unknown bottom blob 'late'" in error


def test_a_net_in_an_old_form_is_refused() -> None:
    with pytest.raises(ShapeError, match="old form"):
        infer(NetParameter(input=["data"]))


def test_an_error_is_not_reported_again_further_down() -> None:
    errors = errors_of(
        'layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 2 kernel_size: 9 }}'
        'layer { name: "b" type: "ReLU" bottom: "a" top: "a" }\n'
        'layer { name: "c" type: "Eltwise" bottom: "a" bottom: "x" top: "c" }\n'
    )
    assert len(errors) == 1


def test_layers_of_two_phases_ask_for_a_filter() -> None:
    train = 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" include { phase: TRAIN } }'
    test = train.replace("TRAIN", "TEST")
    (error,) = errors_of(train + test)
    assert "top blob 'r' is also made by another layer" in error
    assert "prototxt.filter_net" in error


def test_one_layer_may_not_make_a_blob_twice() -> None:
    (error,) = errors_of('layer { name: "s" type: "Split" bottom: "x" top: "a" top: "a" }')
    assert "top blob 'a' is also made by another layer" in error


def test_unknown_types_can_be_passed_over() -> None:
    net = net_of(
        'layer { name: "m" type: "Mystery" bottom: "x" top: "m" }'
        'layer { name: "c" type: "Convolution" bottom: "m" top: "c" convolution_param { num_output: 4 kernel_size: 3 }}'
    )
    shapes = infer(net, unknown="ignore")
    assert shapes.blobs["m"] is UNKNOWN
    assert shapes.blobs["c"] == (None, 4, None, None)
    assert shapes.params == [[], [], [(4, None, 3, 3), (4,)]]
    assert infer(net, {"m": (2, 3, 8, 8)}, unknown="ignore").blobs["c"] == (2, 4, 6, 6)


def test_given_shapes_prevail_over_data_layers() -> None:
    net = net_of('layer { name: "r" type: "ReLU" bottom: "x" top: "x" }')
    assert infer_shapes(net, {"x": [5, 1, 2, 2]}) == {"x": (5, 1, 2, 2)}
    two = DATA.replace('top: "x"', 'top: "x" top: "y"')
    assert infer_shapes(prototxt.load_net(prototxt.parse(two)), {"x": [5, 1]}) == {"x": (5, 1), "y": (2, 3, 8, 8)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": (1, 3)}, "shapes are given for 'y', which the net lacks"),
        ({"x": (0, 3)}, "the shape given for blob 'x' is empty: 0x3"),
        ({"r": (1, 3)}, "the shape given for blob 'r' is 1x3, but it is 2x3x8x8"),
    ],
)
def test_given_shapes_that_fit_nothing_are_refused(given: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError) as caught:
        infer(net_of('layer { name: "r" type: "ReLU" bottom: "x" top: "r" }'), given)
    assert message in str(caught.value)


def test_a_loss_without_a_top_has_one() -> None:
    shapes = infer(net_of('layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "x" loss_weight: 2 }'))
    assert shapes.tops[-1] == [()]
    assert shapes.blobs == {"x": (2, 3, 8, 8)}


def test_absurd_sizes_are_refused() -> None:
    for dims, message in (
        ("dim: 65536 dim: 65536", "4294967296 elements, more than Caffe's 2147483647"),
        ("dim: 9223372036854775807 dim: 9223372036854775807", "elements, more than Caffe's"),
    ):
        (error,) = errors_of(f'layer {{ name: "i" type: "Input" top: "i" input_param {{ shape {{ {dims} }} }} }}')
        assert message in error


def test_a_user_registers_a_type() -> None:
    @shape_function("Twice", bottoms=1, tops=1)
    def twice(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
        return [(*bottoms[0], 2)], [(2,)]

    try:
        shapes = infer(net_of('layer { name: "t" type: "Twice" bottom: "x" top: "t" param { lr_mult: 0 } }'))
        assert shapes.blobs["t"] == (2, 3, 8, 8, 2)
        assert shapes.params[-1] == [(2,)]
        with pytest.raises(ValueError, match="has a shape function already"):
            shape_function("Twice")(twice)
    finally:
        del LAYER_TYPES["Twice"]


def test_an_installed_package_registers_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def announce() -> None:
        shape_function("Thrice", bottoms=1, tops=1)(lambda layer, bottoms: ([(*bottoms[0], 3)], []))

    entry = metadata.EntryPoint("thrice", "somewhere:announce", registry.ENTRY_POINTS)
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: announce)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])
    registry._load_entry_points.cache_clear()
    try:
        assert infer(net_of('layer { name: "t" type: "Thrice" bottom: "x" top: "t" }')).blobs["t"] == (2, 3, 8, 8, 3)
    finally:
        LAYER_TYPES.pop("Thrice", None)
        registry._load_entry_points.cache_clear()


LOSSES = """
    BCTLoss CNALoss CTCLoss CenterLoss ContrastiveLoss CtcLoss ELODILoss EuclideanLoss FocalDistillationLoss FocalLoss
    HingeLoss InfogainLoss KDLoss L1Loss LDILoss LogitMatchingLoss MultiBoxLoss MultinomialLogisticLoss NaivePCTLoss
    RegionLoss SigmoidCrossEntropyLoss SmoothL1Loss SmoothL1LossOHEM SoftmaxWithFocalLoss SoftmaxWithLoss
    SoftmaxWithLossOHEM TripletLoss WarpCTCLoss WarpCtcLoss YoloLoss Yolov3
"""
SOURCES = """
    AnnotatedData Data DenseImageData DummyData HDF5Data ImageData ImageLabelmapData ImageSegData Input MemoryData
    Python VideoData WindowData
"""


def test_which_types_are_losses_or_sources_and_cannot_work_in_place() -> None:
    rules = LAYER_TYPES.items()
    assert {name for name, rule in rules if rule.loss} == set(LOSSES.split())
    assert {name for name, rule in rules if rule.source} == set(SOURCES.split())
    assert {name for name, rule in rules if not rule.in_place} == {"AbsVal", "Flatten", "Reshape"}
    assert {name for name, rule in rules if rule.paired} >= {"Convolution", "Deconvolution"}
    assert "ReLU" not in {name for name, rule in rules if rule.paired}


def test_defaults_of_a_registered_type() -> None:
    shape_function("Plain")(lambda layer, bottoms: ([], []))
    try:
        rule = LAYER_TYPES["Plain"]
        assert (rule.bottoms, rule.tops) == ((0, None), (0, None))
        assert (rule.paired, rule.in_place, rule.loss, rule.unknown_rank, rule.source) == (
            False,
            True,
            False,
            "any",
            False,
        )
    finally:
        del LAYER_TYPES["Plain"]
