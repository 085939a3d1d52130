"""The result of a sweep: a line per head, the chosen setting, and the files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fusion.errors import TrainingError
from fusion.pct.alignment import align
from fusion.pct.intervals import Interval
from fusion.pct.metrics import outcomes
from fusion.pct.predictions import Predictions
from fusion.pct.unions import union
from fusion.report.charts import NetPoint, pareto
from fusion.report.html import Markup
from fusion.report.svg_to_png import write_image
from fusion.sweep.grid import Trial
from prototxt.files import write_text

FIGURES = ("accuracy", "negative_flip_rate", "relative_nfr", "positive_flip_rate")


@dataclass(frozen=True)
class Entry:
    """A head and its figures, on the records that choose and on those that are reported, if any; None where undefined,
    as all are for a head that has diverged."""

    cell: Trial
    loss: float
    chosen_on: dict[str, float | None]
    reported: dict[str, float | None] = field(default_factory=dict)
    chosen: bool = False

    @property
    def diverged(self) -> bool:
        """Return whether its logits are no numbers."""
        return self.chosen_on["accuracy"] is None


@dataclass(frozen=True)
class Result:
    """All heads, and the setting that was chosen without looking at the reported records.

    best  of the chosen setting's heads the first
    """

    entries: tuple[Entry, ...]
    best: Trial

    def table(self) -> list[dict[str, Any]]:
        """Return a flat line per head."""
        return [
            {
                "name": entry.cell.name,
                "loss": entry.cell.loss,
                **dict(entry.cell.options),
                "weight": entry.cell.weight,
                "lr": entry.cell.lr,
                "seed": entry.cell.seed,
                "training_loss": entry.loss if math.isfinite(entry.loss) else None,
                **{f"select_{name}": value for name, value in entry.chosen_on.items()},
                **entry.reported,
                "chosen": entry.chosen,
            }
            for entry in self.entries
        ]

    def write(self, folder: Path) -> None:
        """`table.json`, `table.csv` and `trade_off.png`; predictions of heads that only an earlier sweep had go."""
        rows = self.table()
        for name in former_heads(folder) - {entry.cell.name for entry in self.entries if not entry.diverged}:
            (folder / "new" / f"{name}.npz").unlink(missing_ok=True)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(folder / "table.csv", text.getvalue())
        write_text(folder / "table.json", json.dumps({"best": self.best.name, "heads": rows}, indent=1) + "\n")
        if any(entry.chosen_on["negative_flip_rate"] is not None for entry in self.entries):
            write_image(folder / "trade_off.png", [("Records that choose", self.trade_off())])

    def trade_off(self) -> Markup:
        """Draw negative flips against error, on the records that choose, with the chosen setting in another colour."""
        found = mean_figures(self.entries)
        return pareto(
            [
                NetPoint(setting.name, _point(1 - means.accuracy), _point(means.negative_flip_rate), colour)
                for chosen, colour in ((False, "c-old"), (True, "c-new"))
                for setting, means in found.items()
                if (setting == self.best.setting) == chosen
            ]
        )


def _point(value: float) -> Interval:
    return Interval(value, None, None)


def former_heads(folder: Path) -> set[str]:
    """Return the names of the heads in a folder's `table.json`; none where there is no such table."""
    try:
        heads = json.loads((folder / "table.json").read_text("utf-8"))["heads"]
        names = {str(head["name"]) for head in heads}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    return {name for name in names if os.path.basename(name) == name}


class Judge:
    """Figures of many nets over the same records: who was right before is computed once.

    records  any predictions over these records
    """

    def __init__(self, records: Predictions, references: Sequence[Predictions]) -> None:
        self.labels = records.labels
        self._rows = np.empty(0, np.int64)
        self._before = np.empty(0, np.bool_)
        if references:
            numbered = replace(records, features=np.arange(len(records), dtype=np.float64)[:, None])
            pair = align(old=union(references), new=numbered)
            assert pair.new.features is not None
            self._rows, self._before = pair.new.features[:, 0].astype(np.int64), pair.old.right

    def figures(self, logits: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, float | None]:
        """Accuracy over all records, flips over those that a reference knows; logits [N, C], not all finite: None."""
        if not np.isfinite(logits).all():
            return dict.fromkeys(FIGURES)
        right = logits.argmax(1) == self.labels
        counted = outcomes(old=self._before, new=right[self._rows])
        found: dict[str, float | None] = {"accuracy": float(right.mean()) if len(right) else None}
        return {**found, **{name: counted.value(name) if len(self._rows) else None for name in FIGURES[1:]}}


def choose(entries: Sequence[Entry], slack: float) -> Trial:
    """Of the settings at most `slack` below the best accuracy that with the fewest negative flips; means over seeds.

    A setting of which a head has diverged is not chosen. Raises: TrainingError when that is so of all.
    """
    found = mean_figures(entries)
    if not found:
        raise TrainingError("every setting of the sweep has diverged", hint="try lower learning rates (lr) and weights")
    best = max(means.accuracy for means in found.values())
    able = [setting for setting, means in found.items() if means.accuracy >= best - slack - 1e-12]
    return min(able, key=lambda setting: (found[setting].negative_flip_rate, -found[setting].accuracy))


def with_choice(entries: Sequence[Entry], slack: float) -> Result:
    """Return the heads with the chosen setting. Raises: TrainingError if all have diverged."""
    setting = choose(entries, slack)
    marked = tuple(replace(entry, chosen=entry.cell.setting == setting) for entry in entries)
    return Result(marked, next(entry.cell for entry in marked if entry.chosen))


class MeanFigures(NamedTuple):
    """A setting's means over seeds on the records that choose; without references its negative flip rate counts 0."""

    accuracy: float
    negative_flip_rate: float


def mean_figures(entries: Sequence[Entry]) -> dict[Trial, MeanFigures]:
    """Return the means of each setting of which no head has diverged."""
    groups: dict[Trial, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.cell.setting, []).append(entry)
    return {
        setting: MeanFigures(*(float(np.mean([head.chosen_on[name] or 0.0 for head in heads])) for name in FIGURES[:2]))
        for setting, heads in groups.items()
        if not any(head.diverged for head in heads)
    }
