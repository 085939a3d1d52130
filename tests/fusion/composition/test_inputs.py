from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import prototxt
from fusion import ComposeError
from fusion.composition import Source, compose
from fusion.composition.net_text import read_net

Make = Callable[..., Path]


def data_layers(document: prototxt.Document) -> list[tuple[str, tuple[str, ...], str | None, str | None]]:
    found = []
    for layer in read_net(document).layers:
        if layer.type == "ImageData":
            block = layer.message.messages("image_data_param")[0]
            found.append((layer.name, layer.tops, block.string("source"), block.string("shuffle")))
    return found


def test_sources_that_read_and_prepare_alike_share_one_data_layer(make: Make) -> None:
    sources = [Source("a", make("one"), at="fc"), Source("b", make("two"), at="fc")]
    composed = compose(sources, num_output=3)
    assert data_layers(composed.train_val) == [
        ("images", ("data", "label"), "train_all.txt", "true"),
        ("images", ("data", "label"), "val_all.txt", None),
    ]


def test_data_from_another_source_and_given_lists(make: Make) -> None:
    sources = [Source("a", make("one", list="one"), at="fc"), Source("b", make("two", list="two"), at="fc")]
    assert data_layers(compose(sources, num_output=3, data_from="b").train_val) == [
        ("images", ("data", "label"), "train_two.txt", "true"),
        ("images", ("data", "label"), "val_two.txt", None),
    ]
    composed = compose(sources, num_output=3, train_list="t.txt", val_list="v.txt", train_batch=32, test_batch=16)
    net = prototxt.load_net(composed.train_val)
    assert [(x.image_data_param.source, x.image_data_param.batch_size) for x in net.layer[:2]] == [
        ("t.txt", 32),
        ("v.txt", 16),
    ]
    assert len(data_layers(composed.train_val)) == 2


def test_a_branch_of_another_size_gets_its_own_data_in_step(make: Make) -> None:
    other = make("two", transform="mean_value: 10", image="is_color: true new_height: 9 new_width: 9")
    composed = compose([Source("a", make("one"), at="fc"), Source("b", other, at="fc")], num_output=3)
    assert data_layers(composed.train_val) == [
        ("images", ("data", "label"), "train_all.txt", "true"),
        ("images", ("data", "label"), "val_all.txt", None),
        ("b/images", ("b/data", "b/label"), "train_all.txt", "false"),
        ("b/images", ("b/data", "b/label"), "val_all.txt", None),
    ]
    layers = prototxt.load_net(composed.train_val).layer[:4]
    assert [layer.image_data_param.batch_size for layer in layers] == [8, 4, 8, 4]
    assert [layer.in_step_with for layer in layers] == ["", "", "data", ""]  # only in TRAIN is anything drawn
    net = prototxt.filter_net(prototxt.load_net(composed.train_val), phase="TRAIN")
    shapes = prototxt.infer_shapes(net)
    assert (shapes["data"][1:], shapes["b/data"][1:]) == ((1, 8, 8), (3, 9, 9))
    assert next(layer for layer in net.layer if layer.name == "b/conv").bottom == ["b/data"]
    assert [layer.type for layer in prototxt.load_net(composed.deploy).layer[:2]] == ["Input", "Input"]
    assert any("Caffe does not know it" in note for note in composed.notes)


def test_spelling_of_a_transform_does_not_matter(make: Make) -> None:
    other = make("two", transform="scale: 5e-1")
    composed = compose([Source("a", make("one"), at="fc"), Source("b", other, at="fc")], num_output=3)
    assert len(data_layers(composed.train_val)) == 2


def test_inputs_of_other_names_are_led_to_the_shared_blob(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "renamed.prototxt"
    path.write_text(make("two").read_text().replace('"data"', '"pictures"'))
    composed = compose([Source("a", make("one"), at="fc"), Source("b", path, at="fc")], num_output=3)
    conv = next(layer for layer in read_net(composed.train_val).layers if layer.name == "b/conv")
    assert conv.bottoms == ("data",)


def test_lists_of_another_kind_are_refused_for_a_separate_branch(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "lmdb.prototxt"
    text = make("two", transform="mean_value: 10").read_text().replace("ImageData", "Data").replace("shuffle: true", "")
    path.write_text(
        text.replace("image_data_param", "data_param").replace("is_color: false new_height: 8 new_width: 8", "")
    )
    with pytest.raises(ComposeError, match="the sources read different data"):
        compose([Source("a", make("one"), at="fc"), Source("b", path, at="fc")], num_output=3)


DEPLOY = (
    'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 1 dim: 1 dim: {size} dim: {size} }} }} }}\n'
    'layer {{ name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param {{ num_output: 2 }} }}\n'
)


def deploy(tmp_path: Path, size: int) -> Path:
    path = tmp_path / f"deploy_{size}.prototxt"
    path.write_text(DEPLOY.format(size=size))
    return path


def test_a_source_without_data_needs_lists(tmp_path: Path) -> None:
    source = Source("a", deploy(tmp_path, 4), at="fc")
    with pytest.raises(ComposeError, match="no source has a data layer"):
        compose([source], num_output=2)
    composed = compose([source], num_output=2, train_list="t", val_list="v")
    layer = read_net(composed.train_val).layers[0]
    assert (layer.type, layer.tops) == ("ImageData", ("data", "label"))
    assert layer.message.messages("image_data_param")[0].string("is_color") == "false"


def test_sources_without_data_and_of_two_sizes_get_a_data_layer_each(tmp_path: Path) -> None:
    sources = [Source(prefix, deploy(tmp_path, size), at="fc") for prefix, size in (("a", 4), ("b", 6), ("c", 6))]
    composed = compose(sources, num_output=2, train_list="t", val_list="v")
    assert [tops for _, tops, _, _ in data_layers(composed.train_val)] == [
        *([("data", "label")] * 2),
        *([("b/data", "b/data_label")] * 2),
    ]
    shapes = prototxt.infer_shapes(prototxt.load_net(composed.deploy))
    assert (shapes["data"], shapes["b/data"], shapes["prob"]) == ((1, 1, 4, 4), (1, 1, 6, 6), (1, 2))


def test_a_source_of_another_size_and_no_data_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match=r"takes images of 1x4x4, but the data of 'a' has 1x8x8"):
        compose([Source("a", make("one"), at="fc"), Source("b", deploy(tmp_path, 4), at="fc")], num_output=2)


def test_a_data_layer_of_both_phases_is_split_for_two_lists(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "both.prototxt"
    first, _, rest = make("one").read_text().partition("layer {\n")
    data, _, body = rest.partition("layer {\n")[2].partition("\n\n# edges")
    data = "layer {\n" + data.replace("  include { phase: TEST }\n", "")
    path.write_text(f"{first}{data}\n\n# edges{body}")
    assert len(data_layers(compose([Source("a", path, at="fc")], num_output=2).train_val)) == 1
    composed = compose([Source("a", path, at="fc")], num_output=2, train_list="t", val_list="v")
    assert [source for _, _, source, _ in data_layers(composed.train_val)] == ["t", "v"]
    assert [layer.phases for layer in read_net(composed.train_val).layers[:2]] == [("TRAIN",), ("TEST",)]


PYTHON_DATA = """
layer { name: "data" type: "Python" top: "data" top: "label"
  python_param { module: "voc_layers" layer: "VOCSegDataLayer" param_str: "{}" } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "score" type: "InnerProduct" bottom: "conv1" top: "score" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""


def test_a_python_layer_without_bottoms_is_data(tmp_path: Path) -> None:
    path = tmp_path / "python.prototxt"
    path.write_text(PYTHON_DATA)
    composed = compose([Source("a", path), Source("b", path)], num_output=3, input_shape=(3, 8, 8))
    layers = read_net(composed.train_val).layers
    assert [(layer.name, layer.tops) for layer in layers if layer.is_data] == [("data", ("data", "label"))]
    assert [layer.bottoms for layer in layers if layer.type == "Convolution"] == [("data",), ("data",)]
    assert next(layer for layer in layers if layer.type == "SoftmaxWithLoss").bottoms[1] == "label"
    assert prototxt.infer_shapes(prototxt.load_net(composed.deploy))["data"] == (1, 3, 8, 8)


def test_a_python_data_layer_takes_no_list(tmp_path: Path) -> None:
    path = tmp_path / "python.prototxt"
    path.write_text(PYTHON_DATA)
    with pytest.raises(ComposeError, match="Python"):
        compose([Source("a", path)], num_output=3, train_list="t.txt", val_list="v.txt")


IN_PLACE = """
layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { source: "absent" batch_size: 4
  new_height: 2 new_width: 2 is_color: false } }
layer { name: "half" type: "Power" bottom: "data" top: "data" power_param { scale: 0.5 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param { num_output: 6 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""


def test_a_branch_that_changes_its_data_in_place_leaves_that_of_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(IN_PLACE)
    plain = tmp_path / "plain.prototxt"
    plain.write_text(
        IN_PLACE.replace('bottom: "data" top: "data"', 'bottom: "data" top: "x"').replace(
            'data" top: "ip1', 'x" top: "ip1'
        )
    )
    composed = compose([Source("a", path), Source("b", path), Source("c", plain)], num_output=5)
    for document in (composed.train_val, composed.deploy):
        layers = {layer.name: layer for layer in read_net(document).layers}
        for prefix in "ab":
            assert (layers[f"{prefix}/data_copy"].bottoms, layers[f"{prefix}/data_copy"].type) == (("data",), "Power")
            half = layers[f"{prefix}/half"]
            assert half.bottoms == half.tops == layers[f"{prefix}/ip1"].bottoms == (f"{prefix}/data_copy",)
        assert layers["c/half"].bottoms == ("data",)
    assert "data: source 'b' changes data in place, and gets a copy" in composed.notes
    alone = compose([Source("a", path)], num_output=5)
    assert "_copy" not in str(alone.train_val)
    taken = tmp_path / "taken.prototxt"
    taken.write_text(IN_PLACE.replace('name: "half"', 'name: "data_copy"').replace('"ip1"', '"data_copy_"'))
    again = compose([Source("a", taken), Source("c", plain)], num_output=5)
    copied = {layer.name: layer for layer in read_net(again.train_val).layers}["a/data_copy"]
    assert copied.bottoms == copied.tops == ("a/data_copy__",), "no layer or blob has this name yet"


def test_a_dataset_that_the_files_do_not_have_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        top = {"a": "left", "b": "right"}[name]
        with h5py.File(f"{name}.h5", "w") as file:
            file.create_dataset(top, data=[[1.0, 2.0], [5.0, 6.0]])
            file.create_dataset("label", data=[0.0, 1.0])
        Path(f"{name}.txt").write_text(f"{name}.h5\n")
        Path(f"{name}.prototxt").write_text(
            f'''layer {{ name: "d" type: "HDF5Data" top: "{top}" top: "label"
  hdf5_data_param {{ source: "{name}.txt" batch_size: 1 }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "{top}" top: "ip" inner_product_param {{ num_output: 2 }} }}
layer {{ name: "score" type: "InnerProduct" bottom: "ip" top: "score" inner_product_param {{ num_output: 2 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }}'''
        )
    sources = [Source(name, f"{name}.prototxt", at="ip") for name in ("a", "b")]
    says = r"source 'b' reads 'right', which the HDF5 files of a.txt do not have\n  hint: .*--train-list b=FILE"
    with pytest.raises(ComposeError, match=says):
        compose(sources, num_output=2, data_from="a")
    with h5py.File("a.h5", "a") as file:
        file.create_dataset("right", data=[[3.0, 4.0], [7.0, 8.0]])
    assert any("further top" in note for note in compose(sources, num_output=2, data_from="a").notes)
