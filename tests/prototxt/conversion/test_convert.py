"""Every form of Caffe's files into every other one, and the refusals of what cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from prototxt.conversion.convert import ConvertOptions, convert
from prototxt.conversion.file_content import Content, contents_of
from prototxt.errors import PrototxtError
from prototxt.formats.datum import read_mean
from prototxt.formats.solverstate import read_solverstate
from prototxt.formats.weights import read_weights, write_weights
from prototxt.schema.messages import BlobProto, NetParameter, SolverParameter

NET = 'name: "n"\nlayer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 } } }\n'
V1 = '# old\nname: "n"\nlayers { name: "r" type: RELU bottom: "d" top: "r" } # kept\n'
SOLVER = 'net: "n.prototxt"\nbase_lr: 0.01\nlr_policy: "fixed"\nsolver_type: ADAM\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "net.caffemodel"
    write_weights(path, {"a": [rng.normal(size=(4, 3, 2, 2)), rng.normal(size=4)], "b/c": [rng.normal(size=(5, 4))]})
    return path


@pytest.mark.parametrize("name", ["v0net", "v1net", "v1shape"])
def test_binary_upgrade_is_caffes(name: str, reference: Path, tmp_path: Path) -> None:
    folder, target = reference / "caffe" / "upgrade", tmp_path / "new.caffemodel"
    convert(folder / f"{name}.old.caffemodel", target, ConvertOptions(upgrade=True))
    ours, theirs = target.read_bytes(), (folder / f"{name}.upgraded.caffemodel").read_bytes()
    assert NetParameter.FromString(ours) == NetParameter.FromString(theirs)
    assert ours == NetParameter.FromString(ours).SerializeToString(deterministic=True)
    before = target.read_bytes()
    convert(target, target, ConvertOptions(upgrade=True))
    assert target.read_bytes() == before


@pytest.mark.parametrize("ending", ["h5", "safetensors"])
def test_weights_there_and_back(ending: str, model: Path, tmp_path: Path) -> None:
    other, back = tmp_path / f"net.{ending}", tmp_path / "back.caffemodel"
    if ending == "h5":
        with pytest.warns(UserWarning, match="Caffe does not load"):
            convert(model, other)
    else:
        convert(model, other)
    convert(other, back)
    assert back.read_bytes() == model.read_bytes()


def test_weights_take_order_and_types_from_a_net(model: Path, tmp_path: Path) -> None:
    net, target = tmp_path / "n.prototxt", tmp_path / "out.caffemodel"
    net.write_text('name: "n" layer { name: "b/c" type: "InnerProduct" } layer { name: "a" type: "Convolution" }')
    convert(model, tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", target, ConvertOptions(net=net))
    assert [(layer.name, layer.type) for layer in NetParameter.FromString(target.read_bytes()).layer] == [
        ("b/c", "InnerProduct"),
        ("a", "Convolution"),
    ]


def test_double_weights_are_read_one_by_one(tmp_path: Path) -> None:
    net = NetParameter(name="n")
    blob = net.layer.add(name="a", type="InnerProduct").blobs.add(double_data=[1.5, 2.5])
    blob.shape.dim.append(2)
    (tmp_path / "d.caffemodel").write_bytes(net.SerializeToString())
    convert(tmp_path / "d.caffemodel", tmp_path / "d.safetensors")
    assert read_weights(tmp_path / "d.safetensors")["a"][0].tolist() == [1.5, 2.5]


def test_text_and_binary(tmp_path: Path) -> None:
    text, binary, back = tmp_path / "n.prototxt", tmp_path / "n.binaryproto", tmp_path / "b.prototxt"
    text.write_text(NET)
    convert(text, binary)
    assert NetParameter.FromString(binary.read_bytes()).layer[0].input_param.shape[0].dim == [1, 3]
    convert(binary, back)
    convert(back, tmp_path / "again.pb")
    assert (tmp_path / "again.pb").read_bytes() == binary.read_bytes()


def test_text_upgrade_keeps_comments(tmp_path: Path) -> None:
    (tmp_path / "old.prototxt").write_text(V1)
    done = convert(tmp_path / "old.prototxt", tmp_path / "new.prototxt", ConvertOptions(upgrade=True))
    new = (tmp_path / "new.prototxt").read_text()
    assert new == V1.replace("layers", "layer").replace("RELU", '"ReLU"')
    assert done.notes == ()
    again = convert(tmp_path / "new.prototxt", tmp_path / "new.prototxt", ConvertOptions(upgrade=True))
    assert again.notes == ("it is in today's form already",)


def test_solver(tmp_path: Path) -> None:
    text, binary = tmp_path / "s.prototxt", tmp_path / "s.binaryproto"
    text.write_text(SOLVER)
    convert(text, binary, ConvertOptions(upgrade=True))
    assert SolverParameter.FromString(binary.read_bytes()).type == "Adam"
    assert contents_of(binary) == Content("solver", "binary")
    convert(binary, tmp_path / "back.prototxt")
    assert 'type: "Adam"' in (tmp_path / "back.prototxt").read_text()


def test_a_caffemodel_as_text_has_no_values(model: Path, tmp_path: Path) -> None:
    done = convert(model, tmp_path / "n.prototxt")
    assert (tmp_path / "n.prototxt").read_text() == 'layer {\n  name: "a"\n}\nlayer {\n  name: "b/c"\n}\n'
    assert "3 blobs" in done.notes[0]


def test_solver_states(golden: Path, tmp_path: Path) -> None:
    source = golden / "solvers" / "resume_sgd" / "snap_iter_10.solverstate"
    convert(source, tmp_path / "s.solverstate.h5")
    convert(tmp_path / "s.solverstate.h5", tmp_path / "back.solverstate")
    assert (tmp_path / "back.solverstate").read_bytes() == source.read_bytes()
    assert read_solverstate(tmp_path / "s.solverstate.h5").iter == 10


def test_mean_images(golden: Path, tmp_path: Path) -> None:
    source = golden / "formats" / "data" / "mean.binaryproto"
    convert(source, tmp_path / "m.npy")
    assert np.array_equal(np.load(tmp_path / "m.npy"), read_mean(source))
    convert(tmp_path / "m.npy", tmp_path / "m.binaryproto")
    assert (tmp_path / "m.binaryproto").read_bytes() == source.read_bytes()
    convert(source, tmp_path / "m.prototxt")
    assert contents_of(tmp_path / "m.prototxt") == Content("blob", "text")
    convert(tmp_path / "m.prototxt", tmp_path / "again.binaryproto")
    message = BlobProto.FromString(source.read_bytes())
    assert BlobProto.FromString((tmp_path / "again.binaryproto").read_bytes()) == message


@pytest.mark.parametrize(
    ("content", "target", "request_", "words"),
    [
        (NET, "x.prototxt", ConvertOptions(), ["nothing to do", "--upgrade"]),
        (NET, "x.h5", ConvertOptions(), ["holds no weights", ".caffemodel"]),
        (NET, "x", ConvertOptions(), ["cannot be derived", ".safetensors"]),
        (NET, "x.npy", ConvertOptions(), ["cannot be written", ".caffemodel"]),
        (SOLVER, "x.prototxt", ConvertOptions(deploy=True), ["only a net", "train_val"]),
        (SOLVER, "x.safetensors", ConvertOptions(), ["cannot be written", ".binaryproto"]),
        ("layer { nam: 'a' }", "x.pb", ConvertOptions(upgrade=True, deploy=True), ["nothing would be left"]),
        ("<!DOCTYPE html><html>", "x.h5", ConvertOptions(), ["a web page"]),
        ("num: 1 channels: 1 height: 1 width: 1 data: 1", "x.npy", ConvertOptions(), ["binary mean", ".binaryproto"]),
        ("num: 1 data: 1", "x.pb", ConvertOptions(upgrade=True), ["one form only"]),
        ("iter: 1 learned_net: 'a'", "x.prototxt", ConvertOptions(), ["cannot be written", ".solverstate"]),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_refusals(content: str, target: str, request_: ConvertOptions, words: list[str], tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text(content)
    with pytest.raises(PrototxtError) as caught:
        convert(source, tmp_path / target, request_)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert os.listdir(tmp_path) == ["in"]


def test_refuses_what_hdf5_cannot_tell(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "m.safetensors")
    with pytest.raises(PrototxtError, match="does not describe the net"):
        convert(tmp_path / "m.safetensors", tmp_path / "m.prototxt")
    with pytest.raises(PrototxtError, match="nothing to do"):
        convert(tmp_path / "m.safetensors", tmp_path / "n.safetensors")


def test_damaged_files_leave_the_target_alone(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.caffemodel"
    target.write_bytes(b"old")
    (tmp_path / "cut.caffemodel").write_bytes(model.read_bytes()[:-7])
    with pytest.raises(PrototxtError):
        convert(tmp_path / "cut.caffemodel", target, ConvertOptions(upgrade=True))
    assert target.read_bytes() == b"old"
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00garbage")
    with pytest.raises(PrototxtError, match="NumPy cannot read"):
        convert(tmp_path / "bad.npy", tmp_path / "x.binaryproto")


def test_more_than_protobuf_can_hold(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prototxt.formats.caffemodel.LIMIT", 50)
    with pytest.raises(PrototxtError, match=r"\.safetensors"):
        convert(model, tmp_path / "big.caffemodel", ConvertOptions(upgrade=True))
    assert not (tmp_path / "big.caffemodel").exists()


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """protobuf hands such names out as bytes; a V0 type among them once ended in a TypeError."""
    net = NetParameter(name="n")
    net.layers.add(bottom=["abc"]).layer.type = "relu"
    data = net.SerializeToString().replace(b"abc", b"a\xffc").replace(b"relu", b"re\xfeu")
    (tmp_path / "n.caffemodel").write_bytes(data)
    with pytest.warns(UserWarning, match="not UTF-8"):
        convert(tmp_path / "n.caffemodel", tmp_path / "n.prototxt")
    assert 'bottom: "a\ufffdc"' in (tmp_path / "n.prototxt").read_text()
    with pytest.warns(UserWarning, match="not UTF-8"), pytest.raises(PrototxtError, match="unknown V0 type"):
        convert(tmp_path / "n.caffemodel", tmp_path / "n.prototxt", ConvertOptions(upgrade=True))


def test_a_description_of_absurd_size(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prototxt.conversion.net_without_blobs._MOST", 2)
    with pytest.raises(PrototxtError, match="no weights"):
        convert(model, tmp_path / "n.prototxt")
