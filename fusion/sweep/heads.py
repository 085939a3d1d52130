"""Heads of one structure side by side: the same net with stacked parameters, one step for all.

`torch.func.vmap` over the parameters: as the batch is the same for all, a fully connected layer of H heads becomes one
matrix product of the batch with all their weights. The loss of each head is the one that a run by itself computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fusion.errors import TrainingError
from fusion.graph import Net, with_outputs
from fusion.nets import loss_weights
from fusion.references import Ramp
from fusion.solver.feeds import Blobs
from fusion.solver.options.averaging import averaging_decay
from fusion.solver.policies import Schedule, advance, learning_rate
from fusion.solver.steps.programs import shorten
from fusion.solver.steps.recording import record
from fusion.solver.updates import CaffeOptimizer

Stack = dict[str, Tensor]  # parameters by name, [heads, ...] each
Step = Callable[[Blobs], tuple[Tensor, list[Tensor]]]


class Heads:
    """H heads in training.

    head       the net behind the trunk, with all losses in it
    params     each head's start, stacked
    task, pct  the outputs that are the net's own losses, and those towards references
    hyper      numbers per head, float32 [H]: "weight" of the latter, and options of their loss function
    shares     factors of the net's own losses and of those towards references (kd_alpha)
    optimizer  makes the update rule for groups of tensors
    ema        decay of averaged weights, which then are what is judged; 0: none
    """

    def __init__(
        self,
        head: Net,
        params: Stack,
        task: Sequence[str],
        pct: Mapping[str, str],
        hyper: Mapping[str, Tensor],
        shares: tuple[float, float],
        rates: Mapping[str, tuple[float, float]],
        optimizer: Callable[[list[dict[str, Any]]], CaffeOptimizer],
        schedule: Schedule,
        ema: float = 0.0,
    ) -> None:
        self.params = {name: tensor.clone() for name, tensor in params.items()}
        self.trained = {name: tensor.clone() for name, tensor in params.items()} if ema else self.params
        self._ema = ema
        values = dict(head.plan.outputs)
        self._net = with_outputs(head, {key: values[key] for key in (*task, *pct)})
        self._weights = loss_weights(head)
        self._task, self._pct, self._hyper, self._shares = tuple(task), dict(pct), dict(hyper), shares
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, tensor in self.params.items():
            groups.setdefault(rates[name], []).append(tensor)
        self._optimizer = optimizer(
            [{"params": group, "lr_mult": lr, "decay_mult": decay} for (lr, decay), group in groups.items()]
        )
        self._schedule, self._at, self._iteration = schedule, 0, 0
        self._step: Step | None = None

    def __len__(self) -> int:
        return len(next(iter(self.params.values())))

    @torch.inference_mode()
    def train(self, blobs: Blobs) -> Tensor:
        """One iteration of all heads; returns their losses [H]."""
        if self._step is None:
            self._step = self._trace(blobs)
        losses, gradients = self._step(blobs)
        for tensor, gradient in zip(self.params.values(), gradients, strict=True):
            tensor.grad = gradient
        self._at = advance(self._schedule, self._iteration, self._at)
        rate = learning_rate(self._schedule, self._iteration, self._at)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.update()
        self._iteration += 1
        if self._ema:
            share = 1 - averaging_decay(self._ema, self._iteration)
            torch._foreach_lerp_(list(self.trained.values()), list(self.params.values()), share)
        return losses

    def _loss(self, params: Stack, hyper: Stack, blobs: Blobs) -> Tensor:
        """The loss of one head."""
        modules: dict[str, Any] = {key: _unramped(self._net.get_submodule(path)) for key, path in self._pct.items()}
        before = {key: module.loss for key, module in modules.items()}
        options = {key: value for key, value in hyper.items() if key != "weight"}
        try:
            for key, module in modules.items():
                module.loss = partial(before[key], **options)
            out = functional_call(self._net, params, (blobs,))
        finally:
            for key, module in modules.items():
                module.loss = before[key]
        total = sum(out[key].sum() * (self._weights[key] * self._shares[0]) for key in self._task)
        for key in self._pct:
            total = total + out[key].sum() * (hyper["weight"] * (self._weights[key] * self._shares[1]))
        return torch.as_tensor(total)

    def _trace(self, sample: Blobs) -> Step:
        """The step as a straight line of operations on stacked tensors."""
        keys = [key for key, _ in self._net.plan.inputs]
        names, numbers = list(self.params), list(self._hyper)
        every = vmap(grad_and_value(self._loss), in_dims=(0, 0, None))

        def whole(*tensors: Tensor) -> list[Tensor]:
            split = len(names), len(names) + len(numbers)
            parts = tensors[: split[0]], tensors[split[0] : split[1]], tensors[split[1] :]
            own = (
                dict(zip(group, part, strict=True)) for group, part in zip((names, numbers, keys), parts, strict=True)
            )
            gradients, losses = every(*own)
            return [losses, *(gradients[name] for name in names)]

        fixed = [*self.params.values(), *self._hyper.values()]
        with torch.inference_mode(False), torch.enable_grad():
            program = record(whole, *fixed, *(sample[key] for key in keys))
        shorten(program)
        run = program.forward

        def step(blobs: Blobs) -> tuple[Tensor, list[Tensor]]:
            losses, *gradients = run(*fixed, *[blobs[key] for key in keys])
            return losses, [gradient.contiguous() for gradient in gradients]

        return step


def _unramped(module: nn.Module) -> nn.Module:
    """The loss layer itself, where its weight grows."""
    return module.loss if isinstance(module, Ramp) else module


@torch.no_grad()
def answers(net: Net, params: Stack, blobs: Blobs) -> Tensor:
    """What a net with one output gives under each head's parameters, float32 [H, N, C]."""
    (key,) = (key for key, _ in net.plan.outputs)
    inputs = {name: blobs[name] for name, _ in net.plan.inputs}
    found: Tensor = vmap(lambda own: functional_call(net, own, (inputs,))[key])(params)
    return found


def check_head(head: Net, known: frozenset[str]) -> None:
    """Raise TrainingError for layers that draw numbers or remember: heads in one step cannot be told apart by them."""
    foreign = sorted({call.type for call in head.plan.calls} - known)
    if foreign:
        raise TrainingError(
            f"heads with {', '.join(foreign)} layers cannot be trained together",
            hint="a sweep needs a head of plain layers behind the frozen trunk; train such heads one by one",
        )
