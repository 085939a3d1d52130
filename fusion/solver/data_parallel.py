"""Training with other processes: gradients and losses are averaged once per iteration, and wishes are agreed upon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion.data.sharding import ShardSpec
from fusion.distributed.process_group import ProcessGroup, Teamwork, together
from fusion.errors import TrainingError
from fusion.nets.build import params
from fusion.nets.graph import Net
from fusion.solver.signals import Requests
from fusion.solver.snapshots.resume_state import below, generators
from fusion.solver.step.flat_params import FlatParams
from fusion.solver.sync_batch_norm import average_statistics, synchronize, trained_norms

T = TypeVar("T")
_WISHES = 2
_LOOK = 16  # iterations between two looks at wishes on a GPU, which must be waited for
_TIME_FIRST = ("LSTM", "RNN")


def part(world: ProcessGroup | None, how: Teamwork) -> ShardSpec | None:
    """Which part of the batches this process trains on; None: all."""
    return None if world is None else ShardSpec(world.rank, world.size, whole=how.auto_scale)


def traceable(net: Net) -> bool:
    """Whether a step may be traced: it may not where a layer asks the other processes."""
    return all(getattr(net.get_submodule(call.path), "ignore_label", None) is None for call in net.plan.calls)


class DataParallel:
    """This process's solver among the others.

    wishes  what some process's user has asked for; the same on all of them
    """

    def __init__(self, world: ProcessGroup, net: Net, arena: FlatParams, how: Teamwork) -> None:
        self.world = world
        self.wishes = Requests()
        self._net, self._arena, self._how = net, arena, how
        kinds = sorted({call.type for call in net.plan.calls if call.type in _TIME_FIRST})
        if kinds:
            message = f"the batches of {', '.join(kinds)} layers begin with time and cannot be divided"
            raise TrainingError(message, hint="train this net with one process")
        if how.batch_norm == "sync":
            synchronize(net, world)

    def describe(self) -> str:
        """One line for the log."""
        size, norms = self.world.size, len(trained_norms(self._net))
        text = f"{size} processes, each with its share of every batch"
        if self._how.auto_scale:
            text = f"{size} processes, each with batches of its own; the learning rate is multiplied by {size}"
        over = "all processes" if self._how.batch_norm == "sync" else "each process's own share"
        return text + (f"; {norms} BatchNorm layers take statistics over {over} (--batch-norm)" if norms else "")

    def begin(self) -> None:
        """Start from the first process's weights and statistics. Raises: TrainingError when a process is gone."""
        tensors = {id(tensor): tensor for blobs in params(self._net).values() for tensor in blobs}
        self.world.copy_first([tensor.detach() for tensor in tensors.values()])

    @torch.no_grad()
    def average(self, loss: Tensor, asked: Requests, iteration: int) -> Tensor:
        """Average gradients and the loss, and learn of wishes; returns the loss of the whole batch, a scalar."""
        gradients = [tensor.grad for tensor in self._arena.updated if tensor.grad is not None]
        parts = [gradient.reshape(-1) for gradient in gradients]
        hang_up = asked.snapshot
        told = torch.tensor([asked.stop, hang_up], dtype=parts[0].dtype, device=parts[0].device)
        joined = self.world.mean(torch.cat([*parts, loss.reshape(1).to(parts[0].dtype), told]))
        *means, mean, wishes = torch.split(joined, [*(part.numel() for part in parts), 1, _WISHES])
        torch._foreach_copy_(gradients, [values.view(g.shape) for values, g in zip(means, gradients, strict=True)])
        if joined.device.type == "cpu" or iteration % _LOOK == 0:
            stop, snapshot = (wish > 0 for wish in wishes.tolist())
            self.wishes = Requests(stop, snapshot)
            asked.snapshot = asked.snapshot and not (hang_up and snapshot)
        value: Tensor = mean.reshape(()).clone()
        return value

    @torch.no_grad()
    def all(self, truth: bool) -> bool:
        """Whether it is true in all processes. Raises: TrainingError when one is gone."""
        device = self._arena.updated[0].device
        return self.world.mean(torch.tensor([float(truth)], device=device)).item() == 1

    @torch.no_grad()
    def mean(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean of each output over all processes."""
        return {name: self.world.mean(value.detach().clone().float()) for name, value in outputs.items()}

    def settle(self) -> None:
        """Let all processes hold the same weights and statistics, before these are tested or saved.

        Weights differ only where processors of different kinds round differently.
        """
        average_statistics(self._net, self.world)
        self.begin()

    def together(self, run: Callable[..., T]) -> Callable[..., T]:
        """The function, run by all processes on their shares of one batch."""

        def shared(*arguments: Any) -> T:
            with together(self.world):
                return run(*arguments)

        return shared

    def generators(self) -> dict[str, NDArray[Any]]:
        """The states of the random generators of all processes; those of process n begin with "n/", but for the first.

        Raises: TrainingError when a process is gone.
        """
        found = self.world.gather(generators())
        names = [f"{rank}/" if rank else "" for rank in range(len(found))]
        return {
            f"{name}{key}": state for name, states in zip(names, found, strict=True) for key, state in states.items()
        }

    def own(self, states: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """This process's part of what `generators` gave."""
        if self.world.first:
            return {key: state for key, state in states.items() if "/" not in key}
        return below(states, f"{self.world.rank}/")
