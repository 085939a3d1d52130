"""Training loops that ours is measured beside, each as somebody who knows PyTorch well writes it.

    ordinary  modules, autograd, torch.optim.SGD(fused=True), batches as slices; the same under torch.compile
    by_hand   a head of dense layers whose gradients are written out, without autograd and modules

Each is set up, and its threads and memory layout are chosen, before anything is measured.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = TypeVar("Made")
Loop = Callable[[int], object]  # runs a number of iterations
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4


@dataclass(frozen=True)
class Peer:
    """A loop with the threads that suit it.

    how  what else was chosen for it, such as "channels last"
    """

    name: str
    loop: Loop
    threads: int
    how: str = ""

    @property
    def pace(self) -> str:
        """Return the threads and the choice as the table shows them."""
        return ", ".join(filter(None, (str(self.threads), self.how)))

    def run(self, count: int) -> None:
        """Run `count` iterations with the peer's threads."""
        torch.set_num_threads(self.threads)
        self.loop(count)


def ordinary(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    batch: int,
    prepare: Callable[[Tensor], Tensor] = lambda rows: rows,
    *,
    channels_last: bool = False,
    compiled: bool = False,
) -> Loop:
    """Return the usual loop over rows x [N, ...] and labels y int64 [N].

    prepare   makes a batch of rows ready, for example scales pixels
    compiled  net and loss, and so their gradients, are made by torch's compiler
    """
    net.to(x.device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True)

    def plain(inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(net(prepare(inputs)), labels)

    loss_of = compile_for(x.device, plain) if compiled else plain
    starts = _starts(len(x), batch)

    def loop(count: int) -> None:
        for at in itertools.islice(starts, count):
            loss = loss_of(x[at : at + batch], y[at : at + batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return loop


def compile_for(device: torch.device, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compile; on a GPU with CUDA graphs, which start all operations of a pass at once."""
    if device.type != "cuda":
        return torch.compile(function, dynamic=False)
    made = torch.compile(function, dynamic=False, mode="reduce-overhead")

    def run(*given: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return made(*given)

    return run


def by_hand(shapes: Sequence[tuple[int, int]], x: Tensor, y: Tensor, batch: int) -> Loop:
    """Return the loop of a head of dense layers [outputs, inputs] with ReLUs between them, all gradients by hand.

    As in the nets that we train, biases learn at twice the rate, and the rate falls every 1,000 iterations. Weights lie
    in one flat tensor and biases in another, so that each is updated at once.
    """
    sizes = [[rows * columns for rows, columns in shapes], [rows for rows, _ in shapes]]
    flat, slopes, history = ([x.new_zeros(sum(size)) for size in sizes] for _ in range(3))

    def cut(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        weights = [part.view(shape) for part, shape in zip(tensors[0].split(sizes[0]), shapes, strict=True)]
        return list(zip(weights, tensors[1].split(sizes[1]), strict=True))

    layers, gradients = cut(flat), cut(slopes)
    for weight, _ in layers:
        nn.init.xavier_uniform_(weight)
    wanted = F.one_hot(y, shapes[-1][0]).to(x.dtype)
    share = x.new_full((batch,), 1 / batch)
    starts, iterations = _starts(len(x), batch), itertools.count()

    @torch.inference_mode()
    def loop(count: int) -> None:
        for at, iteration in itertools.islice(zip(starts, iterations, strict=True), count):
            values = [x[at : at + batch]]
            for weight, bias in layers[:-1]:
                values.append(torch.addmm(bias, values[-1], weight.t()).relu_())
            weight, bias = layers[-1]
            slope = torch.addmm(bias, values[-1], weight.t()).softmax(1).sub_(wanted[at : at + batch])
            for number in range(len(layers) - 1, -1, -1):
                of_weight, of_bias = gradients[number]
                torch.addmm(of_weight, slope.t(), values[number], beta=0, alpha=1 / batch, out=of_weight)
                torch.mv(slope.t(), share, out=of_bias)
                if number:
                    slope = torch.ops.aten.threshold_backward(slope @ layers[number][0], values[number], 0)
            rate = RATE * 0.707 ** (iteration // 1000)
            for group, factor in ((0, 1), (1, 2)):
                update([flat[group]], [slopes[group]], [history[group]], factor * rate)

    return loop


def update(params: list[Tensor], gradients: list[Tensor], history: list[Tensor], rate: float) -> None:
    """One step of SGD in one pass over memory."""
    torch._fused_sgd_(
        params, gradients, history, weight_decay=DECAY, momentum=MOMENTUM, lr=rate, dampening=0.0, nesterov=False,
        maximize=False, is_first_step=False,
    )  # fmt: skip


def quickest(name: str, ways: Mapping[str, Callable[[], Loop]], threads: Sequence[int], trial: int) -> Peer:
    """Set every way up, try it with each number of threads, and return the fastest.

    ways   makers of loops, by what to say of them
    trial  iterations of a try
    """
    best, found = math.inf, None
    for how, make in ways.items():
        for count in threads:
            torch.set_num_threads(count)
            peer = Peer(name, make(), count, how)
            peer.run(3)  # what is compiled is compiled for this number of threads
            seconds = min(_seconds(peer, trial) for _ in range(3))
            if seconds < best:
                best, found = seconds, peer
    assert found is not None, "there is at least one way"
    return found


def compiled(make: Callable[[], Made]) -> Made | None:
    """Make what needs torch's compiler; where that finds no compiler of its own, say so and return None."""
    try:
        return make()
    except RuntimeError as error:  # torch._inductor's and torch._dynamo's errors are such
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print(f"under torch.compile: skipped, {type(error).__name__}: {lines[0] if lines else ''}", flush=True)
        return None


def wait(device: torch.device) -> None:
    """Wait until the device has done all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(peer: Peer, count: int) -> float:
    start = time.perf_counter()
    peer.run(count)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _starts(records: int, batch: int) -> Iterator[int]:
    """Where batches start, for ever."""
    return itertools.cycle(range(0, records - batch + 1, batch))
