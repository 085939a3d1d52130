"""A gallery of the samples whose answer changed, with their images and each net's answer."""

from __future__ import annotations

from collections import Counter
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
    """Return the featured net's negative (or positive) flips as cards, the most confident new answers first.

    Several classes, or more cards than one looks at, get buttons that choose among them, without a script.
    """
    pair = report.featured.whole.pair
    found = pct.flips(old=pair.old, new=pair.new, positive=positive)
    shown = found[: SHOWN[positive]]
    caption = _caption(len(found), len(shown), positive)
    if not shown:
        return caption
    answers = Answers(report)
    cards = elem("div", *(_card(flip, answers, album, positive) for flip in shown), class_="cards")
    choices = _choices(shown, report.class_name)
    if len(choices) < 2:
        return concat(caption, cards)
    kind = "learned" if positive else "forgot"
    ids = [f"{kind}-{number}" for number in range(len(choices))]
    radios = [elem("input", type="radio", name=kind, id=name, class_="choice", checked=name == ids[0]) for name in ids]
    labels = [elem("label", text, for_=name) for name, (text, _) in zip(ids, choices, strict=True)]
    rules = [_rule(name, hidden) for name, (_, hidden) in zip(ids, choices, strict=True)]
    buttons = elem("div", *labels, class_="choices")
    style = elem("style", Markup("".join(rules)))
    return concat(caption, elem("div", style, *radios, buttons, cards, role="group", aria_label="flips by class"))


def _choices(shown: Sequence[pct.Flip], class_name: Callable[[int], str]) -> list[tuple[str, str]]:
    """Return each choice's text and the CSS selector of the cards that it hides: first ones, all, or one true class."""
    classes = Counter(flip.label for flip in shown).most_common()
    found = [(f"first {AT_ONCE}", f".card:nth-child(n+{AT_ONCE + 1})")] if len(shown) > AT_ONCE else []
    found.append((f"all {len(shown)}", ""))
    if len(classes) > 1:
        found += [(f"{class_name(label)} {count}", f".card:not(.of-{label})") for label, count in classes]
    return found


def _rule(name: str, hidden: str) -> str:
    """Return the CSS of a choice: what it hides, and how its button looks while it is chosen or in focus."""
    hide = f"#{name}:checked~.cards {hidden}{{display:none}}" if hidden else ""
    button = f'.choices [for="{name}"]'
    return (
        f"{hide}#{name}:checked~{button}{{background:var(--ink);color:var(--paper)}}"
        f"#{name}:focus-visible~{button}{{outline:2px solid var(--link);outline-offset:2px}}"
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
    return elem("figure", _image(flip, album, class_name), caption, class_=f"card of-{flip.label}")


def _answer(name: str, best: Sequence[tuple[int, float]], label: int, class_name: Callable[[int], str]) -> Markup:
    (first, share), rest = best[0], best[1:]
    others = ", ".join(f"{class_name(c)} ({percent(p, 0)})" for c, p in rest if p >= LEAST_SHARE)
    verdict = "right" if first == label else "wrong"
    answer = elem("dd", elem("b", class_name(first)), f" {percent(share, 0)}")
    bar = elem("dd", class_=f"share {verdict}", style=f"--p:{share:.3f}")
    return elem(
        "div", elem("dt", name, title=name), answer, bar, elem("dd", f"or {others}", class_="or") if others else None
    )


def _image(flip: pct.Flip, album: Album, class_name: Callable[[int], str]) -> Markup:
    picture = album.picture(flip.key)
    if picture is None:
        return elem("div", "no image", class_="picture absent", role="img", aria_label=f"no image of {flip.key}")
    small = "picture pixels" if max(picture.width, picture.height) <= 64 else "picture"
    alt = f"Sample of class {class_name(flip.label)}: {flip.key}"
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
