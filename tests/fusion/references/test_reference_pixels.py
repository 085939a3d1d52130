"""References made for other pixels than the student's: each sees what it was made for, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fusion import build, save_weights
from fusion.data import DataSource, open_source
from fusion.errors import FusionError, TrainingError
from fusion.references import Reference, attach_logits, open_models, parse_reference
from fusion.references.pixels import StudentBlob, pixel_converter
from fusion.solver import Solver
from fusion.solver.logging.console import Silent
from prototxt import parse
from prototxt.schema.load import load_net

COUNT = 6
DATA = """layer { name: "data" type: "ImageData" top: "data" top: "label"
  image_data_param { source: "list.txt" batch_size: 3 %s } transform_param { %s } }
"""
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Seen(nn.Module):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(x)
        return x.flatten(1)[:, :2]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Six colour pictures with their list; uint8 [N, 3, 4, 5], red first."""
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 5, 3), np.uint8)
    for number, picture in enumerate(drawn):
        Image.fromarray(picture).save(f"{number}.png")
    Path("list.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(COUNT)))
    return drawn.transpose(0, 3, 1, 2).astype(np.float32)


def seen(transform: str, reference: Callable[[nn.Module], Reference], further: str = "") -> np.ndarray:
    """What a module sees as reference of a net whose data layer has this transform."""
    net = load_net(parse(DATA % (further, transform)))
    module = Seen()
    source = open_source(net.layer[0], "TRAIN")
    models = open_models([reference(module)], source, torch.device("cpu"), net)
    attach_logits(source, models).batch(np.arange(COUNT))
    return module.given[-1].numpy()


@pytest.mark.parametrize("transform", ["", "scale: 0.00390625", "scale: 0.017 mean_value: 104 mean_value: 117 "
                                       "mean_value: 123", "mean_value: 128 mirror: false"])  # fmt: skip
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("rgb", lambda p: p),
        ("unit", lambda p: p / 255),
        ("centered", lambda p: p / 127.5 - 1),
        ("torchvision", lambda p: (p / 255 - MEAN.reshape(3, 1, 1)) / STD.reshape(3, 1, 1)),
        ("mean:0.485,0.456,0.406,std:0.229,0.224,0.225,scale:1/255",
         lambda p: (p / 255 - MEAN.reshape(3, 1, 1)) / STD.reshape(3, 1, 1)),
        ("mean:104,117,123,order:bgr", lambda p: p[:, ::-1] - np.array([104, 117, 123]).reshape(3, 1, 1)),
        ("std:2,4,8", lambda p: p / np.array([2, 4, 8]).reshape(3, 1, 1)),
        ("mean:128,std:64,order:bgr", lambda p: (p[:, ::-1] - 128) / 64),
        ("order:bgr", lambda p: p[:, ::-1]),
    ],
)  # fmt: skip
def test_pixels(pictures: np.ndarray, transform: str, kind: str, expected: Callable[[np.ndarray], np.ndarray]) -> None:
    found = seen(transform, lambda module: Reference(module, pixels=kind))
    np.testing.assert_allclose(found, expected(pictures), atol=2e-3 * np.abs(expected(pictures)).max() / 255)


def test_the_blob_as_it_is(pictures: np.ndarray) -> None:
    found = seen("scale: 0.5", lambda module: Reference(module, pixels="blob"))
    np.testing.assert_array_equal(found, pictures[:, ::-1] * np.float32(0.5))


def test_gray_pictures_have_a_scale_too(pictures: np.ndarray) -> None:
    blob = seen("scale: 0.25", lambda module: Reference(module, pixels="blob"), "is_color: false")
    assert blob.shape[1] == 1
    unit = seen("scale: 0.25", lambda module: Reference(module, pixels="unit"), "is_color: false")
    np.testing.assert_allclose(unit, blob * 4 / 255, rtol=1e-6)
    with pytest.raises(TrainingError, match=r"pixels 'torchvision' do not suit a blob of shape \[3, 1, 4, 5\]"):
        seen("", lambda module: Reference(module, pixels="torchvision"), "is_color: false")


def arrays(*shape: int) -> DataSource:
    """Eight records of this shape, and their labels."""
    layer = load_net(parse('layer { name: "in" type: "Input" top: "data" top: "label" }')).layer[0]
    return open_source(layer, "TRAIN", arrays={"data": np.zeros((8, *shape)), "label": np.zeros(8)})


def test_what_is_not_known_is_asked(pictures: np.ndarray) -> None:
    with pytest.raises(TrainingError, match=r"its pixel format is not known; [^$]*pixels=blob where"):
        seen("", lambda module: Reference(module, name="mine"))
    with pytest.raises(TrainingError, match="not known"):  # without a layer as little
        open_models([Reference(Seen())], arrays(3, 32, 32), torch.device("cpu"))
    with pytest.raises(TrainingError, match="cannot be computed from this net's blob, the top of an unknown layer"):
        open_models([Reference(Seen(), pixels="unit")], arrays(3, 32, 32), torch.device("cpu"))
    open_models([Reference(Seen())], arrays(30), torch.device("cpu"))  # no pictures, no question
    with pytest.raises(TrainingError, match="the option pixels is for nets, not for a blob of the graph"):
        seen("", lambda module: Reference(None, blob="ip", pixels="rgb"))
    with pytest.raises(FusionError, match=r"reference 'a': there are no pixels 'bgr'[^$]*one of rgb, unit"):
        seen("", lambda module: Reference(module, name="a", pixels="bgr"))


def mean_picture(path: str, values: np.ndarray) -> None:
    from prototxt.schema.messages import BlobProto

    blob = BlobProto(num=1, channels=values.shape[0], height=values.shape[1], width=values.shape[2])
    blob.data.extend(values.ravel().tolist())
    Path(path).write_bytes(blob.SerializeToString())


def test_a_mean_picture(pictures: np.ndarray) -> None:
    mean_picture("mean.binaryproto", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    mean_picture("flat.binaryproto", np.full((3, 4, 5), 9, np.float32))
    unit = pictures / 255
    found = seen('mean_file: "mean.binaryproto" scale: 0.5', lambda m: Reference(m, pixels="unit"))
    np.testing.assert_allclose(found, unit, atol=1e-6)
    for further in ("mirror: true", "crop_size: 3"):
        with pytest.raises(TrainingError, match="differs from pixel to pixel"):
            seen(f'mean_file: "mean.binaryproto" {further}', lambda m: Reference(m, pixels="unit"))
    cropped = seen('mean_file: "flat.binaryproto" crop_size: 4', lambda m: Reference(m, pixels="unit"))
    assert any(np.abs(cropped[0] - unit[0, :, :, left : left + 4]).max() < 1e-6 for left in range(2))


OLD = """layer { name: "old" type: "InnerProduct" bottom: "data" top: "scores"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }
"""
DEPLOY = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: 3 dim: 4 dim: 5 } } }\n'


def scores(mine: str, theirs: str | None, **options: str) -> tuple[np.ndarray, np.ndarray]:
    """A Caffe reference's answers to a net's batches, and to its own; `theirs` is its transform, None: an Input."""
    own = DATA % ("", theirs or "")
    head = OLD if theirs is not None else OLD.splitlines(keepends=True)[0] + OLD.splitlines(keepends=True)[1]
    Path("old.prototxt").write_text((own if theirs is not None else DEPLOY) + head)
    net = build("old.prototxt", shapes={"data": (3, 3, 4, 5)}, seed=1)
    save_weights(net, "old.caffemodel")
    student = load_net(parse(DATA % ("", mine)))
    source = open_source(student.layer[0], "TRAIN")
    spec = Reference("old.prototxt", ["old.caffemodel"], blob="scores", **options)  # type: ignore[arg-type]
    models = open_models([spec], source, torch.device("cpu"), student)
    found = attach_logits(source, models).batch(np.arange(COUNT))[models[0].blob]
    batch = open_source(load_net(parse(own)).layer[0], "TEST").batch(np.arange(COUNT))
    from fusion.nets.build import restrict_to_blobs

    with torch.no_grad():
        (expected,) = restrict_to_blobs(net, ["scores"])({"data": batch["data"]}).values()
    return found.numpy(), expected.numpy()


@pytest.mark.parametrize("mine", ["", "scale: 0.01", "scale: 2 mean_value: 100 mean_value: 90 mean_value: 80"])
@pytest.mark.parametrize("theirs", ["", "scale: 0.02", "scale: 0.5 mean_value: 128", "mean_value: 1 mean_value: 2 "
                                    "mean_value: 3", 'mean_file: "mean.binaryproto"'])  # fmt: skip
def test_a_caffe_net_says_itself_what_it_takes(pictures: np.ndarray, mine: str, theirs: str) -> None:
    mean_picture("mean.binaryproto", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    found, expected = scores(mine, theirs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_equal_transforms_leave_the_blob_untouched(pictures: np.ndarray) -> None:
    mean_picture("mean.binaryproto", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    np.testing.assert_array_equal(*scores("scale: 0.013 mean_value: 3", "scale: 0.013 mean_value: 3"))
    layer = load_net(parse(DATA % ("", 'mean_file: "mean.binaryproto" mirror: true'))).layer[0]
    assert pixel_converter("x", None, layer, StudentBlob((3, 3, 4, 5), layer)) is None


def test_a_caffe_net_without_a_data_layer_is_asked(pictures: np.ndarray) -> None:
    with pytest.raises(TrainingError, match="not known; it has no data layer"):
        scores("", None)
    found, expected = scores("scale: 0.5", None, pixels="order:bgr")  # which is what a data layer gives
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_a_caffe_net_whose_mean_cannot_be_placed_is_refused(pictures: np.ndarray) -> None:
    mean_picture("mean.binaryproto", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    with pytest.raises(TrainingError, match="the mean image of layer 'data' differs from pixel to pixel"):
        scores("mirror: true", 'mean_file: "mean.binaryproto"')


def test_training_on_pixels(pictures: np.ndarray) -> None:
    """The whole way: a solver, a command line's reference, and what the loss then compares."""
    student = DATA % ("", "scale: 0.01 mean_value: 100") + OLD.replace('"old"', '"ip"').replace("scores", "ip")
    Path("net.prototxt").write_text(student)
    Path("s.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 random_seed: 1')
    module = Seen()
    solver = Solver("s.prototxt", device="cpu", display=Silent(), pct=["kd"],
                    references=[Reference(module, pixels="unit", name="r")])  # fmt: skip
    batch = solver.nets[0].sources[0].batch(np.arange(COUNT))
    np.testing.assert_allclose(batch["reference/r"].numpy(), pictures[:, 0, 0, :2] / 255, atol=1e-5)
    np.testing.assert_allclose(batch["data"].numpy(), (pictures[:, ::-1] - 100) * 0.01, atol=1e-5)


def test_command_lines() -> None:
    spec = parse_reference("r.onnx@z,pixels=mean:104,117,123,std:1,1,2,order:bgr,weight=0.5,live,classes=1,2")
    assert (spec.pixels, spec.weight) == ("mean:104,117,123,std:1,1,2,order:bgr", 0.5)
    assert (spec.live, spec.classes) == (True, (1, 2))
    assert parse_reference("r.onnx,pixels=unit,half").pixels == "unit"


def test_nets_that_are_both_fed_by_hand_take_the_same(pictures: np.ndarray) -> None:
    """Neither says how its blob was made, so whoever gives it has it made for both; one data layer breaks that."""
    by_hand, listed = load_net(parse(DEPLOY)).layer[0], load_net(parse(DATA % ("", "scale: 0.5"))).layer[0]
    hdf5 = load_net(parse('layer { name: "data" type: "HDF5Data" top: "data" hdf5_data_param { source: "x" } }')).layer[
        0
    ]
    given = StudentBlob((3, 3, 4, 5), by_hand)
    assert pixel_converter("r", None, by_hand, given) is None
    assert pixel_converter("r", None, hdf5, StudentBlob((3, 3, 4, 5), hdf5)) is None
    with pytest.raises(TrainingError, match="the transform of this net's blob is not known"):
        pixel_converter("r", None, listed, given)
    with pytest.raises(TrainingError, match="not known; its HDF5Data layer does not define it"):
        pixel_converter("r", None, hdf5, given)
    with pytest.raises(TrainingError, match="not known; it has no data layer"):
        pixel_converter("r", None, by_hand, StudentBlob((3, 3, 4, 5), listed))
    assert pixel_converter("r", None, listed, StudentBlob((3, 30), by_hand)) is None  # no pictures


def test_shapes_alone_do_not_say_it() -> None:
    shapes = {"data": (8, 3, 32, 32), "label": (8,)}
    with pytest.raises(TrainingError, match="reference 'r': its pixel format is not known"):
        open_models([Reference(Seen(), name="r")], shapes, torch.device("cpu"))
    (model,) = open_models([Reference(Seen(), pixels="blob")], shapes, torch.device("cpu"))
    assert model.members[0].answer is not None
    assert model.members[0].answer({"data": torch.ones(8, 3, 32, 32), "label": torch.ones(8)}).shape == (8, 2)
