"""How fast training is beside PyTorch written by hand: one table, in about ten minutes on two cores.

    python benchmarks/train.py [--only TEXT] [--rounds N] [--device cpu|cuda] [--threads N] [--work DIR] [--quick]

The peers are an ordinary loop (modules, autograd, fused SGD), the same loop under torch.compile, and for heads what an
expert writes: gradients by hand in one thread. Rivals take turns in one process and medians are compared, of wall time
and, for busy machines, of CPU time. Each has the number of threads and the memory layout that suit it, which the table
says: ours measures at the start (or takes --threads), peers were tried with one thread and with all. Nets with and
without references go at one pace. MNIST comes with the examples; its pictures are unpacked to a temporary folder, or to
--work, where they are found again.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nets
import numpy as np
import timing
import torch
from peers import Loop, Peer, by_hand, compiled, ordinary, quickest, wait
from PIL import Image
from torch import Tensor, nn

from fusion.nets.build import params
from fusion.solver import Solver
from fusion.solver.logging.console import Silent
from fusion.solver.step.autotune import RunConfig
from prototxt.schema.load import load_solver
from prototxt.schema.messages import SolverParameter

SOME = 5000  # pictures for all rows but the last
ITERATIONS = 30_000
WHOLE = f"{ITERATIONS:,} iterations of the fused head, whole command"
PCT = ["--classes", "odd=1,3,5,7,9", "--classes", "even=0,2,4,6,8", "--pct", "focal,distance=L2,weight=0.002",
    "--pct", "naive"]  # fmt: skip
ORDINARY, COMPILED, EXPERT = "ordinary loop", "under torch.compile", "gradients by hand"


@dataclass(frozen=True)
class Row:
    """Some lines of the table, one for each peer.

    count    iterations of one round
    wanted   the ratio by the peer's name
    rivals   makes ours and its peers
    costs    whether the ratio is our time over the peer's, not the other way round
    parts    how many turns the rivals take in a round: many where they are nearly alike, for the machine's speed drifts
    """

    name: str
    count: int
    wanted: Mapping[str, str]
    rivals: Callable[[], Sequence[Peer]]
    costs: bool = False
    parts: int = 1


def main() -> None:
    options = parser().parse_args()
    scale = 100 if options.quick else 1
    rounds = 1 if options.quick else options.rounds
    bench = Bench(options.device, options.threads, options.threads or torch.get_num_threads(), scale)
    with contextlib.ExitStack() as stack:
        work = Path(options.work or stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        stack.callback(os.chdir, Path.cwd())
        os.chdir(work)
        prepare_work()
        lines = [line for row in rows(bench) if options.only in row.name for line in measured(bench, row, rounds)]
        if options.only in WHOLE:
            lines.append(whole_command(options.device, rounds, ITERATIONS // scale))
    header = ["what", "ours", "threads", "peer", "its speed", "threads", "ratio", "by CPU time", "wanted"]
    print("\n" + timing.table(header, lines))
    busy = f"load {os.getloadavg()[0]:.1f} at the end"
    print(f"\n{timing.machine()}, torch {torch.__version__}, {options.device}; medians of {rounds}; {busy}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--device", default="cpu")
    result.add_argument("--threads", type=int, help="for all rivals (default: what suits each)")
    result.add_argument("--rounds", type=int, default=5)
    result.add_argument("--only", default="", metavar="TEXT", help="rows whose name has this in it")
    result.add_argument("--quick", action="store_true", help="one round of a hundredth of the work: does it run?")
    result.add_argument("--work", metavar="DIR", help="where pictures and nets are written")
    return result


def prepare_work() -> None:
    """Write MNIST's pictures, lists of some of them, and the nets that the rows train."""
    from caffe_fusion_tools.mnist_odd_even import prepare

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

    threads  of all rivals, or None: what suits each
    most     the most threads that a rival may have
    scale    counts of iterations are divided by it
    """

    device: str
    threads: int | None
    most: int
    scale: int

    def solver(self, net: str, budget: int = 4 << 30) -> Solver:
        """Return the example's solver on another net, without tests, displays and snapshots."""
        message: SolverParameter = load_solver("lenet_odd_solver.prototxt")
        for name in ("test_iter", "test_interval", "display", "snapshot", "snapshot_after_train"):
            message.ClearField(name)
        message.net = net
        message.max_iter = 10**9  # rounds run on
        message.snapshot_after_train = False
        asked = self.threads or "auto"
        return Solver(message, device=self.device, display=Silent(), threads=asked, cache_budget=budget)

    def ours(self, net: str) -> Peer:
        """Return steps of a prepared solver, with the threads and layout that it has chosen."""
        return self._ready(self.solver(f"{net}/train_val.prototxt"))

    def pair(self, net: str, plain: str, budget: int) -> Sequence[Peer]:
        """Return steps of two nets with the threads and layout that suit the second."""
        second = self.solver(f"{plain}/train_val.prototxt", budget)
        peer = self._ready(second, "the net without them")
        first = self.solver(f"{net}/train_val.prototxt", budget)
        first.autotuner.replayed = RunConfig(peer.threads, second.autotuner.channels_last)
        return self._ready(first), peer

    def _ready(self, run: Solver, name: str = "ours") -> Peer:
        torch.set_num_threads(self.most)
        run.step(20)
        return Peer(name, run.step, torch.get_num_threads(), "channels last" * run.autotuner.channels_last)

    def peer(self, name: str, ways: Mapping[str, Callable[[], Loop]]) -> Peer:
        """Return the fastest of these ways with one thread or all."""
        threads = [self.threads] if self.threads else sorted({1, self.most})
        return quickest(name, ways, threads, max(2, 100 // self.scale))

    def peers(self, ways: Callable[[bool], Mapping[str, Callable[[], Loop]]]) -> list[Peer]:
        """Return the ordinary loop, and the same compiled in the layout that suited it, where there is a compiler.

        ways  makes loops that are compiled or not, by layout
        """
        torch.compiler.reset()
        plain = self.peer(ORDINARY, ways(False))
        made = compiled(lambda: self.peer(COMPILED, {plain.how: ways(True)[plain.how]}))
        return [plain] if made is None else [plain, made]


def rows(bench: Bench) -> Iterator[Row]:
    """Yield the rows whose rivals take turns."""
    yield Row(
        "LeNet from scratch, pictures decoded, batch 25", 1000, {ORDINARY: ">= 1.0"}, lambda: scratch(bench)
    )  # fmt: skip
    wanted = {ORDINARY: "about 2", EXPERT: ">= 0.9"}
    for name, net in (("linear", "linear"), ("MLP", "mlp")):
        yield Row(f"{name} head on a kept trunk, batch 50", 2000, wanted, partial(heads, bench, net))
    for how, most, count, budget in (("live", "<= 1.05", 400, 0), ("kept", "<= 1.1", 2000, 4 << 30)):
        yield Row(
            f"PCT with two references, {how} trunk, batch 50", count, {"the net without them": most},
            partial(bench.pair, "pct", "linear", budget), costs=True, parts=8,
        )  # fmt: skip


def scratch(bench: Bench) -> list[Peer]:
    """From a list of pictures to a trained LeNet: each round decodes anew, and ours measures its pace anew."""

    def ours(count: int) -> None:
        torch.set_num_threads(bench.most)
        bench.solver("odd.prototxt").step(count)

    def decoding(peer: Peer) -> Peer:
        def loop(count: int) -> None:
            x.copy_(decode("some_odd.txt", bench.device)[0])
            peer.loop(count)

        return Peer(peer.name, loop, peer.threads, peer.how)

    def ways(by_compiler: bool) -> Mapping[str, Callable[[], Loop]]:
        return {
            how: lambda last=bool(how): ordinary(
                nets.lenet_by_hand(), x, y, 25, scaled, channels_last=last, compiled=by_compiler
            )
            for how in ("", "channels last")
        }

    x, y = decode("some_odd.txt", bench.device)
    return [Peer("ours", ours, bench.most, "at most, measured each time"), *map(decoding, bench.peers(ways))]


def scaled(pixels: Tensor) -> Tensor:
    return (pixels.float() - 128) / 256


def heads(bench: Bench, net: str) -> list[Peer]:
    """Return the rivals of a head on a trunk that has been computed for all records before."""
    ours = bench.ours(net)
    layers = params(bench.solver(f"{net}/train_val.prototxt").net)
    shapes = [(len(t[0]), t[0].shape[1]) for t in layers.values() if t[0].dim() == 2 and t[0].requires_grad]
    features = torch.randn(SOME, shapes[0][1], device=bench.device)
    labels = torch.randint(10, (SOME,), device=bench.device)

    def ways(by_compiler: bool) -> Mapping[str, Callable[[], Loop]]:
        linear = [nn.Linear(inputs, outputs) for outputs, inputs in shapes]
        parts = [part for layer in linear for part in (layer, nn.ReLU())][:-1]
        return {"": lambda: ordinary(nn.Sequential(*parts), features, labels, 50, compiled=by_compiler)}

    return [ours, *bench.peers(ways), Peer(EXPERT, by_hand(shapes, features, labels, 50), 1)]


def decode(path: str, device: str) -> tuple[Tensor, Tensor]:
    """All pictures of a list, uint8 [N, 1, H, W], and their labels int64 [N]."""
    pairs = [line.split() for line in Path(path).read_text().splitlines()]
    pixels = np.stack([np.asarray(Image.open(name).convert("L")) for name, _ in pairs])[:, None]
    labels = np.array([int(label) for _, label in pairs])
    return torch.from_numpy(pixels).to(device), torch.from_numpy(labels).to(device)


def measured(bench: Bench, row: Row, rounds: int) -> list[Sequence[str]]:
    """Let ours and its peers take turns; a line for each peer."""
    rivals = row.rivals()
    count = max(2, row.count // row.parts // bench.scale)
    cpu: dict[str, list[float]] = {rival.name: [] for rival in rivals}

    def seconds(rival: Peer) -> float:
        start, before = time.perf_counter(), time.process_time()
        rival.run(count)
        wait(torch.device(bench.device))
        cpu[rival.name].append(time.process_time() - before)
        return time.perf_counter() - start

    turns = {rival.name: partial(seconds, rival) for rival in rivals}
    wall = timing.interleaved(turns, rounds=rounds * row.parts)
    spent = {name: statistics.median(times[1:]) for name, times in cpu.items()}
    ours, lines = rivals[0], []
    for peer in rivals[1:]:
        ratios = [found[ours.name] / found[peer.name] for found in (wall, spent)]
        said = [f"{ratio if row.costs else 1 / ratio:.2f}" for ratio in ratios]
        speeds = [f"{count / wall[rival.name]:,.0f} it/s" for rival in (ours, peer)]
        wanted = row.wanted.get(peer.name, "")
        print(f"{row.name}: {said[0]}, by CPU time {said[1]}, beside {peer.name} (wanted: {wanted or '-'})", flush=True)
        lines.append((row.name, speeds[0], ours.pace, peer.name, speeds[1], peer.pace, *said, wanted))
    return lines


def whole_command(device: str, rounds: int, iterations: int) -> Sequence[str]:
    """Run the command as a user starts it, several times: 50,000 pictures, the trunk, all iterations, all tests."""
    command = [
        sys.executable,
        "-m",
        "caffe_fusion_tools.train",
        "--solver",
        "fused/solver.prototxt",
        "--device",
        device,
    ]
    command += ["--max-iter", str(iterations)]
    timing.process(command)  # files are in memory and modules compiled after it
    runs = sorted((timing.process(command) for _ in range(rounds)), key=lambda run: run.wall)
    middle, walls = runs[rounds // 2], f"{runs[0].wall:.1f} to {runs[-1].wall:.1f}"
    print(f"{iterations:,} iterations: {middle.wall:.1f} s ({walls})", flush=True)
    cost = f"{middle.wall:.1f} s ({walls}), {middle.cpu:.0f} s of CPU, {middle.peak_mib:,.0f} MiB"
    return WHOLE.replace(f"{ITERATIONS:,}", f"{iterations:,}"), cost, "auto", "", "", "", "", "", "<= 20 s"


if __name__ == "__main__":
    main()
