"""fusion-test: measure a trained net on its own data, as `caffe test` does, or on other data; write its predictions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from .arguments import add_options, classes_argument, net_or_onnx, positive_int, read_class_names, remark
from .cli import allow_python, run_command
from .command_parser import CommandParser
from .reading_options import add_reading_options, read_options

if TYPE_CHECKING:
    from fusion.pct import Predictions
    from fusion.solver.evaluate import Evaluation
    from fusion.solver.metrics import MeanOutputs

_EXAMPLE = """example:
  %(prog)s --model lenet_odd.prototxt --weights odd.caffemodel
  %(prog)s --model lenet_odd.prototxt --weights odd.caffemodel --predictions odd.npz --logits ip2 --classes 1,3,5,7,9
  %(prog)s --model fused/train_val.prototxt --weights fused.caffemodel --list photos/test

A predictions file holds every record of the data layer once, named as in its list; fusion-report compares such files.
With --classes, class i of the net (and label i of its list) is CLASSES[i] of the classes common to compared nets.
"""


def parser(prog: str = "fusion-test") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Measure a trained net on its own data, or on other data that its data layer reads alike.",
        epilog=_EXAMPLE,
    )
    add = result.add_argument
    add("--model", required=True, metavar="NET", help="the net, NET.prototxt with its data layer, or NET.onnx "
        "with --list and --pixels")  # fmt: skip
    add_options(result, "--weights", note="not with an ONNX file, which has them")
    add_options(result, "--list", note="instead of the net's own, or one per data layer (data=LIST,depth=LIST)")
    add("--iterations", type=positive_int, metavar="N", help="batches to average (default: one pass over all records)")
    add_options(result, "--phase", default="TEST")
    add_options(result, "--level", "--stage", "--device")
    add_options(result, "--frozen-engine", note="here all ONNX layers are")
    add_options(result, "--pixels", "--input-shape")
    add("--predictions", metavar="OUT", help="write logits and labels of every record, .npz, .csv or .parquet")
    add_options(result, "--logits", metavar="BLOB[,BLOB]", note="several with --heads")
    add("--heads", choices=("mean", "max"), help="combine several classifiers: the mean or the maximum of their "
        "probabilities; those of --logits, or all that are compared with the label")  # fmt: skip
    add("--classes", type=classes_argument, metavar="C,C,...", help="the common classes that the scores stand for, in "
        "their order: 1,3,5 or 0-4,9")  # fmt: skip
    add_options(result, "--labels")
    add("--name", metavar="NAME", help="name of the net in reports (default: the weights' file name)")
    add_options(result, "--all-outputs", "--json", "--quiet")
    add_reading_options(result)
    allow_python(result)
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-test") -> int:
    """Measure; return 0 on success, 1 for bad input, 2 for bad usage."""
    options = parser(prog).parse_args(argv)
    from fusion.conversion.net_names import holds_its_weights

    usage, is_onnx = parser(prog), holds_its_weights(options.model)
    if bool(options.weights) == is_onnx:
        usage.error("this net has its weights: no --weights" if is_onnx else "give --weights WEIGHTS")
    if options.input_shape and not is_onnx:
        usage.error("--input-shape is for an ONNX file; a prototxt's data fixes its shape")
    if is_onnx and not options.list:
        usage.error("an ONNX file names no data: give --list LIST")
    if not options.heads and options.logits and ("," in options.logits or not options.predictions):
        usage.error("--logits goes with --predictions, and several with --heads mean or --heads max")
    if (options.classes or options.labels) and not options.predictions:
        usage.error("--classes and --labels need --predictions")
    code: int = run_command(lambda: _evaluate(options))
    return code


def _evaluate(options: argparse.Namespace) -> int:
    from fusion.references.models import class_scores_blob
    from fusion.solver.evaluate import MeasuredData, open_evaluation
    from fusion.solver.logging.console import Quiet, for_stream

    options.labels = read_class_names(options.labels)
    display = Quiet() if options.quiet else for_stream()
    evaluation = open_evaluation(
        net_or_onnx(options.model, options, measured=True),
        options.weights.split(",") if options.weights else [],
        MeasuredData(options.list, options.phase, options.level, options.stage),
        device=options.device,
        display=display,
        reading=read_options(options),
    )
    with closing(display), evaluation.frozen_engine(options.frozen_engine):
        average = evaluation.average(options.iterations)
        accuracies, predictions = _heads(evaluation, options) if options.heads else ([], None)
        if options.predictions:
            if predictions is None:
                blob = options.logits or class_scores_blob(
                    evaluation.job.message, options.model, "name it: --logits BLOB"
                )
                predictions = evaluation.predict(blob, classes=options.classes, name=options.name, names=options.labels)
            predictions.save(options.predictions)
        for line in evaluation.skipped:
            display.say(line)
    _print(average, options, accuracies)
    if options.predictions and predictions is not None:
        remark(f"{len(predictions)} predictions written to {options.predictions}", options)
    return 0


def _heads(evaluation: Evaluation, options: argparse.Namespace) -> tuple[list[tuple[str, float]], Predictions]:
    """Return the accuracies of each head and of all combined, by name, and the combined predictions."""
    from dataclasses import replace

    from fusion.solver.classifiers import classifiers, combine_heads

    blobs = options.logits.split(",") if options.logits else classifiers(evaluation.job.message)
    heads = evaluation.scores(blobs, classes=options.classes, name=options.name, names=options.labels)
    combined = replace(heads[0], logits=combine_heads([head.logits for head in heads], options.heads))
    accuracies = [(f"accuracy of {blob}", float(head.right.mean())) for blob, head in zip(blobs, heads, strict=True)]
    return [*accuracies, (f"accuracy of their {options.heads}", float(combined.right.mean()))], combined


def _print(average: MeanOutputs, options: argparse.Namespace, more: Sequence[tuple[str, float]]) -> None:
    """Print the averages, then the further figures."""
    from fusion.solver.logging.console import six_digits

    if options.json:
        import json

        found = {name: values if len(values) > 1 else values[0] for name, values, _ in average.outputs}
        print(json.dumps({**found, **dict(more)}))
        return
    print(f"Loss: {six_digits(average.loss)}")
    for name, values, weight in average.outputs:
        if len(values) > 1 and not options.all_outputs:
            print(f"{name}: {len(values)} values, mean {six_digits(sum(values) / len(values))}")
            continue
        for value in values:
            part = f" (* {six_digits(weight)} = {six_digits(weight * value)} loss)" if weight else ""
            print(f"{name} = {six_digits(value)}{part}")
    for name, value in more:
        print(f"{name} = {six_digits(value)}")


if __name__ == "__main__":
    raise SystemExit(main())
