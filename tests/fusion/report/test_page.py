"""The page: well-formed, self-contained, escaped, within its budget of pictures."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion import pct
from fusion.report import Album, Budget, Curve, check_budget, gather, page, sections
from fusion.report.charts import frontier
from fusion.report.format_numbers import percent
from fusion.report.html import Markup, concat, elem
from fusion.report.images import data_uri
from fusion.report.svg_plot import BOTTOM, HEIGHT, LEFT, TOP, Axis, grid_line, ticks

Nets = dict[str, pct.Predictions]
VOID = {"meta", "link", "img", "br", "input"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def whole(nets: Nets, folder: Path, **rest: object) -> str:
    found = gather(old=[nets["odd"], nets["even"]], new=[nets["plain"], nets["focal"]])
    return page(found, check_budget(found, Budget(max_nfr=0.01)), Album(folder), "fusion-report --old ...", **rest)


def test_the_page_stands_alone(nets: Nets, folder: Path) -> None:
    text = whole(nets, folder)
    read = Reader(text)
    links = [value for _, attributes in read.found for name, value in attributes.items() if name in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not read.all("script")
    policies = [meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert [policy.split(";")[:3] for policy in policies] == [
        ["default-src 'none'", " style-src 'unsafe-inline'", " img-src data:"]
    ]
    assert "url(" not in text
    assert "@import" not in text
    targets = {attributes["id"] for _, attributes in read.found if "id" in attributes}
    assert {link[1:] for link in links if link.startswith("#")} <= targets
    assert "prefers-color-scheme: dark" in text
    assert all(image["alt"] for image in read.all("img"))
    assert all(chart["aria-label"] for chart in read.all("svg"))
    assert len(read.all("svg")) == 3
    assert text == whole(nets, folder)


def test_a_page_that_says_nan_is_wrong(nets: Nets, folder: Path) -> None:
    for old, new in (("odd", "focal"), ("focal", "focal")):
        text = page(gather(old=[nets[old]], new=[nets[new]]), album=Album(folder))
        assert not re.search(r"\bnan\b|None|inf\b", " ".join(Reader(text).text))


def test_pictures_and_placeholders(nets: Nets, folder: Path) -> None:
    read = Reader(whole(nets, folder))
    pictures = [image["src"] for image in read.all("img")]
    assert pictures
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    empty = Reader(whole(nets, folder / "nowhere"))
    assert not empty.all("img")
    assert any("not found under" in text for text in empty.text)
    found = gather(old=[nets["odd"]], new=[nets["focal"]])
    assert not Reader(page(found)).all("img")


def test_the_budget_of_bytes(nets: Nets, folder: Path) -> None:
    found = gather(old=[nets["odd"], nets["even"]], new=[nets["plain"]])
    album = Album(folder, budget=500)
    text = page(found, album=album)
    assert 0 < album.spent <= 500
    assert "did not fit" in text


def test_names_from_strangers_are_escaped(folder: Path) -> None:
    evil = '<script>alert("x")</script>&'
    net = pct.Predictions(
        [evil, "b"], [0, 1], np.eye(2), variants=[evil, ""], meta={"name": evil, "class_names": [evil, "b"]}
    )
    other = pct.Predictions(
        [evil, "b"],
        [0, 1],
        1 - np.eye(2),
        variants=[evil, ""],
        meta={"name": evil, evil: [evil], "class_names": [evil]},
    )
    text = page(gather(old=[net, net], new=[other, other], title=evil), album=Album(folder), command=evil)
    read = Reader(text)
    assert not read.all("script")
    assert "alert(" in text


def test_ten_thousand_samples_stay_small(folder: Path) -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 255, (300, 300, 3), np.uint8)
    Image.fromarray(noise).save(folder / "large.png")
    keys = [f"val/{i}.png" for i in range(10_000)]
    labels = generator.integers(0, 10, 10_000)
    old, new = (
        pct.Predictions(keys, labels, generator.normal(size=(10_000, 10)) + 2 * np.eye(10)[labels], meta={"name": name})
        for name in "ab"
    )
    for key in keys[:200]:
        (folder / key).unlink(missing_ok=True)
        (folder / key).symlink_to(folder / "large.png")
    assert len(page(gather(old=[old], new=[new]), album=Album(folder)).encode()) < 5_000_000


def test_many_classes_become_a_list_of_pairs(folder: Path) -> None:
    labels = np.arange(300) % 100
    keys = [str(i) for i in range(300)]
    old = pct.Predictions(keys, labels, np.eye(100)[labels], meta={"name": "old"})
    new = pct.Predictions(keys, labels, np.eye(100)[(labels + labels % 7) % 100], meta={"name": "new"})
    text = page(gather(old=[old], new=[new]), album=Album(folder))
    assert "The 20 most frequent of" in text
    assert "The 30 classes with the highest rates." in text


def test_a_sweep_of_many_nets_stays_readable(nets: Nets, folder: Path) -> None:
    many = [nets["focal"].named(f"net-{i}") for i in range(40)]
    found = gather(old=[nets["odd"], nets["even"]], new=[nets["plain"], *many])
    assert [candidate.name for candidate in found.shown] == ["plain", "net-39"]
    text = page(found, album=Album(folder))
    assert text.count(">against odd<") == 2
    assert text.count('class="name c-') <= 3
    assert len(text) < 600_000


def test_slices_have_their_table(folder: Path) -> None:
    nets = [pct.Predictions(["a", "a"], [0, 0], [[1, 0], [0, i]], variants=["", "noise"]) for i in (0, 1)]
    assert "By slice" in page(gather(old=nets[:1], new=nets[1:]), album=Album(folder))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "I;16", "RGBA"])
def test_any_kind_of_picture_is_embedded(tmp_path: Path, mode: str) -> None:
    for name in ("a.png", "a.tif", "a.jpg"):
        image = Image.new(mode, (400, 20))
        try:
            image.save(tmp_path / name)
        except (OSError, KeyError):
            continue
        picture = data_uri(tmp_path / name)
        assert picture is not None
        assert picture.uri.startswith("data:image/")


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello", "utf-8")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n1234")
    for name in ("text.png", "cut.png", "absent.png", ".", "nul\0"):
        assert data_uri(tmp_path / name) is None


def test_markup() -> None:
    assert elem("p", "a < b", Markup("<br>"), ["c", None, 1], class_="x", hidden=True, title='"') == (
        '<p class="x" hidden title="&quot;">a &lt; b<br>c1</p>'
    )
    assert elem("line", x1=1, stroke_width=2) == '<line x1="1" stroke-width="2"></line>'
    assert concat() == ""


def test_the_frontier() -> None:
    assert frontier([(3, 1), (1, 3), (2, 2), (3, 3), (2, 4), (1, 3)]) == [(1, 3), (2, 2), (3, 1)]
    assert frontier([]) == []


@pytest.mark.parametrize("span", [1e-4, 0.013, 0.5, 1.0, 7.0])
def test_ticks_are_few_and_inside(span: float) -> None:
    found = ticks(Axis(0.3, 0.3 + span, 0, 100))
    assert 2 <= len(found) <= 6
    assert all(0.3 - 1e-9 <= tick <= 0.3 + span + 1e-9 for tick in found)


def test_cards_are_over_the_samples_that_they_name(nets: Nets) -> None:
    found = gather(old=[nets["odd"]], new=[nets["focal"]])
    text = sections.verdict(found, [])
    known = nets["focal"].take(nets["focal"].labels % 2 == 1)
    assert pct.accuracy(known) != pct.accuracy(nets["focal"])
    card = r"<p>{}</p><strong>{}</strong><small>[^<]*{}</small>"
    assert re.search(card.format("Accuracy", percent(pct.accuracy(known)), ""), text)
    every = card.format("Accuracy on all classes", percent(pct.accuracy(nets["focal"])), "over all 200 samples")
    assert re.search(every, text)
    assert "Over 100 samples of classes that odd knows; the last card is over all samples." in text
    whole = sections.verdict(gather(old=[nets["plain"]], new=[nets["focal"]]), [])
    assert "Over 200 samples." in whole
    assert "Accuracy on all classes" not in whole


def test_a_row_of_the_balance_has_both_numbers(nets: Nets, folder: Path) -> None:
    report = gather(old=[nets["plain"]], new=[nets["focal"]])
    counted = report.candidates[-1].whole.outcomes
    text = page(report, album=Album(folder))
    assert f"<b>{counted.negative}</b><i " in text
    assert f"</i><b>{counted.positive}</b>" in text


def test_numbers_of_grid_lines_stand_left_of_them() -> None:
    y = Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    line, text = grid_line(y, 0.25, "25")
    assert f'x1="{LEFT}"' in line
    assert f'x="{LEFT - 6}"' in text
    assert 'text-anchor="end"' in text
    assert f'y="{y.at(0.25) + 4}"' in text


def sections_of(text: str) -> dict[str, str]:
    """The content of each section, by its heading."""
    return dict(re.findall(r"<section [^>]*><h2>([^<]*)</h2>(.*?)</section>", text, re.DOTALL))


def test_sections_are_there_where_there_is_something_to_say(eight: tuple[pct.Predictions, ...], tmp_path: Path) -> None:
    old, base, new = eight
    every = page(gather(old=[old], new=[base, new]), album=Album(tmp_path), curves=[Curve("new", [(0, 1.0)])])
    names = ["Figures", "Where it forgets", "By slice", "The flips", "Confidence and trade-off", "Training", "Sources"]
    assert list(sections_of(every)) == [*names, "Glossary"]
    assert re.findall('<a href="#([a-z]+)">', every) == [
        "figures", "classes", "slices", "flips", "charts", "training", "again", "words"
    ]  # fmt: skip
    assert "<title>new against old</title>" in every
    flips = sections_of(every)["The flips"]
    negative, positive = flips.split("Positive flips: newly right")
    assert ("taken for" in negative, "no longer" in negative) == (True, False)
    assert ("taken for" in positive, "no longer" in positive) == (False, True)
    assert "3 images were not found under" in flips
    assert "Created by the command" not in every
    few = page(gather(old=[replace(old, variants=None)], new=[replace(new, variants=None)]))
    assert list(sections_of(few)) == [name for name in [*names, "Glossary"] if name not in ("By slice", "Training")]
    assert "not found" not in few
    assert "3 images did not fit into the page" in few


def test_sources_have_their_facts(eight: tuple[pct.Predictions, ...]) -> None:
    old, base, new = eight
    meta = {"file": ["a.npz", "b.npz"], "hash": "f00", "none": [], "count": 3, "mixed": ["é", 1]}
    text = page(gather(old=[old], new=[new.named("new", **meta)], baseline=base), command="fusion-report <x>")
    sources = sections_of(text)["Sources"]
    assert re.findall("<summary><b>([^<]*)</b> ([^<]*)</summary>", sources) == [
        ("old", "old"), ("base", "baseline"), ("new", "new")
    ]  # fmt: skip
    facts = re.findall("<dt>([^<]*)</dt><dd><code>([^<]*)</code>", sources.split("<b>new</b>")[1])
    assert facts == [
        ("samples", "8"), ("classes", "3: 0, 1, 2"), ("count", "3"), ("file", "a.npz, b.npz"), ("hash", "f00"),
        ("mixed", "[&quot;é&quot;, 1]"), ("none", "none"),
    ]  # fmt: skip
    assert "<code>fusion-report &lt;x&gt;</code>" in sources


def test_twenty_classes_are_listed_and_more_are_counted() -> None:
    for count, end in ((20, "18, 19"), (21, "18, 19, …")):
        net = pct.Predictions(["a"], [0], np.eye(1, count), meta={"name": "net"})
        known = re.findall("<dt>classes</dt><dd><code>([^<]*)", page(gather(old=[net], new=[net])))[0]
        assert known.startswith(f"{count}: 0, 1, ")
        assert known.endswith(end)
