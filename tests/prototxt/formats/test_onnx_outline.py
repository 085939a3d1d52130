from __future__ import annotations

import io
from pathlib import Path

import pytest

from prototxt.errors import WeightsError
from prototxt.formats.onnx_outline import LARGE, outline
from prototxt.sniff.protobuf_wire import encode_varint, field_key, length_field


def tensor(name: bytes, kind: int, field: int, values: bytes) -> bytes:
    head = field_key(1, 0) + encode_varint(len(values) // 4) + field_key(2, 0) + encode_varint(kind)
    return head + length_field(8, name) + length_field(field, values)


def test_large_floats_are_left_out_and_found_again(tmp_path: Path) -> None:
    values = [bytes([number]) * size for number, size in ((1, LARGE), (2, 64), (3, LARGE + 4), (4, LARGE))]
    kinds = [(1, 9), (1, 9), (1, 4), (7, 9)]
    tensors = [length_field(5, tensor(b"t%d" % n, *kind, part)) for n, (kind, part) in
               enumerate(zip(kinds, values, strict=True))]  # fmt: skip
    head, tail = length_field(2, b"someone"), length_field(8, b"opset")
    whole = head + length_field(7, length_field(1, b"node") + b"".join(tensors) + length_field(2, b"name")) + tail
    path = tmp_path / "net.onnx"
    path.write_bytes(whole)
    with open(path, "rb") as file:
        found = outline(file)
    assert [place is not None for place in found.places] == [True, False, True, False]
    for place, part in zip(found.places, values, strict=True):
        assert place is None or whole[slice(*place)] == part
    assert found.content.startswith(head)
    assert found.content.endswith(tail)
    assert values[0] not in found.content
    assert values[3] in found.content
    assert b"\x42\x02t0" in found.content


@pytest.mark.parametrize("count", [1, 40, LARGE])
def test_a_cut_file_is_refused(tmp_path: Path, count: int) -> None:
    whole = length_field(7, length_field(5, tensor(b"w", 1, 9, bytes(2 * LARGE))))
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[:-count])
    with open(path, "rb") as file, pytest.raises(WeightsError, match=r"cut.onnx: byte"):
        outline(file)


def test_only_files_are_scanned() -> None:
    with pytest.raises(io.UnsupportedOperation):
        outline(io.BytesIO(b""))


def test_the_type_is_one_field_among_others(tmp_path: Path) -> None:
    """Fields may come in any order: a dim of 1 after the type is no type, nor is a type after a dim of 1."""
    values, path = bytes(LARGE), tmp_path / "net.onnx"
    dim, kinds = field_key(1, 0) + encode_varint(1), [field_key(2, 0) + encode_varint(kind) for kind in (1, 7)]
    for head, omitted in ((kinds[0] + dim * 7, True), (kinds[0] + dim, True), (kinds[1] + dim, False)):
        path.write_bytes(length_field(7, length_field(5, head + field_key(14, 0) + b"\0" + length_field(9, values))))
        with open(path, "rb") as file:
            assert [place is not None for place in outline(file).places] == [omitted]
