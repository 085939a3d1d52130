"""HTML and SVG as nested calls; every text is escaped unless it is Markup."""

from __future__ import annotations

from html import escape
from typing import TypeAlias

VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | list[Child] | tuple[Child, ...] | None"


def elem(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Return an element; `class_` and `for_` lose their underscore, others become hyphens; None omits an attribute."""
    parts = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-") if key != "viewBox" else key
        parts.append(f" {label}" if value is True else f' {label}="{escape(str(value))}"')
    opening = f"<{name}{''.join(parts)}>"
    return Markup(opening if name in VOID and not children else f"{opening}{concat(*children)}</{name}>")


def concat(*children: Child) -> Markup:
    """Return the children in sequence, texts escaped, None omitted."""
    return Markup("".join(_one(child) for child in children))


def _one(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, (list, tuple)):
        return concat(*child)
    return escape(str(child))
