"""MNIST's idx files and CIFAR's batches: their pixels, labels and names, and pickles that would run code."""

from __future__ import annotations

import errno
import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusion.data.array_images import ArrayImages, read_array_images, read_idx
from fusion.data.array_writers import write_class_folders
from fusion.data.convert_imageset import write_images
from fusion.data.image_list import read_list
from fusion.data.image_options import ImageOptions
from fusion.data.lmdb_leveldb import open_database
from fusion.errors import DataError
from prototxt.formats.datum import read_datum

NAMES = ["cat", "dog", "eel"]


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def mnist(count: int = 4, *, packed: bool = False, part: str = "train") -> tuple[str, NDArray[np.uint8]]:
    pixels = np.random.default_rng(1).integers(0, 255, (count, 5, 6)).astype(np.uint8)
    labels = np.array([3, 0, 7, 3] * count, np.uint8)[:count]
    ending = ".gz" if packed else ""
    for name, array in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", labels)):
        Path(name + ending).write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return f"{part}-images-idx3-ubyte{ending}", pixels


def cifar(path: str, labels: list[int], *, fine: bool = False, protocol: int = 2) -> NDArray[np.uint8]:
    Path(path).parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(len(labels)).integers(0, 255, (len(labels), 3072)).astype(np.uint8)
    key = b"fine_labels" if fine else b"labels"
    content = {b"data": pixels, key: labels, b"batch_label": b"training batch", b"filenames": [b"a.png"]}
    Path(path).write_bytes(pickle.dumps(content, protocol=protocol))
    return pixels.reshape(-1, 3, 32, 32)[:, ::-1]


def read(path: str) -> ArrayImages:
    found = read_array_images(path)
    assert found is not None
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_mnist(packed: bool) -> None:
    path, pixels = mnist(packed=packed)
    found = read(path)
    np.testing.assert_array_equal(found.pixels, pixels[:, None])
    assert found.labels.tolist() == [3, 0, 7, 3]
    assert found.folders == tuple("01234567")
    Path(path.replace("images-idx3", "labels-idx1")).unlink()
    with pytest.raises(DataError, match="its labels are not beside it"):
        read_array_images(path)


@pytest.mark.parametrize(
    ("classes", "folders"),
    [
        (("a", "b.c", "d e"), ("a", "b.c", "d e")),
        (("b", "a", "c"), ("0_b", "1_a", "2_c")),
        (("a", "b/c", "d"), ("0_a", "1_b_c", "2_d")),
        ((".a", "b", "c"), ("0_.a", "1_b", "2_c")),
        (("a", "b ", "c"), ("0_a", "1_b ", "2_c")),
        ((), ("0", "1", "2")),
    ],
)
def test_a_folder_for_each_class(classes: tuple[str, ...], folders: tuple[str, ...]) -> None:
    pixels, labels = np.zeros((2, 1, 1, 1), np.uint8), np.array([2, 0])
    assert ArrayImages("a", pixels, labels, classes).folders == folders
    many = ArrayImages("a", pixels, np.array([10, 9])).folders
    assert (len(many), many[0], many[9], many[10]) == (11, "00", "09", "10")
    assert ArrayImages("a", pixels, np.array([9, 0])).folders[9] == "9"


def test_an_idx_file_may_have_no_axes() -> None:
    Path("a").write_bytes(idx(np.zeros((), np.uint8))[:4] + b"\7")
    assert read_idx("a").tolist() == 7


def test_labels_may_be_packed_or_not() -> None:
    path, pixels = mnist(packed=True)
    labels = Path(path.replace("images-idx3", "labels-idx1"))
    labels.with_suffix("").write_bytes(gzip.decompress(labels.read_bytes()))
    labels.unlink()
    np.testing.assert_array_equal(read(path).pixels, pixels[:, None])
    Path(path).with_suffix("").write_bytes(idx(pixels))
    plain, packed = labels.with_suffix(""), labels
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert read(path.removesuffix(".gz")).labels.tolist() == [3, 0, 7, 3]


def test_an_array_in_columns_is_read_in_rows() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3072)).astype(np.uint8)
    content = {b"data": np.asfortranarray(pixels), b"labels": [1, 0]}
    Path("data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    np.testing.assert_array_equal(read("data_batch_1").pixels[:, ::-1].reshape(2, -1), pixels)


def test_idx_files_that_are_none() -> None:
    path, pixels = mnist()
    for content, message in (
        (b"", "no idx file"),
        (b"\0\0\x0d\x01\0\0\0\1\0\0\0\0", "no idx file"),
        (idx(pixels)[:-1], "holds 119 values, and states 4x5x6"),
        (idx(pixels) + b"\0", "holds 120 values and more, and states 4x5x6"),
        (gzip.compress(idx(pixels) + b"\0"), "holds 120 values and more"),
        (gzip.compress(idx(pixels)[:-1]), "holds 119 values, and states 4x5x6"),
        (b"\0\0\x08\x03" + bytes(12), "holds 0 values, and states 0x0x0"),
        (bytes([0, 0, 8, 100]) + b"\0\0\0\1" * 100 + b"\0", "cannot be read: "),
        (b"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "holds 0 values"),
        (gzip.compress(idx(pixels))[:-9], "cannot be unpacked"),
    ):
        Path(path).write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_idx(path)
    Path(path).write_bytes(idx(pixels[:3]))
    with pytest.raises(DataError, match="do not belong together: 3x5x6 and 4"):
        read_array_images(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_batches_in_python(protocol: int) -> None:
    first = cifar("c/data_batch_1", [2, 0], protocol=protocol)
    second = cifar("c/data_batch_2", [1, 1, 0], protocol=protocol)
    cifar("c/test_batch", [0])
    Path("c/batches.meta").write_bytes(pickle.dumps({"label_names": NAMES, "num_cases_per_batch": 2}))
    found = read("c/data_batch_*")
    np.testing.assert_array_equal(found.pixels, np.concatenate([first, second]))
    assert (found.labels.tolist(), found.classes) == ([2, 0, 1, 1, 0], tuple(NAMES))
    assert read("c/test_batch").labels.tolist() == [0]
    with pytest.raises(DataError, match=r"a training and a test part[\s\S]*c/data_batch_\*' or 'c/test_batch"):
        read_array_images("c")


def test_cifar_100_and_the_binary_forms() -> None:
    pixels = cifar("h/train", [2, 1], fine=True)
    Path("h/meta").write_bytes(pickle.dumps({b"fine_label_names": [b"a", b"c", b"b"], b"coarse_label_names": []}))
    found = read("h/train")
    assert (found.labels.tolist(), found.classes) == ([2, 1], ("a", "c", "b"))
    assert found.folders == ("0_a", "1_c", "2_b")  # names that would sort in another order
    planes = pixels[:, ::-1].reshape(2, -1)
    for path, head in (("b/data_batch_1.bin", [[2], [1]]), ("f/train.bin", [[9, 2], [8, 1]])):
        Path(path).parent.mkdir()
        np.concatenate([np.array(head, np.uint8), planes], axis=1).tofile(path)
        binary = read(path)
        np.testing.assert_array_equal(binary.pixels, pixels)
        assert binary.labels.tolist() == [2, 1]
    Path("b/batches.meta.txt").write_text("cat\ndog\neel\n\n")
    assert read("b/data_batch_1.bin").classes == tuple(NAMES)


class Harmful:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


@pytest.mark.parametrize("function", [Path.touch, eval, getattr, np.load, pickle.loads, np.array])
def test_pickles_run_no_code(function: object) -> None:
    Path("c").mkdir()
    content = {b"data": Harmful(function, Path("harm")), b"labels": [0]}
    Path("c/data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=r"c/data_batch_1: the batch cannot be read: it names .*, which no batch"):
        read_array_images("c/data_batch_1")
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {b"labels": [0]},
        {b"data": np.zeros((1, 3072), np.uint8)},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [0.5]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 0.5]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, -1]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [256]},
        {b"data": np.zeros((0, 3072), np.uint8), b"labels": []},
        {b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]},
        {b"data": np.zeros((1, 3072), np.int16), b"labels": [0]},
        {b"data": np.array([[None] * 3072]), b"labels": [0]},
    ],
)
def test_batches_that_are_none(content: object) -> None:
    Path("data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match="data_batch_1: "):
        read_array_images("data_batch_1")


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (b"r\xff\xff\xff\x7f", "it keeps a value as number 2147483647 at byte 4"),  # a table of 2^31 places
        (b"p2147483647\n", "it keeps a value as number 2147483647 at byte 4"),
        (b"\x96\0\0\0\0\x01\0\0\0", "expected 4294967296 bytes in a bytearray8"),
    ],
)
def test_pickles_take_no_more_memory_than_their_own_size(operation: bytes, says: str) -> None:
    Path("data_batch_1").write_bytes(b"\x80\x02]N" + operation + b".")
    with pytest.raises(DataError, match=f"data_batch_1: the batch cannot be read: .*({says})"):
        read_array_images("data_batch_1")


def test_idx_files_expand_only_as_far_as_images_do(monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = mnist(1, packed=True)
    Path(path).write_bytes(gzip.compress(idx(np.zeros((600, 50, 60), np.uint8))))
    assert read_idx(path).shape == (600, 50, 60)
    monkeypatch.setattr("fusion.data.array_images._LARGE", 1000)
    with pytest.raises(DataError, match="states 600x50x60"):
        read_idx(path)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([b"\xff"], "batches.meta: a name is no text"),
        (["\ud800"], "batches.meta: a name is no text"),
        ([["cat"]], "batches.meta: a name is no text"),
        (["cat", "dog"], "there is a label 2, and names of 2 classes"),
    ],
)
def test_class_names_that_are_none(names: list[object], says: str) -> None:
    cifar("c/data_batch_1", [2, 0])
    Path("c/batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    with pytest.raises(DataError, match=says):
        read("c/data_batch_1")


def test_names_of_several_classes_get_their_numbers() -> None:
    cifar("c/data_batch_1", [1, 0])
    Path("c/batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "cat"]}))
    assert read("c/data_batch_1").folders == ("0_cat", "1_cat")


class Stored:
    """Pickled as an array of bytes with a state that is none of NumPy's."""

    def __init__(self, shape: object, data: object, kind: str = "u1") -> None:
        self.state = (1, shape, np.dtype(kind), False, data)

    def __reduce__(self) -> tuple[object, ...]:
        build, arguments, _ = np.zeros(1, np.uint8).__reduce__()  # type: ignore[misc]
        return build, arguments, self.state


@pytest.mark.parametrize(
    "stored",
    [
        Stored((True, 3072), bytes(3072)),
        Stored((-1, -3072), bytes(3072)),
        Stored([1, 3072], bytes(3072)),
        Stored((1, 3072), bytes(3071)),
        Stored((1, 3072), "a" * 3072),
        Stored((1, 3072), bytes(3072), "i1"),
    ],
)
def test_states_that_are_no_array_of_bytes(stored: Stored) -> None:
    Path("data_batch_1").write_bytes(pickle.dumps({b"data": stored, b"labels": [0]}, protocol=2))
    with pytest.raises(DataError, match="data_batch_1: the batch holds no array of bytes"):
        read_array_images("data_batch_1")
    Path("data_batch_1").write_bytes(
        pickle.dumps({b"data": Stored((1, 3072), bytes(3072)), b"labels": [0]}, protocol=2)
    )
    assert not read("data_batch_1").pixels.any()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("photos.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\0")),
        ("photos", b"\0\0\x08\x01\0\0\0\0"),
        ("train-images-idx3-ubyte", b"no idx file"),
        ("train", b"no pickle"),
        ("pickle", b"\x80\x02."),
        ("a.bin", bytes(3072)),
        ("bin", bytes(3073)),
    ],
)
def test_name_and_content_say_what_a_file_is(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    assert read_array_images(name) is None


def test_lists_and_folders_are_no_arrays() -> None:
    Path("list.txt").write_text("a.png 0\n")
    Path("photos/cat").mkdir(parents=True)
    assert [read_array_images(path) for path in ("list.txt", "photos", "absent", "*.png")] == [None] * 4


def test_a_database_of_arrays_has_their_pixels() -> None:
    path, pixels = mnist()
    assert write_images(path, "", "db", ImageOptions()).records == 4
    database = open_database("db", lmdb=True)
    assert [key.decode() for key in database.keys] == [f"{number:08d}" for number in range(4)]
    records = [read_datum(bytes(value), "db") for value in database.values()]
    np.testing.assert_array_equal([record.array() for record in records], pixels[:, None])
    assert [record.label for record in records] == [3, 0, 7, 3]
    cifar("c/data_batch_1", [1, 0])
    write_images("c/data_batch_1", "", "gray", ImageOptions(size=(8, 9), gray=True, encoded=True))
    encoded = [read_datum(bytes(value), "gray") for value in open_database("gray", lmdb=True).values()]
    assert all(record.encoded for record in encoded)


def test_class_folders_of_arrays_are_read_as_the_arrays() -> None:
    path, pixels = mnist()
    assert write_class_folders(path, "digits", ImageOptions()).records == 4
    assert sorted(str(found) for found in Path("digits").rglob("*.png")) == [
        f"digits/{name}.png" for name in ("0/00001", "3/00000", "3/00003", "7/00002")
    ]
    np.testing.assert_array_equal(np.asarray(Image.open("digits/7/00002.png")), pixels[2])
    colours = cifar("c/data_batch_1", [1, 0, 1])
    Path("c/batches.meta").write_bytes(pickle.dumps({"label_names": NAMES[:2]}))
    write_class_folders("c/data_batch_1", "photos", ImageOptions())
    images = read_list("photos")
    assert (images.classes, images.labels.tolist()) == (("cat", "dog"), [0, 1, 1])
    np.testing.assert_array_equal(np.asarray(Image.open(images.names[0])), colours[1, ::-1].transpose(1, 2, 0))
    with pytest.raises(DataError, match="photos: this exists already"):
        write_class_folders("c/data_batch_1", "photos", ImageOptions())
    with pytest.raises(DataError, match="no images as arrays"):
        write_class_folders("photos", "more", ImageOptions())
    assert not Path("more").exists()


def test_a_full_disk_is_told_with_the_folder_and_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = mnist()
    whole = iter([b"x" * 2000, b"x" * 500])

    def encode(*_: object) -> bytes:
        try:
            return next(whole)
        except StopIteration:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None

    monkeypatch.setattr("fusion.data.array_writers.encode_image", encode)
    with pytest.raises(OSError, match=r"No space left on device \(at least 2.5 kB are needed\): 'digits'"):
        write_class_folders(path, "digits", ImageOptions())
    assert sorted(os.listdir()) == sorted([path, path.replace("images-idx3", "labels-idx1")])


def test_a_pattern_names_batches_of_one_kind_only() -> None:
    cifar("data_batch_1", [1])
    Path("data_batch_folder").mkdir()
    assert read_array_images("data_batch_*") is None
    Path("data_batch_folder").rmdir()
    Path("data_batch_x").write_text("a list")
    assert read_array_images("data_batch_*") is None
    mnist(part="a")
    mnist(part="b")
    assert read_array_images("*-images-idx3-ubyte") is None


@pytest.mark.parametrize(
    ("needed", "size", "fits"), [(200_000, 1000, True), (200_000, 999, False), (200_002, 1000, False)]
)
def test_packed_idx_files_expand_200_times_at_most(
    needed: int, size: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusion.data.array_images._LARGE", 0)
    Path("a").write_bytes(gzip.compress(idx(np.zeros(needed, np.uint8))).ljust(size, b"\0"))
    if fits:
        assert read_idx("a").shape == (needed,)
    else:
        with pytest.raises(DataError, match=f"states {needed}"):
            read_idx("a")


def test_damage_is_told_from_emptiness() -> None:
    for content in (b"\0\0\x08", b"\0\0\x08\x03" + bytes(8)):
        Path("a").write_bytes(content)
        with pytest.raises(DataError, match="no idx file of bytes"):
            read_idx("a")
    for content, says in (
        (b"\x80\x02]q\x03.", "no batch of CIFAR"),
        (b"\x80\x02]q\x04.", "keeps a value as number 4 at byte 3"),
        (pickle.dumps({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, protocol=4), "it holds no images"),
        (pickle.dumps({b"data": Stored((-5, 0), b""), b"labels": []}, protocol=4), "no array of bytes"),
    ):
        Path("test_batch").write_bytes(content)
        with pytest.raises(DataError, match=says):
            read_array_images("test_batch")


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("size", [None, (8, 9)])
def test_arrays_are_prepared_as_image_files_are(gray: bool, size: tuple[int, int] | None) -> None:
    path, digits = mnist()
    photos = cifar("c/data_batch_1", [1, 0])
    for number, (source, pixels) in enumerate(((path, digits[:, None]), ("c/data_batch_1", photos))):
        write_images(source, "", f"db{number}", ImageOptions(size=size, gray=gray))
        found = [read_datum(bytes(value), "db").array() for value in open_database(f"db{number}", lmdb=True).values()]
        channels = 1 if gray or number == 0 else 3
        assert {record.shape for record in found} == {(channels, *(size or pixels.shape[2:]))}
        if size is None and channels == pixels.shape[1]:
            np.testing.assert_array_equal(found, pixels)
