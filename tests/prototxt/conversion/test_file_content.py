"""What a file holds, by its bytes; and which conversions are refused, each for its own reason."""

# ruff: noqa: E501 - tables of texts

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from prototxt.conversion.convert import ConvertOptions, convert
from prototxt.conversion.file_content import Content, contents_of, text_kind
from prototxt.conversion.forms import check_conversion, describe_content, form_of
from prototxt.conversion.net_without_blobs import read_without_blobs, write_upgraded
from prototxt.errors import PrototxtError, WeightsError
from prototxt.formats.datum import read_mean
from prototxt.formats.weights import write_weights
from prototxt.schema.messages import BlobProto, NetParameter, SolverParameter, SolverState
from prototxt.sniff.protobuf_wire import length_field
from prototxt.text.parser import parse


def bytes_of(message: object) -> bytes:
    return message.SerializeToString()  # type: ignore[attr-defined,no-any-return]


def net(**fields: object) -> NetParameter:
    return NetParameter(**fields)  # type: ignore[arg-type]


BINARIES = [
    (net(name="n", layer=[{"name": "a"}]), "net"),
    (net(name="n", layers=[{"name": "a"}]), "net"),
    (net(name="n", input=["d"], input_dim=[1]), "net"),
    (SolverParameter(base_lr=0.1, max_iter=5, lr_policy="fixed"), "solver"),
    (SolverParameter(net="n", base_lr=0.1, display=2, momentum=0.9), "solver"),
    (SolverParameter(test_iter=[1, 2], test_interval=3, stepvalue=[4]), "solver"),
    (SolverParameter(random_seed=-1, snapshot_prefix="s"), "solver"),
    (SolverState(iter=3, learned_net="w"), "state"),
    (SolverState(iter=3, history=[BlobProto(num=1)]), "state"),
    (SolverState(iter=3, current_step=1, learned_net="w"), "state"),
    (BlobProto(num=1, channels=1, height=1, width=1, data=[1.0]), "blob"),
    (BlobProto(shape={"dim": [1]}, data=[1.0]), "blob"),
    (BlobProto(shape={"dim": [1]}, double_data=[1.0]), "blob"),
    (BlobProto(shape={"dim": [1]}, data=[1.0], diff=[1.0]), "blob"),
]


@pytest.mark.parametrize(("message", "kind"), BINARIES)
def test_binary_messages(tmp_path: Path, message: object, kind: str) -> None:
    (tmp_path / "f").write_bytes(b"" if message is None else bytes_of(message))
    assert contents_of(tmp_path / "f") == Content(kind, "binary")


@pytest.mark.parametrize(("data", "kind"), [
    (b"\x28\x01\x32\x04\0\0\0\0", "blob"),  # C3D's width and data alone
    (b"\x28\x01\x32\x04\0\0\0\0\x40\x01", "net"),
    (b"\x08\x03\x12\x01w\x0a\x7f", "state"),  # cut off behind its first fields
    (b"\xa2\x06\x03\x0a\x01a\xa2\x06\x7f", "net"),
])  # fmt: skip
def test_other_and_damaged_messages(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "f").write_bytes(data)
    assert contents_of(tmp_path / "f") == Content(kind, "binary")


def test_unknown_fields_of_layers_are_written_once(tmp_path: Path) -> None:
    """Those of forks stand behind the blobs, as protobuf writes what it does not know."""
    write_weights(tmp_path / "a.caffemodel", {"a": [np.ones(1)]})
    layer = NetParameter.FromString((tmp_path / "a.caffemodel").read_bytes()).layer[0].SerializeToString()
    unknown = length_field(9_999, b"a fork's")
    (tmp_path / "a.caffemodel").write_bytes(length_field(100, layer + unknown))
    write_upgraded(read_without_blobs(tmp_path / "a.caffemodel"), tmp_path / "b.caffemodel")
    assert (tmp_path / "b.caffemodel").read_bytes() == length_field(100, layer + unknown)


@pytest.mark.parametrize(("text", "kind"), [
    ("", "net"), ("name: 'n'", "net"), ("layer { }", "net"), ("base_lr: 1", "solver"), ("net: 'n'", "solver"),
    ("iter: 1", "net"), ("iter: 1 learned_net: 'a'", "state"), ("history { }", "state"), ("current_step: 1", "state"),
    ("num: 1 data: 1", "blob"), ("shape { dim: 1 } data: 1", "blob"), ("num: 1 data: 1 name: 'n'", "net"),
])  # fmt: skip
def test_texts(text: str, kind: str, tmp_path: Path) -> None:
    assert text_kind(parse(text)) == kind
    (tmp_path / "f").write_text(text)
    assert contents_of(tmp_path / "f") == Content(kind, "text")


PAGE = b"<!DOCTYPE html>\n<html></html>"


@pytest.mark.parametrize(("name", "says"), [
    ("page.html", "not a prototxt"), ("n.prototxt", "not a prototxt"), ("n", "not a prototxt"),
    *((f"n{ending}", "not a weights file") for ending in (".caffemodel", ".H5", ".hdf5", ".safetensors", ".binaryproto", ".solverstate", ".npy")),
])  # fmt: skip
def test_a_web_page_is_refused_in_the_words_of_its_name(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(PAGE)
    with pytest.raises(PrototxtError, match=f"this is a web page, {says}"):
        contents_of(tmp_path / name)


@pytest.mark.parametrize(("data", "says"), [
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"), (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b\x08", "a gzip archive"),
    (b"\x08\x08\x3a\x02\x0a\x00", "this is an ONNX model, not a file of Caffe's"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["n.prototxt", "n.caffemodel"])
def test_foreign_files(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PrototxtError, match=says):
        contents_of(tmp_path / name)
    with pytest.raises(WeightsError, match="this is a folder, not a file"):
        contents_of(tmp_path)


def test_control_characters_make_a_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"name: 'n' # \t\n\v\f\r")
    assert contents_of(path).form == "text"
    for extra in (b"\x01", b"\x0e", b"\x7f\x01"):
        path.write_bytes(b"name: 'n' # " + extra)
        assert contents_of(path) == Content("net", "binary")


KINDS = {
    "net": ("text", "binary", "hdf5", "safetensors"),
    "solver": ("text", "binary"),
    "state": ("text", "binary", "hdf5"),
    "blob": ("text", "binary", "npy"),
}
NAMES = {"text": "t.prototxt", "binary": "t.caffemodel", "hdf5": "t.h5", "safetensors": "t.safetensors", "npy": "t.npy"}
POSSIBLE = {
    "net": {("text", "binary"), ("binary", "text"), ("binary", "hdf5"), ("binary", "safetensors"), ("hdf5", "binary"), ("hdf5", "safetensors"), ("safetensors", "binary"), ("safetensors", "hdf5")},
    "solver": {("text", "binary"), ("binary", "text")},
    "state": {("binary", "hdf5"), ("hdf5", "binary")},
    "blob": {("text", "binary"), ("text", "npy"), ("binary", "text"), ("binary", "npy"), ("npy", "text"), ("npy", "binary")},
}  # fmt: skip
SAME = {
    ("net", "text"),
    ("net", "binary"),
    ("net", "hdf5"),
    ("net", "safetensors"),
    ("solver", "text"),
    ("solver", "binary"),
}


def allowed(kind: str, have: str, want: str, *, target: str = "", upgrade: bool = False, deploy: bool = False) -> bool:
    try:
        check_conversion(Content(kind, have), "s", target or NAMES[want], upgrade=upgrade, deploy=deploy)
    except WeightsError as error:
        return not (error.place == "s" and error.hint)
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_which_conversions_there_are(kind: str) -> None:
    for have, want in itertools.product(KINDS[kind], NAMES):
        assert allowed(kind, have, want) == ((have, want) in POSSIBLE[kind]), (have, want)
        same = have == want and (kind, have) in SAME
        plain = (have, want) in POSSIBLE[kind] and kind in ("net", "solver")
        assert allowed(kind, have, want, upgrade=True) == (same or plain), (have, want)
        deployed = kind == "net" and have in ("text", "binary") and want in ("text", "binary")
        assert allowed(kind, have, want, deploy=True) == deployed, (have, want)


def test_pt_is_text_only_for_text() -> None:
    assert form_of("a.pt") == "text"
    assert allowed("net", "text", "text", target="a.pt", upgrade=True)
    assert not allowed("net", "binary", "text", target="a.PT")
    with pytest.raises(WeightsError, match=r"a\.pt could be a net's text or a PyTorch file"):
        check_conversion(Content("net", "binary"), "s", "a.pt", upgrade=False, deploy=False)


@pytest.mark.parametrize(("content", "target", "options", "says"), [
    (("state", "binary"), "x.solverstate", {}, "there is nothing to do: both are a solver state\n  hint: copy it"),
    (("net", "hdf5"), "x.h5", {}, "both are weights in HDF5\n  hint: copy it, or give the target another ending"),
    (("net", "binary"), "x.caffemodel", {}, "both are a caffemodel .*\n  hint: give --upgrade for today's form"),
    (("net", "text"), "x.safetensors", {"deploy": True}, "a net's text holds no weights"),
    (("net", "binary"), "x.safetensors", {"deploy": True}, "--deploy makes a net's description, not weights"),
    (("blob", "binary"), "x.npy", {"upgrade": True}, "a mean image has one form only"),
    (("state", "hdf5"), "x.prototxt", {}, r"a solver state in HDF5, which cannot be written as x\.prototxt\n  hint: name the target \.solverstate"),
])  # fmt: skip
def test_refusals_in_words(content: tuple[str, str], target: str, options: dict[str, bool], says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        check_conversion(Content(*content), "s", target, **{"upgrade": False, "deploy": False, **options})
    assert describe_content(Content("solver", "hdf5")) == "this"


@pytest.mark.parametrize("shape", [(3, 2, 4), (1, 3, 2, 4)])
def test_arrays_become_means(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.arange(24.0).reshape(shape)
    np.save(tmp_path / "m.npy", values)
    done = convert(tmp_path / "m.npy", tmp_path / "m.binaryproto")
    assert (done.source, done.target, done.notes) == (
        "a NumPy array",
        "a mean image",
        ("shape " + "x".join(map(str, shape)),),
    )
    np.testing.assert_array_equal(read_mean(tmp_path / "m.binaryproto"), values.reshape(3, 2, 4))


@pytest.mark.parametrize(("values", "target", "says"), [
    (np.zeros((2, 3, 2, 4)), "m.binaryproto", "a mean image has three axes, not 4"), (np.zeros((1, 0, 2, 4)), "m.binaryproto", "three axes, not 4"),
    (np.zeros((2, 4)), "m.binaryproto", "three axes, not 2"), (np.zeros((3, 2, 4), complex), "m.binaryproto", "a mean image is numbers, not complex128"),
    (np.zeros((3, 2, 4), bool), "m.binaryproto", "numbers, not bool"), (np.zeros((3, 2, 4)), "m.prototxt", "becomes a mean image"),
])  # fmt: skip
def test_arrays_that_are_no_means(tmp_path: Path, values: np.ndarray, target: str, says: str) -> None:
    np.save(tmp_path / "m.npy", values)
    with pytest.raises(WeightsError, match=says):
        convert(tmp_path / "m.npy", tmp_path / target)
    assert not (tmp_path / target).exists()


@pytest.mark.parametrize("kind", ["f4", "f8", "i8", "u1"])
def test_numbers_of_every_kind_are_means(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "m.npy", np.arange(6, dtype=kind).reshape(1, 2, 3))
    convert(tmp_path / "m.npy", tmp_path / "m.binaryproto")
    assert read_mean(tmp_path / "m.binaryproto").ravel().tolist() == [0, 1, 2, 3, 4, 5]


def test_the_description_and_the_places_of_the_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "n.caffemodel"
    write_weights(path, {"a": [np.ones(3), np.ones(2)], "relu": [], "b": [np.ones(1)]})
    monkeypatch.setattr("prototxt.conversion.net_without_blobs._MOST", 8)  # each field is short, wherever it lies
    found = read_without_blobs(path)
    assert [layer.name for layer in found.net.layer] == ["a", "relu", "b"]
    assert not any(layer.blobs for layer in found.net.layer)
    assert (found.blob_count, [len(spans) for spans in found.blobs]) == (3, [2, 0, 1])
    data = path.read_bytes()
    values = [list(BlobProto.FromString(data[start:end]).data) for spans in found.blobs for start, end in spans]
    assert values == [[1, 1, 1], [1, 1], [1]]
    monkeypatch.setattr("prototxt.formats.caffemodel.LIMIT", len(data))  # the blobs' own sizes count, not their places
    assert write_upgraded(found, tmp_path / "again.caffemodel") == 3
    assert (tmp_path / "again.caffemodel").read_bytes() == data
    monkeypatch.setattr("prototxt.formats.caffemodel.LIMIT", len(data) - 1)
    with pytest.raises(WeightsError, match="2 GiB"):
        write_upgraded(found, tmp_path / "third.caffemodel")
    assert not (tmp_path / "third.caffemodel").exists()


@pytest.mark.parametrize("count", [1, 3, 4])
def test_three_names_that_are_not_utf8_are_shown(tmp_path: Path, count: int) -> None:
    message = NetParameter(layer=[{"name": f"a{index}x"} for index in range(count)])
    (tmp_path / "n.caffemodel").write_bytes(message.SerializeToString().replace(b"x", b"\xff"))
    names = ", ".join(f"a{index}\ufffd" for index in range(min(count, 3)))
    with pytest.warns(UserWarning, match=f"bytes replaced by marks: {names}$"):
        found = read_without_blobs(tmp_path / "n.caffemodel")
    assert [layer.name for layer in found.net.layer] == [f"a{index}\ufffd" for index in range(count)]


def test_notes_count_layers_and_blobs(tmp_path: Path) -> None:
    path = tmp_path / "n.caffemodel"
    write_weights(path, {"a": [np.ones(3), np.ones(2)], "b": [np.ones(1)], "c": []})
    assert convert(path, tmp_path / "n.safetensors").notes == ("2 layers, 3 blobs",)
    assert convert(path, tmp_path / "m.caffemodel", ConvertOptions(upgrade=True)).notes == (
        "3 layers, 3 blobs copied unchanged",
    )
    assert convert(path, tmp_path / "n.prototxt").notes == (
        "left out the values of 3 blobs: for these, name the target .h5",
    )
    (tmp_path / "e.caffemodel").write_bytes(NetParameter(name="n", input=["d"]).SerializeToString())
    with pytest.raises(WeightsError, match="the net has no layers"):
        convert(tmp_path / "e.caffemodel", tmp_path / "f.caffemodel", ConvertOptions(upgrade=True))
    (tmp_path / "t.prototxt").write_text('layer { name: "a" type: "ReLU" }')
    assert convert(tmp_path / "t.prototxt", tmp_path / "t.pb").notes == ()
