"""fusion-convert images and fusion-convert mean, as users meet them."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from caffe_fusion_tools import convert, convert_data

from fusion.data.lmdb_leveldb import open_database

FOLDER = Path(__file__).parents[1] / "golden" / "formats" / "data"
ROOT = f"{FOLDER}/img/"


@pytest.mark.parametrize("kind", ["--lmdb", "--leveldb"])
def test_images_then_mean(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plyvel" if kind == "--leveldb" else "lmdb")
    database, mean = str(tmp_path / "db"), tmp_path / "mean.binaryproto"
    assert convert.main(["images", str(FOLDER / "list.txt"), ROOT, database, kind]) == 0
    assert convert.main(["mean", database, str(mean)]) == 0
    assert mean.read_bytes() == (FOLDER / "mean.binaryproto").read_bytes()
    assert "the mean of 5 records" in capsys.readouterr().out


def test_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--lmdb", "--resize", "8x9", "--gray", "--encoded", "--shuffle", "--check-size"]
    assert convert.main(["images", str(FOLDER / "list6.txt"), ROOT, str(tmp_path / "db"), *arguments]) == 0
    assert convert.main(["mean", str(tmp_path / "db"), str(tmp_path / "mean")]) == 0
    capsys.readouterr()
    assert convert.main(["images", str(FOLDER / "list6.txt"), ROOT, str(tmp_path / "db"), "--lmdb"]) == 1
    assert "this exists already" in capsys.readouterr().err


def test_unequal_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["images", str(FOLDER / "list6.txt"), ROOT, str(tmp_path / "db"), "--lmdb", "--check-size"]
    assert convert.main(arguments) == 1
    assert "list6.txt:6: this image is" in capsys.readouterr().err
    assert convert.main([*arguments, "--on-bad-record", "skip"]) == 0
    assert "1 records could not be read and were left out" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["256", "0x3", "axb"])
def test_bad_usage(text: str, tmp_path: Path, misused: Callable[..., object]) -> None:
    misused(convert_data.main, ["images", "list", "", str(tmp_path / "db"), "--lmdb", "--resize", text])


def test_help_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys\nfrom caffe_fusion_tools import convert_data\nconvert_data.parser().format_help()\n"
    code += "print({'torch', 'numpy', 'google.protobuf'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_class_folders_as_lists_and_as_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], misused: Callable[..., object]
) -> None:
    monkeypatch.chdir(tmp_path)
    image = next(Path(ROOT).glob("*.png"))
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for index in range(4):
            Path("photos", name, f"{index}.png").write_bytes(image.read_bytes())
    share = ["--val-share", "0.25", "--val-output", "v.txt"]
    assert convert.main(["list", "photos", "-o", "t.txt", *share, "--labels", "names.txt"]) == 0
    assert "v.txt: 2 records of 2 classes (0 cat: 1, 1 dog: 1)" in capsys.readouterr().out
    assert convert.main(["list", "photos", "-o", "all.txt", "-q"]) == 0
    assert capsys.readouterr().out == ""
    for source, target in (("photos", "folder_lmdb"), ("all.txt", "list_lmdb")):
        assert convert.main(["images", source, target, "--lmdb", "--shuffle"]) == 0
    folder, listed = (open_database(name, lmdb=True) for name in ("folder_lmdb", "list_lmdb"))
    assert folder.keys == listed.keys
    assert [*map(bytes, folder.values())] == [*map(bytes, listed.values())]
    assert folder.name(0).startswith("00000000_photos/")
    for wrong in (share[:2], share[2:]):
        misused(convert.main, ["list", "photos", "-o", "t.txt", *wrong])


def test_the_files_of_images_lists_and_means_are_three_commands(misused: Callable[..., object]) -> None:
    misused(convert_data.main, [], "required: command")
    misused(convert_data.main, ["images", "a", "b"], "one of the arguments --lmdb --leveldb --folder is required")


@pytest.mark.parametrize(
    ("quiet", "terminal", "shown"), [(False, True, "\r1 of 2\r2 of 2\n"), (True, True, None), (False, False, None)]
)
def test_the_progress_of_converting(
    quiet: bool, terminal: bool, shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    progress = convert_data._progress(quiet)
    assert (progress is None) == (shown is None)
    if progress is not None:
        progress(1, 2)
        progress(2, 2)
        assert stream.getvalue() == shown


def test_records_left_out_are_listed_up_to_five(capsys: pytest.CaptureFixture[str]) -> None:
    errors = [SimpleNamespace(place=f"{index}.png", message="bad") for index in range(7)]
    for command, content in (("mean", "the mean of "), ("images", "")):
        written: Any = SimpleNamespace(skipped=errors, records=4)
        options: Any = SimpleNamespace(quiet=False, command=command, output="out")
        convert_data._report(written, options)
        out, err = capsys.readouterr()
        assert out == f"out: {content}4 records\n"
        listed = "".join(f"  {index}.png: bad\n" for index in range(5))
        assert err == f"warning: 7 records could not be read and were left out:\n{listed}"


def test_maps_of_labels() -> None:
    assert convert_data._label_map("3=0, 1 = 12") == {3: 0, 1: 12}
    for text in ("", "3", "3=", "=3", "3=x", "x=3", "3=0,1"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no map of labels"):
            convert_data._label_map(text)
