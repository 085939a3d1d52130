"""The settings of a whole process in pycaffe: the device, the seed, the log, and the place among several solvers."""

from __future__ import annotations

import os
import sys
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from fusion.solver.logging.console import Display


_NO_NCCL = "{}: several solvers of one script need NCCL, which is not available here; use torchrun with fusion-train"


@dataclass
class _Mode:
    """The settings; one object per process.

    gpu      whether a GPU was requested
    device   its number
    seeds    draws a seed for each net after `set_random_seed`
    warned   whether the missing GPU was reported
    log      the least severity that is logged: 0 information, 1 warnings, 2 errors
    """

    gpu: bool = False
    device: int = 0
    seeds: np.random.Generator | None = None
    warned: bool = False
    log: int = field(default_factory=lambda: int(os.environ.get("GLOG_minloglevel") or 0))  # noqa: SIM112 - glog's name
    solver_count: int = 1
    solver_rank: int = 0


_mode = _Mode()


def set_mode_cpu() -> None:
    """Run the nets that are opened from now on on the CPU."""
    _mode.gpu = False


def set_mode_gpu() -> None:
    """Run the nets that are opened from now on on a CUDA device, or on the CPU where there is none.

    Warns: UserWarning, once, where there is none.
    """
    import torch

    _mode.gpu = torch.cuda.is_available()
    if not _mode.gpu and not _mode.warned:
        _mode.warned = True
        warnings.warn("caffe.set_mode_gpu(): there is no CUDA device here; nets run on the CPU", stacklevel=2)


def set_device(number: int) -> None:
    """Choose the CUDA device that `set_mode_gpu` uses."""
    _mode.device = int(number)


def device_name() -> str:
    """Return the device of new nets, in torch's words."""
    return f"cuda:{_mode.device}" if _mode.gpu else "cpu"


def set_random_seed(seed: int) -> None:
    """Start the random numbers of fillers and layers again, so that a script draws the same in each run."""
    import numpy as np
    import torch

    torch.manual_seed(seed)
    _mode.seeds = np.random.default_rng(seed)


def next_seed() -> int | None:
    """Return the seed of the next net: another one for each net, None without `set_random_seed`."""
    return None if _mode.seeds is None else int(_mode.seeds.integers(1 << 31))


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Set the least severity of lines that are logged: 0 information, 1 warnings, 2 errors. The log is on stderr."""
    _mode.log = int(level)


def log(message: str) -> None:
    """Log a line of information."""
    if _mode.log < 1:
        print(message, file=sys.stderr, flush=True)


def layer_type_list() -> list[str]:
    """Return the layer types that nets may have, sorted, with those of data layers."""
    from fusion.layers.registry import known_types
    from fusion.solver.batches import DATA_TYPES

    return sorted({*known_types(), *DATA_TYPES})


def new_display() -> Display:
    """Return the place where a solver reports: Caffe's log at level 0, else nothing."""
    from fusion.solver.logging.caffe_log import CaffeLog
    from fusion.solver.logging.console import Silent

    return CaffeLog() if _mode.log < 1 else Silent()


def has_nccl() -> bool:
    """Return False: several processes train by `torchrun` and `fusion-train`, not by a script's own NCCL calls."""
    return False


class NCCL:
    """Communication between the devices of a script's own processes, which is refused."""

    def __init__(self, solver: object, uid: str) -> None:
        raise NotImplementedError(_NO_NCCL.format("caffe.NCCL"))

    @staticmethod
    def new_uid() -> str:
        """Raise NotImplementedError."""
        raise NotImplementedError(_NO_NCCL.format("caffe.NCCL.new_uid()"))


class Timer:
    """A stopwatch.

    ms  milliseconds from `start` to `stop`
    """

    def __init__(self) -> None:
        self._started = self.ms = 0.0

    def start(self) -> None:
        """Start the time."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Stop the time."""
        self.ms = (time.perf_counter() - self._started) * 1000


def solver_count() -> int:
    """Return the number of solvers that share the work, as a script set it."""
    return _mode.solver_count


def set_solver_count(count: int) -> None:
    """Set the number of solvers. Raises: NotImplementedError for more than one, which needs NCCL."""
    if count != 1:
        raise NotImplementedError(_NO_NCCL.format(f"caffe.set_solver_count({count})"))


def solver_rank() -> int:
    """Return the number of this process's solver."""
    return _mode.solver_rank


def set_solver_rank(rank: int) -> None:
    """Set the number of this process's solver; only the first solver writes files in Caffe."""
    _mode.solver_rank = int(rank)


def set_multiprocess(multiprocess: bool) -> None:
    """Accept Caffe's setting for scripts with a process per device; it changes nothing for a single solver."""
