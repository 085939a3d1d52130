"""Cards of changed answers, and their pictures within the page's budget."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fusion import pct
from fusion.report import Album, gather
from fusion.report.gallery import AT_ONCE, SHOWN, gallery, missing_note
from fusion.report.html import Markup
from fusion.report.images import KEPT_BYTES, LARGEST_SIDE, data_uri

NOWHERE = Path("/nowhere")


def cards(markup: Markup) -> list[list[list[str]]]:
    """Of each card the texts of its line, of every net's answer, and of its name."""
    closed = re.sub(r"<input([^>]*)>", "", markup)
    found = list(ElementTree.fromstring(f"<x>{closed}</x>").iter("figure"))
    lists = [[card.find(".//p"), *card.iter("div"), card.findall(".//p")[-1]] for card in found]
    return [
        [list(part.itertext()) for part in parts if part is not None and part.get("role") is None] for parts in lists
    ]


def test_a_card_has_the_answers_of_all_nets(eight: Sequence[pct.Predictions]) -> None:
    old, base, new = eight
    report = gather(old=[old], new=[base, new])
    assert cards(gallery(report, Album(NOWHERE))) == [
        [
            ["ant", " taken for ", "bee"],
            ["before", "ant", " 60\u00a0%", "or bee (30\u00a0%), cat (10\u00a0%)"],
            ["base", "bee", " 90\u00a0%", "or cat (7\u00a0%)"],
            ["new", "bee", " 90\u00a0%", "or cat (7\u00a0%)"],
            ["b.png"],
        ],
        [
            ["cat", " taken for ", "ant"],
            ["before", "cat", " 95\u00a0%"],
            ["base", "bee", " 90\u00a0%", "or cat (7\u00a0%)"],
            ["new", "ant", " 70\u00a0%", "or bee (22\u00a0%), cat (7\u00a0%)"],
            ["f.png (noise)"],
        ],
    ]
    assert re.findall(r'share (\w+)" style="--p:([\d.]+)', gallery(report, Album(NOWHERE))) == [
        ("right", "0.600"), ("wrong", "0.900"), ("wrong", "0.900"),
        ("right", "0.950"), ("wrong", "0.900"), ("wrong", "0.700"),
    ]  # fmt: skip
    assert "All 2, the most confident new answers first." in gallery(report, Album(NOWHERE))
    learned = gallery(report, Album(NOWHERE), positive=True)
    assert [card[0] for card in cards(learned)] == [["bee", ", no longer ", "ant"]]
    assert "change learned" in learned
    assert "The only one." in learned


def flipped(count: int) -> tuple[pct.Predictions, pct.Predictions]:
    """An old net that is right, and a new one that is wrong, on all samples."""
    keys, labels = [f"{number:03}" for number in range(count)], np.zeros(count, int)
    right = np.tile([2.0, 0.0, 0.0, 0.0], (count, 1))
    old = pct.Predictions(keys, labels, right, meta={"name": "old"})
    return old, pct.Predictions(keys, labels, right[:, [1, 0, 2, 3]], meta={"name": "new"})


def test_a_long_gallery_ends_and_opens_with_a_part() -> None:
    assert (SHOWN, AT_ONCE) == ({False: 48, True: 24}, 24)
    old, new = flipped(60)
    forgot = gallery(gather(old=[old], new=[new]), Album(NOWHERE))
    assert len(cards(forgot)) == 48
    assert "48 of 60 flips, the most confident" in forgot
    assert choices(forgot) == {"first 24": ".card:nth-child(n+25)", "all 48": ""}
    assert [card[-1] for card in cards(forgot)] == [[f"{number:03}"] for number in range(48)]
    learned = gallery(gather(old=[new], new=[old]), Album(NOWHERE), positive=True)
    assert len(cards(learned)) == 24
    assert "24 of 60 flips" in learned
    assert choices(learned) == {}
    assert "or 1 (10\u00a0%), 2 (10\u00a0%)<" in learned  # three answers, of equals the first
    assert gallery(gather(old=[old], new=[old]), Album(NOWHERE)) == '<p class="quiet">No negative flips.</p>'
    none = gallery(gather(old=[old], new=[old]), Album(NOWHERE), positive=True)
    assert none == '<p class="quiet">No positive flips.</p>'


def choices(markup: str) -> dict[str, str]:
    """The text of each choice, and the cards that it hides."""
    names = re.findall(r'<label for="([\w-]+)">([^<]*)</label>', markup)
    assert [name for name, _ in names] == re.findall(r'<input type="radio" name="\w+" id="([\w-]+)"', markup)
    assert markup.count(" checked>") == (1 if names else 0)
    hidden = dict(re.findall(r"#([\w-]+):checked~\.cards (\S+?){display:none}", markup))
    return {text: hidden.get(name, "") for name, text in names}


def test_cards_are_chosen_by_class(eight: Sequence[pct.Predictions]) -> None:
    drawn = gallery(gather(old=[eight[0]], new=[eight[2]]), Album(NOWHERE))
    assert choices(drawn) == {"all 2": "", "ant 1": ".card:not(.of-0)", "cat 1": ".card:not(.of-2)"}
    assert re.findall(r'<figure class="card (of-\d)"', drawn) == ["of-0", "of-2"]
    assert "<script" not in drawn
    names = [pct.Predictions(p.keys, p.labels, p.logits, meta={"name": p.name, "class_names": ["<b>", "bee", "cat"]})
             for p in (eight[0], eight[2])]  # fmt: skip
    renamed = gallery(gather(old=names[:1], new=names[1:]), Album(NOWHERE))
    assert "&lt;b&gt; 1</label>" in renamed


def test_nets_without_the_sample_are_left_out_of_its_card(eight: Sequence[pct.Predictions]) -> None:
    old, base, new = eight
    rows = np.arange(8) != 1
    with pytest.raises(Exception, match="different samples"):
        gather(old=[old], new=[base.take(rows), new])
    odd = pct.Predictions(["a"], [0], [[1.0, 0.0]], classes=[0, 1], meta={"name": "odd"})
    wrong = pct.Predictions(["a", "b"], [0, 2], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], meta={"name": "new"})
    assert [part[0] for part in cards(gallery(gather(old=[odd], new=[wrong]), Album(NOWHERE)))[0]] == [
        "0", "before", "new", "a"
    ]  # fmt: skip


def save(path: Path, width: int, height: int, *, noise: bool = False) -> int:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (height, width, 3), np.uint8) if noise else np.zeros((height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path.stat().st_size


def test_small_files_are_embedded_as_they_are_and_others_as_thumbnails(tmp_path: Path) -> None:
    assert save(tmp_path / "small.png", 300, 20) <= KEPT_BYTES
    small = data_uri(tmp_path / "small.png")
    assert small is not None
    assert base64.b64decode(small.uri.partition(",")[2]) == (tmp_path / "small.png").read_bytes()
    assert small[1:] == (300, 20)
    assert save(tmp_path / "large.png", 320, 40, noise=True) > KEPT_BYTES
    large = data_uri(tmp_path / "large.png")
    assert large is not None
    assert large[1:] == (LARGEST_SIDE, 20) == (160, 20)
    head, _, content = large.uri.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert (image.format, image.size) == ("JPEG", (160, 20))
    Image.new("L", (10, 10)).save(tmp_path / "small.bmp")  # not a format of every browser
    bitmap = data_uri(tmp_path / "small.bmp")
    assert bitmap is not None
    assert bitmap.uri.startswith("data:image/jpeg")


def test_a_file_of_exactly_the_kept_size_is_kept(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 9, 9)
    data = (tmp_path / "a.png").read_bytes()
    for size, kind in ((KEPT_BYTES, "png"), (KEPT_BYTES + 1, "jpeg")):
        (tmp_path / "a.png").write_bytes(data.ljust(size, b"\0"))
        picture = data_uri(tmp_path / "a.png")
        assert picture is not None
        assert picture.uri.startswith(f"data:image/{kind};")


def test_an_album_counts_what_it_shows_and_what_not(tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path / f"{name}.png", 8, 8)
    length = len(Album(tmp_path).picture("a.png").uri)  # type: ignore[union-attr]
    album = Album(tmp_path, budget=2 * length)
    assert [album.picture(f"{name}.png") is not None for name in ("a", "a", "none", "none", "b", "c", "c")] == [
        True, True, False, False, True, False, False
    ]  # fmt: skip
    assert (album.spent, album.absent, album.left_out) == (2 * length, 1, 1)
    short = Album(tmp_path, budget=2 * length - 1)
    assert [short.picture(f"{name}.png") is not None for name in ("a", "b")] == [True, False]
    assert (short.spent, short.absent, short.left_out) == (length, 0, 1)
    closed = Album(tmp_path, budget=0)
    assert closed.picture("none") is None
    assert (closed.absent, closed.left_out) == (0, 1)


def test_the_note_on_missing_pictures() -> None:
    assert missing_note(Album(NOWHERE)) is None
    assert missing_note(Album(NOWHERE, absent=1)) == '<p class="quiet">1 image was not found under /nowhere.</p>'
    both = missing_note(Album(NOWHERE, absent=2, left_out=1))
    assert both == (
        '<p class="quiet">2 images were not found under /nowhere; 1 image did not fit into the page&#x27;s budget.</p>'
    )


def test_small_pictures_are_shown_by_their_pixels(tmp_path: Path, eight: Sequence[pct.Predictions]) -> None:
    (tmp_path / "pics").mkdir()
    save(tmp_path / "pics" / "b.png", 64, 8)
    save(tmp_path / "pics" / "f.png", 8, 65)
    drawn = gallery(gather(old=[eight[0]], new=[eight[2]]), Album(tmp_path))
    found = re.findall(r'alt="([^"]*)" width="(\d+)" height="(\d+)" loading="lazy" class="([^"]*)"', drawn)
    assert found == [
        ("Sample of class ant: pics/b.png", "64", "8", "picture pixels"),
        ("Sample of class cat: pics/f.png", "8", "65", "picture"),
    ]
