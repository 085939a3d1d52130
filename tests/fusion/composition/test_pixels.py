"""ONNX sources that want other pixels than Caffe's data layers give."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from fusion.composition import Source, compose, onnx_net as onnx_net_module
from fusion.composition.net_text import read_net
from fusion.composition.onnx_net import onnx_net
from fusion.composition.onnx_sources import read_onnx
from fusion.composition.pixels import PIXELS, pixels_of, preprocessing_layers
from fusion.data import batches
from fusion.errors import ComposeError
from fusion.nets.build import blobs, build
from fusion.solver.batches import open_sources
from prototxt import Document, filter_net, load_net

sys.path.insert(
    0, str(Path(__file__).parents[2] / "fusion" / "onnx" / "graphs")
)  # the helper of the tests of that room
from graphs import draw, model, node

Make = Callable[..., Path]


def part(folder: Path, channels: int = 3, size: int = 10) -> Path:
    nodes = [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "g"), node("Flatten", "g", "f"),
             node("Gemm", "f k", "y", transB=1)]  # fmt: skip
    path = folder / "net.onnx"
    constants = {"w": draw(4, channels, 3, 3), "k": draw(3, 4)}
    onnx.save(model(nodes, constants, shape=("N", channels, size, size)), path)
    return path


@pytest.mark.parametrize("kind", PIXELS)
def test_the_branch_prepares_its_pixels(tmp_path: Path, kind: str) -> None:
    composed = compose([Source("b", part(tmp_path), pixels=kind)], num_output=3, train_list="t", val_list="v")
    assert not any("without transform" in note for note in composed.notes)
    assert composed.deploy is not None
    blue_first = torch.randint(0, 256, (2, 3, 10, 10)).float()
    found = blobs(build(composed.deploy), {"data": blue_first})
    red_first = blue_first.flip(1)
    expected = {
        "rgb": red_first,
        "unit": red_first / 255,
        "centered": red_first / 127.5 - 1,
        "torchvision": (red_first / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
    }[kind]
    torch.testing.assert_close(found["b/pixels"], expected, rtol=1e-5, atol=1e-5)


def test_it_gets_a_data_layer_without_the_other_nets_transform(make: Make, tmp_path: Path) -> None:
    caffe = make("odd", transform="scale: 0.5 mirror: true")
    composed = compose([Source("a", caffe), Source("b", part(tmp_path, 1, 12), pixels="unit")], num_output=3)
    layers = [layer for layer in composed.train_val.root.messages("layer") if layer.string("type") == "ImageData"]
    own = [layer for layer in layers if layer.string("name") == "b/data"]
    assert len(layers) == 4
    for layer in own:
        pictures = layer.messages("image_data_param")[0]
        assert not layer.messages("transform_param")
        assert [pictures.string(name) for name in ("new_height", "new_width", "is_color")] == ["12", "12", "false"]
        assert [scalar.value for scalar in layer.scalars("top")] == ["b/data", "b/label"]
    silent = {layer.name: layer.bottoms for layer in read_net(composed.train_val).layers if layer.type == "Silence"}
    assert silent == {"b/labels": ("b/label",)}  # of both phases, once
    assert own[0].messages("image_data_param")[0].string("source") == "train_all.txt"
    assert [layer.string("in_step_with") for layer in own] == ["data", "data"]  # which flips pictures
    assert any("'b' takes raw pixels" in note for note in composed.notes)
    assert np.isclose(
        float(composed.train_val.root.messages("layer")[0].messages("transform_param")[0].string("scale") or 0), 0.5
    )


def test_images_of_two_branches_belong_together(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main layer shuffles, skips and flips; the other takes the same records, and draws nothing by itself."""
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        Image.fromarray(np.full((9, 9), 10 * number, np.uint8)).save(f"{number}.png")
    for name in ("train_all.txt", "val_all.txt"):
        Path(name).write_text("".join(f"{number}.png {number % 3}\n" for number in range(20)))
    image = "is_color: false new_height: 8 new_width: 8 rand_skip: 7"
    caffe = make("odd", transform="scale: 0.5 mirror: true", image=image)
    other = make("even", transform="scale: 0.25 mirror: true crop_size: 6", image=image)
    sources = [Source("a", caffe), Source("b", part(tmp_path, 1, 12), pixels="unit"), Source("c", other)]
    net = compose(sources, num_output=3).train_val
    layers = {
        layer.string("name"): layer
        for layer in net.root.messages("layer")
        if layer.string("type") == "ImageData" and layer.messages("include")[0].string("phase") == "TRAIN"
    }
    switches = {
        name: [layer.messages("image_data_param")[0].string(switch) for switch in ("shuffle", "rand_skip")]
        for name, layer in layers.items()
    }
    assert switches == {"images": ["true", "7"], "b/data": ["false", "0"], "c/images": ["false", "0"]}
    assert layers["c/images"].messages("transform_param")[0].string("mirror") == "false"
    (source,) = open_sources(filter_net(load_net(net), phase="TRAIN"), "TRAIN", seed=1)
    order: list[float] = []
    for batch, _ in zip(batches(source), range(5), strict=False):
        rows = [batch[top][:, 0, 2, 2] * scale for top, scale in (("data", 2.0), ("b/data", 1.0), ("c/data", 4.0))]
        assert torch.equal(rows[0], rows[1])
        assert torch.equal(rows[0], rows[2])
        assert torch.equal(batch["label"], (rows[0] / 10) % 3)
        order += rows[0].tolist()
    assert sorted(order) != order


def test_pixels_are_made_from_the_other_nets_data_where_the_size_is_the_same(make: Make, tmp_path: Path) -> None:
    caffe = make("odd", transform="scale: 0.5 mean_value: 10 mirror: true", maps=1)
    composed = compose([Source("a", caffe), Source("b", part(tmp_path, 1, 8), pixels="centered")], num_output=3)
    layers = [layer for layer in composed.train_val.root.messages("layer") if layer.string("type") == "ImageData"]
    assert [layer.string("name") for layer in layers] == ["images", "images"]
    assert composed.deploy is not None
    pixels = torch.randint(0, 256, (2, 1, 8, 8)).float()
    found = blobs(build(composed.deploy, shapes={"data": (2, 1, 8, 8)}), {"data": (pixels - 10) * 0.5})
    torch.testing.assert_close(found["b/pixels"], pixels / 127.5 - 1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "transform", "shared"),
    [((12, 12), "", True), ((12, 11), "", False), ((14, 15), "crop_size: 12", True), (None, "", False)],
)
def test_the_size_of_pictures_is_that_of_the_first(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: tuple[int, int] | None, transform: str,
    shared: bool,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if first is not None:
        for number in range(3):
            Image.fromarray(np.zeros(first, np.uint8)).save(f"{number}.png")
        for phase in ("train", "val"):
            Path(f"{phase}_own.txt").write_text("0.png 0\n1.png 1\n2.png 2\n")
    caffe = make("odd", transform=transform, image="is_color: false", list="own")
    net = Source("b", part(tmp_path, 1, 12), "c", pixels="unit")
    composed = compose([Source("a", caffe, "conv"), net], num_output=3)
    names = [layer.name for layer in read_net(composed.train_val).layers if layer.type == "ImageData"]
    assert names == ["images"] * 2 + ([] if shared else ["b/data"] * 2)


def test_without_them_it_is_said_what_it_is_fed(make: Make, tmp_path: Path) -> None:
    caffe = make("odd", transform="scale: 0.5")
    composed = compose([Source("a", caffe), Source("b", part(tmp_path, 1, 8))], num_output=3)
    expected = (
        "data: source 'b' has no data layer and is fed the data of 'a', mean and scale included; if it was trained on"
    )
    assert any(note.startswith(expected) and note.endswith("--pixels b=unit") for note in composed.notes)
    with pytest.raises(ComposeError, match=r"source 'b' takes images of 1x12x12, but(.|\n)*hint: .* --pixels b=unit"):
        compose([Source("a", caffe), Source("b", part(tmp_path, 1, 12))], num_output=3)


@pytest.mark.parametrize(
    ("kind", "channels", "message"),
    [
        ("bgr", 3, r"there are no pixels 'bgr'[\s\S]*one of rgb, unit, centered, torchvision"),
        ("torchvision", 1, "are for three channels, and its input has one"),
        ("unit", 2, "have 3 channels, its input 2"),
    ],
)
def test_pixels_that_do_not_suit(tmp_path: Path, kind: str, channels: int, message: str) -> None:
    source = Source("b", part(tmp_path, channels), pixels=kind)
    with pytest.raises(ComposeError, match=message):
        compose([source], num_output=3, train_list="t", val_list="v")


DEPLOY = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "twice" type: "Power" bottom: "x" top: "x" power_param { scale: 2 } }  # kept
layer { name: "pool" type: "Pooling" bottom: "x" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 3 } }
"""


def test_a_deploy_net_gets_its_pixels_as_an_onnx_file_does(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "deploy.prototxt"
    path.write_text(DEPLOY)
    caffe = make("odd", transform="scale: 0.5 mean_value: 10", image="new_height: 8 new_width: 8")
    composed = compose([Source("a", caffe), Source("b", path, "pool", pixels="torchvision")], num_output=3)
    assert [note for note in composed.notes if "raw pixels" in note] == [
        "data: source 'b' takes raw pixels (torchvision), computed from 'data'"
    ]
    assert "# kept" in str(composed.train_val)
    assert composed.deploy is not None
    pixels = torch.randint(0, 256, (2, 3, 8, 8)).float()  # blue first
    found = blobs(build(composed.deploy, shapes={"data": (2, 3, 8, 8)}), {"data": (pixels - 10) * 0.5})
    mean, std = (
        torch.tensor(numbers)[None, :, None, None] for numbers in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    expected = 2 * ((pixels.flip(1) / 255 - mean) / std).mean((2, 3), keepdim=True)
    torch.testing.assert_close(found["b/pool"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('type: "Input" top: "x"', 'type: "Input" top: "x" top: "z"', "nets with one Input layer"),
        ('name: "pool"', 'name: "pixels"', "'pixels' is the name of a layer or blob that prepares pixels"),
        ('top: "fc"', 'top: "red"', "'red' is the name of a layer or blob that prepares pixels"),
        ("", 'layer { name: "red_scaled" type: "ReLU" bottom: "fc" top: "y" } layer { name: "blue_scaled" '
         'type: "ReLU" bottom: "fc" top: "z" }', "'blue_scaled' is the name of a layer or blob"),
        ("", 'layer { name: "more" type: "Input" top: "y" }', "nets with one Input layer"),
        ("layer", 'input: "y" input_shape { dim: 1 } layer', "nets with one Input layer"),
        ('type: "Input"', 'type: "DummyData"', "nets with one Input layer"),
        ("dim: 1 dim: 3 dim", "dim: 3 dim", r"pixels 'unit' have 3 channels, its input \?"),
    ],
)  # fmt: skip
def test_deploy_nets_that_take_no_pixels(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "deploy.prototxt"
    path.write_text(DEPLOY.replace(old, new, 1) if old else DEPLOY + new)
    with pytest.raises(ComposeError, match=says):
        compose([Source("b", path, "pool", pixels="unit")], num_output=3, train_list="t", val_list="v")


def test_pixels_are_not_for_nets_with_data_layers(make: Make) -> None:
    with pytest.raises(ComposeError, match="pixels are for ONNX files and for nets with one Input layer"):
        compose([Source("a", make("odd"), pixels="unit")], num_output=3)


def test_scores_that_need_more_than_the_cut_run_from_the_start(tmp_path: Path) -> None:
    nodes = [node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "f"), node("Gemm", "f k", "z", transB=1),
             node("GlobalMaxPool", "x", "h"), node("Flatten", "h", "i"), node("Add", "z i", "y")]  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, {"k": draw(3, 3)}), path)
    source = Source("b", path, "f", pixels="unit")
    composed = compose([source], num_output=3, train_list="t", val_list="v", references=True)
    (scores,) = (layer for layer in composed.train_val.root.messages("layer") if layer.string("name") == "b/classifier")
    assert [scalar.value for scalar in scores.scalars("bottom")] == ["b/pixels"]
    net = build(composed.train_val, shapes={"data": (2, 3, 8, 8), "label": (2,)})
    assert blobs(net, {"data": torch.zeros(2, 3, 8, 8), "label": torch.zeros(2)})["b/y"].shape == (2, 3)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mean:104,117,123,std:2,order:bgr", lambda blue: (blue - torch.tensor([104.0, 117, 123]).view(3, 1, 1)) / 2),
        ("mean:123,117,104,std:1,2,4", lambda blue: (blue.flip(1) - torch.tensor([123.0, 117, 104]).view(3, 1, 1))
         / torch.tensor([1.0, 2, 4]).view(3, 1, 1)),
        ("mean:0.5,std:0.25,scale:1/255", lambda blue: (blue.flip(1) / 255 - 0.5) / 0.25),
        ("order:bgr", lambda blue: blue),
        ("mean:1,std:2,scale:1", lambda blue: (blue.flip(1) - 1) / 2),
        ("mean:0,0,1,std:1/2,scale:1,order:bgr", lambda blue: (blue - torch.tensor([0.0, 0, 1]).view(3, 1, 1)) * 2),
    ],
)  # fmt: skip
def test_pixels_of_ones_own(tmp_path: Path, kind: str, expected: Callable[[torch.Tensor], torch.Tensor]) -> None:
    composed = compose([Source("b", part(tmp_path), pixels=kind)], num_output=3, train_list="t", val_list="v")
    assert composed.deploy is not None
    blue_first = torch.randint(0, 256, (2, 3, 10, 10)).float()
    found = blobs(build(composed.deploy), {"data": blue_first})
    torch.testing.assert_close(found["b/pixels"], expected(blue_first), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bgr", "there are no pixels 'bgr'"),
        ("mean:1,2", "mean is a number, or 3 of them"),
        ("mean:a", "mean is a number"),
        ("mean:1/0", "mean is a number"),
        ("mean:1/2/3", "mean is a number"),
        ("mean:104,nan,123", "mean is a number"),
        ("mean:inf", "mean is a number"),
        ("std:0", "scale and std are not 0"),
        ("scale:0", "scale and std are not 0"),
        ("std:1,0,1", "scale and std are not 0"),
        ("scale:1,2,3", "scale one number"),
        ("scale:1,1,2", "scale one number"),
        ("order:rbg", "order is rgb or bgr"),
        ("mean:0.485,0.456,0.406,std:0.2", "means of at most 1 are of pixels from 0 to 1"),
        ("mean:0,0,1", "means of at most 1 are of pixels from 0 to 1"),
        ("mean:104,mean:117", "'mean' is given twice"),
        ("deviation:1", "'deviation' is not a setting of pixels"),
    ],
)
def test_pixels_that_are_none(kind: str, message: str) -> None:
    with pytest.raises(ComposeError, match=f"source 'b': .*{message}"):
        pixels_of(kind, "source 'b'")


def test_pixels_for_three_channels_are_not_for_one() -> None:
    for kind in ("std:1,1,2", "mean:9,9,8"):
        with pytest.raises(ComposeError, match="are for three channels, and its input has one"):
            preprocessing_layers(kind, "b", "x", 1)
    (text,), blob = preprocessing_layers("mean:9,std:2", "b", "x", 1)
    assert (blob, "power_param { scale: 0.5 shift: -4.5 }" in text) == ("pixels", True)


def test_means_of_small_pixels_may_be_meant() -> None:
    assert pixels_of("mean:0.5,104,117", "x").shift == (-0.5, -104.0, -117.0)
    assert pixels_of("mean:2", "x").shift == (-2.0, -2.0, -2.0)
    assert pixels_of("mean:0.5,scale:1", "x").shift == (-0.5, -0.5, -0.5)
    assert pixels_of("unit", "x") is PIXELS["unit"]
    own = pixels_of("mean:1,2,3,std:2,4,8,scale:2,order:bgr", "x")  # kept red first, whatever the order
    assert (own.scale, own.shift, own.blue_first) == ((0.25, 0.5, 1.0), (-0.375, -0.5, -0.5), True)


def layer_lines(document: Document) -> list[str]:
    """Return the layers after those that prepare pixels, each on a line, without file names."""
    text = re.sub(r' file: "[^"]*"', "", " ".join(re.sub("#.*", "", str(document)).split()))
    lines = [part.strip() for part in text.split("layer {")[1:]]
    return [line for line in lines if not re.match('name: "(colors|pixels|blue|green|red)', line)]


def test_an_onnx_file_is_described_as_a_net(tmp_path: Path) -> None:
    path = part(tmp_path)
    onnx_layer = 'name: "onnx" type: "Onnx" bottom: "pixels" top: "y" onnx_param { output: "y" } }'
    served, measured = onnx_net(path, pixels="centered"), onnx_net(path, pixels="centered", measured=True)
    assert layer_lines(served) == [
        'name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 10 dim: 10 } } }',
        onnx_layer,
        'name: "prob" type: "Softmax" bottom: "y" top: "prob" }',
    ]
    assert layer_lines(measured) == [
        'name: "data" type: "ImageData" top: "x" top: "label" image_data_param { source: "" batch_size: 32 '
        "new_height: 10 new_width: 10 } }",
        onnx_layer,
        'name: "accuracy" type: "Accuracy" bottom: "y" bottom: "label" top: "accuracy" }',
        'name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }',
    ]
    gray = onnx_net(part(tmp_path, 1), pixels="unit", measured=True)
    assert "new_height: 10 new_width: 10 is_color: false }" in layer_lines(gray)[0]
    blue_first = torch.randint(0, 256, (1, 3, 10, 10)).float()
    found = blobs(build(onnx_net(part(tmp_path), pixels="centered")), {"x": blue_first})
    torch.testing.assert_close(found["pixels"], blue_first.flip(1) / 127.5 - 1)
    torch.testing.assert_close(found["prob"], found["y"].softmax(1))


@pytest.mark.parametrize(
    ("shape", "size", "found"),
    [
        (("N", 3, "H", "W"), (5, 6), "dim: 1 dim: 3 dim: 5 dim: 6 }"),
        (("N", 3, "H", 7), (5, 6), "dim: 1 dim: 3 dim: 5 dim: 7 }"),
        (("N", 1, 4, "W"), (5, 6), "dim: 1 dim: 1 dim: 4 dim: 6 }"),
        (("N", 3, "H", 7), None, "the size of its images open\n  hint: give --input-shape x=1,3,224,224"),
        (("N", 1, 7, "W"), None, "the size of its images open\n  hint: give --input-shape x=1,1,224,224"),
        (("N", 2, 7, 7), None, "pixels 'rgb' have 3 channels, its input 2"),
        (("N", "C", 7, 7), (5, 6), r"pixels 'rgb' have 3 channels, its input \?"),
    ],
)
def test_the_size_of_an_onnx_files_images(
    tmp_path: Path, shape: tuple[int | str, ...], size: tuple[int, int] | None, found: str
) -> None:
    path = tmp_path / "net.onnx"
    nodes = [node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "f"), node("Gemm", "f k", "y", transB=1)]
    onnx.save(model(nodes, {"k": draw(3, 3 if shape[1] == "C" else int(shape[1]))}, shape=shape), path)
    if not found.startswith("dim"):
        with pytest.raises(ComposeError, match=found):
            onnx_net(path, pixels="rgb", size=size)
        return
    assert found in str(onnx_net(path, pixels="rgb", size=size))


def test_onnx_files_that_take_no_images(tmp_path: Path) -> None:
    path = part(tmp_path)
    with pytest.raises(ComposeError, match="how this net expects the pixels of images is not known"):
        onnx_net(path, pixels=None)
    made = model([node("Add", "x z", "y")], shape=("N", 3, 4, 4))
    made.graph.input.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ("N", 3, 4, 4)))
    onnx.save(made, path)
    with pytest.raises(ComposeError, match=r"a net with several inputs \(x, z\) takes no images"):
        onnx_net(path, pixels="rgb")
    onnx.save(model([node("Gemm", "x k", "y", transB=1)], {"k": draw(3, 3)}, shape=("N", 3)), path)
    with pytest.raises(
        ComposeError, match=r"takes 3 numbers per image; the size .*\n  hint: .* --input-shape x=1,1,1,3"
    ):
        onnx_net(path, pixels="rgb")


def test_errors_name_a_pytorch_net_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "exported.onnx"
    onnx.save(model([node("Gemm", "x k", "y", transB=1)], {"k": draw(3, 3)}, shape=("N", 3)), path)
    asked = []
    monkeypatch.setattr(onnx_net_module, "onnx_path", lambda *given: asked.append(given) or str(path))
    with pytest.raises(ComposeError, match=r"^nets\.py:Net:w\.pth: its input 'x' takes 3 numbers per image, not 5x6"):
        onnx_net("nets.py:Net:w.pth", pixels="rgb", size=(5, 6), channels=1)
    assert asked == [("nets.py:Net:w.pth", (1, 5, 6))]


def test_an_onnx_file_as_a_source(tmp_path: Path) -> None:
    path = part(tmp_path, size=9)
    entry = 'name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 9 } } }'
    to_f = 'name: "onnx" type: "Onnx" bottom: "x" top: "f" onnx_param { output: "f" } }'
    rest = 'name: "classifier" type: "Onnx" bottom: "f" top: "y" onnx_param { input: "f" output: "y" } }'
    whole = 'name: "onnx" type: "Onnx" bottom: "x" top: "y" onnx_param { output: "y" } }'
    cut_before = ("source 'b': cut at 'f', which its classifier reads",)
    for at, logits, reference, layers, scores, notes in (
        (None, None, False, [entry, to_f], None, cut_before),
        (None, None, True, [entry, to_f, rest], "y", cut_before),
        ("b/f", "y", True, [entry, to_f, rest], "y", ()),
        ("y", None, True, [entry, whole], "y", ()),
        ("y", None, False, [entry, whole], None, ()),
    ):
        text = read_onnx(Source("b", path, at, logits=logits), reference=reference)
        assert (layer_lines(text.document), text.logits, text.notes) == (layers, scores, notes)
        assert text.at == ((at or "f").removeprefix("b/"),)
        assert str(text.document).startswith('name: "net"\n')
    for at, says in (("x", "cut blob 'x' is an input of the net"), ("q", "cut blob 'q': ")):
        with pytest.raises(ComposeError, match=says):
            read_onnx(Source("b", path, at), reference=False)
    onnx.save(model([node("Relu", "x", "y")], shape=("N", "C", 4)), path)
    (entry,) = layer_lines(read_onnx(Source("b", path, "y"), reference=False).document)[:1]
    assert entry == 'name: "x" type: "Input" top: "x" }'
