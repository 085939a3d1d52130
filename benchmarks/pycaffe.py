"""The cost of scripts for Caffe's Python module: layer by layer on blobs, beside nets and solvers used directly.

CaffeNet, batch 10: `net.forward()` after filling its input, beside the net's torch module. LeNet, batch 64:
`solver.step(1)` beside a step of `fusion.Solver`. A whole process that opens a LeNet with its weights and runs it once,
beside `import torch`. Rivals take turns; medians.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from nets import dense, input_data, lenet_body, rectified
from timing import interleaved, machine, process, seconds, table

import fusion
import fusion.pycaffe as caffe
from fusion.pycaffe import layers as L
from fusion.pycaffe.net_spec import NetSpec
from fusion.solver.logging.console import Silent

SCRIPT = """
import fusion.pycaffe as caffe
net = caffe.Net("lenet.prototxt", caffe.TEST, weights="lenet.caffemodel")
net.blobs["data"].data[...] = 0.5
net.forward()
"""
SOLVER = 'net: "train.prototxt" base_lr: 0.001 momentum: 0.9 lr_policy: "fixed" max_iter: 1000000 random_seed: 1'


def caffenet_text() -> str:
    """Write BVLC's CaffeNet for deployment, batch 10."""
    n, top = NetSpec(), L.Input(shape={"dim": [10, 3, 227, 227]})
    n.data = top
    filler = {"type": "gaussian", "std": 0.01}
    for number, (outputs, kernel, stride, pad, group) in enumerate(
        ((96, 11, 4, 0, 1), (256, 5, 1, 2, 2), (384, 3, 1, 1, 1), (384, 3, 1, 1, 2), (256, 3, 1, 1, 2)), 1
    ):
        convolution = {"kernel_size": kernel, "stride": stride, "pad": pad, "group": group}
        n[f"conv{number}"] = top = L.Convolution(top, num_output=outputs, weight_filler=filler, **convolution)
        n[f"relu{number}"] = top = L.ReLU(top, in_place=True)
        if number in (1, 2, 5):
            n[f"pool{number}"] = top = L.Pooling(top, kernel_size=3, stride=2)
        if number < 3:
            n[f"norm{number}"] = top = L.LRN(top, local_size=5, alpha=1e-4, beta=0.75)
    for number in (6, 7):
        n[f"fc{number}"] = top = L.InnerProduct(top, num_output=4096, weight_filler=filler)
        n[f"relu{number}"] = top = L.ReLU(top, in_place=True)
        n[f"drop{number}"] = top = L.Dropout(top, in_place=True)
    n.fc8 = L.InnerProduct(top, num_output=1000, weight_filler=filler)
    n.prob = L.Softmax(n.fc8)
    return str(n.to_proto())


def lenet_text(*, trained: bool) -> str:
    """Write a LeNet, with constant data and a loss where it is trained."""
    n = input_data(1, 28)
    if trained:
        shapes = [{"dim": [64, 1, 28, 28]}, {"dim": [64]}]
        n.data, n.label = L.DummyData(shape=shapes, data_filler=[{"value": 0.5}, {"value": 1}], ntop=2)
    n.ip2 = dense(rectified(n, "ip1", lenet_body(n)), 10)
    if trained:
        n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return str(n.to_proto())


def forward_times(rounds: int) -> dict[str, float]:
    Path("caffenet.prototxt").write_text(caffenet_text())
    net = caffe.Net("caffenet.prototxt", caffe.TEST)
    images = np.random.default_rng(0).standard_normal(net.blobs["data"].shape, np.float32)

    def in_place() -> None:
        net.blobs["data"].data[...] = images
        net.forward()

    def program() -> None:
        with torch.no_grad():
            net.module({"data": torch.from_numpy(images)})

    return interleaved({"script": lambda: seconds(in_place), "direct": lambda: seconds(program)}, rounds=rounds)


def step_times(rounds: int) -> dict[str, float]:
    Path("train.prototxt").write_text(lenet_text(trained=True))
    Path("solver.prototxt").write_text(SOLVER)
    script = caffe.SGDSolver("solver.prototxt")
    direct = fusion.Solver("solver.prototxt", device="cpu", display=Silent())
    steps = 10

    def single() -> None:
        for _ in range(steps):
            script.step(1)

    rivals = {"script": lambda: seconds(single), "direct": lambda: seconds(lambda: direct.step(steps))}
    return {name: time / steps for name, time in interleaved(rivals, rounds=rounds).items()}


def process_times(rounds: int) -> dict[str, float]:
    Path("lenet.prototxt").write_text(lenet_text(trained=False))
    caffe.Net("lenet.prototxt", caffe.TEST).save("lenet.caffemodel")
    rivals = {
        "script": lambda: process([sys.executable, "-c", SCRIPT]).wall,
        "direct": lambda: process([sys.executable, "-c", "import torch"]).wall,
    }
    return interleaved(rivals, rounds=rounds)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--rounds", type=int, default=9)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    caffe.init_log(2)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, measure in (
            ("CaffeNet, batch 10: forward; its module", forward_times),
            ("LeNet, batch 64: solver.step(1); a step of fusion.Solver", step_times),
            ("a process with a LeNet, its weights and a forward pass; import torch", process_times),
        ):
            found = measure(chosen.rounds)
            times = (f"{found[key] * 1000:.1f}" for key in ("script", "direct"))
            rows.append((name, *times, f"{found['script'] / found['direct']:.2f}"))
        os.chdir("/")
    print(table(("script; beside", "script, ms", "beside, ms", "ratio"), rows))
    print(f"\n{machine()}, torch {torch.__version__}, {chosen.threads} threads, medians of {chosen.rounds}")


if __name__ == "__main__":
    main()
