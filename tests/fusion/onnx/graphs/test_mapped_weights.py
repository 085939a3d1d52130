from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from graphs import draw, model, node

from fusion.errors import OnnxError
from fusion.onnx.graphs import graph_weights, normalize_graph, read_graph
from fusion.onnx.graphs.mapped_weights import payload, read_mapped
from fusion.onnx.graphs.read import from_model
from prototxt.errors import WeightsError
from prototxt.formats.copy import FileSlice, LazyBlob, Payload, float_bytes
from prototxt.formats.onnx_outline import LARGE


def large(transposed: int = 1, opset: int = 20) -> onnx.ModelProto:
    """Two dense layers, the first of 64 KiB and the second small."""
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f w b", "h", transB=transposed), node("Gemm", "h v", "y")]
    constants = {"w": draw(*((128, 192) if transposed else (192, 128))), "b": draw(128), "v": draw(128, 5)}
    return model(nodes, constants, opset=opset)


def written(payload: Payload) -> bytes:
    if isinstance(payload, FileSlice):
        with open(payload.scan.path, "rb") as file:
            return os.pread(file.fileno(), payload.blob.nbytes, payload.blob.offset)
    return bytes(float_bytes(payload))


@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside"])
@pytest.mark.parametrize("transposed", [0, 1])
def test_large_weights_stay_in_their_file(tmp_path: Path, outside: bool, transposed: int) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(large(transposed), path, save_as_external_data=outside, location="net.data", size_threshold=4)
    graph = normalize_graph(read_graph(path))
    assert [scan.path for scan in graph.files] == [str(tmp_path / ("net.data" if outside else "net.onnx"))]
    found, expected = graph_weights(graph), graph_weights(normalize_graph(from_model(onnx.load(path))))
    assert list(found) == list(expected) == ["w", "b", "v"]
    for name, array in found.items():
        made = payload(array, graph.files)
        assert made.shape == expected[name].shape
        assert written(made) == expected[name].tobytes()
    kinds = [type(payload(array, graph.files)) for array in found.values()]
    assert kinds[0] is (FileSlice if transposed else LazyBlob)
    assert np.ndarray not in kinds[:1]


def test_floats_in_the_message_itself_and_other_types(tmp_path: Path) -> None:
    file = large()
    first = file.graph.initializer[0]
    values = numpy_helper.to_array(first)
    first.ClearField("raw_data")
    first.float_data.extend(values.ravel())
    file.graph.initializer.append(numpy_helper.from_array(np.arange(5000), "indices"))
    onnx.save(file, tmp_path / "net.onnx")
    mapped = read_mapped(str(tmp_path / "net.onnx"))
    assert list(mapped.arrays) == ["w"]
    np.testing.assert_array_equal(mapped.arrays["w"], values)
    np.testing.assert_array_equal(read_graph(tmp_path / "net.onnx").constants["indices"], np.arange(5000))


def test_old_files_are_read_whole(tmp_path: Path) -> None:
    onnx.save(large(opset=11), tmp_path / "net.onnx")
    graph = read_graph(tmp_path / "net.onnx")
    assert not graph.files
    assert graph.constants["w"].shape == (128, 192)


def test_a_file_that_changed_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(large(0), path)
    graph = normalize_graph(read_graph(path))
    later = payload(graph_weights(graph)["w"], graph.files)
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)
    assert isinstance(later, LazyBlob)
    with pytest.raises(WeightsError, match="the file has changed since it was read"):
        later.load()


@pytest.mark.parametrize("damage", ["cut", "shape", "outside", "elsewhere"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    path, file = tmp_path / "net.onnx", large()
    if damage == "shape":
        file.graph.initializer[0].dims[0] = 127
    onnx.save(file, path, save_as_external_data=damage in ("outside", "elsewhere"), location="net.data")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20000])
    elif damage == "outside":
        (tmp_path / "net.data").write_bytes(bytes(1000))
    elif damage == "elsewhere":
        (tmp_path / "net.data").rename(tmp_path / "other")
        (tmp_path / "net.data").symlink_to(tmp_path / "other")
    with pytest.raises(OnnxError, match="this is no readable ONNX file"):
        read_graph(path)


def test_views_of_any_strides_are_read_from_the_file(tmp_path: Path) -> None:
    onnx.save(large(), tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=4)
    graph = read_graph(tmp_path / "net.onnx")
    whole = graph.constants["w"]
    for view in (whole[::-1], whole[:, ::-1], whole[::-1, ::-2].T, whole[::2], whole[3:5, 1:2], whole.T[-1:]):
        made = payload(view, graph.files)
        assert made.shape == view.shape
        assert written(made) == np.ascontiguousarray(view).tobytes()


@pytest.mark.parametrize(("rows", "mapped"), [(LARGE // 16, True), (LARGE // 16 - 1, False)])
def test_a_tensor_alone_in_a_file_needs_no_place_in_it(tmp_path: Path, rows: int, mapped: bool) -> None:
    values = draw(rows, 4)
    file = model([node("Add", "x w", "y")], {"w": values}, shape=(rows, 4))
    tensor = file.graph.initializer[0]
    (tmp_path / "net.data").write_bytes(values.tobytes())
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="net.data")
    (tmp_path / "net.onnx").write_bytes(file.SerializeToString())
    found = read_graph(tmp_path / "net.onnx")
    np.testing.assert_array_equal(found.constants["w"], values)
    assert bool(found.files) is mapped
