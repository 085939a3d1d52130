"""Sources on a database composed on class folders, and sources on lists composed on a database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion import ComposeError
from fusion.composition import Composition, Source, compose
from fusion.data.convert_imageset import write_images
from fusion.data.image_options import ImageOptions
from fusion.errors import DataError
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter

Make = Callable[..., Path]
FOLDERS = {"train_list": "train", "val_list": "val"}


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("train", "val"):
        for number, name in enumerate(("cat", "dog", "fox")):
            Path(path, name).mkdir(parents=True)
            Image.fromarray(np.full((20, 30), number, np.uint8)).save(f"{path}/{name}/1.png")


def on_database(make: Make, name: str = "a", train: str = "train_lmdb", transform: str = "scale: 0.5") -> Path:
    """A net whose layers read databases."""
    path = make(name, image="", transform=transform)
    text = path.read_text().replace("ImageData", "Data").replace("image_data_param", "data_param")
    text = text.replace("shuffle: true", "backend: LMDB").replace("train_all.txt", train)
    path.write_text(text.replace("batch_size: 4", "batch_size: 4 backend: LMDB"))
    return path


def layers(composed: Composition) -> list[LayerParameter]:
    return [layer for layer in load_net(composed.train_val).layer if layer.type in ("Data", "ImageData")]


def test_a_database_is_replaced_by_folders(make: Make) -> None:
    write_images("train", "", "train_lmdb", ImageOptions(size=(8, 9), gray=True))
    composed = compose([Source("a", on_database(make, transform="force_gray: true scale: 0.5"))], **FOLDERS)
    train, val = layers(composed)
    for layer, path in ((train, "train"), (val, "val")):
        assert layer.type == "ImageData"
        assert not layer.HasField("data_param")
        param = layer.image_data_param
        assert (param.source, param.new_height, param.new_width, param.is_color) == (path, 8, 9, False)
        assert (layer.transform_param.scale, layer.transform_param.force_gray) == (0.5, False)
    assert (train.image_data_param.batch_size, val.image_data_param.batch_size) == (8, 4)
    assert (train.image_data_param.shuffle, val.image_data_param.shuffle) == (True, False)
    note = "data: layer 'images' of source 'a' reads images instead of a database: resized to 8x9 without keeping the "
    assert f"{note}aspect, gray" in composed.notes
    assert composed.deploy is not None
    assert "dim: 1 dim: 1 dim: 8 dim: 9" in str(composed.deploy)


def test_sources_on_a_database_and_on_lists_share_a_layer(make: Make) -> None:
    write_images("train", "", "train_lmdb", ImageOptions(size=(8, 8), gray=True))
    composed = compose([Source("a", on_database(make)), Source("b", make("b"))], **FOLDERS)
    assert [layer.image_data_param.source for layer in layers(composed)] == ["train", "val"]


def test_a_share_of_folders_for_a_net_on_a_database(make: Make) -> None:
    write_images("train", "", "train_lmdb", ImageOptions(size=(8, 8), gray=True))
    for name in ("cat", "dog", "fox"):
        Path(f"train/{name}/2.png").write_bytes(Path(f"train/{name}/1.png").read_bytes())
    composed = compose([Source("a", on_database(make))], train_list="train", val_share=0.5)
    assert [layer.image_data_param.source for layer in layers(composed)] == ["train_list.txt", "val_list.txt"]


def test_the_size_is_requested_where_nothing_gives_it(make: Make) -> None:
    source = Source("a", on_database(make, train="gone", transform="crop_size: 5"))
    with pytest.raises(DataError, match=r"gone: layer 'images': the channels of its images are not known"):
        compose([source], **FOLDERS)
    with pytest.raises(DataError, match=r"before the crop of 5x5, such as --resize"):
        compose([source], input_shape=(1, 5, 5), **FOLDERS)
    train, _ = layers(compose([source], input_shape=(1, 5, 5), resize=(7, 6), **FOLDERS))
    assert (train.image_data_param.new_height, train.image_data_param.new_width) == (7, 6)
    with pytest.raises(ComposeError, match="the size of images that replace a database, and none is replaced"):
        compose([Source("a", make("b"))], resize=(7, 6), **FOLDERS)
    with pytest.raises(ComposeError, match="resize is a height and a width, not 7"):
        compose([source], resize=(7,), **FOLDERS)


def test_a_list_is_replaced_by_a_database(make: Make) -> None:
    for path in ("train", "val"):
        write_images(path, "", f"{path}_db", ImageOptions(size=(8, 8), gray=True))
    write_images("val", "", "wide_db", ImageOptions(size=(8, 9), gray=True))
    composed = compose([Source("a", make("a"))], num_output=3, train_list="train_db", val_list="val_db")
    train, val = layers(composed)
    assert [(one.type, one.data_param.source) for one in (train, val)] == [("Data", "train_db"), ("Data", "val_db")]
    assert (train.data_param.backend, train.data_param.batch_size) == (train.data_param.LMDB, 8)
    assert train.transform_param.scale == 0.5
    assert any(note.endswith("in which it was written, without shuffling") for note in composed.notes)
    with pytest.raises(
        DataError, match=r"wide_db: the database holds images of 1x8x9, and layer 'images' makes them 1x8x8"
    ):
        compose([Source("a", make("a"))], num_output=3, train_list="train_db", val_list="wide_db")
