"""Nets that score every position of a map are fused by a 1x1 convolution, and keep what follows their classifiers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fusion
import prototxt
from fusion import ComposeError
from fusion.composition import Composition, Source, compose
from prototxt.schema.messages import LayerParameter, NetParameter

DATA = """
name: "{name}"
layer {{ name: "data" type: "HDF5Data" top: "data" top: "seg" hdf5_data_param {{ source: "l.txt" batch_size: 2 }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: {maps} kernel_size: 3 pad: 1 stride: {stride}
    weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
"""
SCORES = """
layer { name: "scores" type: "Convolution" bottom: "conv1" top: "scores" convolution_param { num_output: 3 %s } }
"""
LOSS = 'layer { name: "loss" type: "%s" bottom: "%s" bottom: "seg" top: "loss" loss_param { ignore_label: 255 } }\n'
UP = """
layer { name: "up" type: "Deconvolution" bottom: "scores" top: "up" param { lr_mult: %s }
  convolution_param { num_output: 3 kernel_size: 4 stride: 2 %s } }
layer { name: "cut" type: "Crop" bottom: "up" bottom: "data" top: "cut" crop_param { axis: 2 offset: 1 } }
"""


def write(tmp_path: Path, rest: str, name: str = "one", stride: int = 1, maps: int = 4) -> Path:
    path = tmp_path / f"{name}.prototxt"
    path.write_text(DATA.format(name=name, stride=stride, maps=maps) + rest)
    return path


def fused(*paths: Path, size: int = 8, num_output: int = 5, **options: object) -> Composition:
    sources = [Source(f"s{index}", path, at="conv1") for index, path in enumerate(paths)]
    return compose(sources, num_output=num_output, input_shape=(3, size, size), **options)  # type: ignore[arg-type]


def layers(document: prototxt.Document) -> dict[str, LayerParameter]:
    return {layer.name: layer for layer in prototxt.load_net(document).layer}


def loss_value(net: NetParameter, size: int, seg: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    shapes = {"data": (2, 3, size, size), "seg": tuple(seg.shape)}
    built = fusion.build(net, "TEST", shapes, seed=1)
    found = built({"data": torch.randn(2, 3, size, size, generator=torch.manual_seed(0)), "seg": seg})
    return found["loss"].detach(), found


@pytest.mark.parametrize("head", ["concat-fc", "concat-mlp", "sum", "mean", "max", "gated"])
def test_every_position_is_scored(tmp_path: Path, head: str) -> None:
    path = write(tmp_path, SCORES % "kernel_size: 1" + LOSS % ("SoftmaxWithLoss", "scores"))
    composed = fused(path, path, head=head)
    found = layers(composed.train_val)
    assert found["scores"].type == "Convolution"
    assert list(found["scores"].convolution_param.kernel_size) == [1]
    assert found["scores"].convolution_param.num_output == 5
    assert found["accuracy"].accuracy_param.ignore_label == 255
    assert composed.deploy is not None
    shapes = prototxt.infer_shapes(prototxt.load_net(composed.deploy))
    assert shapes["prob"] == (1, 5, 8, 8)
    seg = torch.randint(0, 5, (2, 8, 8), generator=torch.manual_seed(2)).float()
    seg[:, 0] = 255
    value, out = loss_value(prototxt.load_net(composed.train_val), 8, seg)
    assert out["loss"].ndim == 0
    assert 0.5 < float(value) < 6


def test_upsampling_and_crop_go_along(tmp_path: Path) -> None:
    rest = SCORES % "kernel_size: 1" + UP % (0, "bias_term: false") + LOSS % ("SoftmaxWithLoss", "cut")
    composed = fused(write(tmp_path, rest, stride=2))
    found = layers(composed.train_val)
    up = found["up"].convolution_param
    assert (up.num_output, up.group, up.weight_filler.type) == (5, 5, "bilinear")
    assert found["up"].param[0].lr_mult == 0
    assert list(found["up"].bottom) == ["scores"]
    assert list(found["cut"].bottom) == ["up", "data"]
    assert found["loss"].bottom[0] == found["accuracy"].bottom[0] == "cut"
    assert composed.deploy is not None
    assert prototxt.infer_shapes(prototxt.load_net(composed.deploy))["prob"] == (1, 5, 8, 8)
    built = fusion.build(prototxt.load_net(composed.deploy), seed=0)
    kernel = fusion.params(built)["up"][0].detach().numpy()
    line = np.array([0.25, 0.75, 0.75, 0.25], np.float32)
    assert kernel.shape == (5, 1, 4, 4)
    np.testing.assert_allclose(kernel[3, 0], np.outer(line, line))


def test_upsampling_that_learns_goes_on_learning(tmp_path: Path) -> None:
    learned = UP % (0.5, 'weight_filler { type: "gaussian" std: 0.1 }')
    composed = fused(write(tmp_path, SCORES % "kernel_size: 1" + learned + LOSS % ("SoftmaxWithLoss", "cut"), stride=2))
    up = layers(composed.train_val)["up"]
    assert up.param[0].lr_mult == 0.5
    assert (up.convolution_param.group, up.convolution_param.num_output) == (1, 5)
    assert up.convolution_param.weight_filler.type == "gaussian"


@pytest.mark.parametrize("kind", ["EuclideanLoss", "SigmoidCrossEntropyLoss"])
def test_maps_of_values_keep_their_loss(tmp_path: Path, kind: str) -> None:
    loss = f'layer {{ name: "loss" type: "{kind}" bottom: "scores" bottom: "seg" top: "loss" }}\n'
    composed = fused(write(tmp_path, SCORES % "kernel_size: 3 pad: 1" + loss), num_output=3)
    value, _ = loss_value(prototxt.load_net(composed.train_val), 8, torch.zeros(2, 3, 8, 8))
    assert float(value) > 0
    with pytest.raises(ComposeError, match="one output per value of its label, 3, not 5"):
        fused(write(tmp_path, SCORES % "kernel_size: 1" + loss))


def test_what_no_such_head_can_serve(tmp_path: Path) -> None:
    plain = SCORES % "kernel_size: 1" + LOSS % ("SoftmaxWithLoss", "scores")
    with pytest.raises(ComposeError, match="changes the size of the map"):
        fused(write(tmp_path, SCORES % "kernel_size: 3" + LOSS % ("SoftmaxWithLoss", "scores")))
    with pytest.raises(ComposeError, match="the maps differ in size"):
        fused(write(tmp_path, plain), write(tmp_path, plain, "two", stride=2))
    with pytest.raises(ComposeError, match="averages maps over their positions"):
        fused(write(tmp_path, plain), maps="levels")
    with pytest.raises(ComposeError, match="scores every position of a map"):
        fused(write(tmp_path, plain), pct="kd", num_output=3)
    skip = """
    layer { name: "low" type: "Convolution" bottom: "data" top: "low"
      convolution_param { num_output: 3 kernel_size: 1 } }
    layer { name: "crop" type: "Crop" bottom: "scores" bottom: "low" top: "crop" }
    """
    with pytest.raises(ComposeError, match="also reads 'low'"):
        fused(write(tmp_path, SCORES % "kernel_size: 1" + skip + LOSS % ("SoftmaxWithLoss", "crop")))
    norm = 'layer { name: "n" type: "LRN" bottom: "scores" top: "n" }\n'
    with pytest.raises(ComposeError, match=r"layer 'n' \(LRN\) between its classifier and its loss"):
        fused(write(tmp_path, SCORES % "kernel_size: 1" + norm + LOSS % ("SoftmaxWithLoss", "n")))


def test_whole_samples_are_no_positions(tmp_path: Path) -> None:
    pool = """
    layer { name: "p" type: "Pooling" bottom: "scores" top: "p" pooling_param { pool: AVE global_pooling: true } }
    """
    averaged = write(tmp_path, SCORES % "kernel_size: 1" + pool + LOSS % ("SoftmaxWithLoss", "p"))
    assert layers(fused(averaged).train_val)["scores"].type == "InnerProduct"
    whole = write(tmp_path, SCORES % "kernel_size: 8" + LOSS % ("SoftmaxWithLoss", "scores"), "two")
    assert layers(fused(whole).train_val)["scores"].type == "InnerProduct"
    every = write(tmp_path, SCORES % "kernel_size: 1" + LOSS % ("SoftmaxWithLoss", "scores"), "three")
    with pytest.raises(ComposeError, match="source 's1' scores every position of a map, the others whole samples"):
        fused(averaged, every)


def test_heads_of_the_sources_own_scores_keep_positions(tmp_path: Path) -> None:
    path = write(
        tmp_path, SCORES % 'kernel_size: 1 weight_filler { type: "xavier" }' + LOSS % ("SoftmaxWithLoss", "scores")
    )
    data = {"data": torch.randn(1, 3, 8, 8, generator=torch.manual_seed(0))}
    for head in ("zero-init", "logits"):
        composed = fused(path, path, head=head, num_output=3)
        net = fusion.build(prototxt.load_net(composed.deploy), seed=2)
        found = {name: blob.detach().double().numpy() for name, blob in fusion.blobs(net, data).items()}
        sources = [found[f"s{index}/scores"] for index in range(2)]
        assert sources[0].shape == (1, 3, 8, 8)
        logs = [one - np.log(np.exp(one).sum(1, keepdims=True)) for one in sources]
        expected = sources[0] if head == "zero-init" else (logs[0] + logs[1]) / 2
        np.testing.assert_allclose(found["scores"], expected, atol=1e-5)
        assert found["prob"].shape == (1, 3, 8, 8)
