"""Contrastive neighbourhood alignment of features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fusion.distributed import process_group
from fusion.errors import TrainingError
from fusion.pct.aligned_logits import Classes, Reduction, compare, describe_tensor, full_precision, reduce, widen

OPTIONS = ("tau", "neighbours", "inside")  # of `cna`, beside the weighting of references


def cna(
    *,
    new: Tensor,
    old: Tensor,
    target: Tensor | None = None,
    tau: float = 0.01,
    neighbours: int = 1,
    inside: bool = False,
    classes: Classes = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Keep the reference's nearest neighbours near in the new features (CNA, Zhu et al. 2022), without a memory bank.

    new, old    float [N, F], [N, G]  features of the net in training and of the reference; widths may differ
    neighbours  k: each sample's k nearest by the reference's cosine, over the batch of all processes, itself excluded
    inside      -log(sum over neighbours / sum over all); otherwise the mean over neighbours of -log(each / all)
    classes     with `target`: only samples of these classes take part
    Fewer than two samples give 0.
    Raises: TrainingError for shapes or settings that do not fit.
    """
    if new.dim() != 2 or old.dim() != 2 or len(new) != len(old):
        raise TrainingError(
            f"features float [N, F] are needed for both nets, not {describe_tensor(new)} and {describe_tensor(old)}"
        )
    if not tau > 0 or neighbours < 1:
        raise TrainingError(f"cna with tau {tau} and {neighbours} neighbours", hint="tau above 0, at least 1 neighbour")
    covered = _covered(new, target, classes)
    with full_precision(new):
        student, teacher = (functional.normalize(widen(x), dim=1) for x in (new, old.detach()))
        students, teachers, everyone, first = _global(student, teacher, covered)
        rows = torch.arange(len(new), device=new.device)
        masked = ~everyone.expand(len(new), -1)
        masked = masked.index_put((rows, rows + first), torch.ones_like(covered))  # no sample is its own neighbour
        values = _alignment(student @ students.T / tau, teacher @ teachers.T, masked, neighbours, inside)
        return reduce(torch.where(covered, values, 0.0), reduction)


def _alignment(similarity: Tensor, reference: Tensor, masked: Tensor, neighbours: int, inside: bool) -> Tensor:
    """Return the loss per row, float [N], over the columns that are not masked; 0 for a row without any."""
    count = min(neighbours, similarity.shape[1])
    near = reference.masked_fill(masked, -torch.inf).topk(count, dim=1)
    real = near.values > -torch.inf
    alone = masked.all(1)
    # Rows without columns stay unmasked: in a row of -inf only, the gradient of logsumexp is NaN.
    everything = torch.logsumexp(similarity.masked_fill(masked & ~alone[:, None], -torch.inf), 1)
    picked = similarity.gather(1, near.indices)
    if inside:
        picked = picked.masked_fill(~real & ~alone[:, None], -torch.inf)
        values = everything - torch.logsumexp(picked, 1)
    else:
        values = ((everything[:, None] - picked) * real).sum(1) / real.sum(1).clamp_min(1)
    return torch.where(alone, 0.0, values)


def _covered(new: Tensor, target: Tensor | None, classes: Classes) -> Tensor:
    if classes is None or target is None:
        return torch.ones(len(new), dtype=torch.bool, device=new.device)
    width = int(max(classes)) + 1
    blank = new.new_zeros(len(new), width)
    return compare(blank, blank[:, : len(classes)], target, classes).covered


def _global(student: Tensor, teacher: Tensor, covered: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return the features of all processes (gradients flow back to each), and the index of this process's first sample.

    Raises: TrainingError when the processes hold batches of different sizes.
    """
    distributed = torch.distributed
    joined = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    if not joined or process_group.alone():
        return student, teacher, covered, 0
    from torch.distributed.nn import functional as collective

    sizes = [torch.zeros((), dtype=torch.int64, device=student.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, torch.tensor(len(student), device=student.device))
    if any(int(size) != len(student) for size in sizes):
        raise TrainingError(f"batches of {[int(size) for size in sizes]} samples; cna needs the same on every process")
    gather: Callable[[Tensor], tuple[Tensor, ...]] = collective.all_gather
    gathered = [torch.cat(gather(part)) for part in (student, teacher, covered.to(student.dtype))]
    return gathered[0], gathered[1].detach(), gathered[2] > 0, distributed.get_rank() * len(student)
