"""A trace made shorter gives what it gave."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn import functional

from fusion.solver.steps.programs import shorten
from fusion.solver.steps.recording import record

H, N, K, C = 3, 4, 6, 5


def loss(weight: Tensor, bias: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    scores = functional.linear(rows, weight, bias).relu() + torch.ones_like(rows[:, :1]) * torch.arange(C)
    again = functional.linear(rows, weight, bias).relu() - wanted
    return (scores - wanted).square().sum() + again.abs().sum()


def test_a_shortened_step_gives_the_same_with_one_product_for_all_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in ((H, C, K), (H, C), (N, K), (N, C))]
    every = vmap(grad_and_value(loss, argnums=(0, 1)), in_dims=(0, 0, None, None))
    program = record(every, *tensors)
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

    program = record(write, torch.ones(3))
    before = program.code
    shorten(program)
    assert program.code == before
    torch.testing.assert_close(program(torch.ones(3)), torch.tensor([1.0, 3.0, 1.0]))


def test_several_losses_pass_one_softmax_together() -> None:
    weight = torch.randn(C, K, generator=torch.Generator().manual_seed(1))
    rows, wanted = torch.randn(N, K), torch.tensor([0, 4, 2, 1])

    def step(weight: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        leaf = weight.detach().requires_grad_()
        scores = rows @ leaf.t()
        some = scores[:, torch.tensor([3, 1])]
        each = functional.cross_entropy(scores, wanted, reduction="none")
        other = functional.cross_entropy(scores, wanted.flip(0), reduction="none")
        total = each.sum() + 0.5 * other.sum() + (some - 1.0).square().sum()
        return torch.autograd.grad(total, leaf)[0]

    program = record(step, weight, rows, wanted)
    expected = program(weight, rows, wanted)
    shorten(program)
    targets = [node.target for node in program.graph.nodes]
    aten = torch.ops.aten
    assert targets.count(aten._log_softmax_backward_data.default) == 1
    assert aten.nll_loss_forward.default not in targets, "only a mean needs the total weight"
    assert aten.index_put.default not in targets
    torch.testing.assert_close(program(weight, rows, wanted), expected)
