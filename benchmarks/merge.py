"""Composing and merging two ResNet-101, four times that, and two LeNets: whole processes, beside `cat a b > c`.

The source nets are made here with random weights; `cat` and the merge take turns, without fsync. The merge's start-up
(the same command with --dry-run) is measured and taken off for the comparison with `cat`, as the claim says. Neither
command may import torch: one that does fails.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from timing import interleaved, machine, process, table

import prototxt
from prototxt.formats.caffemodel import CaffemodelWriter
from prototxt.schema.messages import NetParameter
from prototxt.shapes import infer


def convolution(name: str, bottom: str, top: str, channels: int, kernel: int, stride: int = 1) -> str:
    """A convolution without bias, BatchNorm and Scale."""
    sizes = f"num_output: {channels} kernel_size: {kernel} stride: {stride} pad: {kernel // 2} bias_term: false"
    return f"""
layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{top}" param {{ lr_mult: 0 }}
  convolution_param {{ {sizes} weight_filler {{ type: "msra" }} }} }}
layer {{ name: "{name}_bn" type: "BatchNorm" bottom: "{top}" top: "{top}" }}
layer {{ name: "{name}_scale" type: "Scale" bottom: "{top}" top: "{top}" param {{ lr_mult: 0 }} param {{ lr_mult: 0 }}
  scale_param {{ bias_term: true }} }}"""


def resnet(prefix: str, width: int = 64, depths: tuple[int, ...] = (3, 4, 23, 3)) -> tuple[str, str]:
    """A ResNet's layers as text with a prefix before every name, and its last blob."""
    parts = [convolution(f"{prefix}conv1", "data", f"{prefix}conv1", width, 7, 2)]
    bottom = f"{prefix}conv1"
    for stage, depth in enumerate(depths):
        channels = width << stage
        for block in range(depth):
            name = f"{prefix}res{stage + 2}_{block}"
            stride = 2 if block == 0 and stage else 1
            parts += [
                convolution(f"{name}_a", bottom, f"{name}_a", channels, 1, stride),
                convolution(f"{name}_b", f"{name}_a", f"{name}_b", channels, 3),
                convolution(f"{name}_c", f"{name}_b", f"{name}_c", 4 * channels, 1),
            ]
            shortcut = bottom
            if block == 0:
                shortcut = f"{name}_s"
                parts.append(convolution(shortcut, bottom, shortcut, 4 * channels, 1, stride))
            parts.append(
                f'layer {{ name: "{name}" type: "Eltwise" bottom: "{name}_c" bottom: "{shortcut}" top: "{name}" }}'
            )
            bottom = name
    pool = f"{prefix}pool"
    parts.append(
        f'layer {{ name: "{pool}" type: "Pooling" bottom: "{bottom}" top: "{pool}" '
        "pooling_param { pool: AVE global_pooling: true } }"
    )
    return "\n".join(parts), pool


RUN = "import sys; from caffe_fusion_tools.{} import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
MERGE = [sys.executable, "-c", RUN.format("merge"), "fused.prototxt"]
MERGE += ["a=a.prototxt:a.caffemodel", "b=b.prototxt:b.caffemodel"]
COMPOSE = [sys.executable, "-c", RUN.format("compose"), "--num-output", "10", "--train-list", "t", "--val-list", "v"]
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } } }\n'


def write_resnets(folder: Path, width: int) -> None:
    """Two nets with weights, and their fused net."""
    parts, bottoms = [INPUT], []
    for index, name in enumerate(("a", "b")):
        text, _ = resnet("", width)
        write_net(folder, name, INPUT + text, seed=index)
        fused, top = resnet(f"{name}/", width)
        parts.append(fused)
        bottoms.append(f'bottom: "{top}"')
    parts.append(f'layer {{ name: "concat" type: "Concat" {" ".join(bottoms)} top: "both" }}')
    parts.append(
        'layer { name: "fc" type: "InnerProduct" bottom: "both" top: "fc" inner_product_param { num_output: 100 '
        'weight_filler { type: "xavier" } } }'
    )
    (folder / "fused.prototxt").write_text("\n".join(parts))


def write_net(folder: Path, name: str, text: str, seed: int) -> None:
    """A prototxt and random weights for it."""
    (folder / f"{name}.prototxt").write_text(text)
    net: NetParameter = prototxt.load_net(folder / f"{name}.prototxt")
    rng = np.random.default_rng(seed)
    with CaffemodelWriter(folder / f"{name}.caffemodel", name) as writer:
        for layer, shapes in zip(net.layer, infer(net).params, strict=True):
            blobs = [rng.random([dim or 1 for dim in shape], np.float32) for shape in shapes]
            writer.add_layer(layer.name, layer.type, layer.bottom, layer.top, blobs)


def lenet(prefix: str) -> str:
    """The tutorial's LeNet up to its first dense layer."""
    return f"""
layer {{ name: "{prefix}conv1" type: "Convolution" bottom: "data" top: "{prefix}conv1"
  convolution_param {{ num_output: 20 kernel_size: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "{prefix}pool1" type: "Pooling" bottom: "{prefix}conv1" top: "{prefix}pool1"
  pooling_param {{ kernel_size: 2 stride: 2 }} }}
layer {{ name: "{prefix}conv2" type: "Convolution" bottom: "{prefix}pool1" top: "{prefix}conv2"
  convolution_param {{ num_output: 50 kernel_size: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "{prefix}pool2" type: "Pooling" bottom: "{prefix}conv2" top: "{prefix}pool2"
  pooling_param {{ kernel_size: 2 stride: 2 }} }}
layer {{ name: "{prefix}ip1" type: "InnerProduct" bottom: "{prefix}pool2" top: "{prefix}ip1"
  inner_product_param {{ num_output: 500 weight_filler {{ type: "xavier" }} }} }}"""


def write_lenets(folder: Path) -> None:
    """Two LeNets with weights, and their fused net."""
    data = INPUT.replace("dim: 3 dim: 224 dim: 224", "dim: 1 dim: 28 dim: 28")
    for index, name in enumerate(("a", "b")):
        write_net(folder, name, data + lenet(""), seed=index)
    head = """
layer { name: "concat" type: "Concat" bottom: "a/ip1" bottom: "b/ip1" top: "both" }
layer { name: "ip2" type: "InnerProduct" bottom: "both" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }"""
    (folder / "fused.prototxt").write_text(data + lenet("a/") + lenet("b/") + head)


def measure(title: str, folder: Path, cut: str, rounds: int = 11) -> list[object]:
    """One row: sizes, seconds of composing, of the whole merge, of its start-up, of cat, their ratio; peak of memory.

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
        ("two ResNet-101", 64, "pool"),
        ("four times that", 128, "pool"),
    ):
        with tempfile.TemporaryDirectory() as name:
            # In a process of its own: a child's peak of memory counts from what its parent had when it was forked.
            subprocess.run([sys.executable, __file__, name, str(width)], check=True)
            rows.append(measure(title, Path(name), cut))
    header = ["nets", "sources", "compose", "merge", "start-up", "cat", "beyond start-up", "peak memory"]
    print(table(header, rows))
    print(f"\n{machine()}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        target, net_width = Path(sys.argv[1]), int(sys.argv[2])
        write_resnets(target, net_width) if net_width else write_lenets(target)
    else:
        main()
