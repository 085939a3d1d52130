"""fusion-merge as a person uses it: the plan on stdout, progress and errors on stderr, exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools.merge import main, parser, progress_on

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
        (["fused.prototxt", "odd=a", "--dry-run", "--verify"], "--dry-run writes nothing"),
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
