"""Write a diagram in Graphviz's DOT language, for layout by other tools."""

from __future__ import annotations

from prototxt.drawing.nodes import Diagram
from prototxt.drawing.svg import colours


def to_dot(graph: Diagram) -> str:
    """Return the diagram as DOT, with the colours and marks of the SVG."""
    lines = [f"digraph {dot_string(graph.name or 'net')} {{", "  rankdir=TB;"]
    lines.append('  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11];')
    for number, node in enumerate(graph.nodes):
        fill, stroke = colours(node.kind)
        label = dot_string("\n".join([node.title, *node.lines, *(["(frozen)"] if node.frozen else [])]))
        style = ', style="rounded,filled,dashed"' if node.frozen else ""
        lines.append(f'  n{number} [label={label}, fillcolor="{fill}", color="{stroke}"{style}];')
    lines += [f"  n{edge.source} -> n{edge.target} [tooltip={dot_string(edge.blob)}];" for edge in graph.edges]
    return "\n".join([*lines, "}"]) + "\n"


def dot_string(text: str) -> str:
    """Return a string literal of DOT, in which a line break is one of the label."""
    inner = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + inner.encode("utf-8", "replace").decode() + '"'
