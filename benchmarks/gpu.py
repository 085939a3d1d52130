"""Training on a GPU beside PyTorch written by hand, and the differences of its numbers from a CPU's: two tables.

    python benchmarks/gpu.py [--device cuda|cpu] [--rounds N] [--batch N] [--size N] [--only TEXT]

Rivals take turns in one process and medians are compared. One batch in memory is used again and again, so that steps
alone are measured: forward, backward, update. "By hand" is torch's modules or torchvision's ResNet-50 with
torch.optim.SGD(fused=True), for bf16 with autocast and channels last; once eager and once under torch.compile with CUDA
graphs, so that compiled steps have a compiled peer. Without a GPU the script prints so and ends;
`--device cpu --batch 2 --size 64 --rounds 1` tests it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import nets
import numpy as np
import timing
import torch
import torch.nn.functional as F
import torchvision
from peers import Loop, compile_for, compiled, wait
from torch import Tensor, nn

from fusion.nets.build import build, params, total_loss
from fusion.solver import Solver, TrainOptions
from fusion.solver.logging.console import Silent
from prototxt.schema.messages import NetParameter, SolverParameter

EAGER, COMPILED = "eager", "under torch.compile"
SMALL = (64, 1, 28, 28)


def main() -> None:
    options = parser().parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("there is no GPU here, so nothing is measured")
        return
    bench = Bench(torch.device(options.device), (options.batch, 3, options.size, options.size))
    chosen = (row for row in rows(bench) if options.only in row.name)
    lines = [line for row in chosen for line in measured(row, options.rounds, options.count)]
    print("\n" + timing.table(["net", "ours", "by hand", "its speed", "ratio", "wanted"], lines))
    subjects = [("LeNet", nets.lenet(SMALL[0]), SMALL)]
    subjects.append(("ResNet-50", nets.resnet(4, options.size), (4, 3, options.size, options.size)))
    apart = [(name, *differences(net, shape, bench.device)) for name, net, shape in subjects if options.only in name]
    print("\n" + timing.table(["largest difference from a CPU", "outputs", "gradients"], apart))
    where = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else timing.machine()
    print(
        f"\n{where}, torch {torch.__version__}; batches of {SMALL[0]} and {options.batch}; medians of {options.rounds}"
    )


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--device", default="cuda")
    result.add_argument("--rounds", type=int, default=7)
    result.add_argument("--batch", type=int, default=64, help="of ResNet-50 (LeNet's is 64)")
    result.add_argument("--size", type=int, default=224, help="of ResNet-50's pictures, in pixels")
    result.add_argument("--count", type=int, help="steps of a round, instead of the rows' own numbers")
    result.add_argument("--only", default="", metavar="TEXT", help="rows whose name has this in it")
    return result


@dataclass(frozen=True)
class Bench:
    """The settings of all rows: the device, and the shape of ResNet-50's batches."""

    device: torch.device
    large: tuple[int, int, int, int]

    def ours(self, net: NetParameter, shape: Sequence[int], amp: str | None, compiled: bool) -> Loop:
        """Return the loop over steps of a solver; a frozen trunk runs in each of them."""
        pixels, labels = batch_of(shape)
        solver = SolverParameter(
            base_lr=0.001, momentum=0.9, weight_decay=5e-4, lr_policy="fixed", max_iter=10**9,
            snapshot_after_train=False, random_seed=1, net_param=net,
        )  # fmt: skip
        run = Solver(
            solver, device=str(self.device), arrays={"data": pixels, "label": labels}, display=Silent(),
            cache_budget=0, extras=TrainOptions(amp=amp), compile=compiled, threads="auto",
        )  # fmt: skip
        for call in run.net.plan.calls:
            if call.type == "BatchNorm":  # variances of 1, as torchvision's; those of untrained ones are 0 in Caffe
                for statistics in params(run.net)[call.name][1:]:
                    statistics.fill_(1.0)
        return self._ready(run.step)

    def by_hand(
        self,
        net: nn.Module,
        shape: Sequence[int],
        *,
        half: bool = False,
        frozen: nn.Module | None = None,
        by_compiler: bool = False,
    ) -> Loop:
        """Return the loop over steps of a net, or of a head on a frozen trunk."""
        pixels, labels = (torch.from_numpy(values).to(self.device) for values in batch_of(shape))
        for part in (net, frozen):
            if part is not None:
                part.to(self.device, memory_format=torch.channels_last if half else torch.contiguous_format)
        if half:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), 0.001, momentum=0.9, weight_decay=5e-4, fused=True)

        def plain(pixels: Tensor, labels: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
                with torch.no_grad():
                    inputs = pixels if frozen is None else frozen(pixels)
                return F.cross_entropy(net(inputs), labels)

        loss_of, labels = compile_for(self.device, plain) if by_compiler else plain, labels.long()

        def loop(count: int) -> None:
            for _ in range(count):
                optimizer.zero_grad()
                loss_of(pixels, labels).backward()
                optimizer.step()

        return self._ready(loop)

    def _ready(self, loop: Callable[[int], object]) -> Loop:
        """Return the loop, warmed up, that waits for the device at its end."""

        def run(count: int) -> None:
            loop(count)
            wait(self.device)

        run(3)
        return run


@dataclass(frozen=True)
class Row:
    """Lines of the table, one for each peer.

    count    steps of a round
    wanted   the ratios beside the eager loop and beside the compiled one
    ours     makes our loop
    by_hand  makes a peer, compiled or not
    """

    name: str
    count: int
    wanted: tuple[str, str]
    ours: Callable[[], Loop]
    by_hand: Callable[[bool], Loop]


def rows(bench: Bench) -> Iterator[Row]:
    """Yield the rows: LeNet is bound by the start of operations, ResNet-50 by arithmetic."""
    ways = ((False, ""), (True, ", compiled"))
    for compiled_, how in ways:
        yield Row(
            f"LeNet{how}", 200, (">= 3" if compiled_ else ">= 1", ">= 1" if compiled_ else ""),
            partial(bench.ours, nets.lenet(SMALL[0]), SMALL, None, compiled_),
            lambda made: bench.by_hand(nets.lenet_by_hand(), SMALL, by_compiler=made),
        )  # fmt: skip
    batch, _, size, _ = bench.large
    for amp in (None, "bf16"):
        for compiled_, how in ways:
            yield Row(
                f"ResNet-50, {amp or 'float32'}{how}", 5, (">= 1", ">= 1" if compiled_ else ""),
                partial(bench.ours, nets.resnet(batch, size), bench.large, amp, compiled_),
                lambda made, half=amp is not None: bench.by_hand(
                    torchvision.models.resnet50(weights=None), bench.large, half=half, by_compiler=made
                ),
            )  # fmt: skip
    for compiled_, how in ways:
        yield Row(
            f"classifier on a frozen ResNet-50, bf16{how}", 5, (">= 0.9", ">= 0.9" if compiled_ else ""),
            partial(bench.ours, nets.resnet(batch, size, frozen=True), bench.large, "bf16", compiled_),
            lambda made: bench.by_hand(
                nn.Linear(2048, 1000), bench.large, half=True, frozen=trunk_by_hand(), by_compiler=made
            ),
        )  # fmt: skip


def trunk_by_hand() -> nn.Module:
    net = torchvision.models.resnet50(weights=None).eval()
    net.fc = nn.Identity()
    return net


def measured(row: Row, rounds: int, steps: int | None) -> list[Sequence[str]]:
    """Let ours and both peers take turns; return a line for each peer."""
    torch.compiler.reset()  # rows do not count against each other's limit of compilations
    count = steps or row.count
    loops = {"ours": row.ours(), EAGER: row.by_hand(False)}
    if (made := compiled(partial(row.by_hand, True))) is not None:
        loops[COMPILED] = made
    turns = {name: partial(timing.seconds, partial(loop, count)) for name, loop in loops.items()}
    wall = timing.interleaved(turns, rounds=rounds)
    lines = []
    for name, wanted in zip((EAGER, COMPILED), row.wanted, strict=True):
        if name in wall:
            speeds = [f"{count / wall[rival]:,.4g} it/s" for rival in ("ours", name)]
            ratio = f"{wall[name] / wall['ours']:.2f}"
            print(f"{row.name}: {ratio} beside {name} (wanted: {wanted or '-'})", flush=True)
            lines.append((row.name, speeds[0], name, speeds[1], ratio, wanted))
    return lines


def batch_of(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures and labels, float32, the same each time."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape).astype(np.float32), rng.integers(0, 10, shape[0]).astype(np.float32)


def differences(net: NetParameter, shape: Sequence[int], device: torch.device) -> tuple[str, str]:
    """Return the differences of outputs and gradients, as shares of each tensor's maximum; float32 without TF32."""
    pixels, labels = (torch.from_numpy(values) for values in batch_of(shape))
    found: list[tuple[list[Tensor], list[Tensor]]] = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for where in (torch.device("cpu"), device):
            made = build(net, phase="TRAIN", shapes={"data": shape, "label": shape[:1]}, seed=1).to(where)
            out = made({"data": pixels.to(where), "label": labels.to(where)})
            total_loss(made, out).backward()
            gradients = [t.grad for tensors in params(made).values() for t in tensors if t.grad is not None]
            found.append(([value.detach().cpu() for value in out.values()], [value.cpu() for value in gradients]))
    outputs, gradients = (max(map(difference, *pair)) for pair in zip(*found, strict=True))
    return f"{outputs:.2g}", f"{gradients:.2g}"


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-12))


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s")
