"""The samples whose answer changed, with their pictures and what each net said."""

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
WORTH_SAYING = 0.05


class Answers:
    """What every net says of a sample: its most probable classes."""

    def __init__(self, report: FlipReport) -> None:
        nets = [(report.old, "old"), *((c.net, "new") for c in report.shown)]
        self.rows = [{sample: row for row, sample in enumerate(sample_ids(net))} for net, _ in nets]
        self.nets = [net for net, _ in nets]
        self.named = report.class_name
        self.names = ["before", *(candidate.name for candidate in report.shown)]

    def of(self, key: str, variant: str) -> list[tuple[str, list[tuple[int, float]]]]:
        """Net's name, and its (class, probability) with the highest first; a net without the sample is left out."""
        found = []
        for name, net, rows in zip(self.names, self.nets, self.rows, strict=True):
            row = rows.get((key, variant))
            if row is not None:
                best = np.argsort(-net.probabilities[row], kind="stable")[:ANSWERS]
                shares = net.probabilities[row][best].tolist()
                found.append((name, list(zip(net.classes[best].tolist(), shares, strict=True))))
        return found


def gallery(report: FlipReport, album: Album, *, positive: bool = False) -> Markup:
    """The featured net's negative (or positive) flips as cards, the most confident new answers first."""
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
    said = (
        f"All {commas(count)}, {order}." if shown == count else f"{commas(shown)} of {plural(count, 'flip')}, {order}."
    )
    return elem("p", said if count > 1 else "The only one.", class_="quiet")


def _card(flip: pct.Flip, answers: Answers, album: Album, positive: bool) -> Markup:
    named = answers.named
    said = [_said(name, best, flip.label, named) for name, best in answers.of(flip.key, flip.variant)]
    if positive:
        change = elem(
            "p", elem("b", named(flip.label)), ", no longer ", elem("b", named(flip.old_answer)), class_="change learnt"
        )
    else:
        change = elem(
            "p", elem("b", named(flip.label)), " taken for ", elem("b", named(flip.new_answer)), class_="change"
        )
    variant = f" ({flip.variant})" if flip.variant else ""
    name = elem("p", flip.key.rsplit("/", 1)[-1], variant, class_="key", title=flip.key)
    caption = elem("figcaption", change, elem("dl", *said), name)
    return elem("figure", _image(flip, album), caption, class_="card")


def _said(name: str, best: Sequence[tuple[int, float]], label: int, named: Callable[[int], str]) -> Markup:
    (first, share), rest = best[0], best[1:]
    others = ", ".join(f"{named(c)} ({percent(p, 0)})" for c, p in rest if p >= WORTH_SAYING)
    verdict = "right" if first == label else "wrong"
    answer = elem("dd", elem("b", named(first)), f" {percent(share, 0)}")
    bar = elem("dd", class_=f"share {verdict}", style=f"--p:{share:.3f}")
    return elem(
        "div", elem("dt", name, title=name), answer, bar, elem("dd", f"or {others}", class_="or") if others else None
    )


def _image(flip: pct.Flip, album: Album) -> Markup:
    picture = album.picture(flip.key)
    if picture is None:
        return elem("div", "no picture", class_="picture absent", role="img", aria_label=f"no picture of {flip.key}")
    small = "picture pixels" if max(picture.width, picture.height) <= 64 else "picture"
    alt = f"Sample of class {flip.label}: {flip.key}"
    return elem(
        "img", src=picture.uri, alt=alt, width=picture.width, height=picture.height, loading="lazy", class_=small
    )


def missing_note(album: Album) -> Markup | None:
    """Which pictures are not there, and why."""
    parts = []
    if album.absent:
        parts.append(f"{plural(album.absent, 'picture was', 'pictures were')} not found under {album.root}")
    if album.left_out:
        parts.append(f"{plural(album.left_out, 'picture')} did not fit into the page's budget")
    return elem("p", "; ".join(parts) + ".", class_="quiet") if parts else None
