"""A comparison of all settings but the fillers between a layer of the fused net and that of its source.

Weights fit by their shapes alone, but with another stride, pad or eps the branch silently computes something else.
"""

from __future__ import annotations

from typing import Any, Final

from prototxt.schema.messages import ConvolutionParameter, LayerParameter
from prototxt.schema.params import DATA_TYPES

# Settings without influence on the result of the layer's weights, or that freezing changes on purpose.
_APART: Final = frozenset(("transform_param", "loss_param", "dropout_param", "onnx_param", "python_param"))
_IGNORED: Final = frozenset(
    ("weight_filler", "bias_filler", "filler", "engine", "moving_average_fraction", "use_global_stats", "num_output")
)
# Settings without which the numbers themselves mean something else.
_MEANING: Final = frozenset(("transpose", "group", "axis", "num_axes", "bias_term"))
_WINDOW: Final = ("kernel_size", "stride", "pad", "dilation")


def differing_settings(fused: LayerParameter, source: LayerParameter) -> tuple[list[str], list[str]]:
    """Return the settings that differ between two layers of one type: those the weights depend on, and the others.

    Each is a phrase: "stride is 2, and 1 in the source".
    """
    if fused.type in DATA_TYPES or fused.type != source.type:
        return [], []
    grave: list[str] = []
    slight: list[str] = []
    for name in sorted({field.name for layer in (fused, source) for field, _ in layer.ListFields()}):
        if not name.endswith("_param") or name in _APART:
            continue
        mine, theirs = (_settings(getattr(layer, name)) for layer in (fused, source))
        for setting in mine:
            if mine[setting] != theirs[setting]:
                phrase = f"{setting} is {_shown(mine[setting])}, and {_shown(theirs[setting])} in the source"
                (grave if setting in _MEANING else slight).append(phrase)
    return grave, slight


def _settings(param: Any) -> dict[str, object]:
    """Return every setting or its default, in a form in which equivalent ones are equal."""
    if isinstance(param, ConvolutionParameter):
        own = _windows(param)
        rest = {name: value for name, value in _plain(param).items() if not name.startswith(_WINDOW)}
        return {**{name: value for name, value in rest.items() if name[-2:] not in ("_h", "_w")}, **own}
    return _plain(param)


def _plain(param: Any) -> dict[str, object]:
    found: dict[str, object] = {}
    for descriptor in param.DESCRIPTOR.fields:
        if descriptor.name not in _IGNORED:
            value = getattr(param, descriptor.name)
            # enums by name, for the message; repeated fields as tuples, which compare by value
            if descriptor.enum_type is not None and isinstance(value, int):
                value = descriptor.enum_type.values_by_number[value].name
            whole = descriptor.message_type is not None or isinstance(value, (bool, int, float, str, bytes))
            found[descriptor.name] = value if whole else tuple(value)
    return found


def _windows(param: ConvolutionParameter) -> dict[str, object]:
    """Return the sizes along height and width, however they are written."""
    found: dict[str, object] = {}
    for name, default in (("kernel_size", 0), ("stride", 1), ("pad", 0), ("dilation", 1)):
        short = name.removesuffix("_size")
        values = [int(value) for value in getattr(param, name)]
        # Caffe: kernel_h and kernel_w replace kernel_size; one value is valid for both axes.
        if short != "dilation" and (param.HasField(f"{short}_h") or param.HasField(f"{short}_w")):
            values = [getattr(param, f"{short}_h"), getattr(param, f"{short}_w")]
        values = values or [default]
        found[name] = tuple(values * 2 if len(values) == 1 else values)
    return found


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        same = len(set(value)) == 1
        return f"{value[0]}" if same else "x".join(map(str, value)) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
