"""The net, data and references that all heads of a sweep share, and the heads in groups trained in one step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fusion.composition import Pct
from fusion.nets.build import build, learnable, loss_weights
from fusion.nets.frozen_engine import AUTO, EngineRequest
from fusion.nets.weights import share_weights
from fusion.references import Objective, Reference, References, parse_references
from fusion.solver.batches import CachedBatches, load_all, shapes_of
from fusion.solver.load_solver import load_into
from fusion.solver.logging.console import Display
from fusion.solver.lr_policy import Schedule
from fusion.solver.net_with_data import NetWithData, open_net_with_data
from fusion.solver.optimizers import RULES
from fusion.solver.prepare import apply_options, log_class_order
from fusion.solver.settings import Settings
from fusion.solver.train_options import TrainOptions
from fusion.solver.trunk_cache import cache_trunk
from fusion.solver.trunk_cache_files import TrunkFiles
from fusion.sweep.grid import NONE, TENSORS, Trial
from fusion.sweep.stacked_heads import Heads, NotSweepableError, Segment, Stack, check_head

if TYPE_CHECKING:
    from fusion.data import ReadOptions
    from prototxt.schema.messages import NetParameter

PathLike = str | os.PathLike[str]
_TOGETHER = 256  # heads per step at most


@dataclass(frozen=True, eq=False)
class Opening:
    """How nets and data are opened, and where the trunk's outputs are kept (as in Solver)."""

    seed: int
    device: torch.device
    extras: TrainOptions
    reading: ReadOptions | None
    budget: int
    files: TrunkFiles
    display: Display
    frozen_engine: str = AUTO


@dataclass(frozen=True, eq=False)
class SweepContext:
    """The nets, data and references that all heads share.

    objectives  the number of each loss without its numbers among the job's losses
    open_test   opens a test net with the trained trunk
    """

    train: NetWithData
    held: References | None
    objectives: dict[Trial, int]
    device: torch.device
    open_test: Callable[[NetParameter], NetWithData]


@dataclass(frozen=True, eq=False)
class Group:
    """Heads that are trained in one step."""

    cells: tuple[Trial, ...]
    heads: Heads


def prepare(
    train: NetParameter,
    todo: Sequence[Trial],
    references: Sequence[Reference | str],
    weights: Sequence[PathLike],
    opening: Opening,
) -> SweepContext:
    """Build the net, ask the references and compute the trunk once. Raises: NotSweepableError without such a trunk."""
    kinds = list(dict.fromkeys(_kind(cell) for cell in todo if cell.loss != NONE))
    objectives = [Objective(Pct(kind.loss, 1.0, dict(kind.options))) for kind in kinds]
    held = parse_references(references, objectives)
    opened = partial(open_net_with_data, seed=opening.seed, device=opening.device, reading=opening.reading)
    job = opened(train, "TRAIN", references=held)
    opening.extras.check_net(job, opening.device)
    job = apply_options(job, opening.extras, opening.seed, opening.device)
    for path in weights:
        load_into([job], path)

    def open_test(message: NetParameter) -> NetWithData:
        made = opened(message, "TEST")
        for path in weights:
            load_into([made], path)
        share_weights(made.net, job.net)
        return _with_cached_trunk(made, opening)

    log_class_order(job.sources, opening.display)
    job = _with_cached_trunk(job, opening)
    check_head(job.active_net)
    return SweepContext(job, held, {kind: i for i, kind in enumerate(kinds)}, opening.device, open_test)


def _with_cached_trunk(job: NetWithData, opening: Opening) -> NetWithData:
    display = opening.display
    load_all(job.sources, partial(display.progress, f"decoding ({job.net.plan.phase})"))
    request = EngineRequest(opening.frozen_engine)
    job, decision = cache_trunk(job, opening.budget, display, opening.device, request, opening.files)
    if not isinstance(job.batches, CachedBatches):
        raise NotSweepableError(
            f"a sweep needs a frozen trunk that is computed once; {decision}",
            hint="freeze the layers below the head (lr_mult 0), and use no random crops or mirrors",
        )
    return job


def _kind(cell: Trial) -> Trial:
    """Return the trial's loss without the numbers that heads with the same loss layers may differ in."""
    return Trial(cell.loss, tuple(pair for pair in cell.options if pair[0] not in TENSORS))


def groups_of(
    bench: SweepContext, todo: Sequence[Trial], settings: Settings, kd_alpha: float | None, ema: float = 0.0
) -> list[Group]:
    """Return the heads in groups that are trained in one step; `ema` is the decay of averaged weights.

    Heads of one structure lie next to each other. Where they have closed forms, those of other losses and rates join
    them, for one matrix product; under autograd each structure is a group.
    """
    parts: dict[Any, list[Trial]] = {}
    for cell in todo:
        parts.setdefault(cell.structure, []).append(cell)
    runs = [
        members[first : first + _TOGETHER] for members in parts.values() for first in range(0, len(members), _TOGETHER)
    ]
    joined: list[list[list[Trial]]] = []
    for run in runs:
        if not joined or sum(map(len, joined[-1])) + len(run) > _TOGETHER:
            joined.append([])
        joined[-1].append(run)
    make = partial(_group, bench, _Starts(bench.train), settings, kd_alpha, ema)
    found = []
    for members in joined:
        group = make(members)
        found += [group] if group.heads.has_closed_form else [make([run]) for run in members]
    return found


def _group(
    bench: SweepContext,
    starts: _Starts,
    settings: Settings,
    kd_alpha: float | None,
    ema: float,
    runs: Sequence[Sequence[Trial]],
) -> Group:
    job, ours = bench.train, {name for names in bench.train.losses for name in names}
    assert isinstance(job.batches, CachedBatches), "as _with_cached_trunk has checked"
    trials = [trial for run in runs for trial in run]
    heads = Heads(
        job.active_net,
        job.batches,
        {name: torch.stack([starts.of(trial.seed)[name] for trial in trials]) for name in starts.rates},
        [key for key in loss_weights(job.active_net) if key not in ours],
        list(_segments(bench, runs, settings.schedule, kd_alpha)),
        starts.rates,
        partial(RULES[settings.type], **settings.optimizer_options),
        ema,
    )
    return Group(tuple(trials), heads)


def _segments(
    bench: SweepContext, runs: Sequence[Sequence[Trial]], schedule: Schedule, kd_alpha: float | None
) -> Iterator[Segment]:
    job, start = bench.train, 0
    paths = {call.name: call.path for call in job.active_net.plan.calls}
    for run in runs:
        first, heads = run[0], slice(start, start + len(run))
        names = job.losses[bench.objectives[_kind(first)]] if first.loss != NONE else ()
        yield Segment(
            heads,
            {name: paths[name] for name in names},
            {key: float(value) for key, value in first.options if key in TENSORS},
            torch.tensor([trial.weight for trial in run], device=bench.device),
            (1.0, 1.0) if kd_alpha is None or first.loss == NONE else (1 - kd_alpha, kd_alpha),
            schedule if first.lr is None else replace(schedule, base_lr=first.lr),
        )
        start = heads.stop


class _Starts:
    """The parameters that heads start from, by seed of their fillers; without one those of the net."""

    def __init__(self, job: NetWithData) -> None:
        self._job = job
        self.rates = {
            param.attribute: (param.lr_mult, param.decay_mult)
            for param, blob in zip(_own(job), learnable(job.active_net), strict=True)
            if isinstance(blob.tensor, nn.Parameter) and blob.tensor.requires_grad
        }
        self._known: dict[int | None, Stack] = {None: self._of(job.net)}

    def of(self, seed: int | None) -> Stack:
        """Return the parameters by name."""
        if seed not in self._known:
            job = self._job
            fresh = build(job.message, "TRAIN", shapes=shapes_of(job.sources), seed=seed)
            self._known[seed] = self._of(fresh)
        return self._known[seed]

    def _of(self, net: nn.Module) -> Stack:
        device = next(iter(self._job.active_net.parameters())).device
        return {name: net.get_parameter(name).detach().to(device) for name in self.rates}


def _own(job: NetWithData) -> list[Any]:
    return [param for param in job.active_net.plan.params if not param.shared]
