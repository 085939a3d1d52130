"""Preparation of a run: everything between opening its nets and the first iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from fusion.data.class_order import sorted_classes_warning
from fusion.distributed.process_group import in_step
from fusion.nets.frozen_engine import AUTO, RUNTIME, TORCH, EngineRequest
from fusion.solver.batches import load_all
from fusion.solver.evaluate_test_nets import TestNet, averages_records
from fusion.solver.logging.debug_info import Watched
from fusion.solver.mixed_precision import precision_of
from fusion.solver.mixup import mix_up
from fusion.solver.step.memory_format import has_filters, set_layout
from fusion.solver.step.step import Engine
from fusion.solver.trunk_cache import cache_trunk

if TYPE_CHECKING:
    from fusion.data import DataSource
    from fusion.solver.logging.console import Display
    from fusion.solver.net_with_data import NetWithData
    from fusion.solver.run import Run
    from fusion.solver.train_options import TrainOptions
    from fusion.solver.trunk_cache_files import TrunkFiles


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run that is ready for its first iteration.

    nets    the net in training and each test net, as they run: whole, or their heads on cached rows
    tests   the test nets with their numbers of iterations; a validation net comes last
    engine  forward and backward of an iteration
    """

    nets: tuple[NetWithData, ...]
    tests: tuple[TestNet, ...]
    engine: Engine


def prepare_run(run: Run, budget: int, files: TrunkFiles, frozen_engine: str, compile: bool | None) -> PreparedRun:
    """Decide precision, mixup, trunk cache, memory layout, step, threads and compilation; no position in data changes.

    budget   bytes of memory for the outputs of frozen trunks, and `files` for more of them
    frozen_engine, compile  as in `SolverOptions`
    """
    settings, display, device, progress = run.settings, run.display, run.device, run.progress
    train, *tests = run.nets
    train = apply_options(train, run.extras, run.seed, device)
    log_class_order(train.sources, display)
    train, *tests = [
        _with_cached_trunk(job, budget, files, _engine_request(run, frozen_engine, number), display, device)
        for number, job in enumerate((train, *tests))
    ]
    _compare_engines(run, (train, *tests), frozen_engine)
    debug = settings.debug_info
    watched = (watched_net(run, train), lambda: _is_due(run, settings.display)) if debug else None
    with in_step(None if run.data_parallel is None else run.data_parallel.group):
        engine = Engine(train, run.flat_params, settings, run.data_parallel, watched)
    display.say(engine.choice)
    closed = engine.closed is not None
    progress.compare(closed, train.active_net is not train.net, display)
    if train.precision.dtype is not None:
        display.say(train.precision.describe(closed))
    train = replace(train, batches=engine.batches)
    nets = (train, *tests)
    # Threads are measured last: the trial is the step that was chosen.
    trial = engine.trial if device.type == "cpu" else lambda: None
    if message := run.autotuner.settle(trial, _layout_setter(nets, device)):
        display.say(message)
    _compile(run, engine, compile)
    return PreparedRun(nets, tuple(_test_nets(run, tests)), engine)


def apply_options(job: NetWithData, options: TrainOptions, seed: int, device: torch.device) -> NetWithData:
    """Return the net in training with smoothed labels, mixed batches and its precision."""
    if options.label_smoothing:
        losses = [job.net.get_submodule(call.path) for call in job.net.plan.calls if call.type == "SoftmaxWithLoss"]
        for loss in losses:
            loss.smoothing = options.label_smoothing  # type: ignore[assignment]
    if options.mixup:
        job = mix_up(job, options.mixup, seed)
    return replace(job, precision=precision_of(options.amp, device))


def log_class_order(sources: Sequence[DataSource], display: Display) -> None:
    """Log where the records of training are sorted by class."""
    for source in sources:
        line = sorted_classes_warning(source)
        if line is not None:
            display.say(line)


def watched_net(run: Run, job: NetWithData) -> Watched:
    """Return the net as one that logs each layer on the run's display."""
    return Watched(job.active_net, job.message, lambda text: run.display.say(text), job.precision)


def _is_due(run: Run, interval: int) -> bool:
    return interval > 0 and run.iter % interval == 0


def _with_cached_trunk(
    job: NetWithData, budget: int, files: TrunkFiles, request: EngineRequest, display: Display, device: torch.device
) -> NetWithData:
    """Read the data that fits into memory, and return the net with its trunk cached where that is possible."""
    phase = job.net.plan.phase
    if device.type == "cuda" and job.precision.dtype is not None:
        set_layout(job.net, channels_last=True)  # the layout of its matrix units; on a CPU the layout is measured
    load_all(job.sources, partial(display.progress, f"decoding ({phase})"))
    job, decision = cache_trunk(job, budget, display, device, request, files)
    display.say(f"{phase} net: {decision}")
    return job


def _engine_request(run: Run, name: str, number: int) -> EngineRequest:
    """Return the engine for the frozen ONNX layers of a net; "auto" is that of the snapshot, if it names one."""
    recorded = dict(enumerate(run.progress.frozen_engines)).get(number, "")
    if name == AUTO and recorded:
        return EngineRequest(recorded.partition(" ")[0], "as in the snapshot")
    if name == AUTO and run.data_parallel is not None:
        return EngineRequest(TORCH, "each process would choose for itself")
    return EngineRequest(name)


def _compare_engines(run: Run, nets: Sequence[NetWithData], name: str) -> None:
    """Warn where a net's engine is not that of the snapshot, and where the one that was requested runs nothing."""
    for job, recorded in zip(nets, run.progress.frozen_engines, strict=False):
        if job.frozen_engine and recorded not in ("", job.frozen_engine):
            run.display.say(
                f"warning: {recorded} computed the frozen ONNX layers of the run that wrote the snapshot: the last "
                "bits may differ"
            )
    if name == RUNTIME and not any(job.frozen_engine for job in nets):
        run.display.say(f"warning: --frozen-engine {name} has no effect: no frozen ONNX layers are computed once")


def _layout_setter(nets: Sequence[NetWithData], device: torch.device) -> Callable[[bool], None] | None:
    """Return a function that puts the nets' channels last, or not; None where training does not depend on it."""
    if device.type != "cpu" or not has_filters(nets[0].active_net):
        return None

    def arrange(channels_last: bool) -> None:
        for job in nets:
            set_layout(job.net, channels_last)

    return arrange


def _compile(run: Run, engine: Engine, compile: bool | None) -> None:
    """Compile the step if requested, or if the snapshot's step was compiled."""
    progress = run.progress
    if compile is False and progress.compiled:
        run.display.say("warning: a compiled step wrote the snapshot: the last bits may differ")
        progress.compiled = None
    if compile or progress.compiled:
        run.display.say(engine.compile(progress.compiled))
        progress.compiled = engine.compiled


def _test_nets(run: Run, nets: Sequence[NetWithData]) -> list[TestNet]:
    """Return the test nets; the validation net has no test_iter, and sees all of its records once."""
    iterations, debug = run.settings.test_iter, run.settings.debug_info
    rest = [max(-(-len(source) // source.batch_size) for source in job.sources) for job in nets[len(iterations) :]]
    return [
        TestNet(
            job.active_net,
            job.batches,
            count,
            averages_records(job.message),
            job.by_layer or (watched_net(run, job) if debug else None),
        )
        for job, count in zip(nets, [*iterations, *rest], strict=True)
    ]
