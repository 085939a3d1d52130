"""Files of other kinds where a prototxt belongs, and texts in other encodings."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from prototxt import ParseError, PrototxtError, parse_file, write_weights
from prototxt.conversion.file_content import TEXT, contents_of
from prototxt.sniff.text_encoding import RecodedWarning, to_source

NET = '# größer\nname: "n"\r\nlayer { name: "a" type: "ReLU" bottom: "x" top: "x" }\n'


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("net.prototxt", NET)
    return out.getvalue()


def onnx() -> bytes:
    """ir_version 8, a producer, a graph of one node."""
    return b"\x08\x08\x12\x07pytorch\x3a\x0b\x0a\x03\x0a\x01x\x12\x04main\x42\x02\x10\x0d"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<!DOCTYPE html>\n<html></html>", "a web page"),
        (b"\xef\xbb\xbf\n <HTML>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (zipped(), "a zip archive"),
        (pickle.dumps({"a": 1.0}, protocol=2), "a Python pickle"),
        (b"\x1f\x8b\x08\0abc", "a gzip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG image"),
        (onnx(), "an ONNX model"),
        (bytes(range(32)) * 4, "a binary file"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(data)
    for tolerant in (False, True):
        with pytest.raises(ParseError, match=rf"net\.prototxt: this is {what}.*, not a prototxt") as found:
            parse_file(path, tolerant=tolerant)
        assert len(found.value.errors) == 1
        assert found.value.hint


def test_a_caffemodel_is_told(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.caffemodel", {"ip": [np.ones((3, 4), np.float32)]})
    with pytest.raises(ParseError, match=r"this is a caffemodel \(a net's weights\), not a prototxt"):
        parse_file(tmp_path / "a.caffemodel")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_other_encodings_are_read_with_a_warning(tmp_path: Path, encoding: str) -> None:
    text = NET if encoding in ("utf-16", "utf-32") else NET.replace("ö", "o").replace("ß", "s")
    path = tmp_path / "net.prototxt"
    path.write_bytes(text.encode(encoding))
    with pytest.warns(RecodedWarning, match="which Caffe does not read; the output is UTF-8"):
        assert str(parse_file(path)) == text
    assert contents_of(path).form == TEXT


def test_a_big_endian_mark_is_not_part_of_the_text() -> None:
    with pytest.warns(RecodedWarning):
        assert to_source(("\ufeff" + NET).encode("utf-16-be"), "n") == NET


def test_half_a_character_of_utf16_is_an_error() -> None:
    with pytest.raises(ParseError, match="this is damaged UTF-16 text"), warnings.catch_warnings():
        to_source(NET.encode("utf-16")[:-1], "n")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a",
        b"\xef\xbb\xbfname: 'x'\r\n",
        b"# \xfc latin-1\n",
        b"name: 'x'\n\x1a",
        b"\0",
        b"na\0me: 1",
        b"nam\0e: 1",
    ],
)
def test_text_keeps_its_bytes(data: bytes) -> None:
    assert to_source(data, "n").encode("utf-8", "surrogateescape") == data


def test_a_web_page_is_told_in_the_words_of_where_text_is_parsed_unless_weights_are_meant(tmp_path: Path) -> None:
    for name, what in (("page.html", "a prototxt"), ("net.prototxt", "a prototxt"), ("n.caffemodel", "a weights file")):
        (tmp_path / name).write_text("<!DOCTYPE html>\n<html></html>")
        with pytest.raises(PrototxtError) as caught:
            contents_of(tmp_path / name)
        assert str(caught.value).splitlines()[0] == f"{tmp_path / name}: this is a web page, not {what}"
