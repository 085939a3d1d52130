"""Mixed precision (torch.amp): products and convolutions in half precision, weights, losses and updates in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion.errors import TrainingError

if TYPE_CHECKING:
    from fusion.solver.optimizers import CaffeOptimizer

Blobs = dict[str, Tensor]
KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}
OFF = "off"


class Precision:
    """The precision of the net in training.

    amp     "bf16", "fp16", or None for float32 throughout
    dtype   of products and convolutions; None: as they are
    scaler  multiplies the loss, and divides the gradients again, so that small ones do not vanish in float16

    skipped  updates that were skipped, because scaled gradients overflowed
    """

    def __init__(self, amp: str | None = None, device: torch.device | None = None) -> None:
        self._device = (device or torch.device("cpu")).type
        self.dtype = KINDS[amp] if amp else None
        self.scaler = torch.amp.GradScaler(self._device) if amp == "fp16" else None
        self.skipped = 0

    def describe(self, closed: bool) -> str:
        """Return one line for the log.

        closed  whether the head has a closed form
        """
        half = "frozen layers" if closed else "products and convolutions"
        rest = "the head in closed form, tests" if closed else "weights, losses, updates, tests"
        return f"mixed precision: {half} in {str(self.dtype).removeprefix('torch.')}; {rest} in float32"

    def cast(self) -> AbstractContextManager[object]:
        """Return a context in which torch uses half precision wherever that is safe."""
        return nullcontext() if self.dtype is None else torch.autocast(self._device, self.dtype)

    def outputs(self, net: Callable[[Blobs], Blobs], blobs: Blobs) -> Blobs:
        """Return the net's outputs for these blobs, by key, converted back to float32."""
        with self.cast():
            outputs = net(blobs)
        return {key: blob.float() if blob.dtype == self.dtype else blob for key, blob in outputs.items()}

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss to those of the parameters, times the scale if there is one."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def update(self, optimizer: CaffeOptimizer) -> None:
        """Update from these gradients; where they overflowed, reduce the scale instead."""
        if self.scaler is None:
            optimizer.update()
            return
        before = optimizer.updates  # GradScaler does not tell whether it made the step
        self.scaler.step(optimizer)
        self.scaler.update()
        self.skipped += optimizer.updates == before

    @property
    def scale(self) -> float:
        """Return the factor of the gradients; waits for the device."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def state_dict(self) -> dict[str, float]:
        """Return the scale and its age; waits for the device."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Resume from the result of `state_dict`, where there is a scale."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(dict(state))


def precision_of(amp: str | None, device: torch.device) -> Precision:
    """Return the precision of a name. Raises: TrainingError for an unknown one, or one that the device lacks."""
    if amp not in (None, OFF, *KINDS):
        raise TrainingError(f"unknown precision '{amp}'", hint=f"one of {', '.join((*KINDS, OFF))}")
    if amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise TrainingError(f"{torch.cuda.get_device_name(device)} has no bfloat16", hint="take fp16")
    return Precision(None if amp == OFF else amp, device)
