"""Classify windows of images, as `caffe.Detector` does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fusion.errors import DataError
from fusion.layers.pycaffe import TEST
from fusion.pycaffe import io
from fusion.pycaffe.classifier import image_transformer, predict_images
from fusion.pycaffe.net import Net


class Detector(Net):
    """A net in phase TEST that classifies windows, each warped to the net's square input.

    mean, input_scale, raw_scale, channel_swap  see `io.Transformer`
    context_pad  pixels of the input on each side that show the window's surroundings, as in R-CNN; beyond the image
                 they have the mean
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(self, images_windows: Iterable[tuple[str, NDArray[Any]]]) -> list[dict[str, Any]]:
        """Return the net's first output for windows of images, as dicts: window, prediction and filename.

        images_windows  (file name, windows [N, 4]: top, left, bottom, right) of each image
        """
        found: list[dict[str, Any]] = []
        crops = []
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                crops.append(self.crop(image, np.asarray(window)))
                found.append({"window": window, "filename": filename})
        predictions = predict_images(self, self.transformer, crops)
        return [{**one, "prediction": prediction} for one, prediction in zip(found, predictions, strict=True)]

    def detect_selective_search(self, image_fnames: Sequence[str]) -> NoReturn:
        """Raise NotImplementedError: the proposals need MATLAB and a package that is no longer available."""
        raise NotImplementedError(
            f"selective search of {len(image_fnames)} images needs MATLAB; give windows of your own to detect_windows"
        )

    def crop(self, im: NDArray[Any], window: NDArray[Any]) -> NDArray[Any]:
        """Return a window (top, left, bottom, right) of an image [H, W, K], with the context around it."""
        if not self.context_pad:
            top, left, bottom, right = (int(edge) for edge in window)
            return im[top:bottom, left:right]
        size = int(self.crop_dims[0])  # a square
        box = self._with_context(window, size)
        scales = size / (box[2:] - box[:2] + 1)
        outside = np.round(np.maximum(0, -box[:2]) * scales).astype(int)
        height, width = im.shape[:2]
        box = box.clip(0, [height, width, height, width])
        inside = np.minimum(np.round((box[2:] - box[:2] + 1) * scales).astype(int), size - outside)
        (top, left), (bottom, right) = box[:2].astype(int), box[2:].astype(int)
        if bottom <= top or right <= left:
            raise DataError(f"the window {window.tolist()} is outside the image of {height} x {width} pixels")
        patch = io.resize_image(im[top:bottom, left:right], inside)
        crop = np.ones(self.crop_dims, np.float32) * self.crop_mean
        crop[outside[0] : outside[0] + inside[0], outside[1] : outside[1] + inside[1]] = patch
        return crop

    def _with_context(self, window: NDArray[Any], size: int) -> NDArray[np.float64]:
        """Return a window that is larger by the share of context in the net's input."""
        scale = size / (size - 2.0 * self.context_pad)
        half = (window[2:] - window[:2] + 1) / 2.0
        middle = window[:2] + half
        return np.round(np.concatenate([middle - scale * half, middle + scale * half]))

    def configure_crop(self, context_pad: int | None) -> None:
        """Set the context, and the mean beside the image in the units of an image."""
        name = self.inputs[0]
        channels, height, width = self.blobs[name].data.shape[1:]
        self.crop_dims = np.array([height, width, channels])
        self.context_pad = context_pad or 0
        self.crop_mean = np.zeros(self.crop_dims, np.float32)
        mean = self.transformer.mean.get(name)
        if context_pad and mean is not None:
            order = np.argsort(self.transformer.channel_swap.get(name, range(channels)))
            pixels = mean.transpose(1, 2, 0)[:, :, order] / self.transformer.raw_scale.get(name, 1)
            self.crop_mean = pixels.astype(np.float32)
