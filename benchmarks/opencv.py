"""A comparison of outputs with OpenCV's Caffe importer: `python benchmarks/opencv.py [FOLDER]`.

FOLDER holds `weights/` with nets beside their caffemodels and `models/` with deploy nets, for which weights are seeded;
by default third-party files beside the checkout. Needs opencv-python 4.x; version 5 has no Caffe importer.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

import prototxt
from fusion.nets import build as nets, graph
from fusion.nets.weights import load_weights, save_weights

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "reference"
LIMIT = 1e-4
"""Greatest difference, relative to the largest output, that counts as agreement."""
KNOWN = {"SENet__SE-ResNet-50": "OpenCV swaps Axpy's second and third bottom"}
"""Where OpenCV differs from the fork: it computes a * y + x, SENet a * x + y."""
SEEDED = (
    *(f"models/{name}" for name in ("alexnet", "caffenet", "googlenet", "lenet", "cifar10_quick", "cifar10_full")),
    *(
        f"corpus/{name}.prototxt"
        for name in (
            "MobileNet-Caffe__mobilenet_v2_deploy",
            "deep-residual-networks__ResNet-50-deploy",
            "MTCNN_face_detection_alignment__det3",
            "open_nsfw__deploy",
            "SENet__SE-ResNet-50",
            "ShuffleNet__shufflenet_1x_g3_deploy",
        )
    ),
)


@dataclass(frozen=True)
class Candidate:
    """A deploy net, and its weights; None: random ones."""

    name: str
    net: Path
    weights: Path | None = None


def candidates(folder: Path) -> Iterator[Candidate]:
    """Yield the nets, those with real weights first."""
    for net in sorted((folder / "weights").glob("*.prototxt")):
        yield Candidate(net.stem, net, net.with_suffix(".caffemodel"))
    for name in SEEDED:
        path = folder / name
        found = sorted(path.glob("*.prototxt")) if path.is_dir() else [path]
        if found and found[0].is_file():
            yield Candidate(path.stem, found[0])


def compare(candidate: Candidate, scratch: Path) -> tuple[str, float, float]:
    """Return the output that differs most, its greatest difference, and the largest number in it."""
    import cv2

    net = nets.build(candidate.net, seed=1)
    if candidate.weights is None:
        weights = scratch / f"{candidate.name}.caffemodel"
        _set_statistics(net)
        save_weights(net, weights)
    else:
        weights = candidate.weights
        load_weights(net, weights)
    (key, shape), *others = nets_inputs(candidate.net)
    if others:
        raise ValueError("more than one input")
    x = np.random.default_rng(0).standard_normal((1, *shape[1:])).astype(np.float32)
    theirs = cv2.dnn.readNetFromCaffe(str(candidate.net), str(weights))
    theirs.enableFusion(False)
    values = dict(before_softmax(net, name) for name in theirs.getUnconnectedOutLayersNames())
    theirs.setInput(x)
    their_values = dict(zip(values, theirs.forward(list(values)), strict=True))
    with torch.no_grad():
        ours = graph.run(net, {key: torch.from_numpy(x)})
    found = []
    for name, array in their_values.items():
        mine = ours[values[name]].numpy().reshape(array.shape)
        found.append((name, float(np.abs(mine - array).max()), float(np.abs(array).max())))
    return max(found, key=lambda item: item[1])


def before_softmax(net: nets.Net, layer: str) -> tuple[str, str]:
    """Return the layer and its value; of a softmax, which saturates, those of its scores."""
    call = next(call for call in net.plan.calls if call.name == layer)
    if call.type == "Softmax":
        call = next(other for other in net.plan.calls if call.bottoms[0] in other.tops)
    return call.name, call.tops[0]


def _set_statistics(net: nets.Net) -> None:
    """Set statistics and weights so that the values of deep nets neither vanish nor explode."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for item in nets.learnable(net):
            if not item.tensor.requires_grad and item.tensor.dim() == 1:
                noise = torch.randn(item.tensor.shape, generator=draw)
                item.tensor.copy_((0.1 * noise, 1 + 0.1 * noise.abs(), torch.ones_like(noise))[item.index])
            elif item.tensor.dim() > 1:
                fan = item.tensor[0].numel()
                item.tensor.copy_(torch.randn(item.tensor.shape, generator=draw) * (2 / fan) ** 0.5)


def nets_inputs(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Return the inputs of a deploy net."""
    shapes = prototxt.infer_shapes(prototxt.load_net(path))
    net = prototxt.filter_net(prototxt.load_net(path), phase="TEST")
    tops = [top for layer in net.layer if not layer.bottom for top in layer.top]
    return [(top, tuple(size or 1 for size in shapes[top])) for top in tops]


def main(arguments: list[str]) -> int:
    """Print one table; return 1 if a net that OpenCV reads does not agree."""
    folder = Path(arguments[0]) if arguments else DEFAULT
    if find_spec("cv2") is None:
        print("not compared: OpenCV is not installed (pip install opencv-python-headless==4.14.0.94)")
        return 0
    if next(candidates(folder), None) is None:
        print(f"not compared: {folder} holds none of the nets; name a folder that does")
        return 0
    import cv2

    warnings.simplefilter("ignore")
    print(f"OpenCV {cv2.__version__}\n")
    print("| net | weights | output | greatest difference | largest output | agrees |\n|---|---|---|---|---|---|")
    worst = 0
    with tempfile.TemporaryDirectory() as scratch:
        for candidate in candidates(folder):
            kind = "real" if candidate.weights else "seeded"
            try:
                name, difference, largest = compare(candidate, Path(scratch))
            except (cv2.error, ValueError) as error:
                print(f"| {candidate.name} | {kind} | not read: {str(error).splitlines()[0][:60]} | | | |", flush=True)
                continue
            agrees = difference <= LIMIT * max(largest, 1e-6)
            known = KNOWN.get(candidate.name)
            worst |= not agrees and known is None
            verdict = "yes" if agrees else f"no: {known}" if known else "NO"
            print(f"| {candidate.name} | {kind} | {name} | {difference:.2g} | {largest:.3g} | {verdict} |", flush=True)
    return int(worst)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
