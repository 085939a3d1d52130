"""Public nets: all that decode and whose types are known build on the meta device, and run at batch 1."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import prototxt
from fusion.errors import BuildError, FusionError
from fusion.layers.registry import Phase
from fusion.nets import build as nets
from prototxt.errors import PrototxtError
from prototxt.schema.messages import NetParameter

Shapes = dict[str, tuple[int, ...]]
IMAGE: Shapes = {"data": (1, 3, 227, 227), "label": (1,)}
DETECTION: Shapes = {"data": (1, 3, 192, 256), "im_info": (1, 3), "gt_boxes": (1, 5)}

# Shapes of data layers whose files are not here.
GIVEN: dict[str, Shapes] = {
    "SqueezeNet__train_val": IMAGE,
    "caffe__cifar10_full_sigmoid_train_test_bn": {"data": (1, 3, 32, 32), "label": (1,)},
    "caffe__mnist_autoencoder": {"data": (1, 1, 28, 28)},
    "caffe__mnist_siamese_train_test": {"pair_data": (1, 2, 28, 28)},
    "caffe__models_bvlc_reference_caffenet_train_val": IMAGE,
    "caffe__train_val": {"data": (1, 3, 224, 224), "label": (1,)},
    "caffe_ocr__train_val": {"data": (1, 3, 32, 280), "label": (1, 10)},
    "crnn.caffe__crnn": {"data": (523, 1, 32, 121), "label": (523, 8)},
    "fcn.berkeleyvision.org__train": {"data": (1, 3, 160, 160), "label": (1, 1, 160, 160)},
    "net-archive__train_CIFAR10_48": IMAGE,
    "net-archive__train_val": {"data": (1, 3, 224, 224), "label": (1,)},
    "sphereface__sphereface_model": {"data": (1, 3, 112, 96), "label": (1,)},
    "SegNet-Tutorial__segnet_train": {"data": (1, 3, 360, 480), "label": (1, 1, 360, 480)},
    "net-archive__holistically-nested_train_val": {"data": (1, 3, 96, 96), "label": (1, 1, 96, 96)},
}
REASONS: dict[str, str] = {
    "MobileNet-YOLO__yolov3": "Yolov3DetectionOutput is not built",
    "orion__ORION_basic_trainval": "ApplyDeformation is not built",
    "caffe_ocr__train_val TEST": "CTCGreedyDecoder is not built",
    "py-faster-rcnn__train": "its Python layers are not here",
    "pva-faster-rcnn__faster_rcnn_train_test_21cls": "its Python layers are not here",
    "net-archive__vanilla_train": "its Python layers are not here",
    "net-archive__s2vt": "its data layers ask for stages",
    "caffe__mnist_autoencoder TEST": "its data layer asks for a stage",
}


# Templates, solvers, and a text that Caffe refuses too.
REFUSED: dict[str, str] = {
    "MobileNet-SSD__MobileNetSSD_train_template": "'num_output': expected an integer, found cls3x",
    "caffe-googlenet-bn__deploy": "'type': expected a value of LayerType, found the string \"Softmax\"",
    "caffe__lenet_consolidated_solver": "NetParameter has no field 'test_interval'",
    "net-archive__base_model": "'num_output': expected an integer, found NUM_OUTPUTS",
    "net-archive__poolmean": "expected a value for 'source', found '.'",
    "net-archive__s2vt_solver": "NetParameter has no field 'net'",
    "net-archive__yearbook_train_val": "expected a value for 'source', found '/'",
    "netscope__fcn-16s": "LayerParameter has no field 'force_backward'",
    "temporal-segment-networks__tsn_bn_inception_rgb_solver": "NetParameter has no field 'net'",
}


def corpus(*, refused: bool = False) -> list[Path]:
    folder = Path(__file__).parents[4] / "shared" / "reference" / "corpus"
    paths = sorted(path for path in folder.glob("*") if path.suffix in (".prototxt", ".pt")) if folder.is_dir() else []
    return [path for path in paths if (path.stem in REFUSED) == refused]


def reason(path: Path, phase: Phase) -> str | None:
    return REASONS.get(path.stem) or REASONS.get(f"{path.stem} {phase}")


def phase_of(path: Path) -> Phase | None:
    """The phase in which the net is run: TEST if that is built."""
    phases: tuple[Phase, Phase] = ("TEST", "TRAIN")
    return next((phase for phase in phases if not reason(path, phase)), None)


@pytest.mark.parametrize("path", corpus(refused=True), ids=lambda path: path.stem)
def test_texts_that_are_no_nets(path: Path) -> None:
    with pytest.raises(PrototxtError, match=re.escape(REFUSED[path.stem])):
        prototxt.load_net(path)


@pytest.mark.filterwarnings(
    "ignore::prototxt.schema.decode.UnknownFieldWarning", "ignore::prototxt.schema.upgrade.UpgradeWarning"
)
@pytest.mark.parametrize("phase", ["TRAIN", pytest.param("TEST", marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_it_builds_on_the_meta_device(path: Path, phase: Phase) -> None:
    net = prototxt.load_net(path)
    with torch.device("meta"):
        if reason(path, phase):
            with pytest.raises((BuildError, PrototxtError)):
                nets.build(net, phase, GIVEN.get(path.stem), allow_python=False)
        else:
            built = nets.build(net, phase, GIVEN.get(path.stem), allow_python=False)
            assert all(p.is_meta for p in built.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::prototxt.schema.decode.UnknownFieldWarning", "ignore::prototxt.schema.upgrade.UpgradeWarning"
)
@pytest.mark.parametrize("path", [path for path in corpus() if phase_of(path)], ids=lambda path: path.stem)
def test_it_runs_at_batch_1(path: Path) -> None:
    description, phase = prototxt.load_net(path), phase_of(path)
    assert phase is not None
    inputs = feed(description, phase, GIVEN.get(path.stem, {}))
    net = nets.build(description, phase, shapes_of(inputs), seed=0)
    with torch.no_grad():
        out = net({key: inputs[key] for key, _ in net.plan.inputs})
    assert out
    assert all(x.numel() for x in out.values())


def shapes_of(inputs: dict[str, Tensor]) -> Shapes:
    return {key: tuple(x.shape) for key, x in inputs.items()}


def feed(description: NetParameter, phase: Phase, given: Shapes) -> dict[str, Tensor]:
    """An input for every data layer's top: noise, or zeros for labels; one sample unless the net fixes more."""
    told = prototxt.infer(prototxt.filter_net(description, phase=phase), inputs=given)
    with torch.device("meta"):
        net = nets.build(description, phase, given)
    draw, found = torch.Generator().manual_seed(0), {}
    for key, _ in net.plan.inputs:
        shape = [size or 1 for size in told.blobs[key]]
        if key not in given and not any(layer.type in ("Reshape", "Lstm") for layer in description.layer):
            shape[:1] = [1]
        found[key] = torch.randn(shape, generator=draw) if len(shape) > 2 and "label" not in key else torch.zeros(shape)
    return found


def test_errors_of_what_cannot_be_built_say_where() -> None:
    text = 'layer { name: "d" type: "Yolov3DetectionOutput" bottom: "x" top: "y" }'
    with pytest.raises((FusionError, PrototxtError), match="1:1"):
        nets.build(prototxt.parse(text))
