"""Positive-congruent training: losses towards an old net, and metrics of the samples that a new net gets wrong.

Losses need torch and are loaded on first use; metrics and predictions files work without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prototxt.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from fusion.pct.alignment import Pair as Pair, align as align
    from fusion.pct.breakdowns import (
        Flip as Flip,
        flip_matrix as flip_matrix,
        flips as flips,
        per_class as per_class,
        per_slice as per_slice,
    )
    from fusion.pct.calibration import (
        expected_calibration_error as expected_calibration_error,
        reliability as reliability,
    )
    from fusion.pct.contrastive import cna as cna
    from fusion.pct.intervals import (
        Interval as Interval,
        bootstrap as bootstrap,
        difference_interval as difference_interval,
        mcnemar as mcnemar,
        mean_interval as mean_interval,
        metric_interval as metric_interval,
        share_interval as share_interval,
        t_test as t_test,
    )
    from fusion.pct.losses import (
        bct as bct,
        combine as combine,
        elodi as elodi,
        focal_distillation as focal_distillation,
        kd as kd,
        ldi as ldi,
        logit_matching as logit_matching,
        naive as naive,
    )
    from fusion.pct.metrics import (
        Outcomes as Outcomes,
        accuracy as accuracy,
        backward_error_compatibility as backward_error_compatibility,
        backward_trust_compatibility as backward_trust_compatibility,
        churn as churn,
        error_rate as error_rate,
        margin_weighted_flips as margin_weighted_flips,
        negative_flip_impact as negative_flip_impact,
        negative_flip_rate as negative_flip_rate,
        outcomes as outcomes,
        positive_flip_rate as positive_flip_rate,
        relative_nfr as relative_nfr,
        severity_weighted_nfr as severity_weighted_nfr,
    )
    from fusion.pct.posthoc import (
        bayesian as bayesian,
        blend_weights as blend_weights,
        confusion as confusion,
        fit_margin as fit_margin,
        gated as gated,
        within_budget as within_budget,
    )
    from fusion.pct.predictions import Predictions as Predictions, ensemble as ensemble
    from fusion.pct.provenance import check_fresh as check_fresh, file_hash as file_hash
    from fusion.pct.streaming_metrics import Accuracy as Accuracy, FlipRates as FlipRates
    from fusion.pct.unions import union as union
else:
    __getattr__, __dir__ = lazy_exports(__name__)
