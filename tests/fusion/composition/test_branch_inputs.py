"""What feeds each branch: lists and databases, datasets, and maps of pixel values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import prototxt
from fusion import ComposeError, ComposeWarning, DataError
from fusion.composition import Composition, Source, compose
from fusion.composition.net_text import LayerText, read_net
from fusion.composition.preprocessing import Affine, MeanScale, affine_between
from fusion.nets.build import blobs, build

Make = Callable[..., Path]


def data(composed: Composition) -> list[tuple[str, tuple[str, ...], str | None]]:
    """Name, tops and source of each data layer of phase TRAIN."""
    return [(layer.name, layer.tops, source_of(layer)) for layer in read_net(composed.train_val).layers
            if layer.is_data and "TRAIN" in layer.phases]  # fmt: skip


def source_of(layer: LayerText) -> str | None:
    blocks = [block for name in ("image_data_param", "data_param", "hdf5_data_param")
              for block in layer.message.messages(name)]  # fmt: skip
    return blocks[-1].string("source") if blocks else None


def bottom(composed: Composition, name: str) -> tuple[str, ...]:
    return next(layer.bottoms for layer in read_net(composed.train_val).layers if layer.name == name)


def sources(make: Make, *names: str, **settings: str) -> list[Source]:
    """Sources with lists of their own."""
    return [Source(name, make(name, list=name, **settings)) for name in names]


def write_lists(folder: Path, **labels: str) -> None:
    for name, row in labels.items():
        for phase in ("train", "val"):
            (folder / f"{phase}_{name}.txt").write_text("".join(f"{name}{n}.png {c}\n" for n, c in enumerate(row)))


def test_different_lists_are_asked_for_with_the_choices(make: Make) -> None:
    with pytest.raises(ComposeError, match="the sources read different data") as caught:
        compose(sources(make, "rgb", "depth"), num_output=3)
    message = str(caught.value)
    assert "TRAIN: 'rgb' train_rgb.txt, 'depth' train_depth.txt; TEST: 'rgb' val_rgb.txt" in message
    for choice in ("--train-list FILE --val-list FILE", "--val-list depth=val_depth.txt", "--data-from rgb"):
        assert choice in message


def test_lists_of_the_same_labels_are_kept_in_step(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_lists(tmp_path, rgb="0120", depth="0120")
    composed = compose(sources(make, "rgb", "depth"), num_output=3)
    assert data(composed) == [
        ("images", ("data", "label"), "train_rgb.txt"),
        ("depth/images", ("depth/data", "depth/label"), "train_depth.txt"),
    ]
    assert bottom(composed, "depth/conv") == ("depth/data",)
    assert any("'depth' train_depth.txt is read in step with 'rgb' train_rgb.txt" in note for note in composed.notes)
    with pytest.raises(ComposeError, match="the sources read different data"):  # these may be two halves of six classes
        compose(sources(make, "rgb", "depth"), num_output=6)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [("012", "has 4 records and train_depth.txt 3"), ("0110", "record 3 has the label 2 in train_rgb.txt and 1 in")],
)
def test_named_lists_that_are_not_in_step(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lists(tmp_path, rgb="0120", depth=labels)
    depth = Source("depth", make("depth", list="x"), train_list="train_depth.txt", val_list="val_rgb.txt")
    with pytest.raises(ComposeError, match=reason):
        compose([*sources(make, "rgb"), depth], num_output=3)


def test_a_list_for_one_source_goes_to_that_source_alone(make: Make) -> None:
    first, second = sources(make, "rgb", "depth")
    named = Source("depth", second.prototxt, train_list="d.txt", val_list="e.txt")
    composed = compose([first, named], num_output=3)
    assert [source for *_, source in data(composed)] == ["train_rgb.txt", "d.txt"]
    assert any("whether they have the same labels cannot be compared here" in note for note in composed.notes)
    composed = compose([first, named], num_output=3, train_list="t.txt", val_list="v.txt")
    assert [source for *_, source in data(composed)] == ["t.txt", "d.txt"]


TWIN = """
layer {{ name: "rgb" type: "ImageData" top: "rgb" top: "label" {transform} include {{ phase: TRAIN }}
  image_data_param {{ source: "rgb_tr.txt" batch_size: 8 {size} }} }}
layer {{ name: "rgb" type: "ImageData" top: "rgb" top: "label" {transform} include {{ phase: TEST }}
  image_data_param {{ source: "rgb_va.txt" batch_size: 8 {size} }} }}
layer {{ name: "dep" type: "ImageData" top: "dep" top: "label2" {transform} include {{ phase: TRAIN }}
  image_data_param {{ source: "dep_tr.txt" batch_size: 8 {size} }} }}
layer {{ name: "dep" type: "ImageData" top: "dep" top: "label2" {transform} include {{ phase: TEST }}
  image_data_param {{ source: "dep_va.txt" batch_size: 8 {size} }} }}
layer {{ name: "sil" type: "Silence" bottom: "label2" }}
layer {{ name: "cat" type: "Concat" bottom: "rgb" bottom: "dep" top: "cat" }}
layer {{ name: "conv1" type: "Convolution" bottom: "cat" top: "conv1"
  convolution_param {{ num_output: 4 kernel_size: 3 }} }}
layer {{ name: "fc2" type: "InnerProduct" bottom: "conv1" top: "fc2" inner_product_param {{ num_output: 4 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }}
"""


def twin(folder: Path, name: str, transform: str = "", size: str = "new_height: 8 new_width: 8") -> Path:
    path = folder / f"{name}.prototxt"
    path.write_text(TWIN.format(transform=f"transform_param {{ {transform} }}" if transform else "", size=size))
    return path


def test_each_layer_of_a_source_keeps_its_list(tmp_path: Path) -> None:
    pair = [Source("a", twin(tmp_path, "one")), Source("b", twin(tmp_path, "two", "scale: 0.5"))]
    composed = compose(pair, num_output=4)
    assert [source for *_, source in data(composed)] == ["rgb_tr.txt", "dep_tr.txt"]
    assert bottom(composed, "b/cat") == ("b/rgb_prepared", "b/dep_prepared")
    assert (bottom(composed, "b/rgb_prepared"), bottom(composed, "b/dep_prepared")) == (("rgb",), ("dep",))
    larger = Source("b", twin(tmp_path, "two", "scale: 0.5", "new_height: 9 new_width: 9"))
    composed = compose([pair[0], larger], num_output=4)
    assert data(composed)[2:] == [
        ("b/rgb", ("b/rgb", "b/label"), "rgb_tr.txt"),
        ("b/dep", ("b/dep", "b/label2"), "dep_tr.txt"),
    ]


def test_a_list_for_a_source_of_several_data_layers_needs_the_name_of_one(tmp_path: Path) -> None:
    path = twin(tmp_path, "one")
    with pytest.raises(ComposeError, match=r"several data layers in phase TRAIN.*\n.*--train-list a/rgb=FILE"):
        compose([Source("a", path)], num_output=4, train_list="t.txt")
    with pytest.raises(ComposeError, match="may be for any of them"):
        compose([Source("a", path, train_list="t.txt")], num_output=4)
    composed = compose([Source("a", path, train_list={"dep": "d.txt"})], num_output=4)
    assert [source for *_, source in data(composed)] == ["rgb_tr.txt", "d.txt"]
    composed = compose([Source("a", path, train_list={"label2": "d.txt"})], num_output=4, train_list="t.txt")
    assert [source for *_, source in data(composed)] == ["t.txt", "d.txt"]
    write_lists(tmp_path, one="0123", two="0122")
    swapped = {"rgb": str(tmp_path / "train_one.txt"), "dep": str(tmp_path / "train_two.txt")}
    with pytest.raises(ComposeError, match="the lists of 'a/rgb' and 'a/dep' are not in step in phase TRAIN: record 4"):
        compose([Source("a", path, train_list=swapped)], num_output=4)
    with pytest.raises(ComposeError, match=r"no data layer 'red' in phase TRAIN[\s\S]*a/rgb \(rgb, label\)"):
        compose([Source("a", path, train_list={"red": "d.txt"})], num_output=4)


HDF5 = """
layer {{ name: "data" type: "HDF5Data" top: "{top}" top: "label" hdf5_data_param {{ source: "{list}" batch_size: 8 }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "{top}" top: "conv1"
  convolution_param {{ num_output: 4 kernel_size: 3 }} }}
layer {{ name: "fc2" type: "InnerProduct" bottom: "conv1" top: "fc2" inner_product_param {{ num_output: 4 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }}
"""

IMAGES = """
layer { name: "images" type: "ImageData" top: "left" top: "label"
  image_data_param { source: "images.txt" batch_size: 8 new_height: 8 new_width: 8 } }
layer { name: "conv1" type: "Convolution" bottom: "left" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "fc2" type: "InnerProduct" bottom: "conv1" top: "fc2" inner_product_param { num_output: 4 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }
"""


def hdf5(folder: Path, name: str, top: str, files: str = "h5.txt") -> Path:
    path = folder / f"{name}.prototxt"
    path.write_text(HDF5.format(top=top, list=files))
    return path


def test_the_top_of_hdf5_data_is_the_data(tmp_path: Path) -> None:
    pair = [Source("a", hdf5(tmp_path, "one", "left")), Source("b", hdf5(tmp_path, "two", "right"))]
    composed = compose(pair, num_output=4, input_shape=(3, 8, 8))
    assert data(composed) == [("data", ("left", "label", "right"), "h5.txt")]
    assert (bottom(composed, "a/conv1"), bottom(composed, "b/conv1")) == (("left",), ("right",))
    assert [layer.top[0] for layer in prototxt.load_net(composed.deploy).layer[:2]] == ["left", "right"]
    same = compose([pair[0], Source("b", hdf5(tmp_path, "two", "left"))], num_output=4, input_shape=(3, 8, 8))
    assert data(same) == [("data", ("left", "label"), "h5.txt")]


def test_datasets_of_other_files_are_not_mixed_up(tmp_path: Path) -> None:
    first = Source("a", hdf5(tmp_path, "one", "left"))
    other = Source("b", hdf5(tmp_path, "two", "right", "other.txt"), train_list="p.txt", val_list="q.txt")
    composed = compose([first, other], num_output=4, input_shape=(3, 8, 8))
    assert data(composed) == [("data", ("left", "label"), "h5.txt"), ("b/data", ("right",), "p.txt")]
    alike = Source("b", hdf5(tmp_path, "five", "left", "other.txt"), train_list="p.txt", val_list="q.txt")
    with pytest.raises(ComposeError, match="the dataset 'left' from different HDF5 files"):
        compose([first, alike], num_output=4)
    # Nor where a further source is the one that reads it: as a top of the first's layer, by its own, or beside images.
    shared = Source("c", hdf5(tmp_path, "three", "right"))
    third = Source("d", hdf5(tmp_path, "four", "right", "last.txt"), train_list="r.txt", val_list="s.txt")
    (tmp_path / "images.prototxt").write_text(IMAGES)
    images = Source("e", tmp_path / "images.prototxt", train_list="t.txt", val_list="u.txt")
    for others, blob in (([shared, third], "right"), ([other, third], "right"), ([images, alike], "left")):
        with pytest.raises(ComposeError, match=f"the dataset '{blob}' from different HDF5 files"):
            compose([first, *others], num_output=4, input_shape=(3, 8, 8))


def test_a_further_dataset_is_shared_and_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, *others = (
        Source(name, hdf5(tmp_path, name, top)) for name, top in (("a", "left"), ("b", "right"), ("c", "right"))
    )
    composed = compose([first, *others], num_output=4, input_shape=(3, 8, 8), train_list="t.txt", val_list="v.txt")
    assert data(composed) == [("data", ("left", "label", "right"), "t.txt")]
    assert [bottom(composed, f"{name}/conv1") for name in "abc"] == [("left",), ("right",), ("right",)]
    layers = HDF5.format(top="x", list="").strip().splitlines()[1:-1]
    (tmp_path / "plain.prototxt").write_text("\n".join(['layer { name: "in" type: "Input" top: "x" }', *layers]))
    plain = compose([first, Source("p", tmp_path / "plain.prototxt")], num_output=4, input_shape=(3, 8, 8))
    assert bottom(plain, "p/conv1") == ("left",)
    for name, sets in (("both", ("left", "right", "label")), ("one", ("left", "label"))):
        with h5py.File(f"{name}.h5", "w") as file:
            for key in sets:
                file[key] = np.zeros((4, 3, 8, 8), np.float32) if key != "label" else np.arange(4.0)
        Path(f"{name}.txt").write_text(f"{name}.h5\n")
    both = compose([first, others[0]], num_output=4, train_list="both.txt", val_list="both.txt")
    assert data(both) == [("data", ("left", "label", "right"), "both.txt")]
    with pytest.raises(ComposeError, match=r"'right', which the HDF5 files of one.txt do not have\n.*--val-list b="):
        compose([first, others[0]], num_output=4, train_list="both.txt", val_list="one.txt")


def test_a_database_takes_no_list_and_a_list_no_folder(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "lmdb.prototxt"
    text = make("one", image="").read_text().replace("ImageData", "Data").replace("image_data_param", "data_param")
    path.write_text(text.replace("shuffle: true", ""))
    (tmp_path / "list.txt").write_text("a.png 0\n")
    with pytest.raises(ComposeError, match=r"reads a database, and .* is a list[\s\S]*fusion-convert images"):
        compose([Source("a", path)], num_output=3, train_list="absent.txt", val_list="v_lmdb")
    with pytest.raises(DataError, match=r"channels of its images are not known[\s\S]*fusion-convert images"):
        compose([Source("a", path)], num_output=3, train_list=str(tmp_path / "list.txt"), val_list="v_lmdb")
    assert data(compose([Source("a", path)], num_output=3, train_list="t_lmdb", val_list="v_lmdb"))[0][2] == "t_lmdb"
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").touch()
    with pytest.raises(DataError, match="the database"):
        compose([Source("a", make("two"))], num_output=3, train_list=str(tmp_path / "db"), val_list="v.txt")
    (tmp_path / "files.txt").write_text("a.h5\n")
    with pytest.raises(ComposeError, match=r"reads 'path label' per line, and .* begins 'a.h5"):
        compose([Source("a", make("two"))], num_output=3, train_list=str(tmp_path / "files.txt"), val_list="v.txt")
    files = hdf5(tmp_path, "h", "left")
    with pytest.raises(ComposeError, match=r"of type 'HDF5Data' reads a list, and .* is a folder"):
        compose([Source("a", files)], num_output=3, train_list=str(tmp_path), val_list="v.txt")
    with pytest.raises(ComposeError, match="reads one HDF5 file per line, and"):
        compose([Source("a", files)], num_output=3, train_list=str(tmp_path / "list.txt"), val_list="v.txt")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("scale: 0.5", "scale: 2"),
        ("mean_value: 128 scale: 0.00390625", "mean_value: 100"),
        ("mean_value: 104 mean_value: 117 mean_value: 123", "mean_value: 110 scale: 0.017"),
        ("mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.1", "mean_value: 1 mean_value: 2 mean_value: 3"),
        ('mean_file: "m" scale: 0.1', 'mean_file: "m"'),
        ("", "scale: 0.5 mirror: false crop_size: 0"),
    ],
)
def test_another_mean_or_scale_is_made_by_layers_from_one_data_layer(make: Make, given: str, wanted: str) -> None:
    image = "new_height: 8 new_width: 8"
    pair = [
        Source("a", make("one", transform=given, image=image)),
        Source("b", make("two", transform=wanted, image=image)),
    ]
    composed = compose(pair, num_output=3)
    assert len(data(composed)) == 1
    assert composed.deploy is not None
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.float32)
    net = build(composed.deploy, shapes={"data": (2, 3, 8, 8)})
    found = blobs(net, {"data": torch.from_numpy(prepared(pixels, given))})
    torch.testing.assert_close(found["b/data_prepared"].numpy(), prepared(pixels, wanted), rtol=1e-5, atol=1e-4)


def prepared(pixels: np.ndarray, transform: str) -> np.ndarray:
    param = prototxt.load_net(prototxt.parse(f'layer {{ type: "ImageData" transform_param {{ {transform} }} }}'))
    block = param.layer[0].transform_param
    mean = np.array(block.mean_value or [7.0 if block.mean_file else 0.0], np.float32).reshape(-1, 1, 1)
    return np.asarray((pixels - mean) * np.float32(block.scale))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('mean_file: "m"', 'mean_file: "n"'),
        ('mean_file: "m"', "mean_value: 3"),
        ("scale: 0.5", "scale: 0.5 crop_size: 6"),
        ("scale: 0", "scale: 1"),
    ],
)
def test_what_no_layer_can_make_is_read_again(make: Make, one: str, other: str) -> None:
    pair = [Source("a", make("one", transform=one)), Source("b", make("two", transform=other))]
    assert [name for name, *_ in data(compose(pair, num_output=3))] == ["images", "b/images"]


def test_means_of_other_numbers_of_channels_have_no_map() -> None:
    assert affine_between(MeanScale((1.0, 2.0)), MeanScale((1.0, 2.0, 3.0))) is None
    assert affine_between(MeanScale((4.0,), 0.5), MeanScale((1.0, 2.0), 2.0)) == Affine((4.0, 4.0), (6.0, 4.0))


def test_a_list_without_all_classes_is_told(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_lists(tmp_path, all="0120")
    with pytest.warns(ComposeWarning, match=r"train_all.txt holds 3 of the 10 classes \(0, 1, 2\)"):
        compose([Source("a", make("one"))], num_output=10)
    compose([Source("a", make("one"))], num_output=3)


def test_a_source_whose_own_layers_are_in_step(tmp_path: Path) -> None:
    pair = twin(tmp_path, "one", "mirror: true")
    text = pair.read_text().replace('top: "dep" top: "label2"', 'top: "dep" top: "label2" in_step_with: "rgb"')
    pair.write_text(text)
    larger = tmp_path / "two.prototxt"
    larger.write_text(text.replace("new_height: 8 new_width: 8", "new_height: 9 new_width: 9"))
    composed = compose([Source("a", pair), Source("b", larger)], num_output=4)
    layers = [layer for layer in prototxt.load_net(composed.train_val).layer if layer.type == "ImageData"]
    assert [(layer.name, layer.in_step_with) for layer in layers[::2]] == [
        ("rgb", ""), ("dep", "rgb"), ("b/rgb", "rgb"), ("b/dep", "rgb"),
    ]  # fmt: skip


PYTHON = """
layer {{ name: "data" type: "Python" top: "data" top: "label"
  python_param {{ module: "m" layer: "L" param_str: "{}" }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 4 kernel_size: 3 }} }}
layer {{ name: "fc2" type: "InnerProduct" bottom: "conv1" top: "fc2" inner_product_param {{ num_output: 4 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }}
"""


def test_python_layers_are_one_only_if_they_are_told_the_same(tmp_path: Path) -> None:
    for name, words in (("one", "split: train"), ("two", "split: train"), ("three", "split: other")):
        (tmp_path / f"{name}.prototxt").write_text(PYTHON.format(words))
    first, second, third = (Source(n[0] + n[1], tmp_path / f"{n}.prototxt") for n in ("one", "two", "three"))
    composed = compose([first, second], num_output=4, input_shape=(3, 8, 8))
    assert [name for name, *_ in data(composed)] == ["data"]
    with pytest.raises(ComposeError, match="a layer of type 'Python' cannot be held in step with others"):
        compose([first, third], num_output=4, input_shape=(3, 8, 8))


def test_no_layer_stands_in_step_beside_one_whose_records_have_no_order(make: Make, tmp_path: Path) -> None:
    (tmp_path / "python.prototxt").write_text(PYTHON.format("split: train"))
    python, listed = Source("py", tmp_path / "python.prototxt"), Source("rgb", make("rgb", list="rgb"))
    for pair in ([python, listed], [listed, python]):
        with pytest.raises(ComposeError, match="a layer of type 'Python' cannot be held in step with others"):
            compose(pair, num_output=3)


def test_a_dataset_that_is_called_as_pictures_are_is_read_first(make: Make, tmp_path: Path) -> None:
    (tmp_path / "sets.prototxt").write_text(
        'layer { name: "data" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "h5" batch_size: 2 }}'
        'layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" '
        "convolution_param { num_output: 4 kernel_size: 3 } }"
        'layer { name: "ip2" type: "InnerProduct" bottom: "conv1" top: "ip2" inner_product_param { num_output: 3 } }'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }'
    )
    sets = Source("sets", tmp_path / "sets.prototxt")
    with pytest.raises(
        ComposeError, match="whose blob must have this name, and 'rgb' calls another one 'data'"
    ) as caught:
        compose([Source("rgb", make("rgb", list="rgb")), sets], num_output=3, input_shape=(3, 8, 8))
    assert "--data-from sets --train-list rgb=FILE --val-list rgb=FILE" in str(caught.value)
    named = Source("rgb", make("rgb", list="rgb"), train_list="train.txt", val_list="val.txt")
    composed = compose([named, sets], num_output=3, data_from="sets", input_shape=(3, 8, 8))
    assert data(composed) == [("data", ("data", "label"), "h5"), ("rgb/images", ("rgb/data", "rgb/label"), "train.txt")]
