"""A fusion at a glance, before anything is written: a table of its branches, and a picture in text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusion.composition.features import Shape, format_shape
from fusion.composition.losses import describe_loss
from fusion.composition.net_text import read_net, reparse
from fusion.composition.references import format_classes
from fusion.composition.write_nets import FusionPlan


@dataclass(frozen=True)
class ShapedBlob:
    """A blob and its shape, None where it is not known."""

    name: str
    shape: Shape | None

    def __str__(self) -> str:
        return self.name if self.shape is None else f"{self.name} [{format_shape(self.shape)}]"


@dataclass(frozen=True)
class BranchView:
    """A branch of the fused net.

    file     the source's prototxt
    inputs   the fused net's blobs that it reads
    layers   the number of its layers, all frozen
    cuts     its blobs that the head reads
    scores   its own class scores where they are kept, and the fused classes that they stand for
    """

    prefix: str
    file: str
    inputs: tuple[ShapedBlob, ...]
    layers: int
    cuts: tuple[ShapedBlob, ...]
    scores: ShapedBlob | None = None
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Overview:
    """The fused net at a glance.

    head     the head's kind, and its layers as "name (type)", in order
    scores   the fused net's scores, per classifier
    losses   the losses in words, each classifier's first
    """

    title: str
    branches: tuple[BranchView, ...]
    head: str
    layers: tuple[str, ...]
    scores: tuple[ShapedBlob, ...]
    losses: tuple[str, ...] = ()

    def table(self) -> str:
        """Return a table with a line per branch and one for the head."""
        rows = [("source", "net", "reads", "frozen layers", "cut at", "own scores")]
        rows += [
            (
                branch.prefix,
                branch.file,
                _names(branch.inputs),
                str(branch.layers),
                _names(branch.cuts),
                f"{branch.scores}, classes {format_classes(branch.classes)}" if branch.scores else "-",
            )
            for branch in self.branches
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "-" * min(max(map(len, lines)), 120))
        lines.append(f"head {self.head}: {', '.join(self.layers)} to {_names(self.scores)}")
        lines += [f"loss {loss}" for loss in self.losses]
        return "\n".join(lines)

    def picture(self) -> str:
        """Return the branches as arrows from their inputs to the head, which stands after the first."""
        starts = [_names(branch.inputs) for branch in self.branches]
        stems = [f"{branch.prefix} ({branch.layers} layer{'s' * (branch.layers != 1)})" for branch in self.branches]
        ends = [_names(branch.cuts) for branch in self.branches]
        first, second, third = (max(map(len, column)) for column in (starts, stems, ends))
        lines = []
        for index, branch in enumerate(self.branches):
            start = "" if index and starts[index - 1] == starts[index] else starts[index]
            line = "─" if start else " "
            lead = f"{start} ".ljust(first + 1, line) + f"{line}{_fork(starts, index)}─"
            stem, end = f"{stems[index]} ".ljust(second + 1, "─"), f"{ends[index]} ".ljust(third + 1, "─")
            below = index + 1 < len(starts)
            join = ("┬" if below else "─") if index == 0 else ("┤" if below else "┘")
            tail = f"─▶ {self.head} ─▶ {_names(self.scores)}" if index == 0 else ""
            lines.append(f"{lead} {stem}─▶ {end}─{join}{tail}")
            if branch.scores is not None:
                rails = ("│" if below and starts[index + 1] == starts[index] else " ", "│" if below else "")
                side = f"└▶ {branch.scores}".ljust(second + third + 6)
                lines.append(f"{' ' * (first + 2)}{rails[0]}  {side}{rails[1]}".rstrip())
        return "\n".join(lines)


def _fork(starts: Sequence[str], index: int) -> str:
    """Return the bracket between an input and the branches that read it."""
    above = index > 0 and starts[index - 1] == starts[index]
    below = index + 1 < len(starts) and starts[index + 1] == starts[index]
    return "├" if above and below else "└" if above else "┬" if below else "─"


def _names(blobs: Sequence[ShapedBlob]) -> str:
    return ", ".join(map(str, blobs))


def overview_of(plan: FusionPlan) -> Overview:
    """Return the plan at a glance."""

    def blob(name: str) -> ShapedBlob:
        return ShapedBlob(name, plan.shapes.get(name))

    branches = [
        BranchView(
            source.prefix,
            source.raw.file,
            tuple(
                map(
                    blob,
                    plan.inputs.feeds[source.prefix].values()
                    if source.spec.reads
                    else plan.inputs.blobs(source.prefix),
                )
            ),
            len(source.branch.layers),
            tuple(map(blob, source.cuts)),
            next((blob(item.blob) for item in plan.references if item.prefix == source.prefix), None),
            next((tuple(item.classes) for item in plan.references if item.prefix == source.prefix), ()),
        )
        for source in plan.sources
    ]
    layers = [f"{layer.name} ({layer.type})" for layer in read_net(reparse(plan.head.text, "the head")).layers]
    scores = tuple(
        ShapedBlob(name, (None, one.num_output, *([None, None] if one.positions else [])))
        for name, one in zip(plan.head.scores, plan.classifiers, strict=True)
    )
    losses = [f"{describe_loss(one.loss)} against {one.label}" for one in plan.classifiers]
    losses += [f"{loss.kind}, weight {loss.weight:g}" for loss in plan.losses]
    return Overview(plan.title, tuple(branches), plan.options.head, tuple(layers), scores, tuple(losses))
