"""Parts of a step alone: where windows end, how gradients of several batches add up, where parameters lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import prototxt
from fusion.errors import TrainingError
from fusion.nets import build as nets
from fusion.solver import Solver
from fusion.solver.logging.console import Silent
from fusion.solver.signals import Requests
from fusion.solver.step import autotune, compile as compiling, flat_params
from fusion.solver.step.autotune import Autotuner, Measurement, RunConfig, best, format_seconds
from fusion.solver.step.compile import Compilable
from fusion.solver.step.flat_params import flatten_params
from fusion.solver.step.step import Engine

Make = Callable[..., Path]


def engine(closed: bool = True, parallel: bool = False, **settings: int) -> Engine:
    found = object.__new__(Engine)
    values = {"average_loss": 1, "display": 0, "snapshot": 0, "test_interval": 0, "iter_size": 1, **settings}
    found._settings = SimpleNamespace(**values)  # type: ignore[assignment]
    found.closed = object() if closed else None  # type: ignore[assignment]
    found._data_parallel = object() if parallel else None  # type: ignore[assignment]
    return found


@pytest.mark.parametrize(
    ("settings", "iteration", "stop", "end"),
    [
        ({}, 0, 1000, 100),
        ({}, 99, 1000, 100),
        ({}, 100, 1000, 200),
        ({}, 30, 60, 59),
        ({"display": 20}, 0, 1000, 0),
        ({"display": 20}, 1, 1000, 20),
        ({"display": 20}, 20, 1000, 20),
        ({"display": 20}, 21, 1000, 40),
        ({"snapshot": 10}, 0, 1000, 9),
        ({"snapshot": 10}, 9, 1000, 9),
        ({"snapshot": 10}, 10, 1000, 19),
        ({"test_interval": 30}, 0, 1000, 30),
        ({"test_interval": 30}, 30, 1000, 60),
        ({"test_interval": 30, "display": 7, "snapshot": 50}, 22, 1000, 28),
        ({"average_loss": 2}, 5, 1000, 5),
        ({"closed": False}, 5, 1000, 5),
        ({"parallel": True}, 5, 1000, 5),
    ],
    ids=str,
)
def test_a_window_ends_where_a_loss_is_read(settings: dict[str, Any], iteration: int, stop: int, end: int) -> None:
    assert engine(**settings).window_end(iteration, stop) == end


def test_losses_of_several_batches_are_averaged_and_gradients_add_up() -> None:
    found, cleared, steps = engine(closed=False, iter_size=4), list[int](), iter([1.0, 2.0, 4.0, 9.0])
    warmup = SimpleNamespace(set=cleared.append)
    found._job = SimpleNamespace(warmups=[warmup])  # type: ignore[assignment]
    found._flat_params = SimpleNamespace(zero=lambda: cleared.append(-1))  # type: ignore[assignment]
    found.batches = iter(range(10))  # type: ignore[assignment]
    found._step = lambda batch: ({"batch": batch}, torch.tensor(next(steps)))  # type: ignore[assignment, dict-item]
    out, loss = found.run(7, Requests())
    assert (out["batch"], loss.item()) == (3, 4.0)
    assert cleared == [7, -1], "cleared once, before the first"


NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "a" type: "InnerProduct" bottom: "conv" top: "a" A inner_product_param { num_output: 4 } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" B inner_product_param { num_output: 3 } }
"""


def flat(a: str = "", b: str = "") -> Any:
    return flatten_params(nets.build(prototxt.parse(NET.replace(" A ", f" {a} ").replace(" B ", f" {b} ")), "TRAIN"))


def test_every_parameter_has_its_place_and_filters_stay_alone() -> None:
    found = flat(b="param { lr_mult: 2 } param { lr_mult: 2 decay_mult: 0 }")
    assert [(group["lr_mult"], group["decay_mult"]) for group in found.groups] == [(1, 1), (2, 1), (2, 0)]
    assert [tuple(tensor.shape) for tensor in found.single] == [(2, 2, 3, 3)]
    assert [tensor.numel() for tensor in found.flat] == [2 + 8 + 4, 12, 3]
    assert len(found.updated) == 4
    values = {tensor: torch.arange(float(tensor.numel())).reshape(tensor.shape) for tensor in found.updated}
    views = [found.view(values, index) for index in range(len(found.blobs))]
    assert [tuple(view.shape) for view in views] == [(2, 2, 3, 3), (2,), (4, 2), (4,), (3, 4), (3,)]
    assert [view.flatten()[0].item() for view in views] == [0, 0, 2, 10, 0, 0]
    for blob, home in zip(found.blobs, found.homes, strict=True):
        whole, start = home
        with torch.no_grad():
            whole.view(-1)[start] = 7.0
            whole.grad = torch.zeros_like(whole) if whole.grad is None else whole.grad
            whole.grad.view(-1)[start] = 5.0
        assert blob.tensor.flatten()[0] == 7
        assert blob.tensor.grad.flatten()[0] == 5
    found.zero()
    assert all(not tensor.grad.any() for tensor in found.flat)
    assert found.single[0].grad is None


def test_frozen_blobs_have_no_place() -> None:
    found = flat(a="param { lr_mult: 0 } param { lr_mult: 0 }")
    assert [home is None for home in found.homes] == [False, False, True, True, False, False]
    assert not found.view({}, 2).any()
    assert found.view({}, 2).shape == (4, 2)


@pytest.mark.parametrize(("limit", "flats"), [(8 + 2 + 4 + 12 + 3, 1), (8 + 2 + 4 + 12 + 2, 0)])
def test_large_parameters_stay_where_they_are(monkeypatch: pytest.MonkeyPatch, limit: int, flats: int) -> None:
    monkeypatch.setattr(flat_params, "_SMALL", limit)
    found = flat()
    assert (len(found.flat), len(found.single)) == (flats, 1 if flats else 6)
    assert [home[1] for home in found.homes] == ([0, 0, 2, 10, 14, 26] if flats else [0] * 6)


def test_nothing_to_learn_is_an_error() -> None:
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    text = NET
    for place in (' top: "conv" ', " A ", " B "):
        text = text.replace(place, f"{place.replace('A', '').replace('B', '')} {frozen} ")
    with pytest.raises(TrainingError, match="has nothing to learn: every lr_mult is 0"):
        flatten_params(nets.build(prototxt.parse(text), "TRAIN"))


def test_reasons_not_to_compile_are_told(project: Make) -> None:
    made = Solver(project(snapshot=0), device="cpu", display=Silent())
    made.step()
    found = made.engine
    assert found.compile(False) == "not compiled, as the snapshot was written"
    assert found.compile(None) == "not compiled: the head is a handful of operations already"
    found.closed, found._compilable = None, None
    assert found.compile(None) == "not compiled: layers run one at a time"
    found._compilable = Compilable(made.net)
    found._data_parallel = object()  # type: ignore[assignment]
    assert found.compile(None) == "not compiled: several processes train together"
    found._data_parallel = None
    object.__setattr__(made.net.plan.calls[0], "type", "Python")
    assert found.compile(None) == "not compiled: there is other people's code in the net, whose calls may count"
    assert found.trial() is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.0, "2 s"),
        (1.0, "1 s"),
        (0.9999, "1 s"),
        (0.9994, "999 ms"),
        (0.001, "1 ms"),
        (0.0009999, "1 ms"),
        (0.0009994, "999 us"),
        (1.2345e-5, "12.3 us"),
    ],
)
def test_times_have_three_digits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_usual_configuration_wins_at_the_limits() -> None:
    plain, last = RunConfig(1), RunConfig(1, True)
    assert best({plain: 1.0, last: 0.95}) == plain
    assert best({plain: 1.0, last: 0.94}) == last
    assert best({RunConfig(2): 1.0, RunConfig(1): 1.1}) == RunConfig(1)
    assert str(RunConfig(2)) == "2"
    assert str(RunConfig(2, True)) == "2, channels last"


class Clock:
    """Runs as long as the configuration of the moment says."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.now, self.seconds, self.runs = 0.0, seconds, 0

    def run(self) -> None:
        self.runs += 1
        self.now += self.seconds()


@pytest.mark.parametrize(
    ("times", "layout", "chosen", "runs"),
    [
        ({2: 0.0078125, 1: 0.015625}, False, RunConfig(2), None),
        ({2: 0.015625, 1: 0.0078125}, False, RunConfig(1), None),
        ({2: 0.3, 1: 0.4}, False, RunConfig(2), 4),
        ({2: 0.3, 1: 0.01}, False, RunConfig(1), None),
        ({2: 0.3, 1: 0.01}, True, RunConfig(1, True), None),
        ({2: 3.0, 1: 0.01}, True, RunConfig(2, True), 4),
        ({2: 6.0, 1: 0.01}, True, RunConfig(2), 2),
    ],
)
def test_long_steps_are_not_tried_in_every_way(
    monkeypatch: pytest.MonkeyPatch, times: dict[int, float], layout: bool, chosen: RunConfig, runs: int | None
) -> None:
    """A step of over a second is left to all threads; one of over 5 s to the usual layout too."""
    before, layouts = torch.get_num_threads(), [False]
    clock = Clock(lambda: times[torch.get_num_threads()] * (0.5 if layouts[0] else 1.0))
    monkeypatch.setattr(autotune, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    torch.set_num_threads(2)
    try:
        tuner = Autotuner("auto")
        arrange = (lambda last: layouts.__setitem__(0, last)) if layout else None
        said = tuner.settle(lambda: Measurement(clock.run, 10), arrange)
        assert RunConfig(torch.get_num_threads(), tuner.channels_last) == chosen
        assert said.startswith(f"threads: {chosen.threads} of 2{', channels last' * chosen.channels_last} (time")
        assert runs is None or clock.runs == runs
        assert format_seconds(times[2] / 10) in said
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("plain", "quick", "compiled"), [(1.0, 0.96, True), (1.0, 0.98, False), (0.25, 1.0, False), (1.0, 0.5, True)]
)
def test_compiling_must_gain_something(
    monkeypatch: pytest.MonkeyPatch, plain: float, quick: float, compiled: bool
) -> None:
    monkeypatch.setattr(compiling, "_compiled", lambda net, device: lambda blobs: {"made": torch.ones(1)})
    monkeypatch.setattr(compiling, "timed", lambda run, share: quick if target.compiled else plain)
    target = Compilable(lambda blobs: {"plain": torch.ones(1)})  # type: ignore[arg-type]
    said = target.choose(Measurement(lambda: None, 10), torch.device("cpu"))
    assert target.compiled is compiled
    assert list(target({})) == ["made" if compiled else "plain"]
    times = f"a step takes {format_seconds(quick / 10)} compiled, {format_seconds(plain / 10)} otherwise"
    assert said.endswith(times)
    assert said.startswith("compiled in" if compiled else "not compiled:")


@pytest.mark.parametrize("sure", [False, True])
def test_a_compiler_that_fails_leaves_the_net_as_it_is(monkeypatch: pytest.MonkeyPatch, sure: bool) -> None:
    def fail() -> None:
        raise RuntimeError("first\nsecond") from OSError("InvalidCxxCompiler: none\nmore")

    monkeypatch.setattr(compiling, "_compiled", lambda net, device: lambda blobs: {})
    target = Compilable(lambda blobs: {"plain": torch.ones(1)})  # type: ignore[arg-type]
    said = target.choose(Measurement(fail), torch.device("cpu"), sure=sure)
    reason = "not compiled: OSError: InvalidCxxCompiler: none (install g++, or name one in CXX)"
    bits = "; a compiled step wrote the snapshot: the last bits may differ"
    assert said == (f"warning: {reason}{bits}" if sure else reason)
    assert not target.compiled
    works = target.choose(Measurement(lambda: None), torch.device("cpu"), sure=True)
    assert works.endswith("s, as the snapshot was written")
    assert target.compiled
