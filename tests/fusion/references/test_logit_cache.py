"""Logits of references as data: their rows, their files, and whether they are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fusion.data import DataSource, open_source
from fusion.errors import TrainingError
from fusion.pct.predictions import Predictions
from fusion.references import Reference, attach_logits, logit_cache, open_models
from fusion.references.logit_cache import ReferencedSource, number_duplicates, to_predictions
from prototxt import parse
from prototxt.schema.load import load_net

RECORDS = np.arange(22, dtype=np.float32).reshape(11, 2)


def records() -> DataSource:
    """Eleven records of two values."""
    layer = load_net(parse('layer { name: "in" type: "Input" top: "data" top: "label" }')).layer[0]
    return open_source(layer, "TRAIN", arrays={"data": RECORDS, "label": np.arange(11) % 3})


class Scores(nn.Module):
    """Three scores of each record, and how many records were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        return torch.cat([x, x.sum(1, keepdim=True)], 1)


def referenced(source: DataSource, *references: Reference) -> ReferencedSource:
    found = attach_logits(source, open_models(references, source, torch.device("cpu")))
    assert isinstance(found, ReferencedSource)
    return found


EXPECTED = np.concatenate([RECORDS, RECORDS.sum(1, keepdims=True)], 1)


@pytest.mark.parametrize("chunk", [3, 11, 500])
def test_all_records_are_asked_once(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(logit_cache, "_CHUNK", chunk)
    module = Scores()
    source = referenced(records(), Reference(module, name="r"))
    module.asked.clear()
    source.load()
    assert module.asked == {3: [3, 3, 3, 2], 11: [11], 500: [11]}[chunk]
    rows = np.array([10, 0, 4])
    batch = source.batch(rows)
    assert len(module.asked) == (4 if chunk == 3 else 1), "the batch is from the table"
    np.testing.assert_array_equal(batch["reference/r"], EXPECTED[rows])
    np.testing.assert_array_equal(batch["data"], RECORDS[rows])
    asked = len(module.asked)
    source.load()
    assert len(module.asked) == asked
    assert source.shapes["reference/r"] == (source.batch_size, 3)
    assert source.tops == ("data", "label", "reference/r")


def test_a_live_reference_is_asked_for_each_batch() -> None:
    module = Scores()
    source = referenced(records(), Reference(module, name="r", live=True))
    source.load()
    module.asked.clear()
    np.testing.assert_array_equal(source.batch(np.array([2, 1]))["reference/r"], EXPECTED[[2, 1]])
    assert module.asked == [2]
    assert not source.in_memory
    assert referenced(records(), Reference(Scores(), name="r")).in_memory == records().in_memory


def test_scores_must_fit_their_classes() -> None:
    with pytest.raises(TrainingError, match=r"reference 'r' gives \[3\] values per record for 2 classes"):
        referenced(records(), Reference(Scores(), name="r", classes=[0, 1]))
    assert referenced(records(), Reference(Scores(), name="r", classes=[0, 1, 7])).shapes["reference/r"][1] == 3


def test_repeated_names_are_numbered() -> None:
    assert number_duplicates(["a", "b", "c"]) is None
    found = number_duplicates(["a", "b", "a", "a", "b"])
    assert found is not None
    assert found.tolist() == ["", "", "2", "3", "2"]


def test_a_file_has_the_records_names_labels_and_classes() -> None:
    source = records()
    (model,) = open_models([Reference(Scores(), name="r", classes=[4, 0, 2])], source, torch.device("cpu"))
    stored = to_predictions(torch.from_numpy(EXPECTED), model, source, {"net": "f00"})
    assert (stored.name, stored.meta["net"], stored.classes.tolist()) == ("r", "f00", [4, 0, 2])
    assert stored.labels.tolist() == [number % 3 for number in range(11)]
    assert stored.keys.tolist() == list(source.keys)
    (every,) = open_models([Reference(Scores(), name="r")], source, torch.device("cpu"))
    assert to_predictions(torch.from_numpy(EXPECTED), every, source, {}).classes.tolist() == [0, 1, 2]


def test_fingerprints_differ_where_the_reference_or_the_data_does() -> None:
    def fingerprint(scale: float, **options: Any) -> str:
        module = nn.Linear(2, 3)
        with torch.no_grad():
            module.weight.fill_(scale)
            module.bias.zero_()
        return referenced(records(), Reference(module, name="r", **options)).fingerprint()

    assert fingerprint(1) == fingerprint(1)
    assert len({fingerprint(1), fingerprint(2), records().fingerprint()}) == 3


@pytest.mark.parametrize("change", [lambda p: p, lambda p: p.take(np.arange(11)[::-1])])
def test_rows_of_a_file_are_found_by_name(tmp_path: Path, change: Callable[[Predictions], Predictions]) -> None:
    source = records()
    meta = {"preprocessing": source.fingerprint()}
    stored = Predictions(np.array(source.keys), np.arange(11) % 3, EXPECTED, meta=meta)
    change(stored).save(tmp_path / "r.npz")
    batch = referenced(source, Reference(str(tmp_path / "r.npz"), name="r")).batch(np.array([10, 3]))
    np.testing.assert_array_equal(batch["reference/r"], EXPECTED[[10, 3]])


def test_what_a_model_is_made_of_is_told_member_by_member() -> None:
    members = [Reference(Scores(), name=name, ensemble="e") for name in "ab"]
    (model,) = open_models(members, records(), torch.device("cpu"))
    for number, hashes in enumerate([{"net": "n0", "weights": "w0"}, {"net": "n1", "weights": "w1", "input": "data"}]):
        model.members[number].hashes.clear()
        model.members[number].hashes.update(hashes)
    found = logit_cache._provenance(model, records())
    preprocessing = found.pop("preprocessing")
    assert preprocessing == records().fingerprint()
    assert found == {"net": "n0+n1", "weights": "w0+w1", "input": "+data", "blob": "+"}


def test_a_module_of_references_is_not_trained() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    open_models([Reference(module, name="r")], records(), torch.device("cpu"))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
