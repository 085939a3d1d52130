"""Settings of a solver file as a run obeys them: test nets, states, inline nets, what is shown and written."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.errors import TrainingError
from fusion.solver import Solver
from fusion.solver.logging.console import Lines

Make = Callable[..., Path]


def log_of(path: Path, **options: object) -> str:
    stream = io.StringIO()
    Solver(path, device="cpu", display=Lines(stream), **options).train()  # type: ignore[arg-type]
    return stream.getvalue()


def test_several_test_nets_with_states_of_their_own(project: Make) -> None:
    path = project(test_iter="4 test_iter: 2", test_state='{ stage: "easy" } test_state: { stage: "hard" }')
    layer = 'layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" include { phase: TEST } }'
    easy = layer.replace('top: "acc"', 'top: "top2" accuracy_param { top_k: 2 }').replace("TEST", 'TEST stage: "easy"')
    hard = layer.replace('"acc"', '"top1"').replace("TEST", 'TEST stage: "hard"')
    net = Path("net.prototxt").read_text()
    assert layer in net
    Path("net.prototxt").write_text(net.replace(layer, easy + hard))
    parts = re.split(r"Iteration \d+, Testing net ", log_of(path))[1:]
    assert len(parts) == 6
    for number, part in enumerate(parts):
        assert part.startswith(f"(#{number % 2})")
        assert ("top2 = " in part, "top1 = " in part) == (number % 2 == 0, number % 2 == 1)


def test_states_of_training(project: Make) -> None:
    path = project(train_state='{ stage: "short" level: 2 }')
    net = Path("net.prototxt").read_text()
    extra = 'layer { name: "more" type: "Silence" bottom: "ip" include { STATE } }\n'
    for state, expected in (('stage: "short"', True), ('stage: "long"', False), ("min_level: 2", True),
                            ("min_level: 3", False), ('not_stage: "short"', False)):  # fmt: skip
        Path("net.prototxt").write_text(net + extra.replace("STATE", state))
        run = Solver(path, device="cpu", display=Lines(io.StringIO()))
        assert any(call.name == "more" for call in run.net.plan.calls) == expected
        assert any(call.name == "more" for call in run.nets[1].net.plan.calls) == state.startswith("not")


def test_nets_inside_the_solver_file(project: Make) -> None:
    path = project()
    expected = log_of(path)
    text, net = path.read_text(), Path("net.prototxt").read_text()
    path.write_text(text.replace('net: "net.prototxt"', f"net_param {{ {net} }}"))
    Path("net.prototxt").unlink()
    assert numbers(log_of(path)) == numbers(expected)
    path.write_text(text.replace('net: "net.prototxt"', f"train_net_param {{ {net} }}\ntest_net_param {{ {net} }}"))
    assert numbers(log_of(path)) == numbers(expected)


def numbers(text: str) -> list[str]:
    """What a log says about losses, rates and outputs, without times."""
    return [part for line in text.splitlines() for part in re.findall(r"(?:loss|lr|acc) = \S+", line)]


def test_what_is_shown_and_written(project: Make) -> None:
    text = log_of(project(test_compute_loss="true", snapshot=0, snapshot_after_train="false"))
    loss = re.search(r"Iteration 10, Testing net \(#0\)\nTest loss: (\S+)\n", text)
    assert loss is not None
    assert f"loss = {loss[1]} (* 1 = {loss[1]} loss)" in text
    assert not list(Path().glob("small_iter*"))
    text = log_of(project(test_initialization="false", display=0, snapshot=0))
    assert "Iteration 0" not in text
    assert "Iteration 20, loss" not in text
    assert {path.name for path in Path().glob("small_iter*")} == {
        *("small_iter_20.caffemodel", "small_iter_20.solverstate", "small_iter_20.fusionstate"),
    }  # fmt: skip


def test_the_loss_shown_is_that_of_the_last_iterations(project: Make) -> None:
    each = [float(x) for x in re.findall(r"iters\), loss = (\S+)", log_of(project(average_loss=1, display=1)))]
    shown = [float(x) for x in re.findall(r"iters\), loss = (\S+)", log_of(project(average_loss=3, display=1)))]
    for index, value in enumerate(shown):
        window = each[max(0, index - 2) : index + 1]
        assert value == pytest.approx(sum(window) / len(window), rel=1e-4)


@pytest.mark.parametrize(("settings", "message"), [
    ({"test_interval": 0}, "test_iter is given without test_interval"),
    ({"test_iter": "4 test_iter: 5", "test_state": '{ stage: "a" }'}, "1 values of test_state for 2 test nets"),
    ({"train_net": '"net.prototxt"'}, "2 nets to train"),
    ({"test_net": '"net.prototxt" test_net: "net.prototxt"'}, "2 test nets, but 1 values of test_iter"),
    ({"average_loss": 0}, "average_loss must be at least 1"),
    ({"momentum": 0.5, "type": '"AdaGrad"'}, "momentum cannot be used with AdaGrad"),
    ({"type": '"RMSProp"', "momentum": 0, "rms_decay": 1.5}, r"rms_decay must lie in \[0, 1\)"),
    ({"stepsize": 0}, 'lr_policy "step" needs a positive stepsize'),
    ({"gamma": -1}, "gamma must not be negative"),
    ({"regularization_type": '"L3"'}, "unknown regularization type 'L3'"),
    ({"snapshot_prefix": '"nowhere/x"'}, "the folder for snapshots does not exist"),
    ({"lr_policy": '""'}, "unknown learning rate policy ''"),
])  # fmt: skip
def test_what_caffe_refuses(project: Make, settings: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as error:
        log_of(project(**settings))
    assert "hint:" in str(error.value)
