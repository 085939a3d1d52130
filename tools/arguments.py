"""Options that several commands have, each with one name, form and description, and the forms of their values."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from prototxt.text.tree import Document

_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class _Options(Protocol):
    """A parser, or a group of one."""

    def add_argument(self, *names: str, **settings: Any) -> Any:
        """Add an option."""


def add_options(to: _Options, *names: str, **changes: Any) -> None:
    """Add options of _SHARED by their long names.

    changes  settings of argparse that only this command has: `required`, a `default`, or `note`, after the description
    """
    note = changes.pop("note", "")
    for name in names:
        settings = {**_SHARED[name], **changes}
        description = f"{settings.pop('help')}{note and f'; {note}'}"
        if settings.get("default") not in (None, "", []):
            description += " (default %(default)s)"
        to.add_argument(*_SHORT.get(name, ()), name, help=description, **settings)


def remark(text: str, arguments: argparse.Namespace) -> None:
    """Print a note, or the name of a written file, to stderr, unless with --quiet."""
    if not arguments.quiet:
        print(text, file=sys.stderr)


def positive_int(text: str) -> int:
    """Return a whole number from 1."""
    return _whole_number(text, least=1)


def natural_int(text: str) -> int:
    """Return a whole number from 0."""
    return _whole_number(text, least=0)


def _whole_number(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least}")
    return int(text)


def classes_argument(text: str) -> list[int]:
    """Return the numbers of `1,3,5` or `0-4,9`."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            message = f"'{part}' is not a class number; give numbers and ranges, such as 1,3,5 or 0-4,9"
            raise argparse.ArgumentTypeError(message)
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def bytes_argument(text: str) -> int:
    """Return the bytes of a text such as 512M or 4G."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (give 512M or 4G)")
    return int(float(match[1]) * _SIZE_UNITS[match[2].upper()])


def rate_argument(text: str) -> float:
    """Return a rate from 0 to 1 of `0.005` or `0.5%`."""
    from fusion.report.gate import parse_rate

    try:
        return parse_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def source_argument(text: str) -> tuple[str, str | tuple[str, str]]:
    """Return prefix and files of `P=WEIGHTS` or `P=NET.prototxt:WEIGHTS`."""
    prefix, equals, rest = text.partition("=")
    if not equals or not rest:
        hint = f"for layers without a prefix: '={text}'" if not equals else "give a file after the equals sign"
        raise argparse.ArgumentTypeError(f"'{text}' is not PREFIX=WEIGHTS or PREFIX=NET.prototxt:WEIGHTS; {hint}")
    # the last colon separates, since the path of the net may contain colons too
    head, colon, weights = rest.rpartition(":")
    if colon and not head.endswith((".prototxt", ".pbtxt", ".txt")):
        return prefix, rest  # a colon inside one path, such as a drive letter
    return prefix, (head, weights) if colon else rest


def shape_argument(text: str) -> tuple[str, tuple[int, ...]]:
    """Return blob and shape of `BLOB=N,C,H,W`."""
    blob, _, dims = text.rpartition("=")  # Caffe's names may contain '='
    try:
        shape = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not blob or not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not BLOB=N,C,H,W, such as data=1,3,224,224")
    return blob, shape


def size_argument(text: str) -> tuple[int, int]:
    """Return height and width of `256x256` or `256,256`."""
    height, _, width = text.lower().replace("x", ",").partition(",")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"not a size: '{text}' (give HEIGHTxWIDTH, such as 256x256)")
    return int(height), int(width)


def net_or_onnx(path: str, arguments: argparse.Namespace, *, measured: bool = False) -> str | Document:
    """Return the path of a prototxt, or the description of an ONNX file or PyTorch net (`fusion.composition.onnx_net`).

    Raises: FusionError for --pixels with a prototxt; ComposeError for an ONNX file, see `onnx_net`.
    """
    from fusion.composition.onnx_net import onnx_net
    from fusion.conversion.net_names import holds_its_weights

    if holds_its_weights(path):
        shapes = [shape for _, shape in arguments.input_shape if len(shape) == 4]
        size = (shapes[0][2], shapes[0][3]) if shapes else None
        channels = shapes[0][1] if shapes else 3
        found: Document = onnx_net(path, pixels=arguments.pixels, size=size, channels=channels, measured=measured)
        return found
    if arguments.pixels is not None:
        from fusion.errors import FusionError

        raise FusionError("--pixels is for ONNX files; a prototxt has its data layer for that", place=path)
    return path


def read_class_names(path: str | None) -> tuple[str, ...]:
    """Return the class names in a file with one per line; without a file, none."""
    if path is None:
        return ()
    from prototxt.text.class_names import read_names

    names: tuple[str, ...] = read_names(path)
    return names


_REPEATABLE: dict[str, Any] = {"action": "append", "default": []}
_SHORT = {"--output": ("-o",), "--quiet": ("-q",)}
_SHARED: dict[str, dict[str, Any]] = {
    "--all-outputs": {
        "action": "store_true",
        "help": "list every value of outputs with several values, such as class scores",
    },
    "--batch": {"type": positive_int, "metavar": "N", "help": "records per batch"},
    "--device": {"default": "auto", "metavar": "DEVICE", "help": "auto, cpu, cuda, cuda:1"},
    "--drop": {"metavar": "REGEX", "help": "give layers with these names (whole names) fresh weights"},
    "--dry-run": {"action": "store_true", "help": "print the plan and write nothing"},
    "--force": {"action": "store_true", "help": "let --output overwrite weights that are read"},
    "--frozen-engine": {
        "choices": ("auto", "torch", "onnxruntime"),
        "default": "auto",
        "help": "engine of ONNX layers that are frozen and computed once; auto: ONNX Runtime if it is installed, on a "
        "CPU, and if it equals torch within 1e-5 of the largest value",
    },
    "--html": {"metavar": "OUT", "help": "write a page: one file that needs no network"},
    "--input-shape": {
        **_REPEATABLE,
        "type": shape_argument,
        "metavar": "BLOB=N,C,H,W",
        "help": "shape of an input, where the net does not fix it",
    },
    "--json": {"action": "store_true", "help": "print the result as JSON"},
    "--labels": {
        "metavar": "FILE",
        "help": "names of the classes, one per line, class 0 first (default: those in the nets and predictions files)",
    },
    "--level": {"type": int, "default": 0, "metavar": "N", "help": "level of the net's state"},
    "--list": {"metavar": "LIST", "help": "the list, folder of class folders or database of the records"},
    "--logits": {"metavar": "BLOB", "help": "the blob with the class scores (default: the input of the loss)"},
    "--lr": {"type": float, "metavar": "RATE", "help": "the solver's base_lr"},
    "--lr-policy": {"metavar": "POLICY", "help": "the solver's lr_policy"},
    "--max-iter": {"type": positive_int, "metavar": "N", "help": "the solver's max_iter, the number of iterations"},
    "--max-nfr": {"type": rate_argument, "metavar": "RATE", "help": "limit of the negative flip rate, 0.005 or 0.5%%"},
    "--num-output": {"type": positive_int, "metavar": "N", "help": "number of classes, or of values"},
    "--on-bad-record": {
        "choices": ("fail", "skip"),
        "default": "fail",
        "help": "fail, or skip records that cannot be read or have another size, and count them",
    },
    "--output": {"metavar": "OUT", "help": "file to write, or folder for several files"},
    "--output-blob": {
        **_REPEATABLE,
        "metavar": "BLOB",
        "help": "a blob to compute (default: the net's outputs)",
    },
    "--phase": {"type": str.upper, "choices": ("TRAIN", "TEST"), "help": "phase of the net's state"},
    "--pixels": {
        "metavar": "KIND",
        "help": "how an ONNX net expects images: rgb, unit (0 to 1), centered (-1 to 1), torchvision, or such as "
        "mean:104,117,123,std:1,order:bgr",
    },
    "--quiet": {"action": "store_true", "help": "print errors, warnings and the result only"},
    "--reinit": {"metavar": "FILLER", "help": "filler of the layers of --drop: xavier, or gaussian,std=0.01"},
    "--resize": {"type": size_argument, "metavar": "HxW", "help": "resize images to this height and width"},
    "--root": {"default": "", "metavar": "DIR", "help": "put before the path of each image, unchanged"},
    "--rtol": {"type": float, "default": 1e-5, "metavar": "X", "help": "relative difference allowed"},
    "--seed": {"type": natural_int, "metavar": "N", "help": "seed of all random draws"},
    "--stage": {**_REPEATABLE, "metavar": "STAGE", "help": "a stage of the net's state"},
    "--svg": {"metavar": "OUT", "help": "write a drawing of the net as an SVG image"},
    "--val-share": {
        "type": float,
        "metavar": "SHARE",
        "help": "keep back this share of each class for validation, as a second list",
    },
    "--weights": {
        "metavar": "WEIGHTS[,WEIGHTS]",
        "help": "trained weights (.caffemodel, .h5, .safetensors); later files override earlier ones",
    },
}
