"""What training offers beyond a solver file, as one record; the defaults are Caffe's behaviour."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from fusion.errors import TrainingError
from fusion.solver.callbacks.best_weights import Selection
from fusion.solver.callbacks.callback import Observer
from fusion.solver.callbacks.ema import EMA
from fusion.solver.callbacks.keep_newest import Keep, SaveInit
from fusion.solver.freeze import frozen
from fusion.solver.holdout import Chosen, held_back, listed, reading_alike
from fusion.solver.mixed_precision import OFF, Scaling, precision_of
from fusion.solver.mixup import mix_up
from fusion.solver.snapshots.files import exact_beside
from fusion.solver.snapshots.resume_state import read_exact

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from fusion.data import Source
    from fusion.solver.net_with_data import NetWithData
    from fusion.solver.read_nets import Descriptions
    from fusion.solver.settings import Settings
    from prototxt.schema.messages import NetParameter

_PASSING = ("save_init", "keep", "snapshot_epochs")  # change no number, so a snapshot need not hold them


@dataclass(frozen=True)
class TrainOptions:
    """Options that Caffe does not have.

    lr_policy        instead of the solver's; "cosine" too
    warmup           iterations of linear warm-up
    freeze           a regular expression: layers whose name it finds do not learn
    label_smoothing  share of the target that all classes have in common, for SoftmaxWithLoss in training
    mixup            alpha of mixup; 0: none
    ema              decay of averaged weights; 0: none
    amp              "bf16" or "fp16": training in mixed precision; "off" or None: in float32
    best_on          choose the best weights on this share of the training records, kept back, or on a list
    early_stopping   end after so many tests without a better choice; 0: never
    snapshot_epochs  snapshots by passes over the training records instead of iterations
    keep             the number of newest snapshots to keep; 0: all
    save_init        where to write the weights in front of the first step
    """

    lr_policy: str | None = None
    warmup: int = 0
    freeze: str | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float = 0.0
    amp: str | None = None
    best_on: float | str | None = None
    early_stopping: int = 0
    snapshot_epochs: int = 0
    keep: int = 0
    save_init: str | None = None

    def check(self, settings: Settings) -> None:
        """Raise TrainingError for options that do not go together."""
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError(f"label smoothing must lie in [0, 1), not {self.label_smoothing:g}", hint="try 0.1")
        if self.early_stopping and self.best_on is None:
            raise TrainingError("early stopping needs records to choose on", hint="give --best-on 0.1, or a list")
        if self.best_on is not None and not (settings.test_iter and settings.test_interval):
            hint = "give test_iter and test_interval"
            raise TrainingError("the best weights are chosen at tests, and the solver has none", hint=hint)

    def to_choices(self) -> dict[str, str]:
        """What a snapshot holds of them."""
        given = {key: value for key, value in asdict(self).items() if value not in (None, OFF) and value}
        given = {key: value for key, value in given.items() if key not in _PASSING}
        return {"extras": json.dumps(given)} if given else {}

    def completed(self, choices: Mapping[str, str]) -> TrainOptions:
        """With what a snapshot holds where nothing is given."""
        known = {field.name for field in fields(self)}
        kept = {key: value for key, value in json.loads(choices.get("extras", "{}")).items() if key in known}
        return replace(self, **{key: value for key, value in kept.items() if not getattr(self, key)})

    def differences(self, choices: Mapping[str, str]) -> list[str]:
        """Where a snapshot was written with other options."""
        before = json.loads(choices.get("extras", "{}"))
        now = json.loads(self.to_choices().get("extras", "{}"))
        return [
            f"{key} was {before.get(key, 'not given')} and is now {now.get(key, 'not given')}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]

    def nets(self, nets: Descriptions) -> Descriptions:
        """The nets, with the layers frozen that are not to learn."""
        if not self.freeze:
            return nets
        train, pattern = frozen(nets.train, self.freeze), self.freeze
        tests = (
            frozen(test, pattern) if any(re.search(pattern, layer.name) for layer in test.layer) else test
            for test in nets.tests
        )
        return replace(nets, train=train, tests=tuple(tests))

    def choosing_net(self, nets: Descriptions) -> NetParameter | None:
        """The net that answers the records to choose on: the first test net, reading these."""
        if self.best_on is None:
            return None
        test = nets.tests[0]
        return listed(test, self.best_on) if isinstance(self.best_on, str) else reading_alike(test, nets.train)

    def rest(self, seed: int) -> Callable[[Source], Source] | None:
        """What takes the records kept back from a training source; None where none are."""
        return self._narrowing(seed, lambda count, held: np.setdiff1d(np.arange(count), held))

    def held_back(self, seed: int) -> Callable[[Source], Source] | None:
        """What leaves a source only the records kept back."""
        return self._narrowing(seed, lambda count, held: held)

    def _narrowing(
        self, seed: int, pick: Callable[[int, NDArray[np.int64]], NDArray[np.int64]]
    ) -> Callable[[Source], Source] | None:
        share = self.best_on
        if not isinstance(share, float):
            return None
        return lambda source: Chosen(source, pick(len(source), held_back(len(source), share, seed)))

    def prepared(self, job: NetWithData, seed: int, device: torch.device) -> NetWithData:
        """The training job with smoothed labels, mixed batches and its precision."""
        if self.label_smoothing:
            _smooth(job, self.label_smoothing)
        if self.mixup:
            mix_up(job, self.mixup, seed)
        job.precision = precision_of(self.amp, device)
        return job

    def interval(self, settings: Settings, job: NetWithData) -> Settings:
        """The settings with snapshots by epochs."""
        if not self.snapshot_epochs:
            return settings
        batches = max(math.ceil(len(source) / source.batch_size) for source in job.sources)
        return replace(settings, snapshot=max(1, self.snapshot_epochs * batches // settings.iter_size))

    def observers(self) -> Sequence[Observer]:
        """What watches the run for these options; averaged weights come first, for they are what the others measure."""
        found: list[Observer] = []
        if self.ema:
            found.append(EMA(self.ema))
        if self.amp == "fp16":
            found.append(Scaling())
        if self.best_on is not None:
            found.append(Selection(self.early_stopping))
        if self.keep:
            found.append(Keep(self.keep))
        if self.save_init:
            found.append(SaveInit(self.save_init))
        return found


def recorded(state: str) -> Mapping[str, str]:
    """The choices in the snapshot of a solverstate; empty where it has none."""
    exact = read_exact(exact_beside(state))
    return {} if exact is None else exact.choices


def _smooth(job: NetWithData, share: float) -> None:
    losses = [job.net.get_submodule(call.path) for call in job.net.plan.calls if call.type == "SoftmaxWithLoss"]
    if not losses:
        raise TrainingError("label smoothing needs a SoftmaxWithLoss layer", hint="leave --label-smoothing out")
    for loss in losses:
        loss.smoothing = share  # type: ignore[assignment]
