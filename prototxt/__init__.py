"""Caffe's files, text and binary: parse, edit, decode, infer shapes, read and write weights. Never imports torch.

    doc = prototxt.parse(text, name="net.prototxt")          # lossless: str(doc) == text
    doc = prototxt.rename(doc, "odd", freeze=True)           # a new document
    net = prototxt.load_net("net.prototxt")                  # NetParameter, upgraded to today's form
    net = prototxt.filter_net(net, phase="TEST")
    shapes = prototxt.infer_shapes(net, inputs={"data": (50, 1, 28, 28)})
    weights = prototxt.read_weights("net.caffemodel")        # layer name -> arrays, lazy

Names are loaded on first use, so that a program pays only for its calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from prototxt.conversion.convert import convert as convert
    from prototxt.edit.deploy import deploy as deploy
    from prototxt.edit.rename import rename as rename
    from prototxt.edit.upgrade_text import upgrade_text as upgrade_text
    from prototxt.errors import (
        DecodeError as DecodeError,
        EditError as EditError,
        ParseError as ParseError,
        Place as Place,
        PrototxtError as PrototxtError,
        RenameError as RenameError,
        ShapeError as ShapeError,
        UpgradeError as UpgradeError,
        WeightsError as WeightsError,
    )
    from prototxt.formats.datum import read_mean as read_mean
    from prototxt.formats.index import Scan as Scan
    from prototxt.formats.scan import scan_weights as scan_weights
    from prototxt.formats.solverstate import (
        SolverState as SolverState,
        read_solverstate as read_solverstate,
        write_solverstate as write_solverstate,
    )
    from prototxt.formats.weights import read_weights as read_weights, write_weights as write_weights
    from prototxt.schema.decode import UnknownFieldWarning as UnknownFieldWarning, decode as decode
    from prototxt.schema.encode import to_text as to_text
    from prototxt.schema.filter import filter_net as filter_net
    from prototxt.schema.load import load_net as load_net, load_solver as load_solver
    from prototxt.schema.upgrade import UpgradeWarning as UpgradeWarning
    from prototxt.shapes import infer as infer, infer_shapes as infer_shapes
    from prototxt.text.edits import Edits as Edits, find as find
    from prototxt.text.parser import parse as parse, parse_file as parse_file
    from prototxt.text.tree import Document as Document
else:
    __getattr__, __dir__ = lazy_exports(__name__)
