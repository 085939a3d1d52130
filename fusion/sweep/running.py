"""A sweep from a solver file: trunk and references once, heads in groups, figures on two splits, files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusion.composition import Pct
from fusion.data import Source
from fusion.errors import TrainingError
from fusion.nets import build, learnable, loss_weights, outputs_of
from fusion.pct.predictions import Predictions
from fusion.references import Held, Objective, Reference, ask, judged
from fusion.solver.descriptions import read_nets
from fusion.solver.display import Display, for_stream
from fusion.solver.feeds import CachedFeed, load_all, shapes_of
from fusion.solver.jobs import Job, choose_device, open_job
from fusion.solver.settings import Settings, read_settings
from fusion.solver.stepping import TRACEABLE
from fusion.solver.trunks import DEFAULT_BUDGET, cache_trunk
from fusion.solver.updates import RULES
from fusion.sweep.grid import NONE, TENSORS, Axes, Cell, cells
from fusion.sweep.heads import Heads, Stack, answers, check_head
from fusion.sweep.judging import Panel, known_answers, records_of
from fusion.sweep.results import Entry, Judge, Result, choose
from fusion.weights import load_weights, save_weights, share_weights
from prototxt.loading import load_solver

if TYPE_CHECKING:
    from prototxt.messages import NetParameter, SolverParameter

PathLike = str | os.PathLike[str]
_TOGETHER = 256  # heads per step at most
_CHUNK = 2000


def sweep(
    solver: PathLike,
    axes: Axes,
    *,
    references: Sequence[Reference | str] = (),
    weights: PathLike | Sequence[PathLike] | None = None,
    kd_alpha: float | None = None,
    select_on: float | PathLike = 0.1,
    slack: float = 0.003,
    out: PathLike | None = None,
    device: str = "auto",
    max_iter: int | None = None,
    cache_budget: int = DEFAULT_BUDGET,
    display: Display | None = None,
) -> Result:
    """Train a head for every combination of the axes and choose a setting.

    axes       values for loss, weight, lr, seed and for options of the losses (alpha, beta, temperature, margin, ...)
    select_on  the share of the training records that is kept back to choose on, or a list file to choose on; what is
               reported are the records of the solver's (first) test net
    slack      a setting may be chosen up to so much below the best accuracy
    out        folder for new/NAME.npz, old/NAME.npz, table.csv, table.json and best.caffemodel
    `seed` is that of the fillers of the head, which then wins over `weights`; the records come in the solver's order.

    Raises: TrainingError for what cannot be swept; the errors of Solver.
    """
    display = display or for_stream()
    message: SolverParameter = load_solver(solver)
    if max_iter is not None:
        message.max_iter = max_iter
    settings = read_settings(message, path=os.fspath(solver))
    _check(settings)
    todo = cells(axes)
    nets = read_nets(message, path=os.fspath(solver))
    if not nets.tests:
        raise TrainingError("a sweep reports on the solver's test net, and there is none", place=os.fspath(solver))
    start = settings.weights if weights is None else [weights] if isinstance(weights, (str, os.PathLike)) else weights
    chosen = choose_device(device)
    bench = _bench(nets.train, nets.tests[0], todo, references, start, settings, chosen, cache_budget, display)
    held = _held_back(len(bench.train.sources[0]), select_on, settings.seed or 0)
    groups = _groups(bench, todo, settings, kd_alpha)
    losses = _train(bench, groups, held, settings, display)
    select = _selecting(bench, nets.tests[0], held, select_on, display)
    report = Panel(bench.test, np.arange(len(bench.test.sources[0])))
    result = _judged(bench, groups, losses, select, report, slack, None if out is None else Path(out))
    display.say(f"chosen: {result.best.name}")
    return result


@dataclass(frozen=True, eq=False)
class Bench:
    """What all heads share.

    objectives  the number of each loss without its numbers among the job's losses
    """

    train: Job
    test: Job
    held: Held | None
    objectives: dict[Cell, int]
    device: torch.device
    open_test: Callable[[NetParameter], Job]


@dataclass(frozen=True, eq=False)
class Group:
    """Heads that are trained in one step."""

    cells: tuple[Cell, ...]
    heads: Heads


def _bench(
    train: NetParameter,
    test: NetParameter,
    todo: Sequence[Cell],
    references: Sequence[Reference | str],
    weights: Sequence[PathLike],
    settings: Settings,
    device: torch.device,
    budget: int,
    display: Display,
) -> Bench:
    kinds = list(dict.fromkeys(_kind(cell) for cell in todo if cell.loss != NONE))
    objectives = [Objective(Pct(kind.loss, 1.0, dict(kind.options))) for kind in kinds]
    held = ask(references, objectives)
    seed = settings.seed or 0
    job = open_job(train, "TRAIN", seed=seed, device=device, held=held)
    for path in weights:
        load_weights(job.net, path)

    def open_test(message: NetParameter) -> Job:
        made = open_job(message, "TEST", seed=seed, device=device)
        for path in weights:
            load_weights(made.net, path)
        share_weights(made.net, job.net)
        _keep(made, budget, display, device)
        return made

    _keep(job, budget, display, device)
    check_head(job.runs, TRACEABLE)
    return Bench(job, open_test(test), held, {kind: i for i, kind in enumerate(kinds)}, device, open_test)


def _keep(job: Job, budget: int, display: Display, device: torch.device) -> None:
    load_all(job.sources, partial(display.progress, f"decoding ({job.net.plan.phase})"))
    outcome = cache_trunk(job, budget, display, device)
    if not isinstance(job.feed, CachedFeed):
        raise TrainingError(
            f"a sweep needs a frozen trunk that is computed once; {outcome}",
            hint="freeze the layers below the head (lr_mult 0), and use no random crops or mirrors",
        )


def _kind(cell: Cell) -> Cell:
    """The cell's loss without the numbers that heads of one step may differ in."""
    return Cell(cell.loss, tuple(pair for pair in cell.options if pair[0] not in TENSORS))


def _check(settings: Settings) -> None:
    for name, wrong in (
        ("iter_size above 1", settings.iter_size != 1),
        ("clip_gradients", settings.clip_gradients >= 0),
    ):
        if wrong:
            raise TrainingError(f"heads are trained together without {name}", hint="leave it out of the solver file")


def _held_back(count: int, select_on: float | PathLike, seed: int) -> NDArray[np.int64]:
    """The training records that are kept back, in ascending order; none where a list is given."""
    if not isinstance(select_on, float):
        return np.empty(0, np.int64)
    number = round(select_on * count)
    if not 0 < number < count:
        raise TrainingError(f"a share of {select_on:g} of {count} training records to choose on", hint="e.g. 0.1")
    return np.sort(np.random.default_rng((seed, 0x5E1)).choice(count, number, replace=False))


def _groups(bench: Bench, todo: Sequence[Cell], settings: Settings, kd_alpha: float | None) -> list[Group]:
    parts: dict[Any, list[Cell]] = {}
    for cell in todo:
        parts.setdefault(cell.structure, []).append(cell)
    starts = _Starts(bench.train)
    found = []
    for members in parts.values():
        for first in range(0, len(members), _TOGETHER):
            chosen = members[first : first + _TOGETHER]
            found.append(Group(tuple(chosen), _heads(bench, chosen, starts, settings, kd_alpha)))
    return found


def _heads(bench: Bench, chosen: Sequence[Cell], starts: _Starts, settings: Settings, kd_alpha: float | None) -> Heads:
    job, first = bench.train, chosen[0]
    ours = {name for names in job.losses for name in names}
    task = [key for key in loss_weights(job.runs) if key not in ours]
    names = job.losses[bench.objectives[_kind(first)]] if first.loss != NONE else ()
    paths = {call.name: call.path for call in job.runs.plan.calls}
    numbers = [key for key, _ in first.options if key in TENSORS]
    hyper = {key: torch.tensor([float(dict(cell.options)[key]) for cell in chosen]) for key in numbers}
    hyper["weight"] = torch.tensor([cell.weight for cell in chosen])
    share = (1.0, 1.0) if kd_alpha is None or first.loss == NONE else (1 - kd_alpha, kd_alpha)
    schedule = settings.schedule if first.lr is None else replace(settings.schedule, base_lr=first.lr)
    return Heads(
        job.runs,
        {name: torch.stack([starts.of(cell.seed)[name] for cell in chosen]) for name in starts.rates},
        task,
        {name: paths[name] for name in names},
        {key: values.to(bench.device) for key, values in hyper.items()},
        share,
        starts.rates,
        partial(
            RULES[settings.type],
            momentum=settings.momentum,
            momentum2=settings.momentum2,
            weight_decay=settings.weight_decay,
            regularization=settings.regularization,
            delta=settings.delta,
            rms_decay=settings.rms_decay,
        ),
        schedule,
    )


class _Starts:
    """The parameters that heads start from, by seed of their fillers; without one those of the net."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.rates = {
            param.attribute: (param.lr_mult, param.decay_mult)
            for param, blob in zip(_own(job), learnable(job.runs), strict=True)
            if isinstance(blob.tensor, nn.Parameter) and blob.tensor.requires_grad
        }
        self._known: dict[int | None, Stack] = {None: self._of(job.net)}

    def of(self, seed: int | None) -> Stack:
        """Parameters by name."""
        if seed not in self._known:
            job = self._job
            fresh = build(job.message, "TRAIN", shapes=shapes_of(job.sources), seed=seed)
            self._known[seed] = self._of(fresh)
        return self._known[seed]

    def _of(self, net: nn.Module) -> Stack:
        device = next(iter(self._job.runs.parameters())).device
        return {name: net.get_parameter(name).detach().to(device, copy=True) for name in self.rates}


def _own(job: Job) -> list[Any]:
    return [param for param in job.runs.plan.params if not param.shared]


def _train(
    bench: Bench, groups: Sequence[Group], held: NDArray[np.int64], settings: Settings, display: Display
) -> dict[Cell, float]:
    """Train all; returns each head's mean loss over the last hundred iterations."""
    feed, job = bench.train.feed, bench.train
    assert isinstance(feed, CachedFeed)
    batches = _batches(feed.source, held)
    totals = [torch.zeros(len(group.heads), device=bench.device) for group in groups]
    last = max(0, settings.max_iter - 100)
    display.say(f"{sum(len(g.cells) for g in groups)} heads in {len(groups)} groups, {settings.max_iter} iterations")
    display.start(0, settings.max_iter)
    try:
        for iteration in range(settings.max_iter):
            blobs = feed.pick(next(batches))
            for ramp in job.ramps:
                ramp.set(iteration)
            for group, total in zip(groups, totals, strict=True):
                losses = group.heads.train(blobs)
                if iteration >= last:
                    total += losses
            display.tick(iteration + 1)
    finally:
        display.close()
    count = max(1, settings.max_iter - last)
    return {
        cell: value / count
        for group, total in zip(groups, totals, strict=True)
        for cell, value in zip(group.cells, total.tolist(), strict=True)
    }


def _batches(source: Source, held: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The source's order without the records that are kept back, in batches of the usual size."""
    if not len(held):
        yield from source.order()
    kept = np.ones(len(source), bool)
    kept[held] = False
    waiting = np.empty(0, np.int64)
    for indices in source.order():
        waiting = np.concatenate([waiting, indices[kept[indices]]])
        while len(waiting) >= source.batch_size:
            yield waiting[: source.batch_size]
            waiting = waiting[source.batch_size :]


def _selecting(
    bench: Bench, test: NetParameter, held: NDArray[np.int64], select_on: float | PathLike, display: Display
) -> Panel:
    """The records to choose on: those kept back, or those of a list read as the test net reads its own."""
    if isinstance(select_on, float):
        return Panel(bench.train, held)
    message = type(test)()
    message.CopyFrom(test)
    for layer in message.layer:
        for name in ("image_data_param", "data_param", "hdf5_data_param"):
            if layer.HasField(name):
                getattr(layer, name).source = os.fspath(select_on)
    job = bench.open_test(message)
    display.say(f"choosing on {select_on}: {len(job.sources[0])} records")
    return Panel(job, np.arange(len(job.sources[0])))


def _judged(
    bench: Bench,
    groups: Sequence[Group],
    losses: dict[Cell, float],
    select: Panel,
    report: Panel,
    slack: float,
    out: Path | None,
) -> Result:
    logits = judged(bench.train.message)
    judges = []
    for panel in (select, report):
        old = known_answers(panel, bench.held, bench.device)
        judges.append(Judge(records_of(panel), old))
        if panel is report and out is not None:
            _save(old, out / "old")
    entries = []
    for group in groups:
        chosen, shown = (_logits(panel, logits, group.heads.params) for panel in (select, report))
        for index, cell in enumerate(group.cells):
            kept_back, reported = (
                judge.figures(values[index].argmax(1)) for judge, values in zip(judges, (chosen, shown), strict=True)
            )
            entries.append(Entry(cell, losses[cell], kept_back, reported))
        if out is not None:
            base = records_of(report)
            meta = {"preprocessing": report.job.sources[0].fingerprint()}
            _save([replace(base, logits=v, classes=None, meta={"name": c.name, **meta})  # type: ignore[arg-type]
                   for c, v in zip(group.cells, shown, strict=True)], out / "new")  # fmt: skip
    setting = choose(entries, slack)
    best = next(entry.cell for entry in entries if entry.cell.setting == setting)
    result = Result(tuple(replace(entry, chosen=entry.cell.setting == setting) for entry in entries), best)
    if out is not None:
        result.write(out)
        _write_best(bench, groups, best, out / "best.caffemodel")
    return result


def _save(nets: Sequence[Predictions], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for net in nets:
        net.save(folder / f"{net.name}.npz")


def _logits(panel: Panel, blob: str, params: Stack) -> NDArray[np.float32]:
    """Logits of all heads, float32 [H, N, C]."""
    feed = panel.job.feed
    assert isinstance(feed, CachedFeed)
    net = outputs_of(panel.job.runs, [blob])
    parts = [
        answers(net, params, feed.pick(panel.rows[at : at + _CHUNK])).flatten(2).cpu().numpy()
        for at in range(0, len(panel.rows), _CHUNK)
    ]
    return np.concatenate(parts, axis=1)


@torch.no_grad()
def _write_best(bench: Bench, groups: Sequence[Group], best: Cell, path: Path) -> None:
    for group in groups:
        if best in group.cells:
            index = group.cells.index(best)
            for name, values in group.heads.params.items():
                target: Tensor = bench.train.net.get_parameter(name)
                target.copy_(values[index])
    save_weights(bench.train.net, path)
