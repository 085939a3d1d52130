"""The keywords of `Solver`, in one place for Python callers and for the command."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from fusion.data import ReadOptions
    from fusion.distributed.process_group import DataParallelOptions
    from fusion.references import Objective, Reference
    from fusion.solver.callbacks.callback import Callback
    from fusion.solver.logging.console import Display
    from fusion.solver.step.autotune import RequestedConfig
    from fusion.solver.train_options import TrainOptions


class SolverOptions(TypedDict, total=False):
    """Keywords of `Solver`.

    device        "auto", "cpu", "cuda", "cuda:1"
    max_iter      instead of the solver's
    cache_budget  bytes of memory for the frozen trunk's outputs; 0 computes them again in each iteration. Up to 0.5 GiB
                  more are taken for the values that losses need of each record
    cache_dir     folder in which they are kept for later runs; without one, only those beyond the budget are written,
                  beside the snapshots
    frozen_engine "onnxruntime" or "torch" computes frozen ONNX layers once; "auto": ONNX Runtime if it is installed, on
                  a CPU in float32, and equals torch within 1e-5 of the largest value; in a resumed run as before
    display       where to report; by default a progress bar on a terminal, Caffe's log elsewhere, on stderr
    all_outputs   whether the log has every value of outputs with several values, such as class scores
    arrays        rows for MemoryData and Input layers
    references    nets whose predictions this one learns from (fusion.references.Reference, or as on the command line)
    pct           losses towards them: "focal,weight=0.01", or fusion.references.Objective
    kd_alpha      a: the loss is (1 - a) * the net's own + a * weight * pct; None: both in full
    reading       how data is read: workers, memory, bad records (fusion.data.ReadOptions)
    callbacks     hooks of the run besides the display (fusion.solver.callbacks.callback)
    extras        options that Caffe does not have: warm-up, averaged weights, mixup, ... (fusion.solver.train_options)
    overrides     fields set instead of the solver's: "base_lr=0.1", "stepvalue=100,200"
    data_parallel how processes started by torchrun train together (fusion.distributed.process_group)
    threads       CPU threads of the loop: a number, None to leave torch's as it is, or "auto" to measure at the start
                  how many are fastest, and whether the channels should come last in memory
    compile       whether torch's compiler compiles the step where that is faster; None: as in the snapshot
    """

    device: str
    max_iter: int | None
    cache_budget: int
    cache_dir: str | os.PathLike[str] | None
    frozen_engine: str
    display: Display | None
    all_outputs: bool
    arrays: Mapping[str, ArrayLike] | None
    references: Sequence[Reference | str]
    pct: Sequence[Objective | str]
    kd_alpha: float | None
    reading: ReadOptions | None
    callbacks: Sequence[Callback]
    extras: TrainOptions | None
    overrides: Sequence[str]
    data_parallel: DataParallelOptions | None
    threads: RequestedConfig
    compile: bool | None
