"""Every command that writes files, as a process that can be stopped at any moment, and a small disk for it."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pytest
from PIL import Image

from prototxt.formats.datum import write_mean
from prototxt.formats.solverstate import SolverState, write_solverstate
from prototxt.formats.weights import write_weights

# Imports what most commands need once, then makes a process of its own for every job, a line of JSON.
_SERVER = """
import importlib, json, os, sys
import fusion.export, fusion.report, fusion.solver, fusion.sweep, lmdb, plyvel, onnx, pyarrow.parquet, h5py
from torch.utils.tensorboard import SummaryWriter

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        for number, (path, mode) in enumerate(((os.devnull, os.O_RDONLY), (job["out"], os.O_WRONLY | os.O_CREAT),
                                               (job["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC))):
            os.dup2(os.open(path, mode), number)
        os.chdir(job["folder"])
        code = 70
        try:
            code = importlib.import_module("caffe_fusion_tools." + job["command"]).main(job["words"])
        except SystemExit as end:
            code = end.code
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Case:
    """A command line.

    words  of it, in which OUT stands for the folder that it writes to
    grows  whether it writes line by line, so that a part may be there
    fresh  whether its files must not be there before
    once   whether it refuses to replace what is there; then it is fresh too
    """

    name: str
    words: tuple[str, ...]
    grows: bool = False
    fresh: bool = False
    once: bool = False


_SOURCES = "odd=net.prototxt:net.caffemodel even=net.prototxt:net.caffemodel"
_TWO = "--source odd=net.prototxt@ip1 --source even=net.prototxt@ip1 --num-output 3"
_TEST = "evaluate --model net.prototxt --weights net.caffemodel -q --logits ip2 --predictions"
_TRAIN = "train --solver solver.prototxt -q"
_ALONE = f"{_TRAIN} --set snapshot=0 --set snapshot_after_train=false"
_OLD = "--reference net.prototxt:net.caffemodel"
_LINES = f"""
rename               rename long.prototxt OUT/renamed.prototxt odd
compose              compose {_TWO} -o OUT/new --svg OUT/new.svg --write-toml OUT/new.toml
merge                merge fused/train_val.prototxt {_SOURCES} -o OUT/m.caffemodel
merge-hdf5           merge fused/train_val.prototxt {_SOURCES} -o OUT/m.caffemodel.h5
merge-head           merge fused/train_val.prototxt {_SOURCES} -o OUT/m.safetensors --drop ip2 --num-output 5
                     --net-output OUT/m.prototxt
convert-upgrade      convert long.prototxt OUT/u.prototxt --upgrade
convert-deploy       convert net.prototxt OUT/deploy.prototxt --deploy
convert-binary       convert long.prototxt OUT/net.binaryproto
convert-hdf5         convert net.caffemodel OUT/w.h5
convert-safetensors  convert net.caffemodel OUT/w.safetensors
convert-caffemodel   convert net.h5 OUT/w.caffemodel
convert-weights      convert net.caffemodel OUT/w.caffemodel --upgrade
convert-onnx         convert net.onnx OUT/c.prototxt OUT/c.caffemodel
convert-state        convert net.solverstate OUT/s.solverstate.h5
convert-stdout       convert net.caffemodel - > OUT/net.txt
convert-npy          convert mean.binaryproto OUT/mean.npy
convert-lmdb         convert images list.txt '' OUT/db --lmdb
convert-leveldb      convert images list.txt '' OUT/db --leveldb
convert-mean         convert mean list.txt OUT/mean.binaryproto
convert-list         convert list photos -o OUT/train.txt --val-share 0.25 --val-output OUT/val.txt
                     --labels OUT/names.txt
convert-idx          convert images train-images-idx3-ubyte '' OUT/db --lmdb --resize 64x64
convert-idx-folders  convert images train-images-idx3-ubyte '' OUT/photos --folder
convert-cifar        convert images 'data_batch_*' '' OUT/db --leveldb
run                  run job.toml
run-init             run --init net.prototxt:net.caffemodel --data photos -o OUT/job.toml
train                {_TRAIN} --set snapshot_prefix=OUT/s --save-init OUT/init.caffemodel
train-hdf5           {_TRAIN} --set snapshot_prefix=OUT/s --set snapshot_format=HDF5 --plot OUT/plot.png
train-logs           {_ALONE} --set display=1 --set max_iter=60 --log OUT/log --log-json OUT/log.jsonl
train-tensorboard    {_ALONE} --set display=1 --set max_iter=60 --tensorboard OUT/events
train-cache          {_ALONE} --cache-dir OUT/cache
train-logits         {_ALONE} {_OLD},cache=OUT/logits.npz --pct kd
train-pct            {_TRAIN} {_OLD} --pct auto --set snapshot_prefix=OUT/s
train-sweep          {_TRAIN} {_OLD} --sweep loss=none,kd --sweep lr=0.1,0.01 --set max_iter=10 -o OUT/sweep
test-npz             {_TEST} OUT/p.npz
test-csv             {_TEST} OUT/p.csv
test-parquet         {_TEST} OUT/p.parquet
test-stdout          evaluate --model net.prototxt --weights net.caffemodel -q --json > OUT/t.json
report-stdout        report --old old.npz --new new.npz --json > OUT/r.json
report               report --old old.npz --new new.npz --html OUT/r.html
export               export net.prototxt net.caffemodel -o OUT/net.onnx
show                 show net.prototxt --svg OUT/n.svg --html OUT/n.html --dot OUT/n.dot
show-stdout          show long.prototxt --json > OUT/n.json
predict              predict net.prototxt net.caffemodel photos --csv > OUT/answers.csv
completion           completion bash > OUT/fusion
compose-stdout       compose {_TWO} --dry-run > OUT/plan.txt
merge-stdout         merge fused/train_val.prototxt {_SOURCES} --dry-run --json > OUT/plan.json
verify               verify fused/train_val.prototxt merged.caffemodel odd=net.prototxt:net.caffemodel > OUT/v.txt
surgery-fold         surgery fold norm.prototxt norm.caffemodel -o OUT/w
surgery-head         surgery head net.prototxt net.caffemodel --drop ip2 --num-output 7 -o OUT/w
surgery-classes      surgery classes net.prototxt net.caffemodel --drop 1 --add fox -o OUT/w
surgery-channels     surgery channels gray.prototxt gray.caffemodel --channels 4 -o OUT/w
surgery-convolve     surgery convolve deploy.prototxt net.caffemodel -o OUT/w
surgery-dense        surgery dense full.prototxt full.caffemodel --input-shape data=1,1,8,8 -o OUT/w.h5
surgery-strip        surgery strip net.prototxt net.caffemodel -o OUT/w
surgery-restore      surgery restore net.prototxt head.caffemodel net.caffemodel -o OUT/w.safetensors
surgery-bake         surgery bake sums/deploy.prototxt sums.caffemodel -o OUT/w
surgery-group        surgery group fused/deploy.prototxt merged.caffemodel --branches odd even --dense -o OUT/w
surgery-soup         surgery soup net.prototxt net.caffemodel net.h5 -o OUT/w
surgery-interpolate  surgery interpolate net.prototxt net.caffemodel net.h5 --share 0.5 -o OUT/w
surgery-average      surgery average net.caffemodel net.h5 -o OUT/w
"""
_ONCE = ("convert-lmdb", "convert-leveldb", "convert-idx", "convert-idx-folders", "convert-cifar", "run-init")
_FRESH = (*_ONCE, "convert-list", "train-cache", "train-logits", "train-sweep")
_GROWS = ("train-logs", "train-tensorboard")
CASES = [
    Case(name, tuple(words), grows=name in _GROWS or ">" in words, fresh=name in _FRESH, once=name in _ONCE)
    for name, *words in map(shlex.split, _LINES.strip().replace("\n ", " ").splitlines())
]

_NET = """
layer { name: "data" type: "ImageData" top: "data" top: "label" image_data_param {
  source: "list.txt" batch_size: 4 is_color: false } transform_param { scale: 0.01 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 600 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include { phase: TEST } }
"""
_NORM = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 700 kernel_size: 8
  weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
"""
_JOB = """output = "OUT/job"
num_output = 3
[[source]]
prefix = "odd"
net = "net.prototxt"
weights = "net.caffemodel"
at = "ip1"
[[source]]
prefix = "even"
net = "net.prototxt"
weights = "net.caffemodel"
at = "ip1"
[[pct]]
kind = "kd"
[data]
train_list = "list.txt"
val_share = 0.25
[solver]
max_iter = 20
snapshot = 5
[train]
plot = "OUT/plot.png"
"""
_GRAY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 700 kernel_size: 8 } }
"""
_SOLVER = """net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 20 snapshot: 10 snapshot_prefix: "s"
test_iter: 2 test_interval: 10 display: 5 random_seed: 1 solver_mode: CPU type: "Adam"
"""
COUNTS: Counter[str] = Counter()  # of runs, by series


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many runs each series had."""
    if COUNTS:
        runs = ", ".join(f"{count} {series}" for series, count in COUNTS.items())
        terminalreporter.write_line(f"interrupted commands: {len(CASES)} command lines; runs: {runs}")


@pytest.fixture(scope="session")
def counts() -> Counter[str]:
    """Runs by series."""
    return COUNTS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that takes a case every command line."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=lambda case: case.name)


@dataclass(frozen=True)
class Run:
    """A finished process: its exit code (negative for the signal that killed it), stderr, and seconds."""

    code: int
    err: str
    seconds: float


@dataclass
class Commands:
    """Runs command lines in a folder with the files that they read; they write to `out`, always the same path."""

    folder: Path
    whole: dict[str, tuple[dict[str, bytes], float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    @property
    def out(self) -> Path:
        """Return the folder that commands write to, on a disk of its own where there is one."""
        return self.folder / "disk" / "out"

    def empty(self, files: dict[str, bytes] | None = None) -> None:
        """Empty the folder that commands write to, but for these files."""
        shutil.rmtree(self.out, ignore_errors=True)
        for name, content in ({} if files is None else files).items():
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (self.out / name).write_bytes(content)
        self.out.mkdir(parents=True, exist_ok=True)

    def run(self, case: Case, meanwhile: Callable[[int], None] = lambda process: None) -> Run:
        """Run a command line to its end, and `meanwhile` at the same time with the number of its process."""
        command, *words = (word.replace("OUT", str(self.out)) for word in case.words)
        out = words.pop() if ">" in words else os.devnull
        words = [word for word in words if word != ">"]
        job = {"folder": str(self.folder), "command": command, "words": words, "out": out, "err": f"{self.folder}/err"}
        start = time.monotonic()
        pipe, answers = cast("IO[str]", self._server.stdin), cast("IO[str]", self._server.stdout)
        pipe.write(json.dumps(job) + "\n")
        pipe.flush()
        process = int(answers.readline())
        meanwhile(process)
        code = int(answers.readline())
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # worker processes of a killed one
        return Run(code, (self.folder / "err").read_text(errors="replace"), time.monotonic() - start)

    def undisturbed(self, case: Case) -> tuple[dict[str, bytes], float]:
        """Return the files that a command writes, and its seconds."""
        if case.name not in self.whole:
            self.empty()
            done = self.run(case)
            assert done.code == 0, done.err
            self.whole[case.name] = files_in(self.out), done.seconds
        return self.whole[case.name]

    def close(self) -> None:
        """End the server."""
        cast("IO[str]", self._server.stdin).close()
        cast("IO[str]", self._server.stdout).close()
        self._server.wait(60)


def files_in(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """A folder with nets, weights, images and predictions, and a server that runs commands there."""
    if not hasattr(os, "fork"):
        pytest.skip("POSIX only")
    with tempfile.TemporaryDirectory(prefix="fusion-") as name:
        made = Commands(Path(name))
        made.empty()
        with suppress(OSError, subprocess.CalledProcessError):
            _mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(made.out.parent))
        try:
            made.empty()
            _write_inputs(made)
            yield made
        finally:
            made.close()
            if os.path.ismount(made.out.parent):
                subprocess.run(["umount", str(made.out.parent)], check=True)


def _write_inputs(commands: Commands) -> None:
    folder, rng = commands.folder, np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)).save(folder / f"{index}.png")
    for index in range(24):
        (folder / "photos" / "abc"[index % 3]).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / f"{index % 12}.png", folder / "photos" / "abc"[index % 3] / f"{index}.png")
    for name, array in (("images-idx3", rng.integers(0, 255, (100, 8, 8))), ("labels-idx1", np.arange(100) % 3)):
        sizes = np.array(array.shape, ">u4").tobytes()
        (folder / f"train-{name}-ubyte").write_bytes(
            bytes([0, 0, 8, array.ndim]) + sizes + array.astype("u1").tobytes()
        )
    batch = {"data": rng.integers(0, 255, (200, 3072)).astype("u1"), "labels": [0, 1, 2, 1] * 50}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, 2))
    (folder / "list.txt").write_text("".join(f"{index}.png {index % 3}\n" for index in range(12)))
    (folder / "net.prototxt").write_text(_NET)
    (folder / "long.prototxt").write_text(_NET + "# padding\n" * 20_000)
    (folder / "solver.prototxt").write_text(_SOLVER)
    (folder / "gray.prototxt").write_text(_GRAY)
    (folder / "job.toml").write_text(_JOB.replace("OUT", str(commands.out)))
    (folder / "norm.prototxt").write_text(_NORM)
    weights = {
        "ip1": [rng.random((600, 64), np.float32), np.zeros(600, np.float32)],
        "ip2": [rng.random((3, 600), np.float32), np.zeros(3, np.float32)],
    }
    write_weights(folder / "net.caffemodel", weights)
    write_weights(folder / "net.h5", weights)
    write_weights(folder / "head.caffemodel", {"ip2": weights["ip2"]})
    norm = [rng.random((700, 1, 8, 8), np.float32), np.zeros(700, np.float32)]
    ones = np.ones(700, np.float32)
    one = np.ones(1, np.float32)
    write_weights(folder / "gray.caffemodel", {"conv": norm})
    write_weights(folder / "norm.caffemodel", {"conv": norm, "bn": [ones, ones, one], "scale": [ones, ones]})
    write_solverstate(folder / "net.solverstate", SolverState(3, "net.caffemodel", [weights["ip1"][0]]))
    write_mean(folder / "mean.binaryproto", np.ones((3, 64, 64), np.float32))
    steps = f"""
convert net.prototxt OUT/deploy.prototxt --deploy
compose {_TWO} -o OUT/fused
compose {_TWO} --head softmax -o OUT/sums
merge fused/train_val.prototxt {_SOURCES} -o OUT/merged.caffemodel
merge sums/train_val.prototxt {_SOURCES} -o OUT/sums.caffemodel
surgery convolve deploy.prototxt net.caffemodel -o OUT/full
export net.prototxt net.caffemodel -o OUT/net.onnx
{_TEST} OUT/old.npz
{_TEST} OUT/new.npz
"""
    for line in steps.strip().splitlines():
        done = commands.run(Case("input", tuple(line.split())))
        assert done.code == 0, done.err
        shutil.copytree(commands.out, folder, dirs_exist_ok=True)


@dataclass(frozen=True)
class Disk:
    """A file system of its own."""

    folder: Path

    @contextmanager
    def free(self, size: int) -> Iterator[None]:
        """Leave so many bytes free."""
        ballast, now = self.folder / "ballast", os.statvfs(self.folder)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, now.f_bavail * now.f_bsize - size)
        try:
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Let nothing be written."""
        _mount("-o", "remount,ro", str(self.folder))
        try:
            yield
        finally:
            _mount("-o", "remount,rw", str(self.folder))


@pytest.fixture
def disk(commands: Commands) -> Disk:
    """The file system of 8 MB that commands write to."""
    if not os.path.ismount(commands.out.parent):
        assert os.environ.get("FUSION_CI") != "1" or os.geteuid(), "root cannot mount a file system"
        pytest.skip("only root may mount a file system, and not in every container")
    return Disk(commands.out.parent)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)
