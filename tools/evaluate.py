"""fusion-test: measure a trained net on its own data, as `caffe test` does, and write down what it answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .cli import allow_python, run
from .reading_options import add_reading_options, reading_of

if TYPE_CHECKING:
    from fusion.pct import Predictions
    from fusion.solver.evaluate import Evaluation
    from fusion.solver.metrics import MeanOutputs

_EXAMPLE = """example:
  fusion-test --model lenet_odd.prototxt --weights odd.caffemodel
  fusion-test --model lenet_odd.prototxt --weights odd.caffemodel --predictions odd.npz --logits ip2 --classes 1,3,5,7,9

A predictions file holds every record of the data layer once, named as in its list; fusion-report compares such files.
With --classes, class i of the net (and label i of its list) is CLASSES[i] in the label space that compared nets share.
"""

MANY = 16  # an output of more values is summed up in a line


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="fusion-test",
        description="Measure a trained net on its own data.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--model", required=True, metavar="NET.prototxt", help="the net, with its data layer")
    add("--weights", required=True, metavar="W[,W]", help="trained weights; later ones win")
    add("--iterations", type=int, metavar="N", help="batches to average (default: until every record was seen)")
    add("--phase", choices=("TEST", "TRAIN"), default="TEST", help="which phase's layers to take (default TEST)")
    add("--level", type=int, default=0, metavar="N", help="the net state's level")
    add("--stage", action="append", default=[], metavar="STAGE", help="a stage of the net state (repeatable)")
    add("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1")
    add("--predictions", metavar="OUT", help="write logits and labels of every record, .npz, .csv or .parquet")
    add("--logits", metavar="BLOB[,BLOB]", help="the blob with the logits (needed with --predictions), or with --heads "
        "several")  # fmt: skip
    add("--heads", choices=("mean", "max"), help="take several classifiers together: the mean or the highest of their "
        "probabilities; those of --logits, or all that are judged by the label")  # fmt: skip
    add("--classes", type=_numbers, metavar="C,C", help="the shared label space's class of each logit")
    add("--labels", metavar="FILE", help="names of the shared classes for reports, one per line, that of class 0 first "
        "(default: those that the net's text keeps)")  # fmt: skip
    add("--name", metavar="NAME", help="what reports call the net (default: the weights' file name)")
    add("--json", action="store_true", help="print the averages as JSON")
    add_reading_options(result)
    allow_python(result)
    add("-q", "--quiet", action="store_true", help="report no progress")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 on success, 1 for bad input, 2 for bad usage."""
    options = parser().parse_args(argv)
    if not options.heads and bool(options.predictions) != bool(options.logits):
        parser().error("--predictions and --logits go together")
    if not options.heads and options.logits and "," in options.logits:
        parser().error("several --logits need --heads mean or --heads max")
    if (options.classes or options.labels) and not options.predictions:
        parser().error("--classes and --labels need --predictions")
    if options.iterations is not None and options.iterations < 1:
        parser().error("--iterations must be at least 1")
    code: int = run(lambda: _evaluate(options))
    return code


def _evaluate(options: argparse.Namespace) -> int:
    from fusion.solver.evaluate import open_evaluation
    from fusion.solver.logging.console import Silent, for_stream

    options.labels = _labels(options.labels)
    display = Silent() if options.quiet else for_stream()
    evaluation = open_evaluation(
        options.model,
        options.weights.split(","),
        phase=options.phase,
        level=options.level,
        stages=options.stage,
        device=options.device,
        display=display,
        reading=reading_of(options),
    )
    try:
        average = evaluation.average(options.iterations)
        told, predictions = _heads(evaluation, options) if options.heads else ([], None)
        if options.predictions:
            if predictions is None:
                predictions = evaluation.predict(
                    options.logits, classes=options.classes, name=options.name, names=options.labels
                )
            predictions.save(options.predictions)
        for line in evaluation.skipped:
            display.say(line)
    finally:
        display.close()
    _print(average, options.json, told)
    if options.predictions and predictions is not None:
        print(f"{len(predictions)} predictions written to {options.predictions}", file=sys.stderr)
    return 0


def _labels(path: str | None) -> tuple[str, ...]:
    from prototxt.text.class_names import read_names

    return read_names(path) if path else ()


def _heads(evaluation: Evaluation, options: argparse.Namespace) -> tuple[list[tuple[str, float]], Predictions]:
    """The accuracy of each head and of all together, by name; and what all together say."""
    from dataclasses import replace

    from fusion.solver.classifiers import classifiers, combine

    blobs = options.logits.split(",") if options.logits else classifiers(evaluation.job.message)
    every = evaluation.scores(blobs, classes=options.classes, name=options.name, names=options.labels)
    joined = replace(every[0], logits=combine([one.logits for one in every], options.heads))
    told = [(f"accuracy of {blob}", float(one.right.mean())) for blob, one in zip(blobs, every, strict=True)]
    return [*told, (f"accuracy of their {options.heads}", float(joined.right.mean()))], joined


def _print(average: MeanOutputs, as_json: bool, more: Sequence[tuple[str, float]]) -> None:
    """The averages, and what else was found."""
    from fusion.solver.logging.console import number

    if as_json:
        import json

        found = {name: values if len(values) > 1 else values[0] for name, values, _ in average.outputs}
        print(json.dumps({**found, **dict(more)}))
        return
    print(f"Loss: {number(average.loss)}")
    for name, values, weight in average.outputs:
        if len(values) > MANY:  # a side output, such as the class scores of a source that is kept as a reference
            print(f"{name}: {len(values)} values, mean {number(sum(values) / len(values))}")
            continue
        for value in values:
            part = f" (* {number(weight)} = {number(weight * value)} loss)" if weight else ""
            print(f"{name} = {number(value)}{part}")
    for name, value in more:
        print(f"{name} = {number(value)}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a list of class numbers: {text!r}") from None


if __name__ == "__main__":
    raise SystemExit(main())
