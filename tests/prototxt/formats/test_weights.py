"""Weights of any format: which blobs a name stands for, in which shape, and which files are refused."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prototxt.errors import WeightsError
from prototxt.formats.caffemodel import CaffemodelWriter
from prototxt.formats.copy import FileSlice
from prototxt.formats.index import BlobSpan, LayerEntry, resolve_shape, shape_fits
from prototxt.formats.mmap_reader import MmapReader, as_float32
from prototxt.formats.safetensors import scan_safetensors
from prototxt.formats.scan import blob_counts, scan_weights
from prototxt.formats.weights import format_by_name, modern_shape, read_weights, write_weights
from prototxt.sniff.protobuf_wire import encode_varint, length_field, text_field

ONE, TWO = np.ones(2, np.float32), np.full(2, 2, np.float32)


def written(path: Path, *layers: tuple[str, list[np.ndarray]]) -> Path:
    with CaffemodelWriter(path) as writer:
        for name, blobs in layers:
            writer.add_layer(name, blobs=blobs)
    return path


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ([ONE, TWO], [ONE, TWO], ""),
        ([ONE, TWO], [ONE, ONE], "hold different weights"),
        ([ONE, TWO], [TWO, TWO], "hold different weights"),
        ([ONE, TWO], [ONE], "hold different weights"),
        ([ONE], [ONE, TWO], "hold different weights"),
        ([], [ONE], ""),
        ([ONE], [], ""),
    ],
)
def test_two_layers_of_one_name_must_hold_the_same(
    tmp_path: Path, first: list[np.ndarray], second: list[np.ndarray], says: str
) -> None:
    path = written(tmp_path / "a.caffemodel", ("c", first), ("d", [TWO]), ("c", second))
    if says:
        with pytest.raises(WeightsError, match=f"two layers named 'c' {says}"):
            read_weights(path)
    else:
        weights = read_weights(path)
        assert {name: len(blobs) for name, blobs in weights.items()} == {"c": max(len(first), len(second)), "d": 1}
    assert blob_counts(path) == {"c": max(len(first), len(second)), "d": 1}


def test_a_file_that_changed_after_its_scan_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.caffemodel", ("c", [ONE]))
    scan = scan_weights(path)
    scan.check_unchanged()
    assert MmapReader(scan).array(scan.entries[0].blobs[0]).tolist() == [1, 1]
    written(path, ("c", [TWO]))
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"a\.caffemodel: the file has changed since it was read"):
            MmapReader(scan)
        path.unlink(missing_ok=True)


def spanned(kind: str, *shapes: tuple[int, ...], legacy: bool = True) -> LayerEntry:
    return LayerEntry("n", kind, tuple(BlobSpan(shape, "<f4", 0, 0, legacy=legacy) for shape in shapes))


@pytest.mark.parametrize(
    ("kind", "index", "shape", "modern"),
    [
        ("InnerProduct", 0, (1, 1, 3, 4), (3, 4)),
        ("InnerProduct", 1, (1, 1, 1, 4), (4,)),
        ("InnerProduct", 0, (2, 1, 3, 4), (2, 1, 3, 4)),
        ("InnerProduct", 0, (1, 2, 3, 4), (1, 2, 3, 4)),
        ("Convolution", 0, (5, 3, 2, 2), (5, 3, 2, 2)),
        ("Convolution", 0, (1, 3, 2, 2), (1, 3, 2, 2)),
        ("Convolution", 1, (1, 1, 1, 5), (5,)),
        ("Deconvolution", 0, (1, 1, 2, 2), (1, 1, 2, 2)),
        ("PReLU", 0, (1, 1, 1, 5), (5,)),
        ("", 0, (1, 1, 1, 5), (1, 1, 1, 5)),
    ],
)
def test_old_dims_lose_the_leading_ones_that_the_type_does_not_have(
    kind: str, index: int, shape: tuple[int, ...], modern: tuple[int, ...]
) -> None:
    assert modern_shape(spanned(kind, *[shape] * (index + 1)), index) == modern
    assert modern_shape(spanned(kind, *[shape] * (index + 1), legacy=False), index) == shape


@pytest.mark.parametrize(
    ("have", "want", "fits"),
    [
        ((1, 1, 1, 2, 3), (2, 3), True),
        ((1, 1, 2, 3), (2, 3, 1), False),
        ((1, 1, 1, 1, 2, 3), (2, 3), False),
        ((1, 2, 3), (2, 3), False),
        ((2, 1, 2, 3), (1, 2, 3), False),
        ((1, 1, 2, 3), (1, 1, 2, 3), True),
        ((2, 3), (2, 4), False),
        ((2, 3), (None, None), True),
    ],
)
def test_shapes_are_compared_from_their_ends(have: tuple[int, ...], want: tuple[int | None, ...], fits: bool) -> None:
    assert shape_fits(have, want) is fits


def test_unknown_sizes_are_those_of_the_file() -> None:
    assert resolve_shape((1, 1, 2, 3), (None, 3)) == (2, 3)
    assert resolve_shape((1, 1, 2, 3), (2, None)) == (2, 3)
    assert resolve_shape((4, 5), (None, None), legacy=False) == (4, 5)
    assert resolve_shape((1, 1, 1, 1), ()) == ()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.caffemodel", "caffemodel"), ("a.caffemodel.h5", "hdf5"), ("A.H5", "hdf5"), ("x.SafeTensors", "safetensors")],
)
def test_the_ending_tells_the_format(name: str, kind: str) -> None:
    assert format_by_name(name) == kind
    for wrong in (f"{name}.txt", "h5", "caffemodel"):
        with pytest.raises(WeightsError, match="cannot be derived from the name"):
            format_by_name(wrong)


def root_of(array: Any) -> object:
    while isinstance(array, (np.ndarray, memoryview)):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return array


def test_a_slice_of_a_file_has_todays_shape_unless_it_is_said_to_be_old(tmp_path: Path) -> None:
    scan = scan_weights(written(tmp_path / "a.caffemodel", ("c", [ONE])))
    span = scan.entries[0].blobs[0]
    for slices, legacy in (
        (FileSlice(scan, span, (1, 1, 1, 2)), False),
        (FileSlice(scan, span, (1, 1, 1, 2), True), True),
    ):
        with CaffemodelWriter(tmp_path / "b.caffemodel") as writer:
            writer.add_layer("c", blobs=[slices])
        (found,) = scan_weights(tmp_path / "b.caffemodel").entries[0].blobs
        assert (found.shape, found.legacy) == ((1, 1, 1, 2), legacy)


def test_aligned_values_are_mapped_and_others_read(tmp_path: Path) -> None:
    for size in range(8):
        path = written(tmp_path / f"{size}.caffemodel", ("x" * (size + 1), [ONE]))
        weights = read_weights(path)
        (name,) = weights
        aligned = weights.entry(name).blobs[0].offset % 4 == 0
        assert isinstance(root_of(weights[name][0]), mmap.mmap) is aligned
        np.testing.assert_array_equal(weights[name][0], ONE)
        assert not weights[name][0].flags.writeable


def test_float32_values_are_not_copied() -> None:
    data = bytearray(np.arange(3, dtype="<f4").tobytes())
    assert np.shares_memory(as_float32(data, "<f4"), np.frombuffer(data, np.uint8))
    assert as_float32(np.arange(3, dtype="<f8").tobytes(), "<f8").tolist() == [0, 1, 2]


def test_values_of_one_layer_in_several_runs_of_doubles(tmp_path: Path) -> None:
    values = np.arange(5, dtype="<f8")
    key = b"\x41"  # field 8, 64 bits
    runs = length_field(8, values[:2].tobytes()) + b"".join(key + value.tobytes() for value in values[2:])
    blob = length_field(7, length_field(1, encode_varint(5))) + runs
    (tmp_path / "a.caffemodel").write_bytes(length_field(100, text_field(1, "c") + length_field(7, blob)))
    assert read_weights(tmp_path / "a.caffemodel")["c"][0].tolist() == [0, 1, 2, 3, 4]


def tensor(shape: list[int], begin: int, end: int, kind: str = "F32") -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def tensors(folder: Path, header: object, values: bytes = bytes(16), *, text: bytes | None = None) -> Path:
    data = json.dumps(header).encode() if text is None else text
    (folder / "a.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + values)
    return folder / "a.safetensors"


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a/0": tensor([2], 0, 8), "a/1": tensor([2], 4, 12)}, "two tensors share bytes"),
        ({"a/0": tensor([2], 4, 12), "a/1": tensor([2], 0, 8)}, "two tensors share bytes"),
        ({"a/0": tensor([2], 0, 8), "b/0": tensor([2], 0, 8)}, "two tensors share bytes"),
        ({"a/0": tensor([5], 0, 20)}, "ends at byte"),
        ({"a/0": tensor([2], -4, 4)}, "has a damaged description"),
        ({"a/0": tensor([1 << 63], 0, 4)}, "has a damaged description"),
        ({"a/0": tensor([True], 0, 4)}, "has a damaged description"),
        ({"a/0": {**tensor([1], 0, 4), "dtype": 1}}, "has type 1"),
        ({"a/0": {"dtype": "F32", "shape": [1]}}, "has a damaged description"),
        ({"a/0": 5}, "has a damaged description"),
        ({"a/0": tensor([1] * 33, 0, 4)}, "has 4 bytes"),
        ({"a/1000": tensor([1], 0, 4)}, "is not named <layer>/<i>"),
        ({"/0": tensor([1], 0, 4)}, "is not named <layer>/<i>"),
        ({"a/\u0660": tensor([1], 0, 4)}, "is not named <layer>/<i>"),
        ({"a/0": tensor([1], 0, 4), "a/2": tensor([1], 4, 8)}, r"layer 'a' has blobs \[0, 2\]"),
        ({"a/0": tensor([1], 0, 4), "a/00": tensor([1], 4, 8), "a/2": tensor([1], 8, 12)}, r"has blobs \[0, 2\]"),
        ([], "not a JSON object"),
        ({}, "holds no tensors"),
        ({"__metadata__": {"layers": "[[1]]"}, "a/0": tensor([1], 0, 4)}, "list of layers in the metadata is damaged"),
    ],
)
def test_safetensors_that_contradict_themselves(tmp_path: Path, header: object, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        scan_safetensors(tensors(tmp_path, header))


def test_a_name_that_occurs_twice_in_json(tmp_path: Path) -> None:
    one = json.dumps(tensor([1], 0, 4)).encode()
    with pytest.raises(WeightsError, match="the header is not JSON: a name occurs twice"):
        scan_safetensors(tensors(tmp_path, {}, text=b'{"a/0": ' + one + b', "a/0": ' + one + b"}"))


def test_what_safetensors_may_hold(tmp_path: Path) -> None:
    header = {
        "b/0": tensor([2], 0, 8),
        "a/1": tensor([0], 4, 4),
        "a/0": tensor([1] * 32, 8, 12),
        "c/x/0": tensor([], 12, 16),
    }
    scan = scan_safetensors(tensors(tmp_path, header))
    assert [(entry.name, [blob.shape for blob in entry.blobs]) for entry in scan.entries] == [
        ("b", [(2,)]), ("a", [(1,) * 32, (0,)]), ("c/x", [()])
    ]  # fmt: skip
    start = 8 + len(json.dumps(header))
    assert [blob.offset - start for entry in scan.entries for blob in entry.blobs] == [0, 8, 4, 12]
    assert scan.name == ""


def test_safetensors_keep_order_types_and_name_as_metadata(tmp_path: Path) -> None:
    meta = {"name": "net", "layers": json.dumps([["b", "ReLU", ["x"], ["y"]], ["a", "InnerProduct", [], ["z"]]])}
    header = {"__metadata__": meta, "c/0": tensor([1], 0, 4), "a/0": tensor([1], 4, 8)}
    scan = scan_safetensors(tensors(tmp_path, header))
    assert scan.name == "net"
    assert [(entry.name, entry.type, entry.bottoms, entry.tops) for entry in scan.entries] == [
        ("b", "ReLU", ("x",), ("y",)), ("a", "InnerProduct", (), ("z",)), ("c", "", (), ())
    ]  # fmt: skip


def test_a_header_that_is_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length, rest in ((3, b"{}"), (1 << 40, b"{}"), ((2 << 20) + 1, bytes(3 << 20))):
        path.write_bytes(length.to_bytes(8, "little") + rest)
        with pytest.raises(WeightsError, match=f"byte 0: a header of {length} bytes does not fit"):
            scan_safetensors(path)


def test_written_safetensors_start_aligned(tmp_path: Path) -> None:
    for size in range(9):
        write_weights(tmp_path / "a.safetensors", {"x" * (size + 1): [ONE]})
        data = (tmp_path / "a.safetensors").read_bytes()
        assert int.from_bytes(data[:8], "little") % 8 == 0
        assert data.endswith(ONE.tobytes())
