"""CSV lists: columns by a header or by their place, labels by number or name."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion.data.csv_list import read_csv_list
from fusion.data.image_list import listed_classes, read_list
from fusion.errors import DataError

PLAIN = (("a b.png", "c,d.JPG"), (1, 0), (1, 2), ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a b.png,1\n"c,d.JPG",0\n', PLAIN),
        ('\ufeffa b.png, 1\r\n\r\n"c,d.JPG",0 \r\n', (*PLAIN[:2], (1, 3), ())),
        ('label,Path\n1,a b.png\n0,"c,d.JPG"\n', (*PLAIN[:2], (2, 3), ())),
        ('id,filename,size,class\n7,a b.png,3,dog\n8,"c,d.JPG",3,cat\n', (*PLAIN[:2], (2, 3), ("cat", "dog"))),
        ("a.png,+1\nb.png,-10000000000\n", (("a.png", "b.png"), (1, -10000000000), (1, 2), ())),
        ("a.png,100000000000\n", (("a.png",), (0,), (1,), ("100000000000",))),
        ("a.png,1.0,more\n", (("a.png",), (0,), (1,), ("1.0",))),
        # One name makes all labels names, which sort as text.
        ("a.png,2\nb.png,10\nc.png,x\n", (("a.png", "b.png", "c.png"), (1, 0, 2), (1, 2, 3), ("10", "2", "x"))),
    ],
)
def test_rows(text: str, expected: tuple[object, ...]) -> None:
    rows = read_csv_list(text, "list.csv")
    assert (rows.paths, rows.labels, rows.lines, rows.classes) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.csv: the list is empty"),
        ("path,label\n", "a header and no rows"),
        ("size,path,label\n1,a.png\n", "list.csv:2: the row has no path and label"),
        ("a.png\nb.png,\n,1\n", "list.csv:2: the row has no path and label"),
        ("a.png,0\n,1\n", "list.csv:2: the row has no path and label"),
        ("a.png,0\nb.png,\n", "list.csv:2: the row has no path and label"),
        ("a.png;1\n", "no column of paths"),
        ("id,label\n1,2\n", "list.csv:1: the first row names no column of paths"),
        ("path,class,label\na.png,1,1\n", "names several columns of labels"),
        ('a.png,"1\n', "this is no CSV"),
        ('a.png,"1"0\n', "this is no CSV"),
    ],
)
def test_broken_lists(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_csv_list(text, "list.csv")


def test_a_csv_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list.CSV"
    path.write_text("path,label\na.png,fox\nb.png,cat\n")
    images = read_list(path)
    assert (images.names, images.labels.tolist(), images.classes) == (("a.png", "b.png"), [1, 0], ("cat", "fox"))
    assert images.place(1) == f"{path}:3"
    assert listed_classes(path) == ("cat", "fox")
    assert listed_classes(tmp_path / "absent.csv") == ()
