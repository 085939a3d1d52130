"""fusion-export: write a trained net as an ONNX model with an open batch size, optionally checked in ONNX Runtime."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fusion.conversion.net_names import is_onnx_path

from .arguments import add_options, remark
from .cli import run_command
from .command_parser import CommandParser

_EXAMPLE = """example:
  %(prog)s fused/deploy.prototxt fused.caffemodel -o fused.onnx --check
  %(prog)s train_val.prototxt net.caffemodel -o net.onnx --opset 13 --input-shape data=1,3,224,224 --output-blob fc8

Inputs and outputs have the blobs' names. The first axis of each input is left open unless a layer fixes it. Images
must be prepared as for Caffe: channels blue, green, red; mean and scale as in the data layer.
"""


def parser(prog: str = "fusion-export") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Write a trained net as an ONNX model.",
        epilog=_EXAMPLE,
    )
    add = result.add_argument
    add("net", metavar="NET.prototxt", help="the net; of a train_val file its deploy form is exported")
    add("weights", metavar="WEIGHTS", help="its weights")
    add_options(result, "--output", required=True, note="OUT.onnx")
    add("--opset", type=int, default=17, metavar="N", help="ONNX operator set, 13 or later (default %(default)s)")
    add_options(result, "--input-shape", "--output-blob")
    add("--check", action="store_true", help="run the model in ONNX Runtime and compare it with the net")
    add_options(result, "--rtol", "--json", note="with --check")
    add_options(result, "--quiet")
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-export") -> int:
    """Run the command; return 0 on success, 1 for bad input or a model that differs."""
    options = parser(prog)
    arguments = options.parse_args(argv)
    if not is_onnx_path(arguments.output):
        options.error("the name of the model to write ends in .onnx")
    code: int = run_command(lambda: _export(arguments))
    return code


def _export(arguments: argparse.Namespace) -> int:
    from fusion.export import to_onnx

    exported = to_onnx(
        arguments.net,
        arguments.weights,
        opset=arguments.opset,
        inputs=dict(arguments.input_shape),
        outputs=arguments.output_blob,
    )
    for note in exported.notes:
        remark(f"note: {note}", arguments)
    exported.save(arguments.output)
    ends = ", ".join(_shown(blob, shape) for blob, shape in exported.inputs.items())
    count = len(exported.model.graph.node)
    line = f"wrote {arguments.output}: {ends} to {', '.join(exported.outputs)}, {count} nodes, opset {arguments.opset}"
    remark(line, arguments)
    if not arguments.check:
        return 0
    from fusion.export import verify_onnx
    from fusion.verification.comparison import comparisons_json, comparisons_text

    found = verify_onnx(exported.net, arguments.weights, arguments.output, rtol=arguments.rtol)
    print(comparisons_json([found]) if arguments.json else comparisons_text([found]))
    if found.first is not None:
        print(f"error: {found.verdict()}", file=sys.stderr)
    return 0 if found.first is None else 1


def _shown(blob: str, shape: Sequence[int | None]) -> str:
    # None: the open batch axis
    return f"{blob} [{', '.join('N' if dim is None else str(dim) for dim in shape)}]"


if __name__ == "__main__":
    sys.exit(main())
