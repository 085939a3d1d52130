"""The frozen trunk, computed once: its outputs for every record are kept, and training runs the head alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fusion.data import Source
from fusion.sharing import tensor_at
from fusion.solver.feeds import Blobs, CachedFeed

if TYPE_CHECKING:
    from fusion.graph import Net
    from fusion.solver.display import Display
    from fusion.solver.jobs import Job
    from fusion.trunk import Split

DEFAULT_BUDGET = 4 << 30
_CHUNK = 500
_FOREIGN = ("Python", "Onnx")


def cache_trunk(job: Job, budget: int, display: Display, device: torch.device) -> str:
    """Make the job run its head on cached rows where that gives the same numbers; returns what was decided, and why.

    budget  bytes of rows to keep; 0: none
    """
    from fusion.trunk import split

    if job.live:
        return f"the whole net runs in each iteration: {job.live}"
    if budget <= 0:
        return "the whole net runs in each iteration: the cache is switched off"
    found = split(job.net)
    if found is None:
        return "the whole net runs in each iteration: no frozen layers to compute once"
    if len(job.sources) != 1 or not job.sources[0].deterministic:
        return "the frozen trunk runs in each iteration: its data is random or comes from several layers"
    source = job.sources[0]
    keys = [key for key, _ in found.head.plan.inputs]
    first = _outputs(found, keys, source, np.arange(1), device)
    size = len(source) * sum(tensor[0].nbytes for tensor in first.values())
    if size > budget:
        return (
            f"the frozen trunk runs in each iteration: its outputs take {size / 2**20:.0f} MiB, "
            f"the cache budget is {budget / 2**20:.0f} MiB (--cache-budget)"
        )
    if device.type == "cpu":
        _channels_last(found.trunk)
    rows = _rows(found, keys, source, first, display, device)
    job.runs, job.feed = found.head, CachedFeed(rows, source)
    kept = ", ".join(found.boundary)
    return f"frozen trunk computed once: {kept} kept for {len(source)} records, {size / 2**20:.0f} MiB"


def _rows(
    split: Split, keys: list[str], source: Source, first: Blobs, display: Display, device: torch.device
) -> dict[str, Tensor]:
    count = len(source)
    rows = {
        key: torch.empty((count, *tensor.shape[1:]), dtype=tensor.dtype, device=device) for key, tensor in first.items()
    }
    what = f"frozen trunk ({'TRAIN' if split.trunk.plan.phase == 'TRAIN' else 'TEST'})"
    for start in range(0, count, _CHUNK):
        end = min(start + _CHUNK, count)
        for key, tensor in _outputs(split, keys, source, np.arange(start, end), device).items():
            rows[key][start:end] = tensor
        display.progress(what, end, count)
    return rows


@torch.no_grad()
def _outputs(split: Split, keys: list[str], source: Source, indices: np.ndarray, device: torch.device) -> Blobs:
    """What the head takes, for these records: outputs of the trunk, and data that it takes as it is."""
    blobs = {top: tensor.to(device) for top, tensor in source.batch(indices).items()}
    out = split.trunk(blobs)
    return {key: out[key] if key in out else blobs[key] for key in keys}


def _channels_last(net: Net) -> None:
    """Lay the trunk's filters out with the channels last, in place: a CPU convolves and pools in half the time so.

    Blobs between layers follow the filters. Layers of other people's code may rely on the usual layout, so a net that
    has some keeps it, and so do filters that several layers share. What learns is left as it is: training then rounds
    as Caffe does.
    """
    if any(call.type in _FOREIGN for call in net.plan.calls):
        return
    filters = {call.path for call in net.plan.calls if call.type in ("Convolution", "Deconvolution")}
    shared = {id(tensor_at(net, param.attribute)) for param in net.plan.params if param.shared}
    for param in net.plan.params:
        tensor = tensor_at(net, param.attribute)
        if param.path in filters and tensor.dim() == 4 and id(tensor) not in shared:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)  # contiguous() would leave one channel as it is
