"""Evaluation of a trained net on its data: averages as `caffe test` prints them, and predictions for every record."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion.data import DataSource, ReadOptions
from fusion.data.net_classes import classes_of_nets
from fusion.data.read_batches import skipped_lines
from fusion.data.replaced_list import with_list
from fusion.errors import DataError, FusionError
from fusion.layers.registry import Phase
from fusion.nets.build import frozen_layers, restrict_to_blobs
from fusion.nets.frozen_engine import AUTO, EngineRequest, choose_engine
from fusion.nets.weights import load_weights
from fusion.pct.predictions import Predictions
from fusion.pct.provenance import file_hash
from fusion.references.logit_cache import number_duplicates
from fusion.solver.batches import load_all
from fusion.solver.device import choose_device
from fusion.solver.evaluate_test_nets import TestNet, measure
from fusion.solver.kept_references import with_kept_copies
from fusion.solver.labels import source_with_labels
from fusion.solver.logging.console import Display, Silent
from fusion.solver.metrics import MeanOutputs
from fusion.solver.net_with_data import NetWithData, open_net_with_data
from prototxt.formats.weights import read_weights
from prototxt.schema.filter import filter_net, filter_whole
from prototxt.schema.load import load_net
from prototxt.shapes.loss_kinds import ignored_label
from prototxt.text.class_names import ClassNames, class_names_of
from prototxt.text.parser import parse_file
from prototxt.text.tree import Document

Path = str | os.PathLike[str]
_CHUNK = 500
_FIXED_BATCH = frozenset({"Reshape", "LSTM", "RNN", "Python", "BatchReindex", "Filter", "Parameter", "DummyData"})


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A net with weights and data, ready to be measured.

    class_names  those in the net's text, or of the class folders that it reads
    paths        of the description and the weights, for the hashes in a predictions file
    """

    job: NetWithData
    device: torch.device
    display: Display
    paths: tuple[str, tuple[str, ...]]
    class_names: ClassNames = field(default_factory=ClassNames)

    @property
    def batches(self) -> int:
        """Return the number of batches that hold every record."""
        return max(-(-len(source) // source.batch_size) for source in self.job.sources)

    @contextmanager
    def frozen_engine(self, name: str = AUTO) -> Iterator[None]:
        """Run all ONNX layers in this engine during the block, in which their weights must not change; log it.

        Raises: OnnxError where it is requested and cannot run them.
        """

        def run() -> None:
            self._load()
            first: dict[str, Tensor] = {}
            for source in self.job.sources:
                first.update(source.batch(np.arange(min(source.batch_size, len(source)))))
            with torch.no_grad():
                self.job.net({top: tensor.to(self.device) for top, tensor in first.items()})

        engine = choose_engine(self.job.net, EngineRequest(name), run, self.device)
        if engine.name:
            self.display.say(str(engine))
        with engine.running():
            yield

    def average(self, iterations: int | None = None) -> MeanOutputs:
        """Return the mean outputs over N batches from the start of the data; by default until every record was seen."""
        self._load()
        self.job.batches.position = 0
        try:
            return measure(TestNet(self.job.net, self.job.batches, iterations or self.batches))
        finally:
            self.job.batches.close()

    @property
    def skipped(self) -> list[str]:
        """Return log lines about bad records that were skipped."""
        return skipped_lines(self.job.sources)

    def predict(
        self,
        logits: str,
        *,
        classes: Sequence[int] | None = None,
        name: str | None = None,
        names: Sequence[str] = (),
    ) -> Predictions:
        """Return the blob `logits` for every record once, in the order of the list.

        classes  the shared label space's id of each logit; labels are mapped by it as well. By default those that the
                 net's text gives for the blob, with labels as they are, or all in order
        names    of the shared classes; by default the net's own
        Raises   DataError without labels or with data layers that are not in step, FusionError for a blob that is not
                 [N, C]
        """
        return self.scores([logits], classes=classes, name=name, names=names)[0]

    def scores(
        self,
        blobs: Sequence[str],
        *,
        classes: Sequence[int] | None = None,
        name: str | None = None,
        names: Sequence[str] = (),
    ) -> list[Predictions]:
        """Return several blobs for every record once, in one pass over the data; see `predict`."""
        source, labels = source_with_labels(self.job, blobs, self.paths[0])
        every = [np.concatenate(parts) for parts in zip(*self._rows(source, blobs), strict=True)]
        ignored = [ignored_label(self.job.message, blob) for blob in blobs]
        silent = np.flatnonzero(np.isin(labels, [label for label in ignored if label is not None]))
        if len(silent):
            self.display.say(f"{len(silent)} of {len(labels)} records have a label that the net ignores: left out")
        good = np.setdiff1d(np.arange(len(labels)), [*source.bad, *silent])
        keys, labels = np.array(source.keys, np.str_)[good], labels[good]
        others = number_duplicates(source.keys)
        others = None if others is None else others[good]
        found = []
        for blob, rows in zip(blobs, every, strict=True):
            width, known = rows.shape[1], self.class_names.numbers_of(blob) if classes is None else None
            own = known if known is not None and len(known) == width else range(width)
            meta = self._meta(name, blob)
            if own is known or len(self.class_names.names) == width:
                meta["class_names"] = list(self.class_names.names)
            one = Predictions(keys, labels, rows[good], np.array(own), others, meta=meta)
            one = one if classes is None else one.relabelled(classes)
            found.append(replace(one, meta={**one.meta, "class_names": list(names)}) if names else one)
        return found

    def _rows(self, source: DataSource, blobs: Sequence[str]) -> Iterator[list[NDArray[np.float32]]]:
        """Yield the rows of each blob, chunk after chunk."""
        self._load()
        net = restrict_to_blobs(self.job.net, blobs)
        # such layers need the batch size that the net was built with
        fixed = any(call.type in _FIXED_BATCH for call in net.plan.calls)
        size, count = source.batch_size if fixed else _CHUNK, len(source)
        for start in range(0, count, size):
            indices = (
                np.minimum(np.arange(start, start + size), count - 1)  # the last batch repeats the last record
                if fixed
                else np.arange(start, min(start + size, count))
            )
            inputs = {top: tensor.to(self.device) for top, tensor in source.batch(indices, draw=start).items()}
            with torch.no_grad():
                found = net(inputs)
            yield [_flat(found[blob], blob, len(indices))[: count - start] for blob in blobs]
            self.display.progress("predicting", min(start + size, count), count)

    def _load(self) -> None:
        load_all(self.job.sources, lambda done, total: self.display.progress("decoding", done, total))

    def _meta(self, name: str | None, logits: str) -> dict[str, object]:
        net, weights = self.paths
        own = os.path.splitext(os.path.basename(weights[-1] if weights else net))[0]
        return {
            "name": name or own,
            "logits": logits,
            "net": file_hash(net),
            "weights": hashlib.sha256("".join(map(file_hash, weights)).encode()).hexdigest()
            if len(weights) > 1
            else file_hash(weights[0] if weights else net),
            "preprocessing": self.job.sources[0].fingerprint(),
            "frozen": frozen_layers(self.job.net),
        }


def _flat(values: Tensor, blob: str, records: int) -> NDArray[np.float32]:
    """Return one row of scores per record, float32 [N, C]. Raises: FusionError."""
    out: NDArray[np.float32] = values.float().cpu().numpy()
    out = out.reshape(len(out), -1) if out.ndim > 2 and out[0].size == out.shape[1] else out
    if out.ndim != 2 or len(out) != records:
        shape = "x".join(map(str, out.shape))
        hint = "name the classifier's blob"
        raise FusionError(f"blob '{blob}' is {shape}, not one row of logits per record", hint=hint)
    return out


@dataclass(frozen=True)
class MeasuredData:
    """The data that a net is measured on.

    list_path  a list, folder or database that replaces that of the net's data layer, or one for each layer, as
               `data=A.txt,depth=B.txt`
    phase, level, stages  the state of the net, which selects its layers
    """

    list_path: Path | None = None
    phase: Phase = "TEST"
    level: int = 0
    stages: Sequence[str] = ()


def open_evaluation(
    net: Path | Document,
    weights: Sequence[Path],
    data: MeasuredData = MeasuredData(),
    *,
    device: str = "auto",
    display: Display | None = None,
    reading: ReadOptions | None = None,
) -> Evaluation:
    """Open a net's data, build it, and load trained weights.

    net  a file, or a document such as that of an ONNX file (`fusion.composition.onnx_net`)
    Raises: DataError, BuildError, WeightsMismatch; TrainingError for a list that cannot replace the net's own;
    prototxt's errors for the files.
    """
    chosen = choose_device(device)
    document = net if isinstance(net, Document) else parse_file(net)
    phase = data.phase
    whole, names = load_net(document), class_names_of(document)
    own = filter_whole(whole, phase, data.level, tuple(data.stages))
    message = own if data.list_path is None else with_list(own, data.list_path)
    message = with_kept_copies(message, [name for path in weights for name in read_weights(path)])
    classes = classes_of_nets([filter_net(whole, "TRAIN", data.level, data.stages), own, message], names.names)
    job = open_net_with_data(message, phase, seed=0, device=chosen, reading=reading)
    if not job.sources:
        hint = f"is phase {phase} right? A deploy net (Input layers) has none"
        raise DataError("the net has no data layer to read from", place=document.name, hint=hint)
    display = display or Silent()
    for path in weights:
        report = load_weights(job.net, path)
        if report.missing:
            display.say(f"warning: no weights for {', '.join(report.missing)}: these layers are untrained")
    names = names if names.names else replace(names, names=classes)
    return Evaluation(job, chosen, display, (document.name, tuple(os.fspath(path) for path in weights)), names)
