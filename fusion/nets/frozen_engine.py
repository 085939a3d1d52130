"""The engine of Onnx layers whose weights do not change: torch, or ONNX Runtime, several times as fast on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

from fusion.errors import FusionError, OnnxError
from fusion.nets.graph import Net
from prototxt.errors import did_you_mean

if TYPE_CHECKING:
    from fusion.onnx.to_torch import OnnxNet
    from fusion.onnx.to_torch.runtime_program import RuntimeProgram

    Layers = Mapping[str, OnnxNet]

AUTO, TORCH, RUNTIME = "auto", "torch", "onnxruntime"
_TOLERANCE: Final = 1e-5  # of the largest value


class EngineRequest(NamedTuple):
    """An engine that is wanted, "auto", "torch" or "onnxruntime", and the reason, for the log."""

    name: str = AUTO
    why: str = "as requested"


@dataclass(frozen=True, eq=False)
class FrozenEngine:
    """The engine of a net's Onnx layers.

    name      "torch", or "onnxruntime" and its version; "" for a net without such layers
    reason    of the choice
    programs  of the layers that do not run in torch
    """

    name: str = ""
    reason: str = ""
    programs: Mapping[OnnxNet, RuntimeProgram] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"ONNX layers run in {self.name}: {self.reason}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the layers in this engine during the block, in which their weights must not change."""
        for layer, program in self.programs.items():
            layer.runtime = program
        try:
            yield
        finally:
            for layer in self.programs:
                layer.runtime = None


def choose_engine(
    net: Net, request: EngineRequest, run: Callable[[], object], device: torch.device, half: torch.dtype | None = None
) -> FrozenEngine:
    """Return the engine for the net's Onnx layers, with their present weights: ONNX Runtime where it equals torch.

    run   runs the net on a first batch, on which the two are compared
    half  the dtype of mixed precision, which ONNX Runtime has not

    Raises: OnnxError for an unknown engine, and where ONNX Runtime is requested and cannot run the layers.
    """
    if request.name not in (AUTO, TORCH, RUNTIME):
        hint = did_you_mean(request.name, (AUTO, TORCH, RUNTIME), f"one of {AUTO}, {TORCH}, {RUNTIME}")
        raise OnnxError(f"there is no engine '{request.name}'", hint=hint)
    layers: Layers = {call.name: net.get_submodule(call.path) for call in net.plan.calls if call.type == "Onnx"}  # type: ignore[misc]
    if not layers:
        return FrozenEngine()
    if request.name == TORCH:
        return FrozenEngine(TORCH, request.why)
    try:
        if half is not None or device.type != "cpu":
            raise OnnxError(f"the precision is {half}" if half is not None else f"the device is {device.type}")
        return _compared(layers, run)
    except FusionError as error:
        if request.name == AUTO:
            return FrozenEngine(TORCH, error.message)
        message = f"the ONNX layers cannot run in ONNX Runtime, {request.why}: {error.message}"
        raise OnnxError(message, hint="--frozen-engine torch") from error


def _compared(layers: Layers, run: Callable[[], object]) -> FrozenEngine:
    """Return ONNX Runtime as the engine. Raises: OnnxError, ExportError where it is missing, fails or differs."""
    if find_spec(RUNTIME) is None:
        raise OnnxError("onnxruntime is not installed")
    import onnxruntime

    programs = {layer: layer.to_runtime() for layer in layers.values()}
    engine = FrozenEngine(f"{RUNTIME} {onnxruntime.__version__}", programs=programs)
    seen = _calls(layers, run)
    with torch.no_grad(), engine.running():
        differences = {
            name: max(map(_difference, _outputs(layers[name](*inputs)), _outputs(outputs)))
            for name, (inputs, outputs) in seen.items()
        }
    for name, difference in differences.items():
        if difference > _TOLERANCE:
            raise OnnxError(f"on layer '{name}' it differs from torch by {difference:.1g} of the largest value")
    worst = max(differences.values())
    return FrozenEngine(engine.name, f"equals torch within {worst:.1g} of the largest value", programs)


def _calls(layers: Layers, run: Callable[[], object]) -> dict[str, tuple[Any, Any]]:
    """Return the inputs and outputs of each layer while the net runs."""
    seen: dict[str, tuple[Any, Any]] = {}

    def record(name: str, layer: OnnxNet, inputs: Any, outputs: Any) -> None:
        seen[name] = inputs, outputs

    hooks = [layer.register_forward_hook(partial(record, name)) for name, layer in layers.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _outputs(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else found


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference by the largest value; infinity for other shapes or types, and for NaN."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return math.inf
    largest = float((found.double() - wanted.double()).abs().max())
    ratio = largest / max(float(wanted.double().abs().max()), torch.finfo(torch.float32).tiny)
    return math.inf if math.isnan(ratio) else ratio  # max() of several outputs would lose NaN
