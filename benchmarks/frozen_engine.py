"""The speed of a frozen ONNX layer in ONNX Runtime beside its graph in torch, as a trunk is computed once.

torchvision's nets with random weights, exported by torch's TorchScript exporter. Rivals take turns; medians.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from functools import partial
from pathlib import Path

import torch
from timing import interleaved, machine, seconds, table
from torch import Tensor
from torchvision import models

from fusion.onnx.graphs import load_graph
from fusion.onnx.to_torch import OnnxNet

NETS = ("mobilenet_v2", "resnet18", "efficientnet_b0")


def exported(name: str, folder: str) -> OnnxNet:
    """Return a net with seeded weights as a layer, its statistics those of noise, so that values stay in range."""
    path = str(Path(folder) / f"{name}.onnx")
    torch.manual_seed(0)
    net = getattr(models, name)(weights=None).train()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            net(torch.randn(4, 3, 224, 224))
        torch.onnx.export(net.eval(), (torch.zeros(1, 3, 224, 224),), path, dynamo=False)
    return OnnxNet(load_graph(path), frozen=True)


def compare(name: str, layer: OnnxNet, x: Tensor, rounds: int) -> tuple[object, ...]:
    """Return one row: pictures per second in torch and in ONNX Runtime, and their largest relative difference."""
    program = layer.to_runtime()
    with torch.no_grad():
        expected, found = layer.program(x), program(x)
        rivals = {"torch": partial(layer.program, x), "runtime": partial(program, x)}
        took = interleaved({key: partial(seconds, call) for key, call in rivals.items()}, rounds=rounds)
    difference = float((found - expected).abs().max() / expected.abs().max())
    speeds = (f"{len(x) / took[key]:.1f}" for key in rivals)
    return (f"{name}, batch {len(x)}", *speeds, f"{took['torch'] / took['runtime']:.2f}", f"{difference:.1e}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--batch", type=int, default=16)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    x = torch.randn(chosen.batch, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        rows = [compare(name, exported(name, folder), x, chosen.rounds) for name in NETS]
    print(table(("layer", "torch, pictures/s", "ONNX Runtime, pictures/s", "ratio", "difference"), rows))
    print(f"\n{machine()}, torch {torch.__version__}, {chosen.threads} threads, medians of {chosen.rounds}")


if __name__ == "__main__":
    main()
