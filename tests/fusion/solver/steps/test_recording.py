"""A recorded function gives what it gives, for other inputs too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

from fusion.solver.steps.recording import record

WEIGHT = nn.Parameter(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
SHARED = torch.linspace(-1, 1, 5)


def gradient(x: Tensor, labels: Tensor) -> list[Tensor]:
    """Softmax and tanh, whose results autograd keeps for the way back."""
    loss = F.cross_entropy(F.linear((x + SHARED).tanh(), WEIGHT), labels.long())
    return [loss.detach(), *torch.autograd.grad(loss, [WEIGHT])]


def several(x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Operations with several results, and views."""
    values, places = x.max(1)
    first, second = x.t().split([2, 3])
    return {"values": values, "places": places, "rows": torch.cat([first[1:], second]).t() + labels[:, None]}


def stacked(x: Tensor, labels: Tensor) -> Tensor:
    """Gradients of several functions in one."""
    made: Tensor = vmap(grad(lambda w: (x @ w).sigmoid().mul(labels).sum()))(WEIGHT)
    return made


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 5, generator=generator), torch.randint(3, (4,), generator=generator).float()


@pytest.mark.parametrize("function", [gradient, several, stacked])
def test_other_inputs_give_what_the_function_gives(function: Callable[..., Any]) -> None:
    program = record(function, *batch(0))
    for seed in (0, 1):
        torch.testing.assert_close(program(*batch(seed)), function(*batch(seed)))


def test_a_program_sees_present_values_of_what_the_function_takes_from_elsewhere() -> None:
    weight = nn.Parameter(torch.ones(2))
    program = record(lambda x: torch.autograd.grad((weight * x).square().sum(), [weight])[0], torch.ones(2))
    with torch.no_grad():
        weight.mul_(3)
    torch.testing.assert_close(program(torch.ones(2)), torch.full((2,), 6.0))


@pytest.mark.parametrize("ask", [lambda x: x * x.sum().item(), lambda x: x if torch.equal(x, x + 0) else -x])
def test_a_function_that_asks_for_numbers_is_refused(ask: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="cannot be recorded"):
        record(ask, torch.ones(2))


def test_what_nodes_make_is_known_without_its_memory() -> None:
    program = record(lambda x: torch.ones(1000, 1000) + x, torch.ones(1000))
    *_, last, _ = program.graph.nodes
    value = last.meta["val"]
    assert (value.shape, value.dtype) == ((1000, 1000), torch.float32)
    assert value.untyped_storage().nbytes() == 4
