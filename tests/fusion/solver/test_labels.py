"""What looks at class scores and labels does so by the loss that judges them, and refuses nets that have none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import fusion
import prototxt
from fusion import FusionError, TrainingError
from fusion.solver import TrainOptions
from fusion.solver.evaluate import Evaluation, open_evaluation

DATA = """
name: "tasks"
layer { name: "data" type: "HDF5Data" top: "data" top: "age" top: "gender" top: "both" top: "tags"
  hdf5_data_param { source: "list.txt" batch_size: 4 } }
layer { name: "cut" type: "Slice" bottom: "both" top: "left" top: "right" slice_param { axis: 1 slice_point: 1 } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 2
  weight_filler { type: "xavier" } } }
"""
LOSSES = {
    "age": 'layer { name: "l_age" type: "EuclideanLoss" bottom: "fc" bottom: "tags" top: "l_age" }\n',
    "gender": 'layer { name: "l_gender" type: "SoftmaxWithLoss" bottom: "fc" bottom: "gender" top: "l_gender" }\n',
    "right": 'layer { name: "l_right" type: "HingeLoss" bottom: "fc" bottom: "right" top: "l_right" }\n',
    "tags": 'layer { name: "l_tags" type: "SigmoidCrossEntropyLoss" bottom: "fc" bottom: "tags" top: "l_tags" }\n',
    "accuracy": 'layer { name: "a" type: "Accuracy" bottom: "fc" bottom: "gender" top: "a" include { phase: TEST } }\n',
}
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 display: 0 test_iter: 2 test_interval: 2
test_initialization: false snapshot_prefix: "run"
"""
Open = Callable[..., Evaluation]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write eight records, a net with these losses, its weights, and a solver."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    def made(*losses: str) -> None:
        with h5py.File("records.h5", "w") as file:
            file["data"] = rng.normal(size=(8, 3)).astype(np.float32)
            file["age"] = np.arange(8, dtype=np.float32)[:, None]
            file["gender"] = np.array([0, 1, 1, 0, 1, 0, 0, 1], np.float32)
            file["both"] = np.array([[1, n % 2] for n in range(8)], np.float32)
            file["tags"] = rng.uniform(size=(8, 2)).astype(np.float32)
        Path("list.txt").write_text("records.h5\n")
        Path("net.prototxt").write_text(DATA + "".join(LOSSES[name] for name in losses))
        shapes = {"data": (4, 3), "age": (4, 1), "gender": (4,), "both": (4, 2), "tags": (4, 2)}
        fusion.save_weights(fusion.build(prototxt.load_net("net.prototxt"), "TEST", shapes, seed=1), "net.caffemodel")
        Path("solver.prototxt").write_text(SOLVER)

    return made


def predicted() -> list[int]:
    return list(open_evaluation("net.prototxt", ["net.caffemodel"], device="cpu").predict("fc").labels)


def test_labels_are_those_that_judge_the_scores(write: Callable[..., None]) -> None:
    write("gender")
    assert predicted() == [0, 1, 1, 0, 1, 0, 0, 1]  # and not `age`, the second top
    write("right")
    assert predicted() == [0, 1] * 4
    write()
    assert predicted() == list(range(8))


@pytest.mark.parametrize(("loss", "what"), [("age", "compared with targets"), ("tags", "a yes or no per output")])
def test_scores_of_no_classes_are_not_predicted(write: Callable[..., None], loss: str, what: str) -> None:
    write(loss)
    with pytest.raises(FusionError, match=f"blob 'fc' does not hold class scores but .*{what}"):
        predicted()
    with pytest.raises(FusionError, match="does not hold class scores"):
        fusion.Solver("solver.prototxt", device="cpu", references=["net.prototxt:net.caffemodel"], pct=["kd"]).step(1)


@pytest.mark.parametrize(
    ("losses", "chosen"), [(("gender", "accuracy"), "a"), (("gender", "accuracy", "tags"), "loss"), (("tags",), "loss")]
)
def test_the_best_weights_are_chosen_by_all_tasks(
    write: Callable[..., None], capsys: pytest.CaptureFixture[str], losses: tuple[str, ...], chosen: str
) -> None:
    write(*losses)
    fusion.Solver("solver.prototxt", device="cpu", extras=TrainOptions(best_on="list.txt")).train()
    assert f"validation: {chosen} =" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["age", "tags", "right"])
def test_options_for_class_numbers_refuse_other_losses(write: Callable[..., None], loss: str) -> None:
    write(loss)
    with pytest.raises(TrainingError, match="label smoothing needs a SoftmaxWithLoss layer"):
        fusion.Solver("solver.prototxt", device="cpu", extras=TrainOptions(label_smoothing=0.1)).step(1)
    with pytest.raises(TrainingError, match="mixup"):
        fusion.Solver("solver.prototxt", device="cpu", extras=TrainOptions(mixup=0.2)).step(1)


def test_records_of_an_ignored_label_are_left_out(write: Callable[..., None]) -> None:
    write("gender")
    text = Path("net.prototxt").read_text()
    Path("net.prototxt").write_text(
        text.replace('top: "l_gender" }', 'top: "l_gender" loss_param { ignore_label: 1 } }')
    )
    found = open_evaluation("net.prototxt", ["net.caffemodel"], device="cpu").predict("fc")
    assert list(found.labels) == [0] * 4
    assert [key.rpartition(":")[2] for key in found.keys] == ["0", "3", "5", "6"]
    Path("net.prototxt").write_text(Path("net.prototxt").read_text() + LOSSES["accuracy"])
    assert predicted() == [0, 1, 1, 0, 1, 0, 0, 1]  # what is measured counts
