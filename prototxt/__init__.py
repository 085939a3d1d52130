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
    from prototxt.converting import convert
    from prototxt.decoding import UnknownFieldWarning, decode
    from prototxt.deploying import deploy
    from prototxt.editing import Edits, find
    from prototxt.encoding import to_text
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
    from prototxt.loading import load_net, load_solver
    from prototxt.modernizing import upgrade_text
    from prototxt.parser import parse, parse_file
    from prototxt.phases import filter_net
    from prototxt.records import read_mean
    from prototxt.renaming import rename
    from prototxt.scanning import scan_weights
    from prototxt.shapes import infer, infer_shapes
    from prototxt.solverstate import SolverState, read_solverstate, write_solverstate
    from prototxt.spans import Scan
    from prototxt.tree import Document
    from prototxt.upgrading import UpgradeWarning
    from prototxt.weights import read_weights, write_weights

_HOMES = {
    "convert": "converting",
    "deploy": "deploying",
    "UnknownFieldWarning": "decoding",
    "decode": "decoding",
    "load_net": "loading",
    "load_solver": "loading",
    "Edits": "editing",
    "find": "editing",
    "to_text": "encoding",
    "DecodeError": "errors",
    "EditError": "errors",
    "ParseError": "errors",
    "Place": "errors",
    "PrototxtError": "errors",
    "RenameError": "errors",
    "ShapeError": "errors",
    "UpgradeError": "errors",
    "WeightsError": "errors",
    "parse": "parser",
    "parse_file": "parser",
    "filter_net": "phases",
    "rename": "renaming",
    "infer": "shapes",
    "infer_shapes": "shapes",
    "SolverState": "solverstate",
    "read_solverstate": "solverstate",
    "write_solverstate": "solverstate",
    "Document": "tree",
    "Scan": "spans",
    "UpgradeWarning": "upgrading",
    "read_mean": "records",
    "scan_weights": "scanning",
    "upgrade_text": "modernizing",
    "read_weights": "weights",
    "write_weights": "weights",
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
