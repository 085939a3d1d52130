"""Small nets to fuse, written for these tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

NET = """# a net of {name}
name: "{name}"
layer {{
  name: "images"
  type: "ImageData"
  top: "data"
  top: "label"
  include {{ phase: TRAIN }}
  transform_param {{ {transform} }}
  image_data_param {{ source: "train_{list}.txt" batch_size: 8 shuffle: true {image} }}
}}
layer {{
  name: "images"
  type: "ImageData"
  top: "data"
  top: "label"
  include {{ phase: TEST }}
  transform_param {{ {transform} }}
  image_data_param {{ source: "val_{list}.txt" batch_size: 4 {image} }}
}}

# edges and corners
layer {{
  name: "conv"
  type: "Convolution"
  bottom: "data"
  top: "conv"
  convolution_param {{ num_output: {maps} kernel_size: 3 }}  # small on purpose
}}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{
  name: "fc"
  type: "InnerProduct"
  bottom: "conv"
  top: "fc"
  inner_product_param {{ num_output: {width} }}
}}
layer {{ name: "drop" type: "Dropout" bottom: "fc" top: "fc" }}
layer {{
  name: "classes"
  type: "InnerProduct"
  bottom: "fc"
  top: "classes"
  inner_product_param {{ num_output: {outputs} }}
}}
layer {{
  name: "accuracy" type: "Accuracy" bottom: "classes" bottom: "label" top: "accuracy"
  include {{ phase: TEST }}
}}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "classes" bottom: "label" top: "loss" }}
"""

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a net that reads `train_all.txt` and `val_all.txt`, or lists of another name; returns its file."""

    def write(name: str, **values: object) -> Path:
        image = "is_color: false new_height: 8 new_width: 8"
        settings = {
            "list": "all",
            "transform": "scale: 0.5",
            "image": image,
            "maps": 2,
            "width": 6,
            "outputs": 3,
            **values,
        }
        path = tmp_path / f"{name}.prototxt"
        path.write_text(NET.format(name=name, **settings))
        return path

    return write
