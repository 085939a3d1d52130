"""fusion-show: the content of a Caffe file: a net's layers, shapes and costs, weights and statistics, a graph."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .arguments import add_options, remark
from .cli import run_command
from .command_parser import CommandParser

if TYPE_CHECKING:
    from prototxt.conversion.file_content import Content
    from prototxt.schema.partial_load import PartialNet
    from prototxt.summary.net_summary import NetListing

_EPILOG = """examples:
  %(prog)s train_val.prototxt                            layers, shapes, parameters, MACs, memory, frozen layers
  %(prog)s deploy.prototxt --input-shape data=1,3,227,227      where the data cannot be read
  %(prog)s deploy.prototxt --html net.html --svg net.svg --dot net.dot
  %(prog)s net.caffemodel                                its layers and blobs, without reading values
  %(prog)s net.caffemodel --stats                        and min, max, mean, deviation, zeros and NaN of each blob
  %(prog)s deploy.prototxt --weights net.caffemodel      both, and whether they fit

A net with errors or unknown types is shown as far as possible, and its errors are listed.
"""


def parser(prog: str = "fusion-show") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Show a net, solver, weights, solver state or mean image, in any of their forms.",
        epilog=_EPILOG,
    )
    add = result.add_argument
    add("input", metavar="FILE", help="file to show; its kind is detected from its content")
    add_options(result, "--json", "--quiet")
    net = result.add_argument_group("of a net")
    add = net.add_argument
    add_options(net, "--phase", note="both by default, drawings show TEST")
    add_options(net, "--stage", "--level", "--input-shape")
    add("--weights", metavar="WEIGHTS", help="weights to show with the net, with statistics, and to compare with it")
    add("--dot", metavar="OUT", help="write the graph in the DOT language of Graphviz")
    add_options(net, "--svg")
    add_options(net, "--html", note="the graph with zoom and search")
    binary = result.add_argument_group("of a binary file")
    binary.add_argument("--stats", action="store_true", help="statistics of each blob's values; reads the whole file")
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-show") -> int:
    """Show; return 0 on success, 1 if the file cannot be read, 2 for bad usage."""
    arguments = parser(prog).parse_args(argv)
    code: int = run_command(lambda: _show(arguments))
    return code


def _show(arguments: argparse.Namespace) -> None:
    from fusion.conversion.net_names import holds_its_weights
    from prototxt.conversion.file_content import BINARY, NET, SOLVER, TEXT, contents_of

    if holds_its_weights(arguments.input):
        _show_onnx(arguments)
        return
    content = contents_of(arguments.input)
    if content.kind == SOLVER:
        _show_solver(arguments, content)
    elif content.kind == NET and (content.form == TEXT or (content.form == BINARY and _wants_net(arguments))):
        _show_net(arguments, content)
    else:
        _show_binary(arguments, content)


def _wants_net(arguments: argparse.Namespace) -> bool:
    """Return whether to show the description inside a caffemodel instead of its blobs."""
    drawn = arguments.dot or arguments.svg or arguments.html
    return bool(drawn or arguments.phase or arguments.input_shape or arguments.weights)


def _show_net(arguments: argparse.Namespace, content: Content) -> None:
    from dataclasses import replace

    from prototxt.conversion.file_content import TEXT
    from prototxt.schema.partial_load import PartialNet, load_partial
    from prototxt.summary import net_summary as listings
    from prototxt.summary.net_table import net_text

    if content.form == TEXT:
        partial = load_partial(arguments.input)
    else:
        from prototxt.conversion.net_without_blobs import read_without_blobs
        from prototxt.schema.upgrade import upgrade_net

        partial = PartialNet(upgrade_net(read_without_blobs(arguments.input).net), (), ())
    listing = listings.list_net(
        partial.net, arguments.phase, dict(arguments.input_shape), level=arguments.level, stages=arguments.stage
    )
    listing = replace(listing, problems=(*partial.problems, *listing.problems))
    report: dict[str, Any] = {"file": arguments.input, "kind": "net", **listings.listing_json(listing)}
    report["strange"] = [f"{place}: {message}" if place else message for place, message in partial.strange]
    text = net_text(listing, partial.strange)
    if arguments.weights:
        more, weights = _weights(arguments, listing)
        report["weights"], text = weights, f"{text}\n{more}"
    _print(arguments, report, text)
    if arguments.dot or arguments.svg or arguments.html:
        _draw(arguments, partial, listing)


def _weights(arguments: argparse.Namespace, listing: NetListing) -> tuple[str, dict[str, object]]:
    """Return the weights of a net as text and as data."""
    from prototxt.conversion.file_content import contents_of
    from prototxt.summary.text_table import inventory_text
    from prototxt.summary.weights_summary import inventory_json, take_inventory, weight_mismatches

    found = take_inventory(arguments.weights, contents_of(arguments.weights), statistics=True)
    errors = weight_mismatches(found, listing.rows)
    check = "".join(f"does not fit: {line}\n" for line in errors) or "every blob of the net has its weights\n"
    return inventory_text(found) + check, {"file": arguments.weights, **inventory_json(found), "misfits": errors}


def _draw(arguments: argparse.Namespace, partial: PartialNet, listing: NetListing) -> None:
    """Write the drawings of one phase."""
    from prototxt.drawing.nodes import diagram_of
    from prototxt.files import write_text
    from prototxt.summary.net_summary import list_net
    from prototxt.summary.net_table import totals_text

    shown = listing
    if arguments.phase is None:  # the table has both phases, a drawing one
        inputs = dict(arguments.input_shape)
        shown = list_net(partial.net, "TEST", inputs, level=arguments.level, stages=arguments.stage)
    graph = diagram_of(shown)
    note = totals_text(shown)
    if arguments.dot:
        from prototxt.drawing.dot import to_dot

        write_text(arguments.dot, to_dot(graph))
    if arguments.svg:
        from prototxt.drawing.svg import to_svg

        write_text(arguments.svg, to_svg(graph, note))
    if arguments.html:
        from prototxt.drawing.page import to_html

        write_text(arguments.html, to_html(graph, note, listing.problems))
    for path in filter(None, (arguments.dot, arguments.svg, arguments.html)):
        remark(f"wrote {path}", arguments)


def _show_solver(arguments: argparse.Namespace, content: Content) -> None:
    """Print a solver's settings; of nets inside it, only their names."""
    from prototxt.conversion.file_content import SOLVER, TEXT

    if content.form == TEXT:
        from prototxt.schema.load import load_solver

        solver: Any = load_solver(arguments.input, strict=False)
    else:
        from prototxt.conversion.convert import parse_binary
        from prototxt.schema.upgrade import upgrade_solver

        solver = upgrade_solver(parse_binary(arguments.input, SOLVER))
    from prototxt.summary.net_table import settings, settings_text

    found = settings(solver)
    _print(arguments, {"file": arguments.input, "kind": "solver", **found}, "solver\n" + settings_text(found))


def _show_binary(arguments: argparse.Namespace, content: Content) -> None:
    from prototxt.summary.text_table import inventory_text
    from prototxt.summary.weights_summary import inventory_json, take_inventory

    found = take_inventory(arguments.input, content, statistics=arguments.stats)
    _print(arguments, {"file": arguments.input, **inventory_json(found)}, inventory_text(found))


def _show_onnx(arguments: argparse.Namespace) -> None:
    """Print where an ONNX file can be cut, and the operators that cannot be run."""
    from fusion.conversion.onnx_files import onnx_path
    from fusion.onnx.graphs import load_graph
    from fusion.onnx.graphs.summary import overview, overview_text

    shapes = {name: tuple(shape) for name, shape in arguments.input_shape}
    graph = load_graph(onnx_path(arguments.input, next((shape[1:] for shape in shapes.values()), None)), shapes)
    _print(arguments, {"file": arguments.input, "kind": "onnx", **overview(graph)}, overview_text(graph))


def _print(arguments: argparse.Namespace, report: dict[str, Any], text: str) -> None:
    if arguments.json:
        text = json.dumps(report, indent=1, ensure_ascii=True) + "\n"
    # a terminal without Unicode gets '?' for lines of a diagram, not an exception
    sys.stdout.write(text.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8"))


if __name__ == "__main__":
    sys.exit(main())
