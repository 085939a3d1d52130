"""The losses towards references: which options each has, what they are written as, and whose classes they compare."""

from __future__ import annotations

import re

import pytest

from fusion import ComposeError
from fusion.composition.references import (
    Pct,
    ReferenceScores,
    check_pct,
    format_classes,
    loss_layers,
    parse_pct_loss,
    pct_options,
    resolve_classes,
)

DIFFERENCE = "margin p topk topk_by_reference exclude_gt one_sided relative p_norm"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("kd", "filter alpha beta temperature"),
        ("focal", "filter alpha beta distance temperature"),
        ("focal,distance=KL", "filter alpha beta distance temperature"),
        ("focal,distance=L2", "filter alpha beta distance"),
        ("focal,distance=LI", f"filter alpha beta distance {DIFFERENCE}"),
        ("lm", "filter alpha beta"),
        ("ldi", f"filter alpha beta {DIFFERENCE}"),
        ("elodi", f"filter alpha beta {DIFFERENCE}"),
        ("naive", ""),
    ],
)
def test_the_options_of_each_loss(text: str, options: str) -> None:
    loss = parse_pct_loss(text)
    assert pct_options(loss) == tuple(options.split())
    switches = dict.fromkeys(("topk_by_reference", "exclude_gt", "one_sided", "relative", "p_norm"), "true")
    values = {"filter": "NEG_FLIP", "distance": loss.options.get("distance", "KL"), **switches}
    for name in f"filter alpha beta distance temperature {DIFFERENCE}".split():
        found = check_pct([Pct(loss.kind, 1.0, {**loss.options, name: values.get(name, 2)})])
        assert (found == []) is (name in options.split()), name


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("cna", "loss 'cna' compares features", "(kd, focal, lm, ldi, elodi, naive)"),
        ("bct", "loss 'bct' compares features", "thawed layers"),
        ("fokal", "there is no loss 'fokal'", "did you mean 'focal'?"),
        ("kd,distance=KL", "loss 'kd' has no option 'distance'", "one of weight, filter, alpha, beta, temperature"),
        ("kd,filter=NONE", "loss 'kd': filter cannot be 'NONE'", "one of ALL_PASS, OLD_CORRECT"),
        ("ldi,relative=1", "loss 'ldi': relative cannot be '1'", "one of true, false"),
        ("kd,alpha=x", "loss 'kd': alpha is a number, not 'x'", ""),
        ("kd,alpha=-1", "loss 'kd': alpha is a number, not '-1'", ""),
    ],
)
def test_losses_that_cannot_be(text: str, says: str, hint: str) -> None:
    (error,) = check_pct([parse_pct_loss(text), Pct("naive")])
    assert (says in error.message, hint in (error.hint or "")) == (True, True)


def test_losses_as_text() -> None:
    assert parse_pct_loss("focal , weight = 0.5,temperature=1") == Pct("focal", 0.5, {"temperature": "1"})
    assert parse_pct_loss("kd") == Pct("kd")
    for text, says in (("kd,weight", "'weight' has no value"), ("kd,weight=x", "the weight 'x' is not a number")):
        with pytest.raises(ComposeError, match=f"pct '{text}': {says}"):
            parse_pct_loss(text)


ODD, EVEN = ReferenceScores("odd", "odd/ip", [1, 3]), ReferenceScores("even", "even/ip", [0, 1, 2, 3])


def test_a_loss_per_reference_and_one_of_their_mean() -> None:
    text = loss_layers([parse_pct_loss("kd,weight=0.5"), Pct("naive")], [ODD, EVEN], "ip", "label", 4)
    assert re.findall(r'name: "(\w+)"', text) == ["kd_odd", "kd_even", "naive_odd", "naive_even"]
    assert re.findall(r'bottom: "([\w/]+)"', text) == [
        *("ip", "odd/ip", "label", "ip", "even/ip", "label"),
        *("ip", "odd/ip", "label", "ip", "even/ip", "label"),
    ]
    assert text.count("classes: 1 classes: 3") == 2
    assert text.count("classes:") == 4, "all classes in their order need not be named"
    assert text.count("loss_weight: 0.5") == 2
    assert text.count("include { phase: TRAIN }") == 4
    assert text.count("pct_param {") == 3, "naive_even has nothing to say"
    mean = loss_layers([Pct("elodi")], [EVEN, ReferenceScores("b", "b/ip", [0, 1, 2, 3])], "ip", "label", 4)
    assert re.findall(r'name: "(\w+)"', mean) == ["elodi_mean"]
    assert re.findall(r'bottom: "([\w/]+)"', mean) == ["ip", "even/ip", "b/ip", "label"]
    with pytest.raises(ComposeError, match="must know the same classes"):
        loss_layers([Pct("elodi")], [ODD, EVEN], "ip", "label", 4)


def test_the_temperature_is_of_kl_alone() -> None:
    for text, written in (
        ("focal", True), ("focal,distance=L2", False), ("focal,distance=LI,temperature=3", True), ("lm", False),
    ):  # fmt: skip
        assert ("temperature" in loss_layers([parse_pct_loss(text)], [EVEN], "ip", "label", 4)) is written, text


@pytest.mark.parametrize(
    ("given", "width", "says"),
    [
        ((), 4, ""),
        ((), None, ""),
        ((), 2, "source 'p' scores 2 classes in 'p/ip', the fused net 4"),
        ((3, 1), 2, ""),
        ((3, 1), None, ""),
        ((0, 3), 2, ""),
        ((3, 1), 3, "is given 2 classes, but scores 3"),
        ((3, 3), 2, "a class is given twice: 3,3"),
        ((0, 4), 2, "class 4 is not among the fused net's 0 to 3"),
        ((-1, 0), 2, "class -1 is not among"),
    ],
)
def test_the_classes_of_a_source(given: tuple[int, ...], width: int | None, says: str) -> None:
    found, errors = resolve_classes("p", "p/ip", given, width, 4)
    assert len(errors) == bool(says)
    assert not says or says in errors[0].message
    assert (found is None) is (not given and width == 2)
    if found is not None:
        assert found == ReferenceScores("p", "p/ip", given or (0, 1, 2, 3))


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ((0,), "0"),
        ((0, 1), "0,1"),
        ((0, 1, 2), "0-2"),
        ((3, 4, 5, 6), "3-6"),
        ((1, 3, 5), "1,3,5"),
        ((2, 1, 0), "2,1,0"),
    ],
)
def test_runs_of_classes_are_shortened(classes: tuple[int, ...], text: str) -> None:
    assert format_classes(classes) == text
