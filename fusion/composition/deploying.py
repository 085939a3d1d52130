"""The fused net without its data layers and losses: an Input per picture blob, and probabilities at the end."""

from __future__ import annotations

from collections.abc import Mapping

from fusion.composition.pieces import layer_text, quoted


def deploy_text(name: str, shapes: Mapping[str, tuple[int, ...]], branches: str, head: str, logits: str) -> str:
    """The deploy net.

    shapes    of each input blob, with batch size 1
    branches  the branches' layers as text, those of TRAIN alone left out
    head      the head's layers up to `logits`
    """
    inputs = [
        layer_text(
            blob, "Input", [], [blob], f"input_param {{ shape {{ {' '.join(f'dim: {dim}' for dim in shape)} }} }}"
        )
        for blob, shape in shapes.items()
    ]
    probability = layer_text("prob", "Softmax", [logits], ["prob"])
    return "\n".join([f"name: {quoted(name)}\n", *inputs, branches, head, probability])
