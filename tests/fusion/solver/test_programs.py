"""A trace made shorter gives what it gave."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from fusion.solver.programs import shorten

H, N, K, C = 3, 4, 6, 5


def loss(weight: Tensor, bias: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    scores = functional.linear(rows, weight, bias).relu() + torch.ones_like(rows[:, :1]) * torch.arange(C)
    again = functional.linear(rows, weight, bias).relu() - wanted
    return (scores - wanted).square().sum() + again.abs().sum()


def test_a_shortened_step_gives_the_same_with_one_product_for_all_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in ((H, C, K), (H, C), (N, K), (N, C))]
    every = vmap(grad_and_value(loss, argnums=(0, 1)), in_dims=(0, 0, None, None))
    program = make_fx(every)(*tensors)
    expected, before = program(*tensors), len(program.graph.nodes)
    shorten(program)
    targets = [node.target for node in program.graph.nodes]
    assert len(targets) < before
    assert torch.ops.aten.bmm.default not in targets
    assert targets.count(torch.ops.aten.mm.default) == 3  # forward, which is written twice above, and two gradients
    torch.testing.assert_close(program(*tensors), expected)


def test_a_trace_that_writes_is_left_alone() -> None:
    def write(x: Tensor) -> Tensor:
        kept = torch.zeros(3)
        kept[1] = 2.0
        return x + kept

    program = make_fx(write)(torch.ones(3))
    before = program.code
    shorten(program)
    assert program.code == before
    torch.testing.assert_close(program(torch.ones(3)), torch.tensor([1.0, 3.0, 1.0]))
