"""Mixed precision (torch.amp): products and convolutions in half precision, weights, losses and updates in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fusion.errors import TrainingError
from fusion.solver.callbacks.callback import Arrays, Observer, Shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion.solver.batches import Blobs
    from fusion.solver.optimizers import CaffeOptimizer
    from fusion.solver.solver import Solver

KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}
OFF = "off"


class Precision:
    """What the net in training reckons in.

    amp     "bf16", "fp16", or None for float32 throughout
    dtype   of products and convolutions; None: as they are
    scaler  multiplies the loss, and divides the gradients again, so that small ones do not vanish in float16

    left_out  updates that were not made, because scaled gradients overflowed
    """

    def __init__(self, amp: str | None = None, device: torch.device | None = None) -> None:
        self._device = (device or torch.device("cpu")).type
        self.dtype = KINDS[amp] if amp else None
        self.scaler = torch.amp.GradScaler(self._device) if amp == "fp16" else None
        self.left_out = 0

    def describe(self, traced: bool) -> str:
        """One line for the log.

        traced  whether the head has a closed form
        """
        what = "frozen layers" if traced else "products and convolutions"
        rest = "the head in closed form, tests" if traced else "weights, losses, updates, tests"
        return f"mixed precision: {what} in {str(self.dtype).removeprefix('torch.')}; {rest} in float32"

    def cast(self) -> AbstractContextManager[object]:
        """In the block, torch takes half precision for what does not suffer from it."""
        return nullcontext() if self.dtype is None else torch.autocast(self._device, self.dtype)

    def outputs(self, net: Callable[[Blobs], dict[str, Tensor]], blobs: Blobs) -> dict[str, Tensor]:
        """What the net makes of these blobs, by key, brought back to float32."""
        with self.cast():
            made = net(blobs)
        return {key: blob.float() if blob.dtype == self.dtype else blob for key, blob in made.items()}

    def backward(self, loss: Tensor) -> None:
        """Add up the loss's gradients, times the scale if there is one."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def update(self, optimizer: CaffeOptimizer) -> None:
        """Update from these gradients. Ones that overflowed make the scale smaller instead."""
        if self.scaler is None:
            optimizer.update()
            return
        before = optimizer.updates
        self.scaler.step(optimizer)
        self.scaler.update()
        self.left_out += optimizer.updates == before

    @property
    def scale(self) -> float:
        """What gradients are multiplied by; waits for the device."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def to_state(self) -> dict[str, float]:
        """The scale and all that it will follow from; waits for the device."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from what `to_state` gave, where there is a scale."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(dict(state))


def precision_of(amp: str | None, device: torch.device) -> Precision:
    """The precision of a name. Raises: TrainingError where it is none, or the device cannot do it."""
    if amp not in (None, OFF, *KINDS):
        raise TrainingError(f"unknown precision '{amp}'", hint=f"one of {', '.join((*KINDS, OFF))}")
    if amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise TrainingError(f"{torch.cuda.get_device_name(device)} has no bfloat16", hint="take fp16")
    return Precision(None if amp == OFF else amp, device)


class Scaling(Observer):
    """Keeps the scale of float16 gradients in snapshots, and tells of updates that were left out."""

    name = "amp"

    def __init__(self) -> None:
        self._run: Solver | None = None
        self._restored: Arrays = {}
        self._told = 0

    def begin(self, run: Solver) -> None:
        """Start from what a snapshot held."""
        self._run = run
        self._take_over()

    def shown(self, shown: Shown) -> None:
        """Tell of updates left out since the last time."""
        self._tell()

    def ticked(self, iteration: int) -> None:
        """Tell of them without displays, too."""
        self._tell()

    def finished(self, iteration: int) -> None:
        """Tell of the last ones."""
        self._tell()

    def _tell(self) -> None:
        if self._run is None or self._run.precision.left_out == self._told:
            return
        count, self._told = self._run.precision.left_out - self._told, self._run.precision.left_out
        scale = self._run.precision.scale
        updates = "1 update" if count == 1 else f"{count} updates"
        self._run.display.say(f"fp16: {updates} left out, for gradients overflowed; now scaled by {scale:g}")

    def state(self) -> dict[str, NDArray[Any]]:
        """The scale, with its age."""
        kept = {} if self._run is None else self._run.precision.to_state()
        return {key: np.array(value) for key, value in kept.items()}

    def restore(self, state: Arrays) -> None:
        """Take it over, now or when the run begins."""
        self._restored = state
        self._take_over()

    def _take_over(self) -> None:
        if self._run is not None and self._restored:
            self._run.precision.load_state({key: value.item() for key, value in self._restored.items()})
            self._restored = {}
