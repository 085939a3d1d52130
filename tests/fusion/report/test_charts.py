"""Marks, lines and labels are at the pixels of their values."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fusion import pct
from fusion.pct.calibration import Bin
from fusion.report.charts import NAMED, NetPoint, calibration, confidence_change, pareto
from fusion.report.svg_plot import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    across,
    axis_over,
    label,
    ticks,
    upward,
)

FLOOR, CEILING, END = HEIGHT - BOTTOM, TOP, WIDTH - RIGHT


def attributes(markup: str, tag: str, kind: str, *names: str) -> list[tuple[float, ...]]:
    """The numbers of the elements of a style class."""
    found = [each for each in re.findall(f"<{tag} [^>]*>", markup) if f'class="{kind}"' in each]
    return [tuple(float(re.findall(f' {name}="([^"]+)"', each)[0]) for name in names) for each in found]


def texts(markup: str, kind: str = "tick") -> list[str]:
    return re.findall(f'<text [^>]*class="{kind}[^>]*>([^<]*)', markup)


def test_an_axis_maps_its_ends_to_its_pixels() -> None:
    axis = Axis(2.0, 6.0, 100.0, 300.0)
    assert [axis.at(value) for value in (2.0, 3.0, 6.0)] == [100.0, 150.0, 300.0]
    assert Axis(0.0, 3.0, 0.0, 1.0).at(1.0) == 0.33


def test_an_axis_around_values_has_a_margin_and_begins_at_zero_or_above() -> None:
    assert axis_over([0.2, 0.4, 0.3], 1, 2) == (pytest.approx(0.17), pytest.approx(0.43), 1, 2)
    assert axis_over([0.01, 0.41], 1, 2)[:2] == (0, pytest.approx(0.47))
    assert axis_over([0.3], 1, 2)[:2] == (pytest.approx(0.2995), pytest.approx(0.3005))
    assert axis_over([], 1, 2)[:2] == (0, pytest.approx(1.15))


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.05, 0.31, 5, [0.1, 0.2, 0.3]),
        (0.0, 0.25, 5, [0.0, 0.05, 0.1, 0.15, 0.2, 0.25]),
        (0.0, 3000.0, 4, [0, 1000, 2000, 3000]),
        (0.0, 10.0, 4, [0, 5, 10]),
        (0.0, 9.5, 4, [0, 5]),
        (0.0, 0.5, 5, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (0.0, 7.0, 4, [0, 2, 4, 6]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(Axis(low, high, 0, 1), most) == expected


def test_axes_have_their_lines_and_names() -> None:
    x, y = Axis(0, 1, LEFT, END), Axis(0, 1, FLOOR, CEILING)
    drawn = "".join(across(x, y, "error"))
    assert texts(drawn) == ["0", "20", "40", "60", "80", "100"]
    assert texts(drawn, "label") == ["error (%)"]
    assert attributes(drawn, "line", "grid", "x1", "x2", "y1", "y2")[1] == (106, 106, FLOOR, CEILING)
    assert attributes(drawn, "text", "tick", "x", "y")[1] == (106, FLOOR + 16)
    assert attributes(drawn, "text", "label", "x", "y") == [(196, HEIGHT - 6)]
    drawn = "".join(upward(y, "flips", [0, 0.125], digits=0))
    assert texts(drawn) == ["0", "12.5"]
    assert texts("".join(upward(Axis(0, 0.004, FLOOR, CEILING), "flips"))) == ["0", "0.1", "0.2", "0.3", "0.4"]
    assert attributes(drawn, "line", "grid", "x1", "x2", "y1", "y2")[1] == (LEFT, END, 227.5, 227.5)
    assert attributes(drawn, "text", "label", "x", "y") == [(11, 136)]
    assert "rotate(-90 11 136.0)" in drawn
    assert label("a", 1.006, 2.004, "end") == '<text x="1.01" y="2.0" text-anchor="end" class="tick">a</text>'


def point(name: str, error: float, nfr: float, colour: str = "c-0", spread: float = 0.01) -> NetPoint:
    return NetPoint(
        name, pct.Interval(error, error - spread, error + spread), pct.Interval(nfr, nfr - spread, nfr + spread), colour
    )


def test_nets_are_where_their_error_and_flips_are() -> None:
    drawn = pareto([point("a", 0.1, 0.3), point("b", 0.3, 0.1), point("c", 0.3, 0.3, "c-new")])
    x, y = axis_over([0.09, 0.31], LEFT, END), axis_over([0.09, 0.31], FLOOR, CEILING)
    low, high = (x.at(0.1), y.at(0.1)), (x.at(0.3), y.at(0.3))
    assert attributes(drawn, "circle", "dot c-0", "cx", "cy") == [(low[0], high[1]), (high[0], low[1])]
    assert attributes(drawn, "circle", "dot c-new", "cx", "cy") == [high]
    assert f'points="{low[0]},{high[1]} {high[0]},{low[1]}"' in drawn
    assert attributes(drawn, "line", "whisker c-new", "x1", "x2", "y1", "y2") == [
        (x.at(0.29), x.at(0.31), high[1], high[1]),
        (high[0], high[0], y.at(0.29), y.at(0.31)),
    ]
    assert "a: error 10.00\u00a0%, NFR 30.00\u00a0%; b: error 30.00\u00a0%, NFR 10.00\u00a0%; c: " in drawn
    unknown = NetPoint("d", pct.Interval(0.2, 0.1, 0.3), pct.Interval(None, None, None), "c-1")
    assert "c-1" not in pareto([point("a", 0.1, 0.3), unknown])
    assert "c-1" not in pareto([point("a", 0.1, 0.3), NetPoint("d", *reversed(unknown[1:3]), "c-1")])
    bare = NetPoint("d", pct.Interval(0.2, None, None), pct.Interval(0.2, 0.1, 0.3), "c-1")
    assert attributes(pareto([bare]), "circle", "dot c-1", "r") == [(5,)]
    assert "whisker" not in pareto([bare])


def test_names_are_beside_their_marks_and_apart() -> None:
    drawn = pareto([point("left", 0.1, 0.2), point("right", 0.9, 0.2, "c-1"), point("a" * 23, 0.5, 0.2, "c-2")])
    x = axis_over([0.09, 0.91], LEFT, END)
    (at,) = attributes(drawn, "circle", "dot c-0", "cy")[0]
    assert attributes(drawn, "text", "name c-0", "x", "y") == [(round(x.at(0.1) + 9, 2), at - 8)]
    assert attributes(drawn, "text", "name c-1", "x", "y") == [(round(x.at(0.9) - 9, 2), at + 5)]
    assert attributes(drawn, "text", "name c-2", "x", "y") == [(round(x.at(0.5) + 9, 2), at + 18)]
    assert texts(drawn, "name") == ["left", "right", "a" * 21 + "…"]
    assert re.findall(r'text-anchor="(\w+)" class="name', drawn) == ["start", "end", "start"]
    assert texts(pareto([point("a" * 22, 0.5, 0.2)]), "name") == ["a" * 22]


def test_of_many_nets_the_best_and_the_last_are_named() -> None:
    few = [point(f"net {i}", 0.1 + i / 100, 0.1 + i / 100) for i in range(NAMED)]
    assert len(texts(pareto(few), "name")) == NAMED
    assert sorted(texts(pareto([*few, point("last", 0.9, 0.9)]), "name")) == ["last", "net 0"]


def test_calibration_has_the_bins_with_enough_samples() -> None:
    bins = [Bin(0.0, 0.1, 9, 0.05, 0.5), Bin(0.1, 0.2, 10, 0.2, 0.4), Bin(0.2, 0.3, 0, None, None)]
    drawn = calibration([("net", "c-1", [*bins, Bin(0.9, 1.0, 1234, 1.0, 0.9)])])
    x, y = Axis(0, 1, LEFT, END), Axis(0, 1, FLOOR, CEILING)
    assert f'points="{x.at(0.2)},{y.at(0.4)} {x.at(1)},{y.at(0.9)}" class="curve c-1"' in drawn
    assert attributes(drawn, "circle", "dot c-1", "cx", "cy") == [(x.at(0.2), y.at(0.4)), (x.at(1), y.at(0.9))]
    assert "net: 1,234 samples of confidence 100\u00a0%, 90\u00a0% right" in drawn
    assert attributes(drawn, "line", "diagonal", "x1", "y1", "x2", "y2") == [(LEFT, FLOOR, END, CEILING)]
    assert texts(drawn) == ["0", "20", "40", "60", "80", "100"] * 2
    assert texts(drawn, "label") == ["confidence (%)", "accuracy (%)"]


def test_the_change_of_confidence_is_counted_in_tenths() -> None:
    before = np.array([0.9, 0.5, 0.5, *[0.2] * 9, *[0.3] * 99, 0.7, 0.1], np.float32)
    after = np.array([0.05, 0.45, 0.55, *[0.45] * 9, *[0.95] * 99, 0.15, 0.65], np.float32)
    drawn = confidence_change(before, after)
    y = Axis(0, 2, FLOOR, CEILING)
    shown = dict(zip(
        re.findall(r"<title>([^<]*)", drawn), re.findall(r'y="([\d.]+)" rx="1.5" class="bar (\w+)"', drawn), strict=True
    ))  # fmt: skip
    assert shown == {
        "1 samples: -0.9 to -0.8": (str(y.at(0.31)), "neg"),
        "1 samples: -0.6 to -0.5": (str(y.at(0.31)), "neg"),
        "1 samples: -0.1 to +0.0": (str(y.at(0.31)), "even"),
        "1 samples: +0.0 to +0.1": (str(y.at(0.31)), "even"),
        "9 samples: +0.2 to +0.3": (str(y.at(1)), "pos"),
        "1 samples: +0.5 to +0.6": (str(y.at(0.31)), "pos"),
        "99 samples: +0.6 to +0.7": (str(y.at(2)), "pos"),
    }
    bars = re.findall(r'<rect y="([\d.]+)"[^>]* x="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', drawn)
    assert [float(value) for value in bars[0]] == pytest.approx([y.at(0.31), 61.75, 13.5, FLOOR - y.at(0.31)])
    assert texts(drawn) == ["0", "10", "100", "−1", "−0.5", "0", "+0.5", "+1"]
    assert attributes(drawn, "text", "tick", "x", "y")[3:] == [(x, FLOOR + 16) for x in (46, 121, 196, 271, 346)]
    assert attributes(drawn, "text", "label", "x", "y") == [(196, HEIGHT - 6)]
    assert "2 samples lost more than half, 100 gained as much." in drawn
    assert texts(confidence_change(before[:1], before[:1]))[:2] == ["0", "10"]
    assert "0 samples lost more than half, 0 gained" in confidence_change(before[:0], before[:0])
    half = np.array([0.75, 0.25], np.float32)
    assert "0 samples lost more than half, 0 gained" in confidence_change(half, half[::-1])
