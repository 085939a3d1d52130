"""A gallery of the samples whose answer changed, with their images and each net's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fusion import pct
from fusion.pct.predictions import sample_ids
from fusion.report.format_numbers import commas, percent, plural
from fusion.report.html import Markup, concat, elem
from fusion.report.images import Album
from fusion.report.report_data import FlipReport

SHOWN = {False: 48, True: 24}
AT_ONCE = 24
ANSWERS = 3
LEAST_SHARE = 0.05  # of a further answer that is shown


class Answers:
    """Every net's most probable classes for a sample."""

    def __init__(self, report: FlipReport) -> None:
        nets = [(report.old, "old"), *((c.net, "new") for c in report.shown)]
        self.rows = [{sample: row for row, sample in enumerate(sample_ids(net))} for net, _ in nets]
        self.nets = [net for net, _ in nets]
        self.class_name = report.class_name
        self.names = ["before", *(candidate.name for candidate in report.shown)]

    def of(self, key: str, variant: str) -> list[tuple[str, list[tuple[int, float]]]]:
        """Return per net its name and (class, probability), the highest first; without nets that lack the sample."""
        found = []
        for name, net, rows in zip(self.names, self.nets, self.rows, strict=True):
            row = rows.get((key, variant))
            if row is not None:
                best = np.argsort(-net.probabilities[row], kind="stable")[:ANSWERS]
                shares = net.probabilities[row][best].tolist()
                found.append((name, list(zip(net.classes[best].tolist(), shares, strict=True))))
        return found


def gallery(report: FlipReport, album: Album, *, positive: bool = False) -> Markup:
    """Return the featured net's negative (or positive) flips as cards, the most confident new answers first."""
    pair = report.featured.whole.pair
    found = pct.flips(old=pair.old, new=pair.new, positive=positive)
    shown = found[: SHOWN[positive]]
    answers = Answers(report)
    cards = [_card(flip, answers, album, positive) for flip in shown]
    first, rest = cards[:AT_ONCE], cards[AT_ONCE:]
    more = (
        elem("details", elem("summary", f"{commas(len(rest))} more"), elem("div", *rest, class_="cards"))
        if rest
        else None
    )
    return concat(
        _caption(len(found), len(shown), positive), elem("div", *first, class_="cards") if first else None, more
    )


def _caption(count: int, shown: int, positive: bool) -> Markup:
    kind = "positive" if positive else "negative"
    if not count:
        return elem("p", f"No {kind} flips.", class_="quiet")
    order = "the most confident new answers first"
    text = (
        f"All {commas(count)}, {order}." if shown == count else f"{commas(shown)} of {plural(count, 'flip')}, {order}."
    )
    return elem("p", text if count > 1 else "The only one.", class_="quiet")


def _card(flip: pct.Flip, answers: Answers, album: Album, positive: bool) -> Markup:
    class_name = answers.class_name
    rows = [_answer(name, best, flip.label, class_name) for name, best in answers.of(flip.key, flip.variant)]
    link, other = (", no longer ", flip.old_answer) if positive else (" taken for ", flip.new_answer)
    kind = "change learned" if positive else "change"
    line = elem("p", elem("b", class_name(flip.label)), link, elem("b", class_name(other)), class_=kind)
    variant = f" ({flip.variant})" if flip.variant else ""
    name = elem("p", flip.key.rsplit("/", 1)[-1], variant, class_="key", title=flip.key)
    caption = elem("figcaption", line, elem("dl", *rows), name)
    return elem("figure", _image(flip, album), caption, class_="card")


def _answer(name: str, best: Sequence[tuple[int, float]], label: int, class_name: Callable[[int], str]) -> Markup:
    (first, share), rest = best[0], best[1:]
    others = ", ".join(f"{class_name(c)} ({percent(p, 0)})" for c, p in rest if p >= LEAST_SHARE)
    verdict = "right" if first == label else "wrong"
    answer = elem("dd", elem("b", class_name(first)), f" {percent(share, 0)}")
    bar = elem("dd", class_=f"share {verdict}", style=f"--p:{share:.3f}")
    return elem(
        "div", elem("dt", name, title=name), answer, bar, elem("dd", f"or {others}", class_="or") if others else None
    )


def _image(flip: pct.Flip, album: Album) -> Markup:
    picture = album.picture(flip.key)
    if picture is None:
        return elem("div", "no image", class_="picture absent", role="img", aria_label=f"no image of {flip.key}")
    small = "picture pixels" if max(picture.width, picture.height) <= 64 else "picture"
    alt = f"Sample of class {flip.label}: {flip.key}"
    return elem(
        "img", src=picture.uri, alt=alt, width=picture.width, height=picture.height, loading="lazy", class_=small
    )


def missing_note(album: Album) -> Markup | None:
    """Return a note on images that were not found or did not fit, None if there are none."""
    parts = []
    if album.absent:
        parts.append(f"{plural(album.absent, 'image was', 'images were')} not found under {album.root}")
    if album.left_out:
        parts.append(f"{plural(album.left_out, 'image')} did not fit into the page's budget")
    return elem("p", "; ".join(parts) + ".", class_="quiet") if parts else None
