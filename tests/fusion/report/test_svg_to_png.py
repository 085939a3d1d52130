"""Charts painted without a browser: the marks are where the drawing has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops

from fusion.errors import ReportError
from fusion.report.curves import Curve, read_log, write_plot
from fusion.report.html import Markup, elem
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


def painted(*elements: Markup, scale: int = 2, charts: int = 1) -> Image.Image:
    return paint([("", elem("svg", *elements))] * charts, scale=scale)


def extent(image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of all that is not paper."""
    found = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    assert found is not None
    return found


def test_lines_are_as_wide_as_the_scale_demands() -> None:
    line = elem("line", x1=10, x2=20, y1=50, y2=50, class_="grid")
    widths = []
    for scale in (1, 2, 4):
        _, top, _, bottom = extent(painted(line, scale=scale))
        widths.append(bottom - top)
        assert top == pytest.approx(76 * scale, abs=1)
    assert widths == [1, 1, 2]
    assert extent(painted(line))[::2] == (20, 41)
    assert extent(painted(elem("line", y2=30, class_="grid"))) == (0, 52, 1, 113)  # a place without a number is 0
    curve = elem("polyline", points="10,50 20,50", class_="curve")
    left, top, right, bottom = extent(painted(curve, scale=4))
    assert (left, right) == (40, 81)
    assert 6 <= bottom - top <= 8
    assert extent(painted(elem("polyline", points="50,40"))) == (98, 130, 103, 135)
    with pytest.raises(AssertionError):
        extent(painted(elem("polyline", points="")))


def test_a_second_chart_is_right_of_the_first() -> None:
    line = elem("line", x1=10, x2=20, y1=50, y2=50, class_="grid")
    both = painted(line, charts=2)
    assert both.size == (4 * WIDTH, 2 * (HEIGHT + 26))
    assert extent(both.crop((2 * WIDTH, 0, *both.size))) == extent(painted(line))
    titled = extent(paint([("Title", elem("svg"))]))
    assert titled[0] == pytest.approx(24, abs=4)
    assert titled[3] == pytest.approx(36, abs=2)
    assert titled[3] - titled[1] == pytest.approx(20, abs=4)
    assert paint([]).size == (2 * WIDTH, 2 * (HEIGHT + 26))


def test_text_is_anchored_and_turned() -> None:
    def text(anchor: str, **more: str) -> tuple[int, int, int, int]:
        return extent(painted(elem("text", "wide text", x=100, y=100, text_anchor=anchor, class_="label", **more)))

    start, middle, end = text("start"), text("middle"), text("end")
    width = start[2] - start[0]
    assert start[0] == pytest.approx(200, abs=3)
    assert end[2] == pytest.approx(200, abs=3)
    assert (middle[0] + middle[2]) / 2 == pytest.approx(200, abs=2)
    assert start[3] == middle[3] == end[3] == pytest.approx(2 * 126, abs=3)
    upright = text("middle", transform="rotate(-90 100 100)")
    assert upright[3] - upright[1] == pytest.approx(width, abs=2)
    assert upright[2] - upright[0] == pytest.approx(start[3] - start[1], abs=2)
    assert (upright[1] + upright[3]) / 2 == pytest.approx(2 * 126, abs=2)
    assert upright[2] == pytest.approx(200, abs=3)
    assert upright[0] < 190


def test_plots_are_written_under_the_form_of_their_name(tmp_path: Path) -> None:
    curve = Curve("short", [(0, 1.0)])
    for name, form in (("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("bare", "PNG"), ("a.gif", "GIF")):
        write_plot(tmp_path / name, curve)
        with Image.open(tmp_path / name) as image:
            assert image.format == form
