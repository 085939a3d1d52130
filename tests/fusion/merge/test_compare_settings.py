"""A fused layer that carries a source's weights must do with them what the source did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion.errors import MergeError
from fusion.merge.compare_settings import differing_settings
from fusion.merge.merge import plan_merge
from prototxt.formats.weights import write_weights
from prototxt.schema.load import load_net
from prototxt.schema.messages import NetParameter
from prototxt.text.parser import parse

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 dim: 8 dim: 8 } } }\n'
WEIGHTS = {
    "conv": [np.ones((4, 4, 3, 3), np.float32)],
    "bn": [np.ones(4, np.float32), np.ones(4, np.float32), np.ones(1, np.float32)],
    "ip": [np.ones((4, 4), np.float32)],
}
LAYERS = {
    "conv": 'type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 bias_term: false',
    "bn": 'type: "BatchNorm" batch_norm_param {',
    "ip": 'type: "InnerProduct" inner_product_param { num_output: 4 bias_term: false',
    "pool": 'type: "Pooling" pooling_param { kernel_size: 2',
    "lrn": 'type: "LRN" lrn_param {',
}


def layer(kind: str, name: str, more: str) -> str:
    data = 'layer { name: "flat" type: "Input" top: "flat" input_param { shape { dim: 1 dim: 4 } } }\n'
    bottom = "flat" if kind == "ip" else "data"
    return f'{DATA}{data}layer {{ name: "{name}" bottom: "{bottom}" top: "{name}" {LAYERS[kind]} {more} }} }}\n'


def planned(folder: Path, kind: str, ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    """The settings that differ, of a fused net with `ours` and a source with `theirs`."""
    (folder / "odd.prototxt").write_text(layer(kind, kind, theirs))
    write_weights(folder / "odd.caffemodel", WEIGHTS)
    fused: NetParameter = load_net(parse(layer(kind, f"odd/{kind}", ours), "fused.prototxt"))
    plan = plan_merge(fused, {"odd": (folder / "odd.prototxt", folder / "odd.caffemodel")})
    assert all(f"warning: layer '{name}'" in plan.table() for name in plan.differing)
    assert all(words[0] in plan.to_json() for words in plan.differing.values())
    return plan.differing


@pytest.mark.parametrize(
    ("kind", "ours", "theirs", "says"),
    [
        ("conv", "stride: 2", "", "stride is 2, and 1 in the source"),
        ("conv", "pad: 1", "pad_h: 1 pad_w: 2", "pad is 1, and 1x2 in the source"),
        ("conv", "dilation: 2", "dilation: 1", "dilation is 2, and 1 in the source"),
        ("conv", "pad_h: 1", "pad: 1", "pad is 1x0, and 1 in the source"),
        ("conv", "pad_w: 1", "pad: 1", "pad is 0x1, and 1 in the source"),
        ("conv", "stride: 1 stride: 2", "stride: 2", "stride is 1x2, and 2 in the source"),
        ("conv", "dilation: 1 dilation: 2", "", "dilation is 1x2, and 1 in the source"),
        ("conv", "force_nd_im2col: true", "", "force_nd_im2col is true, and false in the source"),
        ("lrn", "norm_region: WITHIN_CHANNEL", "", "norm_region is WITHIN_CHANNEL, and ACROSS_CHANNELS in the source"),
        ("bn", "eps: 1e-3", "", "eps is 0.001, and 1e-05 in the source"),
        ("pool", "pool: AVE", "", "pool is AVE, and MAX in the source"),
        ("lrn", "local_size: 3", "local_size: 5", "local_size is 3, and 5 in the source"),
    ],
)
def test_other_settings_are_warned_of(tmp_path: Path, kind: str, ours: str, theirs: str, says: str) -> None:
    assert planned(tmp_path, kind, ours, theirs) == {f"odd/{kind}": (says,)}


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("conv", "stride: 1 pad: 0", ""),
        ("conv", "pad_h: 1 pad_w: 1", "pad: 1"),
        ("conv", 'weight_filler { type: "xavier" }', "engine: CUDNN"),
        ("conv", "stride: 2 stride: 2", "stride: 2"),
        ("bn", "use_global_stats: true", "moving_average_fraction: 0.9"),
        ("pool", "pool: MAX", ""),
        ("conv", "dilation: 1 dilation: 1", ""),
        ("conv", "stride_h: 2 stride_w: 2", "stride: 2"),
    ],
)
def test_the_same_in_other_words_is_not(tmp_path: Path, kind: str, ours: str, theirs: str) -> None:
    assert planned(tmp_path, kind, ours, theirs) == {}


@pytest.mark.parametrize(("kind", "ours"), [("ip", "transpose: true"), ("conv", "group: 2")])
def test_settings_that_give_the_numbers_another_meaning_are_refused(tmp_path: Path, kind: str, ours: str) -> None:
    with pytest.raises(MergeError, match=r"fused\.prototxt:3:1: layer 'odd/.*' would read its weights in another way"):
        planned(tmp_path, kind, ours, "")


CASES = [
    ("InnerProduct", "inner_product_param { axis: 2 }", "", ["axis is 2, and 1 in the source"], []),
    ("InnerProduct", "inner_product_param { bias_term: false }", "", ["bias_term is false, and true in the source"],
     []),
    ("InnerProduct", "inner_product_param { num_output: 2 }", "inner_product_param { num_output: 3 }", [], []),
    ("Scale", "scale_param { num_axes: 2 }", "", ["num_axes is 2, and 1 in the source"], []),
    ("Scale", 'scale_param { filler { type: "xavier" } }', "", [], []),
    ("ReLU", "relu_param { negative_slope: 0.5 }", "", [], ["negative_slope is 0.5, and 0 in the source"]),
    ("ReLU", "", "relu_param { negative_slope: 0.5 }", [], ["negative_slope is 0, and 0.5 in the source"]),
    ("Slice", "slice_param { slice_point: 1 slice_point: 3 }", "slice_param { slice_point: 2 }", [],
     ["slice_point is 1x3, and 2 in the source"]),
    ("Slice", "slice_param { slice_point: 1 }", "", [], ["slice_point is 1, and nothing in the source"]),
    ("Dropout", "dropout_param { dropout_ratio: 0.1 }", "", [], []),
    ("Data", "data_param { batch_size: 1 }", "", [], []),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "ours", "theirs", "grave", "slight"), CASES)
def test_which_settings_the_weights_depend_on(
    kind: str, ours: str, theirs: str, grave: list[str], slight: list[str]
) -> None:
    fused, source = (
        load_net(parse(f'layer {{ name: "n" type: "{kind}" {text} }}')).layer[0] for text in (ours, theirs)
    )
    assert differing_settings(fused, source) == (grave, slight)
    source.type = "Other"
    assert differing_settings(fused, source) == ([], [])


def test_folds_are_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = layer("conv", "f1/conv", "") + layer("conv", "f2/conv", "")[len(DATA) :].partition("\n")[2]
    for number in (1, 2):
        write_weights(tmp_path / f"{number}.caffemodel", {"conv": [np.full((4, 4, 3, 3), number, np.float32)]})
    fused: NetParameter = load_net(parse(text, "fused.prototxt"))
    plan = plan_merge(fused, {"f": "*.caffemodel"})
    assert {prefix: source.label for prefix, source in plan.sources.items()} == {
        "f1": "1.caffemodel",
        "f2": "2.caffemodel",
    }
