"""Heads of one structure side by side: the same net with stacked parameters, one step for all.

As the batch is the same for all, a fully connected layer of H heads becomes one matrix product of the batch with all
their weights. The gradients of each head are those that a run by itself computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fusion.errors import TrainingError
from fusion.layers.score_gradients import NoClosedFormError
from fusion.nets.build import loss_weights
from fusion.nets.graph import Net, with_outputs
from fusion.references import LossWarmup
from fusion.solver.batches import Blobs
from fusion.solver.callbacks.ema import averaging_decay
from fusion.solver.lr_policy import Schedule, advance, learning_rate
from fusion.solver.optimizers import CaffeOptimizer
from fusion.sweep.stacked_gradients import StackedGradients

Stack = dict[str, Tensor]  # parameters by name, [heads, ...] each
Gradients = Callable[[Blobs], Stack]

# Layers without randomness and without a memory of earlier calls, so that many heads may run in one step.
PLAIN = frozenset(
    {
        *("AbsVal", "Accuracy", "BNLL", "BCTLoss", "Bias", "Clip", "Concat", "ELODILoss", "ELU", "Eltwise"),
        *("EuclideanLoss", "Exp", "Flatten", "FocalDistillationLoss", "HingeLoss", "InnerProduct", "KDLoss", "LDILoss"),
        *("Log", "LogitMatchingLoss", "NaivePCTLoss", "PReLU", "Power", "ReLU", "Reshape", "Scale", "Sigmoid"),
        *("SigmoidCrossEntropyLoss", "Silence", "Slice", "Softmax", "SoftmaxWithLoss", "Split", "Swish", "TanH"),
        "WeightedSum",
    }
)


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
        self._gradients: Gradients | None = None
        self.choice = ""

    def __len__(self) -> int:
        return len(next(iter(self.params.values())))

    def train(self, blobs: Blobs) -> None:
        """Run one iteration of all heads."""
        if self._gradients is None:
            self._gradients = self._choose(blobs)
        with torch.no_grad():
            self._update(self._gradients(blobs))

    @torch.no_grad()
    def losses(self, blobs: Blobs) -> Tensor:
        """Return each head's loss on a batch, float [H]."""
        found: Tensor = vmap(self._loss, in_dims=(0, 0, None))(self.params, self._hyper, blobs)
        return found

    def _update(self, gradients: Stack) -> None:
        for name, tensor in self.params.items():
            tensor.grad = gradients[name].contiguous()
        self._at = advance(self._schedule, self._iteration, self._at)
        rate = learning_rate(self._schedule, self._iteration, self._at)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.update()
        self._iteration += 1
        if self._ema:
            share = 1 - averaging_decay(self._ema, self._iteration)
            torch._foreach_lerp_(list(self.trained.values()), list(self.params.values()), share)

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

    def _choose(self, sample: Blobs) -> Gradients:
        """Return what computes the gradients: closed forms where the head has them, else autograd under vmap."""
        try:
            stacked = StackedGradients(self._net, sample, self._pct, self._hyper, self._shares)
        except NoClosedFormError as error:
            self.choice = f"gradients: autograd, because {error}"
            differentiated = vmap(grad(self._loss), in_dims=(0, 0, None))
            return lambda blobs: differentiated(self.params, self._hyper, blobs)
        self.choice = "gradients: closed form of the heads"
        return lambda blobs: stacked(self.params, blobs)


def _unramped(module: nn.Module) -> nn.Module:
    """The loss layer itself, where its weight grows."""
    return module.loss if isinstance(module, LossWarmup) else module


@torch.no_grad()
def answers(net: Net, params: Stack, blobs: Blobs) -> Tensor:
    """What a net with one output gives under each head's parameters, float32 [H, N, C]."""
    (key,) = (key for key, _ in net.plan.outputs)
    inputs = {name: blobs[name] for name, _ in net.plan.inputs}
    found: Tensor = vmap(lambda own: functional_call(net, own, (inputs,))[key])(params)
    return found


def check_head(head: Net) -> None:
    """Raise TrainingError for layers that draw numbers or remember: heads in one step cannot be told apart by them."""
    foreign = sorted({call.type for call in head.plan.calls} - PLAIN)
    if foreign:
        raise TrainingError(
            f"heads with {', '.join(foreign)} layers cannot be trained together",
            hint="a sweep needs a head of plain layers behind the frozen trunk; train such heads one by one",
        )
