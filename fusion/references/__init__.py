"""References of a net in training: other nets, their ensembles, blobs of its own graph, and files of logits.

    references = [Reference("old.prototxt", weights=("old.caffemodel",)), Reference("odd.npz", classes=(1, 3, 5, 7, 9))]
    Solver("solver.prototxt", references=references, pct=["focal,weight=0.01"]).train()

References see the same batch as the net in training, in phase TEST and without gradients. Where the data is not random,
their logits are computed once per record and cached.
"""

from __future__ import annotations

from fusion.references.logit_cache import ReferencedSource, attach_logits, number_duplicates, to_predictions
from fusion.references.loss_warmup import LossWarmup, warmup_layers
from fusion.references.models import Model, class_scores_blob, open_models
from fusion.references.parse import Objective, Reference, parse_pct, parse_reference
from fusion.references.references import References, parse_references

__all__ = [
    "LossWarmup",
    "Model",
    "Objective",
    "Reference",
    "ReferencedSource",
    "References",
    "attach_logits",
    "class_scores_blob",
    "number_duplicates",
    "open_models",
    "parse_pct",
    "parse_reference",
    "parse_references",
    "to_predictions",
    "warmup_layers",
]
