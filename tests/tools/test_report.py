"""fusion-report as typed: files, names, classes, outputs, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools import report
from caffe_fusion_tools.report import main

from fusion import pct

Check = Callable[..., object]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The two files that every command here compares."""
    labels = np.arange(60) % 4
    keys = [f"{i}.png" for i in range(60)]
    odd = labels % 2 == 1
    shifted = np.where(np.arange(60) < 6, (labels + 2) % 4, labels)
    pct.Predictions(np.array(keys)[odd], labels[odd] // 2, np.eye(2)[labels[odd] // 2]).save(tmp_path / "odd.npz")
    pct.Predictions(keys, labels, np.eye(4)[shifted] * 3).save(tmp_path / "new.npz")
    monkeypatch.chdir(tmp_path)
    return ["--old", "odd.npz@1,3", "--new", "fused=new.npz"]


def test_table_page_and_json(typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*typed, "--html", "r.html", "--title", "Digits"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Digits\n")
    assert "fused forgets 3 of the 30 answers that odd had right." in out
    assert err == "wrote r.html\n"
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "fusion-report --old odd.npz@1,3 --new fused=new.npz --html r.html" in page
    assert main([*typed, "--html", "r.html", "--json", "-q"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    read = json.loads(out)
    assert read["references"][0]["meta"]["file_sha256"] == pct.file_hash("odd.npz")
    assert read["references"][0]["classes"] == [1, 3]


@pytest.mark.parametrize("where", ["file", "new", "old"])
def test_names_of_classes(typed: list[str], capsys: pytest.CaptureFixture[str], where: str) -> None:
    names = ["null", "eins", "zwei", "drei"]
    more = []
    if where == "file":
        Path("names.txt").write_text("\n".join(names))
        more = ["--labels", "names.txt"]
    elif where == "new":
        found = pct.Predictions.load("new.npz")
        found.named("new", class_names=names).save("new.npz")
    else:  # names of the source's own two classes, which `@1,3` moves
        found = pct.Predictions.load("odd.npz")
        found.named("odd", class_names=["eins", "drei"]).save("odd.npz")
    Path("budget.json").write_text('{"classes": {"3": 0.5}}')
    assert main([*typed, *more, "--html", "r.html", "--budget", "budget.json"]) == 0
    out = capsys.readouterr().out
    assert "Most negative flips by class: eins (1) 2 of 15, drei (3) 1 of 15.\n" in out
    assert "NFR of fused on class drei" in out
    assert main([*typed, *more, "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["class_names"]["1"] == "eins"
    page = Path("r.html").read_text("utf-8")
    assert "<b>eins</b> taken for <b>drei</b>" in page


def test_classes_without_names_stay_numbers(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*typed, "--json"]) == 0
    assert "class_names" not in json.loads(capsys.readouterr().out)
    assert main(typed) == 0
    assert "by class" not in capsys.readouterr().out


def test_slices_by_key(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*typed, "--json", "--slices", "^([0-9])"]) == 0
    slices = json.loads(capsys.readouterr().out)["new"][0]["against_all"]["per_slice"]
    assert list(slices) == list("1234579")
    assert sum(s["both_right"] + s["negative"] for s in slices.values()) == 30
    assert main([*typed, "--slices", "("]) == 1
    assert "--slices (" in capsys.readouterr().err


def test_slices_that_are_none_are_told(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*typed, "--slices", "jpg"]) == 0
    assert "--slices jpg: all samples are in one slice or in none" in capsys.readouterr().err


def test_an_ensemble_of_files(typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = pct.Predictions.load("new.npz")
    right = pct.Predictions(new.keys, new.labels, np.eye(4)[new.labels] * 9)
    right.save("right.npz")
    assert main([*typed[:2], "--new", "both=new.npz+right.npz", "new.npz+right.npz", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert [net["name"] for net in read["new"]] == ["both", "new + right"]
    assert read["new"][0]["against_all"]["outcomes"]["negative"] == 0
    assert read["new"][0]["meta"]["file"] == ["new.npz", "right.npz"]
    assert main([*typed[:2], "--new", "mostly=0.1*new.npz+9*right.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"][0]["against_all"]["outcomes"]["negative"] == 0
    for wrong, message in (
        ("x*new.npz+right.npz", "'x' is not an ensemble weight"),
        ("0*new.npz+right.npz", "it must be above 0"),
    ):
        assert main([*typed[:2], "--new", wrong]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "a+b.npz").write_bytes((tmp_path / "new.npz").read_bytes())
    assert main([*typed[:2], "--new", "a+b.npz", "x=a+b.npz"]) == 0


def test_the_featured_net_and_the_baseline_are_listed_once(
    typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.npz").write_bytes((tmp_path / "new.npz").read_bytes())
    words = [*typed[:2], "--new", "a.npz", "b.npz", "c.npz", "--featured", "b.npz", "--baseline", "c.npz", "--json"]
    assert main(words) == 0
    read = json.loads(capsys.readouterr().out)
    assert [(net["name"], net["role"]) for net in read["new"]] == [("c", "baseline"), ("a", "new"), ("b", "new")]
    assert read["featured"] == "b"


def test_one_call_writes_text_page_and_json(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*typed, "--max-nfr", "0", "--html", "r.html", "--write-json", "r.json"]) == 3
    out, err = capsys.readouterr()
    assert err == "wrote r.html\nwrote r.json\n"
    assert "BROKEN: NFR of fused is 10.00 %" in out
    read = json.loads(Path("r.json").read_text("utf-8"))
    assert read["featured"] == "fused"
    assert main([*typed, "--max-nfr", "0", "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == read


def test_json_to_stdout(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*typed, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["featured"] == "fused"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (["--max-nfr", "10%"], 0),
        (["--max-nfr", "0.09"], 3),
        (["--max-nfr-upper", "30%"], 0),
        (["--max-nfr-upper", "10%"], 3),
        (["--min-accuracy", "90%"], 0),
        (["--min-accuracy", "0.91"], 3),
        (["--min-accuracy", "90%", "--max-nfr", "0.09"], 3),
        (["--min-accuracy", "0.91", "--max-nfr", "10%"], 3),
        (["--budget", "budget.json"], 3),
        (["--budget", "budget.json", "--max-nfr", "20%"], 0),
    ],
)
def test_the_gate(typed: list[str], limits: list[str], code: int, tmp_path: Path) -> None:
    (tmp_path / "budget.json").write_text('{"max_nfr": "1%"}', "utf-8")
    assert main([*typed, *limits]) == code


def test_a_broken_budget_still_writes_the_page(typed: list[str], tmp_path: Path) -> None:
    assert main([*typed, "--max-nfr", "0", "--html", "r.html"]) == 3
    assert "The budget is broken" in (tmp_path / "r.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--old", "absent.npz", "--new", "new.npz"], "absent.npz"),
        (["--old", "odd.npz", "--new", "new.npz"], "different labels"),
        (["--old", "odd.npz@1,x", "--new", "new.npz"], "is not a list of classes"),
        (["--old", "odd.npz@1,3,5", "--new", "new.npz"], "cannot become"),
        (["--old", "new.npz", "--new", "new.npz", "--budget", "none.json"], "none.json"),
        (["--old", "new.npz", "--new", "new.npz", "--html", "no/where.html"], "no"),
    ],
)
def test_errors_are_one_message(typed: list[str], arguments: list[str], message: str, refused: Check) -> None:
    assert refused(main, arguments, message) == ""


def test_bad_usage(typed: list[str], misused: Check) -> None:
    misused(main, [])
    misused(main, [*typed, "--max-nfr", "5"], "between 0 and 1")


def test_a_name_with_signs_is_a_file_first(
    typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a=b@1.npz").write_bytes((tmp_path / "new.npz").read_bytes())
    assert main(["--old", "a=b@1.npz", "--new", "x=a=b@1.npz"]) == 0
    assert "x forgets none of the 54 answers that a=b@1 had right." in capsys.readouterr().out


def test_help_needs_no_numpy() -> None:
    code = (
        "import sys; from caffe_fusion_tools.report import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'numpy', 'torch', 'PIL', 'google.protobuf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_slice_is_the_first_group_or_the_whole_match() -> None:
    assert report._slices(None) is None
    for pattern, found in (("(a.)(c)", "ab"), ("a.", "ab"), ("x", None)):
        slice_of = report._slices(pattern)
        assert slice_of is not None
        assert slice_of("zabc", "") == found
