"""The command line of fusion-train, in groups."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .arguments import add_options, bytes_argument, positive_int
from .cli import allow_python
from .command_parser import CommandParser
from .reading_options import add_reading_options

if TYPE_CHECKING:
    from fusion.solver.train_options import TrainOptions

_EXAMPLE = """examples:
  %(prog)s --solver solver.prototxt --weights init.caffemodel
  %(prog)s --solver solver.prototxt --weights init.caffemodel --resume
  %(prog)s --solver solver.prototxt --lr 0.1 --lr-policy cosine --warmup 500 --set weight_decay=1e-4
  %(prog)s --solver solver.prototxt --best-on 0.1 --early-stopping 5 --ema 0.999 --log-json run.jsonl --plot run.png
  %(prog)s --solver solver.prototxt --dry-run
  %(prog)s --model train_val.prototxt --time --iterations 20
  %(prog)s --solver solver.prototxt --reference old.prototxt:old.caffemodel --pct focal,weight=0.01
  %(prog)s --solver solver.prototxt --reference old.prototxt:old.caffemodel --pct auto
  %(prog)s --solver solver.prototxt --reference old.prototxt:old.caffemodel --sweep loss=kd,focal \\
    --sweep weight=0.001,0.01,0.1 --sweep seed=1,2,3 --output sweep

The outputs of frozen layers next to the data are computed once and cached, unless the data is random. Ctrl-C takes a
snapshot and stops; SIGHUP takes one and continues. See docs/train.md.
"""
POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid", "cosine")
# options that a sweep refuses, by reason
_WITHOUT_SWEEP = {
    "losses are values to try (--sweep loss=kd,focal)": ("pct",),
    "the records to choose on are those of --select-on": ("best_on", "early_stopping"),
    "it takes no snapshots": ("snapshot", "resume", "snapshot_epochs", "keep", "save_init"),
    "its figures are in DIR/table.csv": ("all_outputs", "log", "log_json", "tensorboard", "plot"),
    "heads learn from the cached outputs of the trunk": ("no_cache", "mixup"),
    "heads are traced together": ("compile",),
    "it only trains": ("dry_run", "time"),
}


def parser(prog: str = "fusion-train") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        usage="%(prog)s --solver SOLVER.prototxt [--weights WEIGHTS[,WEIGHTS] | --snapshot STATE] [options]",
        description="Train a net from its solver file.",
        epilog=_EXAMPLE,
    )
    _add_run(result)
    _add_settings(result)
    _add_frozen(result)
    _add_reports(result)
    _add_references(result)
    add_reading_options(result)
    _add_processes(result)
    _add_sweep(result)
    allow_python(result)
    return result


def _add_run(result: argparse.ArgumentParser) -> None:
    add = result.add_argument
    add("--solver", metavar="SOLVER.prototxt", help="the solver file")
    start = result.add_mutually_exclusive_group()
    add_options(start, "--weights")
    start.add_argument("--snapshot", metavar="STATE", help="resume from this .solverstate")
    add("--resume", action="store_true", help="resume from the newest complete snapshot, or start if there is none")
    add_options(result, "--device")
    add("--threads", type=_threads, metavar="N", help="CPU threads; auto: measured at the start, or as recorded "
        "in the snapshot (default: auto, or OMP_NUM_THREADS)")  # fmt: skip
    add("--compile", action=argparse.BooleanOptionalAction, help="compile the iteration with torch.compile "
        "where a measurement at the start finds it faster, on a GPU with CUDA graphs (default: as recorded in the "
        "snapshot)")  # fmt: skip
    instead = result.add_argument_group("instead of training")
    add_options(instead, "--dry-run")
    other = instead.add_argument
    other("--time", action="store_true", help="time each layer forward and backward, as `caffe time` does")
    other("--model", metavar="NET.prototxt", help="with --time: a net instead of a solver (its TRAIN phase)")
    other("--iterations", type=positive_int, default=50, metavar="N", help="with --time: number of passes (default 50)")


def _add_settings(result: argparse.ArgumentParser) -> None:
    settings = result.add_argument_group("settings that override the solver's")
    add_options(settings, "--max-iter", "--lr")
    add_options(settings, "--lr-policy", choices=POLICIES, note=f"{', '.join(POLICIES)}, which falls to 0 at max_iter; "
        "kept by snapshots")  # fmt: skip
    add_options(settings, "--seed", note="the solver's random_seed")
    add = settings.add_argument
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any field: momentum=0.95, stepvalue=100,200, "
        "train_state.stage=a")  # fmt: skip
    add = result.add_argument_group("settings that Caffe does not have (kept by snapshots)").add_argument
    add(
        "--warmup", type=positive_int, metavar="N", help="increase the learning rate linearly in the first N iterations"
    )
    add("--label-smoothing", type=float, metavar="S", help="spread this share of each target over all classes")
    add("--mixup", type=float, metavar="ALPHA", help="mix pairs of inputs, with shares from Beta(ALPHA, ALPHA)")
    add("--ema", type=float, metavar="DECAY", help="test averaged weights, and write them with the snapshots")
    add("--amp", choices=("bf16", "fp16", "off"), help="train in mixed precision "
        "(torch.amp): matrix products and convolutions in half precision, all else in float32")  # fmt: skip
    add("--best-on", type=_share_or_path, metavar="SHARE|LIST", help="at each test, validate on this share of the "
        "training records, held out, or on a list (one per data layer: data=LIST,depth=LIST); write the best weights "
        "to PREFIX_best.caffemodel")  # fmt: skip
    add("--early-stopping", type=positive_int, metavar="PATIENCE", help="with --best-on: stop after PATIENCE tests "
        "without improvement")  # fmt: skip
    add = result.add_argument_group("snapshots").add_argument
    add("--save-init", metavar="FILE", help="write the weights before the first step")
    add("--snapshot-epochs", type=positive_int, metavar="N", help="a snapshot every N passes over the training records")
    add("--keep", type=positive_int, metavar="N", help="keep the newest N snapshots of this run, delete its older ones")


def _add_frozen(result: argparse.ArgumentParser) -> None:
    group = result.add_argument_group("frozen and thawed layers")
    add = group.add_argument
    add("--freeze", metavar="REGEX", help="freeze layers whose name matches")
    add("--thaw", metavar="REGEX", help="let frozen layers learn whose name matches; references inside the net that "
        "depend on them are kept as frozen copies")  # fmt: skip
    add("--lr-mult", action="append", default=[], metavar="REGEX=X", help="multiply the learning rates of layers whose "
        "name matches, such as odd/=0.1")  # fmt: skip
    add(
        "--cache-budget", type=bytes_argument, metavar="SIZE", help="memory for the frozen layers' outputs (default 4G)"
    )
    add("--cache-dir", metavar="DIR", help="cache these outputs in files, for later runs too (default: only those "
        "beyond --cache-budget, beside the snapshots)")  # fmt: skip
    add("--no-cache", action="store_true", help="compute the frozen layers in each iteration")
    add_options(group, "--frozen-engine", note="in a resumed run that of its snapshot")


def _add_reports(result: argparse.ArgumentParser) -> None:
    reports = result.add_argument_group("reports")
    add = reports.add_argument
    add("--log", metavar="FILE", help="write Caffe's log to this file too (without a terminal it goes to stderr)")
    add("--log-json", metavar="FILE", help="write one JSON object per line")
    add("--tensorboard", metavar="DIR", help="write event files (needs the package tensorboard)")
    add("--plot", metavar="FILE.png", help="plot loss, accuracy and learning rate after each test")
    add_options(reports, "--all-outputs", "--quiet")


def _add_references(result: argparse.ArgumentParser) -> None:
    add = result.add_argument_group("references (without editing the prototxt)").add_argument
    add("--reference", action="append", default=[], metavar="REF", help="add a reference net: "
        "NET.prototxt:WEIGHTS[@BLOB], NET.onnx, FILE.npz (logits by record) or @BLOB of this net, with "
        "[,classes=1,3,5][,weight=W][,start=N][,warmup=N][,name=N][,ensemble=N][,cache=FILE.npz][,half][,live]"
        "[,pixels=KIND][,input=BLOB]")  # fmt: skip
    add("--pct", action="append", default=[], metavar="KIND[,weight=W,OPTION=VALUE...]",
        help="the loss towards the references: kd, focal, lm, ldi, elodi, naive, or on features (on=BLOB) cna, bct; "
        "with fields of pct_param (alpha, beta, temperature, filter, ...) and of=NAME+NAME. "
        "auto[,kind=kd+ldi][,weight=LOW:HIGH:NUMBER] chooses one on training records that are kept back")  # fmt: skip
    add("--kd-alpha", type=float, metavar="A", help="the loss is (1 - A) * own + A * weight * pct")


def _add_processes(result: argparse.ArgumentParser) -> None:
    add = result.add_argument_group("several processes (started by torchrun; see docs/scale.md)").add_argument
    add("--batch-norm", choices=("sync", "local"), default="sync", help="statistics of BatchNorm over the batches "
        "of all processes, as in one process (default), or over each process's own part")  # fmt: skip
    add("--auto-scale", action="store_true", help="each process takes batches of the solver's size, and the "
        "learning rate is multiplied by the number of processes; otherwise they divide each batch")  # fmt: skip


def _add_sweep(result: argparse.ArgumentParser) -> None:
    sweep = result.add_argument_group("sweeps (many heads on one frozen trunk, trained together) and --pct auto")
    add = sweep.add_argument
    add("--sweep", action="append", default=[], metavar="AXIS=V,V|FILE", help="train a head for every "
        "combination of these values: loss (kd, focal, lm, ldi, elodi, naive, none), weight, lr, seed and the losses' "
        "options; a TOML or JSON file holds lists")  # fmt: skip
    add("--select-on", type=_share_or_path, default=0.1, metavar="SHARE|LIST",
        help="choose on this share of the training records, held out, or on a list, or one per data "
        "layer (data=LIST,depth=LIST); default 0.1")  # fmt: skip
    add("--slack", type=float, default=0.003, metavar="A",
        help="choose the fewest negative flips among settings within A of the best accuracy (0.003)")  # fmt: skip
    add_options(sweep, "--output", default="sweep", note="predictions, tables and the best head's weights")


def check_options(options: argparse.Namespace, usage: argparse.ArgumentParser) -> None:
    """Exit with a usage error for options that exclude each other."""
    if options.model and not options.time:
        usage.error("--model goes with --time; a solver file names its net itself")
    if bool(options.solver) == bool(options.model):
        usage.error("give --solver SOLVER.prototxt" + (" or --model, not both" if options.model else ""))
    if options.sweep:
        _check_sweep(options, usage)
    if options.resume and options.snapshot:
        usage.error("--resume finds the snapshot itself: leave --snapshot out")
    if options.time and (options.dry_run or options.snapshot or options.resume):
        usage.error("--time neither plans nor resumes a run: no --dry-run, --snapshot or --resume")
    if options.dry_run and any(item.partition(",")[0] == "auto" for item in options.pct):
        usage.error("--dry-run trains nothing, so it cannot choose: give a loss instead of --pct auto")
    if options.time and options.compile:
        usage.error("--time runs layer by layer, and the compiler would join layers: no --compile")


def _check_sweep(options: argparse.Namespace, usage: argparse.ArgumentParser) -> None:
    errors = []
    for reason, names in _WITHOUT_SWEEP.items():
        flags = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
        if flags:
            errors.append(f"no {', '.join(flags)}: {reason}")
    if errors:
        usage.error(f"a sweep takes {'; '.join(errors)}")


def train_options(options: argparse.Namespace) -> TrainOptions:
    """Return the options that Caffe does not have, with defaults for those not given."""
    from dataclasses import fields

    from fusion.solver.train_options import TrainOptions

    # the options have the names of the fields
    values = {field.name: getattr(options, field.name) for field in fields(TrainOptions)}
    return TrainOptions(**{name: value for name, value in values.items() if value is not None})


def solver_overrides(options: argparse.Namespace) -> list[str]:
    """Return the solver fields to set; --lr and --seed after --set."""
    named = {"base_lr": options.lr, "random_seed": options.seed}
    return [*options.set, *(f"{name}={value}" for name, value in named.items() if value is not None)]


def _share_or_path(text: str) -> float | str:
    """Return a share of the training records, or the path of a list."""
    try:
        return float(text)
    except ValueError:
        return text


def _threads(text: str) -> int | str:
    return text if text == "auto" else positive_int(text)
