"""One net of the study: trained by the project's solver, evaluated, and saved for the nets that refer to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from study.digits import Digits, evaluation, training
from study.lenets import BATCH, SMALL, Widths, compatible, dense_net, lenet, solver

from fusion import Solver, Source, apply_merge, compose, plan_merge, save_weights
from fusion.nets.build import Net, restrict_to_blobs
from fusion.pct import Predictions
from fusion.references import Reference
from fusion.solver.logging.console import Silent
from prototxt import load_net, read_weights, write_weights

ALL = tuple(range(10))
_CHUNK = 500


@dataclass(frozen=True)
class Job:
    """A net to train.

    subset, rows  its training images: the first `rows` of a subset
    split         the images of its evaluation: "selection" or "report"
    classes       its digits, in the order of its scores
    references    trained nets for the losses `pct`
    pct           losses towards them, as on the command line; "bct,weight=W" adds the first one's classifier
    limit         number of images to evaluate on; None: all
    kd_alpha      a: its loss is (1 - a) * its own + a * weight * pct; None: both in full
    bodies        trained nets whose frozen bodies it uses instead of its own
    data          "mnist" or "digits", scikit-learn's
    """

    name: str
    seed: int
    subset: int
    rows: int
    split: str
    iterations: int
    widths: Widths = SMALL
    classes: tuple[int, ...] = ALL
    references: tuple[Job, ...] = ()
    pct: str = ""
    kd_alpha: float | None = None
    bodies: tuple[Job, ...] = ()
    data: str = "mnist"
    limit: int | None = None

    @property
    def needs(self) -> tuple[Job, ...]:
        """Return the nets that must be trained before."""
        return (*self.references, *self.bodies)


def run(job: Job, folder: Path) -> str:
    """Train and evaluate; write NAME.prototxt, NAME.caffemodel and NAME.npz; return the name."""
    torch.set_num_threads(1)
    if not (folder / f"{job.name}.npz").exists():
        trained = _fused(job, folder) if job.bodies else _own(job, folder)
        trained.step(job.iterations)
        save_weights(trained.net, folder / f"{job.name}.caffemodel")
        images = evaluation(job.data, job.split, job.limit).of(job.classes)
        predict(job, trained.net, images).save(folder / f"{job.name}.npz")
    return job.name


def predict(job: Job, net: Net, digits: Digits) -> Predictions:
    """Return the net's predictions for the images."""
    last = restrict_to_blobs(net, ["ip2"])
    with torch.no_grad():
        parts = [
            last({"data": torch.from_numpy(digits.images[at : at + _CHUNK])})["ip2"].numpy()
            for at in range(0, len(digits.labels), _CHUNK)
        ]
    logits = np.concatenate(parts)
    return Predictions(digits.keys, digits.labels, logits, np.array(job.classes), meta={"name": job.name})


def _own(job: Job, folder: Path) -> Solver:
    """Return the solver of a net that starts from its fillers."""
    text = (dense_net if job.data == "digits" else lenet)(job.widths, len(job.classes))
    (folder / f"{job.name}.prototxt").write_text(text)
    kind, _, options = job.pct.partition(",")
    if kind == "bct":
        (old,) = job.references
        classifier = folder / f"{job.name}_old.caffemodel"
        write_weights(classifier, {"old": list(read_weights(folder / f"{old.name}.caffemodel")["ip2"])})
        text += "\n" + compatible(len(old.classes), float(options.removeprefix("weight=")))
        return _solver(text, job, [classifier])
    blob = "ip1" if kind == "cna" else "ip2"
    references = [
        Reference(folder / f"{old.name}.prototxt", [folder / f"{old.name}.caffemodel"], blob, _shared(old, job))
        for old in job.references
    ]
    return _solver(text, job, [], references)


def _fused(job: Job, folder: Path) -> Solver:
    """Return the solver of a classifier on the frozen bodies, with the originals' classifiers as references."""
    files = {old.name: (folder / f"{old.name}.prototxt", folder / f"{old.name}.caffemodel") for old in job.bodies}
    sources = [Source(old.name, files[old.name][0], "ip1", classes=_shared(old, job)) for old in job.bodies]
    composed = compose(sources, num_output=len(job.classes), references=True)
    net = folder / f"{job.name}.prototxt"
    net.write_text(str(composed.train_val))
    start = folder / f"{job.name}_start.caffemodel"
    apply_merge(plan_merge(load_net(net), files, seed=job.seed), start)
    references = [Reference(None, blob=f"{old.name}/ip2", classes=_shared(old, job)) for old in job.bodies]
    return _solver(net.read_text(), job, [start], references if job.pct else [])


def _solver(text: str, job: Job, weights: Sequence[Path], references: Sequence[Reference] = ()) -> Solver:
    """Return the solver on the job's images, in an order drawn from its seed."""
    digits = training(job.data, job.subset, job.rows).of(job.classes)
    whole = len(digits.labels) // BATCH * BATCH
    digits = digits.take(np.random.default_rng(job.seed).permutation(len(digits.labels))[:whole])
    labels = np.searchsorted(job.classes, digits.labels)
    pct = [job.pct] if references else []
    return Solver(
        solver(text, job.seed, job.iterations),
        weights,
        device="cpu",
        display=Silent(),
        arrays={"data": digits.images, "label": labels.astype(np.float32)},
        references=references,
        pct=pct,
        kd_alpha=job.kd_alpha if pct else None,
    )


def _shared(old: Job, job: Job) -> tuple[int, ...]:
    """Return the indices of the net's scores that the old net has too; none where all are the same."""
    return () if old.classes == job.classes else tuple(job.classes.index(digit) for digit in old.classes)
