"""Everything that Caffe was seen to refuse is refused, with the place and in our own words; all else is accepted.

The table is complete: a case that is recorded and not listed here fails.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusion.errors import FusionError
from fusion.nets import build as nets
from fusion.nets.weights import load_weights
from fusion.solver import Solver
from prototxt.errors import PrototxtError

ERRORS = Path(__file__).parents[2] / "golden" / "errors"
RECORDED = json.loads((ERRORS / "errors.json").read_text(encoding="utf-8"))

REFUSED = {
    "accuracy_label_count": "predictions 2x3x6x6 need 72 labels, but 2 holds 2",
    "argmax_top_k_gt": "top_k is 5, but there are only 3 values to choose from",
    "axis_out_of_range": "axis 2 is out of range for a blob of 2 axes (2x3)",
    "blob_too_many_axes": "a blob of 33 axes is more than Caffe's 32",
    "bn_lr_mult": "the statistics are not learned, so their lr_mult must be 0",
    "clip_no_max": "ClipParameter needs the field 'max'",
    "concat_mismatch": "bottoms 2x3 and 3x3 differ outside axis 1",
    "contrastive_spatial": "features must be vectors, not 2x3x2x2",
    "conv_kernel_both": "kernel_size and kernel_h/kernel_w are both given",
    "conv_kernel_h_only": "kernel sizes must be at least 1, not 3x0",
    "conv_kernel_too_big": "does not fit the input, 6x6 without pad",
    "conv_no_kernel": "kernel_size is given 0 times for 2 spatial axes",
    "conv_num_output_0": "num_output must be at least 1",
    "crop_out_of_bounds": "axis 2: 5 elements from 2 on go beyond the bottom's 6",
    "deconv_nooutput": "num_output must be at least 1",
    "dup_top": "top blob 'y' is also made by another layer",
    "eltwise_coeff_count": "1 coefficient for 2 bottoms",
    "eltwise_mismatch": "all bottoms must have one shape, but bottom 0 is 2x3 and bottom 1 is 3x3",
    "euclidean_shape": "predictions 2x3 and labels 3x2 must have the same first dimension",
    "filter_selector_count": "bottoms must have as many rows as the selector: 2x3 and 3",
    "flatten_in_place": "cannot work in place",
    "include_and_exclude": "layer 'y' has both include and exclude rules",
    "loss_weight_count": "loss_weight is given 2 times for 1 top",
    "lrn_even": "local_size must be odd, not 4",
    "lstm_bad_cont": "the markers must be [T, N] like the input's first axes, not 2x3 for 3x2x4",
    "negative_axis_too_low": "axis -3 is out of range for a blob of 2 axes (2x3)",
    "pool_3d": "the bottom must have 4 axes (num, channels, height, width), not 2x3x4",
    "pool_no_kernel": "the kernel must be kernel_size, or kernel_h and kernel_w",
    "pool_pad_ge_kernel": "the pad 2x2 must be smaller than the kernel 2x2",
    "propagate_down_count": "propagate_down is given 2 times for 1 bottom",
    "reshape_two_inferred": "the new shape has -1 more than once",
    "shared_decay_mismatch": "shared parameter 'w' has decay_mult 0 here, but 1 elsewhere",
    "shared_lr_mismatch": "shared parameter 'w' has lr_mult 2 here, but 1 elsewhere",
    "shared_permissive_count": "shared parameter 'w' has 12 elements here (4x3), but is 3x3 in layer 'y'",
    "shared_shape": "shared parameter 'w' is 4x4 here, but 4x3 in layer 'y'",
    "sigce_two_tops": "takes 1 top blob, but has 2",
    "slice_points_count": "2 slice points make 3 tops, but there are 2",
    "slice_uneven": "axis 1 of size 3 does not divide into 2 tops",
    "smloss_label_count": "predictions 2x3x6x6 need 72 labels, but 2 holds 2",
    "solver/bad_reg": "unknown regularization type 'L3'",
    "solver/bad_type": "unknown solver type 'Foo'",
    "solver/nesterov_delta": "momentum cannot be used with AdaGrad",
    "solver/no_policy": "unknown learning rate policy ''",
    "solver/rms_decay_1": "rms_decay must lie in [0, 1), not 1",
    "solver/rms_momentum": "momentum cannot be used with RMSProp",
    "solver/step_no_stepsize": 'lr_policy "step" needs a positive stepsize',
    "tile_zero": "tiles must be at least 1, not 0",
    "too_few_bottoms": "takes 2 bottom blobs, but has 1",
    "too_many_params": "3 param blocks for 2 parameters",
    "too_many_tops": "takes 1 top blob, but has 2",
    "unknown_field": "ReLUParameter has no field 'slope'",
    "unknown_type": "unknown type 'Foo'",
    "weights/blob_count_mismatch": "layer 'ip': needs 1 blobs, given 2",
    "zero_dim_input": "the top would be empty: 0x3",
}
# Cases that the recording program made and Caffe has no word about in errors.json.
UNRECORDED = {
    "solver/bad_policy": "unknown learning rate policy 'foo'",
    "weights/shape_mismatch": "layer 'ip': blob 0 has the shape",
}


def attempt(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do with a case what Caffe did: build the net, make the solver, or load the weights."""
    stage, _, name = case.rpartition("/")
    folder = ERRORS / "weights"
    if stage == "solver":
        monkeypatch.chdir(folder)
        Solver(folder / f"solver_{name}.prototxt")
    elif stage == "weights":
        load_weights(nets.build(folder / f"{name}.prototxt", seed=0), folder / "src.caffemodel")
    else:
        nets.build(ERRORS / f"{name}.prototxt", RECORDED[case]["phase"], seed=0)


def file_of(case: str) -> str:
    stage, _, name = case.rpartition("/")
    return {"solver": f"solver_{name}.prototxt", "weights": "src.caffemodel"}.get(stage, f"{name}.prototxt")


@pytest.mark.parametrize("case", [*REFUSED, *UNRECORDED])
def test_what_caffe_refuses(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((PrototxtError, FusionError)) as caught:
        attempt(case, monkeypatch)
    first = str(caught.value).partition("\n")[0]
    assert {**REFUSED, **UNRECORDED}[case] in first
    assert f"{file_of(case)}:" in first


@pytest.mark.parametrize("case", [name for name, entry in RECORDED.items() if entry["ok"]])
def test_what_caffe_accepts(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(case, monkeypatch)


def test_no_case_is_forgotten() -> None:
    assert {name for name, entry in RECORDED.items() if not entry["ok"]} == set(REFUSED)
    nets_, others = ERRORS.glob("*.prototxt"), (ERRORS / "weights").glob("*.prototxt")
    assert {path.stem for path in nets_} == {name for name in RECORDED if "/" not in name}
    listed = {file_of(name) for name in [*REFUSED, *UNRECORDED] if name.startswith("solver/")}
    listed |= {name.partition("/")[2] + ".prototxt" for name in [*REFUSED, *UNRECORDED] if name.startswith("weights/")}
    assert {path.name for path in others} == listed | {"src.prototxt", "train.prototxt"}
