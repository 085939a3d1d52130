"""Branches of one architecture as grouped convolutions, beside the same branches run in sequence.

Forward in TEST without gradients, with the same weights; the scores must agree to 1e-5 before anything is timed. In the
column "with dense" dense layers are grouped convolutions too. Rivals take turns; medians. Nets: the tutorial's LeNet
twice and five times, and residual nets of six blocks at two widths, twice.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from nets import dense, input_data, lenet_body, resnet_body
from timing import interleaved, machine, table
from torch import Tensor

import prototxt
from fusion.nets.build import Net, build
from fusion.nets.weights import load_weights
from fusion.pycaffe.net_spec import NetSpec, Top, layers as L
from fusion.surgery import fuse_horizontally
from prototxt.schema.messages import NetParameter

Weights = dict[str, list[np.ndarray]]


def fused(branch: Callable[[NetSpec, str], Top], count: int, size: tuple[int, int]) -> prototxt.Document:
    """Write branches p0, p1, ... from one input of (channels, side), concatenated and scored."""
    n = input_data(*size)
    n.all = L.Concat(*(branch(n, f"p{number}/") for number in range(count)))
    n.scores = dense(n.all, 10)
    return prototxt.parse(str(n.to_proto()))


def weights_of(net: NetParameter) -> Weights:
    """Return random weights of a size that keeps deep values in range."""
    random, found = np.random.default_rng(0), {}
    for item, shapes in zip(net.layer, prototxt.infer(net).params, strict=True):
        sizes = [tuple(int(dim or 1) for dim in shape) for shape in shapes]
        blobs = [random.normal(0, 1 / math.sqrt(max(math.prod(size[1:]), 16)), size) for size in sizes]
        if item.type == "BatchNorm":
            blobs = [blobs[0], np.abs(blobs[1]) + 1, np.ones(1)]
        if blobs:
            found[item.name] = [np.asarray(blob, np.float32) for blob in blobs]
    return found


def built(document: prototxt.Document, weights: Weights, device: str) -> Net:
    net = build(prototxt.load_net(document), "TEST")
    load_weights(net, weights)
    return net.to(device)


def milliseconds(net: Net, x: Tensor, repeats: int) -> float:
    """Return the milliseconds of one pass."""
    start = time.perf_counter()
    for _ in range(repeats):
        net({"data": x})
    if x.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats * 1e3


def row(title: str, document: prototxt.Document, batch: int, repeats: int, device: str) -> list[object]:
    weights = weights_of(prototxt.load_net(document))
    prefixes = list(dict.fromkeys(name.partition("/")[0] for name in weights if "/" in name))
    nets = {"separate": built(document, weights, device)}
    for name, also_dense in (("grouped", False), ("dense", True)):
        result = fuse_horizontally(document, weights, prefixes, dense=also_dense)
        assert result.document is not None
        nets[name] = built(result.document, {layer: list(blobs) for layer, blobs in result.weights.items()}, device)
    shape = prototxt.infer_shapes(prototxt.load_net(document))["data"]
    x = torch.randn(batch, *[int(dim or 1) for dim in shape[1:]], device=device)
    expected = nets["separate"]({"data": x})["scores"]
    worst = max(
        float((net({"data": x})["scores"] - expected).abs().max() / expected.abs().max()) for net in nets.values()
    )
    assert worst <= (1e-5 if device == "cpu" else 1e-2), f"{title}: the scores differ by {worst:g}"
    found = interleaved({name: partial(milliseconds, net, x, repeats) for name, net in nets.items()}, rounds=5)
    speeds = [f"{found['separate'] / found[name]:.2f}x" for name in ("grouped", "dense")]
    return [title, batch, *(f"{found[name]:.2f} ms" for name in nets), *speeds, f"{worst:.1e}"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    device = options.parse_args().device
    narrow, wide = (partial(resnet_body, width=width, depths=(2, 2, 2)) for width in (16, 64))
    rows = []
    with torch.no_grad():
        for title, branch, count, size, batch, repeats in (
            ("two LeNets", lenet_body, 2, (1, 28), 1, 100),
            ("two LeNets", lenet_body, 2, (1, 28), 64, 10),
            ("five LeNets", lenet_body, 5, (1, 28), 1, 50),
            ("five LeNets", lenet_body, 5, (1, 28), 64, 5),
            ("two narrow residual nets", narrow, 2, (3, 64), 1, 20),
            ("two narrow residual nets", narrow, 2, (3, 64), 16, 4),
            ("two wide residual nets", wide, 2, (3, 64), 1, 10),
        ):
            rows.append(row(title, fused(branch, count, size), batch, repeats, device))
    print(
        table(
            ["branches", "batch", "separate", "grouped", "with dense", "grouped", "with dense", "largest difference"],
            rows,
        )
    )
    print(f"\n{device}, {torch.get_num_threads()} threads; {machine()}")


if __name__ == "__main__":
    main()
