"""fusion-surgery: fold, re-head, reshape, strip and average trained nets, with a list of all changes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .arguments import add_options, remark
from .cli import run_command
from .command_parser import CommandParser
from .sources import check_not_a_source

if TYPE_CHECKING:
    from fusion.surgery.result import SurgeryResult, Weights
    from prototxt.text.tree import Document

_EXAMPLE = """examples:
  %(prog)s fold deploy.prototxt net.caffemodel -o folded                  BatchNorm, Scale, Bias into convolutions
  %(prog)s head train_val.prototxt net.caffemodel --drop fc8 --num-output 20 --reinit xavier -o new
  %(prog)s classes train_val.prototxt net.caffemodel --drop 3,7 --add rabbit,fox -o new     trained rows stay
  %(prog)s channels deploy.prototxt net.caffemodel --channels 4 --fill zero -o rgbd          3 to 4 input channels
  %(prog)s convolve deploy.prototxt net.caffemodel -o full                dense layers as convolutions
  %(prog)s dense deploy.prototxt full.caffemodel -o back                  and back
  %(prog)s strip fused/train_val.prototxt trained.caffemodel -o head      only the trained layers
  %(prog)s restore fused/train_val.prototxt head.caffemodel init.caffemodel -o whole
  %(prog)s bake fused/deploy.prototxt trained.caffemodel -o plain         learned weighted sums as Caffe layers
  %(prog)s group fused/deploy.prototxt trained.caffemodel --branches odd even -o grouped     side by side
  %(prog)s soup train_val.prototxt a.caffemodel b.caffemodel c.caffemodel -o soup            greedy
  %(prog)s interpolate train_val.prototxt old.caffemodel new.caffemodel --max-nfr 0.01 -o between
  %(prog)s average a.caffemodel b.caffemodel c.caffemodel --share 2 --share 1 --share 1 -o mean

-o OUT writes OUT.caffemodel, and OUT.prototxt where the net itself changes; OUT.safetensors and OUT.caffemodel.h5
are written in that format.
"""


def parser(prog: str = "fusion-surgery") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Change trained nets without training. Every layer that is kept, changed or dropped is listed.",
        epilog=_EXAMPLE,
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, "fold", "fold BatchNorm, Scale and Bias into the layer before them")
    head = _add(commands, "head", "drop layers' weights, and give them another number of outputs and fillers")
    add_options(head, "--drop", required=True)
    add_options(head, "--num-output", "--reinit")
    add_options(head, "--seed", default=0)
    _add_classes(commands)
    channels = _add(commands, "channels", "let the first layers read another number of channels")
    channels.add_argument("--channels", type=int, required=True, metavar="N",
        help="1, whose weights are the sum of the trained ones, or more than before")  # fmt: skip
    channels.add_argument("--fill", choices=("mean", "copy", "zero"), default="mean",
        help="weights of further channels: the mean of the trained ones (default), the trained ones repeated, with all "
        "scaled by old / new, or zeros")  # fmt: skip
    channels.add_argument("--input", metavar="BLOB", help="the input (default: the only one)")
    for name, text in (
        ("convolve", "make dense layers convolutions"),
        ("dense", "make full convolutions dense layers"),
    ):
        added = _add(commands, name, text)
        added.add_argument("--layers", default=".*", metavar="REGEX", help="names of the layers (default: all)")
        add_options(added, "--input-shape")
    _add(commands, "strip", "drop the weights of frozen layers")
    restore = _add(commands, "restore", "put the frozen weights back")
    restore.add_argument("base", metavar="BASE", help="the weights that training started from")
    _add(commands, "bake", "turn learned weighted sums (heads fastnorm and softmax, Gate layers) into Caffe layers")
    group = _add(commands, "group", "fuse branches of one architecture side by side into grouped convolutions")
    group.add_argument("--branches", nargs="+", required=True, metavar="P", help="the prefixes of the branches")
    group.add_argument("--dense", action="store_true", help="also dense layers, which is rarely faster on CPUs")
    add_options(group, "--input-shape")
    _add_measured(commands)
    average = commands.add_parser("average", help="average the weights of nets of one architecture")
    average.add_argument("files", metavar="WEIGHTS", nargs="+", help="weights files")
    average.add_argument("--share", action="append", type=float, metavar="X", help="one per file (default: equal)")
    for each in commands.choices.values():
        add_options(each, "--output", required=True)
        add_options(each, "--force", "--json", "--quiet")
    return result


def _add(commands: argparse._SubParsersAction[CommandParser], name: str, text: str) -> CommandParser:
    added: CommandParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    added.add_argument("net", metavar="NET.prototxt", help="the net")
    added.add_argument("weights", metavar="WEIGHTS", help="its weights")
    return added


def _add_classes(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add the operation that changes the set of classes."""
    classes = _add(commands, "classes", "keep, reorder, drop, rename and add classes; the trained rows stay")
    which = classes.add_mutually_exclusive_group()
    which.add_argument("--keep", metavar="C,C,...", help="the old classes of the new net, in their new order, by "
        "number or name, such as 3,0-2 or cat,dog (default: all)")  # fmt: skip
    which.add_argument("--drop", metavar="C,C,...", help="the old classes that the new net does not have")
    classes.add_argument(
        "--add", metavar="NAME,NAME,...", help="new classes after the others, by name, or their number"
    )
    classes.add_argument("--rename", action="append", default=[], metavar="C=NAME", help="another name for a class")
    classes.add_argument("--layers", metavar="REGEX", help="names of the layers that score the classes (default: those "
        "whose scores the losses, measures or the Softmax read)")  # fmt: skip
    add_options(classes, "--seed", default=0)


def _add_measured(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add the operations that choose weights on the net's own validation data."""
    soup = commands.add_parser("soup", help="average nets, best first, as long as the average improves")
    soup.add_argument("net", metavar="NET.prototxt", help="the net with its validation data (phase TEST)")
    soup.add_argument("files", metavar="WEIGHTS", nargs="+", help="weights files of that net")
    between = commands.add_parser("interpolate", help="take a point between the weights of an old and a new net")
    between.add_argument("net", metavar="NET.prototxt", help="the net, with validation data for --max-nfr")
    between.add_argument("old", metavar="OLD", help="weights of the old net")
    between.add_argument("new", metavar="NEW", help="weights of the new one, trained from the old one")
    between.add_argument("--share", type=float, metavar="X", help="position from the old net (0) to the new one (1)")
    add_options(between, "--max-nfr", note="the most accurate of eleven points is taken")
    for each in (soup, between):
        add_options(each, "--logits")


def main(argv: Sequence[str] | None = None, prog: str = "fusion-surgery") -> int:
    """Run the command; return 0 on success, 1 for bad input, 2 for bad usage."""
    options = parser(prog)
    arguments = options.parse_args(argv)
    if arguments.command == "interpolate" and (arguments.share is None) == (arguments.max_nfr is None):
        options.error("give a position with --share, or a limit of negative flips with --max-nfr")
    code: int = run_command(lambda: _operate(arguments))
    return code


def _operate(arguments: argparse.Namespace) -> None:
    from prototxt.formats.weights import format_by_name

    weights_path, net_path = _paths(arguments.output)
    format_by_name(weights_path)  # a wrong ending is an error before the weights are read
    values = vars(arguments)
    inputs = [str(values[name]) for name in ("weights", "base", "old", "new") if values.get(name)]
    check_not_a_source(weights_path, [*inputs, *map(str, values.get("files", ()))], force=arguments.force)
    outcome = _OPERATIONS[arguments.command](arguments)
    _write(outcome, arguments, weights_path, net_path)


def _paths(output: str) -> tuple[str, str]:
    """Return the files for the weights and the net."""
    # the longest ending first: NAME.caffemodel.h5 also ends in .h5
    for ending in (".caffemodel.h5", ".caffemodel", ".h5", ".safetensors"):
        if output.lower().endswith(ending):
            return output, output[: -len(ending)] + ".prototxt"
    return f"{output}.caffemodel", f"{output}.prototxt"


def _write(outcome: SurgeryResult, arguments: argparse.Namespace, weights_path: str, net_path: str) -> None:
    from fusion.onnx.sidecar import write_pair
    from prototxt.files import write_text
    from prototxt.schema.load import load_net

    net = None
    if outcome.document is not None:
        net = load_net(outcome.document)
    elif getattr(arguments, "net", None):
        net = load_net(arguments.net)
    written = write_pair(weights_path, outcome.weights, net=net)
    if outcome.document is not None:
        write_text(net_path, str(outcome.document))
        written.append(net_path)
    if arguments.json:
        import json

        print(json.dumps({**outcome.to_json(), "written": written}, indent=2))
    elif not arguments.quiet:
        print(outcome.listing())
    remark(f"wrote {' and '.join(written)}", arguments)


def _weights(path: str) -> Weights:
    from fusion.onnx.sidecar import read_pair

    return read_pair(path)


def _document(arguments: argparse.Namespace) -> Document:
    from prototxt.text.parser import parse_file

    document: Document = parse_file(arguments.net)
    return document


def _fold(arguments: argparse.Namespace) -> SurgeryResult:
    from fusion.surgery.fold_batch_norm import fold

    return fold(_document(arguments), _weights(arguments.weights))


def _head(arguments: argparse.Namespace) -> SurgeryResult:
    from fusion.surgery.heads import replace_head

    return replace_head(
        _document(arguments),
        _weights(arguments.weights),
        arguments.drop,
        num_output=arguments.num_output,
        reinit=arguments.reinit,
        seed=arguments.seed,
    )


def _classes(arguments: argparse.Namespace) -> SurgeryResult:
    from fusion.surgery.classes import edit_classes
    from prototxt.text.class_names import class_names_of, parse_classes

    document = _document(arguments)
    names = class_names_of(document).names
    add = arguments.add or ""
    renamed = [text.partition("=")[::2] for text in arguments.rename]
    return edit_classes(
        document,
        _weights(arguments.weights),
        keep=parse_classes(arguments.keep, names, "--keep") if arguments.keep else None,
        drop=parse_classes(arguments.drop, names, "--drop") if arguments.drop else (),
        add=[""] * int(add) if add.isdigit() else [name.strip() for name in add.split(",") if name.strip()],
        rename={number: name for old, name in renamed for number in parse_classes(old, names, "--rename")},
        layers=arguments.layers,
        seed=arguments.seed,
    )


def _channels(arguments: argparse.Namespace) -> SurgeryResult:
    from fusion.surgery.input_channels import edit_input_channels

    document, weights = _document(arguments), _weights(arguments.weights)
    return edit_input_channels(document, weights, arguments.channels, fill=arguments.fill, blob=arguments.input)


def _convolve(arguments: argparse.Namespace) -> SurgeryResult:
    from fusion.surgery.dense import to_convolution, to_dense

    operation = to_convolution if arguments.command == "convolve" else to_dense
    weights = _weights(arguments.weights)
    return operation(_document(arguments), weights, arguments.layers, dict(arguments.input_shape) or None)


def _strip(arguments: argparse.Namespace) -> SurgeryResult:
    from fusion.surgery.remove_layers import strip
    from prototxt.schema.load import load_net

    return strip(load_net(arguments.net), _weights(arguments.weights))


def _restore(arguments: argparse.Namespace) -> SurgeryResult:
    from fusion.surgery.remove_layers import restore
    from prototxt.schema.load import load_net

    return restore(load_net(arguments.net), _weights(arguments.weights), _weights(arguments.base))


def _average(arguments: argparse.Namespace) -> SurgeryResult:
    from fusion.surgery.average_weights import average

    return average([_weights(path) for path in arguments.files], arguments.share)


def _bake(arguments: argparse.Namespace) -> SurgeryResult:
    from fusion.surgery.bake_weighted_sums import bake

    return bake(_document(arguments), _weights(arguments.weights))


def _group(arguments: argparse.Namespace) -> SurgeryResult:
    from fusion.surgery.horizontal import fuse_horizontally

    inputs, weights = dict(arguments.input_shape) or None, _weights(arguments.weights)
    return fuse_horizontally(_document(arguments), weights, arguments.branches, inputs, dense=arguments.dense)


def _soup(arguments: argparse.Namespace) -> SurgeryResult:
    from .soups import soup

    return soup(arguments.net, arguments.files, arguments.logits)


def _interpolate(arguments: argparse.Namespace) -> SurgeryResult:
    if arguments.share is None:
        from .soups import within

        return within(arguments.net, arguments.old, arguments.new, arguments.max_nfr, arguments.logits)
    from fusion.surgery.average_weights import interpolate

    return interpolate(_weights(arguments.old), _weights(arguments.new), arguments.share)


_OPERATIONS: dict[str, Callable[[argparse.Namespace], SurgeryResult]] = {
    "average": _average,
    "bake": _bake,
    "channels": _channels,
    "classes": _classes,
    "convolve": _convolve,
    "dense": _convolve,
    "fold": _fold,
    "group": _group,
    "head": _head,
    "interpolate": _interpolate,
    "restore": _restore,
    "soup": _soup,
    "strip": _strip,
}


if __name__ == "__main__":
    sys.exit(main())
