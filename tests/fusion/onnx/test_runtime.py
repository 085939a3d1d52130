"""ONNX Runtime as a second opinion: any value of a file, fixed batches, inputs of whole numbers, and its errors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fusion.errors import ExportError, OnnxError
from fusion.onnx.runtime import cast_input, inference_session, integer_dtype, run_file

pytest.importorskip("onnxruntime")
X = np.arange(15, dtype=np.float32).reshape(5, 3)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(batch: int | str = "N", kind: int = TensorProto.FLOAT) -> None:
    """Write net.onnx: y = 2 (x + x) for x [batch, 3], with the inner value s = x + x."""
    nodes = [helper.make_node("Add", ["x", "x"], ["s"]), helper.make_node("Add", ["s", "s"], ["y"])]
    ends = [helper.make_tensor_value_info(name, kind, [batch, 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "net.onnx")


@pytest.mark.parametrize("batch", ["N", 1, 5])
def test_outputs_and_inner_values_in_the_requested_order(batch: int | str) -> None:
    write(batch)
    found = run_file("net.onnx", ["s", "y"], {"x": X, "unused": X})
    assert list(found) == ["s", "y"]
    np.testing.assert_array_equal(found["s"], 2 * X)
    np.testing.assert_array_equal(found["y"], 4 * X)


def test_inputs_that_no_node_reads_need_no_values() -> None:
    """TensorFlow's exporter lists constants of layers that it has folded as inputs."""
    write()
    made = onnx.load("net.onnx")
    for place, name in ((0, "mean"), (2, "std")):
        made.graph.input.insert(place, helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]))
    onnx.save(made, "net.onnx")
    np.testing.assert_array_equal(run_file("net.onnx", ["y"], {"x": X})["y"], 4 * X)
    made.graph.node[1].input[0] = "std"
    onnx.save(made, "net.onnx")
    with pytest.raises(OnnxError, match=r"ONNX Runtime cannot run it: Required inputs \(\['std'\]\)"):
        run_file("net.onnx", ["y"], {"x": X})


def test_a_last_piece_that_does_not_fill_the_batch_is_an_error() -> None:
    write(2)
    np.testing.assert_array_equal(run_file("net.onnx", ["y"], {"x": X[:4]})["y"], 4 * X[:4])
    with pytest.raises(OnnxError, match=r"net\.onnx: ONNX Runtime cannot run it: "):
        run_file("net.onnx", ["y"], {"x": X})


def test_values_that_the_file_does_not_have() -> None:
    write()
    with pytest.raises((OnnxError, ExportError)):
        run_file("net.onnx", ["none"], {"x": X})


def test_whole_numbers_are_fed_as_such() -> None:
    write(kind=TensorProto.INT32)
    np.testing.assert_array_equal(run_file("net.onnx", ["y"], {"x": X})["y"], 4 * X)
    with pytest.raises(
        OnnxError, match=r"net\.onnx: its input 'x' takes int32, and is fed 0\.5\n  hint: feed it pixels"
    ):
        run_file("net.onnx", ["y"], {"x": X / 2})


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("tensor(uint8)", "uint8"), ("tensor(int64)", "int64"), ("tensor(bool)", "bool"), ("tensor(float)", None),
     ("tensor(float16)", None), ("tensor(string)", None)],
)  # fmt: skip
def test_types_of_inputs(kind: str, dtype: str | None) -> None:
    assert integer_dtype(kind) == (None if dtype is None else np.dtype(dtype))


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("tensor(uint8)", [0, 255], [0, 256]),
        ("tensor(uint8)", [0, 1], [0, -1]),
        ("tensor(int8)", [-128, 127], [0, 127.5]),
        ("tensor(bool)", [0, 1], [0, 2]),
        ("tensor(int64)", [-5, 2**40], [0, np.inf]),
    ],
)
def test_numbers_that_a_type_cannot_hold(kind: str, good: list[float], bad: list[float]) -> None:
    cast = cast_input(np.array(good, np.float32), kind, "x")
    assert cast.dtype == integer_dtype(kind)
    assert cast.tolist() == good
    with pytest.raises(OnnxError, match=f"its input 'x' takes {cast.dtype.name}, and is fed {bad[1]:g}"):
        cast_input(np.array(bad, np.float32), kind, "x")


def test_floats_are_fed_as_they_are() -> None:
    assert cast_input(X, "tensor(float)", "x") is X


def test_a_file_that_is_none_and_a_runtime_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bad.onnx").write_bytes(b"\x08\x08")
    for model, place in (("bad.onnx", "bad.onnx: "), (b"\x08\x08", "")):
        with pytest.raises(ExportError, match=f"^{place}ONNX Runtime cannot load the model: .*\n  hint: is it an ONNX"):
            inference_session(model)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r'needs ONNX Runtime.*\n  hint: pip install "caffe-fusion\[onnxruntime\]"'):
        inference_session(b"")
