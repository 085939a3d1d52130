"""What is said of lists side by side: whether their labels agree, and which classes a list lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fusion import ComposeError
from fusion.composition.list_checks import (
    RecordedLabels,
    _all_classes,
    _choice_error,
    _in_hdf5,
    _in_step_note,
    _ListReader,
    _mismatch_error,
    _mismatch_reason,
    _missing_classes,
    check_image_lists,
    image_list_labels,
)


def reader(labels: str | None, records: int | None = None, name: str = "a") -> Any:
    values = None if labels is None else tuple(labels.split())
    found = None if values is None else RecordedLabels(values, len(values) if records is None else records)
    return _ListReader(name, name, f"{name}.txt", "ImageData", found, explicit=True)


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (reader("0 1 1"), reader("0 1 1", name="b"), None),
        (reader("0 1 1"), reader("0 1", name="b"), "a.txt has 3 records and b.txt 2"),
        (reader("0 1 1"), reader("0 1 0", name="b"), "record 3 has the label 1 in a.txt and 0 in b.txt"),
        (reader("0 1", 9), reader("0 1", 9, "b"), ""),
        (reader("0 1", 9), reader("0 1 1 1 1 1 1 1 1", name="b"), ""),
        (reader("0 1 1 1 1 1 1 1 1"), reader("0 1", 9, "b"), ""),
        (reader("0 1", 9), reader("1 1", 9, "b"), "record 1 has the label 0 in a.txt and 1 in b.txt"),
        (reader(None), reader("0 1", name="b"), ""),
        (reader("0 1"), reader(None, name="b"), ""),
    ],
)
def test_why_lists_are_not_in_step(one: Any, other: Any, reason: str | None) -> None:
    assert _mismatch_reason(one, other) == reason


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (reader("0 1 1"), reader("0 1 1", name="b"), "their labels are the same"),
        (reader("0 1", 9), reader("0 1 1", 9, "b"), "the labels of the first 2 records are the same"),
        (reader("0 1 1"), reader("0 1", 3, "b"), "the labels of the first 2 records are the same"),
        (reader(None), reader("0", name="b"), "whether they have the same labels cannot be compared here"),
        (reader("0"), reader(None, name="b"), "whether they have the same labels cannot be compared here"),
    ],
)
def test_what_is_said_of_lists_in_step(one: Any, other: Any, said: str) -> None:
    assert _in_step_note(one, other, "TEST") == f"data: in phase TEST 'b' b.txt is read in step with 'a' a.txt; {said}"
    error = _mismatch_error(one, other, "TRAIN", "why")
    assert (error.message, error.place) == ("the lists of 'a' and 'b' are not in step in phase TRAIN: why", "b.txt")


@pytest.mark.parametrize(
    ("one", "classes", "whole", "warned"),
    [
        (reader("0 1 2"), 3, True, None),
        (reader("0 1 2 2"), 2, True, None),
        (reader("0 1 2"), None, True, None),
        (reader("0 10 2 2"), 4, False, "3 of the 4 classes (0, 2, 10)"),
        (reader("0 1", 9), 4, False, None),
        (reader(None), 4, False, None),
        (
            reader(" ".join(map(str, range(12)))),
            20,
            False,
            "12 of the 20 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)",
        ),
        (
            reader(" ".join(map(str, range(13)))),
            20,
            False,
            "13 of the 20 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...)",
        ),
    ],
)
def test_classes_that_a_list_lacks(one: Any, classes: int | None, whole: bool, warned: str | None) -> None:
    assert _all_classes(one, classes) is whole
    found = _missing_classes(one, classes)
    assert len(found) == bool(warned)
    assert warned is None or f"data: a.txt holds {warned}, so the others are never learned" in found[0]


@pytest.mark.parametrize(
    ("types", "reasons", "hint"),
    [
        (("Data", "Data", "ImageData", "ImageData"), [],
         "one list with all classes for all: --train-list FILE --val-list FILE; each its own, with the same labels in "
         "the same order: --train-list a=a.txt --train-list b=b.txt --val-list a=a.txt --val-list b=b.txt; or the list "
         "of one source for all: --data-from main"),
        (("Data", "ImageData", "Data", "Data"), ["why"],
         "each its own, with the same labels in the same order: --train-list a=FILE --train-list b=FILE --val-list "
         "a=FILE --val-list b=FILE"),
    ],
)  # fmt: skip
def test_the_ways_out_of_different_lists(types: tuple[str, ...], reasons: list[str], hint: str) -> None:
    readers = [replace(reader(None, name=name), type=kind) for name, kind in zip("abab", types, strict=True)]
    main = SimpleNamespace(prefix="main", error=lambda message, hint: ComposeError(message, hint=hint))
    layout: Any = SimpleNamespace(main=main)
    error = _choice_error(layout, {"TRAIN": readers[:2], "TEST": readers[2:]}, reasons)
    assert error.hint == hint
    shown = "TRAIN: 'a' a.txt, 'b' b.txt; TEST: 'a' a.txt, 'b' b.txt" + (" (why)" if reasons else "")
    assert error.message.endswith(f"it was not trained on: {shown}")


def test_lists_named_for_sources_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Source:
        def __init__(self, prefix: str) -> None:
            self.prefix = prefix

    class Lists:
        def __init__(self, train: str, val: str) -> None:
            self.paths = {"TRAIN": train, "TEST": val}

        def for_phase(self, phase: str) -> tuple[str, None]:
            return self.paths[phase], None

    monkeypatch.chdir(tmp_path)
    for name, labels in (("t", "0 1"), ("u", "0 01"), ("v", "1 1"), ("w", "0 1 1")):
        Path(name).write_text("".join(f"{number}.png {label}\n" for number, label in enumerate(labels.split())))
    first: Any = (Source("a"), Lists("t", "t"))
    same: Any = (Source("b"), Lists("t", "u"))
    assert check_image_lists([first, (Source("b"), Lists("t", "t"))]) == []  # type: ignore[list-item]
    assert check_image_lists([first, same]) == [
        "data: in phase TEST 'b' u is read in step with 'a' t; their labels are the same"
    ]
    for wrong, says in (("v", "record 1 has the label 0 in t and 1 in v"), ("w", "t has 2 records and w 3")):
        other: Any = (Source("c"), Lists(wrong, "t"))
        with pytest.raises(ComposeError, match=f"in phase TRAIN: {says}"):
            check_image_lists([first, same, other])
    assert image_list_labels("u") == RecordedLabels(("0", "1"), 2)
    assert image_list_labels("none") is None


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([[0], [2]], ("0", "2")),
        ([0, 2], ("0", "2")),
        ([0, 0.5], None),
        ([[0, 1], [2, 3]], None),
        ([], None),
    ],
)
def test_labels_of_hdf5_files(
    values: Any, labels: tuple[str, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as file:
        file["label"] = np.array(values, np.float32)
    Path("files.txt").write_text("a.h5\n\n a.h5 \n")
    found = _in_hdf5("files.txt", ["label"])
    assert found == (None if labels is None else RecordedLabels(labels * 2, 4))
    assert _in_hdf5("files.txt", ["label", "more"]) is None
    assert _in_hdf5("files.txt", []) is None
