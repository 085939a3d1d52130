"""fusion-compose: compose trained nets into one, with the files to train and to deploy it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from .arguments import add_options, classes_argument, positive_int, remark
from .cli import run_command
from .command_parser import CommandParser
from .list_options import apply_list_options

if TYPE_CHECKING:
    from fusion.composition import ComposeConfig, Composition, Source

_EPILOG = """example:
  %(prog)s --source odd=lenet_odd.prototxt@ip1 --source even=lenet_even.prototxt@ip1 \\
      --head concat-fc --num-output 10 --train-list train_all.txt --val-list val_all.txt -o fused

with the originals as references for positive-congruent training:
  ... --classes odd=1,3,5,7,9 --classes even=0,2,4,6,8 --pct focal,weight=0.5,temperature=1

five folds of one net, as branches fold1 to fold5:
  ... --source 'fold=net.prototxt@fc7' --weights 'fold=folds/*.caffemodel'

several tasks, each with a classifier, a loss and a label of its own:
  ... --task age=EuclideanLoss:age_label --task gender=SoftmaxWithLoss:gender_label,num_output=2

the same as a file, and from that file; flags override it:
  ... --write-toml fusion.toml
  %(prog)s fusion.toml --head gated --dry-run
"""


def parser(prog: str = "fusion-compose") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Fuse trained nets: cut each at a blob, prefix and freeze it, and join all under one head. "
        "Writes train_val.prototxt, deploy.prototxt and solver.prototxt; every choice is printed.",
        epilog=_EPILOG,
    )
    add = result.add_argument
    add("recipe", nargs="?", metavar="FUSION.toml", help="a file with the same settings as these flags")
    add("--source", action="append", default=[], metavar="P=NET[@BLOB,...]",
        help="a net, its prefix, and the blob to cut it at (default: its classifier's input); a prototxt, an ONNX "
        "file, or a PyTorch net: torchvision:NAME:WEIGHTS, timm:NAME:WEIGHTS, FILE.py:NAME:WEIGHTS, FILE.pt2; a "
        "pattern or a folder of nets gives branches P1, P2, ...")  # fmt: skip
    add("--as-caffe", action="store_true",
        help="make plain Caffe layers of ONNX files and PyTorch nets; by default each runs as one layer")  # fmt: skip
    add("--weights", action="append", default=[], metavar="P=WEIGHTS",
        help="a source's weights, to freeze layers whose type does not fix their number of blobs; a pattern or a "
        "folder of weights gives branches P1, P2, ... of one net")  # fmt: skip
    add_options(result, "--output", note="train_val, deploy and solver")
    add_options(result, "--num-output", note="by default those of the class folders that it trains on")
    add_options(result, "--labels", note="they are stored in the written nets")
    add("--name", metavar="NAME", help="the fused net's name")
    add_options(result, "--dry-run", "--quiet")
    add_options(result, "--svg", note="with --dry-run too")
    add("--write-toml", metavar="OUT", help="write the settings of FUSION.toml and these flags as such a file")
    # no option has a default here: a flag that is not given must not override the file
    _add_head(result.add_argument_group("head"))
    _add_losses(result.add_argument_group("losses"))
    _add_data(result.add_argument_group("data"))
    _add_references(result.add_argument_group("references (positive-congruent training)"))
    _add_schedule(result.add_argument_group("solver"))
    return result


def _add_head(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--head", metavar="HEAD", help="concat-fc (default), concat-mlp, sum, mean, max, fastnorm, softmax, gated, "
        "logits, probs, zero-init")  # fmt: skip
    add("--share", action="append", default=[], metavar="P=X",
        help="a source's weight in heads logits and probs, which average the sources' answers (1)")  # fmt: skip
    add("--hidden", type=positive_int, metavar="N", help="width of the head's hidden layer")
    add("--project", type=positive_int, metavar="N", help="project each source's features to this width")
    add("--batch-norm", action="store_true", help="give each source's features a BatchNorm of their own")
    add("--maps", help="how to join maps of several sizes: pool (default), upsample, or levels, which joins the "
        "first cuts of all sources, the second cuts, ... separately")  # fmt: skip


def _add_losses(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--loss", metavar="TYPE[,PARAMETER=VALUE...]",
        help="the loss instead of the sources' own, e.g. EuclideanLoss, or SoftmaxWithLoss,ignore_label=255; "
        "label=BLOB names the blob that the scores are compared with")  # fmt: skip
    add("--task", action="append", default=[], metavar="NAME=LOSS:LABEL[,num_output=N,PARAMETER=VALUE...]",
        help="one of several classifiers on the joined features, with its loss and its label, e.g. "
        "gender=SoftmaxWithLoss:gender_label,num_output=2,loss_weight=0.5")  # fmt: skip


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--stage", action="append", default=[], metavar="[PHASE=]STAGE",
        help="a stage of the sources' state, as DIGITS writes them: train holds in phase TRAIN, val and test in "
        "TEST, any other in both, unless PHASE is given")  # fmt: skip
    add("--reads", action="append", default=[], metavar="P=P",
        help="a source reads the cut of an earlier one, not the data, so that one net follows another")  # fmt: skip
    add("--data-from", metavar="P", help="the source whose data layers are used (default: the first that has any)")
    add("--train-list", action="append", default=[], metavar="[P[/LAYER]=]FILE",
        help="the list, folder of class folders or database to train on, instead of the sources' own: FILE for all, "
        "P=FILE for one source, P/LAYER=FILE for one of its data layers, by its name or that of its top")  # fmt: skip
    add("--val-list", action="append", default=[], metavar="[P[/LAYER]=]FILE", help="the same for validation")
    add_options(group, "--val-share", note="both lists are written beside the nets")
    add("--train-batch", type=positive_int, metavar="N", help="records per batch in training (default: the sources')")
    add("--test-batch", type=positive_int, metavar="N", help="records per batch in tests (default: the sources')")
    add_options(group, "--resize", note="those that replace a source's database, where its records are not here")
    add("--input-shape", metavar="C,H,W", help="shape of one record of the inputs, where the sources do not fix it")


def _add_references(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--references", action="store_true", help="keep each source's own classifier as a frozen side output")
    add("--classes", action="append", default=[], metavar="P=C,C,...",
        help="the common classes that a source's own scores stand for, in their order: 1,3,5 or 0-4,9, or "
        "names")  # fmt: skip
    add("--logits", action="append", default=[], metavar="P=BLOB",
        help="the blob with a source's class scores, where it is not the input of its loss")  # fmt: skip
    add("--pixels", action="append", default=[], metavar="P=KIND",
        help="how a source without data layers expects images: rgb, unit (0 to 1), centered, torchvision")  # fmt: skip
    add("--pct", action="append", default=[], metavar="KIND[,weight=W,OPTION=VALUE...]",
        help="add a loss towards the references: kd, focal, lm, ldi, elodi or naive; options are the fields of "
        "pct_param (alpha, beta, temperature, filter, ...); none: omit those of the file")  # fmt: skip


_SOLVER = {
    **dict.fromkeys(("momentum", "weight_decay", "gamma"), float),
    **dict.fromkeys(("stepsize", "test_interval", "test_iter", "display", "snapshot"), int),
}


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    add_options(group, "--lr", dest="base_lr")
    add_options(group, "--lr-policy", "--max-iter")
    add_options(group, "--seed", dest="random_seed", note="the solver's random_seed")
    for name, kind in _SOLVER.items():
        metavar = "N" if kind is int else "X"
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=f"the solver's {name}")


def main(argv: Sequence[str] | None = None, prog: str = "fusion-compose") -> int:
    """Run the command."""
    arguments = parser(prog).parse_args(argv)
    code: int = run_command(lambda: _compose(arguments))
    return code


def _compose(arguments: argparse.Namespace) -> int:
    from fusion.composition import compose_with

    config = _config(arguments)
    composition = compose_with(config.sources, config.options)
    if arguments.dry_run:
        print(f"{composition.overview.table()}\n\n{composition.overview.picture()}\n")
    lines = [*composition.notes]
    if not arguments.dry_run:
        lines += [f"wrote {path}" for path in composition.write(config.output or ".")]
    if not arguments.quiet:
        print("\n".join(lines))
    if arguments.svg:
        _draw(composition, arguments)
    if arguments.write_toml:
        _write_toml(config, arguments)
    return 0


def _config(arguments: argparse.Namespace) -> ComposeConfig:
    """Merge the flags into the file's settings. Raises: ComposeError for a missing setting or errors in the file."""
    from dataclasses import fields, replace

    from fusion.composition import ComposeConfig, SolverSettings, read_config
    from fusion.composition.references import parse_pct_loss
    from fusion.composition.tasks import parse_task
    from fusion.conversion.net_names import holds_its_weights

    base = read_config(arguments.recipe) if arguments.recipe else ComposeConfig()
    sources, lists = apply_list_options(_sources(arguments) or base.sources, arguments)
    if arguments.as_caffe:
        nets = [str(source.prototxt) for source in sources]
        foreign = [holds_its_weights(net) or os.path.isdir(net) for net in nets]
        if not any(foreign):
            _refuse("--as-caffe is for ONNX files and PyTorch nets, and no source is one", "leave it out")
        sources = tuple(replace(one, as_caffe=known) for one, known in zip(sources, foreign, strict=True))
    if arguments.stage:
        sources = tuple(replace(source, stages=tuple(arguments.stage)) for source in sources)
    named = (*_SOLVER, "base_lr", "lr_policy", "max_iter", "random_seed")
    solver = {name: value for name in named if (value := getattr(arguments, name)) is not None}
    flags = {
        **vars(arguments),
        **lists,
        "input_shape": _numbers("--input-shape", arguments.input_shape) if arguments.input_shape else None,
        "pct": () if arguments.pct == ["none"] else tuple(map(parse_pct_loss, arguments.pct)) or None,
        "tasks": tuple(parse_task(text) for text in arguments.task) or None,
        "schedule": (base.options.schedule or SolverSettings()).with_fields(solver) if solver else None,
    }
    own = {item.name for item in fields(base.options)} & flags.keys()
    values = {name: flags[name] for name in own if flags[name] is not None and flags[name] is not False}
    options = replace(base.options, **values)
    config = ComposeConfig(sources, options, arguments.output or base.output)
    if not sources:
        _refuse("there are no sources to fuse", "give --source odd=odd.prototxt@ip1, or a file FUSION.toml")
    if config.output is None and not arguments.dry_run:
        _refuse("the output folder is missing", "give -o DIR, or output in the file, or use --dry-run")
    return config


def _draw(composition: Composition, arguments: argparse.Namespace) -> None:
    """Draw the fused net of phase TEST as SVG."""
    from prototxt.drawing.nodes import diagram_of
    from prototxt.drawing.svg import to_svg
    from prototxt.files import write_text
    from prototxt.schema.load import load_net
    from prototxt.summary.net_summary import list_net

    net = load_net(composition.deploy if composition.deploy is not None else composition.train_val, strict=False)
    write_text(arguments.svg, to_svg(diagram_of(list_net(net, "TEST", {})), composition.overview.title))
    remark(f"wrote {arguments.svg}", arguments)


def _write_toml(config: ComposeConfig, arguments: argparse.Namespace) -> None:
    from fusion.composition import to_toml
    from prototxt.files import write_text

    write_text(arguments.write_toml, to_toml(config))
    remark(f"wrote {arguments.write_toml}", arguments)


_PER_SOURCE = ("weights", "classes", "logits", "pixels", "reads", "share")  # options P=VALUE, fields of Source


def _sources(arguments: argparse.Namespace) -> list[Source]:
    """Return the sources with the options that name them. Raises: ComposeError."""
    from fusion.composition import Source
    from prototxt.errors import did_you_mean

    parsers: dict[str, Callable[[str], object]] = {"classes": _classes, "share": _share}
    given = {
        name: {prefix: parsers.get(name, str)(text) for prefix, text in _pairs(f"--{name}", getattr(arguments, name))}
        for name in _PER_SOURCE
    }
    sources = []
    for prefix, text in _pairs("--source", arguments.source):
        # the last '@': folders may have one in their names, blobs do not
        path, _, blobs = text.rpartition("@") if "@" in text else (text, "", "")
        at = tuple(blob.strip() for blob in blobs.split(",") if blob.strip())
        fields: dict[str, Any] = {name: values.pop(prefix) for name, values in given.items() if prefix in values}
        sources.append(Source(prefix, path, at or None, **fields))
    for name, prefix in ((name, prefix) for name, values in given.items() for prefix in values):
        known = [source.prefix for source in sources]
        hint = did_you_mean(prefix, known, f"one of {', '.join(known)}")
        _refuse(f"--{name} names no source: '{prefix}'", hint)
    return sources


def _pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        prefix, equals, rest = text.partition("=")
        if not equals or not prefix or not rest:
            _refuse(f"{option} {text}: expected PREFIX=...", "e.g. --source odd=lenet_odd.prototxt@ip1")
        pairs.append((prefix, rest))
    return pairs


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        _refuse(f"--share {text}: '{text}' is not a number", "e.g. --share odd=2")


def _classes(text: str) -> tuple[int | str, ...]:
    """Parse `1,3,5` or `0-4,9`, or names of classes."""
    parts = [part.strip() for part in text.split(",")]
    by_number = all(part.replace("-", "", 1).isdigit() for part in parts)
    return _numbers("--classes", text) if by_number else tuple(parts)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Parse `1,3,5` or `0-4,9`. Raises: ComposeError."""
    try:
        return tuple(classes_argument(text))
    except argparse.ArgumentTypeError as error:
        _refuse(f"{option} {text}: {error}", None)


def _refuse(message: str, hint: str | None) -> NoReturn:
    from fusion.errors import ComposeError

    raise ComposeError(message, hint=hint)


if __name__ == "__main__":
    raise SystemExit(main())
