"""The words and numbers of the tables: each layer's settings, units, statistics, and what does not fit."""

# ruff: noqa: E501 - tables of texts

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from prototxt.conversion.file_content import contents_of
from prototxt.errors import WeightsError
from prototxt.formats.datum import write_mean
from prototxt.formats.hdf5_writer import SlashWarning
from prototxt.formats.scan import scan_weights
from prototxt.formats.solverstate import SolverState, write_solverstate
from prototxt.formats.weights import write_weights
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, ParamSpec, SolverParameter
from prototxt.shapes.costs import Cost
from prototxt.summary import net_summary, net_table, statistics
from prototxt.summary.layer_summary import summary
from prototxt.summary.text_table import amount, format_table, inventory_text, size_text
from prototxt.summary.weights_summary import (
    BlobSummary,
    Inventory,
    dims_text,
    inventory_json,
    take_inventory,
    weight_mismatches,
)
from prototxt.text.parser import parse


@pytest.mark.parametrize(("layer", "words"), [
    ("Convolution convolution_param { num_output: 4 kernel_size: 3 }", "3x3, 4 outputs"),
    ("Convolution convolution_param { num_output: 4 kernel_size: 3 stride: 1 pad: 0 dilation: 1 group: 1 }", "3x3, 4 outputs"),
    ("Convolution convolution_param { num_output: 4 kernel_h: 1 kernel_w: 7 stride_h: 2 stride_w: 1 pad_w: 3 }", "1x7 /2x1 pad 0x3, 4 outputs"),
    ("Deconvolution convolution_param { num_output: 4 kernel_size: 2 stride: 2 dilation: 2 group: 2 }", "2x2 /2, dilation 2, 2 groups, 4 outputs"),
    ("Convolution convolution_param { num_output: 4 kernel_size: [1, 2, 3] pad: [0, 1, 1] }", "1x2x3 pad 0x1x1, 4 outputs"),
    ("Convolution convolution_param { num_output: 4 }", "4 outputs"),
    ("Pooling pooling_param { kernel_size: 3 stride: 2 }", "MAX 3x3 /2"),
    ("Pooling pooling_param { pool: AVE global_pooling: true }", "AVE global"),
    ("Pooling pooling_param { kernel_h: 2 kernel_w: 3 pad: 1 }", "MAX 2x3 pad 1"),
    ("InnerProduct inner_product_param { num_output: 5 }", "5 outputs"),
    ("Embed embed_param { num_output: 5 input_dim: 7 }", "5 outputs of 7"),
    ("Dropout", "0.5"),
    ("LRN lrn_param { local_size: 3 }", "over 3"),
    ("Eltwise eltwise_param { operation: MAX }", "MAX"),
    ("Reduction reduction_param { operation: MEAN }", "MEAN"),
    ("Concat concat_param { axis: 2 }", "axis 2"),
    ("Slice", "axis 1"),
    ("LSTM recurrent_param { num_output: 6 }", "6 outputs"),
    ("Python python_param { module: 'm' layer: 'L' }", "m.L"),
    ("Onnx onnx_param { file: 'a.onnx' }", "a.onnx"),
    ("ImageData image_data_param { source: 's' batch_size: 3 }", "s, 3 at a time"),
    ("Data data_param { source: 'd' batch_size: 2 }", "d, 2 at a time"),
    ("Data", ""),
    ("ReLU", ""),
])  # fmt: skip
def test_the_main_settings_of_a_layer(layer: str, words: str) -> None:
    kind, _, settings = layer.partition(" ")
    assert summary(load_net(parse(f'layer {{ name: "n" type: "{kind}" {settings} }}')).layer[0]) == words


@pytest.mark.parametrize(("number", "words"), [
    (0, "0"), (999, "999"), (1000, "1 k"), (999_999, "1000 k"), (10**6, "1 M"), (10**9, "1 G"), (10**12, "1 T"), (1234, "1.234 k"),
])  # fmt: skip
def test_amounts(number: int, words: str) -> None:
    assert amount(number) == words


@pytest.mark.parametrize(("count", "words"), [
    (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1 << 20, "1 MiB"), ((1 << 20) - 1, "1024 KiB"), (1 << 30, "1 GiB"), (3 << 19, "1.5 MiB"),
])  # fmt: skip
def test_sizes(count: int, words: str) -> None:
    assert size_text(count) == words


def test_columns_are_aligned() -> None:
    table = format_table(["a", "n"], [["xx", "1"], ["y", "200"]], right=("n",))
    assert table.splitlines() == ["a     n", "--  ---", "xx    1", "y   200"]


VALUES = np.array([-2, 0, 0, 3, np.nan, np.inf, -np.inf, np.nan, 5], np.float32)
EXPECTED = statistics.Statistics(9, -2.0, 5.0, 1.2, math.sqrt(38 / 5 - 1.44), 2, 2, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, 100])
def test_statistics_of_finite_values_in_pieces_of_any_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK", size)
    found = statistics.array_statistics(VALUES)
    assert (found.count, found.minimum, found.maximum, found.zeros, found.nans, found.infs) == (9, -2, 5, 2, 2, 2)
    assert (found.mean, found.std) == (pytest.approx(1.2), pytest.approx(EXPECTED.std))


def test_statistics_without_a_finite_value() -> None:
    assert statistics.array_statistics(np.array([np.nan, np.inf], np.float32)) == statistics.Statistics(
        2, None, None, None, None, 0, 1, 1
    )


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8"])
def test_statistics_of_every_stored_type(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(statistics, "_CHUNK", 4)
    values = np.arange(-5, 6).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data/a/0"] = values
        file.create_dataset("data/a/1", data=values, chunks=(4,))
    scan = scan_weights(tmp_path / "a.h5")
    for blob in scan.entries[0].blobs:
        found = statistics.blob_statistics(scan, blob)
        assert (found.count, found.minimum, found.maximum, found.zeros) == (11, -5, 5, 1)
        assert (found.mean, found.std) == (pytest.approx(0), pytest.approx(math.sqrt(10)))


def test_statistics_of_a_file_that_has_changed(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.caffemodel", {"a": [np.ones(3)]})
    scan = scan_weights(tmp_path / "a.caffemodel")
    write_weights(tmp_path / "a.caffemodel", {"a": [np.ones(2)]})
    with pytest.raises(WeightsError, match="has changed since"):
        statistics.blob_statistics(scan, scan.entries[0].blobs[0])


def inventory(path: Path, **options: bool) -> Inventory:
    return take_inventory(path, contents_of(path), **options)


def test_the_table_of_weights(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.caffemodel", {"a": [VALUES, np.ones((1000, 2))]})
    assert inventory_text(inventory(tmp_path / "a.caffemodel", statistics=True)).splitlines() == [
        "weights (caffemodel)",
        "blob  shape   values  min  max  mean    std  zeros  NaN, inf",
        "----  ------  ------  ---  ---  ----  -----  -----  --------",
        "a/0   9            9   -2    5   1.2  2.482      2         4",
        "a/1   1000x2   2,000    1    1     1      0",
        "1 layers, 2 blobs, 2,009 values (7.848 KiB)",
    ]
    plain = inventory_text(inventory(tmp_path / "a.caffemodel"))
    assert plain.splitlines()[1] == "blob  shape   values"


def test_facts_of_states_and_types_of_layers(tmp_path: Path) -> None:
    write_solverstate(tmp_path / "a.solverstate", SolverState(7, "w.caffemodel", [np.ones((2, 3), np.float32)], 2))
    found = inventory(tmp_path / "a.solverstate", statistics=True)
    assert inventory_text(found).startswith("solver state, iteration 7, weights w.caffemodel, step 2\n")
    assert (found.layers, found.blobs[0].layer, found.blobs[0].statistics is None) == (0, "history", False)
    assert inventory(tmp_path / "a.solverstate").blobs[0].statistics is None
    net = load_net(parse('name: "n" layer { name: "ip" type: "InnerProduct" }'))
    write_weights(tmp_path / "a.caffemodel", {"ip": [np.ones(())]}, net=net)
    text = [" ".join(line.split()) for line in inventory_text(inventory(tmp_path / "a.caffemodel")).splitlines()]
    assert text[0] == "weights (caffemodel), net n"
    assert text[1:4:2] == ["blob type shape values", "ip/0 InnerProduct scalar 1"]
    found = inventory(tmp_path / "a.caffemodel")
    assert inventory_json(found) == {
        "kind": "weights (caffemodel)", "net": "n", "layers": 1, "values": 1,
        "blobs": [{"layer": "ip", "type": "InnerProduct", "index": 0, "shape": [], "dtype": "<f4", "statistics": None}],
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(3, 2, 4), (1, 3, 2, 4), (2, 4)])
def test_means_by_channel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    mean = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.save(tmp_path / "m.npy", mean)
    found = inventory(tmp_path / "m.npy")
    channels = 1 if len(shape) == 2 else 3
    assert found.facts == (("shape", "2x4" if channels == 1 else "3x2x4"),)
    assert [blob.statistics.mean for blob in found.blobs if blob.statistics] == [3.5 + 8 * i for i in range(channels)]
    if shape == (3, 2, 4):
        write_mean(tmp_path / "m.binaryproto", mean)
        assert inventory(tmp_path / "m.binaryproto").blobs == found.blobs
    (tmp_path / "m.npy").write_bytes((tmp_path / "m.npy").read_bytes()[:-4])
    with pytest.raises(WeightsError, match="NumPy cannot read the array"):
        inventory(tmp_path / "m.npy")


def test_a_file_with_slashes(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    with pytest.warns(SlashWarning):
        write_weights(tmp_path / "a.h5", {"odd/ip": [np.ones(2)]})
    assert [blob.layer for blob in inventory(tmp_path / "a.h5").blobs] == ["odd/ip"]


def row(name: str, *params: tuple[int | None, ...]) -> net_summary.LayerRow:
    cost = Cost(0, 0, 0, 0)
    return net_summary.LayerRow(0, name, "t", (), (), (), (), (), params, cost, "", (), True, "")


def test_weights_that_do_not_fit_the_net() -> None:
    blobs = [
        BlobSummary("a", "", 0, (2, 3), "<f4"),
        BlobSummary("a", "", 1, (2,), "<f4"),
        BlobSummary("n", "", 0, (1,), "<f4"),
    ]
    found = Inventory("p", "k", (), 2, tuple(blobs))
    assert weight_mismatches(found, [row("a", (2, 3), (2,)), row("n", (1,)), row("r")]) == []
    assert weight_mismatches(found, [row("a", (2, None), (None,)), row("n", (1,))]) == []
    assert weight_mismatches(found, [row("a", (2, 4), (3,)), row("b", (1,))]) == [
        "blob 0 of layer 'a' is 2x4, its weights 2x3",
        "blob 1 of layer 'a' is 3, its weights 2",
        "layer 'b' has no weights in the file",
        "weights of 'n' belong to no layer",
    ]
    assert weight_mismatches(found, [row("a", (2, 3)), row("n")]) == ["layer 'a' has 1 blobs, its weights 2"]
    assert dims_text((1, None, 3)) == "1x?x3"


@pytest.mark.parametrize(("kind", "rates", "count", "state"), [
    ("InnerProduct", (), 2, net_summary.LEARNS), ("InnerProduct", (0, 0), 2, net_summary.FROZEN), ("InnerProduct", (0,), 2, net_summary.PARTLY),
    ("InnerProduct", (0, 1), 2, net_summary.PARTLY), ("InnerProduct", (0, 1), 1, net_summary.FROZEN), ("ReLU", (), 0, net_summary.NOTHING),
    ("Own", (), None, net_summary.NOTHING), ("Own", (0,), None, net_summary.FROZEN), ("Own", (1,), None, net_summary.LEARNS),
    ("BatchNorm", (1, 1, 1), 3, net_summary.MOVES), ("BatchNorm", (), 5, net_summary.LEARNS), ("BatchNorm", (0, 0, 0, 0, 0), 5, net_summary.MOVES),
    ("BatchNorm", (0, 0, 0, 0, 1), 5, net_summary.PARTLY), ("Onnx", (), 0, net_summary.LEARNS),
])  # fmt: skip
def test_what_training_changes(kind: str, rates: tuple[int, ...], count: int | None, state: str) -> None:
    layer = LayerParameter(type=kind, param=[ParamSpec(lr_mult=rate) for rate in rates])
    assert net_summary.learning_state(layer, count) == state
    layer.onnx_param.frozen = True
    assert net_summary.learning_state(LayerParameter(type="Onnx", onnx_param=layer.onnx_param), 0) == net_summary.FROZEN


def test_solver_settings() -> None:
    solver = SolverParameter(net="n", base_lr=0.1, stepvalue=[1, 2], solver_mode=SolverParameter.CPU, debug_info=True)
    solver.net_param.layer.add(name="a")
    solver.train_state.stage.append("s")
    found = net_table.settings(solver)
    assert found == {
        "net": "n", "base_lr": 0.1, "stepvalue": [1, 2], "solver_mode": "CPU", "debug_info": True,
        "net_param": "a net of 1 layers", "train_state": 'stage: "s"',
    }  # fmt: skip
    assert net_table.settings_text({"a": [1, 2], "bcd": 0.5}) == "a    1, 2\nbcd  0.5\n"
    assert net_table.settings_text({}) == ""


@pytest.mark.parametrize("count", [0, 12, 13, 20])
def test_twelve_problems_and_kinds_are_shown(count: int) -> None:
    text = net_table.problems_text([f"p{index}" for index in range(count)])
    more = f"not known: and {count - 12} more (--json lists all)\n" if count > 12 else ""
    assert text == "".join(f"not known: p{index}\n" for index in range(min(count, 12))) + more
    listing = net_summary.NetListing("", (), {})
    strange = [(f"f:{index}:1", f"k{index}") for index in range(count)]
    lines = net_table.net_text(listing, strange).splitlines()[2:]
    assert lines[:12] == [f"not Caffe's: k{index} at f:{index}:1" for index in range(min(count, 12))]
    assert lines[12:] == ([f"not Caffe's: and {count - 12} other kinds (--json lists all)"] if count > 12 else [])


def test_kinds_of_foreign_fields_are_counted() -> None:
    listing = net_summary.NetListing("", (), {})
    text = net_table.net_text(listing, [("f:1:1", "a"), ("f:2:1", "a"), ("", "b"), ("f:3:1", "a")])
    assert text.splitlines() == [
        "a net without a name",
        "no layers",
        "not Caffe's: a at f:1:1 and 2 more",
        "not Caffe's: b",
    ]


TABLE = """name: "n"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" param { name: "w" } convolution_param { num_output: 1000 kernel_size: 8 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "t" type: "BatchNorm" bottom: "c" top: "t" include { phase: TEST } }
"""


def test_the_table_of_a_net() -> None:
    text = net_table.net_text(net_summary.list_net(load_net(parse(TABLE))))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["net", "'n'"]
    assert lines[3] == ["x", "Input", "x", "2x3x8x8", "1.5", "KiB"]
    assert lines[4][:8] == ["c", "Convolution", "x", "c", "2x1000x1x1", "193,000", "384", "k"]
    assert lines[4][8:10] == ["7.812", "KiB"]
    assert lines[4][-1] == "(shared)"
    assert lines[5] == ["r", "ReLU", "c", "in", "place"]
    assert lines[6][-1] == "TEST"
    assert lines[6][5] == "2,001"
    assert "TRAIN: 3 layers, 384 k MACs, 193,000 parameters (753.9 KiB), blobs 9.312 KiB, 9.312 KiB at one time" in text
    assert "TEST: 4 layers, 384 k MACs, 193,000 parameters and 2,001 statistics (761.7 KiB)" in text


def test_long_lists_of_blobs_are_cut() -> None:
    for length, shown in ((44, "y" * 44), (45, "y" * 41 + "...")):
        text = TABLE.replace('"x"', f'"{"y" * length}"')
        line = net_table.net_text(net_summary.list_net(load_net(parse(text)))).splitlines()[4]
        assert line.split()[2] == shown
