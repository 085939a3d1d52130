"""The documentation is true: its commands are understood, most run on small nets, and every page is listed."""

from __future__ import annotations

import gzip
import pickle
import re
import shlex
import shutil
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caffe_fusion_tools import convert, convert_data
from caffe_fusion_tools.mnist_odd_even import prepare

import fusion
import prototxt
from fusion import pct
from prototxt.formats.datum import write_mean

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))  # run by tests/examples
BLOCK = re.compile(r"^```\w*\n(.*?)^```$|((?:^ {4}.*\n)+)", re.MULTILINE | re.DOTALL)
MODULES = {
    entry.name: entry.value.partition(":")[0]
    for entry in entry_points(group="console_scripts")
    if entry.value.startswith("caffe_fusion_tools.")
}
NOT_RUN = {  # the start of a command: the reason
    "fusion-run": "tests/tools/test_run.py and tests/examples run whole jobs",
    "fusion-compose --source a=faces_a": "its nets have two labels; the tests of tasks compose such nets",
    "fusion-predict fused/train_val.prototxt fused.caffemodel --serve": "a server does not end; tests/fusion/serving",
    "fusion-show resnet18.onnx": "nets of torchvision are in tests/fusion/onnx",
    "fusion-compose --source odd=lenet_odd.prototxt --source b=resnet18.onnx": "as above",
    "fusion-merge fused/train_val.prototxt odd=lenet_odd.prototxt:odd.caffemodel -o": "as above",
    "fusion-verify fused/train_val.prototxt init.caffemodel odd=lenet_odd.prototxt:odd.caffemodel b=": "as above",
    "fusion-test --model model.onnx": "as above",
    "fusion-report --old model.onnx": "as above",
    "fusion-predict net.onnx": "as above",
    "fusion-convert net.onnx": "as above",
    "fusion-convert resnet18.onnx": "as above",
    "fusion-compose --source n=net.prototxt --source f=forest.onnx": "tests/tools/test_scikit_learn.py runs it",
    "fusion-merge fused/train_val.prototxt n=net.prototxt:net.caffemodel f=forest.onnx": "as above",
    "fusion-train --solver fused/solver.prototxt --weights init.caffemodel --reference @f/": "as above",
    "fusion-compose --source old=old.prototxt --source b=torchvision": "tests/fusion/conversion runs such commands",
    "fusion-merge fused/train_val.prototxt old=old.prototxt": "as above",
    "fusion-convert fused/fused_iter_10000.caffemodel b.pth": "as above",
    "fusion-convert images photos/train train_lmdb": "writes the same database as the command before it",
    "fusion-train --solver solver.prototxt --weights init.caffemodel --reference ...": "has a gap to fill",
    "fusion-report --old sweep/": "reads the result of the command before it",
    "fusion-pycaffe": "tests/fusion/pycaffe runs scripts like it",
    "fusion-train --solver solver.prototxt --resume": "reads the snapshots of the commands before it",
}
FOLDS = """layer { name: "in" type: "ImageData" top: "data" top: "label" transform_param { scale: 0.01 }
  image_data_param { source: "train_all.txt" batch_size: 4 is_color: false } }
layer { name: "fc7" type: "InnerProduct" bottom: "data" top: "fc7" inner_product_param { num_output: 6 } }
layer { name: "fc8" type: "InnerProduct" bottom: "fc7" top: "fc8" inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }
"""
COLOR = """layer { name: "in" type: "ImageData" top: "data" top: "label" transform_param { scale: 0.01 }
  image_data_param { source: "train_all.txt" batch_size: 4 new_height: 227 new_width: 227 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 9 stride: 9 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 10 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
OLD = """layers { name: "in" type: IMAGE_DATA top: "data" top: "label" transform_param { scale: 0.01 }
  image_data_param { source: "val_all.txt" batch_size: 4 is_color: false } }
layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip" inner_product_param { num_output: 10 } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "fused/train_val.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 4 test_iter: 1 test_interval: 4
snapshot: 4 snapshot_prefix: "small" random_seed: 1
"""


def commands(page: Path) -> list[str]:
    """Return every command in the page's blocks of code, without the remarks beside it and the redirection after it."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    lines = [line.strip().removeprefix("$ ") for block in BLOCK.findall(text) for line in "".join(block).splitlines()]
    lines = [re.sub(r"^fusion (?=[a-z])", "fusion-", line) for line in lines]
    return [re.split(r" {3,}|  #| > ", line)[0] for line in lines if line.startswith("fusion-")]


COMMANDS = [pytest.param(line, id=f"{page.name}: {line}") for page in PAGES + EXAMPLES for line in commands(page)]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_understood(line: str) -> None:
    name, *words = shlex.split(line)
    module = import_module(MODULES[name])
    if name == "fusion-convert" and words[0] in convert_data.COMMANDS:
        module = convert_data
    module.parser().parse_args(words)


def test_every_exception_is_a_command() -> None:
    for start in NOT_RUN:
        assert any(str(param.values[0]).startswith(start) for param in COMMANDS), start


def save_random_weights(net: str, *paths: str) -> None:
    for seed, path in enumerate(paths, 1):
        fusion.save_weights(fusion.build(net, "TEST", seed=seed), path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documentation names: the tutorial's nets, with random weights and few images."""
    folder = tmp_path_factory.mktemp("documentation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare.prepare(folder, limit=30)
        for parity in ("odd", "even"):
            net = f"lenet_{parity}_train_val.prototxt"
            save_random_weights(net, f"{parity}.caffemodel")
            for copy in (f"lenet_{parity}.prototxt", f"{parity}.prototxt"):
                shutil.copy(net, copy)
            shutil.copy(f"{parity}.caffemodel", f"lenet_{parity}_iter_4000.caffemodel")
        shutil.copy("odd.prototxt", "lenet.prototxt")
        compose_and_merge()
        shutil.copy("init.caffemodel", "head_iter_4000.caffemodel")
        write_other_nets()
        write_images()
        shutil.copy(GOLDEN / "formats" / "data" / "mean.binaryproto", "mean.binaryproto")
        shutil.copy(next((GOLDEN / "solvers" / "resume_adam").glob("*.solverstate")), "state.solverstate")
    return folder


def compose_and_merge() -> None:
    """Write fused/, init.caffemodel and the folds."""
    sources = [fusion.Source(parity, f"{parity}.prototxt", at="ip1") for parity in ("odd", "even")]
    lists: dict[str, Any] = {"train_list": "train_all.txt", "val_list": "val_all.txt"}
    fusion.compose(sources, num_output=10, **lists).write("fused")
    plan = fusion.plan_merge(
        prototxt.load_net("fused/train_val.prototxt"), {"odd": "odd.caffemodel", "even": "even.caffemodel"}, seed=1
    )
    fusion.apply_merge(plan, "init.caffemodel")
    shutil.copy("init.caffemodel", "fused.caffemodel")
    Path("solver.prototxt").write_text(SOLVER)


def write_other_nets() -> None:
    """Write folds, a net on large color images with its deploy form, and an old net of old layers."""
    Path("folds").mkdir()
    Path("net.prototxt").write_text(FOLDS)
    save_random_weights("net.prototxt", "folds/1.caffemodel", "folds/2.caffemodel")
    Path("train_val.prototxt").write_text(COLOR)
    save_random_weights("train_val.prototxt", "net.caffemodel")
    convert.main(["train_val.prototxt", "deploy.prototxt", "--deploy", "--input-shape", "data=1,3,227,227"])
    Path("old.prototxt").write_text(OLD)
    save_random_weights("old.prototxt", "old.caffemodel")
    convert.main(["solver.prototxt", "solver.binaryproto"])


def write_images() -> None:
    """Write images by folders, by lists and alone, with names of classes and a mean."""
    for folder in ("images", "photos/train/1", "photos/train/3"):
        shutil.copytree("mnist/val", folder)
    names = sorted(path.name for path in Path("images").iterdir())
    shutil.copy(f"images/{names[0]}", "3.png")
    Path("list.txt").write_text("".join(f"{name} {index % 3}\n" for index, name in enumerate(names)))
    Path("old.txt").write_text("".join(f"images/{name} {(3, 1)[index % 2]}\n" for index, name in enumerate(names)))
    idx = {"images-idx3": ("00000803 00000006 0000001c 0000001c", 784), "labels-idx1": ("00000801 00000006", 1)}
    for name, (header, size) in idx.items():
        values = bytes(number % 10 for number in range(6 * size))
        Path(f"train-{name}-ubyte.gz").write_bytes(gzip.compress(bytes.fromhex(header) + values))
    Path("cifar-10-batches-py").mkdir()
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 0, 1]}
    Path("cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps(batch))
    Path("names.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    write_mean("imagenet_mean.binaryproto", np.full((3, 227, 227), 100, np.float32))


@pytest.mark.slow  # forty commands, some of which train
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_the_commands_run(page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a page's, one after another, on the TOML file of the page if it has one."""
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "work"))
    for toml in re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        Path("fusion.toml").write_text(toml)
        Path("job.toml").write_text(toml)
    for line in commands(page):
        if not line.startswith(tuple(NOT_RUN)):
            name, *words = shlex.split(line)
            assert import_module(MODULES[name]).main(words) == 0, line


SNIPPETS = [  # page, number of its block of Python; the others show parts of a program
    pytest.param("README.md", 0, id="README.md: the workflow"),
    pytest.param("README.md", 1, id="README.md: losses and metrics"),
    pytest.param("docs/train.md", 0, id="train.md: a solver"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "number"), SNIPPETS)
def test_python_runs(page: str, number: int, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "work"))
    monkeypatch.setattr(fusion.Solver, "train", lambda self: self.step(2))  # the tutorial trains to the end
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    z, t, y = torch.zeros(3, 10), torch.zeros(3, 5), torch.tensor([1, 3, 4])
    for name, classes in (("odd", (1, 3, 5, 7, 9)), ("fused", tuple(range(10)))):
        scores = np.zeros((3, len(classes)), np.float32)
        pct.Predictions(("a", "b", "c"), y.numpy(), scores, classes).save(f"{name}.npz")
    exec(blocks[number], {"F": torch.nn.functional, "z": z, "t": t, "y": y})


def test_every_page_is_listed() -> None:
    """In the README's table and in the navigation of the site."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in readme, page.name
        assert f'"{page.name}"' in navigation, page.name
