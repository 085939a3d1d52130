"""The peak memory of a run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MIB = 2**20


def peak_resident() -> int | None:
    """Return the largest resident set of this process so far, in bytes; None where the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere else


def peak_allocated(device: torch.device) -> int | None:
    """Return the peak bytes of tensors on a GPU so far; None for a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated(device)


def peak_memory(device: torch.device) -> str:
    """Return both in words."""
    parts = {"resident": peak_resident(), "on the GPU": peak_allocated(device)}
    known = [f"{size / MIB:.0f} MiB {where}" for where, size in parts.items() if size is not None]
    return ", ".join(known) or "not known on this system"
