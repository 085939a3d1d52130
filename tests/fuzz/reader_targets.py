"""The readers of fusion as fuzz targets: predictions, states, caches, settings, logs and ONNX."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch._dynamo
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet
from safetensors.torch import save

from fusion.composition.config import read_config
from fusion.conversion.checkpoints import read_state_dict
from fusion.conversion.torch_nets import open_torch_net
from fusion.data.array_source import ArraySource
from fusion.data.sampler import Order
from fusion.onnx.graphs.normalize import load_graph
from fusion.onnx.graphs.read import read_graph
from fusion.onnx.to_caffe import convert_graph
from fusion.onnx.to_torch.conversion import to_module
from fusion.pct import Predictions
from fusion.references.logit_cache import ReferencedSource
from fusion.references.models import EnsembleMember, Model
from fusion.references.parse import Reference
from fusion.report.curves import accuracies, losses, rates, read_log
from fusion.report.gate import read_budget
from fusion.solver.snapshots.resume_state import ResumeState, generators, read_resume_state, write_resume_state
from fusion.solver.trunk_cache_files import Origin, TrunkFiles, rows_in_file
from fusion.sweep.grid import cells, read_axes
from fusion.sweep.results import former_heads
from prototxt.errors import PlacedError
from prototxt.shapes.onnx_files import value_shapes


def predictions(path: Path) -> None:
    """A predictions file: npz, CSV or Parquet."""
    Predictions.load(path)


def logit_cache(path: Path) -> None:
    """The cached logits of a reference, whatever they say of their origin."""
    try:
        meta = Predictions.load(path).meta
    except PlacedError:
        meta = {}
    _load_logits(path, {name: str(meta.get(name, "")) for name in ("net", "weights", "preprocessing")})


def _load_logits(path: Path, meta: dict[str, str]) -> None:
    arrays = (np.ones((3, 2), np.float32), np.zeros(3, np.float32))
    source = ArraySource(("data", "label"), arrays, Order(3, 2), "input", hash=meta["preprocessing"])
    member = EnsembleMember(Reference(None, cache=path), answer=lambda blobs: blobs["data"], hashes=meta)
    ReferencedSource(source, [Model("old", (member,), ())]).load()


def trunk_cache(path: Path) -> None:
    """The frozen trunk's outputs: a file under the name that a run looks for, and one of another origin."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for key in (_ORIGIN.key, "another"):
            Path(folder, f"trunk-TRAIN-{key}.rows").write_bytes(path.read_bytes())
        rows = _trunk_rows(folder)
        assert rows["ip"].shape == (5, 3)
        rows["ip"].sum()


def _trunk_rows(folder: str) -> dict[str, torch.Tensor]:
    first = {"ip": torch.ones(1, 3), "label": torch.ones(1)}
    files = TrunkFiles(folder, "trunk", requested=True)
    return rows_in_file(files, _ORIGIN, first, 5, lambda rows: rows["ip"].fill_(1))[0]


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


def sweep_table(path: Path) -> None:
    """The table of an earlier sweep in the same folder."""
    path.rename(path.with_name("table.json"))
    assert all("/" not in name for name in former_heads(path.parent))


def log(path: Path) -> None:
    """A solver's log, and the curves that are drawn of it."""
    curve = [(read_log(path), "c-new")]
    for draw in (losses, accuracies, rates):
        draw(curve)


def onnx_shapes(path: Path) -> None:
    """The shapes of an ONNX file's values, which commands without torch list."""
    value_shapes(str(path), (), ((1, 4),))


def onnx(path: Path) -> None:
    """An ONNX file, whose external tensors lie in a sound file: its values, its module and its Caffe net."""
    path.with_name("outside.bin").write_bytes(bytes(64))
    named = path.rename(path.with_suffix(".onnx"))
    for value in read_graph(named).constants.values():
        if value.dtype.kind == "f":
            value.max(initial=0)
    to_module(load_graph(named))
    convert_graph(load_graph(named))


def checkpoint(path: Path) -> None:
    """A PyTorch checkpoint, of which nothing but tensors is loaded."""
    for tensor in read_state_dict(path.rename(path.with_suffix(".pth"))).values():
        tensor.sum()


def safetensors_checkpoint(path: Path) -> None:
    """A checkpoint as safetensors, read by the package of that name."""
    read_state_dict(path.rename(path.with_suffix(".safetensors")))


def exported_program(path: Path) -> None:
    """What torch.export.save wrote."""
    open_torch_net(str(path.rename(path.with_suffix(".pt2"))))


TARGETS: dict[str, Callable[[Path], None]] = {
    "checkpoint": checkpoint,
    "safetensors_checkpoint": safetensors_checkpoint,
    "exported_program": exported_program,
    "npz": predictions,
    "csv": predictions,
    "parquet": predictions,
    "logit_cache": logit_cache,
    "trunk_cache": trunk_cache,
    "resume_state": resume_state,
    "budget": budget,
    "sweep": sweep,
    "sweep_table": sweep_table,
    "compose": compose,
    "log": log,
    "json_log": log,
    "onnx": onnx,
    "onnx_shapes": onnx_shapes,
}


# -- seeds: small sound files of each kind ----------------------------------------------------------------------------


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Small sound files for each target."""
    archive, table, columns = _predictions(folder)
    return {
        **_checkpoints(),
        "npz": [archive],
        "csv": [table],
        "parquet": columns,
        "logit_cache": _logit_cache(folder),
        "trunk_cache": _trunk_cache(folder),
        "resume_state": _resume_state(folder),
        "budget": [json.dumps(_BUDGET).encode()],
        "sweep": [json.dumps(_AXES).encode(), _SWEEP.encode()],
        "sweep_table": [json.dumps({"best": "a", "heads": [{"name": "a"}, {"name": "kd-1"}]}).encode()],
        "compose": [_COMPOSE.encode()],
        "log": [_LOG.encode()],
        "json_log": ["\n".join(map(json.dumps, _RECORDS)).encode()],
        "onnx": _onnx(),
        "onnx_shapes": _onnx(),
    }


def _checkpoints() -> dict[str, list[bytes]]:
    """State dicts alone and in a checkpoint, and an exported program."""
    net = torch.nn.Linear(3, 2)
    found = []
    for content in (net.state_dict(), {"state_dict": net.state_dict(), "epoch": 1}):
        torch.save(content, buffer := io.BytesIO())
        found.append(buffer.getvalue())
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3),)), buffer := io.BytesIO())
    return {"checkpoint": found, "safetensors_checkpoint": [save(net.state_dict())],
            "exported_program": [buffer.getvalue()]}  # fmt: skip


_ORIGIN = Origin("TRAIN", dict.fromkeys(("trunk", "weights", "data", "torch"), "same"))
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


def _predictions(folder: Path) -> tuple[bytes, bytes, list[bytes]]:
    """As npz, as CSV, and as Parquet with and without compression."""
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
    for name in ("a.npz", "a.csv", "a.parquet"):
        net.save(folder / name)
    table = parquet.read_table(folder / "a.parquet")
    parquet.write_table(table, folder / "plain.parquet", compression="none", use_dictionary=False)
    archive, lines, *columns = (
        (folder / name).read_bytes() for name in ("a.npz", "a.csv", "a.parquet", "plain.parquet")
    )
    return archive, lines, columns


def _logit_cache(folder: Path) -> list[bytes]:
    path = folder / "logits.npz"
    _load_logits(path, {"net": "1", "weights": "2", "preprocessing": "3"})
    return [path.read_bytes()]


def _trunk_cache(folder: Path) -> list[bytes]:
    (folder / "kept").mkdir()
    _trunk_rows(str(folder / "kept"))
    return [path.read_bytes() for path in (folder / "kept").iterdir()]


def _resume_state(folder: Path) -> list[bytes]:
    path = folder / "a.fusionstate"
    arrays = {"callbacks/ema": np.ones(3, np.float32)}
    decisions = {"processes": "1", "data": "3 records"}
    small = {"numpy": generators()["numpy"]}
    write_resume_state(
        str(path), ResumeState(5, (3, 1), (0.5, 0.25), 1, 77, decisions=decisions, generators=small, arrays=arrays)
    )
    return [path.read_bytes()]


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
        helper.make_node("MaxPool", ["t"], ["s"], kernel_shape=[2, 2], strides=[3, 3], pads=[0] * 4, ceil_mode=1),
        helper.make_node("Flatten", ["s"], ["z"], axis=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name, width in (("x", 4), ("z", 2))]
    found = []
    for version in (9, 17):
        graph = helper.make_graph(nodes, "net", [ends[0]], [ends[1]], [raw, outside, typed, shape, kernel])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
        found.append(model.SerializeToString())
    return found
