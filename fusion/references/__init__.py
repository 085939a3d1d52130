"""What a net in training is held to: other nets, their ensembles, blobs of its own graph, and files of logits.

    held = [Reference("old.prototxt", weights=("old.caffemodel",)), Reference("odd.npz", classes=(1, 3, 5, 7, 9))]
    Solver("solver.prototxt", references=held, pct=["focal,weight=0.01"]).train()

References see the very batch that the net in training sees, in phase TEST and without gradients. Where the data is not
random, each record is answered once and its logits are kept.
"""

from __future__ import annotations

from fusion.references.add_losses import Task, add_losses, find_task
from fusion.references.logit_cache import ReferencedSource, hold, predictions, variants
from fusion.references.loss_warmup import LossWarmup, warmup_layers
from fusion.references.models import Model, judged, open_models
from fusion.references.parse import Objective, Reference, parse_pct, parse_reference
from fusion.references.references import References, ask

__all__ = [
    "LossWarmup",
    "Model",
    "Objective",
    "Reference",
    "ReferencedSource",
    "References",
    "Task",
    "add_losses",
    "ask",
    "find_task",
    "hold",
    "judged",
    "open_models",
    "parse_pct",
    "parse_reference",
    "predictions",
    "variants",
    "warmup_layers",
]
