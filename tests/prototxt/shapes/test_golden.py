"""Every golden case of Caffe's: the shapes of all blobs and parameters, and all that it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import prototxt
from prototxt.shapes import UNKNOWN, Shape, infer

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("layers/*/meta.json"))

REFUSED = {
    "accuracy_label_count": "predictions 2x3x6x6 need 72 labels, but 2 holds 2",
    "argmax_top_k_gt": "top_k is 5, but there are only 3 values",
    "axis_out_of_range": "axis 2 is out of range for a blob of 2 axes",
    "blob_too_many_axes": "a blob of 33 axes is more than Caffe's 32",
    "bn_lr_mult": "the statistics are not learned, so their lr_mult must be 0",
    "concat_mismatch": "bottoms 2x3 and 3x3 differ outside axis 1",
    "contrastive_spatial": "features must be vectors, not 2x3x2x2",
    "conv_kernel_both": "kernel_size and kernel_h/kernel_w are both given",
    "conv_kernel_h_only": "kernel sizes must be at least 1, not 3x0",
    "conv_kernel_too_big": "the kernel, 9x9 with its dilation, does not fit the input, 6x6",
    "conv_no_kernel": "kernel_size is given 0 times for 2 spatial axes",
    "conv_num_output_0": "num_output must be at least 1",
    "crop_out_of_bounds": "axis 2: 5 elements from 2 on go beyond the bottom's 6",
    "deconv_nooutput": "num_output must be at least 1",
    "dup_top": "top blob 'y' is also made by another layer",
    "eltwise_coeff_count": "1 coefficient for 2 bottoms",
    "eltwise_mismatch": "bottom 0 is 2x3 and bottom 1 is 3x3",
    "euclidean_shape": "must have the same first dimension",
    "filter_selector_count": "as many rows as the selector: 2x3 and 3",
    "flatten_in_place": "cannot work in place",
    "include_and_exclude": "include and exclude rules are both given",
    "loss_weight_count": "loss_weight is given 2 times for 1 top",
    "lrn_even": "local_size must be odd, not 4",
    "lstm_bad_cont": "not 2x3 for 3x2x4",
    "negative_axis_too_low": "axis -3 is out of range",
    "pool_3d": "the bottom must have 4 axes",
    "pool_no_kernel": "the kernel must be kernel_size, or kernel_h and kernel_w",
    "pool_pad_ge_kernel": "the pad 2x2 must be smaller than the kernel 2x2",
    "propagate_down_count": "propagate_down is given 2 times for 1 bottom",
    "reshape_two_inferred": "the new shape has -1 more than once",
    "shared_decay_mismatch": "shared parameter 'w' has decay_mult 0 here, but 1 elsewhere",
    "shared_lr_mismatch": "shared parameter 'w' has lr_mult 2 here, but 1 elsewhere",
    "shared_permissive_count": "shared parameter 'w' has 12 elements here (4x3), but is 3x3",
    "shared_shape": "shared parameter 'w' is 4x4 here, but 4x3 in layer 'y'",
    "sigce_two_tops": "takes 1 top blob, but has 2",
    "slice_points_count": "2 slice points make 3 tops, but there are 2",
    "slice_uneven": "axis 1 of size 3 does not divide into 2 tops",
    "smloss_label_count": "predictions 2x3x6x6 need 72 labels, but 2 holds 2",
    "tile_zero": "tiles must be at least 1, not 0",
    "too_few_bottoms": "takes 2 bottom blobs, but has 1",
    "too_many_params": "3 param blocks for 2 parameters",
    "too_many_tops": "takes 1 top blob, but has 2",
    "unknown_type": "unknown type 'Foo'",
    "zero_dim_input": "the top would be empty: 0x3",
}
BY_THE_DECODER = {"clip_no_max", "unknown_field"}


def agrees(shape: Shape, recorded: list[int]) -> bool:
    """Equal where the dimension is known before the net runs."""
    if shape is UNKNOWN or len(shape) != len(recorded):
        return False
    return all(dim is None or dim == size for dim, size in zip(shape, recorded, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_shapes_are_caffes(case: str) -> None:
    folder = GOLDEN / "layers" / case
    net = prototxt.load_net(folder / "net.prototxt")
    recorded: dict[str, Any] = json.loads((folder / "meta.json").read_text())["net"]

    shapes = infer(net)

    blobs = {name: shape for name, shape in recorded["blobs"].items() if name in shapes.blobs or "_split_" not in name}
    wrong = {name: shape for name, shape in blobs.items() if not agrees(shapes.blobs[name], shape)}
    assert not wrong
    names = {layer.name for layer in net.layer}
    params = [layer["params"] for layer in recorded["layers"] if layer["type"] != "Split" or layer["name"] in names]
    assert [[list(shape) for shape in layer] for layer in shapes.params] == params


def test_dimensions_are_unknown_only_where_caffe_decides_at_run_time() -> None:
    unknown = set()
    for case in CASES:
        blobs = infer(prototxt.load_net(GOLDEN / "layers" / case / "net.prototxt")).blobs
        if any(None in shape for shape in blobs.values()):
            unknown.add(case)
    assert unknown == {"filter", "filter_all", "filter_none"}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_caffe_refuses_is_refused_with_a_place(case: str) -> None:
    path = GOLDEN / "errors" / f"{case}.prototxt"
    with pytest.raises(prototxt.PrototxtError) as caught:
        infer(prototxt.load_net(path))
    assert REFUSED[case] in caught.value.message
    assert f"{path.name}:" in str(caught.value.place)
    assert len(caught.value.errors) == 1


def test_every_recorded_error_is_covered() -> None:
    recorded = json.loads((GOLDEN / "errors" / "errors.json").read_text())
    nets = {name: entry for name, entry in recorded.items() if "/" not in name}
    assert {name for name, entry in nets.items() if not entry["ok"]} == set(REFUSED) | BY_THE_DECODER


@pytest.mark.parametrize(
    "case",
    ["bad_lr_policy_ok_as_net", "dropout_ratio_1", "dup_layer_names_ok", "no_name_layer_ok", "power_neg_base_nan_ok"],
)
def test_what_caffe_accepts_is_accepted(case: str) -> None:
    infer(prototxt.load_net(GOLDEN / "errors" / f"{case}.prototxt"))
