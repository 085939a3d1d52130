"""Load nets and solvers from files: parsed, decoded and upgraded to the current form."""

from __future__ import annotations

import os

from prototxt.schema.decode import decode
from prototxt.schema.messages import NetParameter, SolverParameter
from prototxt.schema.upgrade import upgrade_solver, upgrade_with_origins
from prototxt.text.parser import parse_file
from prototxt.text.source_places import remember
from prototxt.text.tree import Document, Message

Source = str | os.PathLike[str] | Document


def load_net(source: Source, *, strict: bool = True) -> NetParameter:
    """Load the net of a file or document, decoded and upgraded to V2, with the layers of all phases.

    strict  refuse fields that no schema knows; else they are kept as text and listed in a warning

    The layers' places are remembered (`places.place_of`). Fields of known forks are kept and listed in a warning.

    Raises: ParseError, DecodeError, UpgradeError with all mistakes; OSError.
    Warns: UnknownFieldWarning, UpgradeWarning.
    """
    doc = source if isinstance(source, Document) else parse_file(source)
    net: NetParameter = decode(doc, "NetParameter", strict=strict)
    return _upgraded(net, doc, doc.root)


def load_solver(source: Source, *, strict: bool = True) -> SolverParameter:
    """Load the solver of a file or document, its inline nets upgraded and their layers' places remembered.

    Raises: as load_net.
    """
    doc = source if isinstance(source, Document) else parse_file(source)
    solver: SolverParameter = decode(doc, "SolverParameter", strict=strict)
    result = upgrade_solver(solver)
    for name in ("net_param", "train_net_param"):
        for root in doc.root.messages(name):
            getattr(result, name).CopyFrom(_upgraded(getattr(solver, name), doc, root))
    for root, old, new in zip(
        doc.root.messages("test_net_param"), solver.test_net_param, result.test_net_param, strict=True
    ):
        new.CopyFrom(_upgraded(old, doc, root))
    return result


def _upgraded(net: NetParameter, doc: Document, root: Message) -> NetParameter:
    """Upgrade a decoded net, and remember the places of its layers."""
    fields = root.all("layers") or root.all("layer")
    starts = [[field.start] if len(field.values) == 1 else [value.start for value in field.values] for field in fields]
    places = [doc.place(start) for of_field in starts for start in of_field]
    result, origins = upgrade_with_origins(net, places)
    inputs = root.get("input") or root.get("input_dim")
    for layer, origin in zip(result.layer, origins, strict=True):
        if origin is not None:
            remember(layer, places[origin])
        elif inputs is not None:
            remember(layer, doc.place(inputs.start))
    return result
