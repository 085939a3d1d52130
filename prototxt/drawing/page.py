"""Write a diagram as one HTML page with pan, zoom, search, keyboard and a dark theme; needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from prototxt.drawing.layout import lay_out
from prototxt.drawing.nodes import KINDS, Diagram, Node
from prototxt.drawing.svg import base_style, drawing, flake, style_rules
from prototxt.shapes import text as shape_text
from prototxt.shapes.costs import FLOAT_BYTES
from prototxt.summary.net_summary import LayerRow
from prototxt.summary.text_table import amount, size_text

_KEYS = (
    "<kbd>wheel</kbd> zoom, <kbd>drag</kbd> pan, <kbd>/</kbd> search, <kbd>Enter</kbd> or <kbd>n</kbd> next, "
    "<kbd>j</kbd> <kbd>k</kbd> down and up the net, <kbd>0</kbd> whole, <kbd>1</kbd> width, "
    "<kbd>+</kbd> <kbd>-</kbd> zoom, <kbd>d</kbd> dark"
)


def to_html(graph: Diagram, note: str = "", problems: Sequence[str] = ()) -> str:
    """Return the diagram as a page with `note` next to its title and `problems` in its footer."""
    layout = lay_out(graph)
    folder = Path(__file__).parent
    css = (folder / "page.css").read_text(encoding="utf-8") + base_style()
    css += style_rules() + style_rules(":root[data-theme=dark]", dark=True)
    script = (folder / "page.js").read_text(encoding="utf-8")
    title = escape(_printable(graph.name or "net"))
    data = json.dumps([_layer(node) for node in graph.nodes], separators=(",", ":")).replace("<", "\\u003c")
    unknown = "".join(f"<div>not known: {escape(_printable(problem))}</div>" for problem in problems[:20])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<span class="note">{escape(_printable(note))}</span>
<span class="tools">
<input id="search" type="search" placeholder="search: name, type, blob, shape" aria-label="search">
<span id="found" role="status"></span>
<button data-do="larger" title="zoom in (+)" aria-label="zoom in">+</button>
<button data-do="smaller" title="zoom out (-)" aria-label="zoom out">&minus;</button>
<button data-do="whole" title="the whole net (0)">whole</button>
<button data-do="width" title="full width (1)">width</button>
<button data-do="theme" title="light or dark (d)">light / dark</button>
</span>
<span class="legend">{_legend(graph)}</span>
</header>
<main>
<div id="view" tabindex="0" aria-label="the net as a graph">
<svg xmlns="http://www.w3.org/2000/svg" class="net" data-width="{layout.width:.0f}" data-height="{layout.height:.0f}">
<g id="world">
{drawing(graph, layout)}
</g>
</svg>
</div>
<aside hidden></aside>
</main>
<footer>{unknown}<div>{_KEYS}</div></footer>
<script id="layers" type="application/json">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def _legend(graph: Diagram) -> str:
    used = {node.kind for node in graph.nodes}
    square = '<rect x=".6" y=".6" width="14.8" height="10.8" rx="3"/>'
    marks = [(kind, label, square) for kind, label in KINDS.items() if kind in used]
    if any(node.frozen for node in graph.nodes):
        marks.append(("", "frozen", flake(8, 6)))
    return "".join(
        f'<span><svg class="net" width="16" height="12"><g class="node {kind}">{mark}</g></svg>{label}</span>'
        for kind, label, mark in marks
    )


def _layer(node: Node) -> dict[str, object]:
    rows = [{"name": _printable(row.name), "facts": _facts(row)} for row in node.rows]
    words = [node.title, *node.lines, node.kind, *(["frozen"] if node.frozen else [])]
    for row in node.rows:
        words += [row.name, row.type, *row.bottoms, *row.tops, *map(shape_text, row.top_shapes)]
    return {"title": _printable(node.title), "rows": rows, "search": _printable(" ".join(words)).lower()}


def _facts(row: LayerRow) -> list[tuple[str, str]]:
    learned = (row.cost.params or 0) + (row.cost.statistics or 0)
    facts = [
        ("type", row.type if row.known else f"{row.type} (unknown)"),
        ("does", row.detail),
        *(("bottom", f"{name}  {shape_text(s)}") for name, s in zip(row.bottoms, row.bottom_shapes, strict=False)),
        *(("top", f"{name}  {shape_text(s)}") for name, s in zip(row.tops, row.top_shapes, strict=False)),
        *(("blob " + str(index), shape_text(shape)) for index, shape in enumerate(row.params)),
        ("parameters", f"{learned:,}" if learned else ""),
        ("MACs", amount(row.cost.macs) if row.cost.macs else ""),
        ("memory", size_text(FLOAT_BYTES * row.cost.activations) if row.cost.activations else ""),
        ("training", row.state),
        ("shared", ", ".join(row.shared)),
    ]
    return [(name, _printable(value)) for name, value in facts if value]


def _printable(text: str) -> str:
    """Replace the surrogates of bytes that were not UTF-8."""
    return text.encode("utf-8", "replace").decode()
