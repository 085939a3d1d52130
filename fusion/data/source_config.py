"""The settings that open a source: all that another process needs to open the same one."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fusion.data.decoded_cache import BUDGET

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

OnBadRecord = Literal["fail", "skip"]


@dataclass(frozen=True)
class SourceConfig:
    """A data layer and the seed of its random numbers; see `open_source`."""

    layer: LayerParameter
    phase: str
    root: str | None = None
    seed: int = 0
    on_bad_record: OnBadRecord = "fail"

    @property
    def skips(self) -> bool:
        """Return whether bad records are skipped."""
        return self.on_bad_record == "skip"

    def to_json(self) -> dict[str, Any]:
        """Return the config as plain values."""
        layer = base64.b64encode(self.layer.SerializeToString()).decode("ascii")
        return {**vars(self), "layer": layer}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SourceConfig:
        """Return the config from the values of `to_json`."""
        from prototxt.schema.messages import LayerParameter

        return cls(**{**values, "layer": LayerParameter.FromString(base64.b64decode(values["layer"]))})


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading data; none of them changes the batches of sound data.

    workers        processes that read data which does not fit into memory; None: half of the cores, 8 at most
    budget         bytes of decoded records that a data layer may keep in memory
    on_bad_record  "fail": a record that cannot be read or has another size is an error;
                   "skip": the next good record stands in for it, and it is counted
    """

    workers: int | None = None
    budget: int = BUDGET
    on_bad_record: OnBadRecord = "fail"

    @property
    def processes(self) -> int:
        """Return the number of workers to start."""
        # Training needs the other half of the cores.
        return min(8, max(1, (os.cpu_count() or 1) // 2)) if self.workers is None else self.workers
