"""Write a diagram as a self-contained SVG without script or fonts, light or dark by the viewer's preference."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from prototxt.drawing.layout import LINE, TITLE, DiagramLayout, NodeBox, lay_out, text_width
from prototxt.drawing.nodes import KINDS, Diagram, Node

_MARGIN = 24.0
_LEGEND = 18.0
# fill and stroke in light and dark surroundings
_COLOURS = {
    "data": ("#ececec", "#8a8f98", "#33363c", "#8a8f98"),
    "convolution": ("#d9e8fb", "#4a86c8", "#1e3752", "#5b9be0"),
    "dense": ("#dff0d8", "#5a9a4a", "#22401d", "#6fb85c"),
    "recurrent": ("#d8f0ee", "#3b9a94", "#16403d", "#4fb8b1"),
    "pooling": ("#fdeacc", "#d1912c", "#4a3511", "#dda345"),
    "normalization": ("#f1e6f8", "#9a6bbf", "#3b2750", "#b285d6"),
    "activation": ("#fbf6cf", "#b5a42a", "#454011", "#c9b93f"),
    "joining": ("#fbdfe6", "#c9607e", "#4d2130", "#e07d99"),
    "reshaping": ("#e4e7f3", "#6d78ad", "#2a2f4b", "#8b97d0"),
    "loss": ("#fbdcd2", "#cc5f3c", "#4f2417", "#e47a56"),
    "other": ("#f4f4f4", "#9b9b9b", "#2f2f2f", "#8b8b8b"),
    "unknown": ("#ffffff", "#cc3333", "#2a1515", "#ee5555"),
    "folded": ("#eef1f5", "#5d6b80", "#262b34", "#8796ad"),
}
_ICE = ("#2f7fd0", "#7cc0ff")
_BASE = """
svg.net{font:11px system-ui,-apple-system,"Segoe UI","DejaVu Sans",Helvetica,Arial,sans-serif}
.net .t{font-weight:600;font-size:12px}.net .h{font-weight:600;font-size:15px}
.net .node rect{stroke-width:1.2}.net .frozen rect{stroke-dasharray:5 3;stroke-width:1.6}
.net .unknown rect{stroke-dasharray:2 3}.net .edge{fill:none;stroke-width:1.3}
.net .frame{stroke-width:1;stroke-dasharray:1 3}.net .flake{fill:none;stroke-width:1.5;stroke-linecap:round}
"""


def to_svg(graph: Diagram, note: str = "") -> str:
    """Return the diagram as an SVG file with `note` below its title."""
    layout = lay_out(graph)
    head, height = _head(graph, note, layout.width)
    top = height + _MARGIN
    width, height = max(layout.width, _head_width(graph, note)) + 2 * _MARGIN, layout.height + top + _MARGIN
    left = (width - layout.width) / 2
    style = style_rules() + "@media (prefers-color-scheme:dark){" + style_rules(dark=True) + "}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="net" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{_text(graph.name or "net")}">\n'
        f"<style>{_BASE}{style}</style>\n"
        f'<rect class="paper" width="100%" height="100%"/>\n{head}\n'
        f'<g transform="translate({left:.1f} {top:.1f})">\n{TIP}\n{drawing(graph, layout)}\n</g>\n</svg>\n'
    )


def style_rules(scope: str = "", *, dark: bool = False) -> str:
    """Return the colours as CSS, each rule below the selector `scope`."""
    at = 2 if dark else 0
    paper, ink, faint, line, frame = (
        ("#16181d", "#e8e8ea", "#a4a9b3", "#7d8490", "#3a3f49") if dark else
        ("#ffffff", "#1c1f24", "#5d636e", "#8b919c", "#c5cad3")
    )  # fmt: skip
    rules = [
        f".paper{{fill:{paper}}}",
        f"text{{fill:{ink}}}",
        f"text.m{{fill:{faint}}}",
        f".edge{{stroke:{line}}}",
        f".tip{{fill:{line}}}",
        f".frame{{fill:{'#ffffff' if dark else '#000000'};fill-opacity:.03;stroke:{frame}}}",
        f".flake{{stroke:{_ICE[at // 2]}}}",
        *(f".{kind} rect{{fill:{c[at]};stroke:{c[at + 1]}}}" for kind, c in _COLOURS.items()),
    ]
    return "".join(f"{scope} .net {rule}" if scope else f".net {rule}" for rule in rules)


def colours(kind: str) -> tuple[str, str]:
    """Return fill and stroke of a kind of box in the light theme."""
    return _COLOURS[kind][:2]


def base_style() -> str:
    """Return sizes and fonts as CSS."""
    return _BASE


def drawing(graph: Diagram, layout: DiagramLayout) -> str:
    """Draw frames, arrows (whose TIP stands once in the SVG) and boxes, the boxes numbered in `data-n`."""
    parts = [_frame(name, box) for name, box in layout.frames]
    for edge, path in zip(graph.edges, layout.paths, strict=True):
        ends = f'data-s="{edge.source}" data-t="{edge.target}"'
        parts.append(
            f'<path class="edge" {ends} d="{path}" marker-end="url(#tip)"><title>{_text(edge.blob)}</title></path>'
        )
    parts += [
        _node(number, node, box) for number, (node, box) in enumerate(zip(graph.nodes, layout.boxes, strict=True))
    ]
    return "\n".join(parts)


TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
    'markerUnits="userSpaceOnUse" orient="auto"><path class="tip" d="M0 .8 8 4 0 7.2z"/></marker></defs>'
)


def _frame(name: str, box: NodeBox) -> str:
    return (
        f'<g><rect class="frame" x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
        f'rx="10"/><text class="m" x="{box.x + 6:.1f}" y="{box.y - 3:.1f}">{_text(name)}</text></g>'
    )


def _node(number: int, node: Node, box: NodeBox) -> str:
    classes = f"node {node.kind}{' frozen' if node.frozen else ''}"
    middle, y = box.width / 2, 8 + TITLE - 4
    shift = 8 if node.frozen else 0
    lines = [f'<text class="t" x="{middle - shift:.1f}" y="{y:.1f}" text-anchor="middle">{_text(node.title)}</text>']
    for index, line in enumerate(node.lines):
        y += LINE
        muted = ' class="m"' if index else ""
        lines.append(f'<text{muted} x="{middle:.1f}" y="{y:.1f}" text-anchor="middle">{_text(line)}</text>')
    if node.frozen:
        lines.append(flake(box.width - 14, 14))
    tooltip = "; ".join([node.title, *node.lines, *(["frozen"] if node.frozen else [])])
    return (
        f'<g class="{classes}" data-n="{number}" transform="translate({box.x:.1f} {box.y:.1f})">'
        f'<title>{_text(tooltip)}</title><rect width="{box.width:.1f}" height="{box.height:.1f}" rx="6"/>'
        f"{''.join(lines)}</g>"
    )


def flake(x: float, y: float) -> str:
    """Draw a snowflake, the mark of frozen layers."""
    arms = "M-5 0H5M-2.5-4.3 2.5 4.3M2.5-4.3-2.5 4.3"
    return f'<path class="flake" transform="translate({x:.1f} {y:.1f})" d="{arms}"/>'


def _head_width(graph: Diagram, note: str) -> float:
    return max(text_width(graph.name or "net", 15) * 1.1, min(text_width(note, 11), 560.0), 420.0)


def _head(graph: Diagram, note: str, width: float) -> tuple[str, float]:
    """Draw title, note and legend; return them and their height."""
    room = max(width, _head_width(graph, note))
    y = _MARGIN + 12
    parts = [f'<text class="h" x="{_MARGIN:.0f}" y="{y:.0f}">{_text(graph.name or "net")}</text>']
    for line in _broken(note, room):
        y += LINE + 3
        parts.append(f'<text class="m" x="{_MARGIN:.0f}" y="{y:.0f}">{_text(line)}</text>')
    y += 12
    x = _MARGIN
    used = {node.kind for node in graph.nodes}
    entries = [(kind, label) for kind, label in KINDS.items() if kind in used]
    entries += [("frozen", "frozen")] if any(node.frozen for node in graph.nodes) else []
    for kind, label in entries:
        step = 22 + text_width(label, 11) + 14
        if x + step > room + _MARGIN and x > _MARGIN:
            x, y = _MARGIN, y + _LEGEND
        mark = (
            flake(x + 8, y + 6)
            if kind == "frozen"
            else f'<rect x="{x:.0f}" y="{y:.0f}" width="16" height="12" rx="3"/>'
        )
        parts.append(
            f'<g class="node {kind}">{mark}<text class="m" x="{x + 22:.0f}" y="{y + 10:.0f}">{label}</text></g>'
        )
        x += step
    return "\n".join(parts), y + _LEGEND


def _broken(note: str, room: float) -> Sequence[str]:
    """Wrap the note to lines."""
    lines: list[str] = []
    for word in note.split(" ") if note else []:
        if lines and text_width(f"{lines[-1]} {word}", 11) < room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _text(text: str) -> str:
    clean = "".join(c if c >= " " and not "\ud800" <= c <= "\udfff" else "\ufffd" for c in text)
    return escape(clean)
