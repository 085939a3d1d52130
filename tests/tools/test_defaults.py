"""What each command needs and does by default, in one table; the small texts and decisions of commands."""

# ruff: noqa: E501 - a table

from __future__ import annotations

import argparse
import io
import runpy
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from caffe_fusion_tools import merge, run, surgery, train, verify
from caffe_fusion_tools.commands import MODULES

# Arguments that must be given, with those that may be repeated by nargs; then the defaults other than none and no.
NEEDED: dict[str, str] = {
    "run": "",
    "rename": "input output prefix",
    "compose": "",
    "merge": "fused sources+",
    "verify": "net weights sources*",
    "train": "",
    "test": "--model",
    "report": "--old+ --new+",
    "predict": "net images*",
    "export": "net weights --output",
    "pycaffe": "script",
    "show": "input",
    "convert": "input output",
    "completion": "shell",
    "surgery fold": "net weights --output",
    "surgery head": "net weights --drop --output",
    "surgery classes": "net weights --output",
    "surgery channels": "net weights --channels --output",
    "surgery convolve": "net weights --output",
    "surgery dense": "net weights --output",
    "surgery strip": "net weights --output",
    "surgery restore": "net weights base --output",
    "surgery bake": "net weights --output",
    "surgery group": "net weights --branches+ --output",
    "surgery soup": "net files+ --output",
    "surgery interpolate": "net old new --output",
    "surgery average": "files+ --output",
    "tutorial": "",
    "convert images": "source output",
    "convert list": "source --output",
    "convert mean": "source output",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "verify": {"--batch": 2, "--rtol": 1e-05},
    "train": {"--frozen-engine": "auto", "--device": "auto", "--iterations": 50, "--on-bad-record": "fail", "--batch-norm": "sync", "--select-on": 0.1, "--slack": 0.003, "--output": "sweep"},
    "test": {"--frozen-engine": "auto", "--phase": "TEST", "--device": "auto", "--on-bad-record": "fail"},
    "report": {"--root": "", "--image-bytes": 2_500_000},
    "predict": {"--top": 5, "--batch": 32, "--host": "127.0.0.1", "--port": 8765},
    "export": {"--opset": 17, "--rtol": 1e-05},
    "surgery channels": {"--fill": "mean"},
    "surgery convolve": {"--layers": ".*"},
    "surgery dense": {"--layers": ".*"},
    "tutorial": {"--work": Path("tutorial"), "--device": "auto"},
    "convert images": {"--on-bad-record": "fail", "--encode-type": ""},
    "convert mean": {"--on-bad-record": "fail", "--root": ""},
}  # fmt: skip


def actions(parser: argparse.ArgumentParser, name: str) -> dict[str, list[argparse.Action]]:
    """Return the arguments of a command, or of each of its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {f"{name} {one}": inner._actions for one, inner in action.choices.items()}
    return {name: parser._actions}


@pytest.mark.parametrize(("command", "module"), [*MODULES.items(), ("convert", "convert_data")])
def test_what_a_command_needs_and_does_by_default(command: str, module: str) -> None:
    for name, found in actions(import_module(f"caffe_fusion_tools.{module}").parser(), command).items():
        needed = [
            f"{(action.option_strings or [action.dest])[-1]}{action.nargs or ''}"
            for action in found
            if action.required and not isinstance(action, argparse._SubParsersAction)
        ]
        assert " ".join(needed) == NEEDED[name], name
        defaults = {action.option_strings[-1]: action.default for action in found if action.option_strings}
        odd = {key: value for key, value in defaults.items() if value not in (None, False, [], argparse.SUPPRESS)}
        assert odd == DEFAULTS.get(name, {}), name
        assert not [key for key, value in defaults.items() if value is True]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (99.4, "99 s"), (100, "1.7 min"), (150, "2.5 min")],
)
def test_times(seconds: float, text: str) -> None:
    assert run._seconds(seconds) == text


def shown(lines: list[str], code: int, capsys: pytest.CaptureFixture[str], **step: Any) -> tuple[str, str]:
    done: Any = SimpleNamespace(**{"name": "train", "command": "train", **step})
    run._show_output(done, lines, code, print)
    found = capsys.readouterr()
    return found.out, found.err


def test_what_is_shown_of_a_steps_output(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a", "warning: w", "warning: w", "[1] --pct auto chose kd", "wrote r"]
    assert shown(lines, 0, capsys) == ("  --pct auto chose kd\n", "warning: w\n")
    assert shown(lines, 0, capsys, command="compose") == ("  --pct auto chose kd\n", "")
    for code, text in ((0, "\n".join(lines[:-1]) + "\n"), (3, "\n".join(lines[:-1]) + "\n")):
        assert shown(lines, code, capsys, name="report") == (text, "")


def test_of_a_failed_step_the_error_or_the_end_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    many = [f"line {index}" for index in range(30)]
    assert shown([*many, "error: e", "  hint: h"], 1, capsys) == ("", "error: e\n  hint: h\n")
    assert shown(many, 1, capsys) == ("", "".join(f"{line}\n" for line in many[10:]))
    assert shown(many, 0, capsys) == ("", "")
    assert shown(["warning: w", "usage: u", "warning: w"], 2, capsys) == ("", "usage: u\nwarning: w\n")
    assert shown(["Traceback", "x"], 1, capsys, name="report") == ("", "Traceback\nx\n")


def test_a_bar_is_shown_ten_times_a_second_after_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(merge, "time", SimpleNamespace(monotonic=lambda: clock.now))
    stream = Terminal()
    show = merge.progress_on(stream)
    assert show is not None
    seen = []
    for now, done in ((100.5, 1), (101.0, 2), (101.05, 3), (101.09, 3), (101.125, 4), (101.25, 5), (101.25, 10)):
        clock.now = now
        before = len(stream.getvalue())
        show(done * 10**6, 10 * 10**6)
        seen.append(len(stream.getvalue()) > before)
    assert seen == [False, True, False, False, True, True, True]
    parts = stream.getvalue().split("\r")[1:]
    assert parts[0] == f"[{'#' * 6:<30}]  20%  2 of 10 MB, 2 MB/s"
    assert parts[-1] == f"[{'#' * 30}] 100%  10 of 10 MB, 8 MB/s\n"
    assert not any(part.endswith("\n") for part in parts[:-1])


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("rtol", "code"), [("0", 1), ("1e-9", 1), ("-1e-9", 2), ("nan", 2)])
def test_a_tolerance_may_be_zero(rtol: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The files do not exist, so that a command with sound options ends with code 1."""
    words = ["none.prototxt", "none.caffemodel", "a=none.prototxt:none.caffemodel", f"--rtol={rtol}"]
    try:
        found = verify.main(words)
    except SystemExit as usage:
        found = int(usage.code or 0)
    assert found == code
    assert ("--rtol is 0 or more" in capsys.readouterr().err) == (code == 2)


def usage_error(main: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_surgery_needs_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the following arguments are required: COMMAND" in usage_error(surgery.main, [], capsys)


@pytest.mark.parametrize("processes", ["2", "3"])
def test_a_sweep_runs_in_one_process(
    processes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", processes)
    words = ["--solver", "none.prototxt", "--sweep", "base_lr=0.1,0.2"]
    assert "a sweep runs in one process: start it without torchrun" in usage_error(train.main, words, capsys)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert train.main(words) == 1
    assert "none.prototxt" in capsys.readouterr().err


@pytest.mark.parametrize("module", sorted({*MODULES.values(), "convert_data"} - {"completion"}))
def test_a_module_is_a_program(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"caffe_fusion_tools.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(name, run_name="__main__")
    assert caught.value.code == 0


def test_a_trial_is_extrapolated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tried = []

    def seconds(step: Any, *more: str) -> float:
        tried.append(" ".join((step.name, *more)))
        return {"10": 2.0, "210": 2.5}.get(more[-1], 9.0) if more else 5.0

    named = [("compose-plain", "compose"), ("compose", "compose"), ("merge", "merge"), ("deploy", "merge"),
             ("train", "train"), ("test", "test")]  # fmt: skip
    steps = [SimpleNamespace(name=name, command=command, words=["--solver", "s", "-q"]) for name, command in named]
    monkeypatch.setattr(run, "_plan", lambda path, output: SimpleNamespace(steps=steps))
    monkeypatch.setattr(run, "_try", seconds)
    monkeypatch.setattr("prototxt.schema.load.load_solver", lambda path: SimpleNamespace(max_iter={"s": 4000}[path]))
    peak = SimpleNamespace(ru_maxrss=3 * 2**20)  # KiB on Linux, bytes on macOS
    monkeypatch.setattr("resource.getrusage", lambda who: peak)
    for platform, gib in (("linux", "3.0"), ("darwin", "0.0")):
        monkeypatch.setattr(sys, "platform", platform)
        run._measure("job.toml")
        assert capsys.readouterr().out == (
            "train: about 12 s: 2.0 s to begin with, then 4,000 iterations of 2.50 ms; tests and snapshots not counted\n"
            f"memory: {gib} GiB at the peak of these trials\n"
        )
    whole = ["compose-plain", "compose", "merge", "train --max-iter 10", "train --max-iter 210"]
    assert tried == whole * 2


def test_a_trial_that_is_no_slower_for_more_iterations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = SimpleNamespace(name="train", command="train", words=["--solver", "s"])
    monkeypatch.setattr(run, "_plan", lambda path, output: SimpleNamespace(steps=[step]))
    monkeypatch.setattr(run, "_try", lambda step, *more: {"10": 2.0, "210": 1.5}[more[-1]])
    monkeypatch.setattr("prototxt.schema.load.load_solver", lambda path: SimpleNamespace(max_iter=4000))
    run._measure("job.toml")
    assert "train: about 2.0 s: 2.0 s to begin with, then 4,000 iterations of 0.00 ms" in capsys.readouterr().out


def test_a_step_that_fails_in_a_trial_ends_it_with_its_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((10.0, 12.5, 20.0))
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    codes = iter((0, 3))

    def called(step: Any, more: Any) -> int:
        print("out")
        return next(codes)

    monkeypatch.setattr(run, "_call", called)
    step: Any = SimpleNamespace(command="train", words=[])
    assert run._try(step, "--max-iter", "10") == 2.5
    assert capsys.readouterr() == ("", "")
    with pytest.raises(SystemExit) as caught:
        run._try(step)
    assert caught.value.code == 3
    assert capsys.readouterr() == ("", "out\n\n")


class Recorded(io.StringIO):
    """A stream that keeps what had been written when it was flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


def test_a_comparison_is_shown_before_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stdout and stderr may be one terminal or one file."""
    stream = Recorded()
    monkeypatch.setattr(sys, "stdout", stream)
    verify._show([], as_json=True)
    assert stream.flushed == ["[]\n"]


@pytest.mark.parametrize(
    ("snapshot_seed", "own", "given"),
    [(None, -1, ["x=1"]), (7, -1, ["x=1", "random_seed=7"]), (7, 0, ["x=1"]), (7, 3, ["x=1"])],
)
def test_the_seed_of_a_resumed_run(
    snapshot_seed: int | None, own: int, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = None if snapshot_seed is None else SimpleNamespace(seed=snapshot_seed)
    monkeypatch.setattr("fusion.solver.snapshots.resume_state.read_resume_state", lambda path: state)
    monkeypatch.setattr(train, "_state", lambda options: "net_iter_6.solverstate")
    monkeypatch.setattr(train, "_message", lambda options: SimpleNamespace(random_seed=own))
    options: Any = SimpleNamespace(set=["x=1"], lr=None, seed=None)
    assert train._seeded(options) == given


@pytest.mark.parametrize(("rank", "writes"), [(None, True), ("", True), ("0", True), ("1", False), ("2", False)])
def test_the_first_process_writes_files(rank: str | None, writes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert train._writes() is writes
    options: Any = SimpleNamespace(log_json="run.jsonl", tensorboard=None, plot="run.png", dry_run=False)
    assert len(train._callbacks(options)) == 2 * writes
    options.dry_run = True
    assert train._callbacks(options) == []


@pytest.mark.parametrize(
    ("no_cache", "budget", "found"),
    [(True, 5, 0), (False, None, "default"), (False, 0, 0), (False, 5, 5)],
)
def test_the_budget_of_the_trunk(no_cache: bool, budget: int | None, found: object) -> None:
    from fusion.solver.trunk_cache import DEFAULT_BUDGET

    options: Any = SimpleNamespace(no_cache=no_cache, cache_budget=budget)
    assert train._budget(options) == (DEFAULT_BUDGET if found == "default" else found)
