"""An old net's last layer as a frozen layer of the net in training, for backward-compatible training."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion.errors import TrainingError
from fusion.references.models import Model, class_scores_blob
from prototxt.formats.weights import read_weights
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter


@dataclass(frozen=True, eq=False)
class OldClassifier:
    """A frozen layer on the new net's features, and the old net's weights for it, float32, in Caffe's order."""

    layer: LayerParameter
    weights: list[NDArray[np.float32]]

    @property
    def scores(self) -> str:
        """Return the blob with the scores of the features."""
        return self.layer.top[0]


def classifier_of(model: Model, features: str, width: int | None) -> OldClassifier:
    """Return the layer that gives a reference's class scores, on other features.

    width  of these features; None: not known
    Raises: TrainingError unless the reference is one prototxt whose scores come from a trained InnerProduct layer that
    fits.
    """
    spec = model.spec
    path = spec.net
    if len(model.members) > 1 or not isinstance(path, (str, os.PathLike)) or not os.fspath(path).endswith(".prototxt"):
        hint = "give it as NET.prototxt:WEIGHTS"
        raise TrainingError(
            f"--pct bct needs the old classifier's weights, which '{model.name}' does not have", hint=hint
        )
    message = filter_net(load_net(path), "TEST")
    blob = spec.blob or class_scores_blob(message, os.fspath(path))
    last = next((layer for layer in reversed(message.layer) if blob in layer.top), None)
    if last is None or last.type != "InnerProduct":
        kind = "no layer" if last is None else f"a {last.type} layer"
        hint = "name the blob with the class scores: NET.prototxt:WEIGHTS@BLOB"
        raise TrainingError(
            f"--pct bct: {kind} computes '{blob}', not an InnerProduct", place=os.fspath(path), hint=hint
        )
    weights = _trained(model, last.name)
    old_width = weights[0].size // last.inner_product_param.num_output
    if width not in (None, old_width):
        raise TrainingError(
            f"--pct bct: '{features}' has {width} features, the classifier of '{model.name}' reads {old_width}",
            hint="compare features of the old width, from a projection if necessary",
        )
    layer = LayerParameter(type="InnerProduct", bottom=[features], inner_product_param=last.inner_product_param)
    layer.name = f"{features}/as/{model.name}"
    layer.top.append(layer.name)
    # The old weights replace the fillers, and rates of 0 freeze the layer.
    for filler in ("weight_filler", "bias_filler"):
        layer.inner_product_param.ClearField(filler)
    for _ in weights:
        layer.param.add(lr_mult=0, decay_mult=0)
    return OldClassifier(layer, weights)


def _trained(model: Model, name: str) -> list[NDArray[np.float32]]:
    """Return the reference's weights of a layer, from the last file that contains them."""
    for path in reversed(model.spec.weights):
        blobs = read_weights(path)
        if name in blobs:
            return [np.array(blob) for blob in blobs[name]]
    raise TrainingError(f"reference '{model.name}': no weights for its classifier '{name}'")
