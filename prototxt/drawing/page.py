"""Write a diagram as one HTML page with an overview, pan, zoom, search, keyboard and a dark theme, without network."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from pathlib import Path

from prototxt.drawing.folded_diagram import Members, fold_diagram
from prototxt.drawing.layout import lay_out
from prototxt.drawing.nodes import KINDS, Diagram, Node
from prototxt.drawing.svg import TIP, base_style, drawing, flake, style_rules
from prototxt.shapes import text as shape_text
from prototxt.shapes.costs import FLOAT_BYTES
from prototxt.summary.net_summary import LayerRow
from prototxt.summary.text_table import amount, size_text

_KEYS = (
    "<kbd>wheel</kbd> zoom, <kbd>drag</kbd> pan, <kbd>/</kbd> search, <kbd>Enter</kbd> or <kbd>n</kbd> next, "
    "<kbd>j</kbd> <kbd>k</kbd> down and up the net, <kbd>0</kbd> whole, <kbd>1</kbd> width, "
    "<kbd>+</kbd> <kbd>-</kbd> zoom, <kbd>o</kbd> overview, <kbd>d</kbd> dark"
)


def to_html(graph: Diagram, note: str = "", problems: Sequence[str] = ()) -> str:
    """Return the diagram as a page with `note` next to its title and `problems` in its footer.

    A long net has an overview too, with which the page begins.
    """
    short = fold_diagram(graph)
    views = [_View(graph, tuple((number,) for number in range(len(graph.nodes))))]
    views += [_View(short.diagram, short.members)] if short else []
    folder = Path(__file__).parent
    css = (folder / "page.css").read_text(encoding="utf-8") + base_style()
    css += style_rules() + style_rules(":root[data-theme=dark]", dark=True)
    script = (folder / "page.js").read_text(encoding="utf-8")
    title = escape(_printable(graph.name or "net"))
    data = json.dumps([view.data() for view in views], separators=(",", ":")).replace("<", "\\u003c")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src '{_sha256(script)}'"
    toggle = '<button data-do="fold" title="overview or all layers (o)">overview</button>\n' if short else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
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
{toggle}<button data-do="larger" title="zoom in (+)" aria-label="zoom in">+</button>
<button data-do="smaller" title="zoom out (-)" aria-label="zoom out">&minus;</button>
<button data-do="whole" title="the whole net (0)">whole</button>
<button data-do="width" title="full width (1)">width</button>
<button data-do="theme" title="light or dark (d)">light / dark</button>
</span>
<span class="legend">{_legend([node for view in views for node in view.graph.nodes])}</span>
</header>
<main>
<div id="view" tabindex="0" aria-label="the net as a graph">
<svg xmlns="http://www.w3.org/2000/svg" class="net">
{TIP}
{"".join(view.drawn() for view in views)}
</svg>
</div>
<aside hidden></aside>
</main>
<footer>{_unknown(problems)}<div class="keys">{_KEYS}</div></footer>
<script id="layers" type="application/json">{data}</script>
<script>{script}</script>
</body>
</html>
"""


@dataclass(frozen=True)
class _View:
    """A drawing of the page.

    members  for each box the numbers of the boxes of the first drawing that it stands for
    """

    graph: Diagram
    members: Members

    def drawn(self) -> str:
        layout = lay_out(self.graph)
        size = f'data-width="{layout.width:.0f}" data-height="{layout.height:.0f}"'
        return f'<g class="world" {size}>\n{drawing(self.graph, layout)}\n</g>\n'

    def data(self) -> list[dict[str, object]]:
        pairs = zip(self.graph.nodes, self.members, strict=True)
        return [_layer(node) if len(inside) == 1 else _folded(node, inside) for node, inside in pairs]


def _sha256(script: str) -> str:
    """Return the hash by which a content security policy allows a script."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


def _unknown(problems: Sequence[str]) -> str:
    """Return the problems, folded."""
    lines = "".join(f"<div>{escape(_printable(problem))}</div>" for problem in problems)
    return f"<details><summary>{len(problems)} not known</summary>{lines}</details>" if problems else ""


def _legend(nodes: Sequence[Node]) -> str:
    used = {node.kind for node in nodes}
    square = '<rect x=".6" y=".6" width="14.8" height="10.8" rx="3"/>'
    marks = [(kind, label, square) for kind, label in KINDS.items() if kind in used]
    if any(node.frozen for node in nodes):
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


def _folded(node: Node, members: Sequence[int]) -> dict[str, object]:
    """Return a box of the overview: its own lines, and the boxes that it stands for."""
    head, *layers = node.lines
    facts = [("holds", f"{head}, {len(node.rows)} layers"), *(("", line) for line in layers)]
    row = {"name": "", "facts": [(name, _printable(value)) for name, value in facts]}
    words = " ".join([node.title, *(f"{row.name} {row.type}" for row in node.rows)])
    return {"title": _printable(node.title), "rows": [row], "search": _printable(words).lower(), "boxes": members}


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
