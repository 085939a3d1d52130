"""Classify images with the preparation of `caffe.io`, as `caffe.Classifier` does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.layers.pycaffe import TEST
from fusion.pycaffe import io
from fusion.pycaffe.net import Net


class Classifier(Net):
    """A net in phase TEST that classifies images [H, W, K] of any size.

    image_dims    (height, width) to which images are resized before crops are taken; None: the net's input size
    mean          [K] or [K, H, W], see `io.Transformer`; so are the others
    transformer   the preparation of the net's first input
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        image_dims: io.Dims | None = None,
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].data.shape[2:])
        self.image_dims: io.Dims = image_dims if image_dims is not None and len(image_dims) else self.crop_dims

    def predict(self, inputs: Sequence[NDArray[Any]], oversample: bool = True) -> NDArray[np.float32]:
        """Return the net's first output for each image.

        oversample  average over centre, corners and their mirror images, or take the centre alone
        returns     float32 [N, C]
        """
        images = np.stack([io.resize_image(image, self.image_dims) for image in inputs])
        if oversample:
            images = io.oversample(images, self.crop_dims)
        else:
            top, left = io.centre(self.image_dims, self.crop_dims)
            images = images[:, top : top + self.crop_dims[0], left : left + self.crop_dims[1]]
        predictions = predict_images(self, self.transformer, images)
        if oversample:
            predictions = predictions.reshape(len(predictions) // 10, 10, -1).mean(1)
        return predictions


def predict_images(net: Net, transformer: io.Transformer, images: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the net's first output for prepared images, batch by batch."""
    name = net.inputs[0]
    prepared = np.stack([transformer.preprocess(name, image) for image in images])
    return np.asarray(net.forward_all(None, **{name: prepared})[net.outputs[0]])


def image_transformer(
    net: Net,
    mean: NDArray[Any] | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> io.Transformer:
    """Return the preparation of images [H, W, K] for the net's first input."""
    name = net.inputs[0]
    transformer = io.Transformer({name: net.blobs[name].data.shape})
    transformer.set_transpose(name, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(name, mean)
    if input_scale is not None:
        transformer.set_input_scale(name, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(name, channel_swap)
    return transformer
