"""Make the deploy text of a training net: inputs instead of data, scores instead of losses, no training-only layers.

Unchanged layers keep their bytes and comments. Source: the pairs of train_val.prototxt and deploy.prototxt in Caffe's
model zoo.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prototxt.edit.deploy_plan import DeployPlan, Score, plan_deploy
from prototxt.edit.upgrade_text import upgrade_text
from prototxt.errors import EditError, ShapeError, raise_all
from prototxt.schema.encode import to_text
from prototxt.schema.filter import is_included
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.shapes import UNKNOWN, Shape, infer
from prototxt.shapes.net import infer_partly
from prototxt.text.edits import Edits
from prototxt.text.parser import parse
from prototxt.text.tokens import quote
from prototxt.text.tree import Document, Field, Message

_RULES = ("include", "exclude")
_TRAINING = ("loss_weight", "loss_param", "propagate_down", "infogain_loss_param", *_RULES)
_COMMENTS = re.compile(r"(?:^[ \t]*#[^\n]*\n)+\Z", re.MULTILINE)


@dataclass(frozen=True)
class DeployResult:
    """The deploy text of a net, and notes on the decisions, one sentence each."""

    document: Document
    notes: tuple[str, ...]


def deploy(
    doc: Document,
    inputs: Mapping[str, Sequence[int]] | None = None,
    *,
    outputs: Sequence[str] = (),
    stages: Sequence[str] = (),
) -> DeployResult:
    """Make the deploy text of a train_val text of any version.

    inputs   shapes of the net's inputs by blob, or by "" for the only one; by default those of the data layers, one
             sample
    outputs  blobs to compute; by default the predictions of the losses, and the blobs that no layer reads
    stages   stages of the net's state; by default "deploy" if the net names this stage

    Raises: ParseError, DecodeError, UpgradeError; EditError if no layer would be left; ShapeError if an input's shape
    is unknown, or the shapes of the result do not fit.
    """
    doc = _plain(upgrade_text(doc, strict=False))
    net = _load(doc)
    try:
        plan = plan_deploy(net, outputs, stages)
    except EditError as error:
        raise EditError(error.message, place=doc.name, hint=error.hint) from None
    shapes = _input_shapes(net, plan, dict(inputs or {}), doc)
    edits = Edits(doc)
    names = _score_names(net, plan)
    fields = [field for field in doc.root.all("layer") if field.values]
    for index, (field, layer) in enumerate(zip(fields, net.layer, strict=True)):
        _edit_layer(edits, field, layer, index, plan, shapes, names)
    for field in doc.root.all("state"):
        edits.remove(field)
    if plan.missing:
        texts = [_input_layer(blob, (blob,), shapes) for blob in plan.missing]
        edits.insert_text(fields[0].start, "".join(f"{text}\n" for text in texts))
    result = edits.apply()
    infer(_load(result), unknown="ignore")
    return DeployResult(result, (*plan.notes, *_transform_notes(net, plan)))


def _load(doc: Document) -> NetParameter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the upgrade has given them
        return load_net(doc, strict=False)


def _plain(doc: Document) -> Document:
    """Return the document with one layer per field; one with `layer: [{...}, {...}]` is rewritten."""
    if all(len(field.values) == 1 for field in doc.root.all("layer")):
        return doc
    return parse(to_text(_load(doc)), doc.name)


def _edit_layer(
    edits: Edits,
    field: Field,
    layer: LayerParameter,
    index: int,
    plan: DeployPlan,
    shapes: Mapping[str, Shape],
    names: Mapping[int, str],
) -> None:
    block = field.value
    assert isinstance(block, Message)  # decoded before
    score = next((score for score in plan.scores if score.index == index), None)
    if index in plan.inputs:
        text = _input_text(layer, plan.inputs[index], shapes)
        edits.replace(field, text.replace("\n", "\r\n") if "\r\n" in edits.document.text[:10_000] else text)
    elif score is not None:
        _edit_score(edits, block, score, names[index])
    elif index not in plan.kept:
        edits.remove(_with_comments(edits.document.text, field))
    else:
        for rule in (rule for name in _RULES for rule in block.all(name)):
            edits.remove(rule)
        if layer.type == "Input" and any(top in shapes for top in layer.top):
            inner = " ".join(f"shape {{ {_dims(shapes[top])} }}" for top in layer.top)
            edits.set(block, "input_param", f"{{ {inner} }}")


def _edit_score(edits: Edits, block: Message, score: Score, name: str) -> None:
    """Turn a loss into the layer that computes its scores."""
    for inner in (inner for training in _TRAINING for inner in block.all(training)):
        edits.remove(inner)
    anchor = next(inner for inner in block.all("bottom") if _text_of(inner) == score.blob)
    for kind, value in (("name", name), ("type", score.type), ("bottom", score.blob), ("top", name)):
        found = block.all(kind)
        keep = anchor if kind == "bottom" else found[0] if found else None
        if keep is None:
            edits.insert_field(block, f"{kind}: {quote(value)}", after=anchor)
        elif _text_of(keep) != value:
            edits.replace(keep, f"{kind}: {quote(value)}")
        for inner in found:
            if inner != keep:
                edits.remove(inner)


def _text_of(field: Field) -> str | None:
    """Return the text of a field's first scalar."""
    value = field.values[0] if field.values else None
    return None if value is None or isinstance(value, Message) else value.value


def _with_comments(text: str, field: Field) -> Field:
    """Extend the field by the comment lines directly above it, unless these begin the file."""
    line = text.rfind("\n", 0, field.start) + 1
    above = _COMMENTS.search(text, max(0, line - 4000), line)
    if above is None or text[line : field.start].strip() or not text[: above.start()].strip():
        return field
    return field._replace(start=above.start() + len(above[0]) - len(above[0].lstrip(" \t")))


def _score_names(net: NetParameter, plan: DeployPlan) -> dict[int, str]:
    """Return a name for each score: prob, as in Caffe's deploy nets, or one after its blob if there are several."""
    used = {name for index in plan.kept for name in (net.layer[index].name, *net.layer[index].top)}
    names: dict[int, str] = {}
    for score in plan.scores:
        name = "prob" if len(plan.scores) == 1 else f"{score.blob}_prob"
        while name in used:
            name += "_"
        used.add(name)
        names[score.index] = name
    return names


def _input_shapes(
    net: NetParameter, plan: DeployPlan, given: dict[str, Sequence[int]], doc: Document
) -> dict[str, Shape]:
    """Return the shape of each input blob: the given one, or that of the data layer for one sample.

    Raises: ShapeError with all unknown shapes, or with given names that are not inputs.
    """
    sources = {top: index for index, tops in plan.inputs.items() for top in tops}
    declared = [top for index in sorted(plan.kept) if net.layer[index].type == "Input" for top in net.layer[index].top]
    blobs = [*sources, *plan.missing, *declared]
    if "" in given and len(blobs) == 1:
        given[blobs[0]] = given.pop("")
    if strange := [
        f"{blob!r}, which is not an input" if blob else "an unnamed input" for blob in given if blob not in blobs
    ]:
        hint = f"its inputs are {', '.join(blobs)}: give --input-shape {blobs[0] if blobs else 'data'}=1,3,224,224"
        raise ShapeError(f"a shape is given for {', '.join(strange)}", place=doc.name, hint=hint)
    present = NetParameter()
    present.layer.extend(
        layer for index, layer in enumerate(net.layer) if index in plan.inputs or is_included(layer, plan.state)
    )
    known = infer_partly(present)[0].blobs
    shapes: dict[str, Shape] = {blob: tuple(shape) for blob, shape in given.items()}
    errors = []
    for blob in (*sources, *plan.missing):
        shape = known.get(blob, UNKNOWN)
        if blob not in shapes and (shape is UNKNOWN or None in shape[1:]):
            errors.append(_unknown_input(blob, shape, doc))
        shapes.setdefault(blob, (1, *shape[1:]))
    raise_all(errors)
    if any(top in given for top in declared):  # one input_param serves all tops of its layer
        shapes.update({top: known[top] for top in declared if top not in given})
    return shapes


def _unknown_input(blob: str, shape: Shape, doc: Document) -> ShapeError:
    dims = (1, *shape[1:]) if shape is not UNKNOWN else (1, None, None, None)
    example = ",".join("?" if dim is None else str(dim) for dim in dims)
    hint = f"give --input-shape {blob}={example} with numbers for all"
    return ShapeError(
        f"the shape of the input {blob!r} is not known, because its data is not here", place=doc.name, hint=hint
    )


def _input_text(layer: LayerParameter, tops: Sequence[str], shapes: Mapping[str, Shape]) -> str:
    prepared = _prepared(layer)
    text = _input_layer(tops[0] if len(tops) == 1 else layer.name or "input", tops, shapes)
    return f"# prepared as {prepared}\n{text}" if prepared else text


def _input_layer(name: str, tops: Sequence[str], shapes: Mapping[str, Shape]) -> str:
    lines = ["layer {", f"  name: {quote(name)}", '  type: "Input"', *(f"  top: {quote(top)}" for top in tops)]
    if len(tops) == 1:
        lines.append(f"  input_param {{ shape {{ {_dims(shapes[tops[0]])} }} }}")
    else:
        lines += ["  input_param {", *(f"    shape {{ {_dims(shapes[top])} }}" for top in tops), "  }"]
    return "\n".join([*lines, "}"])


def _dims(shape: Shape) -> str:
    return " ".join(f"dim: {dim}" for dim in shape)


def _prepared(layer: LayerParameter) -> str:
    """Describe the data layer's transformation on one line; users of the deploy net must apply it themselves."""
    return ", ".join(line.strip() for line in to_text(layer.transform_param).splitlines() if "mirror" not in line)


def _transform_notes(net: NetParameter, plan: DeployPlan) -> list[str]:
    return [
        f"prepare the input {tops[0]!r} as the data layer did: {prepared}"
        for index, tops in plan.inputs.items()
        if tops and (prepared := _prepared(net.layer[index]))
    ]
