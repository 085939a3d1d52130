"""The options of training that Caffe's solver files do not have; the defaults are Caffe's behaviour."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from fusion.data.in_step_sources import single_source
from fusion.errors import TrainingError
from fusion.solver.holdout import SourceSubset, validation_records, with_training_data
from fusion.solver.kept_references import keep_references
from fusion.solver.layer_rates import freeze_layers, layers_found, multiply_rates, thaw_layers
from fusion.solver.mixed_precision import OFF, precision_of
from fusion.solver.mixup import check_mixup

if TYPE_CHECKING:
    import torch

    from fusion.data import DataSource
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
    label_smoothing  share of the target that is spread over all classes, for SoftmaxWithLoss in training
    mixup            alpha of mixup; 0: none
    ema              decay of averaged weights; 0: none
    amp              "bf16" or "fp16": training in mixed precision; "off" or None: in float32
    best_on          choose the best weights on this share of the training records, kept back, or on a list
    early_stopping   end after N tests without improvement; 0: never
    snapshot_epochs  snapshots by passes over the training records instead of iterations
    keep             the number of newest snapshots to keep; 0: all
    save_init        where to write the weights before the first step
    thaw             a regular expression: frozen layers whose name it finds learn; references in the net that depend
                     on them are kept as frozen copies
    lr_mult          factors of layers' learning rates: "REGEX=0.1"
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
    thaw: str | None = None
    lr_mult: Sequence[str] = ()

    def check(self, settings: Settings) -> None:
        """Check that the options go together. Raises: TrainingError."""
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError(f"label smoothing must lie in [0, 1), not {self.label_smoothing:g}", hint="try 0.1")
        if self.early_stopping and self.best_on is None:
            raise TrainingError("early stopping needs validation records", hint="give --best-on 0.1, or a list")
        if self.best_on is not None and not (settings.test_iter and settings.test_interval):
            hint = "give test_iter and test_interval"
            raise TrainingError("the best weights are chosen at tests, and the solver has none", hint=hint)

    def check_net(self, job: NetWithData, device: torch.device) -> None:
        """Check that the options fit the net in training and the device. Raises: TrainingError, DataError."""
        precision_of(self.amp, device)
        if self.label_smoothing and not any(call.type == "SoftmaxWithLoss" for call in job.net.plan.calls):
            raise TrainingError("label smoothing needs a SoftmaxWithLoss layer", hint="leave --label-smoothing out")
        if self.mixup:
            check_mixup(job, self.mixup)

    def to_decisions(self) -> dict[str, str]:
        """Return the part of the options that a snapshot holds."""
        given = {key: value for key, value in asdict(self).items() if value not in (None, OFF) and value}
        given = {key: value for key, value in given.items() if key not in _PASSING}
        return {"extras": json.dumps(given)} if given else {}

    def completed(self, decisions: Mapping[str, str]) -> TrainOptions:
        """Return the options, with those of a snapshot where none is given."""
        known = {field.name for field in fields(self)}
        recorded = {key: value for key, value in json.loads(decisions.get("extras", "{}")).items() if key in known}
        # an option that is given wins
        return replace(self, **{key: value for key, value in recorded.items() if not getattr(self, key)})

    def differences(self, decisions: Mapping[str, str]) -> list[str]:
        """Return the differences from the options of a snapshot, in words."""
        before = json.loads(decisions.get("extras", "{}"))
        now = json.loads(self.to_decisions().get("extras", "{}"))
        return [
            f"{key} was {before.get(key, 'not given')} and is now {now.get(key, 'not given')}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]

    def nets(self, nets: Descriptions) -> Descriptions:
        """Return the nets with the layers of `freeze`, `thaw` and `lr_mult` at these rates. Raises: TrainingError."""
        for option, pattern in self._patterns():
            layers_found([nets.train], pattern, option)
        return replace(nets, train=self._at_rates(nets.train), tests=tuple(map(self._at_rates, nets.tests)))

    def _patterns(self) -> list[tuple[str, str]]:
        """Return the options that choose layers, with their regular expressions."""
        given = [("--freeze", self.freeze), ("--thaw", self.thaw)]
        given += [("--lr-mult", text.rpartition("=")[0]) for text in self.lr_mult]
        return [(option, pattern) for option, pattern in given if pattern]

    def _at_rates(self, net: NetParameter) -> NetParameter:
        """Return a net with its layers at these rates; a test net need not have any of them."""

        def has(pattern: str) -> bool:
            return any(layer.bottom and re.search(pattern, layer.name) for layer in net.layer)

        if self.freeze and has(self.freeze):
            net = freeze_layers(net, self.freeze)
        if self.thaw and has(self.thaw):
            changed, thawed = thaw_layers(net, self.thaw)
            net = keep_references(net, changed, thawed)
        for text in self.lr_mult:
            if has(text.rpartition("=")[0]):
                net = multiply_rates(net, text)
        return net

    def validation_net(self, nets: Descriptions) -> NetParameter | None:
        """Return the first test net, reading the validation records; None where there are none."""
        if self.best_on is None:
            return None
        return (
            nets.test_on(self.best_on)
            if isinstance(self.best_on, str)
            else with_training_data(nets.tests[0], nets.train)
        )

    def select(self, seed: int, *, validation: bool = False) -> Callable[[Sequence[DataSource]], Sequence[DataSource]]:
        """Return a function from sources to those of the training records, or to those kept back for validation."""
        share = self.best_on
        if not isinstance(share, float):
            return lambda sources: sources

        def select(sources: Sequence[DataSource]) -> Sequence[DataSource]:
            source = single_source(sources, "keeping back a share of the training records needs")
            records = validation_records(source, share, seed)
            return [SourceSubset(source, records if validation else np.setdiff1d(np.arange(len(source)), records))]

        return select

    def interval(self, settings: Settings, job: NetWithData) -> Settings:
        """Return the settings with snapshots by epochs."""
        if not self.snapshot_epochs:
            return settings
        batches = max(math.ceil(len(source) / source.batch_size) for source in job.sources)
        return replace(settings, snapshot=max(1, self.snapshot_epochs * batches // settings.iter_size))
