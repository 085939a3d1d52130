"""Forms of arguments that several commands take."""

from __future__ import annotations

import argparse


def source_argument(text: str) -> tuple[str, str | tuple[str, str]]:
    """`P=WEIGHTS` or `P=NET.prototxt:WEIGHTS`."""
    prefix, equals, rest = text.partition("=")
    if not equals or not rest:
        hint = f"for layers without a prefix: '={text}'" if not equals else "name the file behind the equals sign"
        raise argparse.ArgumentTypeError(f"'{text}' is not PREFIX=WEIGHTS or PREFIX=NET.prototxt:WEIGHTS; {hint}")
    head, colon, weights = rest.rpartition(":")
    if colon and not head.endswith((".prototxt", ".pbtxt", ".txt")):
        # a colon inside one path, such as a drive letter
        return prefix, rest
    return prefix, (head, weights) if colon else rest


def shape_argument(text: str) -> tuple[str, tuple[int, ...]]:
    """`BLOB=N,C,H,W`."""
    blob, _, dims = text.rpartition("=")
    try:
        shape = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not blob or not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not BLOB=N,C,H,W")
    return blob, shape


def input_argument(text: str) -> tuple[str, tuple[int, ...]]:
    """`[BLOB=]N,C,H,W`; without a name, which is for the only input, it is empty."""
    blob, equals, _ = text.rpartition("=")
    try:
        return blob, shape_argument(text if equals and blob else f"only={text}")[1]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}' is no shape such as data=1,3,224,224") from None
