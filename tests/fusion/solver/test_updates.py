"""The update rules where they take a short cut: it must be the same update."""

from __future__ import annotations

import pytest
import torch

from fusion.solver.updates import SGD, CaffeOptimizer

RATES = (0.1, 0.05, 0.0)


class Plain(SGD):
    """SGD by its rule alone."""

    decay_and_update = CaffeOptimizer.decay_and_update


def run(kind: type[SGD], *, layout: torch.memory_format = torch.contiguous_format, **settings: object) -> torch.Tensor:
    """A filter after an update per rate; its gradients are laid out as asked."""
    generator = torch.Generator().manual_seed(1)
    blob = torch.nn.Parameter(torch.randn(8, 4, 3, 3, generator=generator))
    optimizer = kind([blob], 0.1, **settings)  # type: ignore[arg-type]
    for rate in RATES:
        blob.grad = torch.randn(8, 4, 3, 3, generator=generator).contiguous(memory_format=layout)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return blob.detach()


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.9, "weight_decay": 0.01},
        {"momentum": 0.9},
        {"momentum": 0.0, "weight_decay": 0.01},
        {"momentum": 0.9, "weight_decay": 0.01, "regularization": "L1"},
        {"momentum": 0.9, "weight_decay": 0.01, "iter_size": 2, "clip_gradients": 1.0},
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_fused_update_is_the_rule(settings: dict[str, object], layout: torch.memory_format) -> None:
    torch.testing.assert_close(run(SGD, layout=layout, **settings), run(Plain, **settings), rtol=1e-6, atol=1e-7)
