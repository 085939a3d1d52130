"""fusion-compose: several trained nets into one description, with the files to train and to deploy it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from .cli import run

if TYPE_CHECKING:
    from fusion.composition import Pct, Schedule, Source

_EPILOG = """example:
  fusion-compose --source odd=lenet_odd.prototxt@ip1 --source even=lenet_even.prototxt@ip1 \\
      --head concat-fc --num-output 10 --train-list train_all.txt --val-list val_all.txt -o fused

with the originals as references for positive-congruent training:
  ... --classes odd=1,3,5,7,9 --classes even=0,2,4,6,8 --pct focal,weight=0.5,temperature=1
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    result = argparse.ArgumentParser(
        prog="fusion-compose",
        description="Fuse trained nets: cut each at a blob, prefix and freeze it, and join all under one head. "
        "Writes train_val.prototxt, deploy.prototxt and solver.prototxt; every choice is printed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--source", action="append", required=True, metavar="P=NET[@BLOB,...]",
        help="a net, its prefix, and the blob to cut it at (default: what its classifier reads)")  # fmt: skip
    add("--weights", action="append", default=[], metavar="P=FILE",
        help="a source's weights, to freeze layers whose type does not tell how many blobs they have")  # fmt: skip
    add("-o", "--output", required=True, metavar="DIR", help="where the three files go")
    add("--num-output", type=int, required=True, metavar="N", help="classes of the fused net")
    add("--head", default="concat-fc", help="concat-fc (default), concat-mlp, sum, mean, max, logits, zero-init")
    add("--hidden", type=int, metavar="N", help="width of the head's hidden layer or projections")
    add("--name", help="the fused net's name")
    _add_data(result.add_argument_group("data"))
    _add_references(result.add_argument_group("references (positive-congruent training)"))
    _add_schedule(result.add_argument_group("solver"))
    return result


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data-from", metavar="P", help="the source whose data layers are used (default: the first that has any)")
    add("--train-list", metavar="FILE", help="the list or database to train on, instead of that source's own")
    add("--val-list", metavar="FILE", help="the same for validation")
    add("--train-batch", type=int, metavar="N")
    add("--test-batch", type=int, metavar="N")
    add("--input-shape", metavar="C,H,W", help="shape of the input, for the deploy net, where nothing else tells it")


def _add_references(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--references", action="store_true", help="keep each source's own classifier as a frozen side output")
    add("--classes", action="append", default=[], metavar="P=C,C,...",
        help="the fused classes that a source's own scores stand for, in their order")  # fmt: skip
    add("--logits", action="append", default=[], metavar="P=BLOB",
        help="the blob with a source's class scores, where it is not what its loss reads")  # fmt: skip
    add("--pct", action="append", default=[], metavar="KIND[,weight=W,OPTION=VALUE...]",
        help="hold the fused net to the references: kd, focal, lm, ldi, elodi or naive; options are those of "
        "pct_param (alpha, beta, temperature, filter, ...); may be repeated")  # fmt: skip


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    for name, kind in (
        *(("base-lr", float), ("momentum", float), ("weight-decay", float), ("lr-policy", str), ("gamma", float)),
        *(("stepsize", int), ("max-iter", int), ("test-interval", int), ("test-iter", int), ("display", int)),
        *(("snapshot", int), ("random-seed", int)),
    ):
        group.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)
    code: int = run(lambda: _compose(arguments))
    return code


def _compose(arguments: argparse.Namespace) -> int:
    from fusion.composition import compose

    composition = compose(
        _sources(arguments),
        arguments.head,
        num_output=arguments.num_output,
        data_from=arguments.data_from,
        train_list=arguments.train_list,
        val_list=arguments.val_list,
        train_batch=arguments.train_batch,
        test_batch=arguments.test_batch,
        references=arguments.references,
        pct=[_pct(text) for text in arguments.pct],
        hidden=arguments.hidden,
        input_shape=_numbers("--input-shape", arguments.input_shape) if arguments.input_shape else None,
        schedule=_schedule(arguments),
        name=arguments.name,
    )
    for note in composition.notes:
        print(note)
    for path in composition.write(arguments.output):
        print(f"wrote {path}")
    return 0


def _sources(arguments: argparse.Namespace) -> list[Source]:
    """The sources with their classes and class scores. Raises: ComposeError."""
    from dataclasses import replace

    from fusion.composition import Source

    classes = {prefix: _numbers("--classes", text) for prefix, text in _pairs("--classes", arguments.classes)}
    logits = dict(_pairs("--logits", arguments.logits))
    weights = dict(_pairs("--weights", arguments.weights))
    sources = []
    for prefix, text in _pairs("--source", arguments.source):
        path, _, blobs = text.rpartition("@") if "@" in text else (text, "", "")
        at = tuple(blob.strip() for blob in blobs.split(",") if blob.strip())
        found = Source(prefix, path, at or None, weights.pop(prefix, None), classes.pop(prefix, ()))
        sources.append(replace(found, logits=logits.pop(prefix, None)))
    for option, left in (("--classes", classes), ("--logits", logits), ("--weights", weights)):
        for prefix in left:
            _refuse(f"{option} names no source: '{prefix}'", f"one of {', '.join(s.prefix for s in sources)}")
    return sources


def _pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        prefix, equals, rest = text.partition("=")
        if not equals or not prefix or not rest:
            _refuse(f"{option} {text}: expected PREFIX=...", "e.g. --source odd=lenet_odd.prototxt@ip1")
        pairs.append((prefix, rest))
    return pairs


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """`1,3,5` or `0-4,9`."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            _refuse(f"{option} {text}: '{part}' is no number", "numbers and ranges separated by commas: 1,3,5 or 0-4,9")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def _pct(text: str) -> Pct:
    """`focal,weight=0.5,temperature=1`."""
    from fusion.composition import Pct

    kind, *options = text.split(",")
    values = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            _refuse(f"--pct {text}: '{option}' has no value", "e.g. --pct focal,weight=0.5,temperature=1")
        values[name.strip()] = value.strip()
    weight = values.pop("weight", "1")
    try:
        return Pct(kind, float(weight), values)
    except ValueError:
        _refuse(f"--pct {text}: the weight '{weight}' is no number", None)


def _schedule(arguments: argparse.Namespace) -> Schedule:
    """The tutorial's schedule with what the command line changes."""
    from dataclasses import fields

    from fusion.composition import Schedule

    names = [field.name for field in fields(Schedule) if field.name != "further"]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    further = {} if arguments.random_seed is None else {"random_seed": arguments.random_seed}
    return Schedule(**given, further=further)


def _refuse(message: str, hint: str | None) -> NoReturn:
    from fusion.errors import ComposeError

    raise ComposeError(message, hint=hint)


if __name__ == "__main__":
    raise SystemExit(main())
