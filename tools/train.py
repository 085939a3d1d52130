"""fusion-train: train a net as its solver file says, as `caffe train` does."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from .cli import allow_python, run
from .reading_options import add_reading_options, reading_of, size

_EXAMPLE = """example:
  fusion-train --solver solver.prototxt --weights init.caffemodel
  fusion-train --solver solver.prototxt --snapshot net_iter_1000.solverstate
  fusion-train --solver solver.prototxt --weights init.caffemodel --resume
  fusion-train --solver solver.prototxt --reference old.prototxt:old.caffemodel --pct focal,weight=0.01
  fusion-train --solver solver.prototxt --reference old.prototxt:old.caffemodel --sweep loss=kd,focal \
    --sweep weight=0.001,0.01,0.1 --sweep seed=1,2,3 --out sweep

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
    add("--resume", action="store_true", help="go on from the newest complete snapshot; without one, start anew")
    add("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1")
    add("--max-iter", type=_positive, metavar="N", help="instead of the solver's max_iter")
    add("--cache-budget", type=size, metavar="SIZE", help="memory for the frozen layers' outputs (default 4G)")
    add("--cache-dir", metavar="DIR", help="keep these outputs in files for later runs too (by default only those "
        "beyond --cache-budget are written, beside the snapshots)")  # fmt: skip
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
    add_reading_options(result)
    several = result.add_argument_group("several processes (started by torchrun; see docs/scale.md)").add_argument
    several("--batch-norm", choices=("sync", "local"), default="sync", help="statistics of BatchNorm over the batches "
        "of all processes, as one process would take them (default), or over each one's own share")  # fmt: skip
    several("--auto-scale", action="store_true", help="each process takes whole batches of the solver's size, and the "
        "learning rate is multiplied by their number; otherwise they divide each batch among them")  # fmt: skip
    many = result.add_argument_group("sweeps (many heads on one frozen trunk, trained together)")
    many.add_argument("--sweep", action="append", default=[], metavar="AXIS=V,V|FILE", help="train a head for every "
        "combination of these values: loss (kd, focal, lm, ldi, elodi, naive, none), weight, lr, seed and the losses' "
        "options; a TOML or JSON file holds lists; repeatable")  # fmt: skip
    many.add_argument("--select-on", default="0.1", metavar="SHARE|LIST",
        help="choose on this share of the training records, kept back, or on a list (default 0.1)")  # fmt: skip
    many.add_argument("--slack", type=float, default=0.003, metavar="A",
        help="choose the fewest negative flips among settings so much below the best accuracy (0.003)")  # fmt: skip
    many.add_argument("--out", default="sweep", metavar="DIR", help="predictions, tables and the best head's weights")
    allow_python(result)
    add("-q", "--quiet", action="store_true", help="report nothing but errors")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Train; 0 on success, 1 for bad input or a run that cannot go on, 2 for bad usage, 130 after Ctrl-C."""
    options = parser().parse_args(argv)
    if options.sweep and (options.snapshot or options.pct or options.no_cache):
        parser().error("--sweep tries its own losses from the start, on kept rows: no --pct, --snapshot or --no-cache")
    if options.resume and (options.snapshot or options.sweep):
        parser().error("--resume finds the snapshot itself, and a sweep takes none: leave --snapshot and --sweep out")
    if options.sweep and int(os.environ.get("WORLD_SIZE") or 1) > 1:
        parser().error("a sweep runs in one process: start it without torchrun")
    code: int = run(lambda: _sweep(options) if options.sweep else _train(options))
    return code


def _train(options: argparse.Namespace) -> int:
    from fusion.processes import session

    with session():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from fusion.processes import Teamwork
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
        cache_dir=options.cache_dir,
        display=Silent() if options.quiet else None,
        references=options.reference,
        pct=options.pct,
        kd_alpha=options.kd_alpha,
        reading=reading_of(options),
        teamwork=Teamwork(options.batch_norm, options.auto_scale),
    )
    if options.snapshot:
        solver.restore(options.snapshot)
    elif options.resume:
        solver.resume()
    solver.train()
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from fusion.solver.display import Silent
    from fusion.solver.trunks import DEFAULT_BUDGET
    from fusion.sweep import read_axes, sweep

    result = sweep(
        options.solver,
        read_axes(options.sweep),
        references=options.reference,
        weights=options.weights.split(",") if options.weights else None,
        kd_alpha=options.kd_alpha,
        select_on=_share(options.select_on),
        slack=options.slack,
        out=options.out,
        device=options.device,
        max_iter=options.max_iter,
        cache_budget=DEFAULT_BUDGET if options.cache_budget is None else options.cache_budget,
        display=Silent() if options.quiet else None,
    )
    print(f"{len(result.entries)} heads in {options.out}/table.csv; chosen: {result.best.name}")
    print(
        f"  fusion-report --old {options.out}/old/*.npz --new {options.out}/new/*.npz --html {options.out}/report.html"
    )
    return 0


def _share(text: str) -> float | str:
    """A share of the training records, or the path of a list."""
    try:
        return float(text)
    except ValueError:
        return text


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"not a positive number: {text!r}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
