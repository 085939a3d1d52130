"""The command itself: files, streams, exit codes, and what it leaves alone."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from caffe_fusion_tools import rename

from prototxt import parse_file

NET = 'input: "data"\nlayer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param { lr_mult: 1 } }\n'
FROZEN = (
    'input: "data"\nlayer { name: "odd/ip" type: "InnerProduct" bottom: "data" top: "odd/ip" param { lr_mult: 0 } '
    "param { lr_mult: 0 } }\n"
)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_bytes(NET.encode())
    return path


def test_writes_the_renamed_net(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.prototxt"
    assert rename.main([str(net), str(out), "odd"]) == 0
    assert out.read_text() == FROZEN
    assert net.read_text() == NET
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "odd/ip  1 x lr_mult set to 0, 1 x param { lr_mult: 0 } added",
        "1 layers, 1 of them changed by freezing",
    ]


def test_in_place(net: Path) -> None:
    assert rename.main([str(net), str(net), "odd", "-q"]) == 0
    assert net.read_text() == FROZEN
    assert [path.name for path in net.parent.iterdir()] == [net.name]


def test_streams(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(NET.encode())))
    assert rename.main(["-", "-", "odd"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == FROZEN.encode()
    assert b"1 layers" in err


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["--no-freeze"], ["lr_mult: 1", '"odd/ip"']),
        (["--thaw", "ip"], ["lr_mult: 1"]),
        (["--freeze", "ip"], ["lr_mult: 0"]),
        (["--all"], ['input: "odd/data"']),
        (["--keep", "ip"], ['top: "ip"', 'name: "odd/ip"']),
        (["--propagate-down"], ["propagate_down: false"]),
    ],
)
def test_options(net: Path, tmp_path: Path, options: list[str], lines: list[str]) -> None:
    out = tmp_path / "out.prototxt"
    assert rename.main([str(net), str(out), "odd", "-q", *options]) == 0
    for line in lines:
        assert line in out.read_text()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (NET, ["--thaw", "nix"], "matches no layer"),
        (FROZEN, [], "every layer already starts with 'odd/'"),
        ("layer {", [], "'{' is never closed"),
        ('layer { name: "q" type: "Odd" bottom: "x" }', [], "layer 'q' of type 'Odd' cannot be frozen"),
    ],
)
def test_refusals_leave_no_file(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, options: list[str], message: str
) -> None:
    net.write_text(text)
    out = tmp_path / "out.prototxt"
    assert rename.main([str(net), str(out), "odd", *options]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rename.main([str(tmp_path / "none"), str(tmp_path / "out"), "odd"]) == 1
    assert "No such file" in capsys.readouterr().err


def test_bad_usage(net: Path, misused: Callable[..., object]) -> None:
    for more in (["--thaw", "ip"], ["--freeze", ""], ["--propagate-down"]):
        misused(rename.main, [str(net), str(net), "odd", "--no-freeze", *more], "--no-freeze cannot go with")


def test_broken_parts_are_kept_and_told(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net.write_text(NET + "own_param { source: /a/b\n}\n")
    out = tmp_path / "out.prototxt"
    assert rename.main([str(net), str(out), "odd"]) == 0
    assert out.read_text() == FROZEN + "own_param { source: /a/b\n}\n"
    assert "warning: left unchanged: " in capsys.readouterr().err


def test_weights_tell_the_blobs_of_types_that_nobody_knows(tmp_path: Path, reference: Path) -> None:
    folder = reference / "tutorial"
    text = (folder / "lenet_odd_train_val.prototxt").read_text(encoding="utf-8")
    source, out = tmp_path / "net.prototxt", tmp_path / "out.prototxt"
    text = re.sub(r"\bparam \{[^}]*\}", "", text).replace('type: "InnerProduct"', 'type: "Homemade"')
    source.write_text(text, encoding="utf-8")
    assert rename.main([str(source), str(out), "odd"]) == 1
    weights = folder / "mnist_lenet_odd_iter_30000.caffemodel"
    assert rename.main([str(source), str(out), "odd", "--weights", str(weights), "-q"]) == 0
    layers = parse_file(out).root.messages("layer")
    homemade = [layer for layer in layers if layer.string("type") == "Homemade"]
    rates = [[param.string("lr_mult") for param in layer.messages("param")] for layer in homemade]
    assert rates == [["0", "0"], ["0", "0"]]


def test_broken_parts_and_bytes_of_a_stream_are_kept(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    end = b"# \xff\nown_param { source: /a/b\n}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(NET.encode() + end)))
    assert rename.main(["-", "-", "odd"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == FROZEN.encode() + end
    assert b"warning: left unchanged: <stdin>:" in err


def test_changes_are_listed_in_columns_of_at_most_40(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def listed(*names: str) -> list[str]:
        net.write_text("".join(NET.splitlines()[1].replace('name: "ip"', f'name: "{name}"') + "\n" for name in names))
        assert rename.main([str(net), "-", "p"]) == 0
        return capsys.readouterr().err.splitlines()

    change = "1 x lr_mult set to 0, 1 x param { lr_mult: 0 } added"
    assert listed("a", "bcd")[:2] == [f"p/a    {change}", f"p/bcd  {change}"]
    assert listed("a", "b" * 50)[:2] == [f"p/a{' ' * 37}  {change}", f"p/{'b' * 50}  {change}"]
    assert listed("a", "b")[2:] == ["2 layers, 2 of them changed by freezing"]
