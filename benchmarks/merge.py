"""Composing and merging two ResNet-101, four times that, and two LeNets: whole processes, beside `cat a b > c`.

The source nets have random weights; `cat` and the merge take turns, without fsync. The merge's start-up (the same
command with --dry-run) is measured and subtracted for the comparison with `cat`. A command that imports torch fails.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from nets import dense, input_data, lenet_body, resnet_body
from timing import interleaved, machine, process, table

import prototxt
from fusion.pycaffe.net_spec import NetSpec, Top, layers as L
from prototxt.formats.caffemodel import CaffemodelWriter
from prototxt.schema.messages import NetParameter
from prototxt.shapes import infer

RUN = "import sys; from caffe_fusion_tools.{} import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
MERGE = [sys.executable, "-c", RUN.format("merge"), "fused.prototxt"]
MERGE += ["a=a.prototxt:a.caffemodel", "b=b.prototxt:b.caffemodel"]
COMPOSE = [sys.executable, "-c", RUN.format("compose"), "--num-output", "10", "--train-list", "t", "--val-list", "v"]


def write_nets(folder: Path, width: int) -> None:
    """Write two nets with weights, and their fused net: ResNet-101 of a width, or LeNets for 0."""

    def body(n: NetSpec, prefix: str) -> Top:
        return resnet_body(n, prefix, width, (3, 4, 23, 3), frozen=True) if width else lenet_body(n, prefix)

    size = (3, 224) if width else (1, 28)
    for index, name in enumerate("ab"):
        n = input_data(*size)
        body(n, "")
        write_net(folder, name, n, seed=index)
    n = input_data(*size)
    n.both = L.Concat(body(n, "a/"), body(n, "b/"))
    n.fc = dense(n.both, 100 if width else 10)
    (folder / "fused.prototxt").write_text(str(n.to_proto()))


def write_net(folder: Path, name: str, n: NetSpec, seed: int) -> None:
    """Write a prototxt and random weights for it."""
    (folder / f"{name}.prototxt").write_text(str(n.to_proto()))
    net: NetParameter = prototxt.load_net(folder / f"{name}.prototxt")
    rng = np.random.default_rng(seed)
    with CaffemodelWriter(folder / f"{name}.caffemodel", name) as writer:
        for layer, shapes in zip(net.layer, infer(net).params, strict=True):
            blobs = [rng.random([dim or 1 for dim in shape], np.float32) for shape in shapes]
            writer.add_layer(layer.name, layer.type, layer.bottom, layer.top, blobs)


def measure(title: str, folder: Path, cut: str, rounds: int = 11) -> list[object]:
    """Return one row: sizes; seconds of composing, the whole merge, its start-up and cat; their ratio; peak of memory.

    cut  the blob at which the two nets are cut for composing
    """
    compose = [*COMPOSE, "--source", f"a=a.prototxt@{cut}", "--source", f"b=b.prototxt@{cut}", "-o", "composed"]
    cwd = str(folder)
    peaks: list[float] = []

    def merged() -> float:
        (folder / "out.caffemodel").unlink(missing_ok=True)
        run = process([*MERGE, "-o", "out.caffemodel"], cwd=cwd)
        peaks.append(run.peak_mib)
        return run.wall

    def concatenated() -> float:
        (folder / "out.cat").unlink(missing_ok=True)
        return process(["sh", "-c", "cat a.caffemodel b.caffemodel > out.cat"], cwd=cwd).wall

    rivals = {
        "compose": lambda: process(compose, cwd=cwd).wall,
        "merge": merged,
        "start": lambda: process([*MERGE, "--dry-run"], cwd=cwd).wall,
        "cat": concatenated,
    }
    figures = interleaved(rivals, rounds=rounds)
    size = sum((folder / f"{name}.caffemodel").stat().st_size for name in "ab") / 1e6
    beyond = figures["merge"] - figures["start"]
    ratio = f"{beyond / figures['cat']:.2f}x" if size > 100 else "-"
    seconds = [f"{figures[name]:.2f} s" for name in rivals]
    return [title, f"{size:.0f} MB", *seconds, ratio, f"{max(peaks):.0f} MiB"]


def main() -> None:
    rows = []
    for title, width, cut in (
        ("two LeNets", 0, "ip1"),
        ("two ResNet-101", 64, "pool5"),
        ("four times that", 128, "pool5"),
    ):
        with tempfile.TemporaryDirectory() as name:
            # In another process: a child's peak memory includes that of its parent when it was forked.
            subprocess.run([sys.executable, __file__, name, str(width)], check=True)
            rows.append(measure(title, Path(name), cut))
    header = ["nets", "sources", "compose", "merge", "start-up", "cat", "beyond start-up", "peak memory"]
    print(table(header, rows))
    print(f"\n{machine()}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        write_nets(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
