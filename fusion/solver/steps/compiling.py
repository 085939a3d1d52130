"""A net that runs as it is, or as torch's compiler has made it, whichever is faster here.

On a GPU the compiler also makes CUDA graphs, which start a whole pass at once: small nets wait for little else there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from fusion.graph import Net
from fusion.solver.feeds import Blobs
from fusion.solver.steps.pace import Trial, spoken, timed

_SHARE = 0.2  # seconds of a measurement, of which there are so many:
_ROUNDS = 3
_WORTH = 0.97  # of the plain time: rounding and waiting for the compiler are paid with a gain only


class Compilable:
    """A net that can be compiled.

    compiled  whether it is
    """

    def __init__(self, net: Net) -> None:
        self.net, self.compiled = net, False
        self._made: Callable[[Blobs], dict[str, Tensor]] | None = None

    def __call__(self, blobs: Blobs) -> dict[str, Tensor]:
        """The net's outputs."""
        return self._made(blobs) if self.compiled and self._made is not None else self.net(blobs)

    def choose(self, trial: Trial, device: torch.device, *, sure: bool = False) -> str:
        """Compile where steps become faster by it; returns what to say.

        trial  steps in which this net runs
        sure   compile without comparing
        """
        start = time.perf_counter()
        self._made = _compiled(self.net, device)
        self.compiled = True
        try:
            trial.run()
        except Exception as error:  # whatever the compiler lacks or cannot do, the net can be run
            self.compiled = False
            return f"not compiled: {_first_line(error)}"
        took = f"{time.perf_counter() - start:.1f} s"
        if sure:
            return f"compiled in {took}, as the snapshot was written"
        seconds = self._compare(trial, device)
        self.compiled = seconds[True] < _WORTH * seconds[False]
        quick, plain = (spoken(seconds[way] / trial.steps) for way in (True, False))
        times = f"a step takes {quick} compiled, {plain} otherwise"
        return f"compiled in {took}: {times}" if self.compiled else f"not compiled: {times}"

    def _compare(self, trial: Trial, device: torch.device) -> dict[bool, float]:
        """Seconds of a trial compiled and not, the best of a few rounds in turn."""

        def whole() -> None:
            trial.run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        found = {True: float("inf"), False: float("inf")}
        for _ in range(_ROUNDS):
            for self.compiled in found:
                whole()
                found[self.compiled] = min(found[self.compiled], timed(whole, _SHARE))
        return found


def _compiled(net: Net, device: torch.device) -> Callable[[Blobs], dict[str, Tensor]]:
    if device.type != "cuda":
        return torch.compile(net, dynamic=False)
    made = torch.compile(net, dynamic=False, mode="reduce-overhead")

    def run(blobs: Blobs) -> dict[str, Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return {key: blob.clone() for key, blob in made(blobs).items()}  # the next pass writes where this one wrote

    return run


def _first_line(error: BaseException) -> str:
    """What went wrong at the root."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
