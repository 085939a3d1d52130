"""Axes, trials and their names; figures of heads, and the choice among them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion.errors import TrainingError
from fusion.pct.predictions import Predictions
from fusion.sweep import Entry, Trial, cells, read_axes, results as results_module, train_apart as train_apart_module
from fusion.sweep.auto_pct import AutoPct, parse_auto, pct_text
from fusion.sweep.choose_pct import _reasons
from fusion.sweep.grid import read_value
from fusion.sweep.results import FIGURES, Judge, Result, choose, former_heads, mean_figures, with_choice


def test_a_trial_is_named_after_what_it_varies() -> None:
    every = Trial("focal", (("beta", 5.0), ("temperature", 100), ("distance", "L2")), 0.01, 0.5, 1)
    assert every.name == "focal_b5_T100_distanceL2_w0.01_lr0.5_s1"
    assert Trial("none", (), 3.0, 1e-5, 0).name == "none_lr1e-05_s0"
    assert Trial("kd").name == "kd_w1"
    assert every.setting == Trial("focal", every.options, 0.01, 0.5)
    assert every.structure == ("focal", every.options, 0.5)


def test_values_are_numbers_where_they_can_be() -> None:
    found = [read_value(text) for text in ("3", "0.5", "1e-3", "kd", "-2")]
    assert found == [3, 0.5, 0.001, "kd", -2]
    assert [type(value) for value in found] == [int, float, float, str, int]


def test_axes_are_read_from_words_and_files(tmp_path: Path) -> None:
    path = tmp_path / "axes.json"
    path.write_text('{"loss": "kd", "weight": [1, 2.5]}')
    assert read_axes([str(path), " seed =1, 2,"]) == {"loss": ["kd"], "weight": [1, 2.5], "seed": [1, 2]}
    for text, message in (
        ('{"weight": [true]}', "axis 'weight' holds more than numbers and words"),
        ('{"weight": [[1]]}', "axis 'weight' holds more than numbers and words"),
        ("[1]", r"not a table of lists but \[1\]"),
        ('{"sweep": 3}', "not a table of lists but 3"),
    ):
        path.write_text(text)
        with pytest.raises(TrainingError, match=message):
            read_axes([str(path)])
    path.write_text('{"seed": [1]}')
    with pytest.raises(TrainingError, match="the axis seed is given twice"):
        read_axes([str(path), "seed=2"])


def test_options_count_for_the_losses_that_take_them() -> None:
    axes = {"loss": ["none", "kd", "ldi"], "temperature": [2, 5], "margin": [0.1], "filter": ["old_correct"]}
    found = [(trial.loss, dict(trial.options)) for trial in cells(axes)]
    assert found == [
        ("none", {}),
        ("kd", {"temperature": 2, "filter": "OLD_CORRECT"}),
        ("kd", {"temperature": 5, "filter": "OLD_CORRECT"}),
        ("ldi", {"margin": 0.1, "filter": "OLD_CORRECT"}),
    ]
    with pytest.raises(TrainingError, match="no loss of the sweep takes margin"):
        cells({"loss": ["none", "kd"], "margin": [0.1]})


def test_every_combination_is_tried_once() -> None:
    axes = {"loss": ["kd", "none"], "weight": [1, 2], "lr": [0.5], "seed": [0, 3]}
    assert [(t.loss, t.weight, t.lr, t.seed) for t in cells(axes)] == [
        ("kd", 1.0, 0.5, 0), ("kd", 1.0, 0.5, 3), ("kd", 2.0, 0.5, 0), ("kd", 2.0, 0.5, 3), ("none", 1.0, 0.5, 0),
        ("none", 1.0, 0.5, 3),
    ]  # fmt: skip
    assert cells({"seed": [1]}) == [Trial("none", (), 1.0, None, 1)]


@pytest.mark.parametrize(
    ("axis", "value", "allowed"),
    [("weight", 0, True), ("weight", -0.1, False), ("weight", float("inf"), False), ("weight", True, False),
     ("lr", 1e-9, True), ("lr", 0, False), ("lr", "x", False), ("seed", 0, True), ("seed", 2.0, True),
     ("seed", 0.5, False), ("seed", -1, False)],
)  # fmt: skip
def test_values_at_the_ends_of_their_ranges(axis: str, value: Any, allowed: bool) -> None:
    axes = {"loss": ["kd"], axis: [value]}
    if allowed:
        assert len(cells(axes)) == 1
        return
    with pytest.raises(TrainingError, match=f"axis {axis}: {value!r} is not"):
        cells(axes)


def test_every_mistake_of_the_axes_is_named() -> None:
    with pytest.raises(TrainingError) as caught:
        cells({"loss": ["cna", "bct"], "weight": [-1], "seed": [0.5]})
    assert len(caught.value.errors) == 4
    with pytest.raises(TrainingError, match="a sweep over nothing: lr"):
        cells({"loss": ["kd"], "lr": []})


def entry(weight: float, accuracy: float | None, flips: float | None, seed: int = 1, loss: str = "kd") -> Entry:
    figures = {"accuracy": accuracy, "negative_flip_rate": flips, "relative_nfr": None, "positive_flip_rate": 0.25}
    return Entry(Trial(loss, (), weight, None, seed), 0.5, figures, {"accuracy": accuracy})


def test_settings_are_compared_by_their_means_over_seeds() -> None:
    entries = [entry(1, 0.9, 0.1), entry(1, 0.8, 0.3, seed=2), entry(2, 0.7, None), entry(3, None, None),
               entry(3, 0.99, 0.0, seed=2)]  # fmt: skip
    found = mean_figures(entries)
    assert {setting.weight: means for setting, means in found.items()} == {
        1.0: (pytest.approx(0.85), pytest.approx(0.2)), 2.0: (0.7, 0.0)
    }  # fmt: skip
    assert choose(entries, 0.15).weight == 2
    assert choose(entries, 0.14).weight == 1
    assert choose([entry(1, 0.9, 0.1), entry(2, 0.95, 0.1)], 0.5).weight == 2, "of equal flips the more accurate"
    result = with_choice(entries, 0.0)
    assert [one.chosen for one in result.entries] == [True, True, False, False, False]
    assert result.best == entries[0].cell
    assert [one.diverged for one in entries] == [False, False, False, True, False]
    with pytest.raises(TrainingError, match="every setting of the sweep has diverged"):
        choose([entry(1, None, None)], 1.0)


def test_a_result_has_a_line_per_head(tmp_path: Path) -> None:
    entries = (entry(1, 0.9, 0.1), entry(2, None, None))
    (tmp_path / "new").mkdir()
    result = with_choice(entries, 0.0)
    result.write(tmp_path)
    text = (tmp_path / "table.json").read_text()
    assert json.loads(text) == {"best": "kd_w1_s1", "heads": result.table()}
    assert text.startswith('{\n "best": "kd_w1_s1",\n')
    (row, other) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert (row["name"], row["loss"], row["weight"], row["lr"], row["seed"]) == ("kd_w1_s1", "kd", "1", "", "1")
    assert (row["training_loss"], row["select_accuracy"], row["accuracy"], row["chosen"]) == (
        "0.5",
        "0.9",
        "0.9",
        "True",
    )
    assert (other["select_accuracy"], other["chosen"]) == ("", "False")
    assert (tmp_path / "trade_off.png").exists()
    assert former_heads(tmp_path) == {"kd_w1_s1", "kd_w2_s1"}
    for name in ("kd_w1_s1", "kd_w2_s1", "mine"):
        (tmp_path / "new" / f"{name}.npz").touch()
    Result(entries[:1], entries[0].cell).write(tmp_path)
    left = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert left == ["kd_w1_s1.npz", "mine.npz"]
    endless = Entry(Trial("kd"), float("nan"), dict.fromkeys(FIGURES))
    assert Result((endless,), endless.cell).table()[0]["training_loss"] is None


def test_the_trade_off_is_of_negative_flips_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_module, "pareto", list)
    points: Any = with_choice([entry(1, 0.75, 0.125), entry(2, 0.5, 0.0), entry(2, 0.5, 0.25, seed=2)], 0.1).trade_off()
    assert [(point.name, point[1].value, point[2].value, point[3]) for point in points] == [
        ("kd_w2", 0.5, 0.125, "c-old"), ("kd_w1", 0.25, 0.125, "c-new"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "[]", '{"heads": 3}', '{"heads": [{"x": 1}]}', '{"heads": [{"name": "../x"}]}'])
def test_tables_of_others_name_no_heads(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    assert former_heads(tmp_path) == set()
    assert former_heads(tmp_path / "nowhere") == set()


def test_heads_are_judged_on_what_each_side_knows() -> None:
    keys, labels = list("abcd"), [0, 1, 2, 0]
    records = Predictions(keys, labels, np.zeros((4, 3)))
    old = Predictions(["b", "a", "d"], [1, 0, 0], np.eye(2)[[1, 0, 1]])
    judge = Judge(records, [old])
    answers = np.eye(3, dtype=np.float32)[[1, 1, 2, 0]]  # a is forgotten, b stays, c is not known before, d is learnt
    found = judge.figures(answers)
    assert (found["accuracy"], found["negative_flip_rate"], found["positive_flip_rate"]) == (0.75, 1 / 3, 1 / 3)
    answers[2, 0] = np.inf
    assert set(judge.figures(answers).values()) == {None}
    alone = Judge(records, []).figures(np.eye(3, dtype=np.float32)[[0, 1, 2, 1]])
    assert (alone["accuracy"], alone["negative_flip_rate"]) == (0.75, None)


@pytest.mark.parametrize(
    ("text", "weights"),
    [("0.5", (0.5,)), ("0.1:10:3", (0.1, 1.0, 10.0)), ("10:0.1:2", (10.0, 0.1)), ("1:2:3", (1.0, 1.41, 2.0))],
)
def test_ranges_of_weights_are_in_equal_ratios(text: str, weights: tuple[float, ...]) -> None:
    assert parse_auto([f"auto,weight={text}"]) == AutoPct(weights=weights)


@pytest.mark.parametrize("text", ["0", "-1", "inf", "1:2", "1:2:1", "0:2:3", "1:2:3:4", "x", "1:2:x", "1:2:2.5"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(TrainingError, match=f"'{text}' is neither a weight"):
        parse_auto([f"auto,weight={text}"])


def test_the_loss_is_chosen_or_given() -> None:
    assert parse_auto(["kd,weight=1"]) is None
    assert parse_auto([]) is None
    found = parse_auto(["auto,kind=kd+ldi+kd,temperature=2"])
    assert found == AutoPct(("kd", "ldi"), (), (("temperature", 2),))
    assert found.axes(["focal"], [1, 2]) == {"loss": ["none", "kd", "ldi"], "weight": [1, 2], "temperature": [2]}
    assert AutoPct((), (3.0,)).axes(["focal"], [1]) == {"loss": ["none", "focal"], "weight": [3.0]}
    with pytest.raises(TrainingError, match="chooses the only loss, and others are given"):
        parse_auto(["auto", "kd"])
    for text, message in (("auto,kind", "'kind' has no value"), ("auto,kind=", "has no value"),
                          ("auto,weights=1", "unknown option 'weights'")):  # fmt: skip
        with pytest.raises(TrainingError, match=message):
            parse_auto([text])
    assert pct_text(Trial("none")) == ""
    assert pct_text(Trial("kd", (("temperature", 2),), 0.5)) == "kd,weight=0.5,temperature=2"


def test_a_choice_is_explained() -> None:
    entries = [entry(1, 0.9, 0.1, loss="none"), entry(1, 0.95, 0.08), entry(2, 0.948, 0.05)]
    lines = list(_reasons(with_choice(entries, 0.003), 0.003, Path("out")))
    assert lines == [
        "--pct auto chose kd,weight=2: 5.00% negative flips, 94.80% accuracy",
        "  of 3 candidates the fewest flips with at most 0.30% less accuracy than kd,weight=1: 8.00% negative flips, "
        "95.00% accuracy",
        "  no loss: 10.00% negative flips, 90.00% accuracy",
        "  its weight is the largest of those tried; weight=LOW:HIGH:NUMBER tries others",
        "  all candidates: out/table.csv and trade_off.png",
    ]
    assert any("smallest" in line for line in _reasons(with_choice(entries, 0.0), 0.0, Path("out")))
    three = [*entries, entry(3, 0.5, 0.5)]
    assert not any("its weight" in line for line in _reasons(with_choice(three, 0.003), 0.003, Path("out")))
    alone = [entry(1, 0.99, 0.0, loss="none"), entry(1, 0.95, 0.08)]
    lines = list(_reasons(with_choice(alone, 0.0), 0.0, Path("out")))
    assert len(lines) == 3
    assert "chose no loss: 0.00% negative flips" in lines[0]


def test_candidates_are_told_with_what_is_known_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([(0.9, 0.25), (0.8, None), (None, None)])
    monkeypatch.setattr(train_apart_module, "_solver", lambda *given: given[2])
    monkeypatch.setattr(train_apart_module, "_judge", lambda *given: None)
    monkeypatch.setattr(
        train_apart_module,
        "_train",
        lambda *given: (0.5, dict(zip(FIGURES, [*next(figures), None, None], strict=True))),
    )
    said: list[str] = []
    trials = [Trial("kd", (), weight) for weight in (1.0, 2.0, 3.0)]
    train_apart_module.train_apart("s", None, trials, 0.1, {"references": ["a.npz"]}, said.append)
    assert said == [
        "1 of 3, kd_w1: accuracy 90.00%, NFR 25.00%",
        "2 of 3, kd_w2: accuracy 80.00%, NFR unknown",
        "3 of 3, kd_w3: diverged",
    ]
