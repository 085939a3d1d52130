"""Names of classes: in a file, and in the comments of a net."""

from __future__ import annotations

from pathlib import Path

import pytest

from prototxt.errors import PrototxtError
from prototxt.text.class_names import ClassNames, class_comments, class_names_of, name_of, read_names
from prototxt.text.parser import parse

NET = 'layer { name: "a" type: "Input" top: "a" }\n'


def test_comments_are_read_as_they_were_written() -> None:
    classes = ClassNames(("zero", 'o"ne', "", "drei: ü\n"), {"odd": (1, 3), "odd/late": (3,)})
    text = class_comments(classes) + NET
    assert text.count("\n") == 3
    assert class_names_of(parse(text)) == classes
    assert class_names_of(parse(text.replace("\n", "\r\n"))) == classes
    assert class_names_of(parse(NET)) == ClassNames()
    assert class_comments(ClassNames()) == ""


def test_numbers_go_by_the_longest_prefix() -> None:
    classes = ClassNames((), {"odd": (1, 3), "odd/late": (3,)})
    found = [classes.numbers_of(blob) for blob in ("odd/ip2", "odd/late", "odd/late/x", "odder/ip2", "ip2", "odd")]
    assert found == [(1, 3), (3,), (3,), None, None, (1, 3)]


@pytest.mark.parametrize(
    "comment",
    ['class-names: "a"', "class-names: [1]", "class-names: [", 'class-numbers: {"a": [true]}', "class-numbers: [1]",
     'class-numbers: {"a": [-1]}', 'class-numbers: {"a": 1}'],
)  # fmt: skip
def test_comments_of_another_form(comment: str) -> None:
    with pytest.raises(PrototxtError, match=r"net:2:1: the comment class-\w+ is malformed"):
        class_names_of(parse(f"{NET}# {comment}\n", "net"))


def test_a_line_per_class(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xef\xbb\xbfzero\r\n\r\n two \r\n\r\n")
    assert read_names(path) == ("zero", "", "two")
    assert [name_of(read_names(path), number) for number in (0, 1, 2, 3, -1)] == ["zero", "", "two", "", ""]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe", b"\0\1\2"])
def test_no_names(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(PrototxtError, match="name"):
        read_names(path)
