"""The plan of a run, described without running it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fusion.nets.build import learnable, params
from fusion.solver.batches import shapes_of
from fusion.solver.logging.memory import MIB
from fusion.solver.mixed_precision import OFF
from fusion.solver.trunk_cache import cacheable_trunk
from prototxt.shapes import infer

if TYPE_CHECKING:
    from fusion.nets.split import TrunkAndHead
    from fusion.solver.net_with_data import NetWithData
    from fusion.solver.solver import Solver

_FLOAT = 4  # bytes


def describe_plan(run: Solver, budget: int) -> list[str]:
    """Return the plan of a run that is open but has not started, in lines.

    budget  bytes for the frozen trunk's outputs
    """
    settings = run.settings
    half = "" if run.extras.amp in (None, OFF) else f", in mixed precision ({run.extras.amp})"
    lines = [f"Net: {run.net.plan.name or '(no name)'}, {settings.type} on {_where(run)}{half}"]
    lines += [f"  {text}" for text in _layers(run)]
    for index, job in enumerate(run.nets):
        test = index - 1
        title = "Training data" if index == 0 else f"Test data #{test}"
        title = "Validation data" if test >= len(settings.test_iter) else title
        lines += [f"{title}:", *(f"  {text}" for text in _data(run, job))]
        lines.append(f"  {_trunk(job, budget)[0]}")
    lines += _course(run)
    lines.append(f"Memory, about: {_memory(run, budget)}")
    return lines


def _where(run: Solver) -> str:
    requested = run.autotuner.requested
    threads = requested if isinstance(requested, int) else torch.get_num_threads()
    return f"the CPU ({threads} thread{'s' * (threads != 1)})" if run.device.type == "cpu" else str(run.device)


def _size(count: int) -> str:
    """Return bytes in MiB, with three digits."""
    value = count / MIB
    return f"{value:.0f} MiB" if value >= 100 else f"{value:.3g} MiB"


def _layers(run: Solver) -> list[str]:
    trained = {blob.layer for blob in learnable(run.net) if blob.tensor.requires_grad}
    blobs = params(run.net)
    found = []
    verbs = {"learns": [name for name in blobs if name in trained], "keeps": [n for n in blobs if n not in trained]}
    for verb, names in verbs.items():
        count = sum(tensor.numel() for name in names for tensor in blobs[name])
        if names:
            shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
            found.append(f"{verb} {count:,} values in {len(names)} layers: {shown}")
    return found


def _data(run: Solver, job: NetWithData) -> list[str]:
    found = []
    for source in job.sources:
        each = f"{len(source):,} records in batches of {source.batch_size} to {', '.join(source.tops)}"
        random = "" if source.deterministic else ", with random crops, mirrors or fillers"
        found.append(each + random)
    if job is run.nets[0]:
        taken = run.settings.iter_size * run.settings.max_iter
        epochs = [taken * source.batch_size / len(source) for source in job.sources if len(source)]
        if epochs:
            found.append(f"{max(epochs):.3g} passes over them in all")
    return found


def _trunk(job: NetWithData, budget: int) -> tuple[str, int]:
    """Return a line about the frozen trunk, and the bytes in memory of its outputs."""
    found, reason = cacheable_trunk(job, budget)
    if found is None:
        return reason, 0
    boundary, size = ", ".join(found.boundary), _rows(job, found)
    text = f"frozen trunk up to {boundary}: computed once, {_size(size)}"
    if size > budget:
        return f"{text}, more than the budget, so it goes to a file where there is room", 0
    return f"{text} in memory", size


def _rows(job: NetWithData, found: TrunkAndHead) -> int:
    """Return the bytes of the head's inputs for all records."""
    shapes = infer(job.message, inputs=shapes_of(job.sources)).blobs
    keys = [key.partition("@")[0] for key, _ in found.head.plan.inputs]
    each = sum(math.prod(dim or 1 for dim in shapes[key][1:]) for key in keys if key in shapes)
    return each * len(job.sources[0]) * _FLOAT


def _course(run: Solver) -> list[str]:
    settings, schedule = run.settings, run.settings.schedule
    warmup = f", rising in the first {schedule.warmup}" if schedule.warmup else ""
    lines = [f"{settings.max_iter - run.iter:,} iterations, from {run.iter} to {settings.max_iter}"]
    lines.append(f"  learning rate {schedule.base_lr:g}, {schedule.policy}{warmup}")
    if settings.test_iter and settings.test_interval:
        counts = ", ".join(map(str, settings.test_iter))
        lines.append(f"  tests every {settings.test_interval} iterations, of {counts} batches")
    every = f"every {settings.snapshot} iterations" if settings.snapshot else "at the end only"
    if not settings.snapshot and not settings.snapshot_after_train:
        every = "none"
    lines.append(f"  snapshots {every}: {settings.prefix}_iter_N.caffemodel")
    return lines


def _memory(run: Solver, budget: int) -> str:
    """Return the memory of parameters, gradients and history, of blobs and their gradients, and of the cached trunk."""
    every = [tensor for tensors in params(run.net).values() for tensor in tensors]
    learning = sum(tensor.numel() for tensor in run.flat_params.updated)
    weights = sum(tensor.numel() for tensor in every) + learning * (1 + run.optimizer.histories)
    parts = {"weights, gradients and history": weights * _FLOAT, "blobs of a batch": _blobs(run.nets[0])}
    rows = sum(_trunk(job, budget)[1] for job in run.nets)
    if rows:
        parts["rows of the trunk"] = rows
    text = ", ".join(f"{_size(size)} for {part}" for part, size in parts.items())
    return f"{_size(sum(parts.values()))} ({text}), besides the data and the libraries themselves"


def _blobs(job: NetWithData) -> int:
    shapes: Sequence[Sequence[int | None]] = list(infer(job.message, inputs=shapes_of(job.sources)).blobs.values())
    return 2 * _FLOAT * sum(math.prod(dim or 1 for dim in shape) for shape in shapes)
