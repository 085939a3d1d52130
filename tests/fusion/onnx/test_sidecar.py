"""The file beside a caffemodel that holds the weights of Onnx layers: when it is written, read and missed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion.errors import WeightsMismatch
from fusion.onnx.sidecar import MergedWeights, read_pair, sidecar_path, write_companion, write_pair
from prototxt.errors import WeightsError
from prototxt.formats.index import LayerEntry
from prototxt.formats.weights import Weights, read_weights
from prototxt.schema.messages import NetParameter

ONE, TWO = np.ones(2, np.float32), np.full(3, 2, np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def net(*layers: tuple[str, str]) -> NetParameter:
    found = NetParameter(name="fused")
    for name, kind in layers:
        found.layer.add(name=name, type=kind)
    return found


BOTH = net(("ip", "InnerProduct"), ("b/net", "Onnx"))


@pytest.mark.parametrize(
    ("path", "beside"),
    [
        ("a.caffemodel", "a.onnx.safetensors"),
        ("dir/a.caffemodel.h5", "dir/a.onnx.safetensors"),
        ("a.h5", "a.onnx.safetensors"),
        ("a.CaffeModel", "a.onnx.safetensors"),
        ("a.h5.caffemodel", "a.h5.onnx.safetensors"),
        ("a.safetensors", None),
        ("a.SafeTensors", None),
    ],
)
def test_names(path: str, beside: str | None) -> None:
    assert sidecar_path(path) == beside
    assert sidecar_path(Path(path)) == beside


@pytest.mark.parametrize("ending", ["caffemodel", "caffemodel.h5"])
@pytest.mark.filterwarnings("ignore::prototxt.formats.hdf5_writer.SlashWarning")
def test_a_pair_is_written_and_read(ending: str) -> None:
    if ending.endswith("h5"):
        pytest.importorskip("h5py")
    paths = write_pair(f"a.{ending}", {"ip": [ONE], "b/net": [TWO, ONE]}, net=BOTH)
    assert paths == [f"a.{ending}", "a.onnx.safetensors"]
    assert {path.name for path in Path().iterdir()} == set(paths)
    assert set(read_weights(f"a.{ending}")) == {"ip"}
    assert read_weights("a.onnx.safetensors").scan.name == "fused"
    pair = read_pair(f"a.{ending}")
    assert {name: [blob.tolist() for blob in blobs] for name, blobs in pair.items()} == {
        "ip": [[1, 1]], "b/net": [[2, 2, 2], [1, 1]]
    }  # fmt: skip
    assert len(pair) == 2
    assert "b/net" in pair
    assert "ip" in pair
    assert "other" not in pair


def test_one_file_is_enough_where_it_holds_all() -> None:
    assert write_pair("a.safetensors", {"ip": [ONE], "b/net": [TWO]}, net=BOTH) == ["a.safetensors"]
    assert {path.name for path in Path().iterdir()} == {"a.safetensors"}
    assert isinstance(read_pair("a.safetensors"), Weights)
    assert set(read_pair("a.safetensors")) == {"ip", "b/net"}


@pytest.mark.parametrize("weights", [{"ip": [ONE]}, {"ip": [ONE], "b/net": []}])
def test_without_onnx_weights_there_is_no_second_file(weights: dict[str, list[np.ndarray]]) -> None:
    assert write_pair("a.caffemodel", weights, net=BOTH) == ["a.caffemodel"]
    assert {path.name for path in Path().iterdir()} == {"a.caffemodel"}
    assert isinstance(read_pair("a.caffemodel"), Weights)


def test_an_old_file_beside_a_net_without_onnx_layers_is_left_alone() -> None:
    write_pair("b.caffemodel", {"b/net": [TWO]}, net=BOTH)
    Path("b.onnx.safetensors").rename("a.onnx.safetensors")
    write_pair("a.caffemodel", {"ip": [ONE]}, net=net(("ip", "InnerProduct")))
    assert set(read_pair("a.caffemodel")) == {"ip"}


def test_a_missing_second_file_is_refused_with_the_layers() -> None:
    write_pair("a.caffemodel", {"ip": [ONE], "b/net": [TWO]}, net=BOTH)
    Path("a.onnx.safetensors").unlink()
    with pytest.raises(WeightsMismatch, match=r"its Onnx layers 'b/net' are in a\.onnx\.safetensors, which does not"):
        read_pair("a.caffemodel")


def test_names_in_the_first_file_take_precedence() -> None:
    write_pair("a.safetensors", {"x": [ONE], "y": [ONE]})
    write_pair("b.safetensors", {"y": [TWO], "z": [TWO]})
    first, second = read_weights("a.safetensors"), read_weights("b.safetensors")
    pair = MergedWeights(first, second)
    assert list(pair) == ["x", "y", "z"]
    assert len(pair) == 3
    assert [pair[name][0].tolist() for name in pair] == [[1, 1], [1, 1], [2, 2, 2]]
    assert [pair.file(name) for name in pair] == [first, first, second]


def test_what_is_left_for_the_first_file() -> None:
    onnx, bare, plain = LayerEntry("o", "Onnx"), LayerEntry("p", "Onnx"), LayerEntry("i", "InnerProduct")
    layers = [(onnx, [TWO]), (bare, []), (plain, [ONE])]
    assert write_companion("a.safetensors", layers) == layers
    seen: list[int] = []
    left = write_companion("a.caffemodel", layers, name="n", progress=seen.append)
    assert [(entry.name, len(blobs)) for entry, blobs in left] == [("o", 0), ("i", 1)]
    assert seen == [12]
    assert set(read_weights("a.onnx.safetensors")) == {"o"}
    assert read_weights("a.onnx.safetensors").scan.name == "n"
    with pytest.raises(WeightsError, match="cannot be derived from the name"):
        write_companion("a.pth", layers)
