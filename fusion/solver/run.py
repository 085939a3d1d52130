"""A training run as its callbacks, its log and its snapshots see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from fusion.nets.graph import Net
    from fusion.solver.data_parallel import DataParallel
    from fusion.solver.logging.console import Display
    from fusion.solver.mixed_precision import Precision
    from fusion.solver.net_with_data import NetWithData
    from fusion.solver.optimizers import CaffeOptimizer
    from fusion.solver.settings import Settings
    from fusion.solver.step.autotune import Autotuner
    from fusion.solver.step.flat_params import FlatParams
    from fusion.solver.step.loss_window import Losses
    from fusion.solver.train_options import TrainOptions


@dataclass(eq=False)
class Progress:
    """The position of a run.

    iteration    iterations done
    lr_step      of the learning-rate policy
    losses       the recent ones
    last_good    the newest complete snapshot
    closed_form  whether the head runs in closed form; None: not decided yet
    compiled     whether torch's compiler has compiled the step; None where that was not requested
    cached       whether the frozen trunk's outputs are cached, not computed in each iteration
    frozen_engines  of the run that wrote the snapshot: the engine that computed each net's cached ONNX layers, or ""
    """

    losses: Losses
    iteration: int = 0
    lr_step: int = 0
    last_good: str | None = None
    closed_form: bool | None = None
    compiled: bool | None = None
    cached: bool | None = None
    frozen_engines: tuple[str, ...] = ()

    def compare(self, closed_form: bool, cached: bool, display: Display) -> None:
        """Record how the loop runs, and warn where the run of the snapshot did it differently."""
        if self.cached is not None and self.cached != cached:
            before = "kept the trunk's outputs" if self.cached else "ran the trunk in each iteration (--no-cache)"
            display.say(f"warning: the run that wrote the snapshot {before}: the last bits may differ")
        elif self.closed_form is not None and self.closed_form != closed_form:
            display.say("warning: the snapshot was written by another kind of loop: the last bits may differ")
        self.closed_form, self.cached = closed_form, cached


class Run(Protocol):
    """The parts of a `Solver` that callbacks, logging and snapshots use.

    net          the net in training
    nets         it and each test net with its data; a validation net comes last
    writes       whether this process writes files
    seed         of fillers and data
    flat_params  the parameters that are updated
    """

    settings: Settings
    extras: TrainOptions
    display: Display
    device: torch.device
    writes: bool
    net: Net
    nets: tuple[NetWithData, ...]
    seed: int
    progress: Progress
    flat_params: FlatParams
    optimizer: CaffeOptimizer
    autotuner: Autotuner
    data_parallel: DataParallel | None

    @property
    def iter(self) -> int:
        """Return the number of iterations done."""

    @property
    def precision(self) -> Precision:
        """Return the precision of the gradients."""

    @property
    def data(self) -> Sequence[str]:
        """Return the number of records and the fingerprint of each source, net after net."""

    def load(self, paths: Sequence[str]) -> None:
        """Copy trained weights into the layers of the same names."""

    def stop(self, reason: str) -> None:
        """End the run after the present iteration."""
