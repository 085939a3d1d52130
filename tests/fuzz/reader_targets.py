"""The readers of fusion as fuzz targets: predictions, states, settings, logs, lists, HDF5, LMDB and ONNX."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import lmdb
import numpy as np
import torch._dynamo  # noqa: F401 - not under the limit of memory of the first input that needs it
from onnx import TensorProto, helper, numpy_helper

from fusion.composition.config import read_config
from fusion.data.hdf5_data import open_hdf5_data
from fusion.data.image_list import read_list
from fusion.data.lmdb_leveldb import open_database
from fusion.data.source_config import SourceConfig
from fusion.onnx.graphs.normalize import load_graph
from fusion.onnx.graphs.read import read_graph
from fusion.onnx.to_torch.conversion import to_module
from fusion.pct import Predictions
from fusion.report.curves import accuracies, losses, rates, read_log
from fusion.report.gate import read_budget
from fusion.solver.snapshots.resume_state import ResumeState, generators, read_resume_state, write_resume_state
from fusion.sweep.grid import cells, read_axes
from prototxt.errors import PlacedError
from prototxt.schema.messages import LayerParameter
from prototxt.text.class_names import read_names


def predictions(path: Path) -> None:
    """A predictions file, as npz or as a table."""
    Predictions.load(path)


def resume_state(path: Path) -> None:
    """A fusionstate; what is read has values of the right kinds."""
    state = read_resume_state(str(path))
    if state is not None:
        assert type(state.iteration) is int
        assert all(type(position) is int for position in state.positions)
        assert all(isinstance(value, str) for value in state.decisions.values())


def budget(path: Path) -> None:
    """A budget of a release's gate."""
    read_budget(path)


def sweep(path: Path) -> None:
    """The axes of a sweep, as JSON and as TOML."""
    for suffix in (".json", ".toml"):
        named = path.with_suffix(suffix)
        named.write_bytes(path.read_bytes())
        try:
            cells(read_axes([str(named)]))
        except PlacedError:
            continue


def compose(path: Path) -> None:
    """A fusion file."""
    read_config(path)


def log(path: Path) -> None:
    """A solver's log, and the curves that are drawn of it."""
    curve = [(read_log(path), "c-new")]
    for draw in (losses, accuracies, rates):
        draw(curve)


def image_list(path: Path) -> None:
    """An image list, and a list of class names."""
    for read in (read_list, read_names):
        try:
            read(path)
        except PlacedError:
            continue


def hdf5_data(path: Path) -> None:
    """The rows of an HDF5Data layer, at once and piecewise."""
    listed = path.with_name("list.txt")
    listed.write_text(str(path))
    layer = LayerParameter(name="data", type="HDF5Data", top=["data", "label"])
    layer.hdf5_data_param.source, layer.hdf5_data_param.batch_size = str(listed), 2
    for bound in (1 << 30, 0):
        try:
            source = open_hdf5_data(SourceConfig(layer, "TRAIN"), budget=bound)
            source.batch(np.arange(2))
        except PlacedError:
            continue


def database(path: Path) -> None:
    """All records of an LMDB."""
    # A name of its own: an LMDB that is open already is not opened again, and must not change.
    own = path.rename(path.with_name(os.urandom(8).hex()))
    try:
        opened = open_database(str(own), lmdb=True)
        sum(len(value) for value in opened.values())
        for index in range(min(len(opened.keys), 300)):
            opened.get(index)
    finally:
        own.unlink()


def onnx(path: Path) -> None:
    """An ONNX file, whose external tensors lie in a sound file: all of its values, and its module."""
    path.with_name("outside.bin").write_bytes(bytes(64))
    named = path.rename(path.with_suffix(".onnx"))
    for value in read_graph(named).constants.values():
        if value.dtype.kind == "f":
            value.max(initial=0)
    to_module(load_graph(named))


TARGETS: dict[str, Callable[[Path], None]] = {
    "predictions": predictions,
    "resume_state": resume_state,
    "budget": budget,
    "sweep": sweep,
    "compose": compose,
    "log": log,
    "image_list": image_list,
    "hdf5_data": hdf5_data,
    "database": database,
    "onnx": onnx,
}


# -- seeds: small sound files of each kind ----------------------------------------------------------------------------


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Small sound files for each target."""
    return {
        "predictions": _predictions(folder),
        "resume_state": _resume_state(folder),
        "budget": [json.dumps(_BUDGET).encode()],
        "sweep": [json.dumps(_AXES).encode(), _SWEEP.encode()],
        "compose": [_COMPOSE.encode()],
        "log": [_LOG.encode(), "\n".join(map(json.dumps, _RECORDS)).encode()],
        "image_list": [b"a/b.png 0\nc d.png 3\r\n\xff\xfe.png 12\n", b"zero\none\n\xc3\xa9\n"],
        "hdf5_data": _hdf5_data(folder),
        "database": _database(folder),
        "onnx": _onnx(),
    }


_BUDGET = {
    "max_nfr": "0.5%",
    "min_accuracy": 0.9,
    "max_weighted_nfr": 0.1,
    "severity": {"1": 2.0},
    "references": {"old": "1%"},
    "classes": {"3": 0.2},
    "max_nfr_upper": 0.5,
}
_AXES = {"loss": ["kd", "focal"], "weight": [0.01, 0.1], "lr": [0.1], "seed": [0, 1], "temperature": [1.5]}
_SWEEP = '[sweep]\nloss = ["none", "kd"]\nweight = [0.5, 1]\nlr = 0.1\nseed = [0]\n'
_COMPOSE = """loss = "SoftmaxWithLoss"
output = "fused"
head = "concat-fc"
[[source]]
prefix = "odd"
net = "odd.prototxt"
[[source]]
prefix = "even"
net = "even.prototxt"
weights = "even.caffemodel"
[[pct]]
kind = "focal"
weight = 0.5
alpha = 1.0
[data]
train_list = "train.txt"
[solver]
base_lr = 0.1
max_iter = 100
stepvalue = [1, 2]
"""
_LOG = """I0101 00:00:00.000000 1 solver.cpp:228] Iteration 0, loss = 2.3
I0101 00:00:00.000000 1 solver.cpp:244]     Train net output #0: loss = 2.3 (* 1 = 2.3 loss)
I0101 00:00:00.000000 1 sgd_solver.cpp:106] Iteration 0, lr = 0.01
I0101 00:00:00.000000 1 solver.cpp:337] Iteration 100, Testing net (#0)
I0101 00:00:00.000000 1 solver.cpp:404]     Test net output #0: accuracy = 0.9
I0101 00:00:00.000000 1 solver.cpp:228] Iteration 100, loss = 1e-2
"""
_RECORDS = (
    {"kind": "train", "iter": 0, "loss": 2.5, "lr": 0.01},
    {"kind": "test", "iter": 0, "test_net": 0, "outputs": {"accuracy": 0.5, "loss": 2.0}},
    {"kind": "train", "iter": 10, "loss": 1.5, "lr": 0.001},
)


def _predictions(folder: Path) -> list[bytes]:
    rng = np.random.default_rng(0)
    net = Predictions(
        keys=np.array(["a", "b", "c"]),
        labels=np.array([0, 1, 0]),
        logits=rng.random((3, 2), np.float32),
        classes=np.array([0, 1]),
        variants=np.array(["x", "", "x"]),
        features=rng.random((3, 4), np.float32),
        meta={"name": "net", "class_names": ["zero", "one"]},
    )
    found = []
    for name in ("a.npz", "a.csv"):
        net.save(folder / name)
        found.append((folder / name).read_bytes())
    return found


def _resume_state(folder: Path) -> list[bytes]:
    path = folder / "a.fusionstate"
    arrays = {"callbacks/ema": np.ones(3, np.float32)}
    decisions = {"processes": "1", "data": "3 records"}
    small = {"numpy": generators()["numpy"]}
    write_resume_state(
        str(path), ResumeState(5, (3, 1), (0.5, 0.25), 1, 77, decisions=decisions, generators=small, arrays=arrays)
    )
    return [path.read_bytes()]


def _hdf5_data(folder: Path) -> list[bytes]:
    found = []
    for options in ({}, {"chunks": True, "compression": "gzip", "shuffle": True}):
        path = folder / "data.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=np.ones((8, 2, 3), "f4"), **options)
            file.create_dataset("label", data=np.arange(8, dtype="i8"), **options)
        found.append(path.read_bytes())
    return found


def _database(folder: Path) -> list[bytes]:
    where = folder / "lmdb"
    with lmdb.open(str(where), map_size=1 << 20, lock=False) as environment, environment.begin(write=True) as put:
        for number in range(60):
            put.put(b"%08d" % number, bytes([number]) * (90 if number % 7 else 5000))
    return [(where / "data.mdb").read_bytes()]


def _onnx() -> list[bytes]:
    outside = numpy_helper.from_array(np.zeros((4, 4), np.float32), "outside")
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "outside.bin"), ("offset", "0"), ("length", "64")):
        entry = outside.external_data.add()
        entry.key, entry.value = key, value
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    raw = numpy_helper.from_array(np.ones((4, 4), np.float32), "raw")
    shape = numpy_helper.from_array(np.array([1, 1, 2, 2]), "shape")
    kernel = numpy_helper.from_array(np.ones((2, 1, 1, 1), np.float32), "kernel")
    nodes = [
        helper.make_node("MatMul", ["x", "raw"], ["y"]),
        helper.make_node("MatMul", ["y", "outside"], ["w"]),
        helper.make_node("Add", ["w", "typed"], ["v"]),
        helper.make_node("Reshape", ["v", "shape"], ["u"]),
        helper.make_node("Conv", ["u", "kernel"], ["t"], kernel_shape=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0]),
        helper.make_node("MaxPool", ["t"], ["s"], kernel_shape=[2, 2]),
        helper.make_node("Flatten", ["s"], ["z"], axis=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name, width in (("x", 4), ("z", 2))]
    found = []
    for version in (9, 17):
        graph = helper.make_graph(nodes, "net", [ends[0]], [ends[1]], [raw, outside, typed, shape, kernel])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
        found.append(model.SerializeToString())
    return found
