"""The device that a run uses: "auto", the CPU, or a GPU of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fusion.errors import TrainingError

if TYPE_CHECKING:
    from fusion.distributed.process_group import ProcessGroup


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" takes a GPU where there is one.

    Raises: TrainingError for a device that does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"unknown device '{name}'", hint="give auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError("this machine or this torch build has no CUDA device", hint="use --device cpu")
    return device


def device_of_process(device: torch.device, group: ProcessGroup | None) -> torch.device:
    """Return the device of this process: on a machine with GPUs each process has its own."""
    if group is None or device.type != "cuda":
        return device
    return torch.device("cuda", group.local_rank)
