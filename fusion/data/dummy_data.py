"""`DummyData`: constant or random blobs."""

# ruff: noqa: D102 - DataSource documents the members
from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion.data.decoded_cache import BUDGET, Progress
from fusion.data.source_config import SourceConfig
from fusion.errors import DataError
from prototxt.schema.messages import FillerParameter

if TYPE_CHECKING:
    from torch import Tensor

    from prototxt.schema.messages import DummyDataParameter, LayerParameter


@dataclass(frozen=True, eq=False)
class DummySource:
    """Blobs that fillers make, random ones new for each batch; it has as many records as a batch."""

    layer: LayerParameter
    shapes: dict[str, tuple[int, ...]]
    fillers: tuple[FillerParameter, ...]
    seed: int

    @property
    def tops(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @property
    def batch_size(self) -> int:
        return next(iter(self.shapes.values()))[0]

    @property
    def keys(self) -> Sequence[str]:
        return [str(index) for index in range(len(self))]

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return None

    @property
    def label_tops(self) -> tuple[str, ...]:
        return ()

    @property
    def deterministic(self) -> bool:
        sizes = {shape[0] for shape in self.shapes.values()}
        return len(sizes) == 1 and all(filler.type == "constant" for filler in self.fillers)

    @property
    def in_memory(self) -> bool:
        return True

    @property
    def bad(self) -> Mapping[int, DataError]:
        return {}

    def __len__(self) -> int:
        return self.batch_size

    def load(self, progress: Progress | None = None) -> None:
        """Do nothing: nothing is read."""

    def batch(self, indices: NDArray[np.int64], draw: int = 0) -> dict[str, Tensor]:
        import torch

        blobs = {}
        for number, (top, shape) in enumerate(self.shapes.items()):
            values = _fill(self.fillers[number], shape, (self.seed, number, draw))
            if self.deterministic:
                values = values[indices % len(values)]  # all rows are the same
            blobs[top] = torch.from_numpy(np.ascontiguousarray(values, np.float32))
        return blobs

    def order(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        while True:
            yield np.arange(self.batch_size)

    def place(self, index: int) -> str:
        return f"layer '{self.layer.name}':{index}"

    def fingerprint(self) -> str:
        return hashlib.sha256(self.layer.SerializeToString(deterministic=True)).hexdigest()


def open_dummy_data(config: SourceConfig, *, budget: int = BUDGET) -> DummySource:
    """Open the source of a `DummyData` layer: one shape and filler for all tops, or one each; no filler means zeros.

    Raises: DataError
    """
    layer = config.layer
    param = layer.dummy_data_param
    name = f"layer '{layer.name}'"
    shapes, tops = _shapes(param), len(layer.top)
    if len(shapes) not in (1, tops) or not all(shapes):
        raise DataError(f"{len(shapes)} shapes for {tops} tops", place=name, hint="give one shape, or one per top")
    fillers = list(param.data_filler) or [FillerParameter(type="constant")]
    if len(fillers) not in (1, tops):
        raise DataError(f"{len(fillers)} fillers for {tops} tops", place=name, hint="give none, one, or one per top")
    shapes, fillers = (list(items) * tops if len(items) == 1 else list(items) for items in (shapes, fillers))  # type: ignore[assignment]
    return DummySource(layer, dict(zip(layer.top, shapes, strict=True)), tuple(fillers), config.seed)


def _shapes(param: DummyDataParameter) -> list[tuple[int, ...]]:
    if param.shape:
        return [tuple(shape.dim) for shape in param.shape]
    return list(zip(param.num, param.channels, param.height, param.width, strict=False))


def _fill(filler: FillerParameter, shape: tuple[int, ...], seed: tuple[int, ...]) -> NDArray[np.float32]:
    if filler.type == "constant":
        return np.full(shape, filler.value, np.float32)
    from fusion.fillers import fill

    return fill(filler, shape, np.random.default_rng(seed))
