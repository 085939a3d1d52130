"""fusion-verify: compare a fused net with its sources, blob by blob, and report the first difference."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from fusion.conversion.net_names import is_onnx_path

from .arguments import add_options
from .cli import run_command
from .command_parser import CommandParser
from .sources import SourceFiles, check_apart, named_sources, source_or_recipe

if TYPE_CHECKING:
    from fusion.verification import Feed
    from fusion.verification.comparison import Comparison

_EXAMPLE = """example:
  %(prog)s fused/train_val.prototxt init.caffemodel odd=odd.prototxt:odd.caffemodel even=ev.prototxt:ev.caffemodel
  %(prog)s fused/train_val.prototxt trained.caffemodel odd=odd.caffemodel       (only the weights, bit for bit)
  %(prog)s net.prototxt net.caffemodel --against other.prototxt:other.caffemodel
  %(prog)s net.prototxt net.caffemodel --against net.onnx

Relative differences are the largest difference in a blob over the largest magnitude in it. The exit code is 1 when any
exceeds --rtol.
"""


def parser(prog: str = "fusion-verify") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Run each source and its branch of the fused net on the same inputs and compare them blob by blob.",
        epilog=_EXAMPLE,
    )
    add = result.add_argument
    add("net", metavar="FUSED.prototxt", help="the fused net (train_val or deploy)")
    add("weights", metavar="WEIGHTS", help="its weights")
    add("sources", metavar="P=[NET.prototxt:]WEIGHTS|P=NET.onnx", nargs="*", type=source_or_recipe,
        help="a branch's prefix and its source; without a prototxt only the weights are compared. "
        "A pattern or a folder gives P1, P2, ...; FUSION.toml means all sources in that file")  # fmt: skip
    add("--against", metavar="NET.prototxt:WEIGHTS|NET.onnx", help="compare with another net instead")
    add("--images", nargs="+", metavar="PATH", help="images (files or folders) as inputs, instead of noise")
    add_options(result, "--batch", default=2, note="of noise")
    add_options(result, "--seed", default=0)
    add_options(result, "--input-shape", "--stage", "--rtol", "--json", "--quiet")
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-verify") -> int:
    """Run the command; return 0 if all blobs agree, 1 if not."""
    options = parser(prog)
    arguments = options.parse_args(argv)
    if bool(arguments.sources) == bool(arguments.against):
        options.error("give sources (P=NET.prototxt:WEIGHTS), or another net with --against")
    if arguments.against and arguments.images and is_onnx_path(arguments.against):
        options.error("an ONNX model is compared on noise, not on --images")
    if arguments.against and not is_onnx_path(arguments.against) and ":" not in arguments.against:
        options.error("--against takes NET.prototxt:WEIGHTS or NET.onnx")
    if not arguments.rtol >= 0:
        options.error("--rtol is 0 or more")
    check_apart(options, arguments.sources)  # argparse cannot see two prefixes that are equal
    code: int = run_command(lambda: _verify(arguments))
    return code


def _verify(arguments: argparse.Namespace) -> int:
    from fusion.nets.inputs import find_images
    from fusion.verification import Feed, verify_nets

    shapes = dict(arguments.input_shape)
    feed = Feed(find_images(arguments.images or ()), arguments.batch, arguments.seed, shapes, arguments.stage)
    if not arguments.against:
        sources = named_sources(arguments.sources, arguments.net)
        comparisons = compare_sources(arguments.net, arguments.weights, sources, feed, arguments.rtol)
    elif is_onnx_path(arguments.against):
        comparisons = [_against_onnx(arguments, shapes)]
    else:
        net, _, weights = arguments.against.rpartition(":")
        comparisons = [verify_nets((arguments.net, arguments.weights), (net, weights), feed, arguments.rtol)]
    return _show(comparisons, as_json=arguments.json)


def _against_onnx(arguments: argparse.Namespace, shapes: Mapping[str, tuple[int, ...]]) -> Comparison:
    from fusion.export import verify_onnx
    from prototxt.edit.deploy import deploy
    from prototxt.schema.filter import filter_net
    from prototxt.schema.load import load_net
    from prototxt.text.parser import parse_file

    net = filter_net(load_net(deploy(parse_file(arguments.net), shapes).document), phase="TEST")
    batches = (arguments.batch,)
    weights, model = arguments.weights, arguments.against
    return verify_onnx(net, weights, model, batches=batches, seed=arguments.seed, rtol=arguments.rtol, inputs=shapes)


def compare_sources(
    net: str,
    weights: str,
    sources: Sequence[SourceFiles],
    feed: Feed,
    rtol: float = 1e-5,
    without: Collection[str] = (),
) -> list[Comparison]:
    """Compare each source with its branch: by running both, or, without the source's prototxt, by their weights."""
    from fusion.verification import verify_branches, verify_weights

    weights_only = {
        prefix: source for prefix, source in sources if isinstance(source, str) and not is_onnx_path(source)
    }
    runnable = {prefix: source for prefix, source in sources if prefix not in weights_only}
    return [
        *verify_branches(net, weights, runnable, feed, rtol, without),
        *verify_weights(weights, weights_only, without=without),
    ]


def _show(comparisons: Sequence[Comparison], *, as_json: bool) -> int:
    """Print the comparisons; return the exit code."""
    from fusion.verification.comparison import comparisons_json, comparisons_text

    print(comparisons_json(comparisons) if as_json else comparisons_text(comparisons), flush=True)
    different = [item for item in comparisons if item.first is not None]
    for item in different:
        print(f"error: {item.verdict()}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
