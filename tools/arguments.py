"""Forms of arguments that several commands take."""

from __future__ import annotations

import argparse


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
        raise argparse.ArgumentTypeError(f"'{text}' is not BLOB=N,C,H,W")
    return blob, shape


def input_argument(text: str) -> tuple[str, tuple[int, ...]]:
    """Return blob and shape of `[BLOB=]N,C,H,W`; without a blob, which means the only input, its name is empty."""
    blob, equals, _ = text.rpartition("=")
    try:
        # shape_argument needs some name; the empty one of the result means the only input
        return blob, shape_argument(text if equals and blob else f"only={text}")[1]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a shape such as data=1,3,224,224") from None


def size_argument(text: str) -> tuple[int, int]:
    """Return height and width of `256x256` or `256,256`."""
    height, _, width = text.lower().replace("x", ",").partition(",")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"not a size: '{text}' (give HEIGHTxWIDTH, such as 256x256)")
    return int(height), int(width)


def read_class_names(path: str | None) -> tuple[str, ...]:
    """Return the class names in a file with one per line; without a file, none."""
    if path is None:
        return ()
    from prototxt.text.class_names import read_names

    names: tuple[str, ...] = read_names(path)
    return names
