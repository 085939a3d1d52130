"""How fast training is beside hand-written PyTorch: LeNet from scratch, and a head behind a cached frozen trunk.

Both loops of a pair run in turn in one process, with the same batches, rule and threads; medians of their times.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from google.protobuf import text_format
from torch import Tensor, nn

from fusion.solver import Solver
from fusion.solver.display import Silent
from prototxt.messages import SolverParameter

_SOLVER = 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "step" gamma: 0.7 stepsize: 1000 random_seed: 1'
_DATA = """layer {{ name: "data" type: "MemoryData" top: "data" top: "label"
  memory_data_param {{ batch_size: {batch} channels: {channels} height: {side} width: {side} }} }}"""
_FILLED = 'weight_filler { type: "xavier" }'
_LENET = """
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 20 kernel_size: 5 {f} }} }}
layer {{ name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param {{ kernel_size: 2 stride: 2 }} }}
layer {{ name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param {{ num_output: 50 kernel_size: 5 {f} }} }}
layer {{ name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2" pooling_param {{ kernel_size: 2 stride: 2 }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1" inner_product_param {{ num_output: 500 {f} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param {{ num_output: 10 {f} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""
_FROZEN = """
layer {{ name: "trunk" type: "InnerProduct" bottom: "data" top: "trunk" param {{ lr_mult: 0 }} param {{ lr_mult: 0 }}
  inner_product_param {{ num_output: 1000 {f} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "trunk" top: "trunk" }}
"""
_LINEAR = """
layer {{ name: "ip" type: "InnerProduct" bottom: "trunk" top: "ip" inner_product_param {{ num_output: 10 {f} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""
_MLP = """
layer {{ name: "ip1" type: "InnerProduct" bottom: "trunk" top: "ip1" inner_product_param {{ num_output: 64 {f} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "ip1" top: "ip" inner_product_param {{ num_output: 10 {f} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""

Loop = Callable[[int], None]


def ours(layers: str, *, rows: int, batch: int, channels: int, side: int, device: str) -> Loop:
    """A solver on random pictures that are handed over in memory."""
    message = SolverParameter()
    text_format.Parse(_SOLVER, message)
    net = _DATA.format(batch=batch, channels=channels, side=side) + layers.format(f=_FILLED)
    text_format.Parse(net, message.net_param)
    rng = np.random.default_rng(0)
    arrays = {
        "data": rng.standard_normal((rows, channels, side, side), np.float32),
        "label": rng.integers(10, size=rows).astype(np.float32),
    }
    solver = Solver(message, device=device, display=Silent(), arrays=arrays)

    def loop(count: int) -> None:
        solver.step(count)

    return loop


def hand_written(net: nn.Module, x: Tensor, y: Tensor, batch: int) -> Loop:
    """What one writes by hand: batches as slices, SGD with momentum, no waiting for the device."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for at in range(0, len(x), batch):
                yield x[at : at + batch], y[at : at + batch]

    endless = batches()

    def loop(count: int) -> None:
        for _ in range(count):
            inputs, labels = next(endless)
            optimizer.zero_grad()
            F.cross_entropy(net(inputs), labels).backward()
            optimizer.step()

    return loop


def lenet() -> nn.Module:
    """The hand-written LeNet."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def compare(name: str, pair: tuple[Loop, Loop], iterations: int, rounds: int) -> None:
    """Run the two loops in turn and print one row."""
    times: tuple[list[float], list[float]] = ([], [])
    for loop in pair:
        loop(max(20, iterations // 10))
    for _ in range(rounds):
        for loop, found in zip(pair, times, strict=True):
            start = time.perf_counter()
            loop(iterations)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found.append(time.perf_counter() - start)
    own, hand = (iterations / statistics.median(found) for found in times)
    print(f"| {name} | {own:,.0f} | {hand:,.0f} | {own / hand:.2f}x |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", default="", help="run the rows whose name has this in it")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"torch {torch.__version__}, {chosen.device}, {chosen.threads} threads, medians of {chosen.rounds}\n")
    print("| what | ours, it/s | hand-written, it/s | ratio |\n|---|---|---|---|")
    rows, device = 5000, chosen.device
    if chosen.only in "LeNet":
        x = torch.randn(rows, 1, 28, 28, device=device)
        y = torch.randint(10, (rows,), device=device)
        pair = (
            ours(_LENET, rows=rows, batch=25, channels=1, side=28, device=device),
            hand_written(lenet().to(device), x, y, 25),
        )
        compare("LeNet from scratch, batch 25", pair, 100, chosen.rounds)
    features = torch.randn(rows, 1000, device=device)
    labels = torch.randint(10, (rows,), device=device)
    for name, layers, head in (
        ("linear head on a cached trunk, batch 50", _LINEAR, nn.Linear(1000, 10)),
        (
            "MLP head on a cached trunk, batch 50",
            _MLP,
            nn.Sequential(nn.Linear(1000, 64), nn.ReLU(), nn.Linear(64, 10)),
        ),
    ):
        if chosen.only in name:
            pair = (
                ours(_FROZEN + layers, rows=rows, batch=50, channels=1, side=28, device=device),
                hand_written(head.to(device), features, labels, 50),
            )
            compare(name, pair, 2000, chosen.rounds)


if __name__ == "__main__":
    main()
