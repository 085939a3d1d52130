"""How fast training is beside PyTorch written by hand: one table, in six minutes on two cores.

    python benchmarks/train.py [--only TEXT] [--rounds N] [--device cpu|cuda] [--threads N] [--work DIR]

Rivals take turns in one process and medians are compared, of wall time and, for busy machines, of CPU time. Each has
the number of threads that it would have on its own: ours measures at the start (or takes --threads), what is written by
hand takes torch's. Nets with and without references go at one pace. MNIST comes with the examples; its pictures are
unpacked to a temporary folder, or to --work, where they are found again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timing
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fusion.nets.build import params
from fusion.solver import Solver
from fusion.solver.logging.console import Silent
from fusion.solver.step.autotune import RunConfig
from prototxt.schema.load import load_solver
from prototxt.schema.messages import SolverParameter

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "mnist_odd_even"
SOME = 5000  # pictures for all rows but the last
ITERATIONS = 30_000
PCT = ["--classes", "odd=1,3,5,7,9", "--classes", "even=0,2,4,6,8", "--pct", "focal,distance=L2,weight=0.002",
    "--pct", "naive"]  # fmt: skip
Loop = Callable[[int], None]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    peer     what it is measured beside
    wanted   the ratio
    costs    whether the ratio is our time over the peer's, not the other way round
    count    iterations of one round
    parts    how many turns the rivals take in a round: many where they are nearly alike, for the machine's speed drifts
    rivals   makes both loops; each call of them is a round
    """

    name: str
    peer: str
    wanted: str
    count: int
    rivals: Callable[[], tuple[Loop, Loop]]
    costs: bool = False
    parts: int = 1


def main() -> None:
    options = parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options.device, options.threads or "auto", torch.get_num_threads())
    with contextlib.ExitStack() as stack:
        work = Path(options.work or stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        stack.callback(os.chdir, Path.cwd())
        os.chdir(work)
        prepare_work()
        lines = [measured(bench, row, options.rounds) for row in rows(bench) if options.only in row.name]
        if options.only in "30,000 iterations of the fused head":
            lines.append(whole_command(options.device, options.rounds))
    print("\n" + timing.table(["what", "ours", "beside it", "ratio", "by CPU time", "wanted"], lines))
    print(f"\n{timing.machine()}, torch {torch.__version__}, {options.device}; medians of {options.rounds}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--device", default="cpu")
    result.add_argument("--threads", type=int, help="for all rivals (default: each as it would be on its own)")
    result.add_argument("--rounds", type=int, default=5)
    result.add_argument("--only", default="", metavar="TEXT", help="rows whose name has this in it")
    result.add_argument("--work", metavar="DIR", help="where pictures and nets are written")
    return result


def prepare_work() -> None:
    """Write MNIST's pictures, lists of some of them, and the nets that the rows train."""
    sys.path.insert(0, str(EXAMPLE))
    import prepare  # type: ignore[import-not-found]

    with contextlib.redirect_stdout(io.StringIO()):
        prepare.prepare(Path())
        for kind in ("odd", "all"):
            lines = Path(f"train_{kind}.txt").read_text().splitlines(keepends=True)
            Path(f"some_{kind}.txt").write_text("".join(lines[:SOME]))
        compose("fused", "train_all.txt", "concat-fc")
        compose("linear", "some_all.txt", "concat-fc")
        compose("mlp", "some_all.txt", "concat-mlp", "--hidden", "64")
        compose("pct", "some_all.txt", "concat-fc", *PCT)
    odd = Path("lenet_odd_train_val.prototxt").read_text().replace("train_odd.txt", "some_odd.txt")
    Path("odd.prototxt").write_text(odd)


def compose(out: str, train_list: str, head: str, *more: str) -> None:
    """Fuse the two LeNets, untrained: what the numbers are makes no difference to the time."""
    from caffe_fusion_tools.compose import main as run

    nets = [part for p in ("odd", "even") for part in ("--source", f"{p}=lenet_{p}_train_val.prototxt@ip1")]
    data = ["--train-list", train_list, "--val-list", "val_all.txt", "--train-batch", "50", "--test-batch", "20"]
    code = run([*nets, "--head", head, "--num-output", "10", "--max-iter", str(ITERATIONS), *data, *more, "-o", out])
    if code:
        raise SystemExit(code)


@dataclass
class Bench:
    """What all rows share.

    threads  of ours: a number, or "auto"
    torchs   the number of threads that torch has by itself
    """

    device: str
    threads: int | str
    torchs: int

    def solver(self, net: str, budget: int = 4 << 30) -> Solver:
        """The example's solver on another net, without tests, displays and snapshots."""
        message: SolverParameter = load_solver("lenet_odd_solver.prototxt")
        for name in ("test_iter", "test_interval", "display", "snapshot", "snapshot_after_train"):
            message.ClearField(name)
        message.net = net
        message.snapshot_after_train = False
        return Solver(message, device=self.device, display=Silent(), threads=self.threads, cache_budget=budget)

    def with_torchs(self, loop: Loop) -> Loop:
        """A loop that runs with torch's own number of threads."""

        def run(count: int) -> None:
            torch.set_num_threads(self.torchs)
            loop(count)

        return run

    def steps(self, net: str) -> Loop:
        """Steps of a solver that is ready, at the pace that it has chosen."""
        return self._ready(self.solver(f"{net}/train_val.prototxt"))[0]

    def pair(self, net: str, plain: str, budget: int) -> tuple[Loop, Loop]:
        """Steps of two nets at the pace that suits the second."""
        second, pace = self._ready(self.solver(f"{plain}/train_val.prototxt", budget))
        first = self.solver(f"{net}/train_val.prototxt", budget)
        first.pacemaker.replayed = pace
        return self._ready(first)[0], second

    def _ready(self, run: Solver) -> tuple[Loop, RunConfig]:
        torch.set_num_threads(self.torchs)
        run.step(20)
        pace = RunConfig(torch.get_num_threads(), run.pacemaker.channels_last)

        def loop(count: int) -> None:
            torch.set_num_threads(pace.threads)
            run.step(count)

        return loop, pace


def rows(bench: Bench) -> Iterator[Row]:
    """The rows whose rivals take turns."""
    yield Row("LeNet from scratch, pictures decoded, batch 25", "by hand", ">= 1.0", 1000, lambda: scratch(bench))
    for name, net in (("linear", "linear"), ("MLP", "mlp")):
        yield Row(
            f"{name} head on a kept trunk, batch 50", "by hand", ">= 1.3", 2000, lambda net=net: heads(bench, net)
        )
    for how, wanted, count, budget in (("live", "<= 1.05", 400, 0), ("kept", "<= 1.5", 2000, 4 << 30)):
        yield Row(
            f"two shared references, {how} trunk", "without them", wanted, count,
            lambda budget=budget: bench.pair("pct", "linear", budget), costs=True, parts=8,
        )  # fmt: skip


def scratch(bench: Bench) -> tuple[Loop, Loop]:
    """From a list of pictures to a trained LeNet: each round decodes anew, and ours measures its pace anew."""

    def ours(count: int) -> None:
        torch.set_num_threads(bench.torchs)
        bench.solver("odd.prototxt").step(count)

    def by_hand(count: int) -> None:
        x, y = decode("some_odd.txt", bench.device)
        net = nn.Sequential(
            nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 5),
        )  # fmt: skip
        train(net.to(bench.device), x, y, 25, lambda pixels: (pixels.float() - 128) / 256)(count)

    return ours, bench.with_torchs(by_hand)


def heads(bench: Bench, net: str) -> tuple[Loop, Loop]:
    """A head behind a trunk that has been computed for all records before."""
    layers = params(bench.solver(f"{net}/train_val.prototxt").net)
    shapes = [t[0].shape for name, t in layers.items() if t[0].dim() == 2 and t[0].requires_grad]
    linear = [nn.Linear(columns, rows) for rows, columns in shapes]
    parts = [part for layer in linear for part in (layer, nn.ReLU())][:-1]
    features = torch.randn(SOME, shapes[0][1], device=bench.device)
    labels = torch.randint(10, (SOME,), device=bench.device)
    by_hand = train(nn.Sequential(*parts).to(bench.device), features, labels, 50)
    return bench.steps(net), bench.with_torchs(by_hand)


def decode(path: str, device: str) -> tuple[Tensor, Tensor]:
    """All pictures of a list, uint8 [N, 1, H, W], and their labels int64 [N]."""
    pairs = [line.split() for line in Path(path).read_text().splitlines()]
    pixels = np.stack([np.asarray(Image.open(name).convert("L")) for name, _ in pairs])[:, None]
    labels = np.array([int(label) for _, label in pairs])
    return torch.from_numpy(pixels).to(device), torch.from_numpy(labels).to(device)


def train(
    net: nn.Module, x: Tensor, y: Tensor, batch: int, prepared: Callable[[Tensor], Tensor] = lambda rows: rows
) -> Loop:
    """What one writes by hand: batches as slices, SGD with momentum and decay, no waiting for the device."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for at in range(0, len(x) - batch + 1, batch):
                yield x[at : at + batch], y[at : at + batch]

    endless = batches()

    def loop(count: int) -> None:
        for _ in range(count):
            inputs, labels = next(endless)
            optimizer.zero_grad()
            F.cross_entropy(net(prepared(inputs)), labels).backward()
            optimizer.step()

    return loop


def measured(bench: Bench, row: Row, rounds: int) -> Sequence[str]:
    """Run the two in turn."""
    ours, peer = row.rivals()
    count = row.count // row.parts
    cpu: dict[str, list[float]] = {"ours": [], "peer": []}

    def seconds(name: str, loop: Loop) -> float:
        start, before = time.perf_counter(), time.process_time()
        loop(count)
        if bench.device != "cpu":
            torch.cuda.synchronize()
        cpu[name].append(time.process_time() - before)
        return time.perf_counter() - start

    wall = timing.interleaved(
        {"ours": lambda: seconds("ours", ours), "peer": lambda: seconds("peer", peer)}, rounds=rounds * row.parts
    )
    spent = {name: statistics.median(times[1:]) for name, times in cpu.items()}
    ratios = [
        f"{found['ours'] / found['peer'] if row.costs else found['peer'] / found['ours']:.2f}"
        for found in (wall, spent)
    ]
    speeds = [f"{count / wall[name]:,.0f} it/s" for name in ("ours", "peer")]
    print(f"{row.name}: {ratios[0]}, by CPU time {ratios[1]} ({row.wanted})", flush=True)
    return row.name, speeds[0], f"{speeds[1]} {row.peer}", *ratios, row.wanted


def whole_command(device: str, rounds: int) -> Sequence[str]:
    """The command as a user starts it, several times: 50,000 pictures, the trunk, 30,000 iterations, all tests."""
    command = [
        sys.executable,
        "-m",
        "caffe_fusion_tools.train",
        "--solver",
        "fused/solver.prototxt",
        "--device",
        device,
    ]
    timing.process(command)  # files are in memory and modules compiled behind it
    runs = sorted((timing.process(command) for _ in range(rounds)), key=lambda run: run.wall)
    middle, walls = runs[rounds // 2], f"{runs[0].wall:.1f} to {runs[-1].wall:.1f}"
    print(f"{ITERATIONS:,} iterations: {middle.wall:.1f} s ({walls})", flush=True)
    cost = f"{middle.wall:.1f} s ({walls}), {middle.cpu:.0f} s of CPU, {middle.peak_mib:,.0f} MiB"
    return f"{ITERATIONS:,} iterations of the fused head, whole command", cost, "", "", "", "<= 32 s"


if __name__ == "__main__":
    main()
