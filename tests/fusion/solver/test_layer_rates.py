"""Layers thawed for one run and learning at other rates, and the references that stay as they were."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion.errors import TrainingError
from fusion.nets.build import params
from fusion.solver import Solver
from fusion.solver.evaluate import MeasuredData, open_evaluation
from fusion.solver.layer_rates import multiply_rates, thaw_layers
from fusion.solver.logging.console import Lines
from fusion.solver.train_options import TrainOptions
from prototxt import read_weights
from prototxt.schema.load import load_net
from prototxt.text.parser import parse

# A source's branch `a` (a bias of two layers, one in place) with its own classifier as the reference of the head.
NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" } } }
layer { name: "low" type: "InnerProduct" bottom: "data" top: "low"
  param { lr_mult: 0 } param { lr_mult: 0 } inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "a/ip" type: "InnerProduct" bottom: "low" top: "a/ip"
  param { lr_mult: 0 } param { lr_mult: 0 } inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "a/tanh" type: "TanH" bottom: "a/ip" top: "a/ip" }
layer { name: "a/classes" type: "InnerProduct" bottom: "a/ip" top: "a/classes"
  param { lr_mult: 0 } param { lr_mult: 0 } inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "score" type: "InnerProduct" bottom: "a/ip" top: "score"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
layer { name: "kd" type: "KDLoss" bottom: "score" bottom: "a/classes" bottom: "label" top: "kd" loss_weight: 1 }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 20 snapshot: 10
snapshot_prefix: "run" random_seed: 3 display: 0
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)


def run(log: io.StringIO | None = None, weights: str | None = None, **extras: Any) -> Solver:
    return Solver("solver.prototxt", weights, device="cpu", display=Lines(log or io.StringIO()),
                  extras=TrainOptions(**extras))  # fmt: skip


def weights_of(solver: Solver) -> dict[str, np.ndarray]:
    return {name: blobs[0].detach().numpy().copy() for name, blobs in params(solver.net).items()}


def changed(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_a_thawed_branch_learns_and_its_reference_stays() -> None:
    solver = run(thaw="^a/")
    before = weights_of(solver)
    for name in ("a/ip", "a/classes"):
        assert np.array_equal(before[f"kept/{name}"], before[name])
    solver.step(5)
    # No gradient reaches the original's classifier: the loss reads the copy, and the head another layer.
    assert changed(before, weights_of(solver)) == {"a/ip", "score"}
    names = [layer.name for layer in solver.nets[0].message.layer]
    assert names[2:8] == ["kept/a/ip", "a/ip", "kept/a/tanh", "a/tanh", "kept/a/classes", "a/classes"]
    layers = {layer.name: layer for layer in solver.nets[0].message.layer}
    assert list(layers["kd"].bottom) == ["score", "kept/a/classes", "label"]
    assert list(layers["kept/a/ip"].bottom) == ["low"]  # of the frozen layer below there is no copy
    assert list(layers["kept/a/tanh"].bottom) == list(layers["kept/a/tanh"].top) == ["kept/a/ip"]
    assert list(layers["loss"].bottom) == ["score", "label"]


def test_the_reference_computes_what_the_frozen_net_did() -> None:
    frozen = run()
    frozen.step(1)
    frozen.net.eval()
    thawed = run(thaw="^a/", weights=str(written(frozen, "w.caffemodel")))
    thawed.step(7)
    before, after = weights_of(frozen), weights_of(thawed)
    assert np.array_equal(after["kept/a/ip"], before["a/ip"])
    assert np.array_equal(after["kept/a/classes"], before["a/classes"])
    assert not np.array_equal(after["a/ip"], before["a/ip"])


def written(solver: Solver, path: str) -> Path:
    from fusion.nets.weights import save_weights

    save_weights(solver.net, path)
    return Path(path)


def test_a_resumed_run_keeps_its_references() -> None:
    whole = run(thaw="^a/")
    whole.train()
    log = io.StringIO()
    resumed = run(log, thaw="^a/")
    resumed.restore("run_iter_10.solverstate")
    resumed.train()
    assert changed(weights_of(whole), weights_of(resumed)) == set()
    stored = read_weights("run_iter_10.caffemodel")
    assert np.array_equal(stored["kept/a/ip"][0], weights_of(whole)["kept/a/ip"])
    assert not np.array_equal(stored["kept/a/ip"][0], stored["a/ip"][0])


def test_thawing_step_by_step_keeps_the_first_originals() -> None:
    first = run(thaw="^a/")
    first.step(3)
    start = str(written(first, "first.caffemodel"))
    second = run(weights=start, thaw="^(a/|low$)")
    second.step(3)
    before, between, after = read_weights(start), weights_of(first), weights_of(second)
    assert changed(between, after) == {"low", "a/ip", "score"}
    for name in ("a/ip", "a/classes"):
        assert np.array_equal(after[f"kept/{name}"], before[f"kept/{name}"][0])
    assert np.array_equal(after["kept/low"], between["low"])


@pytest.mark.parametrize("thaw", [None, "^a/classes$"])
def test_weights_that_learned_are_refused_where_their_copies_would_be_lost(thaw: str | None) -> None:
    first = run(thaw="^a/")
    first.step(3)
    start = str(written(first, "first.caffemodel"))
    with pytest.raises(TrainingError, match=r"first\.caffemodel: .* whose copies it lacks: a/ip") as caught:
        run(weights=start, thaw=thaw)
    assert "--thaw REGEX --lr-mult REGEX=0" in str(caught.value)
    again = run(weights=start, thaw="^a/", lr_mult=["^a/=0"])
    again.step(3)
    assert changed(weights_of(first), weights_of(again)) == {"score"}


def test_losses_of_such_weights_are_measured_towards_the_copies() -> None:
    first = run(thaw="^a/")
    start = written(first, "start.caffemodel")
    first.step(3)
    evaluation = open_evaluation("net.prototxt", [written(first, "first.caffemodel")], MeasuredData(phase="TRAIN"))
    stored, begin = read_weights("first.caffemodel"), read_weights(start)
    own = {name: blobs[0].detach().numpy() for name, blobs in params(evaluation.job.net).items()}
    assert np.array_equal(own["a/ip"], stored["a/ip"][0])
    for name in ("a/ip", "a/classes"):
        assert np.array_equal(own[f"kept/{name}"], begin[name][0])
    plain = written(run(), "plain.caffemodel")
    assert "kept/a/ip" not in params(open_evaluation("net.prototxt", [plain], MeasuredData(phase="TRAIN")).job.net)


def test_the_log_names_the_copies() -> None:
    path = str(written(run(), "w.caffemodel"))
    log = io.StringIO()
    run(log, path, thaw="^a/")
    assert "2 layers are copies of the originals, for the references: kept/a/ip, kept/a/classes" in log.getvalue()
    assert "keep their own" not in log.getvalue()


def test_without_losses_towards_references_nothing_is_copied() -> None:
    Path("net.prototxt").write_text(NET[: NET.index('layer { name: "kd"')])
    assert not [name for name in weights_of(run(thaw="^a/")) if name.startswith("kept/")]


def test_a_layer_named_like_a_copy_is_refused() -> None:
    Path("net.prototxt").write_text(NET.replace('name: "low"', 'name: "kept/low"'))
    with pytest.raises(TrainingError, match="layer 'kept/low' has the name of a kept copy"):
        run(thaw="^a/")


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_a_layer_learns_at_a_multiple_of_the_rate(factor: float) -> None:
    plain, slow = run(), run(lr_mult=[f"score={factor}"])
    before = weights_of(plain)
    plain.step(1)
    slow.step(1)
    step = weights_of(plain)["score"] - before["score"]
    np.testing.assert_allclose(weights_of(slow)["score"] - before["score"], factor * step, rtol=1e-3, atol=1e-7)


def rates(text: str) -> list[float]:
    (layer,) = load_net(parse(text)).layer
    return [spec.lr_mult for spec in layer.param]


IP = 'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" %s inner_product_param { num_output: 2 } }'
NORM = 'layer { name: "ip" type: "BatchNorm" bottom: "x" top: "y" %s batch_norm_param { use_global_stats: true } }'
THREE = "param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }"


def test_rates_by_blob() -> None:
    def after(text: str, *factors: str) -> list[float]:
        net = load_net(parse(text))
        for factor in factors:
            net = multiply_rates(net, factor)
        return [spec.lr_mult for spec in net.layer[0].param]

    assert after(IP % "param { lr_mult: 1 } param { lr_mult: 2 }", "ip=0.5", "^i=0.5") == [0.25, 0.5]
    assert after(IP % "", "ip=0.5") == [0.5, 0.5]  # Caffe's rate of blobs without param {} is 1
    assert after(IP % "param { lr_mult: 3 }", "ip=2") == [6, 2]
    thawed, names = thaw_layers(load_net(parse(IP % "param { lr_mult: 0 } param { lr_mult: 2 }")), "ip")
    assert ([spec.lr_mult for spec in thawed.layer[0].param], names) == ([1, 2], {"ip"})


def test_statistics_never_learn() -> None:
    with pytest.raises(TrainingError, match="--thaw ip: none of the layers that it finds is frozen"):
        thaw_layers(load_net(parse(NORM % THREE)), "ip")
    with pytest.raises(TrainingError, match="--lr-mult ip=2: none of the layers that it finds learns"):
        multiply_rates(load_net(parse(NORM % THREE)), "ip=2")


def test_weights_of_an_onnx_layer_are_thawed() -> None:
    text = 'layer { name: "o" type: "Onnx" bottom: "x" top: "y" onnx_param { frozen: true } }'
    thawed, names = thaw_layers(load_net(parse(text)), "o")
    assert (thawed.layer[0].onnx_param.frozen, names) == (False, {"o"})


@pytest.mark.parametrize(
    ("extras", "says"),
    [
        ({"thaw": "x/"}, "--thaw x/: no layer's name matches\n  hint: the layers are low, a/ip, a/tanh"),
        ({"thaw": "score"}, "--thaw score: none of the layers that it finds is frozen"),
        ({"thaw": "("}, "--thaw (: no regular expression"),
        ({"lr_mult": ["score=fast"]}, "--lr-mult score=fast: expected REGEX=FACTOR"),
        ({"lr_mult": ["score=-1"]}, "--lr-mult score=-1: expected REGEX=FACTOR"),
        ({"lr_mult": ["score=inf"]}, "--lr-mult score=inf: expected REGEX=FACTOR"),
        ({"lr_mult": ["a/=0.1"]}, "--lr-mult a/=0.1: none of the layers that it finds learns\n  hint: thaw them"),
        ({"lr_mult": ["x=0.1"]}, "--lr-mult x: no layer's name matches"),
    ],
)
def test_rates_that_cannot_be(extras: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError, match=re.escape(says)):
        run(**extras)
