"""A net that runs as it is, or compiled by torch's compiler, whichever is faster here.

On a GPU the compiler also makes CUDA graphs, which start a whole pass at once: small nets wait for little else there.
"""

from __future__ import annotations

import time
from subprocess import SubprocessError

import torch
from torch import Tensor

from fusion.nets.graph import Net
from fusion.solver.batches import Blobs
from fusion.solver.step.autotune import Measurement, format_seconds, timed
from fusion.solver.step.eager_step import Run

# Dynamo's and Inductor's errors are RuntimeErrors; a missing compiler, header or cache folder may raise the others.
_COMPILER_ERRORS = (RuntimeError, OSError, ImportError, SubprocessError)
_SHARE = 0.2  # seconds of a measurement
_ROUNDS = 3
_WORTH = 0.97  # of the plain time: rounding and waiting for the compiler are paid with a gain only


class Compilable:
    """A net that can be compiled."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._made: Run | None = None

    @property
    def compiled(self) -> bool:
        """Whether it is."""
        return self._made is not None

    def __call__(self, blobs: Blobs) -> dict[str, Tensor]:
        """Return the net's outputs."""
        return self._net(blobs) if self._made is None else self._made(blobs)

    def choose(self, trial: Measurement, device: torch.device, *, sure: bool = False) -> str:
        """Compile where steps become faster by it; returns a line for the log.

        trial  steps in which this net runs
        sure   compile without comparing
        """
        start = time.perf_counter()
        made = self._made = _compiled(self._net, device)
        try:
            trial.run()
            took = f"{time.perf_counter() - start:.1f} s"
            if sure:
                return f"compiled in {took}, as the snapshot was written"
            quick, plain = self._compare(trial, device)
        except _COMPILER_ERRORS as error:  # the net can still be run as it is
            self._made = None
            bits = "; a compiled step wrote the snapshot: the last bits may differ" if sure else ""
            return f"{'warning: ' * sure}not compiled: {_first_line(error)}{bits}"
        self._made = made if quick < _WORTH * plain else None
        compiled, eager = (format_seconds(seconds / trial.steps) for seconds in (quick, plain))
        times = f"a step takes {compiled} compiled, {eager} otherwise"
        return f"compiled in {took}: {times}" if self.compiled else f"not compiled: {times}"

    def _compare(self, trial: Measurement, device: torch.device) -> tuple[float, float]:
        """Return seconds of a trial compiled and not, the best of a few rounds in turn."""

        def whole() -> None:
            trial.run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        ways, found = (self._made, None), [float("inf"), float("inf")]
        for _ in range(_ROUNDS):
            for way, made in enumerate(ways):
                self._made = made
                whole()
                found[way] = min(found[way], timed(whole, _SHARE))
        return found[0], found[1]


def _compiled(net: Net, device: torch.device) -> Run:
    if device.type != "cuda":
        return torch.compile(net, dynamic=False)
    made = torch.compile(net, dynamic=False, mode="reduce-overhead")

    def run(blobs: Blobs) -> dict[str, Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return {key: blob.clone() for key, blob in made(blobs).items()}  # the next pass writes where this one wrote

    return run


def _first_line(error: BaseException) -> str:
    """Return the first line of the root error, with a hint where a compiler is missing."""
    while error.__cause__ is not None:
        error = error.__cause__
    hint = " (install g++, or name one in CXX)" if "Cxx" in f"{type(error).__name__} {error}" else ""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}{hint}"
