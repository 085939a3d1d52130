"""Folders of class folders as lists: their records, the errors of unfit folders, and classes that differ."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.data import open_source
from fusion.data.class_order import sorted_classes_warning
from fusion.data.image_list import read_list
from fusion.data.net_classes import classes_of_nets, common_classes
from fusion.errors import DataError
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.sources import listed_image
from prototxt.text.parser import parse

Folders = Callable[..., None]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """Work in a new folder, and return a function that writes images of a class's gray value, 20 times its number."""
    monkeypatch.chdir(tmp_path)

    def write(path: str, **counts: int) -> None:
        for number, (name, count) in enumerate(counts.items()):
            Path(path, name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(np.full((4, 6), 20 * number + index, np.uint8)).save(f"{path}/{name}/{index}.png")

    return write


def layer(path: str = "train", **fields: object) -> LayerParameter:
    made = LayerParameter(name="data", type="ImageData", top=["data", "label"])
    made.image_data_param.source = path
    made.image_data_param.is_color = False
    for name, value in fields.items():
        setattr(made.image_data_param, name, value)
    return made


def test_records_are_those_of_the_list_that_the_folder_stands_for(folders: Folders) -> None:
    folders("train", cat=2, dog=1, fox=2)
    paths = ["train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/fox/0.png", "train/fox/1.png"]
    for spelling in ("train", "train/"):
        images = read_list(spelling)
        assert images.names == tuple(paths)
        assert images.labels.tolist() == [0, 0, 1, 2, 2]
        assert images.classes == ("cat", "dog", "fox")
    assert images.place(2) == "train/dog/0.png"
    source = open_source(layer(batch_size=5), "TEST")
    assert list(source.keys) == paths
    assert source.batch(np.arange(5))["data"][:, 0, 0, 0].tolist() == [0, 1, 20, 40, 41]
    assert listed_image("train", "") == (4, 6)


def test_shuffling_is_that_of_a_list_and_its_absence_is_warned_of(folders: Folders) -> None:
    folders("train", cat=30, dog=30)
    images = read_list("train")
    Path("list.txt").write_text("".join(f"{n} {i}\n" for n, i in zip(images.names, images.labels, strict=True)))
    orders = [
        np.concatenate([*islice(open_source(layer(path, batch_size=8, shuffle=True), "TRAIN", seed=5).order(), 10)])
        for path in ("train", "list.txt")
    ]
    assert orders[0].tolist() == orders[1].tolist() != list(range(60)) + list(range(20))
    assert sorted_classes_warning(open_source(layer(batch_size=8, shuffle=True), "TRAIN")) is None
    assert "runs of one class" in str(sorted_classes_warning(open_source(layer(batch_size=8), "TRAIN")))


def test_the_hash_changes_with_names_sizes_and_classes(folders: Folders) -> None:
    folders("train", cat=2, dog=2)
    hashes = [open_source(layer(), "TEST").fingerprint()]

    def changed() -> None:
        hashes.append(open_source(layer(), "TEST").fingerprint())
        assert len(set(hashes)) == len(hashes)

    Path("train/cat/0.png").rename("train/cat/9.png")
    changed()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save("train/dog/0.png")
    changed()
    Path("train/dog").rename("train/ant")
    changed()
    Path("train/cat/new.png").write_bytes(Path("train/cat/9.png").read_bytes())
    changed()
    (Path("train") / "notes.txt").touch()
    assert open_source(layer(), "TEST").fingerprint() == hashes[-1]


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda: os.mkdir("d"), "d: this folder has no class folders", "d/cat/1.jpg"),
        (lambda: [os.mkdir("d"), Path("d/1.jpg").touch()], "has images, and no class folders", "'path label' lines"),
        (lambda: [os.makedirs(f"d/{n}") for n in ("cat", "dog")], "d/cat: the class 'cat' has no image", ".webp"),
        (lambda: [os.makedirs("d/cat"), Path("d/cat/1.jpg").touch()], "only one class folder, 'cat'", "give d/cat"),
        (lambda: [os.makedirs(f"d/{n}/cat") for n in ("train", "val")], "its folders are train, val", "them: d/train"),
        (lambda: [os.mkdir("d"), Path("d/data.mdb").touch()], "this is a database", "a Data layer"),
    ],
)  # fmt: skip
def test_unfit_folders(make: Callable[[], object], message: str, hint: str, folders: Folders) -> None:
    make()
    with pytest.raises(DataError) as caught:
        read_list("d")
    assert message in str(caught.value)
    assert hint in str(caught.value)


def test_images_beside_class_folders_and_empty_classes_are_reported_together(folders: Folders) -> None:
    folders("d", cat=1, dog=0, fox=0)
    Path("d/stray.png").touch()
    with pytest.raises(DataError) as caught:
        read_list("d")
    assert [error.place for error in caught.value.errors] == ["d/stray.png", "d/dog", "d/fox"]


def test_a_root_folder_goes_with_lists(folders: Folders) -> None:
    folders("train", cat=1, dog=1)
    with pytest.raises(DataError, match="root_folder is for lists"):
        open_source(layer(root_folder="train/"), "TEST")
    Path("list.csv").write_text("path,class\ncat/0.png,cat\ndog/0.png,dog\n")  # a list, though it names its classes
    assert open_source(layer("list.csv", root_folder="train/"), "TEST").keys == ("cat/0.png", "dog/0.png")


def test_classes_that_differ_are_never_matched_by_place() -> None:
    cat_dog, cat_fox = ("a/", ("cat", "dog")), ("b/", ("cat", "fox"))
    assert common_classes([]) == ()
    assert common_classes([cat_dog, ("c/", ("cat", "dog"))], ("cat", "dog")) == ("cat", "dog")
    with pytest.raises(DataError, match=r"b/: .*of a/: only b/ has 'fox'; only a/ has 'dog'"):
        common_classes([cat_dog, cat_fox])
    with pytest.raises(DataError, match=r"only the net's class names has 'eel'"):
        common_classes([cat_dog], ("cat", "dog", "eel"))
    with pytest.raises(DataError, match=r"the same in another order: 'cat' is class 1 there"):
        common_classes([cat_dog], ("dog", "cat"))
    for more in (20, 21):
        names = ("cat", "dog", *map(str, range(10, 10 + more)))
        with pytest.raises(DataError) as error:
            common_classes([cat_dog], names)
        assert (" more" in str(error.value)) is (more == 21)
    # Other words for as many classes are a translation by number; a single common word shows that they are not.
    assert common_classes([cat_dog], ("Katze", "Hund")) == ("cat", "dog")
    with pytest.raises(DataError, match="'Hund'"):
        common_classes([cat_dog], ("cat", "Hund"))
    with pytest.raises(DataError, match="'Hund'"):
        common_classes([cat_dog], ("Katze", "Hund", "Fuchs"))


def test_the_classes_of_nets_are_those_of_folders_that_exist(folders: Folders) -> None:
    folders("train", cat=1, dog=1)
    folders("val", cat=1, eel=1)
    text = 'layer {{ name: "d" type: "ImageData" top: "d" top: "l" image_data_param {{ source: "{}" batch_size: 1 }} }}'
    train, val, absent = (load_net(parse(text.format(path))) for path in ("train", "val/", "test"))
    assert classes_of_nets([train, absent]) == ("cat", "dog")
    assert classes_of_nets([absent]) == ()
    with pytest.raises(DataError, match="only train has 'dog'"):
        classes_of_nets([train, val])
