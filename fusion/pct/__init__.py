"""Positive-congruent training: losses that keep what an old net knew, and measures of what a new net unlearnt.

Losses need torch and are loaded on first use; metrics and predictions files work without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.pct.alignment import Pair, align
    from fusion.pct.breakdowns import Flip, flip_matrix, flips, per_class, per_slice
    from fusion.pct.calibration import expected_calibration_error, reliability
    from fusion.pct.contrastive import cna
    from fusion.pct.intervals import (
        Interval,
        bootstrap,
        difference_interval,
        mcnemar,
        mean_interval,
        metric_interval,
        share_interval,
    )
    from fusion.pct.losses import bct, combine, elodi, focal_distillation, kd, ldi, logit_matching, naive
    from fusion.pct.metrics import (
        Outcomes,
        accuracy,
        backward_error_compatibility,
        backward_trust_compatibility,
        churn,
        error_rate,
        margin_weighted_flips,
        negative_flip_impact,
        negative_flip_rate,
        outcomes,
        positive_flip_rate,
        relative_nfr,
        severity_weighted_nfr,
    )
    from fusion.pct.posthoc import bayesian, blend_weights, confusion, fit_margin, gated, within_budget
    from fusion.pct.predictions import Predictions, ensemble
    from fusion.pct.provenance import check_fresh, file_hash
    from fusion.pct.streaming_metrics import Accuracy, FlipRates
    from fusion.pct.unions import union

_HOMES = {
    "align": "alignment",
    "Pair": "alignment",
    "cna": "contrastive",
    "Interval": "intervals",
    "bootstrap": "intervals",
    "difference_interval": "intervals",
    "mcnemar": "intervals",
    "mean_interval": "intervals",
    "metric_interval": "intervals",
    "share_interval": "intervals",
    "bct": "losses",
    "combine": "losses",
    "elodi": "losses",
    "focal_distillation": "losses",
    "kd": "losses",
    "ldi": "losses",
    "logit_matching": "losses",
    "naive": "losses",
    "Outcomes": "metrics",
    "accuracy": "metrics",
    "backward_error_compatibility": "metrics",
    "backward_trust_compatibility": "metrics",
    "churn": "metrics",
    "error_rate": "metrics",
    "expected_calibration_error": "calibration",
    "flips": "breakdowns",
    "margin_weighted_flips": "metrics",
    "negative_flip_impact": "metrics",
    "negative_flip_rate": "metrics",
    "outcomes": "metrics",
    "per_class": "breakdowns",
    "per_slice": "breakdowns",
    "positive_flip_rate": "metrics",
    "relative_nfr": "metrics",
    "severity_weighted_nfr": "metrics",
    "Flip": "breakdowns",
    "flip_matrix": "breakdowns",
    "reliability": "calibration",
    "bayesian": "posthoc",
    "blend_weights": "posthoc",
    "confusion": "posthoc",
    "fit_margin": "posthoc",
    "gated": "posthoc",
    "within_budget": "posthoc",
    "Predictions": "predictions",
    "ensemble": "predictions",
    "check_fresh": "provenance",
    "file_hash": "provenance",
    "union": "unions",
    "Accuracy": "streaming_metrics",
    "FlipRates": "streaming_metrics",
}
__all__ = [  # noqa: RUF022 - losses first, then predictions, then measures
    "bct",
    "cna",
    "combine",
    "elodi",
    "focal_distillation",
    "kd",
    "ldi",
    "logit_matching",
    "naive",
    "Predictions",
    "Pair",
    "align",
    "check_fresh",
    "ensemble",
    "file_hash",
    "union",
    "bayesian",
    "blend_weights",
    "confusion",
    "fit_margin",
    "gated",
    "within_budget",
    "Accuracy",
    "FlipRates",
    "Interval",
    "Outcomes",
    "accuracy",
    "backward_error_compatibility",
    "backward_trust_compatibility",
    "bootstrap",
    "churn",
    "difference_interval",
    "error_rate",
    "expected_calibration_error",
    "Flip",
    "flip_matrix",
    "flips",
    "margin_weighted_flips",
    "mcnemar",
    "mean_interval",
    "metric_interval",
    "negative_flip_impact",
    "negative_flip_rate",
    "outcomes",
    "per_class",
    "per_slice",
    "positive_flip_rate",
    "relative_nfr",
    "reliability",
    "severity_weighted_nfr",
    "share_interval",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
