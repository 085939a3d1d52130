"""Classification of images and windows, by nets whose numbers are counted by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fusion.pycaffe as caffe
from fusion.errors import DataError

# scores: the mean of the first channel, and the first pixel of the second
NET = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: 3 dim: 4 dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 bias_term: false weight_filler { type: "constant" } } }
"""
WEIGHTS = np.zeros((2, 3, 4, 4), np.float32)
WEIGHTS[0, 0] = 1 / 16
WEIGHTS[1, 1, 0, 0] = 1


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    model, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    model.write_text(NET)
    net = caffe.Net(str(model), caffe.TEST)
    net.params["ip"][0].data[...] = WEIGHTS.reshape(2, -1)
    net.save(str(weights))
    return str(model), str(weights)


def image(height: int, width: int) -> np.ndarray:
    """An image whose red is the row and whose green is the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.dstack([rows, columns, np.zeros_like(rows)]).astype(np.float32)


def test_the_centre_alone(files: tuple[str, str]) -> None:
    classifier = caffe.Classifier(*files, image_dims=(8, 10))
    assert isinstance(classifier, caffe.Net)
    found = classifier.predict([image(8, 10), image(8, 10) + 1], oversample=False)
    # rows 2 to 5 and columns from 3
    np.testing.assert_allclose(found, [[3.5, 3], [4.5, 4]], rtol=1e-5)


def test_ten_crops_are_averaged_over_more_than_a_batch(files: tuple[str, str]) -> None:
    found = caffe.Classifier(*files, image_dims=(8, 10)).predict([image(8, 10)] * 2)
    # first columns of the crops are 0, 6, 0, 6, 3, and of their mirror images 3, 9, 3, 9, 6
    np.testing.assert_allclose(found, [[(1.5 * 2 + 5.5 * 2 + 3.5) / 5, 4.5]] * 2, rtol=1e-5)


def test_images_are_resized_to_the_input_and_prepared(files: tuple[str, str]) -> None:
    classifier = caffe.Classifier(
        *files, mean=np.array([10.0, 20, 30]), input_scale=0.5, raw_scale=100, channel_swap=(2, 1, 0)
    )
    assert tuple(classifier.image_dims) == (4, 4)
    constant = np.ones((6, 6, 3), np.float32) * [1, 2, 3]
    found = classifier.predict([constant], oversample=False)
    np.testing.assert_allclose(found, [[(300 - 10) / 2, (200 - 20) / 2]], rtol=1e-5)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """An image whose red is 10 times the row and whose green is 10 times the column."""
    Image.fromarray((image(12, 16) * 10).astype(np.uint8)).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def test_windows_are_cut_out_and_warped(files: tuple[str, str], picture: str) -> None:
    detector = caffe.Detector(*files, raw_scale=255)
    windows = np.array([[2, 3, 6, 7], [0, 8, 8, 16]])
    found = detector.detect_windows([(picture, windows), (picture, windows[:1])])
    assert [(one["filename"], one["window"].tolist()) for one in found] == [
        (picture, [2, 3, 6, 7]), (picture, [0, 8, 8, 16]), (picture, [2, 3, 6, 7]),
    ]  # fmt: skip
    values = [one["prediction"] for one in found]
    np.testing.assert_allclose(values, [[35, 30], [35, 85], [35, 30]], rtol=1e-4)


def test_context_surrounds_a_window_and_the_mean_what_is_outside(files: tuple[str, str]) -> None:
    detector = caffe.Detector(*files, mean=np.array([50.0, 100, 150]), raw_scale=100, context_pad=1)
    # a window of 4 x 4 is twice as large with its context: rows 4 to 12, columns 6 to 14
    inside = detector.crop(image(20, 20), np.array([6, 8, 9, 11]))
    full = caffe.io.resize_image(image(20, 20)[4:12, 6:14], (4, 4))
    np.testing.assert_allclose(inside, full)
    # at the corner, the upper left quarter is outside
    corner = detector.crop(image(20, 20), np.array([0, 0, 3, 3]))
    np.testing.assert_allclose(corner[0], [[0.5, 1, 1.5]] * 4)
    np.testing.assert_allclose(corner[:, 0], [[0.5, 1, 1.5]] * 4)
    np.testing.assert_allclose(corner[1:, 1:], caffe.io.resize_image(image(20, 20)[:6, :6], (3, 3)))
    corner = detector.crop(image(20, 20), np.array([16, 16, 19, 19]))  # rows and columns 14 to 22
    np.testing.assert_allclose(corner[:3, :3], caffe.io.resize_image(image(20, 20)[14:, 14:], (3, 3)))
    np.testing.assert_allclose(corner[3], [[0.5, 1, 1.5]] * 4)
    np.testing.assert_allclose(corner[:, 3], [[0.5, 1, 1.5]] * 4)


def test_windows_that_cannot_be_cut(files: tuple[str, str]) -> None:
    detector = caffe.Detector(*files, context_pad=1)
    for window in ([40, 2, 44, 6], [2, 40, 6, 44]):
        with pytest.raises(DataError, match=rf"{re.escape(str(window))} is outside the image of 20 x 20"):
            detector.crop(image(20, 20), np.array(window))
    with pytest.raises(NotImplementedError, match=r"MATLAB.*detect_windows"):
        detector.detect_selective_search(["a.jpg"])


def test_the_padding_has_the_mean_in_the_order_of_the_image(files: tuple[str, str]) -> None:
    def padding(**options: Any) -> np.ndarray:
        return caffe.Detector(*files, context_pad=1, **options).crop_mean[0, 0]

    assert padding().tolist() == [0, 0, 0]
    assert padding(mean=np.array([10.0, 20, 30]), channel_swap=(2, 0, 1), raw_scale=10).tolist() == [2, 3, 1]
