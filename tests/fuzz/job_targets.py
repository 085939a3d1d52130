"""The readers of jobs as fuzz targets: job files, records of steps, choices of losses, and comments about classes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from caffe_fusion_tools.commands import MODULES

from fusion.data.image_list import ImageList
from fusion.data.list_files import write_list
from fusion.job.job import plan_job
from fusion.job.record import Record
from fusion.job.steps import JobStep
from fusion.sweep.choose_pct import _kept as kept_choice
from prototxt.formats.weights import write_weights
from prototxt.text.class_names import class_names_of, replace_class_comments
from prototxt.text.parser import parse


def job(path: Path) -> None:
    """A job: its steps, as `fusion run --dry-run` lists them."""
    named = path.with_suffix(".toml")
    named.write_bytes(path.read_bytes().replace(b"FOLDER", os.fsencode(_folder().name)))
    planned = plan_job(str(named), lambda command: import_module(f"caffe_fusion_tools.{MODULES[command]}").parser())
    assert len({step.name for step in planned.steps}) == len(planned.steps)


def job_record(path: Path) -> None:
    """The record in a job's folder: of steps that were begun and of those that are done; it is written again."""
    with TemporaryDirectory(dir=path.parent) as folder:
        Path(folder, "steps.json").write_bytes(path.read_bytes().replace(b"FOLDER", os.fsencode(_folder().name)))
        record = Record.read(folder)
        for step in _steps():
            action = record.action(step)
            record.begin(step, resume=action == "resume")
            record.end(step, 1.0)
            assert Record.read(folder).action(step) == "skip"


def pct_choice(path: Path) -> None:
    """The choice of a loss that a training keeps for its continuation."""
    choice = kept_choice(path, _ASKED)
    assert choice is None or isinstance(choice, str)


def class_comments(path: Path) -> None:
    """The class names and numbers in a net's comments, which are written and read again, equal."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    classes = class_names_of(parse(text, "input", tolerant=True))
    again = parse(replace_class_comments("", classes), "input", tolerant=True)
    assert class_names_of(again) == classes


TARGETS: dict[str, Callable[[Path], None]] = {
    "job": job,
    "job_record": job_record,
    "pct_choice": pct_choice,
    "class_comments": class_comments,
}


# -- seeds: small sound files of each kind ----------------------------------------------------------------------------

_NET = """name: "net"
layer { name: "data" type: "ImageData" top: "data" top: "label" image_data_param {
  source: "FOLDER/train.txt" batch_size: 2 new_height: 4 new_width: 4 is_color: false } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param { num_output: 3 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
_JOB = b"""num_output = 4
output = "FOLDER/out"
pct = "auto"
[[source]]
prefix = "low"
net = "FOLDER/net.prototxt"
weights = "FOLDER/net.caffemodel"
at = "ip1"
classes = [0, 1]
[[source]]
prefix = "high"
net = "FOLDER/net.prototxt"
weights = "FOLDER/net.caffemodel"
at = "ip1"
classes = [2, 3]
[data]
train_list = "FOLDER/train.txt"
val_share = 0.5
test_list = "FOLDER/train.txt"
[solver]
max_iter = 40
base_lr = 0.1
[merge]
seed = 1
[train]
keep = 2
plot = "plot.png"
[gate]
max_nfr = "1%"
classes = {1 = 0.5}
"""
_MORE = b"""
[verify]
rtol = 1e-5
[report]
title = "a"
[[pct]]
kind = "kd"
weight = 0.5
"""
_ASKED = {"references": ["a", "b"], "slack": 0.1}
_COMMENTS = b"""# class-names: ["zero", "one", "\\u00e9"]
# class-numbers: {"odd": [1], "even": [0, 2]}
name: "net"
"""


@cache
def _folder() -> TemporaryDirectory[str]:
    """Return a folder with the files that the jobs name."""
    made = TemporaryDirectory()
    folder = Path(made.name)
    write_list(folder / "train.txt", ImageList("", tuple("abcd"), np.arange(4), np.arange(4)))
    (folder / "net.prototxt").write_text(_NET.replace("FOLDER", made.name))
    ones = {"ip1": [np.ones((3, 16), "f4"), np.ones(3, "f4")], "ip2": [np.ones((2, 3), "f4"), np.ones(2, "f4")]}
    write_weights(folder / "net.caffemodel", ones)
    return made


def _steps() -> tuple[JobStep, ...]:
    """Return a step, and a training that can be resumed."""
    name = _folder().name
    files = {"inputs": (f"{name}/net.prototxt",), "outputs": (f"{name}/net.caffemodel",)}
    return (
        JobStep("merge", "merge", ("a",), **files),
        JobStep("train", "train", ("b",), **files, snapshots=f"{name}/none"),
    )


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Small sound files for each target."""
    record = Record(str(folder))
    for step in _steps():
        record.begin(step, resume=False)
    record.end(_steps()[0], 1.5)
    return {
        "job": [_JOB, _JOB.replace(b'pct = "auto"\n', b"") + _MORE],
        "job_record": [(folder / "steps.json").read_bytes().replace(os.fsencode(_folder().name), b"FOLDER")],
        "pct_choice": [
            json.dumps({"pct": "kd,weight=0.5", "asked": {"references": ["a", "b"], "slack": 0.1}}).encode()
        ],
        "class_comments": [_COMMENTS],
    }
