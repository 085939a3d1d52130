"""fusion-merge: build the first weights of a fused net from the weights of its sources."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, TextIO

from .arguments import add_options, remark
from .cli import run_command
from .command_parser import CommandParser
from .sources import check_apart, check_not_a_source, named_sources, source_or_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusion.merge.merge import MergePlan

_EXAMPLE = """example:
  %(prog)s fused/train_val.prototxt odd=lenet_odd.prototxt:odd.caffemodel even=even.caffemodel -o init.caffemodel

The fused layer odd/conv1 takes the weights of conv1 of the source odd (or of odd/conv1, if that is its name there).
Layers without a prefix are new and start from their fillers. A source layer that does not fit is an error.
"""


def parser(prog: str = "fusion-merge") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Build the first weights of a fused net from the weights of its sources.",
        epilog=_EXAMPLE,
    )
    result.add_argument("fused", metavar="FUSED.prototxt", help="the fused net (train_val or deploy)")
    result.add_argument(
        "sources",
        metavar="P=[NET.prototxt:]WEIGHTS",
        nargs="+",
        type=source_or_recipe,
        help="a prefix of the fused net, and the weights for its layers; its own prototxt is checked as well. "
        "A pattern or a folder gives P1, P2, ...; FUSION.toml means all sources in that file",
    )
    add_options(result, "--output", note="OUT.caffemodel, OUT.caffemodel.h5 or OUT.safetensors")
    add_options(result, "--force", "--dry-run", "--json", "--quiet")
    result.add_argument("--verify", action="store_true", help="then run each source and its branch and compare them")
    add_options(result, "--seed", default=0)
    result.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        metavar="LAYER",
        help="this layer (or pattern, odd/fc*) may start from its filler although a source should have it",
    )
    add_options(result, "--input-shape")
    add_options(result, "--stage", note="with --verify")
    head = result.add_argument_group("new head")
    add_options(head, "--drop", "--num-output", "--reinit")
    head.add_argument("--net-output", metavar="NET.prototxt", help="file for the net with its new head")
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-merge") -> int:
    """Run the command; return its exit code."""
    options = parser(prog)
    arguments = options.parse_args(argv)
    if not arguments.output and not arguments.dry_run:
        options.error("give -o OUT.caffemodel, or only print the plan with --dry-run")
    changes = arguments.num_output is not None or arguments.reinit is not None
    if changes and not arguments.drop:
        options.error("--num-output and --reinit change the layers of --drop: give that too")
    if bool(arguments.net_output) != changes and not arguments.dry_run:
        options.error("--num-output and --reinit change the net: give a file for it with --net-output")
    if arguments.dry_run and arguments.verify:
        options.error("--verify compares the written weights, and --dry-run writes nothing")
    if arguments.stage and not arguments.verify:
        options.error("--stage goes with --verify")
    check_apart(options, arguments.sources)
    code: int = run_command(lambda: _merge(arguments))
    return code


def _merge(arguments: argparse.Namespace) -> int:
    from fusion.merge.merge import apply_merge, plan_merge
    from prototxt.files import write_text
    from prototxt.formats.weights import format_by_name
    from prototxt.schema.load import load_net
    from prototxt.text.parser import parse_file

    arguments.sources = named_sources(arguments.sources, arguments.fused)
    if arguments.output:
        format_by_name(arguments.output)  # a wrong ending is an error before the weights are read
        files = [path for _, source in arguments.sources for path in ([source] if isinstance(source, str) else source)]
        check_not_a_source(arguments.output, files, force=arguments.force or arguments.dry_run)
    document, new_layers = parse_file(arguments.fused), frozenset[str]()
    if arguments.drop:
        from fusion.surgery.heads import edit_head

        document, new_layers = edit_head(
            document, arguments.drop, num_output=arguments.num_output, reinit=arguments.reinit
        )
    plan = plan_merge(
        load_net(document),
        dict(arguments.sources),
        seed=arguments.seed,
        allow_missing=arguments.allow_missing,
        inputs=dict(arguments.input_shape),
        fresh=new_layers,
    )
    # flushed, so that the table comes before the progress on stderr when both go to one terminal
    if arguments.json or arguments.dry_run or not arguments.quiet:
        print(plan.to_json() if arguments.json else plan.table(), flush=True)
    if not arguments.dry_run:
        apply_merge(plan, arguments.output, progress=None if arguments.quiet else progress_on(sys.stderr))
        remark(f"wrote {_written(arguments.output, plan)}: {_summary(plan)}", arguments)
        if arguments.net_output:
            write_text(arguments.net_output, str(document))
            remark(f"wrote {arguments.net_output}: {', '.join(sorted(new_layers))} changed", arguments)
    return _verify(arguments, new_layers) if arguments.verify else 0


def _verify(arguments: argparse.Namespace, new_layers: frozenset[str]) -> int:
    """Compare branches with sources. Only this step imports torch."""
    from fusion.verification import Feed

    from .verify import compare_sources

    stream = sys.stderr if arguments.json else sys.stdout  # stdout must stay one JSON document
    net = arguments.net_output or arguments.fused
    feed = Feed(shapes=dict(arguments.input_shape), stages=arguments.stage)
    comparisons = compare_sources(net, arguments.output, arguments.sources, feed, without=new_layers)
    for item in comparisons:
        print(f"verified {item.verdict()}" if item.first is None else f"error: {item.verdict()}", file=stream)
    return 1 if any(item.first for item in comparisons) else 0


def _written(output: str, plan: MergePlan) -> str:
    """Return the output file, and the sidecar file with the weights of Onnx layers if there is one."""
    from fusion.onnx.sidecar import ONNX, sidecar_path

    has_sidecar = any(layer.type == ONNX and layer.shapes for layer in plan.layers)
    return f"{output} and {sidecar_path(output)}" if has_sidecar else output


def _summary(plan: MergePlan) -> str:
    layers = [layer for layer in plan.layers if layer.shapes]
    return f"{len(layers)} layers, {plan.nbytes / 1e6:.1f} MB, checked against the plan"


def progress_on(stream: TextIO, *, after: float = 1.0) -> Callable[[int, int], None] | None:
    """Return a progress bar for work that takes longer than `after` seconds; None if `stream` is no terminal."""
    if not stream.isatty():
        return None
    start = time.monotonic()
    shown = 0.0

    def show(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - start < after or (now - shown < 0.1 and done < total):
            return
        shown = now
        part = done / total if total else 1.0  # a net without weights
        bar = "#" * round(30 * part)
        rate = done / 1e6 / (now - start)
        end = "\n" if done >= total else ""
        stream.write(f"\r[{bar:<30}] {part:4.0%}  {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate:,.0f} MB/s{end}")
        stream.flush()

    return show


if __name__ == "__main__":
    sys.exit(main())
