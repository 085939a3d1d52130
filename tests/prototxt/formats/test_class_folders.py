"""Folders of class folders: torchvision's order, hidden files left out, links followed but not in circles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prototxt.formats.class_folders import (
    class_folders,
    first_image,
    images_below,
    images_beside_folders,
    is_image_folder,
)

NAMES = ("B/2.png", "B/10.png", "b/1.JPG", "a b/x.webp", "a b/sub/y.pgm", "a b/sub-1/z.tif", "a b/w.bmp", "10/é.jpeg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*NAMES, "b/.hidden.png", "b/.cache/1.png", ".git/1.png", "b/notes.txt", "b/png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return tmp_path / "data"


def test_classes_and_images_come_in_the_order_of_their_names_as_text(folder: Path) -> None:
    assert class_folders(folder) == ("10", "B", "a b", "b")
    found = [os.path.relpath(path, folder) for name in class_folders(folder) for path in images_below(folder / name)]
    # The images of a folder come before those of its folders, and "sub-1" before "sub".
    deep = ["a b/w.bmp", "a b/x.webp", "a b/sub/y.pgm", "a b/sub-1/z.tif"]
    assert found == ["10/é.jpeg", "B/10.png", "B/2.png", *deep, "b/1.JPG"]
    assert first_image(folder) == str(folder / "10/é.jpeg")


def test_torchvision_reads_the_same(folder: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    for path in [folder / "b/.hidden.png", folder / "b/.cache/1.png", folder / ".git/1.png"]:
        path.unlink()  # which it does not leave out
    (folder / ".git").rmdir()
    theirs = datasets.ImageFolder(str(folder))
    assert tuple(theirs.classes) == class_folders(folder)
    ours = [(path, number) for number, name in enumerate(class_folders(folder)) for path in images_below(folder / name)]
    assert [(path, label) for path, label in theirs.samples] == ours


def test_images_beside_folders(folder: Path) -> None:
    assert images_beside_folders(folder) == []
    for name in ("b.png", "a.jpg", ".c.png", "d.txt"):
        (folder / name).touch()
    (folder / "e.png").mkdir()
    assert images_beside_folders(folder) == [str(folder / "a.jpg"), str(folder / "b.png")]


def test_links_are_followed_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").touch()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    assert class_folders(folder)[-1] == "linked"
    assert images_below(folder / "linked") == [str(folder / "linked/1.png")]


def test_images_lie_at_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):  # Python calls no function that often within itself
        os.mkdir("f")
        os.chdir("f")
    Path("1.png").touch()
    monkeypatch.chdir(tmp_path)
    (image,) = images_below("f")
    assert image == os.path.join(*["f"] * 1200, "1.png")
    os.unlink(image)
    os.removedirs(os.path.dirname(image))  # shutil.rmtree, with which pytest removes it, calls itself


def test_databases_are_no_folders_of_images(tmp_path: Path) -> None:
    assert is_image_folder(tmp_path)
    assert not is_image_folder(tmp_path / "absent")
    (tmp_path / "data.mdb").touch()
    assert not is_image_folder(tmp_path)
