"""The fused net's data layers while they are being settled: copies of the sources' own, and what their blobs hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fusion.composition.data_layers import Change
from fusion.composition.lists import Chosen, Lists
from fusion.composition.net_text import PHASES, Layer
from fusion.composition.pixels import affine_layers
from fusion.composition.preprocessing import Affine, Stream, draws, draws_crops, list_and_batch, stream
from fusion.composition.sources import PreparedSource


@dataclass
class Copy:
    """A data layer of a source on its way into the fused net."""

    part: PreparedSource
    layer: Layer
    change: Change = field(default_factory=Change)


@dataclass
class Layout:
    """What is settled so far.

    streams  what the fused net's data blobs hold in each phase
    further  the text of layers beside the copies
    listed   sources without data layers that read lists of their own
    unseen   prefixes and phases whose labels were not all compared here, so that whoever reads the records has to
    """

    main: PreparedSource
    labels: Sequence[str]
    chosen: Chosen
    copies: list[Copy] = field(default_factory=list)
    streams: dict[str, dict[str, Stream]] = field(default_factory=dict)
    further: list[str] = field(default_factory=list)
    listed: list[tuple[PreparedSource, Lists]] = field(default_factory=list)
    unseen: set[tuple[str, str]] = field(default_factory=set)
    front: dict[str, list[str]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def in_step(self) -> bool:
        """Whether other data layers stand beside those of the main source."""
        return len(self.copies) > len(self.main.data_layers) or bool(self.listed)

    def step(self, part: PreparedSource | None = None, layer: Layer | None = None) -> dict[str, str]:
        """Per phase the main source's blob that another source's layer is in step with, where either draws at random.

        Where nothing is drawn, layers are in step by themselves, in Caffe too; but if their labels were not compared
        here, `in_step_with` has them compared when they are read.
        """
        found: dict[str, str] = {}
        for phase in PHASES:
            path = self.chosen.source(part, layer, phase) if part is not None and layer is not None else None
            leaders = [other for other in self.main.data_layers if phase in other.phases]
            same = [other for other in leaders if self.chosen.source(self.main, other, phase) == path]
            first = [other for other in leaders if self.main.branch.inputs[0] in other.tops]
            leader = next(iter([*same, *first]), None)
            followed = leader.message.string("in_step_with") if leader is not None else None
            leader = next((other for other in leaders if followed in other.tops), leader)
            crops = layer is not None and phase in layer.phases and draws_crops(layer, phase)
            unseen = part is not None and (part.prefix, phase) in self.unseen
            if leader is not None and (draws(leader, phase) or crops or unseen):
                found[phase] = leader.tops[0]
        return found

    def batch(self, phase: str) -> int | None:
        """The batch size of all data layers of a phase: the wished one, or that of the main source."""
        wished = self.chosen.lists.of(phase)[1]
        own = [list_and_batch(layer)[1] for layer in self.main.data_layers if phase in layer.phases]
        return wished or next((batch for batch in own if batch is not None), None)


def streams_of(part: PreparedSource, layer: Layer, top: str, chosen: Chosen) -> dict[str, Stream]:
    """What a top of a source's data layer holds, in each phase that the layer is there."""
    return {phase: stream(layer, top, chosen.source(part, layer, phase)) for phase in layer.phases}


def converted(part: PreparedSource, blob: str, given: str, affine: Affine, layout: Layout, comment: str) -> str:
    """Put layers at the front of a branch that map the pixel values of the fused net's blob `given`.

    Returns the blob that they make, or `given` itself where nothing changes.
    """
    if affine.identity:
        return given
    taken = {name for layer in part.net.layers for name in (*layer.tops, layer.name)} | set(layout.streams)
    made = f"{part.prefix}/{blob.removeprefix(part.prefix + '/')}_prepared"
    while made in taken:
        made += "_"
    layout.front.setdefault(part.prefix, []).extend(affine_layers(made, given, affine, comment))
    layout.origins[made] = given
    return made
