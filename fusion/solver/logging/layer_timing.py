"""The time of each layer, forward and backward, layer after layer as `caffe time` measures it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fusion.nets.build import total_loss
from fusion.nets.weights import load_weights
from fusion.solver.device import choose_device
from fusion.solver.logging.console import six_digits
from fusion.solver.mixed_precision import precision_of
from fusion.solver.net_with_data import NetWithData, open_net_with_data
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.shapes import infer

if TYPE_CHECKING:
    from fusion.layers.registry import Phase
    from fusion.nets.graph import Net
    from fusion.solver.batches import Blobs
    from prototxt.schema.messages import NetParameter

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Timing:
    """Mean milliseconds.

    layers  (name, forward, backward), the data layers first
    steps   forward and backward together, of each iteration
    loss    before the first iteration
    device  that ran it
    """

    layers: Sequence[tuple[str, float, float]]
    steps: Sequence[float]
    loss: float
    device: torch.device

    def lines(self) -> list[str]:
        """Return the lines of the caffe tool."""
        used = "CPU." if self.device.type == "cpu" else f"GPU with device ID {self.device.index or 0}"
        found = [f"Use {used}", "Performing Forward"]
        found += [f"Initial loss: {six_digits(self.loss)}", "Performing Backward"]
        found += ["*** Benchmark begins ***", f"Testing for {len(self.steps)} iterations."]
        for index, step in enumerate(self.steps, 1):
            found.append(f"Iteration: {index} forward-backward time: {six_digits(step)} ms.")
        found.append("Average time per layer: ")
        for name, *took in self.layers:
            found += [
                f"{name:>10}\t{way}: {six_digits(ms)} ms."
                for way, ms in zip(("forward", "backward"), took, strict=True)
            ]
        forward, backward = sum(layer[1] for layer in self.layers), sum(layer[2] for layer in self.layers)
        found.append(f"Average Forward pass: {six_digits(forward)} ms.")
        found.append(f"Average Backward pass: {six_digits(backward)} ms.")
        found.append(f"Average Forward-Backward: {six_digits(sum(self.steps) / len(self.steps))} ms.")
        return [*found, f"Total Time: {six_digits(sum(self.steps))} ms.", "*** Benchmark ends ***"]


def time_net(
    net: NetParameter | Path,
    weights: Sequence[Path] = (),
    *,
    phase: Phase = "TRAIN",
    device: str = "auto",
    iterations: int = 50,
    amp: str | None = None,
) -> Timing:
    """Time a filtered net, or the layers of a phase of a file, in mixed precision if requested. Inputs are zeros.

    Raises: DataError, BuildError, WeightsMismatch; prototxt's errors for the files.
    """
    chosen = choose_device(device)
    message = filter_net(load_net(net), phase) if isinstance(net, (str, os.PathLike)) else net
    torch.manual_seed(0)
    job = open_net_with_data(message, phase, seed=0, device=chosen, arrays=_zeros(message))
    job = replace(job, precision=precision_of(amp, chosen))
    for path in weights:
        load_weights(job.net, path)
    return time_job(job, iterations, chosen)


def time_job(job: NetWithData, iterations: int, device: torch.device) -> Timing:
    """Time a net with its data."""
    net, stop = job.net, _stopwatch(device)
    for source in job.sources:
        source.load()
    with torch.no_grad():
        out = job.precision.outputs(net, next(job.batches))
        loss = total_loss(net, out).item() if net.plan.loss_weights else 0.0
    _pass(job, next(job.batches), stop)  # the first pass also sets up memory and libraries
    sums = np.zeros((len(net.plan.calls) + 1, 2))
    steps = []
    for _ in range(iterations):
        began = stop()
        blobs = next(job.batches)
        took = np.array([(stop() - began, 0.0), *_pass(job, blobs, stop)])
        steps.append((stop() - began) * 1e3)
        sums += took
    means = sums / iterations * 1e3
    data = "+".join(layer.name for layer in job.message.layer if layer.top and not layer.bottom) or "data"
    names = [data, *(call.name for call in net.plan.calls)]
    return Timing([(name, *pair) for name, pair in zip(names, means.tolist(), strict=True)], steps, loss, device)


def _pass(job: NetWithData, blobs: Blobs, stop: Callable[[], float]) -> list[tuple[float, float]]:
    """Return the seconds of every layer, forward and backward; each starts from copies without other layers' graph."""
    net, plan = job.net, job.net.plan
    values: dict[str, Tensor] = {value: blobs[key] for key, value in plan.inputs if key in blobs}
    done, forward = [], []
    for call in plan.calls:
        bottoms = [
            # so that backward of one layer ends at its bottoms
            values[value].detach().requires_grad_(values[value].requires_grad and index not in call.blocked)
            for index, value in enumerate(call.bottoms)
        ]
        began = stop()
        with job.precision.cast():
            outputs = net.get_submodule(call.path)(*bottoms)
        forward.append(stop() - began)
        tops = (outputs,) if len(call.tops) == 1 else tuple(outputs)
        values.update(zip(call.tops, tops, strict=True))
        done.append((call, bottoms, tops))
    gradients = _output_gradients(net, values)
    backward = []
    for call, bottoms, tops in reversed(done):
        pairs = [(top, gradients[v]) for v, top in zip(call.tops, tops, strict=True) if v in gradients]
        began = stop()
        if pairs:
            torch.autograd.backward([top for top, _ in pairs], [gradient for _, gradient in pairs])
        backward.append(stop() - began)
        for value, bottom in zip(call.bottoms, bottoms, strict=True):
            if bottom.grad is not None:
                gradients[value] = gradients[value] + bottom.grad if value in gradients else bottom.grad
    for parameter in net.parameters():
        parameter.grad = None
    return list(zip(forward, backward[::-1], strict=True))


def _output_gradients(net: Net, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients at the end of the net: the loss weights, or ones where it has no loss."""
    weights = dict(net.plan.loss_weights) or {value: 1.0 for _, value in net.plan.outputs}
    return {
        value: torch.full_like(values[value], weight)
        for value, weight in weights.items()
        if values[value].requires_grad
    }


def _stopwatch(device: torch.device) -> Callable[[], float]:
    if device.type != "cuda":
        return time.perf_counter

    def stop() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return stop


def _zeros(net: NetParameter) -> dict[str, np.ndarray]:
    """Return one batch of zeros for every top that only a caller could fill."""
    tops = [top for layer in net.layer if layer.type in ("Input", "MemoryData") for top in layer.top]
    shapes = infer(net).blobs if tops else {}
    return {top: np.zeros([dim or 1 for dim in shapes[top]], np.float32) for top in tops}
