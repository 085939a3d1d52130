"""Caffe's files, text and binary: parse, edit, decode, infer shapes, read and write weights. Never imports torch.

    doc = prototxt.parse(text, name="net.prototxt")          # lossless: str(doc) == text
    doc = prototxt.rename(doc, "odd", freeze=True)           # a new document
    net = prototxt.load_net("net.prototxt")                  # NetParameter, upgraded to today's form
    net = prototxt.filter_net(net, phase="TEST")
    shapes = prototxt.infer_shapes(net, inputs={"data": (50, 1, 28, 28)})
    weights = prototxt.read_weights("net.caffemodel")        # layer name -> arrays, lazy

Names are loaded on first use, so that a program pays only for what it calls.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prototxt.conversion.convert import convert
    from prototxt.edit.deploy import deploy
    from prototxt.edit.rename import rename
    from prototxt.edit.upgrade_text import upgrade_text
    from prototxt.errors import (
        DecodeError,
        EditError,
        ParseError,
        Place,
        PrototxtError,
        RenameError,
        ShapeError,
        UpgradeError,
        WeightsError,
    )
    from prototxt.formats.datum import read_mean
    from prototxt.formats.index import Scan
    from prototxt.formats.scan import scan_weights
    from prototxt.formats.solverstate import SolverState, read_solverstate, write_solverstate
    from prototxt.formats.weights import read_weights, write_weights
    from prototxt.schema.decode import UnknownFieldWarning, decode
    from prototxt.schema.encode import to_text
    from prototxt.schema.filter import filter_net
    from prototxt.schema.load import load_net, load_solver
    from prototxt.schema.upgrade import UpgradeWarning
    from prototxt.shapes import infer, infer_shapes
    from prototxt.text.edits import Edits, find
    from prototxt.text.parser import parse, parse_file
    from prototxt.text.tree import Document

_HOMES = {
    "convert": "conversion.convert",
    "deploy": "edit.deploy",
    "UnknownFieldWarning": "schema.decode",
    "decode": "schema.decode",
    "load_net": "schema.load",
    "load_solver": "schema.load",
    "Edits": "text.edits",
    "find": "text.edits",
    "to_text": "schema.encode",
    "DecodeError": "errors",
    "EditError": "errors",
    "ParseError": "errors",
    "Place": "errors",
    "PrototxtError": "errors",
    "RenameError": "errors",
    "ShapeError": "errors",
    "UpgradeError": "errors",
    "WeightsError": "errors",
    "parse": "text.parser",
    "parse_file": "text.parser",
    "filter_net": "schema.filter",
    "rename": "edit.rename",
    "infer": "shapes",
    "infer_shapes": "shapes",
    "SolverState": "formats.solverstate",
    "read_solverstate": "formats.solverstate",
    "write_solverstate": "formats.solverstate",
    "Document": "text.tree",
    "Scan": "formats.index",
    "UpgradeWarning": "schema.upgrade",
    "read_mean": "formats.datum",
    "scan_weights": "formats.scan",
    "upgrade_text": "edit.upgrade_text",
    "read_weights": "formats.weights",
    "write_weights": "formats.weights",
}

__all__ = [
    "DecodeError",
    "Document",
    "EditError",
    "Edits",
    "ParseError",
    "Place",
    "PrototxtError",
    "RenameError",
    "Scan",
    "ShapeError",
    "SolverState",
    "UnknownFieldWarning",
    "UpgradeError",
    "UpgradeWarning",
    "WeightsError",
    "convert",
    "decode",
    "deploy",
    "filter_net",
    "find",
    "infer",
    "infer_shapes",
    "load_net",
    "load_solver",
    "parse",
    "parse_file",
    "read_mean",
    "read_solverstate",
    "read_weights",
    "rename",
    "scan_weights",
    "to_text",
    "upgrade_text",
    "write_solverstate",
    "write_weights",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
