"""fusion-convert: convert a Caffe file to another form: upgraded, deployed, text or binary, HDF5, safetensors.

An ONNX file becomes a prototxt and a caffemodel.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from . import convert_data
from .arguments import add_options, remark
from .cli import run_command
from .command_parser import CommandParser

_EPILOG = """The kind of IN is detected from its content; the ending of OUT gives the new form:
  .prototxt .pbtxt .txt -        text (- is standard output)
  .caffemodel .binaryproto .pb   protobuf
  .solverstate                   protobuf, of a solver state
  .h5                            HDF5, of weights or a solver state
  .safetensors                   weights
  .npy                           a mean image
  .pth                           weights as the state dict of a PyTorch module (.safetensors with --state-dict)
An ONNX file or a PyTorch net (torchvision:NAME:WEIGHTS, timm:NAME:WEIGHTS, FILE.py:NAME:WEIGHTS, FILE.pt2) becomes two
files, IN OUT.prototxt WEIGHTS.caffemodel (or .h5, .safetensors); a PyTorch net also an ONNX file, IN OUT.onnx.

examples:
  %(prog)s old.prototxt new.prototxt --upgrade              V0 or V1 text to the current form, comments kept
  %(prog)s old.caffemodel new.caffemodel --upgrade          the same for weights
  %(prog)s train_val.prototxt deploy.prototxt --deploy --input-shape data=1,3,227,227
  %(prog)s net.caffemodel net.safetensors                   and back, and .h5; streamed, any size
  %(prog)s net.caffemodel - | less                          the description inside, without values
  %(prog)s solver.prototxt solver.binaryproto
  %(prog)s images list.txt images/ train_lmdb --lmdb        and `list` and `mean`: see their --help
  %(prog)s mean.binaryproto mean.npy
  %(prog)s net.onnx net.prototxt net.caffemodel             checked in ONNX Runtime if that is installed
  %(prog)s torchvision:resnet18:r18.pth net.prototxt net.caffemodel
  %(prog)s net.caffemodel net.pth --model net.prototxt      its weights, for the module that it was
"""


def parser(prog: str = "fusion-convert") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Convert a Caffe file to another form. OUT is written atomically and may be IN.",
        epilog=_EPILOG,
    )
    add = result.add_argument
    add("input", metavar="IN",
        help="a net, solver, mean image, weights or solver state in any form, an ONNX file, a PyTorch net")  # fmt: skip
    add("output", metavar="OUT", help="file to write; its ending gives the form")
    add("weights", metavar="WEIGHTS", nargs="?", help="file for the weights of an ONNX file or PyTorch net")
    add("--upgrade", action="store_true", help="upgrade V0 and V1, as Caffe does when it reads them")
    add("--deploy", action="store_true", help="make the deploy net: inputs for data layers, scores for losses")
    add_options(result, "--input-shape", "--output-blob", "--stage", note="with --deploy")
    add("--model", metavar="NET.prototxt", help="for weights: the net that gives the order, types, bottoms and tops of "
        "layers")  # fmt: skip
    add("--state-dict", action="store_true", help="for weights: write them under the keys of a PyTorch module, as .pth "
        "files always are")  # fmt: skip
    add("--prefix", metavar="P", help="for a state dict: the branch to write, without its prefix")
    add_options(result, "--pixels", note="with it the net takes 0 to 255, blue first, as Caffe's data layers give them")
    add("--fold-pixels", action="store_true", help="fold --pixels into the weights of the first convolution")
    add(
        "--only-bvlc",
        action="store_true",
        help="for an ONNX file or PyTorch net: refuse layers that only forks of Caffe have",
    )
    add_options(result, "--quiet")
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-convert") -> int:
    """Convert; return 0 on success, 1 for an error in a file, 2 for bad usage."""
    given = sys.argv[1:] if argv is None else argv
    # by hand: argparse cannot mix sub-commands with a first argument that is any path
    if given and given[0] in convert_data.COMMANDS:
        return convert_data.main(given, prog)
    options = parser(prog)
    arguments = options.parse_args(given)
    from fusion.conversion.net_names import holds_its_weights, is_onnx_path

    from_onnx = holds_its_weights(arguments.input) and not arguments.prefix
    if not arguments.deploy and ((arguments.input_shape and not from_onnx) or arguments.output_blob or arguments.stage):
        options.error("--input-shape, --output-blob and --stage go with --deploy")
    if from_onnx and not arguments.weights and (is_onnx_path(arguments.input) or not is_onnx_path(arguments.output)):
        options.error("such a net becomes two files: IN OUT.prototxt WEIGHTS.caffemodel")
    if arguments.fold_pixels and not arguments.pixels:
        options.error("--fold-pixels goes with --pixels, which says what is folded")
    if not from_onnx and (arguments.weights or arguments.only_bvlc or arguments.pixels):
        options.error("WEIGHTS, --pixels and --only-bvlc go with an ONNX file or PyTorch net")
    if from_onnx and (arguments.deploy or arguments.upgrade or arguments.model):
        options.error("such a net is converted without --deploy, --upgrade and --model")
    to_torch = arguments.state_dict or arguments.output.lower().endswith(".pth")
    if to_torch and not arguments.model:
        options.error("a state dict is written with the net's prototxt: --model NET.prototxt")
    if to_torch and not arguments.output.lower().endswith((".pth", ".safetensors")):
        options.error("a state dict is a .pth or .safetensors file")
    if arguments.prefix and not to_torch:
        options.error("--prefix goes with a state dict: an OUT that ends in .pth, or --state-dict")
    work = _to_caffe if arguments.weights else _to_onnx if from_onnx else _to_state_dict if to_torch else _convert
    code: int = run_command(lambda: work(arguments))
    return code


def _to_caffe(arguments: argparse.Namespace) -> None:
    """Write an ONNX file or PyTorch net as a net and its weights, compared with it on noise before."""
    from fusion.composition.fold_pixels import fold_pixels
    from fusion.composition.pixels import with_pixels
    from fusion.conversion.caffe_nets import to_caffe
    from prototxt.files import write_text
    from prototxt.formats.weights import write_weights
    from prototxt.schema.encode import to_text
    from prototxt.text.parser import parse

    made = to_caffe(arguments.input, shapes=dict(arguments.input_shape), only_bvlc=arguments.only_bvlc)
    if arguments.fold_pixels:
        made = fold_pixels(made, arguments.pixels, arguments.input)
    document = parse(to_text(made.net), arguments.input)
    if arguments.pixels and not arguments.fold_pixels:
        document = with_pixels(document, arguments.pixels, arguments.input)
    write_weights(arguments.weights, made.weights, net=made.net)
    write_text(arguments.output, str(document))
    if not arguments.quiet:
        checked, *notes = made.notes
        print(f"{arguments.output}, {arguments.weights}: {len(made.net.layer)} layers, {checked}")
        for note in notes:
            print(f"  {note}")


def _to_onnx(arguments: argparse.Namespace) -> None:
    """Write a PyTorch net as an ONNX file."""
    from fusion.conversion.export_module import export_module
    from fusion.conversion.torch_nets import open_torch_net

    shape = next((shape[1:] for _, shape in arguments.input_shape), None)
    export_module(open_torch_net(arguments.input, shape), arguments.output)
    remark(f"wrote {arguments.output}", arguments)


def _to_state_dict(arguments: argparse.Namespace) -> None:
    """Write weights as a state dict."""
    from fusion.conversion.state_dicts import to_state_dict, write_state_dict

    state = to_state_dict(arguments.model, arguments.input, prefix=arguments.prefix or "")
    write_state_dict(arguments.output, state)
    if not arguments.quiet:
        print(f"{arguments.output}: {len(state)} tensors")


def _convert(arguments: argparse.Namespace) -> None:
    from prototxt.conversion.convert import ConvertOptions, convert

    request = ConvertOptions(
        upgrade=arguments.upgrade,
        deploy=arguments.deploy,
        inputs=dict(arguments.input_shape),
        outputs=arguments.output_blob,
        stages=arguments.stage,
        net=arguments.model,
    )
    with warnings.catch_warnings():
        # Python would print each warning with the line of code that raised it
        warnings.showwarning = _show
        warnings.simplefilter("ignore" if arguments.quiet else "always")
        done = convert(arguments.input, arguments.output, request)
    if not arguments.quiet:
        stream = sys.stderr if arguments.output == "-" else sys.stdout
        print(f"{arguments.output}: {done.target}, from {done.source}", file=stream)
        for note in done.notes:
            print(f"  {note}", file=stream)


def _show(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
