"""Caffe's update rules as torch optimizers.

Caffe's SGD keeps `history = momentum * history + lr * gradient`, so a falling learning rate takes effect later than in
torch's. Every rule takes Caffe's constants and keeps Caffe's history, blob for blob, so that a solverstate fits both.

A param group may hold `lr_mult` and `decay_mult`; `lr` is the rate before `lr_mult`.
"""

# ruff: noqa: D102 - each rule is described by its class
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypedDict, overload

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Unpack

Tensors = list[Tensor]
Rate = float | Tensor


class OptimizerOptions(TypedDict, total=False):
    """The constants of Caffe's update rules, described in `CaffeOptimizer`."""

    momentum: float
    momentum2: float
    weight_decay: float
    regularization: str
    delta: float
    rms_decay: float
    clip_gradients: float
    iter_size: int


class CaffeOptimizer(torch.optim.Optimizer):
    """Regularise, then update by one of Caffe's rules.

    params            tensors or groups as torch takes them
    lr                the learning rate; set `optimizer.param_groups[i]["lr"]` or pass a new one before each step
    momentum          SGD, Nesterov; Adam's beta1; AdaDelta's decay
    momentum2         Adam's beta2
    weight_decay      times each group's decay_mult
    regularization    "L2" (decay * w) or "L1" (decay * sign(w))
    delta             the constant that keeps divisions finite
    rms_decay         RMSProp's decay
    clip_gradients    largest global L2 norm of all gradients, or a negative number for none; applied before dividing
                      by iter_size, as Caffe does
    iter_size         the number of backward passes whose gradients are summed
    capturable        a step does not wait for the device and may be captured in a CUDA graph: each group's "lr" is a
                      tensor, to be set again between replays, and updates are counted on the device
    """

    histories = 1
    momentum, momentum2, weight_decay, regularization = 0.0, 0.999, 0.0, "L2"
    delta, rms_decay, clip_gradients, iter_size = 1e-8, 0.99, -1.0, 1

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.01,
        *,
        capturable: bool = False,
        **options: Unpack[OptimizerOptions],
    ) -> None:
        unknown = sorted(options.keys() - OptimizerOptions.__annotations__.keys())
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument '{unknown[0]}'")
        vars(self).update(options)
        self.capturable = capturable
        self._updates: Rate = 0
        super().__init__(params, {"lr": lr, "lr_mult": 1.0, "decay_mult": 1.0})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does, but without its decorator, which imports torch's compiler (1 to 2 s, 100 MB)."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)
        if self.capturable:
            self._move_to_device(self.param_groups[-1])

    def _move_to_device(self, group: dict[str, Any]) -> None:
        """Move the values that a captured step reads to the device."""
        device = group["params"][0].device
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        if not isinstance(self._updates, Tensor):
            self._updates = torch.full((), self._updates, dtype=torch.float64, device=device)
        for parameter in group["params"]:
            self.history(parameter)

    @property
    def updates(self) -> int:
        """Return the number of updates so far; a capturable optimizer waits for the device."""
        return int(self._updates)

    @updates.setter
    def updates(self, count: int) -> None:
        if isinstance(self._updates, Tensor):
            self._updates.fill_(count)
        else:
            self._updates = count

    def history(self, parameter: Tensor) -> Tensors:
        """Return the parameter's history tensors, zero at first: one for SGD, two for AdaDelta and Adam."""
        state = self.state[parameter]
        if "history" not in state:
            state["history"] = [torch.zeros_like(parameter) for _ in range(self.histories)]
        found: Tensors = state["history"]
        if any(moment.stride() != parameter.stride() for moment in found):  # its layout was chosen after a resume
            found[:] = [torch.empty_like(parameter).copy_(moment) for moment in found]
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state with the number of updates, which Adam needs."""
        return {**super().state_dict(), "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "updates"})
        for group in self.param_groups:
            if self.capturable:
                self._move_to_device(group)
            else:
                group["lr"] = float(group["lr"])
        self.updates = state_dict.get("updates", 0)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters from their gradients, which are overwritten (clipped, divided, regularised)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    def update(self) -> None:
        """Do the work of `step` where gradients are switched off already, without torch's hooks and profiling."""
        if self.clip_gradients >= 0.0:
            self._clip()
        for group in self.param_groups:
            self._bound(group)(group["lr"] * group["lr_mult"])
        self._updates += 1

    def prepared(self) -> Callable[[Rate], None]:
        """Return `update` at a learning rate, for gradients that stay the same tensors.

        What does not change between updates is looked up once: an update of a small head takes 9 us instead of 16 us.
        """
        groups = [(group["lr_mult"], self._bound(group)) for group in self.param_groups]

        def update(rate: Rate) -> None:
            if self.clip_gradients >= 0.0:
                self._clip()
            for lr_mult, bound in groups:
                bound(rate * lr_mult)
            self._updates += 1

        return update

    def rule(self, params: Tensors, gradients: Tensors, histories: list[Tensors], lr: Rate) -> None:
        """Update params and histories in place."""
        raise NotImplementedError

    def _bound(self, group: dict[str, Any]) -> Callable[[Rate], None]:
        """Return the update of a group's parameters that have gradients, by the rate times lr_mult."""
        params = [p for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in params]
        by_param = [self.history(param) for param in params]
        histories = [[moments[number] for moments in by_param] for number in range(self.histories)]
        bound = self.bind(params, gradients, histories, self.weight_decay * group["decay_mult"])
        if self.iter_size == 1 or not params:
            return bound if params else lambda lr: None

        def update(lr: Rate) -> None:
            torch._foreach_mul_(gradients, 1.0 / self.iter_size)
            bound(lr)

        return update

    def bind(
        self, params: Tensors, gradients: Tensors, histories: list[Tensors], decay: float
    ) -> Callable[[Rate], None]:
        """Return a function of the learning rate that adds the decay to the gradients and applies `rule`."""

        def update(lr: Rate) -> None:
            if decay:
                weights = torch._foreach_sign(params) if self.regularization == "L1" else params
                torch._foreach_add_(gradients, weights, alpha=decay)
            self.rule(params, gradients, histories, lr)

        return update

    def _clip(self) -> None:
        """Scale all gradients down together, without waiting for the device."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        # a branch on the norm would wait for the device
        scale = torch.where(norm > self.clip_gradients, self.clip_gradients / norm, torch.ones_like(norm))
        torch._foreach_mul_(gradients, scale)


class SGD(CaffeOptimizer):
    """history = momentum * history + lr * gradient; w -= history.

    Where possible in one pass over memory: torch's fused SGD keeps m * history + (1 - dampening) * gradient and
    subtracts lr times that, so 1 - dampening takes the role of Caffe's learning rate, and torch's is 1.
    """

    def bind(
        self, params: Tensors, gradients: Tensors, histories: list[Tensors], decay: float
    ) -> Callable[[Rate], None]:
        by_rule = super().bind(params, gradients, histories, decay)
        if not self.momentum or (decay and self.regularization == "L1") or not _can_fuse(params, gradients):
            return by_rule
        (history,) = histories
        # Fused updates walk through memory, so that a gradient must be laid out as its parameter and history. Those of
        # filters often have the channels last; copying them keeps the large parameters beside them in one pass, 13 %
        # of a LeNet's step.
        pairs = list(zip(params, gradients, strict=True))
        others = [index for index, (param, gradient) in enumerate(pairs) if param.stride() != gradient.stride()]

        def update(lr: Rate) -> None:
            if isinstance(lr, Tensor):
                by_rule(lr)
                return
            aligned = gradients
            if others:
                aligned = [torch.empty_like(p).copy_(g) if i in others else g for i, (p, g) in enumerate(pairs)]
            torch._fused_sgd_(
                params,
                aligned,
                history,
                weight_decay=decay,
                momentum=self.momentum,
                lr=1.0,
                dampening=1.0 - lr,
                nesterov=False,
                maximize=False,
                is_first_step=False,
            )

        return update

    def rule(self, params: Tensors, gradients: Tensors, histories: list[Tensors], lr: Rate) -> None:
        (history,) = histories
        torch._foreach_mul_(history, self.momentum)
        _add(history, gradients, lr)
        torch._foreach_sub_(params, history)


class Nesterov(CaffeOptimizer):
    """history as in SGD; w -= (1 + momentum) * history - momentum * previous history."""

    def rule(self, params: Tensors, gradients: Tensors, histories: list[Tensors], lr: Rate) -> None:
        (history,) = histories
        previous = torch._foreach_mul(history, self.momentum)
        torch._foreach_mul_(history, self.momentum)
        _add(history, gradients, lr)
        torch._foreach_add_(params, history, alpha=-(1.0 + self.momentum))
        torch._foreach_add_(params, previous)


class AdaGrad(CaffeOptimizer):
    """history += gradient^2; w -= lr * gradient / (sqrt(history) + delta)."""

    def rule(self, params: Tensors, gradients: Tensors, histories: list[Tensors], lr: Rate) -> None:
        (history,) = histories
        torch._foreach_addcmul_(history, gradients, gradients)
        _descend(params, gradients, history, lr, self.delta)


class RMSProp(CaffeOptimizer):
    """history = rms_decay * history + (1 - rms_decay) * gradient^2; w -= lr * gradient / (sqrt(history) + delta)."""

    def rule(self, params: Tensors, gradients: Tensors, histories: list[Tensors], lr: Rate) -> None:
        (history,) = histories
        torch._foreach_mul_(history, self.rms_decay)
        torch._foreach_addcmul_(history, gradients, gradients, 1.0 - self.rms_decay)
        _descend(params, gradients, history, lr, self.delta)


class AdaDelta(CaffeOptimizer):
    """Zeiler 2012, with delta added inside both roots; the update is multiplied by lr."""

    histories = 2

    def rule(self, params: Tensors, gradients: Tensors, histories: list[Tensors], lr: Rate) -> None:
        squares, updates = histories
        torch._foreach_mul_(squares, self.momentum)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - self.momentum)
        ratio = torch._foreach_add(updates, self.delta)
        torch._foreach_div_(ratio, torch._foreach_add(squares, self.delta))
        torch._foreach_sqrt_(ratio)
        torch._foreach_mul_(ratio, gradients)
        torch._foreach_mul_(updates, self.momentum)
        torch._foreach_addcmul_(updates, ratio, ratio, 1.0 - self.momentum)
        _add(params, ratio, -lr)


class Adam(CaffeOptimizer):
    """Kingma and Ba 2015, the variant with the bias correction in the rate: delta is added to the uncorrected root."""

    histories = 2

    def rule(self, params: Tensors, gradients: Tensors, histories: list[Tensors], lr: Rate) -> None:
        first, second = histories
        count = self._updates + 1
        torch._foreach_mul_(first, self.momentum)
        torch._foreach_add_(first, gradients, alpha=1.0 - self.momentum)
        torch._foreach_mul_(second, self.momentum2)
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - self.momentum2)
        correction = (1.0 - self.momentum2**count) ** 0.5 / (1.0 - self.momentum**count)
        _descend(params, first, second, lr * correction, self.delta)


def _can_fuse(params: Tensors, gradients: Tensors) -> bool:
    """Return whether torch has fused updates for these tensors."""
    return all(p.dtype == g.dtype and (p.is_cpu or p.is_cuda) for p, g in zip(params, gradients, strict=True))


def _add(targets: Tensors, steps: Tensors | tuple[Tensor, ...], rate: Rate) -> None:
    """Compute target += rate * step."""
    if isinstance(rate, Tensor):
        torch._foreach_add_(targets, torch._foreach_mul(steps, rate.to(steps[0].dtype)))
    else:
        torch._foreach_add_(targets, steps, alpha=rate)


def _descend(params: Tensors, steps: Tensors, squares: Tensors, lr: Rate, delta: float) -> None:
    """Compute w -= lr * step / (sqrt(squares) + delta)."""
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, delta)
    if isinstance(lr, Tensor):
        _add(params, torch._foreach_div(steps, roots), -lr)
    else:
        torch._foreach_addcdiv_(params, steps, roots, -lr)


RULES: dict[str, type[CaffeOptimizer]] = {
    "SGD": SGD,
    "Nesterov": Nesterov,
    "AdaGrad": AdaGrad,
    "RMSProp": RMSProp,
    "AdaDelta": AdaDelta,
    "Adam": Adam,
}
