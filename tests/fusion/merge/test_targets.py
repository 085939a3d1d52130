"""The layers that need weights, over both phases, and the shapes that are known of their blobs."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.merge.targets import TargetLayer, target_layers
from prototxt.errors import PrototxtError
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, NetParameter, ParamSpec
from prototxt.text.parser import parse

INPUT = 'layer {{ name: "{0}" type: "Input" top: "x" include {{ phase: {1} }} input_param {{ shape {{ {2} }} }} }}\n'
IMAGES = 'layer {{ name: "{0}" type: "ImageData" top: "{1}" top: "label" {2} image_data_param {{ source: "none" }} }}\n'
BOTH = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 5 } } }\n'
ABSENT = (
    'layer { name: "d" type: "HDF5Data" top: "x" include { phase: TEST } hdf5_data_param { source: "absent.txt" } }\n'
)


def dense(name: str, more: str = "", outputs: int = 3) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}" {more} '
        f"inner_product_param {{ num_output: {outputs} }} }}\n"
    )


def net(text: str) -> NetParameter:
    return load_net(parse(text, "fused.prototxt"))


def shapes(text: str, **options: object) -> dict[str, object]:
    return {item.layer.name: item.shapes for item in target_layers(net(text), **options)}  # type: ignore[arg-type]


def test_layers_of_both_phases_come_in_the_nets_order() -> None:
    text = BOTH + dense("test", "include { phase: TEST }") + dense("both") + dense("train", "include { phase: TRAIN }")
    assert list(shapes(text)) == ["x", "test", "both", "train"]
    again = text + dense("test", "include { phase: TRAIN }")
    assert list(shapes(again)) == ["x", "test", "both", "train"]


def test_what_one_phase_does_not_tell_the_other_may() -> None:
    images = IMAGES.format("d", "x", "include { phase: TEST }")
    known = INPUT.format("t", "TRAIN", "dim: 1 dim: 5")
    assert shapes(images + known + dense("fc"))["fc"] == ((3, 5), (3,))
    assert shapes(images.replace("TEST", "TRAIN") + known.replace("TRAIN", "TEST") + dense("fc"))["fc"] == (
        (3, 5),
        (3,),
    )


def test_of_two_layers_with_one_name_the_first_phases_is_taken() -> None:
    text = BOTH + dense("fc", "include { phase: TEST }", 3) + dense("fc", "include { phase: TRAIN }", 4)
    with pytest.raises(PrototxtError):
        target_layers(net(text + dense("fc", "include { phase: TRAIN }")))
    assert shapes(text)["fc"] == ((3, 5), (3,))


def test_a_layer_with_blobs_replaces_one_without() -> None:
    text = BOTH + 'layer { name: "fc" type: "ReLU" bottom: "x" top: "y" include { phase: TEST } }\n'
    assert shapes(text + dense("fc", "include { phase: TRAIN }"))["fc"] == ((3, 5), (3,))
    text = BOTH + 'layer { name: "fc" type: "ReLU" bottom: "x" top: "y" include { phase: TRAIN } }\n'
    assert shapes(text + dense("fc", "include { phase: TEST }"))["fc"] == ((3, 5), (3,))


CONCAT = 'layer { name: "c" type: "Concat" bottom: "x" bottom: "none" top: "c" include { phase: TEST } }\n'


def test_a_phase_that_fails_matters_only_if_it_alone_has_a_layer_with_blobs() -> None:
    assert list(shapes(BOTH + dense("fc") + CONCAT)) == ["x", "fc", "c"][:2]
    with pytest.raises(PrototxtError, match="none"):
        shapes(BOTH + dense("fc") + CONCAT + dense("own", "include { phase: TEST }"))
    with pytest.raises(PrototxtError, match="none"):
        shapes(BOTH + dense("fc") + CONCAT.replace("include { phase: TEST }", ""))


def test_a_layer_whose_blobs_are_not_known_at_all() -> None:
    text = BOTH + 'layer { name: "own" type: "Unheard" bottom: "x" top: "y" }\n'
    assert shapes(text)["own"] is None
    assert shapes(BOTH + 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }\n')["r"] == ()


def test_given_inputs_are_those_of_the_phase_and_a_wrong_name_is_an_error() -> None:
    images = (
        'layer { name: "d" type: "ImageData" top: "x" top: "label" image_data_param { source: "none" } }\n'
        + dense("fc")
    )
    assert shapes(images)["fc"] == ((3, None), (3,))
    assert shapes(images, inputs={"x": (1, 2, 4)})["fc"] == ((3, 8), (3,))
    with pytest.raises(PrototxtError, match="wrong"):
        shapes(images, inputs={"wrong": (1, 2, 4)})
    other = IMAGES.format("d", "x", "include { phase: TEST }") + dense("fc")
    other += IMAGES.format("e", "z", "include { phase: TRAIN }")
    other = other.replace('bottom: "x"', 'bottom: "x" include { phase: TEST }')
    other += dense("fc2", "include { phase: TRAIN }").replace('"x"', '"z"')
    assert shapes(other, inputs={"x": (1, 2), "z": (1, 4)}) == {
        "d": (),
        "fc": ((3, 2), (3,)),
        "e": (),
        "fc2": ((3, 4), (3,)),
    }


@pytest.mark.parametrize(
    ("known", "blobs", "fits"),
    [
        (None, [(1,), (2, 3)], True),
        (((2, 3), (2,)), [(2, 3), (2,)], True),
        (((2, None), (2,)), [(2, 3), (2,)], True),
        (((2, 3), (2,)), [(2, 3)], False),
        (((2, 3), (2,)), [(2, 4), (2,)], False),
        (((2, 3), (2,)), [(2, 3), (3,)], False),
        ((), [], True),
    ],
)
def test_whether_blobs_fit(known: tuple[tuple[int, ...], ...] | None, blobs: list[tuple[int, ...]], fits: bool) -> None:
    assert TargetLayer(LayerParameter(), known).fits([np.zeros(shape) for shape in blobs]) is fits


@pytest.mark.parametrize(
    ("rates", "count", "frozen"),
    [((0, 0), 2, True), ((0,), 2, False), ((0, 1), 2, False), ((0, 1), 1, True), ((), None, False), ((0,), None, True),
     ((0, 1), None, False)],
)  # fmt: skip
def test_frozen_are_layers_whose_every_blob_has_rate_zero(
    rates: tuple[int, ...], count: int | None, frozen: bool
) -> None:
    layer = LayerParameter(type="InnerProduct", param=[ParamSpec(lr_mult=rate) for rate in rates])
    assert TargetLayer(layer, None if count is None else ((2,),) * count).frozen is frozen


def test_share_names() -> None:
    layer = LayerParameter(param=[ParamSpec(name="w"), ParamSpec()])
    assert [TargetLayer(layer, None).share_name(index) for index in range(3)] == ["w", "", ""]
