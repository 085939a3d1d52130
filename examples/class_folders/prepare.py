"""Class folders and two trained nets to fuse: a Caffe net of five classes, and a PyTorch net of the other five.

    python prepare.py [DIRECTORY] [--images N]

This stands for the nets and photos of your own. It writes

    photos/train/zero/*.png ... photos/train/nine/*.png    and photos/test/...: all ten classes
    low/train_val.prototxt, low/low.caffemodel             trained by fusion-train on zero to four
    high/high.onnx                                         trained in PyTorch on five to nine, exported to ONNX
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from caffe_fusion_tools.train import main as fusion_train
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

from fusion.data.array_images import read_idx

MNIST = Path(__file__).resolve().parents[1] / "mnist_odd_even" / "data"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LOW, HIGH = NAMES[:5], NAMES[5:]

CAFFE_NET = """name: "low"
layer { name: "photos" type: "ImageData" top: "data" top: "label"
  transform_param { mean_value: 128 scale: 0.0078125 }
  image_data_param { source: "low/train" batch_size: 50 shuffle: true is_color: false } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 16 kernel_size: 5 stride: 2 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 32 kernel_size: 3 stride: 2 weight_filler { type: "msra" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "features" type: "InnerProduct" bottom: "conv2" top: "features"
  inner_product_param { num_output: 100 weight_filler { type: "msra" } } }
layer { name: "relu3" type: "ReLU" bottom: "features" top: "features" }
layer { name: "scores" type: "InnerProduct" bottom: "features" top: "scores"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }
"""
SOLVER = """net: "low/train_val.prototxt"
base_lr: 0.02 momentum: 0.9 weight_decay: 0.0005 lr_policy: "poly" power: 1
max_iter: %d display: 0 random_seed: 1 snapshot_prefix: "low/low"
"""


def main(argv: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("directory", type=Path, nargs="?", default=Path("work"), help="output directory (work)")
    options.add_argument("--images", type=int, default=300, metavar="N", help="images per class to train on (300)")
    arguments = options.parse_args(argv)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.directory)
    write_photos(arguments.images)
    train_caffe(arguments.images)
    train_torch(arguments.images)
    return 0


def write_photos(images: int) -> None:
    """Write the class folders, and folders of the five classes that each net knows."""
    for split, file, count in (("train", "train", images), ("test", "t10k", max(images // 3, 10))):
        labels = read_idx(MNIST / f"{file}-labels-idx1-ubyte.gz")
        pixels = read_idx(MNIST / f"{file}-images-idx3-ubyte.gz")
        for digit, name in enumerate(NAMES):
            folder = Path("photos", split, name)
            folder.mkdir(parents=True, exist_ok=True)
            for number in np.flatnonzero(labels == digit)[:count].tolist():
                Image.fromarray(pixels[number]).save(folder / f"{number:05d}.png")
    for net, names in (("low", LOW), ("high", HIGH)):
        for name in names:
            link = Path(net, "train", name)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(Path("../../photos/train", name), target_is_directory=True)


def train_caffe(images: int) -> None:
    """Train a net that a prototxt describes, on zero to four."""
    Path("low/train_val.prototxt").write_text(CAFFE_NET, encoding="utf-8")
    iterations = 2 * images
    Path("low/solver.prototxt").write_text(SOLVER % iterations, encoding="utf-8")
    if fusion_train(["--solver", "low/solver.prototxt", "--quiet"]):
        sys.exit(1)
    os.replace(f"low/low_iter_{iterations}.caffemodel", "low/low.caffemodel")
    print("low/low.caffemodel: knows four, one, three, two, zero")


def train_torch(images: int) -> None:
    """Train a PyTorch module on five to nine, and write it as ONNX."""
    torch.manual_seed(1)
    pixels = transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
    data = ImageFolder("high/train", pixels)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(800, 100), nn.ReLU(), nn.Linear(100, 5)),
    )
    rule = torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=5e-4)
    for _ in range(16):
        for image, label in torch.utils.data.DataLoader(data, 50, shuffle=True):
            rule.zero_grad()
            nn.functional.cross_entropy(net(image), label).backward()
            rule.step()
    torch.onnx.export(net.eval(), (torch.zeros(1, 1, 28, 28),), "high/high.onnx", dynamo=False, verbose=False)
    print(f"high/high.onnx: knows {', '.join(data.classes)}")


if __name__ == "__main__":
    raise SystemExit(main())
