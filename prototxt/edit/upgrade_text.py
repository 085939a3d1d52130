"""Upgrade old texts: unchanged parts keep their bytes, and comments stay with their layers.

A V1 layer is edited in place. A V0 layer is nested differently, so it is rewritten, and its comments are put back next
to their fields. The result is decoded and compared with the net that `load_net` makes of the old text.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prototxt.schema.decode import decode
from prototxt.schema.encode import float_text, to_text
from prototxt.schema.legacy import V0_FIELDS
from prototxt.schema.load import load_net, load_solver
from prototxt.schema.messages import LayerParameter, NetParameter, SolverParameter
from prototxt.schema.upgrade import TRANSFORMED, TRANSFORMS, upgrade_with_origins
from prototxt.text.edits import Edits
from prototxt.text.tokens import quote, string_end
from prototxt.text.tree import Document, Field, Message

_V1_PARAM_FIELDS = ("param", "blob_share_mode", "blobs_lr", "weight_decay")
_INPUT_FIELDS = ("input", "input_dim", "input_shape")
_FIELD_NAME = re.compile(r"\s*(\w+)\s*[:{]")


def upgrade_text(doc: Document, *, strict: bool = True) -> Document:
    """Return the upgraded document: a net as `load_net` reads it, or a solver as `load_solver` does.

    A current document is returned unchanged.

    Raises: ParseError, DecodeError, UpgradeError with all mistakes. Warns: UnknownFieldWarning, UpgradeWarning.
    """
    if is_solver(doc):
        return _solver_text(doc, strict)
    expected = load_net(doc, strict=strict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old: NetParameter = decode(doc, "NetParameter", strict=strict)
        edits = Edits(doc)
        _edit_net(edits, doc, doc.root, old)
        new = edits.apply()
        if load_net(new, strict=strict) == expected:
            return new
    return _rewritten(doc, to_text(expected))


def is_solver(doc: Document) -> bool:
    """Return whether the text is a solver's: it has a field that only solvers have."""
    solver, net = SolverParameter.DESCRIPTOR.fields_by_name, NetParameter.DESCRIPTOR.fields_by_name
    return any(field.name in solver and field.name not in net for field in doc.root)


def _rewritten(doc: Document, text: str) -> Document:
    """Return the document with all its text replaced."""
    edits = Edits(doc)
    edits.replace(doc.root, text)
    return edits.apply()


def _solver_text(doc: Document, strict: bool) -> Document:
    expected = load_solver(doc, strict=strict)
    edits = Edits(doc)
    for field in doc.root.all("solver_type") if expected.HasField("type") else ():
        edits.replace(field, f'type: "{expected.type}"')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old: SolverParameter = decode(doc, "SolverParameter", strict=strict)
        nets = [(name, getattr(old, name)) for name in ("net_param", "train_net_param") if old.HasField(name)]
        nets += [("test_net_param", net) for net in old.test_net_param]
        blocks = {name: iter(doc.root.messages(name)) for name, _ in nets}
        for name, net in nets:
            _edit_net(edits, doc, next(blocks[name]), net)
        new = edits.apply()
        if load_solver(new, strict=strict) == expected:
            return new
    return _rewritten(doc, to_text(expected))


def _edit_net(edits: Edits, doc: Document, root: Message, old: NetParameter) -> None:
    """Record the edits that upgrade one net."""
    new, origins = upgrade_with_origins(old)
    layers = dict(zip(origins, new.layer, strict=True))
    if old.input:
        _edit_inputs(edits, root, new.layer[0] if None in layers else None)
    if old.layers:
        for field in root.all("layer"):
            edits.remove(field)
    index = 0
    for field in root.all("layers") or root.all("layer"):
        several = [layers.get(position) for position in range(index, index + len(field.values))]
        index += len(field.values)
        kept = [layer for layer in several if layer is not None]
        if not kept:
            edits.remove(field)
        elif field.name == "layer":
            for layer, block in zip(kept, field.values, strict=True):
                _edit_batch_norm(edits, layer, block)
        elif len(several) > 1 or (isinstance(field.value, Message) and field.value.get("layer")):
            texts = [_with_comments(doc, field, layer) for layer in kept]
            edits.replace(field, ("\n" + _indent(doc, field)).join(texts))
        else:
            _edit_v1(edits, doc, field, kept[0])


def _edit_inputs(edits: Edits, root: Message, layer: LayerParameter | None) -> None:
    """Put the Input layer in place of the first input, or before the first layer if that comes earlier."""
    fields = [field for field in root if field.name in _INPUT_FIELDS]
    first = next((field for field in root if field.name in ("layer", "layers")), None)
    text = _input_text(layer) if layer is not None else ""
    if text and (first is None or fields[0].start < first.start):
        edits.replace(fields.pop(0), text)
    elif text and first is not None:
        edits.insert_text(first.start, text + "\n")
    for field in fields:
        edits.remove(field)


def _input_text(layer: LayerParameter) -> str:
    lines = [f"  top: {quote(top)}" for top in layer.top]
    shapes = [" ".join(f"dim: {size}" for size in shape.dim) for shape in layer.input_param.shape]
    lines += ["  input_param {", *(f"    shape {{ {shape} }}" for shape in shapes), "  }"]
    return "\n".join(["layer {", '  name: "input"', '  type: "Input"', *lines, "}"])


def _edit_batch_norm(edits: Edits, layer: LayerParameter, block: Any) -> None:
    if layer.type == "BatchNorm" and len(layer.param) == 3:
        for param in block.messages("param"):
            for name in ("lr_mult", "decay_mult"):
                value = param.string(name)
                if value is None or float(value.rstrip("fF")) != 0:
                    edits.set(param, name, "0")


def _edit_v1(edits: Edits, doc: Document, field: Field, layer: LayerParameter) -> None:
    """Rename fields with new names, and turn the lists of rates into `param` blocks."""
    block = field.value
    assert isinstance(block, Message)  # decoded before
    name_end = field.name_start + len(field.name)
    edits.replace(field._replace(start=field.name_start, end=name_end), "layer")
    for inner in block.all("type") if layer.HasField("type") else ():
        edits.replace(inner, f"type: {quote(layer.type)}")
    rates = [inner for inner in block if inner.name in _V1_PARAM_FIELDS]
    for position, inner in enumerate(rates):
        if position:
            edits.remove(inner)
        else:
            edits.replace(inner, _laid_out(doc, inner, [_param_line(param) for param in layer.param]))
    for name in TRANSFORMED.values():
        for inner in block.all(name):
            _move_transforms(edits, block, inner, layer)


def _param_line(param: Any) -> str:
    inner = " ".join(line.strip() for line in to_text(param).splitlines())
    return f"param {{ {inner} }}" if inner else "param { }"


def _laid_out(doc: Document, field: Field, parts: list[str]) -> str:
    """Join the parts by line breaks if the field has a line of its own, else by blanks."""
    before = doc.text[: field.start].rpartition("\n")[2]
    return (" " if before.strip() else "\n" + before).join(parts)


def _indent(doc: Document, field: Field) -> str:
    before = doc.text[: field.start].rpartition("\n")[2]
    return "" if before.strip() else before


def _move_transforms(edits: Edits, block: Message, field: Field, layer: LayerParameter) -> None:
    """Move scale, mean_file, crop_size and mirror from the data parameters to transform_param."""
    source = field.value
    if not isinstance(source, Message):
        return
    kept = {descriptor.name for descriptor, _ in getattr(layer, field.name).ListFields()}
    moved = {inner.name: inner for inner in source if inner.name in TRANSFORMS and inner.name not in kept}
    if not moved:
        return
    for inner in moved.values():
        edits.remove(inner)
    literals = {name: _literal(getattr(layer.transform_param, name)) for name in TRANSFORMS if name in moved}
    existing = block.messages("transform_param")
    if existing:
        for name, literal in literals.items():
            edits.set(existing[-1], name, literal)
    else:
        inner_text = " ".join(f"{name}: {literal}" for name, literal in literals.items())
        edits.insert_field(block, f"transform_param {{ {inner_text} }}", after=field)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float_text(value)
    return quote(value) if isinstance(value, str) else str(value)


@dataclass(frozen=True)
class _Comment:
    text: str
    near: str | None  # the field it is about, by its current name
    trailing: bool


def _with_comments(doc: Document, field: Field, layer: LayerParameter) -> str:
    """Return a V0 layer rewritten, each comment next to its field."""
    lines = ["layer {", *("  " + line for line in to_text(layer).splitlines()), "}"]
    for comment in _comments(doc, field):
        place = next((index for index, line in enumerate(lines) if _is_field(line, comment.near)), None)
        if place is None:
            lines.insert(1, "  " + comment.text)
        elif comment.trailing:
            lines[place] += "  " + comment.text
        else:
            blank = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
            lines.insert(place, blank + comment.text)
    return ("\n" + _indent(doc, field)).join(lines)


def _is_field(line: str, name: str | None) -> bool:
    match = _FIELD_NAME.match(line)
    return match is not None and match[1] == name


def _comments(doc: Document, field: Field) -> Iterator[_Comment]:
    """Yield the comments inside a field, each with the field before it on its line or else the one after it."""
    inner = sorted(_inner_fields(field), key=lambda part: part.start)
    text, pos = doc.text, field.start
    while pos < field.end:
        if text[pos] in "\"'":
            pos = max(string_end(text, pos), pos + 1)
        elif text[pos] == "#":
            # `%` turns the -1 of a comment without a line end into the length of the text.
            end = min(text.find("\n", pos) % (len(text) + 1), field.end)
            line = text.rfind("\n", 0, pos) + 1
            before = [part for part in inner if line <= part.start < pos and part.end <= pos]
            after = [part for part in inner if part.start > end]
            near = before[-1] if before else after[0] if after else None
            yield _Comment(text[pos:end].rstrip(), near and _name_today(near.name), bool(before))
            pos = end
        else:
            pos += 1


def _inner_fields(field: Field) -> Iterator[Field]:
    for value in field.values:
        if isinstance(value, Message):
            for part in value:
                if part.name != "layer":
                    yield part
                yield from _inner_fields(part)


def _name_today(name: str) -> str:
    homes = V0_FIELDS.get(name, {})
    return next(iter(homes.values())).rpartition(".")[2] if homes else name
