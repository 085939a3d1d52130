"""Class folders instead of lists: shuffled for training, with the classes' names, and the sources' classes by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion import ComposeError
from fusion.composition import Composition, Source, compose
from fusion.errors import DataError
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.text.class_names import ClassNames, class_names_of

Make = Callable[..., Path]
FOLDERS = {"train_list": "photos/train", "val_list": "photos/val/"}


def write(path: str, classes: Sequence[str], count: int = 2) -> None:
    for number, name in enumerate(classes):
        Path(path, name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(np.full((8, 9, 3), number, np.uint8)).save(f"{path}/{name}/{index}.png")


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("photos/train", ("cat", "dog", "fox"), 3)
    write("photos/val", ("cat", "dog", "fox"))


def data(composed: Composition, phase: str) -> list[LayerParameter]:
    layers = [layer for layer in load_net(composed.train_val).layer if layer.type == "ImageData"]
    return [layer for layer in layers if f"phase: {phase}" in str(layer.include)]


def trained_on(path: Path, folder: str) -> Path:
    """A net whose own training data is a folder."""
    path.write_text(path.read_text().replace('source: "train_all.txt"', f'source: "{folder}"'))
    return path


def test_the_layers_read_the_folders_and_training_is_shuffled(make: Make) -> None:
    path = make("a")
    path.write_text(path.read_text().replace("shuffle: true", 'root_folder: "images/"'))
    composed = compose([Source("a", path)], **FOLDERS)  # num_output is the number of folders
    (train,), (val,) = data(composed, "TRAIN"), data(composed, "TEST")
    assert (train.image_data_param.source, val.image_data_param.source) == ("photos/train", "photos/val/")
    assert (train.image_data_param.shuffle, val.image_data_param.shuffle) == (True, False)
    assert not train.image_data_param.root_folder
    assert not val.image_data_param.root_folder
    assert "data: the 3 classes are the folders of photos/train: 0 cat, 1 dog, 2 fox" in composed.notes
    assert class_names_of(composed.train_val) == ClassNames(("cat", "dog", "fox"))
    widths = {layer.name: layer.inner_product_param.num_output for layer in load_net(composed.train_val).layer}
    assert widths["classes"] == 3
    assert "test_iter: 2" in str(composed.solver)  # six images, four at a time


def test_one_layer_for_both_phases_becomes_two(make: Make) -> None:
    path = make("a")
    text = path.read_text().replace("include { phase: TRAIN }", "", 1)
    first, rest = text.split("layer {", 2)[1:]
    path.write_text("layer {" + first + "layer {" + rest.split("layer {", 1)[1])
    composed = compose([Source("a", path)], train_list="photos/train", val_list="photos/train")
    shuffled = [one.image_data_param.shuffle for phase in ("TRAIN", "TEST") for one in data(composed, phase)]
    assert shuffled == [True, True]  # the layer's own shuffle stays
    path.write_text(path.read_text().replace("shuffle: true", ""))
    composed = compose([Source("a", path)], train_list="photos/train", val_list="photos/train")
    shuffled = [one.image_data_param.shuffle for phase in ("TRAIN", "TEST") for one in data(composed, phase)]
    assert shuffled == [True, False]


def test_a_second_layer_follows_the_shuffled_one(make: Make) -> None:
    one, two = make("a"), make("b", transform="crop_size: 4")
    for path in (one, two):
        path.write_text(path.read_text().replace("shuffle: true", ""))
    composed = compose([Source("a", one), Source("b", two)], **FOLDERS)
    first, second = data(composed, "TRAIN")
    assert first.image_data_param.shuffle
    assert not second.image_data_param.shuffle
    assert second.in_step_with == "data"
    assert not data(composed, "TEST")[1].in_step_with


def test_layers_of_one_source_stay_in_step(tmp_path: Path) -> None:
    write("depth/train", ("cat", "dog", "fox"), 3)
    layers = "".join(
        f'layer {{ name: "{name}" type: "ImageData" top: "{name}" top: "{label}" include {{ phase: {phase} }} '
        f'image_data_param {{ source: "{phase}_{name}.txt" batch_size: 3 new_height: 8 new_width: 8 }} }}\n'
        for phase in ("TRAIN", "TEST")
        for name, label in (("rgb", "label"), ("depth", "again"))
    )
    end = """layer { name: "cat" type: "Concat" bottom: "rgb" bottom: "depth" top: "cat" }
    layer { name: "quiet" type: "Silence" bottom: "again" }
    layer { name: "ip" type: "InnerProduct" bottom: "cat" top: "ip" inner_product_param { num_output: 3 } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    Path("net.prototxt").write_text(layers + end)
    lists = {"rgb": "photos/train", "depth": "depth/train"}
    composed = compose([Source("a", "net.prototxt", at="cat", train_list=lists)], num_output=3)
    rgb, depth = data(composed, "TRAIN")
    assert (rgb.image_data_param.shuffle, rgb.in_step_with) == (True, "")
    assert (depth.image_data_param.shuffle, depth.in_step_with) == (False, "rgb")


def test_sources_without_data_layers_get_shuffled_ones_in_step(tmp_path: Path) -> None:
    for name, size in (("one", 8), ("two", 6)):
        Path(f"{name}.prototxt").write_text(
            f'name: "{name}" input: "data" input_shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }}\n'
            'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }'
        )
    nets = [Source(name, f"{name}.prototxt", at="ip") for name in ("one", "two")]
    composed = compose(nets, **FOLDERS)
    first, second = data(composed, "TRAIN")
    assert (first.image_data_param.shuffle, first.in_step_with) == (True, "")
    assert (second.image_data_param.shuffle, second.in_step_with) == (False, "data")
    assert not any(layer.image_data_param.shuffle or layer.in_step_with for layer in data(composed, "TEST"))
    assert composed.deploy is not None


def test_folders_of_other_classes_are_refused(make: Make) -> None:
    write("other", ("cat", "dog", "eel"))
    with pytest.raises(DataError, match=r"other: .*only other has 'eel'; only photos/train has 'fox'"):
        compose([Source("a", make("a"))], train_list="photos/train", val_list="other")
    with pytest.raises(ComposeError, match="num_output is 4, and there are 3 classes: 0 cat, 1 dog, 2 fox"):
        compose([Source("a", make("a"))], num_output=4, **FOLDERS)
    with pytest.raises(DataError, match="'eel'"):
        compose([Source("a", make("a"))], labels=("cat", "dog", "eel"), **FOLDERS)
    Path("photos/train/stray.png").touch()
    with pytest.raises(DataError, match="stray"):
        compose([Source("a", make("a"))], **FOLDERS)


def test_a_list_beside_a_folder_is_noted(make: Make) -> None:
    given = {"train_list": "photos/train", "val_list": "val.txt"}
    note = "data: the labels in val.txt must be these numbers, which cannot be compared here"
    assert note in compose([Source("a", make("a"))], **given).notes
    composed = compose([Source("a", make("a"))], labels=("Katze", "Hund", "Fuchs"), **given)
    assert note not in composed.notes
    assert class_names_of(composed.train_val).names == ("Katze", "Hund", "Fuchs")


def test_numbers_as_names_are_noted_where_they_are_not_the_classes(make: Make) -> None:
    write("digits", ("1", "2", "10"))
    composed = compose([Source("a", make("a"))], train_list="digits", val_list="digits")
    assert "data: classes are numbered in the order of their names as text: '1' is class 0" in composed.notes
    write("right", ("0", "1", "2"))
    assert "as text" not in str(compose([Source("a", make("a"))], train_list="right", val_list="right").notes)


def test_the_classes_of_sources_by_name(make: Make) -> None:
    sources = [
        Source("a", make("a", outputs=2), at="fc", classes=("fox", "cat")),
        Source("b", make("b", outputs=2), at="fc", classes=(1, "fox")),
    ]
    composed = compose(sources, references=True, **FOLDERS)
    assert class_names_of(composed.train_val).numbers == {"a": (2, 0), "b": (1, 2)}
    assert "reference: 'a/classes' scores classes 2,0" in composed.notes
    with pytest.raises(ComposeError, match="source 'a': the fused net has no class 'fix'") as caught:
        compose([Source("a", make("a", outputs=2), classes=("cat", "fix"))], references=True, **FOLDERS)
    assert "did you mean 'fox'" in str(caught.value)
    with pytest.raises(ComposeError, match="by name, and the fused classes have none"):
        compose([Source("a", make("a", outputs=2), classes=("cat", "fox"))], num_output=3, references=True)
    by_label = compose([Source("a", make("a"), classes=("C", "A"))], labels=("A", "B", "C"), num_output=3)
    assert class_names_of(by_label.train_val).numbers == {"a": (2, 0)}


def test_the_classes_of_sources_by_their_own_folders(make: Make) -> None:
    write("own", ("dog", "fox"))
    source = Source("a", trained_on(make("a", outputs=2), "own"), at="fc")
    composed = compose([source], references=True, **FOLDERS)
    assert class_names_of(composed.train_val).numbers == {"a": (1, 2)}
    write("same", ("cat", "dog", "fox"))
    composed = compose([Source("a", trained_on(make("a"), "same"), at="fc")], references=True, **FOLDERS)
    assert class_names_of(composed.train_val).numbers == {}
    # As many scores as the fused net has classes would pass for its classes by their place.
    write("foreign", ("cat", "dog", "eel"))
    foreign = Source("a", trained_on(make("a"), "foreign"), at="fc")
    with pytest.raises(ComposeError, match=r"class folders that the fused net has not: 0 eel[\s\S]*--classes a="):
        compose([foreign], references=True, **FOLDERS)
    assert class_names_of(compose([foreign], **FOLDERS).train_val).numbers == {}


def lists_of(composed: Composition, folder: Path) -> dict[str, list[str]]:
    composed.write(folder)
    return {path.name: path.read_text().splitlines() for path in folder.glob("*.txt")}


def test_a_share_is_kept_back(make: Make) -> None:
    write("many", ("cat", "dog"), 10)
    composed = compose([Source("a", make("a"))], train_list="many", val_share=0.2)
    assert (
        "data: 4 of the 20 records of many are kept back for validation, 0.2 of each class: val_list.txt"
        in composed.notes
    )
    found = lists_of(composed, Path("out/fused"))
    assert sorted(found) == ["train_list.txt", "val_list.txt"]
    assert [line.split()[1] for line in found["val_list.txt"]] == ["0", "0", "1", "1"]
    assert sorted(found["train_list.txt"] + found["val_list.txt"]) == [
        f"many/{name}/{index}.png {label}" for label, name in enumerate(("cat", "dog")) for index in range(10)
    ]
    net = load_net("out/fused/train_val.prototxt")
    layers = {layer.image_data_param.source: layer for layer in net.layer if layer.type == "ImageData"}
    train, val = layers["out/fused/train_list.txt"], layers["out/fused/val_list.txt"]
    assert (train.image_data_param.shuffle, val.image_data_param.shuffle) == (True, False)
    assert "phase: TRAIN" in str(train.include)
    assert "phase: TEST" in str(val.include)
    assert class_names_of(composed.train_val).names == ("cat", "dog")
    assert "test_iter: 1\n" in str(composed.solver)  # four records, four at a time
    assert composed.deploy is not None


def test_a_share_of_lists_in_step_is_of_the_same_records(make: Make) -> None:
    for name in ("one", "two"):
        Path(f"{name}.txt").write_text("".join(f"{name}/{index}.png {index % 2}\n" for index in range(20)))
    nets = [Source(name, make(name, outputs=2), train_list=f"{name}.txt") for name in ("one", "two")]
    found = lists_of(compose(nets, num_output=2, val_share=0.3), Path("out"))
    assert len(found["val_list.txt"]) == 6
    for first in ("val_list", "train_list"):
        assert [line.replace("one", "two") for line in found[f"{first}.txt"]] == found[f"{first}_2.txt"]
    lines = Path("two.txt").read_text().splitlines(keepends=True)
    Path("two.txt").write_text("".join(["two/2.png 0\n", *lines[1:]]))  # the first record's image comes twice
    with pytest.raises(ComposeError, match=r"two.txt cannot be split as one.txt is"):
        compose(nets, num_output=2, val_share=0.3)


def test_one_layer_for_both_phases_is_divided_too(make: Make) -> None:
    path = make("a")
    first, _, rest = path.read_text().split("layer {", 3)[1:]
    path.write_text("layer {" + first.replace("include { phase: TRAIN }", "") + "layer {" + rest)
    Path("list.txt").write_text("".join(f"{index}.png {index % 3}\n" for index in range(30)))
    found = lists_of(compose([Source("a", path)], num_output=3, train_list="list.txt", val_share=0.1), Path("out"))
    assert (len(found["train_list.txt"]), len(found["val_list.txt"])) == (27, 3)


def test_shares_that_are_refused(make: Make) -> None:
    one = Source("a", make("a"))
    with pytest.raises(ComposeError, match="exclude each other"):
        compose([one], **FOLDERS, val_share=0.1)
    with pytest.raises(ComposeError, match=r"no list is given[\s\S]*--train-list"):
        compose([one], num_output=3, val_share=0.1)
    with pytest.raises(DataError, match="cannot read the image list"):
        compose([one], num_output=3, train_list="absent.txt", val_share=0.1)
    with pytest.raises(DataError, match="leaves none"):
        compose([one], train_list="photos/train", val_share=1.5)
    path = Path("lmdb.prototxt")
    text = make("one", image="").read_text().replace("ImageData", "Data").replace("image_data_param", "data_param")
    path.write_text(text.replace("shuffle: true", ""))
    with pytest.raises(ComposeError, match="layer 'images' of type Data reads none"):
        compose([Source("a", path)], num_output=3, train_list="t_lmdb", val_share=0.1)
