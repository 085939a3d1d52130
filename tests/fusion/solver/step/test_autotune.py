"""Threads and layout on a CPU: measured, told, kept in snapshots."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fusion.solver import Solver
from fusion.solver.logging.console import Lines
from fusion.solver.step.autotune import Autotuner, Measurement, RunConfig, best, candidates, untouched

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_candidates() -> None:
    assert candidates(1) == [1]
    assert candidates(2) == [2, 1]
    assert candidates(6) == [6, 4, 2, 1]
    assert candidates(16) == [16, 8, 4, 2, 1]


def test_fewest_of_those_that_are_alike() -> None:
    assert best({RunConfig(4): 1.0, RunConfig(2): 1.09, RunConfig(1): 1.9}) == RunConfig(2)
    assert best({RunConfig(4): 1.0, RunConfig(2): 1.11, RunConfig(1): 1.9}) == RunConfig(4)


def test_another_layout_for_a_gain_only() -> None:
    assert best({RunConfig(2): 1.0, RunConfig(1): 1.9, RunConfig(2, True): 0.97, RunConfig(1, True): 1.8}) == RunConfig(
        2
    )
    assert best({RunConfig(2): 1.0, RunConfig(1): 1.9, RunConfig(2, True): 0.9, RunConfig(1, True): 0.91}) == RunConfig(
        1, True
    )


def test_the_faster_number_is_taken_and_told() -> None:
    def step() -> None:
        for _ in range(1000 * torch.get_num_threads()):
            pass

    said = Autotuner("auto").settle(lambda: Measurement(step))
    assert said.startswith("threads: 1 of 2 (time of a step by threads: 1: ")
    assert torch.get_num_threads() == 1


def test_the_faster_layout_is_taken_and_told() -> None:
    layouts = [False]

    def step() -> None:
        for _ in range(20 if layouts[-1] else 20_000):
            pass

    pacemaker = Autotuner("auto")
    said = pacemaker.settle(lambda: Measurement(step), layouts.append)
    assert ", channels last (time of a step by threads: 1: " in said
    assert pacemaker.channels_last
    assert layouts[-1]


class Clock:
    """A clock that steps advance, each by the seconds of its threads and layout, or by the next of several."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float | list[float]]) -> None:
        self.now, self.last, self.seconds, self.steps = 0.0, False, seconds, dict.fromkeys(seconds, 0)
        torch.set_num_threads(4)
        monkeypatch.setattr("fusion.solver.step.autotune.time.perf_counter", lambda: self.now)

    def step(self) -> None:
        config = str(RunConfig(torch.get_num_threads(), self.last))
        each = self.seconds[config]
        self.now += each[self.steps[config] % len(each)] if isinstance(each, list) else each
        self.steps[config] += 1

    def settle(self) -> str:
        """Return the chosen threads and layout."""
        tuner = Autotuner("auto")
        tuner.settle(lambda: Measurement(self.step), lambda last: setattr(self, "last", last))
        return str(RunConfig(torch.get_num_threads(), tuner.channels_last))


def test_all_threads_of_a_busy_machine_are_no_large_net(monkeypatch: pytest.MonkeyPatch) -> None:
    last = ", channels last"
    times: dict[str, float | list[float]] = {"4": 0.6, "2": 0.3, "1": 0.04}
    clock = Clock(monkeypatch, {**times, f"4{last}": 0.9, f"2{last}": 0.8, f"1{last}": 0.03})
    assert clock.settle() == f"1{last}"
    assert {key for key, count in clock.steps.items() if count > 2} == {"1", f"1{last}"}


def test_clearly_slow_ways_are_measured_less(monkeypatch: pytest.MonkeyPatch) -> None:
    last = ", channels last"
    seconds = {"4": 0.0625, "2": 0.125, "1": 0.1875, **{f"{key}{last}": 0.09375 for key in "421"}}
    clock = Clock(monkeypatch, {**seconds})
    assert clock.settle() == "4"
    rounds = {"4": 3, "2": 1, "1": 0, **{f"{key}{last}": 3 for key in "421"}}
    assert clock.steps == {key: 2 + count for key, count in rounds.items()}


def test_fewer_threads_of_a_large_net_are_tried_while_they_help(monkeypatch: pytest.MonkeyPatch) -> None:
    last = ", channels last"
    clock = Clock(monkeypatch, {"4": 0.5, "2": 0.7, f"4{last}": 0.4, f"2{last}": 0.6})  # none with one thread
    assert clock.settle() == f"4{last}"
    assert set(clock.steps.values()) == {2}
    clock = Clock(monkeypatch, {"4": 1.1, f"4{last}": 1.02})
    assert clock.settle() == f"4{last}"
    clock = Clock(monkeypatch, {"4": 5.1})
    assert clock.settle() == "4"


def test_a_step_that_is_short_by_luck_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    last = ", channels last"
    lucky: dict[str, float | list[float]] = {key: [0.01, 0.01, 0.06, 0.06, 0.01] for key in ("4", "2")}
    slow = {f"{key}{last}": 0.2 for key in "421"}
    assert Clock(monkeypatch, {**lucky, "1": 0.02, **slow}).settle() == "1"


def test_a_snapshots_layout_is_taken_over() -> None:
    layouts: list[bool] = []
    pacemaker = Autotuner(None)
    pacemaker.replayed = RunConfig(torch.get_num_threads(), channels_last=True)
    assert pacemaker.settle(lambda: None, layouts.append) == ""
    assert layouts == [True]


def test_a_number_that_is_given_is_not_measured() -> None:
    def step() -> None:
        pytest.fail("measured")

    assert Autotuner(1).settle(lambda: Measurement(step)) == ""
    assert torch.get_num_threads() == 1
    assert Autotuner(None).settle(lambda: Measurement(step)) == ""


def test_a_snapshots_number_is_taken_over() -> None:
    threads = Autotuner("auto")
    threads.replayed = RunConfig(1)
    assert threads.settle(lambda: None) == "threads: 1, as the snapshot was written with"
    assert torch.get_num_threads() == 1
    threads = Autotuner(2)
    threads.replayed = RunConfig(1)
    assert threads.settle(lambda: None) == "threads: 2, but the snapshot was written with 1: the last bits may differ"


@pytest.mark.parametrize("frozen", [True, False])
def test_measuring_changes_no_number(project: Make, frozen: bool) -> None:
    path = project(frozen=frozen, shuffle=True)
    norm = 'layer { name: "norm" type: "BatchNorm" bottom: "trunk" top: "trunk" }\n'
    drop = 'layer { name: "drop" type: "Dropout" bottom: "trunk" top: "trunk" }\nlayer { name: "ip"'
    text = Path("net.prototxt").read_text().replace('layer { name: "ip"', drop if frozen else norm + drop)
    Path("net.prototxt").write_text(text)
    log = io.StringIO()
    measured = Solver(path, device="cpu", display=Lines(log), threads="auto")
    measured.step(5)
    assert "threads: " in log.getvalue()
    plain = Solver(path, device="cpu", display=Lines(io.StringIO()), threads=torch.get_num_threads())
    plain.step(5)
    for one, other in zip(measured.net.state_dict().values(), plain.net.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_snapshot_remembers(project: Make) -> None:
    path = project()
    Solver(path, device="cpu", display=Lines(io.StringIO()), threads=1).step(10)
    torch.set_num_threads(2)
    log = io.StringIO()
    resumed = Solver(path, device="cpu", display=Lines(log), threads="auto")
    resumed.restore("small_iter_10.solverstate")
    resumed.step(1)
    assert "threads: 1, as the snapshot was written with" in log.getvalue()


def test_buffers_stay() -> None:
    module = torch.nn.BatchNorm1d(3)
    module.register_buffer("hidden", None)
    before = module.running_mean.clone() if module.running_mean is not None else None
    with untouched(module):
        module(torch.randn(5, 3))
        module.hidden = torch.ones(2)
    assert before is not None
    assert torch.equal(module.running_mean, before)
    assert module.hidden is None


def test_the_layout_is_set_from_the_start() -> None:
    """Something else, such as a trunk of shared filters, may have left another."""
    layouts: list[bool] = []
    Autotuner(None).settle(lambda: None, layouts.append)
    assert layouts == [False]


def test_fewer_processors_than_before_are_told() -> None:
    pacemaker = Autotuner("auto")
    pacemaker.replayed = RunConfig(10_000)
    assert pacemaker.settle(lambda: Measurement(lambda: None)).endswith(
        "was written with 10000: the last bits may differ"
    )
