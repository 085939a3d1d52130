"""What Caffe refuses in a solver file is refused, all at once and with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion.errors import TrainingError
from fusion.solver.read_nets import read_nets
from fusion.solver.settings import read_settings
from prototxt import load_solver, parse
from prototxt.schema.messages import SolverParameter

GOLDEN = Path(__file__).parents[2] / "golden"
RUNS = sorted(path.parent for path in (GOLDEN / "solvers").glob("*/solver.prototxt"))
REFUSED = [
    *sorted((GOLDEN / "errors" / "weights").glob("solver_*.prototxt")),
    *(run / "solver.prototxt" for run in RUNS if not (run / "run.npz").exists()),
]


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_refused_by_caffe(path: Path) -> None:
    with pytest.raises(TrainingError) as error:
        read_settings(load_solver(path), path=str(path))
    assert path.name in str(error.value)
    assert "hint:" in str(error.value)


@pytest.mark.parametrize("run", [run for run in RUNS if (run / "run.npz").exists()], ids=lambda run: run.name)
def test_accepted_by_caffe(run: Path) -> None:
    read_settings(load_solver(run / "solver.prototxt"))


def test_all_mistakes_at_once() -> None:
    solver = SolverParameter(lr_policy="stepp", type="SDG", regularization_type="L3", iter_size=0)
    with pytest.raises(TrainingError) as error:
        read_settings(solver)
    text = str(error.value)
    assert len(error.value.errors) == 4
    assert "did you mean 'step'?" in text
    assert "did you mean 'SGD'?" in text


def test_prefix_as_caffe_completes_it(tmp_path: Path) -> None:
    solver = SolverParameter(lr_policy="fixed")
    assert read_settings(solver, path="nets/lenet_solver.prototxt").prefix == "nets/lenet_solver"
    solver.snapshot_prefix = str(tmp_path)
    assert read_settings(solver, path="nets/lenet_solver.prototxt").prefix == str(tmp_path / "lenet_solver")
    solver.snapshot_prefix = "snap"
    assert read_settings(solver).prefix == "snap"


def test_number_of_nets_and_iterations() -> None:
    with pytest.raises(TrainingError) as error:
        read_nets(SolverParameter(test_iter=[5]))
    assert "no net to train" in str(error.value)
    assert "0 test nets, but 1 values of test_iter" in str(error.value)


def test_inline_nets_and_their_states() -> None:
    solver = SolverParameter(test_iter=[1, 1], test_interval=5)
    for stage in ("a", "b"):
        layer = solver.net_param.layer.add(name=f"only {stage}", type="Silence", bottom=["x"])
        layer.include.add(stage=[stage])
        solver.test_state.add(stage=[stage])
    solver.train_state.stage.append("b")
    nets = read_nets(solver)
    assert [layer.name for layer in nets.train.layer] == ["only b"]
    assert [[layer.name for layer in test.layer] for test in nets.tests] == [["only a"], ["only b"]]


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
@pytest.mark.parametrize(
    ("setting", "refused"),
    [
        ("min_lr: 0.1", "min_lr"),
        ("min_lr: 0", None),
        ("rampup_interval: 5 rampup_lr: 0.1", "rampup_interval"),
        ("larc: true larc_eta: 0.1", "larc"),
        ("larc_eta: 0.1", None),
        ('weight_decay_policy: "poly"', "weight_decay_policy"),
        ('momentum_policy: "fixed"', None),
        ("stagelr: 0.1 stageiter: 5", "stagelr"),
        ('eval_type: "detection" solver_data_type: FLOAT16 test_and_snapshot_last_epochs: 2', None),
    ],
)
def test_settings_of_forks_load_and_are_refused_where_they_change_what_is_learned(
    setting: str, refused: str | None
) -> None:
    solver = load_solver(parse(f'net: "n" base_lr: 0.1 lr_policy: "fixed" {setting}'))
    if refused is None:
        assert read_settings(solver).schedule.base_lr == pytest.approx(0.1)
        return
    with pytest.raises(TrainingError, match=f"{refused} is a setting of a fork"):
        read_settings(solver)
