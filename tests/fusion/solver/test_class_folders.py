"""Training on class folders: changed folders are noticed on resuming, and those of other classes are refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.errors import DataError, TrainingError
from fusion.nets.build import build
from fusion.nets.weights import save_weights
from fusion.solver import Solver
from fusion.solver.logging.console import Lines

DenseNet = Callable[..., str]
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: {} snapshot_prefix: "run" random_seed: 3 '
TESTED = SOLVER + "test_iter: 1 test_interval: 10"


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for path in ("train", "val"):
        for name in ("cat", "dog", "fox"):
            Path(path, name).mkdir(parents=True)
            for index in range(4):
                pixels = rng.integers(0, 255, (5, 6)).astype(np.uint8)
                Image.fromarray(pixels).save(f"{path}/{name}/{index}.png")


def run(iterations: int, *, resume: bool = False) -> str:
    log = io.StringIO()
    Path("solver.prototxt").write_text(SOLVER.format(iterations))
    solver = Solver("solver.prototxt", device="cpu", display=Lines(log))
    if resume:
        solver.resume()
    solver.train()
    return log.getvalue()


def test_a_changed_folder_is_noticed_on_resuming(dense_net: DenseNet) -> None:
    Path("net.prototxt").write_text(dense_net(source="train", image="shuffle: true"))
    run(2)
    assert ", exactly\n" in run(4, resume=True)
    Path("train/cat/0.png").rename("train/cat/9.png")
    assert "its files, labels or transform have changed" in run(6, resume=True)
    Path("train/cat/9.png").unlink()
    assert "there were 12 records, and are 11 now" in run(8, resume=True)


def test_folders_of_other_classes_are_refused_before_training(dense_net: DenseNet) -> None:
    train = dense_net(source="train/", image="shuffle: true").replace(
        'name: "data"', 'name: "data" include { phase: TRAIN }'
    )
    test = train[: train.index("layer", 10)].replace("TRAIN", "TEST").replace("train/", "val")
    Path("net.prototxt").write_text(test + train)
    Path("solver.prototxt").write_text(TESTED.format(2))
    Solver("solver.prototxt", device="cpu").train()
    Path("val/fox").rename("val/eel")
    with pytest.raises(DataError, match=r"only val has 'eel'; only train has 'fox'"):
        Solver("solver.prototxt", device="cpu")
    Path("val/eel").rename("val/fox")
    Path("net.prototxt").write_text('# class-names: ["cat", "dog", "owl"]\n' + test + train)
    with pytest.raises(DataError, match="only the net's class names has 'owl'"):
        Solver("solver.prototxt", device="cpu")


def test_a_reference_of_other_class_folders_names_its_classes(dense_net: DenseNet) -> None:
    for name in ("cat", "dog", "owl"):
        Path("other", name).mkdir(parents=True)
        Path("other", name, "0.png").write_bytes(Path("train/cat/0.png").read_bytes())
    Path("net.prototxt").write_text(dense_net(source="train", image="shuffle: true"))
    for path in ("train", "other"):
        Path(f"{path}.prototxt").write_text(dense_net(source=path))
    save_weights(build("train.prototxt", shapes={"data": (4, 1, 5, 6), "label": (4,)}, seed=1), "w.caffemodel")
    Path("solver.prototxt").write_text(SOLVER.format(1))

    def attached(text: str) -> Solver:
        return Solver("solver.prototxt", device="cpu", references=[text], pct=["kd"])

    attached("train.prototxt:w.caffemodel")
    with pytest.raises(TrainingError, match=r"reference 'w': other: .*only other has 'owl'[\s\S]*classes=N"):
        attached("other.prototxt:w.caffemodel")
    attached("other.prototxt:w.caffemodel,classes=0,1,2")
