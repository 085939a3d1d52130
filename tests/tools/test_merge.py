"""fusion-merge as a person uses it: the plan on stdout, progress and errors on stderr, exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from caffe_fusion_tools import merge
from caffe_fusion_tools.merge import main, parser, progress_on
from caffe_fusion_tools.sources import check_apart, named_sources, source_or_recipe

from prototxt.formats.weights import read_weights, write_weights

Check = Callable[..., object]


def test_it_writes_and_says_what_it_did(fused: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fused.prototxt", "odd=odd.prototxt:odd.caffemodel", "-o", "init.caffemodel"]) == 0
    out, err = capsys.readouterr()
    assert "odd/ip  InnerProduct  4x6, 4  odd: ip" in out
    assert "1 from 1 source, 1 filled with seed 0" in out
    assert err == "wrote init.caffemodel: 2 layers, 0.0 MB, checked against the plan\n"
    assert read_weights(fused / "init.caffemodel")["odd/ip"][0].sum() == 276


def test_a_dry_run_writes_nothing_and_json_is_json(fused: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fused.prototxt", "odd=odd.caffemodel", "--dry-run", "--json", "-o", "init.caffemodel"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][1]["name"] == "fc"
    assert not (fused / "init.caffemodel").exists()


def test_errors_are_one_message_and_leave_the_old_file(fused: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fused / "init.caffemodel").write_bytes(b"old")
    write_weights("odd.caffemodel", {"ip": [np.ones((4, 5)), np.zeros(4)]})
    assert main(["fused.prototxt", "odd=odd.caffemodel", "-o", "init.caffemodel"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: fused.prototxt:3:1: layer 'odd/ip' needs blobs of shape 4x6, 4, but 'ip' in odd.caff")
    assert "--allow-missing odd/ip" in err
    assert (fused / "init.caffemodel").read_bytes() == b"old"
    assert main(["fused.prototxt", "odd=odd.caffemodel", "-o", "init.caffemodel", "--allow-missing", "odd/ip"]) == 0


def test_the_sources_of_a_fusion_file(fused: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = '[[source]]\nprefix = "odd"\nnet = "odd.prototxt"\n'
    Path("fusion.toml").write_text(source + 'weights = "odd.caffemodel"\n')
    assert main(["fused.prototxt", "fusion.toml", "-o", "init.caffemodel"]) == 0
    assert read_weights(fused / "init.caffemodel")["odd/ip"][0].sum() == 276
    Path("fusion.toml").write_text(source)
    assert main(["fused.prototxt", "fusion.toml", "-o", "init.caffemodel"]) == 1
    assert "source 'odd' has no weights" in capsys.readouterr().err


def test_another_head(fused: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_weights("whole.caffemodel", {"odd/ip": [np.ones((4, 6)), np.ones(4)], "fc": [np.ones((2, 4)), np.ones(2)]})
    head = ["--drop", "fc", "--num-output", "7", "--reinit", "constant,value=3", "--net-output", "new.prototxt"]
    assert main(["fused.prototxt", "=whole.caffemodel", "-o", "init.caffemodel", *head, "--verify"]) == 0
    out, err = capsys.readouterr()
    assert "fc      InnerProduct  7x4, 7  filled: constant 3, constant 0" in out
    assert "wrote new.prototxt: fc changed" in err
    assert "num_output: 7" in Path("new.prototxt").read_text()
    assert (read_weights("init.caffemodel")["fc"][0] == 3).all()
    assert (read_weights("init.caffemodel")["odd/ip"][0] == 1).all()
    assert main(["fused.prototxt", "=whole.caffemodel", "-o", "init.caffemodel", "--drop", "fc"]) == 0
    assert not (read_weights("init.caffemodel")["fc"][0] == 1).any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["fused.prototxt", "odd=odd.caffemodel", "--drop", "ip", "-o", "o.caffemodel"],
            "no layer's name matches 'ip'",
        ),
        (["absent.prototxt", "odd=odd.caffemodel", "-o", "o.caffemodel"], "absent.prototxt"),
        (["fused.prototxt", "odd=absent.caffemodel", "-o", "o.caffemodel"], "absent.caffemodel: there is no such file"),
        (["fused.prototxt", "odd=odd.prototxt", "-o", "o.caffemodel"], "this is a text file; weights are binary"),
        (["fused.prototxt", "odd=odd.caffemodel", "-o", "o.pth"], "o.pth: the format to write cannot be derived"),
        (["fused.prototxt", "odd=odd.caffemodel", "-o", "absent/o.caffemodel"], "absent"),
        (["fused.prototxt", "odd=odd.caffemodel", "--input-shape", "dta=1,6", "-o", "o.caffemodel"], "'dta'"),
    ],
)
def test_bad_input_is_one_message(fused: Path, refused: Check, arguments: list[str], says: str) -> None:
    refused(main, arguments, says)
    assert not list(fused.glob("*o.caffemodel*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fused.prototxt", "odd=odd.caffemodel"], "give -o OUT.caffemodel, or only print the plan"),
        (["fused.prototxt", "odd.caffemodel", "-o", "o.caffemodel"], "without a prefix: '=odd.caffemodel'"),
        (["fused.prototxt", "odd=a", "odd=b", "-o", "o.caffemodel"], "prefix given twice: odd"),
        (["fused.prototxt", "odd=a", "-o", "o.caffemodel", "--input-shape", "data"], "is not BLOB=N,C,H,W"),
        (["fused.prototxt", "odd=a", "-o", "o.caffemodel", "--num-output", "3"], "change the layers of --drop"),
        (["fused.prototxt", "odd=a", "-o", "o", "--drop", "fc", "--reinit", "msra"], "give a file for it"),
        (["fused.prototxt", "odd=a", "-o", "o", "--drop", "fc", "--num-output", "3"], "give a file for it"),
        (["fused.prototxt", "odd=a", "-o", "o", "--net-output", "n"], "give a file for it"),
        (["fused.prototxt", "odd=a", "--dry-run", "--verify"], "--dry-run writes nothing"),
        (["fused.prototxt", "odd=a", "-o", "o", "--stage", "a"], "--stage goes with --verify"),
        (
            ["fused.prototxt", "odd=a", "-o", "o", "--reinit", "msra", "--net-output", "n"],
            "change the layers of --drop",
        ),
        (
            ["fused.prototxt", "odd=a", "-o", "o.caffemodel", "--seed", "-1"],
            "'-1' is not a whole number from 0",
        ),
    ],
)
def test_bad_usage_is_exit_2(misused: Check, arguments: list[str], says: str) -> None:
    misused(main, arguments, says)


def test_sources_are_split_at_the_colon_behind_a_prototxt() -> None:
    arguments = parser().parse_args(["f", "a=net.prototxt:w.caffemodel", "b=C:/w.caffemodel", "c=w", "-o", "o"])
    assert arguments.sources == [("a", ("net.prototxt", "w.caffemodel")), ("b", "C:/w.caffemodel"), ("c", "w")]


def test_the_bar_shows_on_a_terminal_and_only_for_long_work() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert progress_on(io.StringIO()) is None
    short, long = Terminal(), Terminal()
    quiet, loud = progress_on(short), progress_on(long, after=0.0)
    assert quiet is not None
    assert loud is not None
    quiet(1, 2)
    loud(500_000, 1_000_000)
    loud(1_000_000, 1_000_000)
    assert short.getvalue() == ""
    assert "100%" in long.getvalue()
    assert long.getvalue().endswith("\n")


def test_a_source_is_written_over_only_with_force(fused: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (fused / "odd.caffemodel").read_bytes()
    (fused / "link.caffemodel").symlink_to("odd.caffemodel")
    for target in ("odd.caffemodel", "link.caffemodel"):
        command = ["fused.prototxt", "odd=odd.prototxt:odd.caffemodel", "-o", target]
        assert main(command) == 1
        assert "give --force" in capsys.readouterr().err
        assert (fused / "odd.caffemodel").read_bytes() == before
    assert main([*command, "--force"]) == 0
    assert "odd/ip" in read_weights(fused / "odd.caffemodel")


@pytest.mark.parametrize(
    ("options", "shown"),
    [([], "table"), (["-q"], ""), (["-q", "--json"], "json"), (["-q", "--dry-run"], "table"), (["--json"], "json")],
)
def test_when_the_plan_is_shown(
    fused: Path, options: list[str], shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flushed = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "flush", lambda: flushed.append(stream.getvalue()))
    monkeypatch.setattr("sys.stdout", stream)
    assert main(["fused.prototxt", "odd=odd.caffemodel", "-o", "init.caffemodel", *options]) == 0
    text = stream.getvalue()
    assert ("table" if "odd/ip  InnerProduct" in text else "json" if text.startswith("{") else text) == shown
    assert flushed[0] == text, "before the progress on stderr"


def test_a_dry_run_of_another_head_needs_no_files(fused: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dry-run", "--drop", "fc", "--num-output", "7", "-o", "odd.caffemodel"]
    assert main(["fused.prototxt", "odd=odd.caffemodel", *options]) == 0
    assert "7x4, 7" in capsys.readouterr().out


def test_one_branch_of_several_that_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [SimpleNamespace(first=first, verdict=lambda first=first: f"v{first}") for first in (None, "conv")]
    monkeypatch.setattr("caffe_fusion_tools.verify.compare_sources", lambda *_, **__: items)
    for as_json, stream in ((False, 0), (True, 1)):
        arguments = parser().parse_args(["f", "odd=a", "-o", "o", *(["--json"] if as_json else [])])
        assert merge._verify(arguments, frozenset()) == 1
        assert capsys.readouterr()[stream] == "verified vNone\nerror: vconv\n"


def test_sources_by_file_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, misused: Check) -> None:
    assert source_or_recipe("fusion.toml") == ("", "fusion.toml")
    assert source_or_recipe("odd=w.toml") == ("odd", "w.toml")
    assert source_or_recipe("=w.h5") == ("", "w.h5")
    check_apart(parser(), [("", "a.toml"), ("", "b.toml"), ("odd", "w.toml")])
    misused(main, ["f", "=a.h5", "=b.h5", "-o", "o"], "prefix given twice: ")
    monkeypatch.chdir(tmp_path)
    assert named_sources([("odd", "w.toml"), ("", "w.h5")], "net.prototxt") == [("odd", "w.toml"), ("", "w.h5")]
    Path("fusion.toml").write_text(
        '[[source]]\nprefix = "a"\nnet = "a.onnx"\n[[source]]\nprefix = "b"\nnet = "b.prototxt"\nweights = "b.h5"\n'
    )
    found = named_sources([("", "fusion.toml")], "net.prototxt")
    assert [prefix for prefix, _ in found] == ["a", "b"]
    assert [Path(str(files)).name if isinstance(files, str) else [Path(file).name for file in files]
            for _, files in found] == ["a.onnx", ["b.prototxt", "b.h5"]]  # fmt: skip
