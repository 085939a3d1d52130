"""A net's text as a row of layers: what each reads and writes, and the piece of the file that describes it."""

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
    start   offset of the field in the text; `end` is behind its closing bracket
    phases  in which of TRAIN and TEST it is there
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
        """Whether it brings blobs into the net: a data layer, an Input, or a Python layer without bottoms."""
        return makes_data(self.type, len(self.bottoms))


@dataclass(frozen=True)
class NetText:
    """A document with its layers, and the blobs that it declares as inputs in the old way (`input: "data"`)."""

    document: Document
    layers: tuple[LayerText, ...]
    inputs: tuple[str, ...]

    @cached_property
    def name(self) -> str:
        """The net's own name."""
        return self.document.root.string("name") or ""

    def place(self, layer: LayerText) -> Place:
        """Where the layer stands."""
        return self.document.place(layer.start)

    @cached_property
    def input_blobs(self) -> tuple[str, ...]:
        """All blobs that come from outside: declared inputs and the tops of data layers, in order, each once."""
        tops = [top for layer in self.layers if layer.is_data for top in layer.tops]
        return tuple(dict.fromkeys([*self.inputs, *tops]))


def read_net(document: Document, stages: Mapping[str, Collection[str]] | None = None) -> NetText:
    """Take a net's text, in today's syntax and with one layer per field, apart into layers.

    stages  per phase those that hold, beside the ones that the net's own `state` names
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
    """A net's state: what the rules of its layers are compared with."""

    phase: str
    level: int
    stages: frozenset[str]


def _state(document: Document, phase: str, stages: Collection[str]) -> _State:
    own = document.root.messages("state")
    levels = [text for block in own if (text := block.string("level"))]
    named = [scalar.value for block in own for scalar in block.scalars("stage")]
    return _State(phase, int(levels[-1], 0) if levels else 0, frozenset((*stages, *named)))


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
    """Whether the layer is there in this state (Caffe's NetStateRule)."""
    include, exclude = layer.messages("include"), layer.messages("exclude")
    if include:
        return any(_met(rule, state) for rule in include)
    return not any(_met(rule, state) for rule in exclude)


def _met(rule: Message, state: _State) -> bool:
    wanted = rule.string("phase")
    if wanted is not None and wanted not in (state.phase, str(PHASES.index(state.phase))):
        return False
    lowest, highest = rule.string("min_level"), rule.string("max_level")
    if (lowest and state.level < int(lowest, 0)) or (highest and state.level > int(highest, 0)):
        return False
    stages, others = ({scalar.value for scalar in rule.scalars(name)} for name in ("stage", "not_stage"))
    return stages <= state.stages and not others & state.stages


def keep_layers(net: NetText, kept: frozenset[int]) -> NetText:
    """The net with only the layers of these numbers; the others become blank lines, so that places stay true."""
    text = net.document.text
    parts, position = [], 0
    for layer in net.layers:
        if layer.number not in kept:
            separator = _SEPARATOR.match(text, layer.end)
            parts.append(text[position : layer.start])
            position = separator.end() if separator else layer.end
            parts.append("\n" * text.count("\n", layer.start, position))
    return read_net(reparse("".join([*parts, text[position:]]), net.document.name))


def excerpt(net: NetText, layer: LayerText) -> str:
    """The layer's text with the comments above it and behind it; ends with a newline, blank lines trimmed to one."""
    text = net.document.text
    before = max((field.end for field in net.document.root.fields if field.end <= layer.start), default=0)
    start = min(_line_rest(text, before), layer.start)
    piece = text[start : max(layer.end, _line_rest(text, layer.end))].replace("\r\n", "\n")
    piece = re.sub(r"\n\s*\n(\s*\n)+", "\n\n", "\n" + piece.strip("\n"))
    return re.sub(r"\A\s*\n", "", piece).rstrip() + "\n"


def _line_rest(text: str, position: int) -> int:
    """The end of the line at `position` if only a comment or blanks follow there, else `position`."""
    match = re.compile(r"[ \t]*[,;]?[ \t]*(#[^\n]*)?(?=\n|\Z)").match(text, position)
    return match.end() if match else position


def reparse(text: str, name: str) -> Document:
    """Parse a text that was made from one that parsed."""
    from prototxt.text.parser import parse

    return parse(text, name)


def quoted(text: str) -> str:
    """A string literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def format_layer(
    name: str, type: str, bottoms: Sequence[str], tops: Sequence[str], body: str = "", comment: str = ""
) -> str:
    """A layer as text; `body` are its further fields, already indented by two blanks or none, one per line."""
    lines = [f"# {comment}"] if comment else []
    lines += ["layer {", f"  name: {quoted(name)}", f"  type: {quoted(type)}"]
    lines += [f"  bottom: {quoted(blob)}" for blob in bottoms]
    lines += [f"  top: {quoted(blob)}" for blob in tops]
    lines += [f"  {line}" for line in body.strip("\n").split("\n") if line]
    return "\n".join([*lines, "}"]) + "\n"
