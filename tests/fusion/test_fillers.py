"""Fillers against the statistics of what Caffe's own fillers made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from fusion.errors import BuildError
from fusion.fillers import FILLERS, fill
from prototxt.schema.messages import FillerParameter

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "formats" / "fillers" / "filler_stats.json").read_text()
)


def filler(text: str) -> FillerParameter:
    return text_format.Parse(text, FillerParameter())


def filled(text: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    return fill(filler(text), shape, np.random.default_rng(seed))


@pytest.mark.parametrize("case", sorted(name for name, stats in RECORDED.items() if isinstance(stats, dict)))
def test_statistics_are_caffes(case: str) -> None:
    recorded = RECORDED[case]
    values = filled(case.partition(" | ")[2], tuple(recorded["shape"]))

    assert values.dtype == np.float32
    assert values.shape == tuple(recorded["shape"])
    spread = max(recorded["std"], 1e-6)
    assert values.mean(dtype=np.float64) == pytest.approx(recorded["mean"], abs=0.03 * spread)
    assert values.std(dtype=np.float64) == pytest.approx(recorded["std"], rel=0.03, abs=1e-6)
    assert (values == 0).mean() == pytest.approx(recorded["zeros"], abs=0.01)
    if "gaussian" not in case and "msra" not in case:
        assert values.min() == pytest.approx(recorded["min"], abs=0.05 * spread)
        assert values.max() == pytest.approx(recorded["max"], abs=0.05 * spread)
    if "unitball" in case or "bilinear" in case or "constant" in case:
        sums = values.reshape(len(values), -1).sum(axis=1)
        assert sums.min() == pytest.approx(recorded["row_sum_min"], rel=1e-5)
        assert sums.max() == pytest.approx(recorded["row_sum_max"], rel=1e-5)


def test_every_type_is_recorded() -> None:
    used = {filler(case.partition(" | ")[2]).type for case in RECORDED}
    assert used == set(FILLERS)


def test_bilinear_interpolates_as_caffes(golden: Path) -> None:
    recorded = np.load(golden / "layers" / "deconv_bilinear" / "io.npz")["param:y:0"]
    assert np.array_equal(filled("type: 'bilinear'", recorded.shape), recorded)


def test_a_seed_gives_the_same_values_again() -> None:
    for name in FILLERS:
        first, second = (filled(f"type: {name!r}", (4, 3, 5, 5), seed=7) for _ in range(2))
        assert np.array_equal(first, second)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("name", ["constant", "uniform", "gaussian", "xavier", "msra"])
def test_any_rank_is_filled(name: str, shape: tuple[int, ...]) -> None:
    values = filled(f"type: {name!r}", shape)
    assert values.shape == shape
    assert values.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "shape", "message", "hint"),
    [
        ("type: 'gausian'", (2, 3), "unknown filler type 'gausian'", "did you mean 'gaussian'?"),
        ("type: '?'", (2, 3), "unknown filler type '?'", "the types are constant"),
        ("type: 'bilinear'", (50, 1080), "needs a square kernel with 4 axes", None),
        ("type: 'uniform' min: 2 max: 1", (2, 3), "has min 2 above max 1", None),
        ("type: 'gaussian' std: -1", (2, 3), "has a negative std", None),
        ("type: 'gaussian' sparse: 9", (2, 3), "has sparse 9", None),
        ("type: 'gaussian' sparse: 3", (2, 3), "has sparse 3 for a parameter of shape [2, 3]", None),
        ("type: 'gaussian' sparse: -2", (2, 3), "has sparse -2", None),
        ("type: 'gaussian' sparse: 0", (), "has sparse 0 for a parameter of shape []", None),
        ("type: 'xavier' sparse: 1", (2, 3), "cannot be sparse", "gaussian"),
        ("type: 'constant' sparse: 0", (2, 3), "cannot be sparse", "gaussian"),
        ("type: 'bilinear'", (2, 2, 3, 4), "needs a square kernel with 4 axes", None),
        ("type: 'bilinear'", (2, 2, 2, 3, 3), "needs a square kernel with 4 axes", None),
        ("type: 'xavier'", (2, 0), "cannot fill an empty parameter", None),
        ("type: 'msra'", (0, 3), "cannot fill an empty parameter", None),
    ],
)
def test_what_cannot_be_filled_is_refused(text: str, shape: tuple[int, ...], message: str, hint: str | None) -> None:
    with pytest.raises(BuildError) as caught:
        filled(text, shape)
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_limits_themselves_are_allowed() -> None:
    assert not filled("type: 'gaussian' sparse: 0", (4, 5)).any()
    assert filled("type: 'gaussian' sparse: 4", (4, 500)).all()
    assert (filled("type: 'uniform' min: 2 max: 2", (3,)) == 2).all()
    assert (filled("type: 'gaussian' std: 0 mean: 3", (3,)) == 3).all()
    assert filled("", (2, 2)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("norm", "shape", "fan"),
    [("FAN_IN", (4, 6, 5), 30), ("FAN_OUT", (4, 6, 5), 20), ("AVERAGE", (4, 6, 5), 25), ("FAN_IN", (8,), 1),
     ("FAN_OUT", (8,), 8), ("AVERAGE", (), 1)],
)  # fmt: skip
def test_the_fan_is_that_of_the_axes(norm: str, shape: tuple[int, ...], fan: float) -> None:
    for name, scale in (("xavier", 3.0), ("msra", 2.0)):
        values = filled(f"type: {name!r} variance_norm: {norm}", shape, seed=3)
        rng = np.random.default_rng(3)
        drawn = rng.random(shape, np.float32) * 2 - 1 if name == "xavier" else rng.standard_normal(shape, np.float32)
        np.testing.assert_allclose(values, drawn * np.sqrt(scale / fan), rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "row"),
    [
        *((1, [1]), (2, [1 / 2] * 2), (3, [1 / 2, 1, 1 / 2]), (4, [1 / 4, 3 / 4, 3 / 4, 1 / 4])),
        *((5, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]), (6, [1 / 6, 1 / 2, 5 / 6, 5 / 6, 1 / 2, 1 / 6])),
    ],
)
def test_a_bilinear_kernel_is_a_tent(size: int, row: list[float]) -> None:
    """As in BVLC Caffe's filler.hpp of today; an older formula was askew for sizes 2, 3, 6 and 7."""
    values = filled("type: 'bilinear'", (2, 1, size, size))
    np.testing.assert_allclose(values, np.broadcast_to(np.outer(row, row), values.shape), rtol=1e-6)
