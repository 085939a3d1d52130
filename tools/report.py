"""fusion-report: the negative flips and other figures of a new net, as text, JSON and HTML, and a release gate."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_options, classes_argument, net_or_onnx, rate_argument, read_class_names, remark
from .cli import run_command
from .command_parser import CommandParser

if TYPE_CHECKING:
    from fusion.pct import Predictions
    from fusion.report import Budget

BROKEN = 3
_LIMITS = ("max_nfr", "max_nfr_upper", "min_accuracy")
_EPILOG = """FILE is written by fusion-test (npz), or CSV or Parquet with the columns key, label, logit:0, logit:1, ...
  NAME=FILE          names the net NAME
  FILE@1,3,5,7,9     gives the classes of the new net that the file's columns and labels are
  NET.onnx           runs the net on the records of --list, whose labels are the common classes
  FILE+FILE+FILE     is the ensemble of these nets: the mean of their logits
  0.9*FILE+0.1*FILE  is an ensemble with these weights

examples:
  %(prog)s --old odd.npz@1,3,5,7,9 even.npz@0,2,4,6,8 --new plain.npz focal.npz \\
    --html report.html --write-json report.json
  %(prog)s --old model.onnx --list val.txt --pixels torchvision --new fused.npz
  %(prog)s --old v1=old.npz --new v2=new.npz --max-nfr 0.5%% --min-accuracy 98%%      (exit code 3 if exceeded)
"""


def parser(prog: str = "fusion-report") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Compare a new net with the nets it replaces, sample by sample: accuracy, negative flips "
        "(samples that only the old net has right) and positive flips, with confidence intervals, against each "
        "original and their ensemble.",
        epilog=_EPILOG,
    )
    add = result.add_argument
    add("--old", nargs="+", required=True, metavar="FILE", help="predictions of the originals")
    add("--new", nargs="+", required=True, metavar="FILE", help="predictions of new nets")
    add("--featured", metavar="FILE", help="the new net to judge (default: the last of --new)")
    add("--baseline", metavar="FILE", help="a new net to compare the featured one with (default: the first of several)")
    add("--title", metavar="TEXT", help="heading of the report (default: the new net's name)")
    add("--slices", metavar="REGEX", help="figures by slice: the first group matched in a sample's key, "
        "e.g. '^([^/]+)/'")  # fmt: skip
    onnx = result.add_argument_group("for an ONNX file in place of predictions")
    add_options(onnx, "--list", note="those of the new net")
    add_options(onnx, "--pixels", "--input-shape")
    add_options(result, "--labels", "--json")
    add_options(result, "--html", note="without scripts")
    add_options(result, "--root", note="with --html")
    add("--write-json", metavar="OUT", help="write the result as JSON, whatever is printed")
    add("--image-bytes", type=int, default=2_500_000, metavar="N", help="size limit for images in the page "
        "(default %(default)s)")  # fmt: skip
    add("--log", nargs="+", default=[], metavar="[NAME=]LOG", help="training logs (Caffe's or fusion-train's) for the "
        "page's curves")  # fmt: skip
    add_options(result, "--quiet")
    gate = result.add_argument_group("gate", f"exit code {BROKEN} if a new net (not the baseline) exceeds a limit")
    add_options(gate, "--max-nfr")
    gate.add_argument("--max-nfr-upper", type=rate_argument, metavar="RATE", help="limit of the upper end of its 95 %% "
        "interval")  # fmt: skip
    gate.add_argument("--min-accuracy", type=rate_argument, metavar="RATE", help="minimum accuracy, 0.98 or 98%%")
    fields = "max_nfr, max_nfr_upper, min_accuracy, max_weighted_nfr with severity, references, classes"
    gate.add_argument("--budget", metavar="FILE", help=f"limits as a JSON file, or [gate] in a job: {fields}")
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-report") -> int:
    """Run the command."""
    words = sys.argv[1:] if argv is None else argv  # the page shows the command that made it
    usage = parser(prog)
    arguments = usage.parse_args(words)
    return run_command(lambda: _report(arguments, f"{prog} {shlex.join(words)}"))


def _report(arguments: argparse.Namespace, command: str) -> int:
    from fusion import report
    from fusion.report.load_predictions import split_file_text
    from prototxt.files import write_text

    budget = _budget(arguments)
    # the featured net comes last, and the baseline is passed on its own
    new = [name for name in arguments.new if name not in (arguments.baseline, arguments.featured)]
    found = report.gather(
        old=[_predictions(name, arguments) for name in arguments.old],
        new=[_predictions(name, arguments) for name in (*new, *([arguments.featured] if arguments.featured else []))],
        baseline=_predictions(arguments.baseline, arguments) if arguments.baseline else None,
        title=arguments.title,
        slices=_slices(arguments.slices),
        labels=read_class_names(arguments.labels),
    )
    if arguments.slices and not found.featured.whole.per_slice(found.slices):
        print(f"--slices {arguments.slices}: all samples are in one slice or in none", file=sys.stderr)
    checks = report.check_budget(found, budget)
    if arguments.html:
        album = report.Album(Path(arguments.root), arguments.image_bytes)
        curves = [report.read_log(path, name) for name, path, _ in map(split_file_text, arguments.log)]
        write_text(arguments.html, report.page(found, checks, album, command, curves))
    if arguments.write_json:
        write_text(arguments.write_json, report.report_json(found, checks))
    sys.stdout.write(report.report_json(found, checks) if arguments.json else report.report_text(found, checks))
    for path in filter(None, (arguments.html, arguments.write_json)):
        remark(f"wrote {path}", arguments)
    return 0 if all(check.passed for check in checks) else BROKEN


def _predictions(name: str, arguments: argparse.Namespace) -> Predictions:
    """Return the predictions in a file, or those of an ONNX file's net on the records of --list.

    Raises: ReportError for an ONNX file without a list; the errors of predictions files, of `onnx_net` and of lists.
    """
    from fusion.conversion.net_names import holds_its_weights
    from fusion.report.load_predictions import load_predictions, split_file_text

    label, path, classes = split_file_text(name)
    if not holds_its_weights(path):
        return load_predictions(name)
    from dataclasses import replace
    from pathlib import Path

    import numpy as np

    from fusion.errors import ReportError
    from fusion.pct import file_hash
    from fusion.references.models import class_scores_blob
    from fusion.solver.evaluate import MeasuredData, open_evaluation

    if not arguments.list:
        hint = "give the list of the new net's records with --list, and the net's pixels with --pixels"
        raise ReportError("an ONNX file names no data to run it on", place=path, hint=hint)
    net = net_or_onnx(path, arguments, measured=True)
    evaluation = open_evaluation(net, [], MeasuredData(arguments.list))
    found = evaluation.predict(class_scores_blob(evaluation.job.message, path), name=label or Path(path).stem)
    # unlike the labels of a file of its own, those of the list are the common classes already
    own = found.classes if classes is None else np.array(classes_argument(classes))
    return replace(found, classes=own).named(found.name, file=path, file_sha256=file_hash(path))


def _slices(pattern: str | None) -> Callable[[str, str], str | None] | None:
    """Return a function from a sample's key to its slice: the first group of the pattern's match, or the match."""
    if pattern is None:
        return None
    import re

    from fusion.errors import ReportError

    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ReportError(f"--slices {pattern}: {error}") from None

    def slice_of(key: str, variant: str) -> str | None:
        found = compiled.search(key)
        return None if found is None else found[1 if compiled.groups else 0]

    return slice_of


def _budget(arguments: argparse.Namespace) -> Budget:
    from dataclasses import replace

    from fusion.report import Budget, read_budget

    budget = read_budget(arguments.budget) if arguments.budget else Budget()
    limits = {name: getattr(arguments, name) for name in _LIMITS}
    return replace(budget, **{name: limit for name, limit in limits.items() if limit is not None})


if __name__ == "__main__":
    raise SystemExit(main())
