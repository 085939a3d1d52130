"""The readers of image sets as fuzz targets: CSV lists, MNIST's and CIFAR's files, class folders and their names."""

from __future__ import annotations

import gzip
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fusion.composition.list_checks import image_list_labels
from fusion.composition.lists import labels_in_list, names_in_list
from fusion.data.array_images import read_array_images
from fusion.data.array_writers import array_records
from fusion.data.image_data import open_image_data
from fusion.data.image_list import ImageList, listed_classes, read_list
from fusion.data.image_options import ImageOptions
from fusion.data.list_files import write_lists
from fusion.data.record_forms import reading_layer
from fusion.data.source_config import SourceConfig
from prototxt.errors import PlacedError
from prototxt.formats.class_folders import first_image
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.sources import listed_image
from prototxt.text.class_names import write_names

_MOST = 100  # files and records of one input


def csv_list(path: Path) -> None:
    """A CSV as a list, whose sound names are those of images: its rows, and the list that is written of it."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name in ("a.png", "b,c.png"):
            Path(folder, name).write_bytes(_PNG)
        named = str(path.rename(Path(folder, "list.csv")))
        for read in (image_list_labels, labels_in_list, listed_classes, lambda csv: names_in_list("ImageData", csv)):
            _if_sound(lambda read=read: read(named))
        _read_as_layer(named, folder + "/")


def idx(path: Path) -> None:
    """MNIST's files: the input as images beside sound labels, and as labels beside sound images."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        images, labels = Path(folder, "train-images-idx3-ubyte"), Path(folder, "train-labels-idx1-ubyte")
        for hostile, sound, content in ((images, labels, _LABELS), (labels, images, _IMAGES)):
            hostile.write_bytes(path.read_bytes())
            sound.write_bytes(content)
            _if_sound(lambda: _read_arrays(str(images)))


def cifar_binary(path: Path) -> None:
    """A binary batch of CIFAR-10 or CIFAR-100."""
    _read_arrays(str(path.rename(path.with_suffix(".bin"))))


def cifar_pickle(path: Path) -> None:
    """A Python batch of CIFAR, and as the file of class names beside a sound one."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        Path(folder, "data_batch_1").write_bytes(path.read_bytes())
        _if_sound(lambda: _read_arrays(str(Path(folder, "data_batch_*"))))
        Path(folder, "test_batch").write_bytes(_batch(b"labels", 1))
        for name in ("batches.meta", "meta"):
            Path(folder, name).write_bytes(path.read_bytes())
            _if_sound(lambda: _read_arrays(str(Path(folder, "test_batch"))))


def cifar_names(path: Path) -> None:
    """The file of class names beside CIFAR's binary batches."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        Path(folder, "batches.meta.txt").write_bytes(path.read_bytes())
        Path(folder, "data_batch_1.bin").write_bytes(b"\1" + bytes(3072))
        _read_arrays(str(Path(folder, "data_batch_1.bin")))


def class_folders(path: Path) -> None:
    """Class folders with a file per line of the input, `path content`, or a link, `path -> target`."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for line in path.read_bytes().split(b"\n")[:_MOST]:
            _make_file(os.fsencode(folder), line)
        _if_sound(lambda: listed_image(folder, ""))
        _if_sound(lambda: read_list(folder) and first_image(folder))
        _read_as_layer(folder)


def class_numbers(path: Path) -> None:
    """A file of class names that numbers class folders, which are named as its lines are, where they can be."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name in (b"cat", b"dog", *path.read_bytes().split(b"\n")[:_MOST]):
            _make_file(os.fsencode(folder), name + b"/1.png image")
        write_lists(folder, [path.with_name("list.txt")], labels=path)


def _make_file(folder: bytes, line: bytes) -> None:
    """Make a file or link that a line describes, unless there cannot be one or it would lie outside of the folder."""
    name, link, target = line.partition(b" -> ")
    if not link:
        name, _, target = line.rpartition(b" ")
    where = os.path.join(folder, name)
    if b".." in name.split(b"/") or name.startswith(b"/") or target.startswith(b"/") or b".." in target.split(b"/")[1:]:
        return
    try:
        os.makedirs(os.path.dirname(where), exist_ok=True)
        if link:
            os.symlink(target, where)
        else:
            with open(where, "xb") as file:
                file.write(_PNG if target == b"image" else target)
    except (OSError, ValueError, RecursionError):  # os.makedirs calls itself for each folder above
        return


def _read_as_layer(source: str, root: str = "") -> None:
    """Write a list as a list again, which is read as the same; then read its records as training does."""
    reading_layer(source)
    images = read_list(source)
    _if_sound(lambda: _write_again(source, images))
    layer = LayerParameter(name="data", type="ImageData", top=["data", "label"])
    layer.image_data_param.source, layer.image_data_param.batch_size = source, 1
    layer.image_data_param.new_height = layer.image_data_param.new_width = 4
    layer.image_data_param.root_folder = root
    opened = open_image_data(SourceConfig(layer, "TRAIN"))
    for index in range(min(len(images.names), _MOST)):
        _if_sound(lambda index=index: opened.batch(np.array([index])))


def _write_again(source: str, images: ImageList) -> None:
    written = Path(f"{source}.again.txt")
    try:
        write_lists(source, [written], labels=f"{source}.names" if images.classes else None)
        again = read_list(written)
        assert again.names == images.names
        assert np.array_equal(again.labels, images.labels)
    finally:
        for path in (written, Path(f"{source}.names")):
            path.unlink(missing_ok=True)


def _read_arrays(path: str) -> None:
    """Read images stored as arrays, name their folders, and convert some."""
    found = read_array_images(path)
    if found is None:
        return
    assert found.pixels.dtype == np.uint8
    assert len(found.pixels) == len(found.labels)
    for name in found.folders:
        assert os.path.basename(name) == name not in ("", ".", "..")
    for encoded in (False, True):
        for number, _ in enumerate(array_records(found, ImageOptions(encoded=encoded))):
            if number == _MOST:
                break


def _if_sound(action: Callable[[], object]) -> None:
    try:
        action()
    except (PlacedError, OSError) as error:
        str(error)


TARGETS: dict[str, Callable[[Path], None]] = {
    "csv_list": csv_list,
    "idx": idx,
    "cifar_binary": cifar_binary,
    "cifar_pickle": cifar_pickle,
    "cifar_names": cifar_names,
    "class_folders": class_folders,
    "class_numbers": class_numbers,
}


# -- seeds: small sound files of each kind ----------------------------------------------------------------------------


def _idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def _batch(key: bytes, count: int, protocol: int = 2) -> bytes:
    pixels = np.full((count, 3072), 7, np.uint8)
    content = {b"data": pixels, key: [3] * count, b"batch_label": b"testing batch", b"filenames": [b"a.png"] * count}
    return pickle.dumps(content, protocol)


_LABELS = _idx(np.array([3, 0], np.uint8))
_IMAGES = _idx(np.full((2, 4, 5), 9, np.uint8))
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)
_FOLDERS = b"""cat/1.png image
cat/summer/2.png image
dog/3.png image
dog/4.jpg damaged
eel/loop -> .
eel/5.png -> ../cat/1.png
eel/6.png -> nowhere
a b/\xff.png image
"""


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Small sound files for each target."""
    write_names(folder / "names.txt", ["cat", "dog", "eel"])
    return {
        "csv_list": [
            b'path,label\na.png,cat\n"b,c.png",dog\n',
            b"a.png,0\r\na.png,1\r\n",
            b"image,x,class\na.png,1,2\n",
        ],
        "idx": [_IMAGES, _LABELS, gzip.compress(_IMAGES, mtime=0), gzip.compress(_LABELS, mtime=0)],
        "cifar_binary": [b"\3" + bytes(3072), b"\1\4" + bytes(3072)],
        "cifar_pickle": [
            *(_batch(key, count, 2 + 2 * count) for key in (b"labels", b"fine_labels") for count in (0, 1)),
            pickle.dumps({"label_names": ["cat", "dog"], "num_vis": 3072}, 2),
            pickle.dumps({b"fine_label_names": [b"cat", b"a/b"], b"data": np.zeros((0, 3072), np.uint8)}, 4),
        ],
        "cifar_names": [b"cat\ndog\n\neel\n"],
        "class_folders": [_FOLDERS, b"0/a.png image\n1/b.png image\n"],
        "class_numbers": [(folder / "names.txt").read_bytes(), b"\xef\xbb\xbfdog\r\ncat\r\n\r\n"],
    }
