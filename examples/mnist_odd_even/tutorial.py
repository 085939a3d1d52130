"""Two LeNets, one for odd and one for even digits, become one net for all ten that keeps their correct answers.

    fusion tutorial [--full] [--work DIR] [--iterations N] [--device cpu|cuda]

Every step is printed as a command that you can type yourself in the work directory. No network connection is made.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

from .. import arguments as shared
from ..cli import run_command
from ..command_parser import CommandParser

ODD, EVEN = "1,3,5,7,9", "0,2,4,6,8"
THAWED = ("--thaw", "/ip1$", "--lr", "0.03", "--lr-policy", "cosine")
TITLES = {
    "odd": "odd LeNet (odd digits)",
    "even": "even LeNet (even digits)",
    "fused": "fused, trained plainly",
    "fused_pct": "fused, trained with PCT",
}


def main(argv: Sequence[str] | None = None, prog: str = "fusion-tutorial") -> int:
    """Run all steps; return 0, or the exit code of the command that failed."""
    arguments = parser(prog).parse_args(argv)
    return run_command(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    begin = time.perf_counter()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # results and progress stay in order when both go to one file
    iterations = arguments.iterations or (30_000 if arguments.full else 4_000)
    arguments.work.mkdir(parents=True, exist_ok=True)
    print(f"$ cd {_shown(arguments.work)}")
    os.chdir(arguments.work)
    prepare_data(arguments.limit)
    train_sources(iterations, arguments.device)
    fuse(iterations)
    train_heads(iterations, arguments.device)
    evaluate(iterations, arguments.device)
    report()
    print_table(time.perf_counter() - begin)
    return 0


def parser(prog: str = "fusion-tutorial") -> CommandParser:
    """Build the command line."""
    result = CommandParser(prog, description=__doc__.partition("\n")[0])
    add = result.add_argument
    add("--full", action="store_true", help="train each LeNet for the original 30,000 iterations instead of 4,000")
    add("--iterations", type=int, metavar="N", help="train each LeNet for N iterations, the fused net for 2 N")
    add("--work", type=Path, default=Path("tutorial"), metavar="DIR", help="output directory (default %(default)s)")
    shared.add_options(result, "--device")
    add("--limit", type=int, metavar="N", help="use only N images for training and N for validation, for a quick look")
    return result


def prepare_data(limit: int | None) -> None:
    say("1. MNIST as images, and lists of them: 50,000 to train on, 10,000 to validate, 10,000 to test")
    from . import prepare  # imports NumPy

    options = ["--limit", str(limit)] if limit else []
    command(["python", "-m", prepare.__name__, ".", *options], lambda: prepare.main([".", *options]))


def train_sources(iterations: int, device: str) -> None:
    say("2. Train a LeNet on the odd digits and one on the even digits: five classes each")
    commands = {}
    for parity in ("odd", "even"):
        if Path(weights(parity, iterations)).exists():
            print(f"{weights(parity, iterations)} is there already")
        else:
            solver = ["--solver", f"lenet_{parity}_solver.prototxt", "--max-iter", str(iterations)]
            commands[parity] = ["train", *solver, "--device", device]
    side_by_side(commands)


def fuse(iterations: int) -> None:
    say("3. Rename and freeze a net, for a look at the result (composing does this itself)")
    tool("rename", "lenet_odd_train_val.prototxt", "odd_renamed.prototxt", "odd")

    say("4. Compose: both bodies up to ip1, frozen, one new layer with ten outputs on top")
    nets = ["--source", "odd=lenet_odd_train_val.prototxt@ip1", "--source", "even=lenet_even_train_val.prototxt@ip1"]
    data = ["--train-list", "train_all.txt", "--val-list", "val_all.txt", "--train-batch", "50", "--test-batch", "20"]
    head = ["--head", "concat-fc", "--num-output", "10", *data, "--max-iter", str(2 * iterations)]
    tool("compose", *nets, *head, "-o", "fused")

    say("5. Merge: the trained weights by layer name; the new layer starts from its filler")
    pairs = [f"{p}=lenet_{p}_train_val.prototxt:{weights(p, iterations)}" for p in ("odd", "even")]
    tool("merge", "fused/train_val.prototxt", *pairs, "-o", "init.caffemodel", "--seed", "1")
    tool("verify", "fused/train_val.prototxt", "init.caffemodel", *pairs)


def train_heads(iterations: int, device: str) -> None:
    say("6. Train the new layer and ip1 of both bodies, plainly and with PCT; what is below ip1 is computed once")
    originals = {parity: weights(parity, iterations) for parity in ("odd", "even")}
    start = ["train", "--solver", "fused/solver.prototxt", "--weights", "init.caffemodel", "--device", device]
    prefix = ["--set", "snapshot_prefix=fused/fused_pct"]
    side_by_side({"fused": [*start, *THAWED], "fused_pct": [*start, *THAWED, *keep_answers(originals), *prefix]})


def keep_answers(originals: Mapping[str, str]) -> list[str]:
    """Return the options that compare the new scores with those of the originals, given by their weights."""
    classes = {"odd": ODD, "even": EVEN}
    references = [f"lenet_{p}_train_val.prototxt:{file},classes={classes[p]}" for p, file in originals.items()]
    losses = ["--pct", "focal,distance=L2,weight=0.002", "--pct", "naive"]
    return [*(word for reference in references for word in ("--reference", reference)), *losses]


def evaluate(iterations: int, device: str) -> None:
    say("7. The predictions of each net for the test images, which were used neither to train nor to choose anything")
    for parity, classes in (("odd", ODD), ("even", EVEN)):
        model = [
            "--model",
            on_test_images(f"lenet_{parity}_train_val.prototxt"),
            "--weights",
            weights(parity, iterations),
        ]
        answers = ["--logits", "ip2", "--classes", classes, "--predictions", f"{parity}.npz", "--name", parity]
        tool("evaluate", *model, *answers, "--device", device)
    model = ["--model", on_test_images("fused/train_val.prototxt")]
    for net in ("fused", "fused_pct"):
        trained = ["--weights", f"fused/{net}_iter_{2 * iterations}.caffemodel"]
        answers = ["--logits", "ip2", "--predictions", f"{net}.npz", "--name", net]
        tool("evaluate", *model, *trained, *answers, "--device", device)


def on_test_images(net: str) -> str:
    """Write the net's prototxt with the test images in place of those for validation; return its path."""
    path = net.replace("train_val", "test")
    print(f"$ sed 's/\"val_/\"test_/' {net} > {path}")
    Path(path).write_text(Path(net).read_text(encoding="utf-8").replace('"val_', '"test_'), encoding="utf-8")
    return path


def report() -> None:
    say("8. Report the gains and negative flips of the fused nets, as a page with the images that flipped")
    tool("report", "--old", "odd.npz", "even.npz", "--new", "fused.npz", "fused_pct.npz", "--html", "report.html")


def print_table(seconds: float) -> None:
    """Print one line per net: accuracy, and the images that an original got right and the fused net gets wrong."""
    from fusion import pct

    nets = {name: pct.Predictions.load(f"{name}.npz") for name in TITLES}
    print(f"\n{'net':28}{'accuracy':>10}{'negative flips: odd':>21}{'even':>8}{'together':>10}")
    for name, answers in nets.items():
        line = f"{TITLES[name]:28}{100 * pct.accuracy(answers):>8.2f} %"
        if name.startswith("fused"):
            flips = [len(pct.flips(old=nets[parity], new=answers)) for parity in ("odd", "even")]
            line += f"{flips[0]:>21}{flips[1]:>8}{sum(flips):>10}"
        print(line)
    print("(negative flips: images that the original net got right and the fused net gets wrong)")
    p = pct.mcnemar(pct.outcomes(old=nets["fused"], new=nets["fused_pct"]))
    print("" if p is None else f"(p = {p:.2g} by McNemar's exact test that both fused nets are equally often right)")
    print(f"\n{seconds / 60:.1f} minutes. The report: {_shown(Path('report.html').resolve())}")


def weights(parity: str, iterations: int) -> str:
    return f"lenet_{parity}_iter_{iterations}.caffemodel"


def say(text: str) -> None:
    print(f"\n--- {text}", flush=True)


def tool(name: str, *arguments: str) -> None:
    """Print a command and run it, in this process."""
    module = import_module(f"caffe_fusion_tools.{name}")
    command([_program(name), *arguments], lambda: module.main(list(arguments)))


def command(words: Sequence[str], run: Callable[[], int | None]) -> None:
    print(f"$ {shlex.join(words)}", flush=True)
    stop_unless_zero(run() or 0)


def stop_unless_zero(code: int) -> None:
    if code:
        print(f"the tutorial stops here: the command ended with exit code {code}", file=sys.stderr)
        raise SystemExit(code)


def side_by_side(commands: Mapping[str, Sequence[str]]) -> None:
    """Print commands and run them at the same time, one core each, their output lines marked by name.

    Nets this small gain little from a second thread, and other processes slow two threads down a lot.
    """
    for tool_name, *arguments in commands.values():
        print(f"$ OMP_NUM_THREADS=1 {_program(tool_name)} {shlex.join(arguments)} &")
    if commands:
        print("$ wait", flush=True)
        with ThreadPoolExecutor(2) as pool:
            codes = list(pool.map(_follow, commands, commands.values()))
        stop_unless_zero(next((code for code in codes if code), 0))


def _program(name: str) -> str:
    return {"evaluate": "fusion-test"}.get(name, f"fusion-{name}")


def _follow(name: str, words: Sequence[str]) -> int:
    """Run a command in a new process and print its lines; return the exit code."""
    line = [sys.executable, "-m", f"caffe_fusion_tools.{words[0]}", *words[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for text in process.stdout or ():
            print(f"{name:>9} | {text}", end="", flush=True)
    return process.returncode


def _shown(path: Path) -> str:
    """Return the path relative to the directory in which the tutorial was started, if it is below it."""
    try:
        return str(path.resolve().relative_to(START))
    except ValueError:
        return str(path)


START = Path.cwd()

if __name__ == "__main__":
    raise SystemExit(main())
