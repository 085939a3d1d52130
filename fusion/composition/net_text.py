"""A net's text as a list of layers: the blobs that each reads and writes, and its piece of the file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from prototxt.errors import Place
from prototxt.schema.params import makes_data
from prototxt.text.tree import Document, Message

PHASES = ("TRAIN", "TEST")
_SEPARATOR = re.compile(r"\s*[,;]")


@dataclass(frozen=True)
class LayerText:
    """One `layer { ... }` of a document.

    number  its index among the document's layers
    start   offset of the field in the text; `end` is after its closing bracket
    phases  those of TRAIN and TEST in which it is present
    """

    number: int
    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    phases: tuple[str, ...]
    message: Message
    start: int
    end: int

    @property
    def is_data(self) -> bool:
        """Return whether it brings blobs into the net: a data layer, an Input, or a Python layer without bottoms."""
        return makes_data(self.type, len(self.bottoms))


@dataclass(frozen=True)
class NetText:
    """A document with its layers, and the inputs that it declares in the old way (`input: "data"`)."""

    document: Document
    layers: tuple[LayerText, ...]
    inputs: tuple[str, ...]

    @cached_property
    def name(self) -> str:
        """Return the net's own name."""
        return self.document.root.string("name") or ""

    @property
    def file(self) -> str:
        """Return the name of the net's file."""
        return self.document.name

    def place(self, layer: LayerText) -> Place:
        """Return the place of the layer in its file."""
        return self.document.place(layer.start)

    @cached_property
    def input_blobs(self) -> tuple[str, ...]:
        """Return all blobs from outside: declared inputs and the tops of data layers, in order, each once."""
        tops = [top for layer in self.layers if layer.is_data for top in layer.tops]
        return tuple(dict.fromkeys([*self.inputs, *tops]))


def read_net(document: Document, stages: Mapping[str, Collection[str]] | None = None) -> NetText:
    """Split a net's text, in current syntax and with one layer per field, into layers.

    stages  per phase the stages that hold, beside those that the net's own `state` names
    """
    layers: list[LayerText] = []
    states = {phase: _state(document, phase, (stages or {}).get(phase, ())) for phase in PHASES}
    for field in document.root.all("layer"):
        for value in field.values:
            if isinstance(value, Message):
                layers.append(_layer(len(layers), value, field.start, states))
    return NetText(document, tuple(layers), tuple(scalar.value for scalar in document.root.scalars("input")))


@dataclass(frozen=True)
class _State:
    """A net's state, with which the rules of its layers are compared."""

    phase: str
    level: int
    stages: frozenset[str]


def _state(document: Document, phase: str, stages: Collection[str]) -> _State:
    own = document.root.messages("state")
    levels = [text for block in own if (text := block.string("level"))]
    stated = [scalar.value for block in own for scalar in block.scalars("stage")]
    return _State(phase, int(levels[-1], 0) if levels else 0, frozenset((*stages, *stated)))


def _layer(number: int, message: Message, start: int, states: Mapping[str, _State]) -> LayerText:
    return LayerText(
        number=number,
        name=message.string("name") or "",
        type=message.string("type") or "",
        bottoms=tuple(scalar.value for scalar in message.scalars("bottom")),
        tops=tuple(scalar.value for scalar in message.scalars("top")),
        phases=tuple(phase for phase in PHASES if _present(message, states[phase])),
        message=message,
        start=start,
        end=message.end,
    )


def _present(layer: Message, state: _State) -> bool:
    """Return whether the layer is present in this state, by Caffe's rules (NetStateRule)."""
    # Caffe allows only one of the two: with `include` rules one must hold, else no `exclude` rule may.
    include, exclude = layer.messages("include"), layer.messages("exclude")
    if include:
        return any(_met(rule, state) for rule in include)
    return not any(_met(rule, state) for rule in exclude)


def _met(rule: Message, state: _State) -> bool:
    phase = rule.string("phase")
    # An enum of a prototxt may be written as its number.
    if phase is not None and phase not in (state.phase, str(PHASES.index(state.phase))):
        return False
    lowest, highest = rule.string("min_level"), rule.string("max_level")
    if (lowest and state.level < int(lowest, 0)) or (highest and state.level > int(highest, 0)):
        return False
    stages, others = ({scalar.value for scalar in rule.scalars(name)} for name in ("stage", "not_stage"))
    return stages <= state.stages and not others & state.stages


def keep_layers(net: NetText, kept: frozenset[int]) -> NetText:
    """Keep only the layers of these numbers; the others become blank lines, so that line numbers stay valid."""
    text = net.document.text
    pieces, position = [], 0
    for layer in net.layers:
        if layer.number not in kept:
            separator = _SEPARATOR.match(text, layer.end)  # fields may end in a comma or semicolon
            pieces.append(text[position : layer.start])
            position = separator.end() if separator else layer.end
            pieces.append("\n" * text.count("\n", layer.start, position))
    return read_net(reparse("".join([*pieces, text[position:]]), net.file))


def excerpt(net: NetText, layer: LayerText) -> str:
    """Return the layer's text with the comments around it; ends with a newline, blank lines trimmed to one."""
    text = net.document.text
    before = max((field.end for field in net.document.root.fields if field.end <= layer.start), default=0)
    start = min(_line_rest(text, before), layer.start)  # a comment after the previous field belongs to that
    piece = text[start : max(layer.end, _line_rest(text, layer.end))].replace("\r\n", "\n")
    piece = re.sub(r"\n\s*\n(\s*\n)+", "\n\n", "\n" + piece.strip("\n"))
    return re.sub(r"\A\s*\n", "", piece).rstrip() + "\n"


def _line_rest(text: str, position: int) -> int:
    """Return the end of the line at `position` if only a comment or blanks follow, else `position`."""
    match = re.compile(r"[ \t]*[,;]?[ \t]*(#[^\n]*)?(?=\n|\Z)").match(text, position)
    return match.end() if match else position


def reparse(text: str, name: str) -> Document:
    """Parse a text generated from one that parsed."""
    from prototxt.text.parser import parse

    return parse(text, name)


def quoted(text: str) -> str:
    """Return a string literal of prototxt."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def format_value(value: object) -> str:
    """Return a boolean, a number or a word as in a prototxt."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def rename_blobs(text: str, blobs: Mapping[str, str], name: str | None = None) -> str:
    """Rename bottoms and tops in a layer's text, and the layer if `name` is given."""
    from prototxt.text.edits import Edits

    document = reparse(text, "a layer")
    edits, message = Edits(document), document.root.messages("layer")[0]
    for scalar in message.scalars("bottom") + message.scalars("top"):
        if blobs.get(scalar.value, scalar.value) != scalar.value:
            edits.replace(scalar, quoted(blobs[scalar.value]))
    if name is not None and message.string("name") not in (None, name):
        edits.set(message, "name", quoted(name))
    return str(edits.apply())


def format_layer(
    name: str, type: str, bottoms: Sequence[str], tops: Sequence[str], body: str = "", comment: str = ""
) -> str:
    """Return a layer as text; `body` is its further fields, one per line, nested ones already indented."""
    lines = [f"# {comment}"] if comment else []
    lines += ["layer {", f"  name: {quoted(name)}", f"  type: {quoted(type)}"]
    lines += [f"  bottom: {quoted(blob)}" for blob in bottoms]
    lines += [f"  top: {quoted(blob)}" for blob in tops]
    lines += [f"  {line}" for line in body.strip("\n").split("\n") if line]
    return "\n".join([*lines, "}"]) + "\n"
