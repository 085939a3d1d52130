"""fusion-train: train a net as its solver file says, as `caffe train` does."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from .cli import allow_python, run

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_EXAMPLE = """example:
  fusion-train --solver solver.prototxt --weights init.caffemodel
  fusion-train --solver solver.prototxt --snapshot net_iter_1000.solverstate
  fusion-train --solver solver.prototxt --reference old.prototxt:old.caffemodel --pct focal,weight=0.01

Frozen layers next to the data are computed once and kept in memory, where the data is not random. Ctrl-C takes a
snapshot and stops; SIGHUP takes one and goes on.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="fusion-train",
        description="Train a net as its solver file says.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--solver", required=True, metavar="SOLVER.prototxt", help="the solver file")
    start = result.add_mutually_exclusive_group()
    start.add_argument(
        "--weights", metavar="W[,W]", help="start from these weights (.caffemodel, .h5, .safetensors); later ones win"
    )
    start.add_argument("--snapshot", metavar="STATE", help="go on from this .solverstate")
    add("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1")
    add("--max-iter", type=_positive, metavar="N", help="instead of the solver's max_iter")
    add("--cache-budget", type=_size, metavar="SIZE", help="memory for the frozen layers' outputs (default 4G)")
    add("--no-cache", action="store_true", help="compute the frozen layers anew in each iteration")
    held = result.add_argument_group("references (without editing the prototxt)")
    held.add_argument("--reference", action="append", default=[], metavar="REF", help="hold the net to another: "
        "NET.prototxt:WEIGHTS[@BLOB], NET.onnx, FILE.npz (logits by record) or @BLOB of this net, with "
        "[,classes=1,3,5][,weight=W][,start=N][,warmup=N][,name=N][,ensemble=N][,cache=FILE.npz][,half][,live]; "
        "repeatable")  # fmt: skip
    held.add_argument("--pct", action="append", default=[], metavar="KIND[,weight=W,OPTION=VALUE...]",
        help="the loss towards them: kd, focal, lm, ldi, elodi, naive or cna (on=BLOB), with options of pct_param "
        "(alpha, beta, temperature, filter, ...) and of=NAME+NAME; repeatable")  # fmt: skip
    held.add_argument("--kd-alpha", type=float, metavar="A", help="the loss is (1 - A) * own + A * weight * pct")
    allow_python(result)
    add("-q", "--quiet", action="store_true", help="report nothing but errors")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Train; 0 on success, 1 for bad input or a run that cannot go on, 2 for bad usage, 130 after Ctrl-C."""
    options = parser().parse_args(argv)
    code: int = run(lambda: _train(options))
    return code


def _train(options: argparse.Namespace) -> int:
    from fusion.solver import Solver
    from fusion.solver.display import Silent
    from fusion.solver.trunks import DEFAULT_BUDGET

    budget = DEFAULT_BUDGET if options.cache_budget is None else options.cache_budget
    solver = Solver(
        options.solver,
        weights=options.weights.split(",") if options.weights else [] if options.snapshot else None,
        device=options.device,
        max_iter=options.max_iter,
        cache_budget=0 if options.no_cache else budget,
        display=Silent() if options.quiet else None,
        references=options.reference,
        pct=options.pct,
        kd_alpha=options.kd_alpha,
    )
    if options.snapshot:
        solver.restore(options.snapshot)
    solver.train()
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"not a positive number: {text!r}")
    return int(text)


def _size(text: str) -> int:
    """Bytes from a text like 512M or 4G."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (give 512M or 4G)")
    return int(float(found[1]) * _UNITS[found[2].upper()])


if __name__ == "__main__":
    raise SystemExit(main())
