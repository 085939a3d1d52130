"""How far one array is from another, where values may be infinite, missing or not numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fusion.errors import WeightsMismatch
from fusion.verification import verify_weights
from fusion.verification.comparison import Comparison, Difference, compare_arrays, comparisons_json, comparisons_text
from fusion.verification.nets import _same_inputs
from fusion.verification.outputs import _alike
from prototxt import parse
from prototxt.formats.weights import write_weights
from prototxt.schema.load import load_net


@pytest.mark.parametrize(
    ("expected", "found", "absolute", "relative"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5, 0.25),
        ([0.0, 0.0], [0.0, 0.5], 0.5, math.inf),
        ([math.nan, 1.0], [math.nan, 1.0], 0.0, 0.0),
        ([math.nan, 1.0], [1.0, 1.0], math.inf, math.inf),
        ([math.inf, 1.0], [math.inf, 1.5], 0.5, 0.5),
        ([math.nan, 1.0], [math.nan, 3.0], 2.0, 2.0),
        ([math.inf], [-math.inf], math.inf, math.inf),
        ([1.0], [1.0, 1.0], math.inf, math.inf),
        ([], [], 0.0, 0.0),
    ],
)
def test_differences(expected: list[float], found: list[float], absolute: float, relative: float) -> None:
    row = compare_arrays("l", "b", np.array(expected, np.float32), np.array(found, np.float32))
    assert (row.absolute, row.relative, row.layer, row.blob) == (absolute, relative, "l", "b")
    assert row.shape == (len(expected),)
    assert row.found == ((len(found),) if len(found) != len(expected) else None)


GOOD = Difference("conv", "c", (2, 3), 0.5, 1e-6)
BAD = Difference("ip", "y", (), 0.25, 0.125)
OTHER = Difference("fc", "z", (2, 1), math.inf, math.inf, (1, 2))


def test_the_first_that_differs_is_told() -> None:
    for rows, rtol, first, largest, words in (
        ((GOOD,), 1e-5, None, 1e-6, "a: 1 blob agrees within 1.0e-06 relative"),
        ((GOOD, GOOD), 1e-6, None, 1e-6, "a: all 2 blobs agree within 1.0e-06 relative"),
        ((Difference("l", "b", (1,), 0.0, 0.0),) * 2, 0.0, None, 0.0, "a: all 2 blobs agree bit for bit"),
        ((GOOD, BAD, OTHER), 1e-5, BAD, math.inf,
         "a: differs first in layer 'ip', blob 'y': absolute 2.50e-01, relative 1.25e-01 (allowed 1e-05)"),
        ((OTHER, BAD), 1e-5, OTHER, math.inf, "a: differs first in layer 'fc', blob 'z': its shape is 1x2, not 2x1"),
        ((), 1e-5, None, 0.0, "a: all 0 blobs agree bit for bit"),
    ):  # fmt: skip
        item = Comparison("a", "x against y", rows, rtol=rtol)
        assert (item.first, item.largest, item.verdict()) == (first, largest, words)
    assert Comparison("a", "", (BAD, GOOD)).largest == 0.125


def test_the_whole_table() -> None:
    item = Comparison("a", "x against y", (GOOD, BAD, OTHER), ("score",), ("note: n",))
    assert (
        comparisons_text([item])
        == """\
a: x against y
layer  blob  shape         max absolute  max relative
-----  ----  ------------  ------------  ------------  -------
conv   c     2x3           5.00e-01      1.00e-06
ip     y     scalar        2.50e-01      1.25e-01      DIFFERS
fc     z     2x1, not 1x2  infinite      infinite      DIFFERS
not compared, because only one of the two has them: score
note: n
a: differs first in layer 'ip', blob 'y': absolute 2.50e-01, relative 1.25e-01 (allowed 1e-05)"""
    )
    assert comparisons_text([item, item]).count("\n\na: x against y") == 1


def test_the_table_as_json() -> None:
    found = json.loads(comparisons_json([Comparison("a", "w", (GOOD, OTHER), ("s",), ("n",)), Comparison("b", "", ())]))
    first, second = found
    assert {name: value for name, value in first.items() if name != "blobs"} == {
        "name": "a", "what": "w", "agrees": False, "rtol": 1e-5, "first_difference": "fc", "skipped": ["s"],
        "notes": ["n"],
    }  # fmt: skip
    assert first["blobs"] == [
        {"layer": "conv", "blob": "c", "shape": [2, 3], "absolute": 0.5, "relative": 1e-6, "differs": False},
        {"layer": "fc", "blob": "z", "shape": [2, 1], "absolute": None, "relative": None, "differs": True},
    ]
    assert (second["agrees"], second["first_difference"], second["blobs"]) == (True, None, [])


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [((2, 3), (2, 3, 1, 1), True), ((2, 3, 1), (2, 3), True), ((2, 3), (2, 3), False), ((2, 3), (2, 3, 2), False),
     ((2, 3), (2, 1, 3), False), ((2,), (3, 1), False), ((), (1,), True)],
)  # fmt: skip
def test_shapes_that_differ_by_ones_at_the_end(one: tuple[int, ...], other: tuple[int, ...], alike: bool) -> None:
    assert _alike(one, other) is alike
    assert _alike(other, one) is alike


def weights_file(path: Path, **layers: list[np.ndarray]) -> Path:
    write_weights(path, {name.replace("__", "/"): blobs for name, blobs in layers.items()})
    return path


def test_weights_are_compared_blob_by_blob(tmp_path: Path) -> None:
    one, row = np.ones((2, 3), np.float32), np.arange(3, dtype=np.float32)
    source = weights_file(tmp_path / "s.caffemodel", conv=[one, row], ip=[row], end=[row], two=[row, row])
    whole = weights_file(
        tmp_path / "w.caffemodel", a__conv=[one.reshape(1, 2, 3), row + 1], a__ip=[row[:2]], a__two=[row], conv=[one]
    )
    (found,) = verify_weights(whole, {"a": source})
    assert [(item.layer, item.blob, item.absolute) for item in found.differences] == [
        ("a/conv", "weights 0", 0.0), ("a/conv", "weights 1", 1.0), ("a/ip", "weights 0", math.inf),
        ("a/two", "1 blobs for 2", math.inf),
    ]  # fmt: skip
    assert found.differences[1].relative == 0.5, "of the source's largest value"
    assert found.skipped == ("end",)
    assert (found.name, found.rtol) == ("a", 0.0)
    (without,) = verify_weights(whole, {"a": source}, without=["a/conv", "a/two"])
    assert [item.layer for item in without.differences] == ["a/ip"]
    (alone,) = verify_weights(whole, {"": source})
    assert [(item.layer, item.blob) for item in alone.differences] == [("conv", "1 blobs for 2")]
    with pytest.raises(WeightsMismatch, match="no layer of 'b' is in"):
        verify_weights(whole, {"b": source})
    many = weights_file(tmp_path / "m.caffemodel", **{f"l{n}": [row] for n in range(6)})
    with pytest.raises(WeightsMismatch, match=r"are l0, l1, l2, l3, \.\.\.; the other's l0, l1, l2, l3, \.\.\.$"):
        verify_weights(many, {"b": many})


@pytest.mark.parametrize(
    ("blob", "shape", "found"),
    [
        ("a", (7, 3), "a"),
        ("a", (7, 9), "a"),
        ("a", (7, 5), None),  # the shape of the other input
        ("c", (7, 5), "c"),
        ("x", (7, 3), "p/x"),
    ],
)
def test_inputs_of_two_nets_match_by_name_unless_their_shapes_tell_otherwise(
    blob: str, shape: tuple[int, ...], found: str | None
) -> None:
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ dim: 1 dim: {size} }} }} }}'
        for name, size in (("a", 3), ("b", 5), ("p/x", 4))
    )
    message = load_net(parse(inputs))
    expected = {} if found is None else {found: shape}
    assert _same_inputs({blob: shape}, message, {"a", "b", "p/x"}, "p") == expected
