"""Lists written as files: shares of each class by seed, without a common file, and numbers by names."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fusion.data.image_list import ImageList, read_list
from fusion.data.list_files import map_labels, number_by_names, split_list, write_list, write_lists
from fusion.errors import DataError
from prototxt.errors import PrototxtError
from prototxt.text.class_names import read_names, write_names


def listed(*counts: int) -> ImageList:
    """A list with so many images of class 0, 1, ..., the classes in turn as far as they go."""
    records = sorted((index, label) for label, count in enumerate(counts) for index in range(count))
    names = tuple(f"{label}/{index}.png" for index, label in records)
    labels = np.array([label for _, label in records])
    return ImageList("list.txt", names, labels, np.arange(1, len(records) + 1))


def test_each_class_gives_its_share() -> None:
    images = listed(40, 200, 10)
    parts = split_list(images, 0.1)
    assert np.bincount(images.labels[parts.validation]).tolist() == [4, 20, 1]
    assert sorted([*parts.training, *parts.validation]) == list(range(250))
    assert (np.diff(parts.validation) > 0).all()
    again, other = split_list(images, 0.1), split_list(images, 0.1, seed=1)
    assert again.validation.tolist() == parts.validation.tolist() != other.validation.tolist()
    # Lists of the same labels are split alike, whatever their images are called.
    renamed = ImageList("b.txt", tuple(reversed(images.names)), images.labels, images.lines)
    assert split_list(renamed, 0.1).validation.tolist() == parts.validation.tolist()


def test_a_file_that_is_listed_twice_is_in_one_part() -> None:
    names = tuple(f"{index % 10}.png" for index in range(20))  # each file twice, as of classes 0 and 1
    images = ImageList("list.txt", names, np.arange(20) // 10, np.arange(20))
    for seed in range(5):
        parts = split_list(images, 0.3, seed)
        first, second = ({names[record] for record in part} for part in (parts.training, parts.validation))
        assert not first & second
        assert (len(first), len(second), len(parts.validation)) == (7, 3, 6)


def test_a_rare_class_keeps_an_image_for_training() -> None:
    images = listed(1, 1, 2, 6)
    for seed in range(20):
        parts = split_list(images, 0.5, seed)
        assert set(images.labels[parts.training]) == {0, 1, 2, 3}


@pytest.mark.parametrize("share", [0.0, 0.004, 0.999, 1.0, -0.5, 2.0, math.inf, math.nan])
def test_shares_that_leave_nothing(share: float) -> None:
    with pytest.raises(DataError, match="leaves none for one of the parts"):
        split_list(listed(50, 50), share)


def test_what_is_written_reads_the_same(tmp_path: Path) -> None:
    images = listed(2, 1)
    write_list(tmp_path / "list.txt", images, np.array([0, 2]))
    assert (tmp_path / "list.txt").read_text() == "0/0.png 0\n0/1.png 0\n"
    write_list(tmp_path / "list.txt", images)
    found = read_list(tmp_path / "list.txt")
    assert (found.names, found.labels.tolist()) == (images.names, images.labels.tolist())
    for name in ("a\nb.png", "a\r.png", "\nb.png", "b.png\n", "\ufeffa.png", "a\0.png"):
        broken = ImageList("d", (name,), np.array([0]), np.array([1]))
        with pytest.raises(DataError, match=r"cannot hold the path '.*\.png.*a line break"):
            write_list(tmp_path / "list.txt", broken)


def test_class_folders_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, classes in (("a", ("cat", "dog", "fox")), ("b", ("dog", "fox"))):
        for name in classes:
            Path(folder, name).mkdir(parents=True)
            for index in range(4):
                Path(folder, name, f"{index}.png").touch()
    lines = write_lists("a", ["t.txt", "v.txt"], share=0.25, labels="names.txt")
    each = [f"(0 cat: {count}, 1 dog: {count}, 2 fox: {count})" for count in (3, 1)]
    assert lines == [
        f"t.txt: 9 records of 3 classes {each[0]}",
        f"v.txt: 3 records of 3 classes {each[1]}",
        "names.txt: the names of 3 classes",
    ]
    assert read_names("names.txt") == ("cat", "dog", "fox")
    assert write_lists("b", ["b.txt"], labels="names.txt") == ["b.txt: 8 records of 2 classes (1 dog: 4, 2 fox: 4)"]
    assert Path("b.txt").read_text().splitlines()[3:5] == ["b/dog/3.png 1", "b/fox/0.png 2"]
    Path("names.txt").write_text("cat\nfix\n")
    with pytest.raises(DataError, match=r"names.txt: the class folder 'dog' is not among"):
        write_lists("b", ["b.txt"], labels="names.txt")
    with pytest.raises(DataError, match="a list has no class names"):
        write_lists("b.txt", ["c.txt"], labels="new.txt")
    assert not Path("new.txt").exists()
    assert write_lists("b.txt", ["c.txt"]) == ["c.txt: 8 records of 2 classes (1: 4, 2: 4)"]


def test_numbers_by_names() -> None:
    images = ImageList("d", ("d/b/1.png", "d/a/1.png"), np.array([1, 0]), np.empty(0, np.int64), ("a", "b"))
    found = number_by_names(images, ("b", "x", "a"), "names.txt")
    assert found.labels.tolist() == [0, 2]
    assert found.classes == ("b", "x", "a")


def test_labels_are_renumbered_and_others_left_out(tmp_path: Path) -> None:
    images = listed(2, 1, 3)
    mapped = map_labels(images, {2: 0, 0: 5})
    assert mapped.names == ("0/0.png", "2/0.png", "0/1.png", "2/1.png", "2/2.png")
    assert mapped.labels.tolist() == [5, 0, 5, 0, 0]
    assert mapped.lines.tolist() == [1, 3, 4, 5, 6]
    with pytest.raises(DataError, match=r"no record has the label 3\n  hint: there are 0, 1, 2"):
        map_labels(images, {2: 0, 3: 1})
    with pytest.raises(DataError, match=r"hint: there are 0, 1, .*, 18, 19$"):
        map_labels(listed(*[1] * 25), {25: 0})
    write_list(tmp_path / "old.txt", images)
    (line,) = write_lists(tmp_path / "old.txt", [tmp_path / "new.txt"], label_map={1: 7})
    assert (tmp_path / "new.txt").read_text() == "1/0.png 7\n"
    assert line.endswith("new.txt: 1 records of 1 classes (7: 1)")


@pytest.mark.parametrize("name", [" cat", "cat ", "c\nat", "c\rat"])
def test_names_that_are_no_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(PrototxtError, match="begins or ends in a blank, or has a line break"):
        write_names(tmp_path / "names.txt", ("dog", name))
