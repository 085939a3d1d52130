"""The table of a net, what is known of damaged ones, the inventory of binary files, and statistics in pieces."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from prototxt.conversion.file_content import contents_of
from prototxt.errors import PrototxtError, ShapeError
from prototxt.formats.scan import scan_weights
from prototxt.formats.weights import write_weights
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.schema.partial_load import load_partial
from prototxt.summary import net_summary, net_table, statistics, text_table, weights_summary
from prototxt.text.parser import parse

NET = """name: "n"
layer { name: "train" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
  image_data_param { source: "none" batch_size: 7 } }
layer { name: "test" type: "ImageData" top: "data" top: "label" include { phase: TEST }
  image_data_param { source: "none" batch_size: 5 } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" param { lr_mult: 0 } param { lr_mult: 0 }
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip" param { lr_mult: 0 }
  inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def listed(text: str = NET, **options: object) -> net_summary.NetListing:
    return net_summary.list_net(load_net(parse(text)), **options)  # type: ignore[arg-type]


def test_both_phases_in_one_table() -> None:
    found = listed(inputs={"data": (2, 3, 8, 8)})
    rows = {row.name: row for row in found.rows}
    assert [rows[name].phases for name in ("train", "test", "c")] == [("TRAIN",), ("TEST",), ("TRAIN", "TEST")]
    assert rows["c"].top_shapes == ((2, 4, 4, 4),)
    assert (rows["c"].state, rows["ip"].state, rows["r"].state) == (
        net_summary.FROZEN,
        net_summary.PARTLY,
        net_summary.NOTHING,
    )
    assert rows["c"].cost.macs == 2 * 4 * 16 * 27
    assert rows["c"].detail == "3x3 /2 pad 1, 4 outputs"
    assert rows["r"].in_place
    assert found.problems == (), "the labels follow the pictures' number"
    assert found.totals["TEST"] == net_summary.Totals(
        5, rows["c"].cost.macs + 2 * 128, 112 + 130, 112, 0, 519, 386 + 128, True
    )


def test_one_phase_and_the_text() -> None:
    found = listed(phase="TEST", inputs={"": (5, 3, 8, 8)})
    assert [row.name for row in found.rows] == ["test", "c", "r", "ip", "loss"]
    text = net_table.net_text(found)
    assert "in place" in text
    assert "phase" not in text
    assert "242 parameters, 112 of them frozen" in text


def test_what_is_not_known_is_told() -> None:
    found = listed()
    assert [problem for problem in found.problems if "--input-shape data=" in problem]
    assert not found.totals["TRAIN"].complete
    assert "at least" in net_table.net_text(found)
    report = json.loads(json.dumps(net_summary.listing_json(found)))
    assert report["layers"][2]["top_shapes"] == [[5, 4, None, None]]
    with pytest.raises(ShapeError, match="'x', which the net lacks"):
        listed(inputs={"x": (1,)})


def test_unknown_types() -> None:
    text = NET + 'layer { name: "m" type: "Mystery" bottom: "ip" top: "m" mystery_param { a: 1 } }'
    partial = load_partial(parse(text))
    found = net_summary.list_net(partial.net, "TEST", {"data": (5, 3, 8, 8)})
    assert [row.name for row in found.rows if not row.known] == ["m"]
    assert "type 'Mystery' is not known" in found.problems[0]
    told = net_table.net_text(found, partial.strange)
    assert "Mystery (unknown)" in told
    assert "not Caffe's: 'mystery_param' of LayerParameter at <text>:12:" in told


def test_mistakes_are_left_out() -> None:
    broken = NET.replace("stride: 2", "stride: TWO").replace("lr_mult: 0 }\n  conv", "lr_mult: }\n  conv")
    partial = load_partial(parse(broken, tolerant=True))
    assert len(partial.problems) == 2
    assert [layer.name for layer in partial.net.layer] == ["train", "test", "c", "r", "ip", "loss"]
    assert partial.net.layer[2].convolution_param.pad[0] == 1
    assert not partial.net.layer[2].convolution_param.stride


def test_texts_without_a_net() -> None:
    assert "no layers" in net_table.net_text(listed(""))
    for text in ("<svg><path/></svg>", "Dear reader,\nthis is prose.", "{", "layer"):
        with pytest.raises(PrototxtError, match="no layer can be read"):
            load_partial(parse(text, tolerant=True))


def test_batch_norm_moves_until_frozen() -> None:
    layer = LayerParameter(type="BatchNorm")
    assert net_summary.learning_state(layer, 3) == net_summary.MOVES
    layer.batch_norm_param.use_global_stats = True
    assert net_summary.learning_state(layer, 3) == net_summary.FROZEN


@pytest.mark.slow
def test_public_nets_are_all_listed(reference: Path) -> None:
    for path in sorted((reference / "corpus").glob("*.p*t*")):
        partial = load_partial(path)
        found = net_summary.list_net(partial.net)
        assert json.dumps(net_summary.listing_json(found))
        assert net_table.net_text(found, partial.strange)


@pytest.mark.parametrize("ending", ["caffemodel", "safetensors", "h5"])
def test_inventory_of_weights(ending: str, tmp_path: Path) -> None:
    values = np.array([[0, 1, np.nan], [-3, np.inf, 2]], np.float32)
    write_weights(tmp_path / f"w.{ending}", {"a": [values, np.zeros(4)], "b": [np.ones(())]})
    found = weights_summary.take_inventory(
        tmp_path / f"w.{ending}", contents_of(tmp_path / f"w.{ending}"), statistics=True
    )
    assert [(blob.layer, blob.index, blob.shape) for blob in found.blobs] == [
        ("a", 0, (2, 3)),
        ("a", 1, (4,)),
        ("b", 0, ()),
    ]
    first = found.blobs[0].statistics
    assert first == statistics.Statistics(6, -3.0, 2.0, 0.0, math.sqrt(14 / 4), 1, 1, 1)
    assert "11 values" in text_table.inventory_text(found)
    assert json.dumps(weights_summary.inventory_json(found), allow_nan=False)


def test_statistics_in_pieces_are_those_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(3, 2, 10_001).astype(np.float32)
    monkeypatch.setattr(statistics, "_CHUNK", 257)
    write_weights(tmp_path / "w.caffemodel", {"a": [values]})
    scan = scan_weights(tmp_path / "w.caffemodel")
    found = statistics.blob_statistics(scan, scan.entries[0].blobs[0])
    assert found.std == pytest.approx(values.astype(float).std(), rel=1e-12)
    assert found == statistics.array_statistics(values)
    empty = statistics.array_statistics(np.zeros(0, np.float32))
    assert (empty.count, empty.minimum) == (0, None)


def test_inventory_of_states_and_means(golden: Path) -> None:
    for name in ("snap_iter_10.solverstate", "snaph5_iter_10.solverstate.h5"):
        path = golden / "solvers" / "resume_sgd" / name
        found = weights_summary.take_inventory(path, contents_of(path), statistics=True)
        assert dict(found.facts)["iteration"] == 10
        assert found.blobs[0].statistics is not None
    path = golden / "formats" / "data" / "mean.binaryproto"
    found = weights_summary.take_inventory(path, contents_of(path))
    assert [blob.shape for blob in found.blobs] == [(10, 12)] * 3


def test_misfits(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.caffemodel", {"c": [np.ones((4, 3, 3, 2)), np.ones(4)], "x": [np.ones(1)]})
    found = weights_summary.take_inventory(tmp_path / "w.caffemodel", contents_of(tmp_path / "w.caffemodel"))
    wrong = weights_summary.weight_mismatches(found, listed(inputs={"": (5, 3, 8, 8)}).rows)
    assert wrong == [
        "blob 0 of layer 'c' is 4x3x3x3, its weights 4x3x3x2",
        "layer 'ip' has no weights in the file",
        "weights of 'x' belong to no layer",
    ]


def test_numbers_for_people() -> None:
    assert [text_table.amount(n) for n in (999, 1000, 724_406_816, 3_857_973_248)] == [
        "999",
        "1 k",
        "724.4 M",
        "3.858 G",
    ]
    assert [text_table.size_text(n) for n in (1023, 1024, 3 << 30)] == ["1023 B", "1 KiB", "3 GiB"]
