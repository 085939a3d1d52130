"""Names of classes: in a file, and in the comments of a net."""

from __future__ import annotations

from pathlib import Path

import pytest

from prototxt.errors import PrototxtError
from prototxt.text.class_names import (
    ClassNames,
    class_comments,
    class_names_of,
    name_of,
    parse_classes,
    read_names,
    replace_class_comments,
)
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


NAMES = ("cat", "dog", "3", "", "cat fish")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0", (0,)),
        ("1,3,7-9", (1, 2, 7, 8, 9)),
        ("7-9,1", (7, 8, 9, 1)),
        ("5-5", (5,)),
        ("9-7", ()),
        ("dog, cat", (1, 0)),
        ("cat fish,0", (4, 0)),
        ("3", (2,)),
        ("2-3", (2, 3)),
    ],
)
def test_classes_are_numbers_ranges_and_names_and_a_name_comes_first(text: str, found: tuple[int, ...]) -> None:
    assert parse_classes(text, NAMES, "--classes") == found


@pytest.mark.parametrize("text", ["", "cow", "1,,2", "-1", "1-", "1-2-3", "1.5"])
def test_what_is_no_class(text: str) -> None:
    with pytest.raises(PrototxtError, match=f"--classes {text}: '[^']*' is no class\n  hint: .*cat, dog, 3, cat fish"):
        parse_classes(text, NAMES, "--classes")
    with pytest.raises(PrototxtError, match=r"hint: give numbers and ranges, such as 1,3,5 or 0-4,9$"):
        parse_classes(text, (), "--classes")


def test_a_misspelt_class_is_told() -> None:
    with pytest.raises(PrototxtError, match="did you mean 'dog'"):
        parse_classes("dogg", NAMES, "--classes")


def test_comments_are_replaced_wherever_they_were() -> None:
    old = class_comments(ClassNames(("a", "b"), {"odd": (1,)}))
    new = ClassNames(("c",))
    text = f"# head\n{old}{NET}# class-names: [] \r\n# class-namesake: [1]\n"
    assert replace_class_comments(text, new) == f'# class-names: ["c"]\n# head\n{NET}# class-namesake: [1]\n'
    assert replace_class_comments(NET, ClassNames()) == NET
    assert class_names_of(parse(replace_class_comments(text, new))) == new


def test_the_last_of_two_comments_counts_and_a_bad_byte_is_named(tmp_path: Path) -> None:
    text = class_comments(ClassNames(("a",))) + class_comments(ClassNames(("b",)))
    assert class_names_of(parse(text)).names == ("b",)
    (tmp_path / "l.txt").write_bytes(b"ab\n\xff")
    with pytest.raises(PrototxtError, match="the class names are not UTF-8 text: byte 3 is 0xff"):
        read_names(tmp_path / "l.txt")
    for content, says in ((b"a\0b", "this is a binary file"), (b"\n", "there are no names in this file")):
        (tmp_path / "l.txt").write_bytes(content)
        with pytest.raises(PrototxtError, match=says):
            read_names(tmp_path / "l.txt")


def test_a_long_line_of_blanks_takes_no_longer_than_its_length() -> None:
    """A comment of 100,000 blanks took minutes where the end of its value was searched from every blank."""
    text = f"# class-names:{' ' * 100_000}x\n"
    with pytest.raises(PrototxtError, match="the comment class-names is malformed"):
        class_names_of(parse(text))
    spaced = class_names_of(parse(f'# class-names:{" " * 50_000}["a", "b"]{" " * 50_000}\r\n'))
    assert spaced.names == ("a", "b")
