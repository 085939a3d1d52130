"""What Caffe refuses in a solver file is refused, all at once and with a remedy."""

from __future__ import annotations

import re
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
    with pytest.raises(TrainingError, match=f"^{refused} is a setting of a fork"):
        read_settings(solver)


@pytest.mark.parametrize(
    ("setting", "refused"),
    [
        ('lr_policy: "step"', 'lr_policy "step" needs a positive stepsize'),
        ('lr_policy: "step" stepsize: 1', None),
        ('lr_policy: "sigmoid"', 'lr_policy "sigmoid" needs a positive stepsize'),
        ('lr_policy: "exp" gamma: -0.1', "gamma must not be negative: -0.1"),
        ('lr_policy: "exp" gamma: 0', None),
        ('lr_policy: "fixed" gamma: -0.1', None),
        ('lr_policy: "poly"', 'lr_policy "poly" needs max_iter'),
        ('lr_policy: "poly" max_iter: 1', None),
        ('lr_policy: "cosine" max_iter: 1', "Caffe knows no learning rate policy 'cosine'"),
        ('type: "AdaGrad" momentum: 0.1', "momentum cannot be used with AdaGrad"),
        ('type: "RMSProp" momentum: 0.1', "momentum cannot be used with RMSProp"),
        ('type: "Adam" momentum: 0.1', None),
        ('type: "RMSProp" rms_decay: 1', r"rms_decay must lie in \[0, 1\), not 1"),
        ('type: "RMSProp" rms_decay: -0.1', r"rms_decay must lie in \[0, 1\), not -0.1"),
        ('type: "RMSProp" rms_decay: 0', None),
        ("rms_decay: 1", None),
        ("iter_size: 0", "iter_size must be at least 1, not 0"),
        ("average_loss: 0", "average_loss must be at least 1, not 0"),
        ("average_loss: 1 iter_size: 1", None),
        *((f"{name}: -1", f"{name} must not be negative: -1") for name in
          ("max_iter", "display", "test_interval", "snapshot")),
        ("max_iter: 0 display: 0 test_interval: 0 snapshot: 0", None),
        ('regularization_type: "L1"', None),
    ],
)  # fmt: skip
def test_each_limit_of_a_setting(setting: str, refused: str | None) -> None:
    policy = "" if "lr_policy" in setting else 'lr_policy: "fixed" '
    solver = load_solver(parse(f'net: "n" base_lr: 0.1 {policy}{setting}'))
    if refused is None:
        read_settings(solver)
        return
    with pytest.raises(TrainingError) as caught:
        read_settings(solver)
    assert len(caught.value.errors) == 1
    assert re.match(refused, caught.value.message), "the message, and not its hint"
    assert caught.value.hint


def test_a_policy_of_ones_own_and_warm_up() -> None:
    solver = load_solver(parse('net: "n" base_lr: 0.1 lr_policy: "nonsense" max_iter: 7'))
    found = read_settings(solver, policy="cosine", warmup=3).schedule
    assert (found.policy, found.warmup, found.max_iter) == ("cosine", 3, 7)
    assert read_settings(solver, policy="fixed").schedule.warmup == 0
    with pytest.raises(TrainingError, match="warm-up must not be negative: -1"):
        read_settings(solver, policy="fixed", warmup=-1)
    solver.max_iter = 0
    with pytest.raises(TrainingError, match='lr_policy "cosine" needs max_iter'):
        read_settings(solver, policy="cosine")


def test_every_setting_is_taken_over() -> None:
    text = """net: "n" base_lr: 0.5 lr_policy: "multistep" gamma: 0.25 power: 2 stepsize: 3 stepvalue: 4 stepvalue: 9
      max_iter: 11 momentum: 0.75 momentum2: 0.5 weight_decay: 0.125 regularization_type: "L1" delta: 0.0625
      rms_decay: 0.5 clip_gradients: 8 iter_size: 2 average_loss: 3 display: 5 test_iter: 6 test_iter: 7
      test_interval: 8 test_initialization: false test_compute_loss: true snapshot: 12 snapshot_prefix: "p"
      snapshot_format: HDF5 snapshot_after_train: false random_seed: 0 debug_info: true weights: "a,b" weights: "c" """
    found = read_settings(load_solver(parse(text)))
    schedule = found.schedule
    assert (schedule.base_lr, schedule.gamma, schedule.power) == (0.5, 0.25, 2)
    assert (schedule.stepsize, schedule.steps, schedule.max_iter) == (3, (4, 9), 11)
    assert found.optimizer_options == {
        "momentum": 0.75, "momentum2": 0.5, "weight_decay": 0.125, "regularization": "L1", "delta": 0.0625,
        "rms_decay": 0.5, "clip_gradients": 8, "iter_size": 2,
    }  # fmt: skip
    assert (found.average_loss, found.display, found.test_iter, found.test_interval) == (3, 5, (6, 7), 8)
    assert (found.test_initialization, found.test_compute_loss, found.snapshot, found.prefix) == (False, True, 12, "p")
    assert (found.snapshot_hdf5, found.snapshot_after_train, found.debug_info) == (True, False, True)
    assert (found.seed, found.weights, found.max_iter) == (0, ("a", "b", "c"), 11)
    plain = read_settings(SolverParameter(lr_policy="fixed"))
    assert (plain.seed, plain.weights, plain.prefix, plain.snapshot_hdf5) == (None, (), "snapshot", False)
    assert (plain.test_initialization, plain.snapshot_after_train, plain.debug_info) == (True, True, False)
