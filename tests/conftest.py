"""Fixtures of all tests: recorded outputs of BVLC Caffe, third-party files, a small net on images, two nets to fuse."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from prototxt.formats.weights import write_weights

# A shell gives its background jobs ignored signals, and commands under test would inherit them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
settings.register_profile("fusion", deadline=None)  # a busy machine is no mistake
settings.load_profile("fusion")
TESTS = Path(__file__).parent
# OpenCV and scikit-learn with its exporter are other programs that values are compared with, not tools of the project.
MISSING_TOOL = re.compile(
    r"could not import '(?!cv2|sklearn|skl2onnx)|there is no Chromium|needs a C\+\+ compiler|no JavaScript engine"
)
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
_NET = """name: "{name}"
layer {{ name: "data" type: "ImageData" top: "data" top: "label"
  transform_param {{ scale: 0.00390625 }}
  image_data_param {{ source: "{name}.txt" batch_size: 10 is_color: false }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param {{ num_output: 6 }} }}
layer {{ name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param {{ num_output: {classes}
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""
_JOB = """output = "out"
num_output = 5

[[source]]
prefix = "low"
net = "low.prototxt"
weights = "low.caffemodel"
classes = [0, 1, 2]

[[source]]
prefix = "high"
net = "high.prototxt"
weights = "high.caffemodel"
classes = [3, 4]

[data]
train_list = "train.txt"
val_list = "val.txt"
test_list = "test.txt"

[[pct]]
kind = "kd"
weight = 0.5

[solver]
max_iter = 40
base_lr = 0.5
test_interval = 20
"""


def require_tools(report: Report) -> Report:
    """With FUSION_CI=1 a test that is skipped for a missing tool has failed: else it could vanish without a word."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if report.skipped and os.environ.get("FUSION_CI") == "1" and MISSING_TOOL.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{reason}: FUSION_CI=1 needs every tool that tests use"
    return report


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes in a test's id after their parameter: gzip and zip hold the time, and workers' ids must be equal."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return require_tools((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return require_tools((yield))


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of BVLC Caffe that the project ships with its tests; never written to."""
    return TESTS / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Third-party material beside the checkout; tests that need it are skipped where it is absent."""
    folder = TESTS.parent.parent / "shared"
    if not folder.is_dir():
        pytest.skip("third-party files are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """Trained models and public prototxts, under their own licences, so never part of this project."""
    return shared / "reference"


@pytest.fixture(scope="session")
def dense_net() -> Callable[..., str]:
    """Return a function that writes a net of one dense layer, with a loss, on the images of a list, as text."""

    def text(
        outputs: int = 3, *, source: str = "list.txt", batch: int = 4, image: str = "", transform: str = "scale: 0.01"
    ) -> str:
        return f"""
layer {{ name: "data" type: "ImageData" top: "data" top: "label"
  image_data_param {{ source: "{source}" batch_size: {batch} is_color: false {image} }}
  transform_param {{ {transform} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""

    return text


@pytest.fixture(scope="session")
def write_images() -> Callable[..., None]:
    """Return a function that writes gray noise images and list.txt with their labels into the working directory."""

    def write(count: int, size: tuple[int, int], classes: int, ending: str = "png") -> None:
        rng = np.random.default_rng(0)
        for index in range(count):
            Image.fromarray(rng.integers(0, 255, size).astype(np.uint8)).save(f"{index}.{ending}")
        Path("list.txt").write_text("".join(f"{index}.{ending} {index % classes}\n" for index in range(count)))

    return write


@pytest.fixture
def full_disk() -> Generator[None, None, None]:
    """Let no file grow beyond 300 kB, with an error like that of a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def job_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make a folder with two trained nets, of three and two classes, and images of all; return a function for its job.

    The function writes job.toml, with more text after it, and returns its path.
    """
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part, count in (("train", 50), ("val", 20), ("test", 30)):
        Path(part).mkdir()
        lines = []
        for number in range(count):
            label = number % 5
            pixels = rng.integers(0, 120, (5, 5))
            pixels[label] += 130  # a bright row per class
            name = f"{part}/{number:02}_{label}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(name)
            lines.append(f"{name} {label}\n")
        Path(f"{part}.txt").write_text("".join(lines))
    for name, classes in (("low", (0, 1, 2)), ("high", (3, 4))):
        Path(f"{name}.prototxt").write_text(_NET.format(name=name, classes=len(classes)))
        rows = np.repeat(np.eye(5), 5, axis=1)  # the mean of each row of pixels
        first = np.concatenate([rows, np.zeros((1, 25))])
        second = np.concatenate([np.eye(5), np.zeros((5, 1))], axis=1)[list(classes)]
        write_weights(f"{name}.caffemodel", {"ip1": [first, np.zeros(6)], "ip2": [second, np.zeros(len(classes))]})

    def write(more: str = "") -> Path:
        path = Path("job.toml")
        path.write_text(_JOB + more)
        return path

    return write
