"""What each command needs and does by default, in one table; and the small texts of `fusion run`."""

# ruff: noqa: E501 - a table

from __future__ import annotations

import argparse
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from caffe_fusion_tools import run
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
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "verify": {"--batch": 2, "--rtol": 1e-05},
    "train": {"--device": "auto", "--iterations": 50, "--on-bad-record": "fail", "--batch-norm": "sync", "--select-on": 0.1, "--slack": 0.003, "--output": "sweep"},
    "test": {"--phase": "TEST", "--device": "auto", "--on-bad-record": "fail"},
    "report": {"--root": "", "--image-bytes": 2_500_000},
    "predict": {"--top": 5, "--batch": 32, "--host": "127.0.0.1", "--port": 8765},
    "export": {"--opset": 17, "--rtol": 1e-05},
    "surgery channels": {"--fill": "mean"},
    "surgery convolve": {"--layers": ".*"},
    "surgery dense": {"--layers": ".*"},
}  # fmt: skip


def actions(parser: argparse.ArgumentParser, name: str) -> dict[str, list[argparse.Action]]:
    """Return the arguments of a command, or of each of its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {f"{name} {one}": inner._actions for one, inner in action.choices.items()}
    return {name: parser._actions}


@pytest.mark.parametrize(
    "command", [name for name in MODULES if hasattr(import_module(f"caffe_fusion_tools.{MODULES[name]}"), "parser")]
)
def test_what_a_command_needs_and_does_by_default(command: str) -> None:
    module = import_module(f"caffe_fusion_tools.{MODULES[command]}")
    for name, found in actions(module.parser(), command).items():
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
    run._show_output(SimpleNamespace(**{"name": "train", "command": "train", **step}), lines, code)  # type: ignore[arg-type]
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
