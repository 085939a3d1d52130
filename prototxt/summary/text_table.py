"""Format the content of binary files as text: aligned columns, thousands separators, sizes with units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prototxt.summary.weights_summary import Inventory, dims_text

if TYPE_CHECKING:
    from prototxt.summary.statistics import Statistics


_MEASURED = ("min", "max", "mean", "std", "zeros", "NaN, inf")


def inventory_text(inventory: Inventory) -> str:
    """Format the table of a binary file's blobs."""
    stated = "".join(f", {name} {value}" for name, value in inventory.facts if value != "")
    measured = any(blob.statistics for blob in inventory.blobs)
    typed = any(blob.type for blob in inventory.blobs)
    head = ["blob", *(["type"] if typed else []), "shape", "values"]
    head += _MEASURED if measured else ()
    rows = []
    for blob in inventory.blobs:
        cells = [f"{blob.layer}/{blob.index}", *([blob.type] if typed else []), dims_text(blob.shape)]
        cells.append(f"{blob.count:,}" + ("" if blob.dtype == "<f4" else f" {blob.dtype}"))
        rows.append(
            cells + (_measured(blob.statistics) if blob.statistics else [""] * len(_MEASURED) if measured else [])
        )
    values = sum(blob.count for blob in inventory.blobs)
    layers = f"{inventory.layers} layers, " if inventory.layers else ""
    body = format_table(head, rows, right=("values", *_MEASURED)) if rows else ""
    total = f"{layers}{len(inventory.blobs)} blobs, {values:,} values ({size_text(4 * values)})"
    return "\n".join(part for part in (f"{inventory.kind}{stated}", body, total) if part) + "\n"


def _measured(found: Statistics) -> list[str]:
    numbers = [
        "" if value is None else f"{value:.4g}" for value in (found.minimum, found.maximum, found.mean, found.std)
    ]
    strange = found.nans + found.infs
    return [*numbers, f"{found.zeros:,}" if found.zeros else "", f"{strange:,}" if strange else ""]


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Format aligned columns with underlined headings; those in `right` are right-aligned."""
    columns = [[title, *cells] for title, cells in zip(head, zip(*rows, strict=True), strict=True)] if rows else []
    widths = [max(map(len, column)) for column in columns]
    lines = [list(head), ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if title in right else cell.ljust(width)
            for cell, width, title in zip(line, widths, head, strict=False)
        ).rstrip()
        for line in lines
    )


def amount(number: int) -> str:
    """Format a large count, as in 724.4 M."""
    for unit, scale in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= scale:
            return f"{number / scale:.4g} {unit}"
    return str(number)


def size_text(count: int) -> str:
    """Format a number of bytes, as in 97.5 MiB."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count} B"
