"""The update rules where they take a short cut: it must be the same update."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fusion.solver.optimizers import RULES, SGD, Adam, CaffeOptimizer

RATES = (0.1, 0.05, 0.0)


class Plain(SGD):
    """SGD by its rule alone."""

    bind = CaffeOptimizer.bind


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


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Write down every operation, to be done again on the tensors that were there: a CUDA graph for a processor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        assert not isinstance(made, (bool, int, float)), "a step that asks the device for a number cannot be captured"
        self._steps.append((func, args, kwargs or {}, tree_leaves(made)))
        return made

    def replay(self) -> None:
        now: dict[int, torch.Tensor] = {}
        for func, args, kwargs, made in self._steps:
            args, kwargs = tree_map_only(torch.Tensor, lambda one: now.get(id(one), one), (args, kwargs))
            for before, after in zip(made, tree_leaves(func(*args, **kwargs)), strict=True):
                now[id(before)] = after


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.01, "regularization": "L1", "clip_gradients": 0.5}], ids=str)
def test_a_capturable_step_is_the_same_when_it_is_replayed(kind: str, more: dict[str, object]) -> None:
    """Recorded once, as a CUDA graph would be: rates, gradients and the count of updates are those of each replay."""
    settings: dict[str, object] = {"momentum": 0.0 if kind in ("AdaGrad", "RMSProp") else 0.9, "delta": 1e-3, **more}

    def made(capturable: bool) -> tuple[torch.nn.Parameter, CaffeOptimizer]:
        blob = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        blob.grad = torch.zeros(3, 4)
        groups = [{"params": [blob], "lr_mult": 2.0}]
        return blob, RULES[kind](groups, 0.1, capturable=capturable, **settings)  # type: ignore[arg-type]

    (plain, optimizer), (replayed, captured) = made(False), made(True)
    with torch.no_grad():
        with Recording() as program:
            captured.update()
        captured.updates = 0
        replayed.copy_(plain)
        for history in captured.history(replayed):
            history.zero_()
        generator = torch.Generator().manual_seed(0)
        for rate in (0.1, 0.05, 0.02, 0.0):
            optimizer.param_groups[0]["lr"] = rate
            captured.param_groups[0]["lr"].fill_(rate)
            gradient = torch.randn(3, 4, generator=generator)
            for blob in (plain, replayed):
                blob.grad.copy_(gradient)
            optimizer.update()
            program.replay()
    torch.testing.assert_close(replayed, plain, rtol=1e-6, atol=1e-7)
    assert captured.updates == optimizer.updates == 4


def test_a_state_is_loaded_as_the_optimizer_keeps_it() -> None:
    plain, captured = (SGD([torch.nn.Parameter(torch.ones(2))], 0.3, capturable=way) for way in (False, True))
    rate = captured.param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor)
    captured.load_state_dict(plain.state_dict())
    assert isinstance(captured.param_groups[0]["lr"], torch.Tensor)
    plain.load_state_dict(captured.state_dict())
    assert plain.param_groups[0]["lr"] == pytest.approx(0.3)
    assert isinstance(plain.param_groups[0]["lr"], float)


@pytest.mark.parametrize("capturable", [False, True])
def test_adam_counts_its_updates_on_from_a_loaded_state(capturable: bool) -> None:
    """The correction of the rate after three updates is not that of the first one."""
    whole = torch.nn.Parameter(torch.ones(2))
    first = Adam([whole], 0.1, momentum=0.9, capturable=capturable)
    for step in range(5):
        if step == 3:
            state, copy = first.state_dict(), torch.nn.Parameter(whole.detach().clone())
            second = Adam([copy], 0.1, momentum=0.9, capturable=capturable)
            second.load_state_dict(deepcopy(state))
            assert second.updates == 3
        whole.grad = torch.tensor([1.0, -2.0])
        first.step()
        if step >= 3:
            copy.grad = torch.tensor([1.0, -2.0])
            second.step()
            assert torch.equal(copy, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", RULES)
def test_a_step_in_a_cuda_graph(kind: str) -> None:
    blob = torch.nn.Parameter(torch.ones(5, device="cuda"))
    blob.grad = torch.full((5,), 0.5, device="cuda")
    optimizer = RULES[kind]([blob], 0.1, capturable=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    twin = torch.nn.Parameter(torch.ones(5))
    other = RULES[kind]([twin], 0.1)
    for rate in (0.1, 0.02):
        optimizer.param_groups[0]["lr"].fill_(rate)
        other.param_groups[0]["lr"] = rate
        blob.grad.fill_(0.5)
        twin.grad = torch.full((5,), 0.5)
        graph.replay()
        other.step()
    torch.testing.assert_close(blob.detach().cpu(), twin.detach(), rtol=1e-5, atol=1e-6)
    assert optimizer.updates == 2
