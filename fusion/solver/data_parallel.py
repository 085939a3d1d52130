"""Training with other processes: gradients and losses are averaged once per iteration, and so are users' requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion.data.sharding import ShardSpec
from fusion.distributed.process_group import DataParallelOptions, ProcessGroup, in_step
from fusion.errors import TrainingError
from fusion.nets.build import params
from fusion.nets.graph import Net
from fusion.solver.signals import Requests
from fusion.solver.snapshots.resume_state import below, generators
from fusion.solver.step.flat_params import FlatParams
from fusion.solver.sync_batch_norm import average_statistics, synchronize, trained_norms

T = TypeVar("T")
_READ = 16  # iterations after which requests are read on a GPU, whose results must be waited for
_TIME_FIRST = ("LSTM", "RNN")


def part_of_batches(group: ProcessGroup | None, options: DataParallelOptions) -> ShardSpec | None:
    """Return the part of each batch that this process trains on; None: all of it."""
    return None if group is None else ShardSpec(group.rank, group.size, whole=options.auto_scale)


def is_independent(net: Net) -> bool:
    """Return whether no layer exchanges values with the other processes."""
    return all(getattr(net.get_submodule(call.path), "ignore_label", None) is None for call in net.plan.calls)


class DataParallel:
    """The solver of this process as one of several.

    requests  those of the users of all processes; the same in each
    """

    def __init__(self, group: ProcessGroup, net: Net, flat_params: FlatParams, options: DataParallelOptions) -> None:
        self.group = group
        self.requests = Requests()
        self._net, self._params, self._options = net, flat_params, options
        kinds = sorted({call.type for call in net.plan.calls if call.type in _TIME_FIRST})
        if kinds:
            message = f"the batches of {', '.join(kinds)} layers begin with time and cannot be divided"
            raise TrainingError(message, hint="train this net with one process")
        if options.batch_norm == "sync":
            synchronize(net, group)

    def describe(self) -> str:
        """Return one line for the log."""
        size, norms = self.group.size, len(trained_norms(self._net))
        text = f"{size} processes, each with its share of every batch"
        if self._options.auto_scale:
            text = f"{size} processes, each with batches of its own; the learning rate is multiplied by {size}"
        over = "all processes" if self._options.batch_norm == "sync" else "each process's own share"
        return text + (f"; {norms} BatchNorm layers take statistics over {over} (--batch-norm)" if norms else "")

    def broadcast(self) -> None:
        """Copy the first process's weights and statistics to all. Raises: TrainingError when a process is gone."""
        tensors = {id(tensor): tensor for blobs in params(self._net).values() for tensor in blobs}
        self.group.broadcast([tensor.detach() for tensor in tensors.values()])

    def synchronize(self) -> None:
        """Give all processes the same weights and statistics, before these are tested or saved.

        Weights differ only where processors of different kinds round differently.
        """
        average_statistics(self._net, self.group)
        self.broadcast()

    @torch.no_grad()
    def average(self, loss: Tensor, requests: Requests, iteration: int) -> Tensor:
        """Average gradients and the loss, and exchange requests; returns the loss of the whole batch, a scalar."""
        gradients = [tensor.grad for tensor in self._params.updated if tensor.grad is not None]
        parts = [gradient.reshape(-1) for gradient in gradients]
        snapshot = requests.snapshot
        # One message carries all of it: on small nets the latency of a second one would cost more than the gradients.
        flags = torch.tensor([requests.stop, snapshot], dtype=parts[0].dtype, device=parts[0].device)
        mean = self.group.mean(torch.cat([*parts, loss.reshape(1).to(parts[0].dtype), flags]))
        *means, mean_loss, flags = torch.split(mean, [*(part.numel() for part in parts), 1, len(flags)])
        torch._foreach_copy_(gradients, [values.view(g.shape) for values, g in zip(means, gradients, strict=True)])
        if mean.device.type == "cpu" or iteration % _READ == 0:
            any_stop, any_snapshot = (flag > 0 for flag in flags.tolist())
            self.requests = Requests(any_stop, any_snapshot)
            # A signal that came after the flags were sent stays for the next iteration.
            requests.snapshot = requests.snapshot and not (snapshot and any_snapshot)
        value: Tensor = mean_loss.reshape(()).clone()  # a view would keep all gradients in memory
        return value

    @torch.no_grad()
    def all(self, value: bool) -> bool:
        """Return whether the value is true in all processes. Raises: TrainingError when one is gone."""
        device = self._params.updated[0].device
        return self.group.mean(torch.tensor([float(value)], device=device)).item() == 1

    @torch.no_grad()
    def mean(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean of each output over all processes."""
        return {name: self.group.mean(value.detach().clone().float()) for name, value in outputs.items()}

    def in_step(self, run: Callable[..., T]) -> Callable[..., T]:
        """Return the function, run by all processes on their shares of one batch."""

        def shared(*arguments: Any) -> T:
            with in_step(self.group):
                return run(*arguments)

        return shared

    def generators(self) -> dict[str, NDArray[Any]]:
        """Return the random generators' states of all processes; keys of process n > 0 begin with "n/".

        Raises: TrainingError when a process is gone.
        """
        gathered = self.group.gather(generators())
        names = [f"{rank}/" if rank else "" for rank in range(len(gathered))]
        return {
            f"{name}{key}": state for name, states in zip(names, gathered, strict=True) for key, state in states.items()
        }

    def own_generators(self, states: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return this process's part of the result of `generators`."""
        if self.group.first:
            return {key: state for key, state in states.items() if "/" not in key}
        return below(states, f"{self.group.rank}/")
