"""Format a net's listing and a solver's settings as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prototxt.schema.encode import float_text, to_text
from prototxt.schema.layer_types import not_run
from prototxt.schema.messages import SolverParameter
from prototxt.schema.scalars import is_repeated
from prototxt.shapes import text as shape_text
from prototxt.shapes.costs import FLOAT_BYTES
from prototxt.summary.net_summary import NOTHING, LayerRow, NetListing, Totals
from prototxt.summary.text_table import amount, format_table, size_text
from prototxt.text.fold_notes import fold_notes

_MOST_SHOWN = 12
_WIDEST = 44


def net_text(listing: NetListing, strange: Sequence[tuple[str, str]] = ()) -> str:
    """Format the table of a net's layers, its sums, its problems, and its non-Caffe fields."""
    phases = {row.phases for row in listing.rows}
    head = ["layer", "type", "bottom", "top", "shape", "params", "MACs", "blobs", "training"]
    rows = [_row(row) for row in listing.rows]
    if len(phases) > 1:
        head.append("phase")
        names = ["" if len(row.phases) > 1 else row.phases[0] for row in listing.rows]
        rows = [[*cells, name] for cells, name in zip(rows, names, strict=True)]
    parts = [f"net {listing.name!r}" if listing.name else "a net without a name"]
    parts.append(format_table(head, rows, right=("params", "MACs", "blobs")) if rows else "no layers")
    parts.append(totals_text(listing))
    body = "".join(f"{part}\n" for part in parts if part)
    idle = fold_notes((words, row.name) for row in listing.rows if (words := not_run(row.type)))
    return body + problems_text(listing.problems) + "".join(f"{line}\n" for line in idle) + _strange_text(strange)


def totals_text(listing: NetListing) -> str:
    """Format the sums of a listing, one line per phase."""
    return "\n".join(_total(phase, total) for phase, total in listing.totals.items())


def _strange_text(strange: Sequence[tuple[str, str]]) -> str:
    """Format the non-Caffe fields, each kind once with its first place."""
    kinds: dict[str, list[str]] = {}
    for place, words in strange:
        kinds.setdefault(words, []).append(place)
    lines = [
        f"not Caffe's: {words}" + (f" at {places[0]}" if places[0] else "")
        + (f" and {len(places) - 1} more" if len(places) > 1 else "")
        for words, places in kinds.items()
    ]  # fmt: skip
    if len(lines) > _MOST_SHOWN:
        lines[_MOST_SHOWN:] = [f"not Caffe's: and {len(lines) - _MOST_SHOWN} other kinds (--json lists all)"]
    return "".join(f"{line}\n" for line in lines)


def problems_text(problems: Sequence[str], most: int = _MOST_SHOWN) -> str:
    """Format the first problems of a net."""
    lines = [f"not known: {problem}" for problem in problems[:most]]
    if len(problems) > most:
        lines.append(f"not known: and {len(problems) - most} more (--json lists all)")
    return "".join(f"{line}\n" for line in lines)


def _row(row: LayerRow) -> list[str]:
    fresh = [top for top in row.tops if top not in row.bottoms]
    shapes = [shape for top, shape in zip(row.tops, row.top_shapes, strict=False) if top not in row.bottoms]
    learned = (row.cost.params or 0) + (row.cost.statistics or 0)
    unknown = row.cost.params is None or row.cost.statistics is None or not row.known
    return [
        row.name,
        row.type if row.known else f"{row.type} (unknown)",
        _clip(", ".join(row.bottoms)),
        "in place" if row.in_place else _clip(", ".join(fresh)),
        _clip(", ".join(map(shape_text, shapes))),
        "?" if unknown else f"{learned:,}" if learned else "",
        "?" if row.cost.macs is None else amount(row.cost.macs) if row.cost.macs else "",
        "?" if row.cost.activations is None else size_text(FLOAT_BYTES * row.cost.activations) if shapes else "",
        row.state + (" (shared)" if row.shared else "") if row.state != NOTHING else "",
    ]


def _total(phase: str, total: Totals) -> str:
    least = "" if total.complete else "at least "
    frozen = f", {total.frozen:,} of them frozen" if total.frozen else ""
    kept = f" and {total.statistics:,} statistics" if total.statistics else ""
    peak = f", {size_text(FLOAT_BYTES * total.peak)} at one time" if total.peak is not None else ""
    memory = size_text(FLOAT_BYTES * (total.params + total.statistics))
    return (
        f"{phase + ': ' if phase else ''}{total.layers} layers, {least}{amount(total.macs)} MACs, "
        f"{least}{total.params:,} parameters{frozen}{kept} ({memory}), "
        f"blobs {size_text(FLOAT_BYTES * total.activations)}{peak}"
    )


def settings(solver: SolverParameter) -> dict[str, Any]:
    """Return the fields set in a solver by name, as JSON data; for an inner net only its number of layers."""
    found: dict[str, Any] = {}
    for field, value in solver.ListFields():
        if field.is_extension:
            continue
        values = [_setting(field, item) for item in value] if is_repeated(field) else [_setting(field, value)]
        found[field.name] = values if is_repeated(field) else values[0]
    return found


def _setting(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        layers = getattr(value, "layer", None)
        return to_text(value).replace("\n", " ").strip() if layers is None else f"a net of {len(layers)} layers"
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return float(float_text(value)) if isinstance(value, float) and not isinstance(value, bool) else value


def settings_text(found: Mapping[str, Any]) -> str:
    """Format a solver's settings, one per line."""
    width = max(map(len, found), default=0)
    return "".join(
        f"{name:<{width}}  {', '.join(map(str, value)) if isinstance(value, list) else value}\n"
        for name, value in found.items()
    )


def _clip(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."
