"""JSON and TOML of any origin: values, or our error with the place."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fusion.data.parse_json_toml import parse_json, parse_toml
from fusion.errors import DataError, ReportError, TrainingError, translate_errors
from fusion.report import read_budget
from fusion.report.curves import read_log
from fusion.sweep import read_axes


@pytest.mark.parametrize("text", [b"", b"[1", b"\xff\xfe[", b"[" * 100_000, b"9" * 5000, b"[9223372036854775808]"])
def test_no_json(text: bytes) -> None:
    with pytest.raises(ReportError, match=r"^x\.json: this is no JSON: "):
        parse_json(text, "x.json", ReportError)


@pytest.mark.parametrize("text", [b"a", b"\xff", b"a = " + b"[" * 10_000, b"a = [{b = -9223372036854775809}]"])
def test_no_toml(text: bytes) -> None:
    with pytest.raises(TrainingError, match=r"^x\.toml: this is no TOML: "):
        parse_toml(text, "x.toml")


def test_a_key_of_many_parts_takes_no_time() -> None:
    start = time.process_time()
    with pytest.raises(TrainingError, match=r"^x\.toml: a key has more than 64 parts"):
        parse_toml(b"[" + b"a . " * 100_000 + b"a]", "x.toml")
    assert time.process_time() - start < 2
    assert parse_toml(b"a.a.a = '" + b"a." * 60 + b"'", "x")["a"]["a"] == {"a": "a." * 60}


def test_values() -> None:
    assert parse_json(b'{"a": [1, "b"]}', "x") == {"a": [1, "b"]}
    assert parse_toml(b"a = [1, 'b', true]", "x") == {"a": [1, "b", True]}
    assert parse_json(b"[9223372036854775807, -9223372036854775808]", "x") == [2**63 - 1, -(2**63)]


def test_our_own_errors_pass_as_they_are() -> None:
    with pytest.raises(DataError, match=r"^mine$"), translate_errors(ReportError, "other", "x"):
        raise DataError("mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sweep": 5}', "not a table of lists but 5"),
        ("[1, 2]", r"not a table of lists but \[1, 2\]"),
        ('{"loss": [["kd"]]}', "axis 'loss' holds more than"),
        ('{"loss": ["kd"], "weight": {"a": 1}}', "axis 'weight' holds more than"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_sweeps(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(TrainingError, match=rf"s\.json: .*{message}"):
        read_axes([str(path)])
    path.write_text('{"sweep": {"loss": "kd", "weight": [0.1, 1]}}')
    assert read_axes([str(path)]) == {"loss": ["kd"], "weight": [0.1, 1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"max_nfr": [1]}', "max_nfr: "),
        ('{"max_nfr": null}', "max_nfr: "),
        ('{"classes": {"1": 1e400}}', "classes: "),
        ('{"classes": [1]}', "classes: "),
        ('{"min_accuracy": 1' + "0" * 400 + "}", "the integer 1000"),
    ],
)
def test_budgets(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(ReportError, match=rf"b\.json: .*{message}"):
        read_budget(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"kind":"test","iter":1,"test_net":0}', "no 'outputs'"),
        ('{"kind":"train","loss":1}', "no 'iter'"),
        ('{"kind":"train","iter":1e300,"loss":1}', "there is no iteration 1e"),
        ('{"kind":"train","iter":1e999,"loss":1}', "not what fusion-train"),
        ('{"kind":"train","iter":1,"loss":"many"}', "not what fusion-train"),
        ('{"kind":"test","iter":1,"test_net":0,"outputs":[1]}', "not what fusion-train"),
    ],
)
def test_logs(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "run.jsonl"
    good = '{"kind":"train","iter":1,"loss":2.5}\n'
    path.write_text(f"{good}{line}\n")
    with pytest.raises(ReportError, match=rf"run\.jsonl:2: .*{message}"):
        read_log(path)
    endless = f"I0101 solver.cpp:1] Iteration {'9' * 5000}, loss = 1\n"
    path.write_text(f'{good}{endless}{{"kind":"run"}}\n{"[" * 9}\n{{"kind":"train","iter":2,"lo')
    assert read_log(path).loss == [(1, 2.5)]
