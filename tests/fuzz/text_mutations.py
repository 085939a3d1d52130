"""Hostile prototxts: real ones, damaged by someone who knows the format."""

from __future__ import annotations

import random
import re
from pathlib import Path

_ODD_NUMBERS = """
    0 -1 1 2147483647 2147483648 -2147483649 4294967296 9223372036854775807 18446744073709551616 1e38 1e39 1e999
    -1e999 nan -nan inf 0x7fffffff 0xffffffffffffffffff 017 08 .5 1. 1e-46 99999999999999999999999999999999 1f 1e 0x
"""
_NUMBERS = _ODD_NUMBERS.split()
_PIECES = (
    *("{", "}", "<", ">", "[", "]", "[[", ":", ";", ",", "#", '"', "'", "\\", '\\"', '"a" "b"', "'\\377\\0\\x'", '"\\'),
    *(
        "\0",
        "\r",
        "\r\n",
        "\t",
        "\ufeff",
        "\x1c",
        "\u2028",
        "\udcff",
        "é",
        "\U0001f600",
        "[a.b/c]",
        "[x] { }",
        "-",
        "- 1",
    ),
    *(
        "layer",
        "layers",
        "layer {",
        "layer {}",
        "layer { layer {",
        "param",
        'param: "w"',
        "param { }",
        "name",
        'name: "a"',
    ),
    *('bottom: "data"', 'top: "data"', 'bottom: ["a", "b"]', "input_dim: 4", 'input: "x"', "input_shape { dim: 3 }"),
    *("blobs_lr: 1", "weight_decay: 1", "type: CONVOLUTION", 'type: "conv"', "type: NONE", "include { phase: TEST }"),
    *("exclude { not_stage: 'a' }", "loss_weight: 1", "propagate_down: true", "pad: 1", "kernel_size: 3", "axis: -9"),
    *("transform_param { crop_size: 3 }", "blobs { data: 1 data: [2, 3] }", "data_param { scale: 2 }", "stage: 'x'"),
    *("net_param { ", "test_net_param { ", 'net: "a"', "solver_type: ADAM", "lr_policy: 'step'", "test_iter: 1"),
    *("reshape_param { shape { dim: 0 dim: -1 } }", "slice_param { slice_point: [1, 2] }", "phase: TRAIN"),
)
_LAYER_TYPES = """
    AbsVal Accuracy ArgMax BatchNorm BatchReindex Bias Concat Convolution Crop Data Deconvolution DummyData
    Eltwise Embed Filter Flatten HDF5Data Im2col ImageData InfogainLoss InnerProduct Input LRN LSTM MVN
    MemoryData Parameter Pooling Python RNN Reduction Reshape SPP Scale Slice Softmax SoftmaxWithLoss Split
    Tile WindowData WeightedSum Gate Onnx KDLoss BN Lstm Permute PriorBox Yolov3 Upsample Interp Transpose
    MultiBoxLoss Proposal
"""
_TYPES = _LAYER_TYPES.split()
_NUMBER = re.compile(r"-?\b\d+(?:\.\d+)?\b")
_WORD = re.compile(r"\b[A-Za-z_]\w*\b")
_TYPE = re.compile(r"type:\s*[\"']\w+[\"']")
_BRACKET = re.compile(r"[{}]")


def seeds(golden: Path) -> list[str]:
    """Small texts of every age and kind, among them the nets of all layer types."""
    paths = [path for path in sorted(golden.rglob("*.prototxt")) if path.stat().st_size < 20_000]
    return [path.read_bytes().decode("utf-8", "surrogateescape") for path in paths] + list(_OLD)


def mutate(rng: random.Random, texts: list[str]) -> str:
    """One hostile text."""
    text = rng.choice(texts)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        text = rng.choice(_MUTATIONS)(rng, text, texts)
        if len(text) > 400_000:
            break
    return text


def _cut(rng: random.Random, text: str, texts: list[str]) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _flip(rng: random.Random, text: str, texts: list[str]) -> str:
    data = bytearray(text.encode("utf-8", "surrogateescape"))
    for _ in range(rng.choice((1, 1, 3, 20))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data.decode("utf-8", "surrogateescape")


def _span(rng: random.Random, text: str) -> tuple[int, int]:
    start = rng.randrange(len(text) + 1)
    return start, min(len(text), start + rng.choice((1, 2, 5, 20, 80, 400)))


def _remove(rng: random.Random, text: str, texts: list[str]) -> str:
    start, end = _span(rng, text)
    return text[:start] + text[end:]


def _repeat(rng: random.Random, text: str, texts: list[str]) -> str:
    start, end = _span(rng, text)
    times, most = rng.choice((2, 2, 2, 3, 10, 200, 5000)), rng.choice((5_000, 5_000, 5_000, 20_000, 200_000))
    return text[:start] + text[start:end] * min(times, most // max(1, end - start)) + text[end:]


def _insert(rng: random.Random, text: str, texts: list[str]) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(("", " ", "\n")) + rng.choice(_PIECES) + rng.choice(("", " ", "\n")) + text[at:]


def _replace(rng: random.Random, text: str, pattern: re.Pattern[str], new: str) -> str:
    found = list(pattern.finditer(text))
    if not found:
        return text + new
    match = rng.choice(found)
    return text[: match.start()] + new + text[match.end() :]


def _number(rng: random.Random, text: str, texts: list[str]) -> str:
    return _replace(rng, text, _NUMBER, rng.choice(_NUMBERS))


def _word(rng: random.Random, text: str, texts: list[str]) -> str:
    words = _WORD.findall(rng.choice(texts)) or ["x"]
    return _replace(rng, text, _WORD, rng.choice(words))


def _type(rng: random.Random, text: str, texts: list[str]) -> str:
    return _replace(rng, text, _TYPE, f'type: "{rng.choice(_TYPES)}"')


def _bracket(rng: random.Random, text: str, texts: list[str]) -> str:
    return _replace(rng, text, _BRACKET, rng.choice(("", "{", "}", "<", ">", "[", "]", "{ {", "} }")))


def _splice(rng: random.Random, text: str, texts: list[str]) -> str:
    other = rng.choice(texts)
    start, end = _span(rng, other)
    at, behind = _span(rng, text)
    return text[:at] + other[start:end] + text[rng.choice((at, behind)) :]


def _lines(rng: random.Random, text: str, texts: list[str]) -> str:
    lines = text.splitlines(keepends=True)
    rng.shuffle(lines) if rng.random() < 0.2 else lines.insert(
        rng.randrange(len(lines) + 1), rng.choice(lines or ["\n"])
    )
    return "".join(lines)


def _nest(rng: random.Random, text: str, texts: list[str]) -> str:
    depth = rng.choice((5, 5, 99, 100, 101, 5000))
    opening, closing = rng.choice((("layer {", "}"), ("a <", ">"), ("net_param {", "}"), ("x [", "]"), ("x: [{", "}]")))
    at = rng.randrange(len(text) + 1)
    return text[:at] + opening * depth + (closing * depth if rng.random() < 0.6 else "") + text[at:]


def _one_line(rng: random.Random, text: str, texts: list[str]) -> str:
    return " ".join(line.strip() for line in text.split("\n"))


def _long(rng: random.Random, text: str, texts: list[str]) -> str:
    count = rng.choice((1000, 1000, 1000, 5_000, 5_000, 30_000, 200_000))
    piece = rng.choice(("a", "1", " ", '"', "\\\\", "'a'", '"b" ', "#", "-", "\n", "0.", "{}", "x:1 ", "[", "\\n", "é"))
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(("", '"', "#", "a: ", "a: [")) + piece * (count // len(piece)) + text[at:]


_MUTATIONS = (
    *(_cut, _flip, _remove, _repeat, _insert, _insert, _number, _number, _word, _word, _type, _bracket, _splice),
    *(_splice, _lines, _nest, _one_line, _long),
)
_OLD = (
    """input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { layer { name: "pad1" type: "padding" pad: 1 } bottom: "data" top: "pad1" }
layers { layer { name: "conv1" type: "conv" num_output: 4 kernelsize: 3 weight_filler { type: "gaussian" std: 0.01 }
  blobs_lr: 1. blobs_lr: 2. weight_decay: 1. weight_decay: 0. } bottom: "pad1" top: "conv1" } # V0
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.4 } bottom: "conv1" top: "conv1" }
layers { layer { name: "fc" type: "innerproduct" num_output: 2 biasterm: false } bottom: "conv1" top: "fc" }
""",
    """name: 'v1' input: 'data' input_shape { dim: [1, 3, 8, 8] }
layers { name: "d" type: IMAGE_DATA top: "x" top: "label" image_data_param { source: "s" mean_file: "m" scale: .5
  crop_size: 3 mirror: true } include: { phase: TRAIN } }
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2 weight_decay: 1
  param: "w" param: "b" convolution_param { num_output: 2 kernel_size: 3 } } # a comment
layers { name: "bn" type: BN bottom: "conv" top: "bn" bn_param { scale_filler { type: "constant" value: 1 } } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "conv" bottom: "label" top: "loss" loss_weight: 1 }
""",
    """net: "a.prototxt" test_iter: 10 test_interval: 100 base_lr: 1e-2 lr_policy: "multistep" stepvalue: [10, 20]
momentum: 0.9 weight_decay: 0.0005 solver_type: NESTEROV solver_mode: CPU snapshot_prefix: "x" display: 100
test_state { stage: "a" level: 1 } net_param { layer { name: "d" type: "DummyData" top: "x"
  dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "uniform" min: -1 max: 1 } } } }
""",
)
