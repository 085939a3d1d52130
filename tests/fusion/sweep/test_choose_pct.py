"""`--pct auto` trains with the loss that records kept back from training choose, and a resumed run keeps the choice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe_fusion_tools.train import main
from PIL import Image

from fusion import save_weights
from fusion.errors import ComposeError, FusionError, TrainingError
from fusion.solver import Solver, TrainOptions
from fusion.solver.holdout import validation_records
from fusion.solver.logging.console import Display, Silent
from fusion.sweep import SweepOptions, Trial, choose_pct, sweep
from fusion.sweep.auto_pct import AutoPct, parse_auto, pct_text
from prototxt import read_weights

SPEC = "old.prototxt:old.caffemodel"
QUIET: dict[str, Any] = {"references": [SPEC], "device": "cpu", "display": Silent(), "select_on": 0.3}


class Recorded(Display):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def solver(project: Callable[..., Path], write_old: Callable[..., None]) -> Path:
    path: Path = project(test_iter=4)
    write_old()
    return path


def figures(folder: str = "small_pct") -> dict[str, tuple[float, float]]:
    """Accuracy and negative flip rate of each candidate."""
    table = json.loads(Path(folder, "table.json").read_text())
    return {row["name"]: (row["select_accuracy"], row["select_negative_flip_rate"]) for row in table["heads"]}


def test_the_candidates_are_read() -> None:
    assert parse_auto(["kd,weight=1", "naive"]) is None
    assert parse_auto(["auto"]) == AutoPct()
    found = parse_auto(["auto,kind=kd+ldi,weight=0.1:10:5,temperature=2"])
    assert found is not None
    assert found.axes(("focal",), (1.0,)) == {
        "loss": ["none", "kd", "ldi"], "weight": [0.1, 0.316, 1.0, 3.16, 10.0], "temperature": [2],
    }  # fmt: skip
    assert parse_auto(["auto,weight=3"]) == AutoPct(weights=(3.0,))
    assert pct_text(Trial("kd", (("temperature", 2),), 0.316)) == "kd,weight=0.316,temperature=2"
    assert not pct_text(Trial("none"))
    for wrong, message in (
        (["auto", "naive"], "chooses the only loss"),
        (["auto,kinds=kd"], "unknown option 'kinds'"),
        (["auto,of=old"], "unknown option 'of'"),
        (["auto,kd"], "'kd' has no value"),
        (["auto,weight=0:1:3"], "weight above 0"),
        (["auto,weight=1:10"], "neither a weight"),
        (["auto,weight=1:10:1"], "neither a weight"),
        (["auto,weight=much"], "neither a weight"),
    ):
        with pytest.raises(TrainingError, match=message):
            parse_auto(wrong)


def test_the_choice_is_that_of_a_sweep_and_trains_on_all_records(solver: Path) -> None:
    made = Solver(solver, device="cpu", display=Silent())
    save_weights(made.net, "init.caffemodel")
    shown = Recorded()
    given = {**QUIET, "display": shown, "pct": ["auto,kind=kd+ldi,weight=0.1:10:3"], "kd_alpha": None}
    found = choose_pct(solver, "init.caffemodel", **given)
    axes = {"loss": ["none", "kd", "ldi"], "weight": [0.1, 1.0, 10.0]}
    wanted = sweep(solver, axes, SweepOptions(references=[SPEC], weights="init.caffemodel", device="cpu",
                   display=Silent(), select_on=0.3))  # fmt: skip
    assert found["pct"] == [pct_text(wanted.best)]
    assert {name: found[name] for name in ("references", "device", "display")} == {
        "references": [SPEC], "device": "cpu", "display": shown,
    }  # fmt: skip
    assert figures() == {
        entry.cell.name: (entry.chosen_on["accuracy"], entry.chosen_on["negative_flip_rate"])
        for entry in wanted.entries
    }
    accuracy, flips = figures()[wanted.best.name]
    assert any(
        f"auto chose {found['pct'][0]}: {flips:.2%} negative flips, {accuracy:.2%} acc" in x for x in shown.lines
    )
    assert json.loads(Path("small_pct/choice.json").read_text())["pct"] == found["pct"][0]
    assert "accuracy" not in json.loads(Path("small_pct/table.json").read_text())["heads"][0], "no test image took part"
    with Image.open("small_pct/trade_off.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0x6D, 0x28, 0xD9), (0x8A, 0x81, 0x78)} <= colours, "the chosen one and others"


def test_the_command_chooses_once(solver: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--solver", str(solver), "--reference", SPEC, "--select-on", "0.3", "--device", "cpu"]
    auto = ["--pct", "auto,kind=ldi,weight=0.1:1:2"]
    assert main([*words, *auto]) == 0
    chosen = json.loads(Path("small_pct/choice.json").read_text())["pct"]
    assert f"--pct auto chose {chosen or 'no loss'}" in capsys.readouterr().err
    result = read_weights("small_iter_20.caffemodel")["ip"][0]
    other = "ldi,weight=0.7"
    text = Path("small_pct/choice.json").read_text().replace(f'"pct": "{chosen}"', f'"pct": "{other}"')
    Path("small_pct/choice.json").write_text(text)
    Path("small_iter_20.solverstate").unlink()
    assert main([*words, *auto, "--resume"]) == 0
    assert f"--pct {other}, as small_pct/choice.json says" in capsys.readouterr().err
    assert not np.array_equal(read_weights("small_iter_20.caffemodel")["ip"][0], result)
    assert main([*words, "--pct", "auto,kind=ldi,weight=0.1:10:2", "--resume"]) == 1
    error = capsys.readouterr().err
    assert "weights was [0.1, 1.0] and is now [0.1, 10.0]" in error
    assert "give its choice (--pct ldi,weight=0.7)" in error
    Path("small_pct/choice.json").unlink()
    assert main([*words, *auto, "--resume"]) == 1
    assert "the snapshot was not trained with a loss that --pct auto chose" in capsys.readouterr().err
    assert main([*words, *auto]) == 0
    assert json.loads(Path("small_pct/choice.json").read_text())["pct"] == chosen, "a new start chooses again"


def test_no_loss_is_a_choice(solver: Path) -> None:
    """Where every loss costs too much accuracy, none is taken, and no reference is run for nothing."""
    found = choose_pct(solver, **QUIET, pct=["auto,kind=kd,weight=1000"], slack=0.0)
    assert figures()["none"][0] > figures()["kd_w1000"][0]
    assert (found["pct"], found["references"]) == ((), ())
    assert choose_pct(solver, **QUIET, pct=["auto,kind=kd,weight=1000"], slack=0.0, resume=True)["pct"] == ()


@pytest.mark.parametrize("averaged", [False, True])
def test_nets_that_cannot_be_swept_are_trained_one_after_the_other(
    solver: Path, project: Callable[..., Path], averaged: bool
) -> None:
    project(frozen=False)
    shown = Recorded()
    extras = TrainOptions(ema=0.9 if averaged else 0.0, best_on=0.1, save_init="first.caffemodel")
    found = choose_pct(solver, **{**QUIET, "display": shown}, pct=["auto,weight=0.1:10:3"], extras=extras)
    assert "--pct auto: 4 trainings of 20 iterations one after the other" in shown.lines[0]
    assert "frozen trunk" in shown.lines[0]
    assert sorted(figures()) == ["kd_w0.1", "kd_w1", "kd_w10", "none"]
    assert found["extras"] == extras
    assert {path.name for path in Path().glob("*.caffemodel")} == {"old.caffemodel"}
    alone = Solver(solver, device="cpu", display=Silent(), references=[SPEC], pct=["kd,weight=10"],
                   extras=TrainOptions(best_on=0.3, ema=extras.ema), overrides=["test_interval=1000"])  # fmt: skip
    held = validation_records(Solver(solver, device="cpu", display=Silent()).nets[0].sources[0], 0.3, 3)
    assert len(alone.nets[2].sources[0]) == len(held) == 7
    alone.step(20)
    alone.callbacks.call("on_tests_start", 20)
    net, source = alone.nets[2].net, alone.nets[2].sources[0]
    from fusion import blobs

    logits = blobs(net, source.batch(np.arange(7)))["ip"].detach().numpy()
    assert figures()["kd_w10"][0] == pytest.approx((logits.argmax(1) == source.labels).mean())


def test_what_differs_in_a_candidate_that_diverges(solver: Path, project: Callable[..., Path]) -> None:
    project(frozen=False)
    found = choose_pct(solver, **QUIET, pct=["auto,weight=1:1e30:2"])
    assert figures()["kd_w1e+30"] == (None, None)
    assert found["pct"] != ["kd,weight=1e+30"]


def test_refusals(solver: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_pct(solver, **QUIET, pct=["kd"])["pct"] == ["kd"]
    for changes, message in (
        ({"references": []}, "needs a reference"),
        ({"pct": ["auto,kind=kdd"]}, "no loss 'kdd'"),
        ({"pct": ["auto,colour=red"]}, "takes colour"),
    ):
        with pytest.raises((TrainingError, ComposeError), match=message):
            choose_pct(solver, **{**QUIET, "pct": ["auto"], **changes})
    with pytest.raises(FusionError, match="chosen before a solver is made"):
        Solver(solver, device="cpu", display=Silent(), references=[SPEC], pct=["auto"])
    with pytest.raises(SystemExit):
        main(["--solver", str(solver), "--reference", SPEC, "--pct", "auto", "--dry-run"])
    assert "cannot choose" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="without torchrun"):
        choose_pct(solver, **QUIET, pct=["auto"])
