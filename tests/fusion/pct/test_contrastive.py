"""Neighbourhood alignment against loops over samples, and against one batch when two processes hold a half each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion import pct
from fusion.distributed import process_group
from fusion.errors import TrainingError
from fusion.pct import contrastive


def features(width: int, seed: int) -> torch.Tensor:
    return torch.randn(7, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct(new: np.ndarray, old: np.ndarray, k: int, tau: float, inside: bool, members: list[int]) -> np.ndarray:
    new, old = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (new, old))
    values = np.zeros(len(new))
    for i in members:
        others = [j for j in members if j != i]
        near = sorted(others, key=lambda j: -old[i] @ old[j])[:k]
        s = {j: new[i] @ new[j] / tau for j in others}
        everything = np.log(sum(np.exp(s[j]) for j in others))
        if inside:
            values[i] = everything - np.log(sum(np.exp(s[j]) for j in near))
        else:
            values[i] = np.mean([everything - s[j] for j in near])
    return values


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("neighbours", "used"), [(1, 1), (3, 3), (50, 6)])
def test_against_loops(neighbours: int, used: int, inside: bool) -> None:
    new, old = features(4, 0).requires_grad_(), features(3, 1)
    given = {"old": old, "tau": 0.1, "neighbours": neighbours, "inside": inside, "reduction": "none"}
    expected = direct(new.detach().numpy(), old.numpy(), used, 0.1, inside, list(range(7)))
    np.testing.assert_allclose(pct.cna(new=new, **given).detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(lambda x: pct.cna(new=x, **given), (new,))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("neighbours", [2, 5])
def test_only_covered_samples_take_part(neighbours: int, inside: bool) -> None:
    new, old = features(4, 0).requires_grad_(), features(3, 1)
    target = torch.tensor([1, 0, 3, 2, 1, 0, 3])
    given = {"old": old, "target": target, "classes": [1, 3], "tau": 0.1, "neighbours": neighbours, "inside": inside}
    expected = direct(new.detach().numpy(), old.numpy(), neighbours, 0.1, inside, [0, 2, 4, 6])
    loss = pct.cna(new=new, **given)
    assert loss.item() == pytest.approx(expected.sum() / 7)
    loss.backward()
    assert not new.grad[[1, 3, 5]].any()
    assert neighbours == 5 or new.grad[[0, 2, 4, 6]].abs().min() > 1e-6
    assert torch.autograd.gradcheck(lambda x: pct.cna(new=x, **given), (new,))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples_give_zero(count: int) -> None:
    new = torch.ones(count, 4, requires_grad=True)
    loss = pct.cna(new=new, old=torch.ones(count, 4))
    loss.backward()
    assert loss.item() == 0
    assert not new.grad.any()


def test_the_default_temperature_is_stable_in_half_precision() -> None:
    new, old = features(4, 0).bfloat16().requires_grad_(), features(3, 1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = pct.cna(new=new, old=old)
    expected = pct.cna(new=new.double(), old=old.double())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert new.grad.isfinite().all()


def test_refusals() -> None:
    z = torch.zeros(4, 3)
    with pytest.raises(TrainingError, match="features"):
        pct.cna(new=z, old=torch.zeros(3, 3))
    for settings in ({"tau": 0.0}, {"neighbours": 0}):
        with pytest.raises(TrainingError, match="cna with"):
            pct.cna(new=z, old=z, **settings)


TWO_PROCESSES = """
import sys, torch
from fusion import pct
from fusion.errors import TrainingError
rank, address, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
data = torch.load(f"{folder}/in.pt")
rows = slice(0, 3) if rank == 0 else slice(3, 6)
new = data["new"][rows].requires_grad_()
loss = pct.cna(new=new, old=data["old"][rows], target=data["target"][rows], classes=[0, 2], tau=0.1, neighbours=2)
loss.backward()
torch.save({"loss": loss.detach(), "grad": new.grad}, f"{folder}/out{rank}.pt")
message = ""
try:
    pct.cna(new=torch.ones(2 + rank, 3), old=torch.ones(2 + rank, 3))
except TrainingError as error:
    message = str(error)
assert "batches of [2, 3] samples" in message, message
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_see_one_batch(tmp_path: Path) -> None:
    """Each holds half the batch; their mean loss and gradients are those of one process with all of it."""
    new, old, target = features(4, 0)[:6], features(3, 1)[:6], torch.tensor([0, 1, 2, 2, 0, 2])
    torch.save({"new": new, "old": old, "target": target}, tmp_path / "in.pt")
    address = f"file://{tmp_path}/meeting"
    commands = [[sys.executable, "-W", "ignore", "-c", TWO_PROCESSES, str(r), address, str(tmp_path)] for r in range(2)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    halves = [torch.load(tmp_path / f"out{rank}.pt") for rank in range(2)]
    whole = new.clone().requires_grad_()
    loss = pct.cna(new=whole, old=old, target=target, classes=[0, 2], tau=0.1, neighbours=2)
    loss.backward()
    torch.testing.assert_close((halves[0]["loss"] + halves[1]["loss"]) / 2, loss.detach())
    torch.testing.assert_close(torch.cat([half["grad"] for half in halves]) / 2, whole.grad)


def test_features_of_two_processes_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process's share: its samples follow those of the first, and only students have gradients."""
    from torch.distributed.nn import functional as collective

    joined = torch.distributed
    sizes = [3, 3]
    for name, value in (("is_initialized", True), ("get_world_size", 2), ("get_rank", 1)):
        monkeypatch.setattr(joined, name, lambda value=value: value)
    monkeypatch.setattr(process_group, "alone", lambda: False)
    monkeypatch.setattr(
        joined, "all_gather", lambda found, mine: [t.fill_(size) for t, size in zip(found, sizes, strict=True)]
    )
    monkeypatch.setattr(collective, "all_gather", lambda part: (part - part - 1, part))
    student, teacher = torch.full((3, 2), 5.0, requires_grad=True), torch.full((3, 2), 7.0, requires_grad=True)
    students, teachers, covered, first = contrastive._global(student, teacher, torch.tensor([True, False, True]))
    assert students.tolist() == [[-1.0] * 2] * 3 + [[5.0] * 2] * 3
    assert teachers.tolist() == [[-1.0] * 2] * 3 + [[7.0] * 2] * 3
    assert (students.requires_grad, teachers.requires_grad) == (True, False)
    assert covered.tolist() == [False, False, False, True, False, True]
    assert first == 3
    sizes[0] = 4
    with pytest.raises(TrainingError, match=r"batches of \[4, 3\] samples; cna needs the same on every process"):
        contrastive._global(student, teacher, torch.tensor([True, False, True]))
