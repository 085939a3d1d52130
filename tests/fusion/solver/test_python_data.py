"""Training from a Python layer that makes its data, as Faster R-CNN and FCN do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion.errors import FusionError
from fusion.nets.build import params
from fusion.solver import Solver
from fusion.solver.logging.console import Silent
from prototxt.schema.messages import SolverParameter

MODULE = """
import json
import caffe
import numpy as np

def rows(start, count):
    labels = np.arange(start, start + count) % 3
    pictures = np.random.RandomState(start).rand(count, 1, 2, 3).astype(np.float32)
    pictures[np.arange(count), 0, 0, labels] += 2
    return pictures, labels

class Pictures(caffe.Layer):
    def setup(self, bottom, top):
        self.batch, self.at = json.loads(self.param_str)["batch"], 0 if self.phase == caffe.TRAIN else 1000
    def reshape(self, bottom, top):
        top[0].reshape(self.batch, 1, 2, 3); top[1].reshape(self.batch)
    def forward(self, bottom, top):
        top[0].data[...], top[1].data[...] = rows(self.at, self.batch)
        self.at += self.batch
    def backward(self, top, propagate_down, bottom): pass
"""
DATA = """layer { name: "data" type: "Python" top: "data" top: "label"
  python_param { module: "users_data" layer: "Pictures" param_str: '{ "batch": 6 }' } }"""
MEMORY = """layer { name: "data" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 6 channels: 1 height: 2 width: 3 } }"""
NET = """
layer { name: "trunk" type: "InnerProduct" bottom: "data" top: "trunk" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "trunk" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "users_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSION_ALLOW_PYTHON", "1")
    importlib.invalidate_caches()
    yield
    sys.modules.pop("users_data", None)


def solver(data: str = DATA, **options: object) -> Solver:
    Path("net.prototxt").write_text(data + NET)
    message = SolverParameter(
        net="net.prototxt", base_lr=0.1, momentum=0.9, lr_policy="fixed", max_iter=30, random_seed=1, test_iter=[4],
        test_interval=1000, snapshot_prefix="small", snapshot_after_train=False,
    )  # fmt: skip
    return Solver(message, device="cpu", display=Silent(), **options)  # type: ignore[arg-type]


def test_it_learns_and_is_tested_on_the_data_of_each_phase() -> None:
    run = solver()
    run.step(30)
    assert run.test()[0]["acc"] == 1.0


def test_the_numbers_are_those_of_the_same_arrays() -> None:
    own = solver()
    rows = importlib.import_module("users_data").rows
    batches = [rows(start, 6) for start in range(0, 60, 6)]
    arrays = {"data": np.concatenate([x for x, _ in batches]), "label": np.concatenate([y for _, y in batches])}
    other = solver(MEMORY, arrays=arrays, cache_budget=0)
    for _ in range(10):
        assert own.step() == pytest.approx(other.step(), rel=1e-6)
    np.testing.assert_allclose(
        params(own.net)["ip"][0].detach(), params(other.net)["ip"][0].detach(), rtol=1e-6, atol=1e-7
    )


def test_measuring_the_pace_draws_no_data() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert solver(threads="auto").step() == pytest.approx(solver().step(), rel=1e-6)
    finally:
        torch.set_num_threads(before)


def test_without_permission_the_layer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_ALLOW_PYTHON", "0")
    with pytest.raises(FusionError, match=r"users_data\.Pictures(.|\n)*--allow-python"):
        solver()
