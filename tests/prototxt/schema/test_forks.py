"""Fields of forks are kept typed, fields of nobody as text, and neither under a number that clashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prototxt.edit import layer_view
from prototxt.errors import DecodeError
from prototxt.schema import forks
from prototxt.schema.decode import UnknownFieldWarning, decode
from prototxt.schema.encode import to_text
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, ReLUParameter
from prototxt.schema.params import param_count
from prototxt.shapes import infer
from prototxt.text.parser import parse

pytestmark = pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")


def decoded(text: str, name: str = "LayerParameter", *, strict: bool = True) -> Any:
    return decode(parse(text, "n"), name, strict=strict)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("permute_param { order: 0 order: 2 }", "permute_param.order", [0, 2]),
        ("prior_box_param { min_size: 30.5 flip: false }", "prior_box_param.flip", False),
        ("detection_output_param { code_type: CENTER_SIZE }", "detection_output_param.code_type", 2),
        ("roi_pooling_param { pooled_h: 7 }", "roi_pooling_param.pooled_h", 7),
        ("smooth_l1_loss_param { sigma: 3 }", "smooth_l1_loss_param.sigma", 3.0),
        ("psroi_pooling_param { group_size: 7 }", "psroi_pooling_param.group_size", 7),
        ("box_annotator_ohem_param { roi_per_img: 128 }", "box_annotator_ohem_param.roi_per_img", 128),
        ("reorg_param { stride: 2 }", "reorg_param.stride", 2),
        ("bn_param { bn_mode: INFERENCE }", "bn_param.bn_mode", 1),
        ("bn_param { slope_filler { value: 1 } frozen: true }", "bn_param.frozen", True),
        ("upsample_param { scale: 2 upsample_h: 45 }", "upsample_param.upsample_h", 45),
        ("shuffle_channel_param { group: 3 }", "shuffle_channel_param.group", 3),
        ("interp_param { zoom_factor: 8 }", "interp_param.zoom_factor", 8),
        ("margin_inner_product_param { type: QUADRUPLE }", "margin_inner_product_param.type", 3),
        ("transpose_param { dim: 3 dim: 2 }", "transpose_param.dim", [3, 2]),
    ],
)
def test_common_forks(text: str, path: str, value: object) -> None:
    found: Any = forks.fields(decoded(text))
    for name in path.split("."):
        found = getattr(found, name)
    assert (list(found) if isinstance(value, list) else found) == value


def test_fields_inside_caffes_own_messages() -> None:
    layer = decoded("pooling_param { pool: MAX ceil_mode: false } convolution_param { hole: 2 }")
    assert forks.has_fields(layer.pooling_param)
    assert forks.fields(layer.pooling_param).ceil_mode is False
    assert list(forks.fields(layer.convolution_param).hole) == [2]
    assert not forks.has_fields(layer)
    solver = decoded('ap_version: "11point" device_id: [0, 1]', "SolverParameter")
    assert forks.fields(solver).ap_version == "11point"
    assert list(forks.fields(solver).device_id) == [0, 1]


def test_a_singular_field_that_a_fork_repeats() -> None:
    solver = decoded("device_id: 0 device_id: 1 device_id: 2", "SolverParameter")
    assert list(forks.fields(solver).device_id) == [0, 1, 2]
    assert not solver.HasField("device_id")


def test_they_are_listed_in_a_warning_in_either_mode() -> None:
    for strict in (True, False):
        with pytest.warns(UnknownFieldWarning, match="n:1:1: 'permute_param' of LayerParameter"):
            decoded("permute_param { order: 1 }", strict=strict)


def test_mistakes_inside_them_are_errors() -> None:
    with pytest.raises(DecodeError, match="n:1:17: PermuteParameter has no field 'oder'"):
        decoded("permute_param { oder: 1 }")


def test_v1_types_of_forks() -> None:
    net = load_net(parse("layers { name: 'b' type: BN bn_param { frozen: true } } layers { type: UNPOOLING }"))
    assert [layer.type for layer in net.layer] == ["BN", "Unpooling"]
    assert forks.fields(net.layer[0]).bn_param.frozen


def test_they_survive_filtering_copying_and_the_wire() -> None:
    net = load_net(parse("layer { name: 'p' permute_param { order: 1 } mine: 5 }"), strict=False)
    layer = LayerParameter.FromString(filter_net(net).layer[0].SerializeToString())
    assert list(forks.fields(layer).permute_param.order) == [1]
    assert forks.unknown(layer) == [("mine", ": 5")]


def test_their_numbers_are_private() -> None:
    """A fork's number would be another field in Caffe: smooth_l1_loss_param has 148, Caffe's clip_param."""
    layer = decoded("smooth_l1_loss_param { sigma: 2 }")
    assert not layer.HasField("clip_param")
    assert layer.SerializeToString().startswith(b"\x82\xe2\x09")  # 20000 << 3 | 2


def test_unknown_fields_are_kept_as_text() -> None:
    text = "name: 'a' my_param { x: 1 # why\n } list: [1, 2] type: 'T' my_param: 3"
    layer = decoded(text, strict=False)
    assert forks.unknown(layer) == [("my_param", "{ x: 1 # why\n }"), ("list", ": [1, 2]"), ("my_param", ": 3")]
    assert decoded(to_text(layer), strict=False) == layer
    assert layer != decoded("name: 'a' type: 'T'")


def test_unknown_fields_beside_a_missing_required_one() -> None:
    with pytest.raises(DecodeError, match="ClipParameter needs the field 'max'"):
        decoded("clip_param { min: 1 mine: 2 }", strict=False)


def test_unknown_enum_values_are_kept_when_not_strict() -> None:
    net = load_net(parse("layers { name: 'x' type: MY_TYPE }"), strict=False)
    assert net.layer[0].type == "MY_TYPE"
    layer = decoded("pooling_param { pool: MEDIAN }", strict=False)
    assert forks.unknown(layer.pooling_param) == [("pool", ": MEDIAN")]


def test_a_message_that_no_fork_extends() -> None:
    with pytest.raises(TypeError, match="no fork extends ReLUParameter"):
        forks.fields(ReLUParameter())
    assert not forks.has_fields(ReLUParameter())


def test_forks_in_the_corpus(reference: Path) -> None:
    net = load_net(reference / "corpus" / "PSPNet__pspnet101_cityscapes_713.prototxt")
    found = [layer for layer in net.layer if forks.has_fields(layer)]
    assert {layer.type for layer in found} == {"BN", "Interp"}
    net = load_net(reference / "corpus" / "DeconvNet__DeconvNet_inference_deploy.prototxt")
    assert {layer.type for layer in net.layer if forks.has_fields(layer)} == {"BN", "Unpooling"}


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
def test_several_resize_params() -> None:
    text = 'layer { type: "AnnotatedData" top: "x" data_param { batch_size: 2 } transform_param { %s } }'
    one, other = "resize_param { height: 4 width: 5 }", "resize_param { height: 4 width: 6 }"
    for params, shape in (
        (one, (2, 3, 4, 5)),
        (one + one, (2, 3, 4, 5)),
        (one + other, (2, 3, 4, None)),
        ("", (2, 3, None, None)),
    ):
        net = load_net(parse(text % params))
        assert len(forks.fields(net.layer[0].transform_param).resize_param) == params.count("resize")
        assert infer(net).blobs["x"] == shape


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_of_c3d(bias: bool) -> None:
    term = f"bias_term: {str(bias).lower()}"
    new = f'layer {{ type: "Convolution3D" convolution3d_param {{ num_output: 2 kernel_depth: 3 {term} }} }}'
    old = f"layers {{ type: CONVOLUTION3D convolution_param {{ num_output: 2 kernel_depth: 3 {term} }} }}"
    for text in (new, old):
        (layer,) = load_net(parse(text)).layer
        (stated,) = layer_view.text_layers(parse(text).root)
        assert layer.type == stated.type == "Convolution3D"
        assert param_count(layer.type, layer) == param_count(stated.type, stated.body) == 1 + bias
