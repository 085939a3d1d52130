"""The frozen trunk, computed once: its outputs for every record are cached, and training runs the head alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fusion.data import DataSource
from fusion.nets.frozen_engine import EngineRequest, FrozenEngine, choose_engine
from fusion.nets.split import TrunkAndHead, split_trunk
from fusion.solver.batches import Blobs, CachedBatches
from fusion.solver.step.memory_format import has_foreign, set_layout
from fusion.solver.trunk_cache_files import MappedBatches, TrunkFiles, origin_of, room, rows_in_file

if TYPE_CHECKING:
    from fusion.solver.logging.console import Display
    from fusion.solver.mixed_precision import Precision
    from fusion.solver.net_with_data import NetWithData

DEFAULT_BUDGET = 4 << 30
_CHUNK = 250  # records
_BYTES = 32 << 20  # of input at once


def cache_trunk(
    job: NetWithData,
    budget: int,
    display: Display,
    device: torch.device,
    request: EngineRequest,
    files: TrunkFiles | None = None,
) -> tuple[NetWithData, str]:
    """Return the net with its head on cached rows where that gives the same numbers, and the decision with its reason.

    budget   bytes of rows to keep in memory; 0: none at all
    request  the engine of Onnx layers in the trunk
    files    where more rows are kept, and whether they are kept for later runs
    Raises   TrainingError when a requested file cannot be written; OnnxError when a requested engine cannot run them
    """
    found, reason = cacheable_trunk(job, budget)
    if found is None:
        return job, reason
    source = job.sources[0]
    keys = [key for key, _ in found.head.plan.inputs]
    first = _outputs(found, keys, source.batch(np.arange(1)), device, job.precision)
    size = len(source) * sum(tensor[0].nbytes for tensor in first.values())
    on_disk = files if files is not None and (size > budget or files.requested) else None
    if size > budget and (on_disk is None or size > room(on_disk)):
        where = f", and there is no room for them in {on_disk.folder} (--cache-dir)" if on_disk is not None else ""
        return job, (
            f"the frozen trunk runs in each iteration: its outputs take {size / 2**20:.0f} MiB, "
            f"the cache budget is {budget / 2**20:.0f} MiB (--cache-budget){where}"
        )
    engine = _engine(job, found, request, display, device)
    # Hashed before the layout changes: a file is for these weights, whatever their layout in memory.
    origin = None if on_disk is None else origin_of(job.message, found.trunk, source, device, job.precision, engine)
    # convolutions are faster so; their outputs are laid out as usual again
    if device.type == "cpu" or job.precision.dtype is not None:
        set_layout(found.trunk, channels_last=True, whole=job.net)
    outputs = partial(_outputs, found, keys, device=device, precision=job.precision)
    fill = partial(_fill, split=found, outputs=outputs, source=source, display=display, device=device)
    with engine.running():
        if on_disk is None or origin is None:
            rows, where = _empty(first, len(source), device), "kept in memory"
            fill(rows)
        else:
            rows, where = rows_in_file(on_disk, origin, first, len(source), fill)
    batches: CachedBatches = (
        MappedBatches(rows, source, device)
        if size > budget
        else CachedBatches({key: tensor.to(device) for key, tensor in rows.items()}, source)
    )
    batches.position = job.batches.position
    text = f"{', '.join(found.boundary)} for {len(source)} records, {size / 2**20:.0f} MiB, {where}"
    job = replace(job, active_net=found.head, batches=batches, frozen_engine=engine.name)
    return job, f"frozen trunk computed once: {text}"


def _engine(
    job: NetWithData, split: TrunkAndHead, request: EngineRequest, display: Display, device: torch.device
) -> FrozenEngine:
    """Return the engine of the trunk's Onnx layers, after a comparison on the first batch, and log it."""
    source = job.sources[0]
    batch = np.arange(min(source.batch_size, records_at_once(source), len(source)))
    run = partial(_outputs, split, [], source.batch(batch), device, job.precision)
    engine = choose_engine(split.trunk, request, run, device, job.precision.dtype)
    if engine.name:
        display.say(f"{job.net.plan.phase} net: frozen {engine}")
    return engine


def cacheable_trunk(job: NetWithData, budget: int) -> tuple[TrunkAndHead | None, str]:
    """Return the frozen trunk if its outputs can be computed once, whatever their size, or else the reason why not."""
    if job.no_cache_reason:
        return None, f"the whole net runs in each iteration: {job.no_cache_reason}"
    if budget <= 0:
        return None, "the whole net runs in each iteration: the cache is switched off"
    found = split_trunk(job.net)
    if found is None:
        return None, "the whole net runs in each iteration: no frozen layers to compute once"
    always = "the frozen trunk runs in each iteration"
    if len(job.sources) != 1:
        return None, f"{always}: its data comes from layers that are not in step (in_step_with)"
    if not job.sources[0].deterministic:
        return None, f"{always}: random crops, mirrors or fillers make other data each time"
    return found, ""


def _empty(first: Blobs, count: int, device: torch.device) -> dict[str, Tensor]:
    return {key: torch.empty((count, *t.shape[1:]), dtype=t.dtype, device=device) for key, t in first.items()}


def _fill(
    rows: dict[str, Tensor],
    split: TrunkAndHead,
    outputs: Callable[[Blobs], Blobs],
    source: DataSource,
    display: Display,
    device: torch.device,
) -> None:
    """Compute the trunk for all records."""
    count = len(source)
    step = f"frozen trunk ({split.trunk.plan.phase})"
    size = records_at_once(source)
    starts = range(0, count, size)
    reading = Lock()  # sources are not thread-safe

    def compute(start: int) -> int:
        end = min(start + size, count)
        with reading:
            blobs = source.batch(np.arange(start, end))
        for key, tensor in outputs(blobs).items():
            rows[key][start:end] = tensor
        return end

    threads = 1 if device.type != "cpu" or has_foreign(split.trunk) else torch.get_num_threads()
    for end in map(compute, starts) if threads == 1 else _side_by_side(compute, starts, threads):
        display.progress(step, end, count)


def records_at_once(source: DataSource) -> int:
    """Return the number of records that a trunk computes at once: few enough for the CPU's caches."""
    record = sum(4 * math.prod(shape[1:]) for shape in source.shapes.values())
    return max(1, min(_CHUNK, _BYTES // max(1, record)))


def _side_by_side(compute: Callable[[int], int], starts: Sequence[int], threads: int) -> Iterator[int]:
    """Compute chunks in parallel threads, one core each: no layer waits for a core that is busy with another process.

    A layer split over the cores would wait for the slowest of them, and is not even faster on small feature maps.
    """
    with ThreadPoolExecutor(threads, "trunk", torch.set_num_threads, (1,)) as pool:
        try:
            yield from pool.map(compute, starts)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # new threads inherit the pool's number otherwise


@torch.no_grad()
def _outputs(split: TrunkAndHead, keys: list[str], blobs: Blobs, device: torch.device, precision: Precision) -> Blobs:
    """Return the head's inputs for this batch: outputs of the trunk, and data that it reads directly."""
    blobs = {top: tensor.to(device) for top, tensor in blobs.items()}
    out = precision.outputs(split.trunk, blobs)
    return {key: out[key] if key in out else blobs[key] for key in keys}
