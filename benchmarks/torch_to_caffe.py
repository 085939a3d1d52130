"""Hold the conversion of torchvision's classifiers to Caffe to torch itself, net by net, and print a table.

    python benchmarks/torch_to_caffe.py                   # all classifiers without attention and LayerNorm
    python benchmarks/torch_to_caffe.py resnet18 mnasnet0_5 --write

For each net, with random weights and statistics of random images: the class scores in phase TEST in float32, beside
the change by rounding to float32 in the module itself; the same in float64; in OpenCV 4, whose importer reads Caffe
nets, if it is installed; the gradients of a loss in phase TRAIN (float64, without dropout); and whether the state dict
made from the Caffe weights is the module's again.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torchvision
from timing import machine, replace_part, table
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

import fusion
from fusion.conversion.export_module import module_onnx
from fusion.conversion.state_dicts import to_state_dict
from fusion.nets.build import build, params
from fusion.nets.weights import load_weights
from prototxt.formats.weights import Weights, read_weights, write_weights
from prototxt.schema.encode import to_text
from prototxt.schema.messages import NetParameter
from prototxt.text.parser import parse

PAGE = Path(__file__).parent.parent / "docs" / "pytorch.md"
FAMILIES = """alexnet vgg googlenet inception resnet resnext wide_resnet densenet squeezenet mobilenet shufflenet
mnasnet efficientnet regnet"""
CLASSES = 10
WHOLE = ("alexnet", "vgg")  # their adaptive pooling is a plain one at 224x224 alone; the others are measured at 96x96
LARGE = 400e6  # parameters: float64 copies of such nets need more memory than a small machine has


def names() -> list[str]:
    """Return the classifiers of torchvision in the families that Caffe's layers can express."""
    known = torchvision.models.list_models(torchvision.models)
    return [name for name in known if name.startswith(tuple(FAMILIES.split()))]


def size_of(name: str) -> int:
    """Return the height and width of a net's images."""
    return 224 if name.startswith(WHOLE) else 96


def module_of(name: str) -> nn.Module:
    """Return a net with random weights, whose statistics are those of random images."""
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
    for part in module.modules():
        if isinstance(part, (nn.Dropout, StochasticDepth)):
            part.p = 0.0
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
            part.eps = float(np.float32(part.eps))  # as a prototxt has it
    with torch.no_grad():
        module.train()(torch.randn(16, 3, size_of(name), size_of(name)))
    return module.eval()


def measure(name: str) -> list[str]:
    """Return the row of a net: its layers, the differences of scores and gradients, and whether its keys return."""
    module, size = module_of(name), size_of(name)
    path = module_onnx(module, torch.zeros(1, 3, size, size))
    made = fusion.to_caffe(path)
    bvlc = "yes" if all("forks" not in note for note in made.notes) else "no"
    with tempfile.TemporaryDirectory() as folder:
        small = _size(module) < LARGE
        file = f"{folder}/net.{'caffemodel' if small else 'safetensors'}"  # a caffemodel has at most 2 GB
        write_weights(file, made.weights, net=made.net)
        stored = read_weights(file)
        state = to_state_dict(parse(to_text(made.net)), stored)
        images = torch.randn(2, 3, size, size)
        single = module(images).detach()
        test = _difference(_scores(made.net, stored, images), single)
        # OpenCV's own schema has ceil_mode of a fork instead of BVLC's round_mode.
        text = to_text(made.net).replace("round_mode: FLOOR", "ceil_mode: false")
        Path(f"{folder}/net.prototxt").write_text(text)
        opencv = _opencv(f"{folder}/net.prototxt", file, images[:1], single[:1]) if small else "not measured"
        given = module.state_dict()
        keys = [key for key in given if "num_batches" not in key]
        returns = given.keys() == state.keys() and all(torch.equal(given[key], state[key]) for key in keys)
        own = exact = train = "not measured"
        if small:
            double = module.double()(images.double()).detach()
            own = f"{_difference(single.double(), double):.1e}"
            exact = f"{_difference(_scores(made.net, stored, images.double()), double):.1e}"
            train = f"{_gradients(module, made.net, stored, torch.randn(4, *images.shape[1:])):.1e}"
    return [name, str(len(made.net.layer)), bvlc, f"{test:.1e}", own, exact, opencv, train, "yes" if returns else "no"]


def _scores(net: NetParameter, weights: Weights, images: Tensor) -> Tensor:
    """Return the class scores in phase TEST, in the precision of the images."""
    built = build(net, "TEST", shapes={"data": tuple(images.shape)})
    load_weights(built, weights, strict=True)
    with torch.no_grad():
        return next(iter(built.to(images.dtype)({"data": images}).values()))


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def _opencv(prototxt: str, caffemodel: str, image: Tensor, expected: Tensor) -> str:
    """Return how far OpenCV's scores are from torch's, or that its importer does not read the net."""
    if find_spec("cv2") is None:
        return ""
    import cv2

    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        return ""
    try:
        net = cv2.dnn.readNetFromCaffe(prototxt, caffemodel)
        net.setInput(image.numpy())
        found = torch.from_numpy(net.forward())
    except cv2.error as error:
        kind = re.search(r'of type "(\w+)"', str(error))
        return f"no {kind[1]}" if kind else "not read"
    return f"{_difference(found.reshape(expected.shape), expected):.1e}"


def _size(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters())


def _gradients(module: nn.Module, net: NetParameter, weights: Weights, images: Tensor) -> float:
    """Return the largest difference of the gradients of a training step, over each parameter's largest gradient."""
    images, labels = images.double(), torch.tensor([0, 3, 7, 9])
    built = build(net, "TRAIN", shapes={"data": tuple(images.shape)})
    load_weights(built, weights)
    F.cross_entropy(module.double().train()(images), labels).backward()
    F.cross_entropy(next(iter(built.double()({"data": images}).values())), labels).backward()
    found = {
        layer: [torch.zeros_like(one) if one.grad is None else one.grad for one in tensors]
        for layer, tensors in params(built).items()
    }
    by_key = to_state_dict(parse(to_text(net)), found)
    worst = 0.0
    total = max(float(one.grad.abs().max()) for one in module.parameters() if one.grad is not None)
    for key, own in module.named_parameters():
        if own.grad is not None:
            # A bias below a BatchNorm has a gradient of rounding alone.
            scale = max(float(own.grad.abs().max()), 1e-6 * total)
            worst = max(worst, float((_like(by_key[key], own) - own.grad).abs().max()) / scale)
    return worst


def _like(found: Tensor, own: Tensor) -> Tensor:
    return found.double().reshape(own.shape)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; each net is measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", help="names of torchvision's nets (default: all of these families)")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.row:
        print("\t".join(measure(arguments.nets[0])))
        return 0
    rows = []
    for name in arguments.nets or names():
        done = subprocess.run([sys.executable, __file__, "--row", name], capture_output=True, text=True, check=False)
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        rows.append(lines[-1].split("\t") if done.returncode == 0 else [name, "", "", lines[-1][:80], *[""] * 4, "no"])
        print(*rows[-1], flush=True)
    head = [
        "net",
        "layers",
        "BVLC",
        "scores, float32",
        "scores, float64",
        "scores, OpenCV",
        "gradients, TRAIN",
        "state dict returns",
    ]
    text = f"{table(head, rows)}\n\n{machine()}, torch {torch.__version__}, torchvision {torchvision.__version__}.\n"
    print(text)
    if arguments.write:
        replace_part(PAGE, "torchvision", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
