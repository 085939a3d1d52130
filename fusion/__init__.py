"""Several trained nets into one: build, compose, merge, train under positive-congruent losses, measure.

    net = fusion.build(prototxt.load_net("lenet.prototxt"), phase="TEST", shapes={"data": (1, 1, 28, 28)})
    fusion.load_weights(net, "lenet.caffemodel")
    out = net({"data": x})                                   # {output blob: tensor}
    fused = fusion.compose([fusion.Source("odd", "odd.prototxt", at="ip1"), ...], num_output=10)
    plan = fusion.plan_merge(fused_net, {"odd": weights, ...}); fusion.apply_merge(plan, "init.caffemodel")
    fusion.Solver("solver.prototxt", weights="init.caffemodel").train()

Names are loaded on first use: composing and merging never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion import pct
    from fusion.composition import Composition, Source, compose
    from fusion.errors import (
        BuildError,
        ComposeError,
        ComposeWarning,
        DataError,
        FusionError,
        MergeError,
        ReportError,
        TrainingError,
        WeightsMismatch,
    )
    from fusion.layers.registry import layer
    from fusion.merge.merge import MergePlan, apply_merge, plan_merge
    from fusion.nets.build import Net, blobs, build, params
    from fusion.nets.weights import load_weights, save_weights
    from fusion.solver import Solver

_HOMES = {
    "Composition": "composition",
    "Source": "composition",
    "compose": "composition",
    "BuildError": "errors",
    "ComposeError": "errors",
    "ComposeWarning": "errors",
    "DataError": "errors",
    "FusionError": "errors",
    "MergeError": "errors",
    "ReportError": "errors",
    "TrainingError": "errors",
    "WeightsMismatch": "errors",
    "MergePlan": "merge.merge",
    "apply_merge": "merge.merge",
    "plan_merge": "merge.merge",
    "Net": "nets.build",
    "blobs": "nets.build",
    "build": "nets.build",
    "params": "nets.build",
    "layer": "layers.registry",
    "Solver": "solver",
    "load_weights": "nets.weights",
    "save_weights": "nets.weights",
}

__all__ = [
    "BuildError",
    "ComposeError",
    "ComposeWarning",
    "Composition",
    "DataError",
    "FusionError",
    "MergeError",
    "MergePlan",
    "Net",
    "ReportError",
    "Solver",
    "Source",
    "TrainingError",
    "WeightsMismatch",
    "apply_merge",
    "blobs",
    "build",
    "compose",
    "layer",
    "load_weights",
    "params",
    "pct",
    "plan_merge",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name == "pct":
        return importlib.import_module("fusion.pct")
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
