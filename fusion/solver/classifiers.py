"""Several classifiers of one net, such as auxiliary heads, combined into one prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fusion.errors import FusionError

if TYPE_CHECKING:
    from prototxt.schema.messages import NetParameter

How = Literal["mean", "max"]
_JUDGES = ("Accuracy", "SoftmaxWithLoss")
_LEAST = float(np.finfo(np.float32).tiny)


def classifiers(net: NetParameter) -> list[str]:
    """Return the blobs with class scores that layers compare with the data's label, in the order of the net.

    Raises: FusionError when there are fewer than two.
    """
    data = {top for layer in net.layer if not layer.bottom for top in layer.top}
    found = [
        layer.bottom[0]
        for layer in net.layer
        if layer.type in _JUDGES and len(layer.bottom) > 1 and layer.bottom[1] in data
    ]
    blobs = list(dict.fromkeys(found))
    if len(blobs) < 2:
        few = f"only '{blobs[0]}'" if blobs else "no blob"
        raise FusionError(f"net '{net.name}' compares {few} with its label", hint="name the heads: --logits ip,aux")
    return blobs


def combine_heads(scores: Sequence[NDArray[np.float32]], how: How) -> NDArray[np.float32]:
    """Combine the scores [N, C] of several heads into logits float32 [N, C].

    how     "mean": their softmax is the mean of the heads' probabilities; "max": each class gets the highest
            probability that a head gives it, all divided by their sum
    Raises  FusionError when the heads have different numbers of classes
    """
    classes = sorted({head.shape[1] for head in scores})
    if len(classes) > 1:
        counts = " and ".join(map(str, classes))
        raise FusionError(f"heads of {counts} classes cannot be combined", hint="name those that belong together")
    probabilities = np.stack([_softmax(head) for head in scores])
    joined = probabilities.mean(0) if how == "mean" else probabilities.max(0)
    # the smallest normal float keeps log finite
    logits: NDArray[np.float32] = np.log(np.maximum(joined, _LEAST)).astype(np.float32)
    return logits


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares
