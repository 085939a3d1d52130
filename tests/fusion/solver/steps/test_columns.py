"""What follows from a record alone leaves the traced step, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from fusion import pct
from fusion.solver.steps.columns import fill, take_out
from fusion.solver.steps.programs import shorten
from fusion.solver.steps.recording import record

BATCH, RECORDS, CLASSES = 4, 10, 6
SHIFT = torch.full((1,), 2.0)


def rows() -> list[Tensor]:
    """Features, reference logits and labels of all records."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(RECORDS, CLASSES, generator=generator),
        torch.randn(RECORDS, CLASSES, generator=generator),
        torch.randint(0, CLASSES, (RECORDS,), generator=generator).float(),
    ]


def split(function: Callable[..., Tensor], weight: Tensor) -> tuple[fx.GraphModule, list[Tensor], list[Tensor]]:
    """The trace behind taking out, its columns for all records, and the records' rows."""
    inputs = rows()
    living = [weight, SHIFT]
    program = record(lambda *values: function(weight, *values), *(value[:BATCH] for value in inputs))
    shorten(program, living)
    maker = take_out(program, BATCH, living)
    return program, [] if maker is None else fill(maker, inputs, BATCH), inputs


def targets(program: fx.GraphModule) -> set[str]:
    return {str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"}


def check(function: Callable[..., Tensor]) -> tuple[set[str], list[Tensor]]:
    weight = torch.randn(CLASSES, CLASSES, generator=torch.Generator().manual_seed(5))
    program, columns, inputs = split(function, weight)
    for start in (0, 4, 6):
        batch = [value[start : start + BATCH] for value in [*inputs, *columns]]
        expected = function(weight, *batch[:3])
        torch.testing.assert_close(program(*batch), expected, rtol=1e-6, atol=1e-6)
    return targets(program), columns


def test_masks_of_a_reference_become_columns() -> None:
    def loss(weight: Tensor, features: Tensor, old: Tensor, label: Tensor) -> Tensor:
        right = old.argmax(1) == label.long()
        return ((features @ weight - old).square().mean(1) * (1 + 5 * right.float())).sum()

    left, columns = check(loss)
    assert "argmax" not in left
    assert "_to_copy" not in left
    assert [tuple(column.shape) for column in columns] == [(RECORDS,)]


def test_focal_distillation_keeps_what_learns() -> None:
    def loss(weight: Tensor, features: Tensor, old: Tensor, label: Tensor) -> Tensor:
        new = features @ weight
        classes = [0, 2, 3]
        return pct.focal_distillation(new=new, old=old[:, :3], target=label.long(), distance="l2", classes=classes)

    left, _ = check(loss)
    assert "mm" in left
    assert not left & {"argmax", "any", "eq", "bitwise_and"}


def test_what_mixes_records_stays() -> None:
    def loss(weight: Tensor, features: Tensor, old: Tensor, label: Tensor) -> Tensor:
        centred = old - old.mean(0, keepdim=True)
        ranked = old.argmax(0)[:4] + torch.arange(BATCH)
        return (features @ weight * centred).sum() + ranked.sum() + old[torch.tensor([1, 0, 3, 2])].sum()

    left, columns = check(loss)
    assert {"mean", "argmax", "index"} <= left
    assert not columns


def test_what_lives_stays() -> None:
    def loss(weight: Tensor, features: Tensor, old: Tensor, label: Tensor) -> Tensor:
        return (features @ weight).sum() + (old * SHIFT).sum() + (old * weight[:1]).abs().sum()

    assert check(loss)[0] >= {"mul", "abs"}


@pytest.mark.parametrize("count", [BATCH, BATCH + 1, 3 * BATCH])
def test_every_record_is_filled(count: int) -> None:
    maker = record(lambda x: [x * 2], torch.ones(BATCH, 3))
    values = torch.arange(float(count * 3)).reshape(count, 3)
    torch.testing.assert_close(fill(maker, [values], BATCH)[0], values * 2)
