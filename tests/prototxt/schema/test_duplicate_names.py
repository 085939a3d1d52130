"""Layers of one name: refused wherever weights are identified by name, unless nothing can be lost."""

# ruff: noqa: E501 - tables of texts

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prototxt import WeightsError, load_net, parse, read_weights, write_weights
from prototxt.errors import PlacedError
from prototxt.formats.caffemodel import CaffemodelWriter
from prototxt.schema.duplicate_names import check_layer_names

CONV = 'layer { name: "%s" type: "%s" bottom: "a" top: "%s" %s }\n'


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (("c", "Convolution", "x", ""), ("c", "Convolution", "y", ""), True),
        (("c", "Convolution", "x", ""), ("d", "Convolution", "y", ""), False),
        (("c", "ReLU", "x", ""), ("c", "Convolution", "y", ""), False),
        (("c", "Convolution", "x", "include { phase: TRAIN }"), ("c", "Convolution", "y", "include { phase: TEST }"), False),
        (("c", "Convolution", "x", "include { phase: TEST }"), ("c", "Convolution", "y", ""), True),
        (("c", "Own", "x", "param { }"), ("c", "Own", "y", "param { }"), True),
        (("c", "Own", "x", ""), ("c", "Own", "y", ""), False),
        (("c", "Convolution", "x", 'param { name: "w" } param { name: "b" }'), ("c", "Convolution", "y", 'param { name: "w" } param { name: "b" }'), False),
        (("c", "Convolution", "x", 'param { name: "w" }'), ("c", "Convolution", "y", 'param { name: "w" }'), True),
        (("c", "Convolution", "x", 'param { name: "w" } param { name: "b" }'), ("c", "Convolution", "y", 'param { name: "w" } param { name: "d" }'), True),
    ],
)  # fmt: skip
def test_which_nets_are_refused(first: tuple[str, ...], second: tuple[str, ...], refused: bool) -> None:
    net = load_net(parse(CONV % first + CONV % second, "net.prototxt"), strict=False)
    if not refused:
        check_layer_names(net)
        return
    with pytest.raises(WeightsError, match=r"net\.prototxt:2:1: a second layer named 'c' holds weights"):
        check_layer_names(net)


def test_files_with_two_layers_of_one_name(tmp_path: Path) -> None:
    one, other = np.arange(3, dtype=np.float32), np.arange(3, dtype=np.float32) + 1
    for blobs, refused in (((one, other), True), ((one, one), False), ((one, one[:2]), True)):
        with CaffemodelWriter(tmp_path / "w.caffemodel") as writer:
            writer.add_layer("c", "Bias", blobs=[blobs[0]])
            writer.add_layer("r", "ReLU")
            writer.add_layer("c", "Bias", blobs=[blobs[1]])
        if refused:
            with pytest.raises(WeightsError, match="two layers named 'c' hold different weights"):
                read_weights(tmp_path / "w.caffemodel")
        else:
            np.testing.assert_array_equal(read_weights(tmp_path / "w.caffemodel")["c"][0], one)


def test_nothing_is_lost_in_merging_and_surgery(tmp_path: Path) -> None:
    from fusion.merge.merge import plan_merge
    from fusion.surgery.bake_weighted_sums import bake
    from fusion.surgery.dense import to_convolution
    from fusion.surgery.fold_batch_norm import fold
    from fusion.surgery.horizontal import fuse_horizontally

    text = 'input: "a" input_shape { dim: 1 dim: 1 dim: 3 dim: 3 }\n'
    shape = "convolution_param { num_output: 1 kernel_size: 1 }"
    document = parse(text + CONV % ("p/c", "Convolution", "x", shape) + CONV % ("p/c", "Convolution", "y", shape))
    weights = {"c": [np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)]}
    write_weights(tmp_path / "w.caffemodel", weights)
    (tmp_path / "n.prototxt").write_text(str(document).replace("p/c", "c"))
    fine = load_net(parse(text + CONV % ("p/c", "Convolution", "x", shape)))
    assert len(plan_merge(fine, {"p": weights}).layers) == 2
    for attempt in (
        lambda: plan_merge(load_net(document), {"p": weights}),
        lambda: plan_merge(fine, {"p": (tmp_path / "n.prototxt", tmp_path / "w.caffemodel")}),
        lambda: fold(document, weights),
        lambda: bake(document, weights),
        lambda: to_convolution(document, weights),
        lambda: fuse_horizontally(document, weights, ["p", "q"]),
    ):
        with pytest.raises(PlacedError, match=r"a second layer named '(p/)?c' holds weights"):
            attempt()
