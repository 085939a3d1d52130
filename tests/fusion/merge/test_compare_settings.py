"""A fused layer that carries a source's weights must do with them what the source did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion.errors import MergeError
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
    ],
)
def test_the_same_in_other_words_is_not(tmp_path: Path, kind: str, ours: str, theirs: str) -> None:
    assert planned(tmp_path, kind, ours, theirs) == {}


@pytest.mark.parametrize(("kind", "ours"), [("ip", "transpose: true"), ("conv", "group: 2")])
def test_settings_that_give_the_numbers_another_meaning_are_refused(tmp_path: Path, kind: str, ours: str) -> None:
    with pytest.raises(MergeError, match=r"fused\.prototxt:3:1: layer 'odd/.*' would read its weights in another way"):
        planned(tmp_path, kind, ours, "")


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
