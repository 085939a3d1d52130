"""Charts painted without a browser: the marks are where the drawing has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fusion.errors import ReportError
from fusion.report.curves import Curve, read_log, write_plot
from fusion.report.html import elem
from fusion.report.svg_plot import HEIGHT, WIDTH
from fusion.report.svg_to_png import paint


def test_lines_points_and_letters_are_where_they_belong() -> None:
    chart = elem(
        "svg",
        elem("line", x1=0, x2=WIDTH, y1=100, y2=100, class_="grid"),
        elem("polyline", points="10,200 350,200", class_="curve c-0"),
        elem("polyline", points="50,50", class_="curve c-1"),
        elem("text", "loss (%)", x=11, y=150, text_anchor="middle", transform="rotate(-90 11 150)", class_="label"),
    )
    picture = paint([("Title", chart)], scale=2)
    assert picture.size == (2 * WIDTH, 2 * (HEIGHT + 26))
    at = lambda x, y: picture.getpixel((2 * x, 2 * (y + 26)))  # noqa: E731
    assert at(300, 100) == (0xE4, 0xDE, 0xD4)
    assert at(180, 200) == (0x03, 0x69, 0xA1)
    assert at(50, 50) == (0xA1, 0x62, 0x07)
    assert at(180, 280) == (255, 255, 255)
    beside, upright = picture.crop((0, 300, 30, 450)), picture.crop((0, 52, 30, 200))
    assert min(beside.convert("L").tobytes()) < 160
    assert min(upright.convert("L").tobytes()) == 255


def test_plot_of_caffes_own_log(golden: Path, tmp_path: Path) -> None:
    curve = read_log(golden / "tutorial" / "fuse_train_1.log")
    assert curve.rates[0] == (0, 0.01)
    assert curve.rates[-1] == (2800, 0.00499849)
    write_plot(tmp_path / "run.png", curve)
    write_plot(tmp_path / "loss.jpg", Curve("short", [(0, 1.0)]))
    with Image.open(tmp_path / "run.png") as whole, Image.open(tmp_path / "loss.jpg") as short:
        assert whole.width == 3 * short.width
    with pytest.raises(ReportError, match=r"cannot be written as \.svgz"):
        write_plot(tmp_path / "run.svgz", curve)
    assert not (tmp_path / "run.svgz").exists()
