"""Records that are kept once decoded: which are read, in what form they come, and what stands in for bad ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusion.data import decoded_cache
from fusion.data.decoded_cache import Store
from fusion.errors import DataError

COUNT = 6


class Records:
    """Six records of one channel whose pixels are their number; `read` tells which were asked for."""

    def __init__(self, bad: tuple[int, ...] = (), other: dict[int, np.ndarray] | None = None) -> None:
        self.bad, self.other, self.read = bad, other or {}, list[int]()

    def __call__(self, index: int) -> np.ndarray:
        self.read.append(index)
        if index in self.bad:
            raise DataError("broken", place=f"list:{index}")
        return self.other.get(index, np.full((1, 2, 3), index, np.uint8))


def store(records: Records, *, budget: int = 1 << 20, **options: Any) -> Store:
    made = Store(records, COUNT, budget=budget, **{"skip": False, **options})
    records.read.clear()
    return made


def numbers(found: Any) -> list[int]:
    return [int(pixels.flat[0]) for pixels in found]


@pytest.mark.parametrize("budget", [1 << 20, 0])
@pytest.mark.parametrize(
    "wanted", [[3], [1, 2, 3], [2, 1, 0], [0, 2], [0, 3], [1, 4], [0, 0, 2], [0, 2, 1, 3], [5, 5], [1, 3, 2]]
)
def test_records_come_in_the_order_that_is_asked_for(wanted: list[int], budget: int) -> None:
    records = Records()
    made = store(records, budget=budget)
    found, indices = made.get(np.array(wanted))
    assert isinstance(found, np.ndarray)
    assert (numbers(found), indices.tolist()) == (wanted, wanted)
    assert sorted(records.read) == sorted(set(wanted)), "each once"
    assert made.keeps is bool(budget)


def test_what_is_kept_is_read_once_and_the_rest_when_it_is_asked_for() -> None:
    records = Records()
    made = store(records)
    made.get(np.array([1, 0]))
    found, _ = made.get(np.array([1, 4]))
    assert numbers(found) == [1, 4]
    assert sorted(records.read) == [0, 1, 4]
    assert made.missing.tolist() == [2, 3, 5]
    assert store(Records(), budget=0).missing.tolist() == []


@pytest.mark.parametrize(("budget", "keeps"), [(COUNT * 6, True), (COUNT * 6 - 1, False)])
def test_all_records_are_kept_or_none(budget: int, keeps: bool) -> None:
    assert store(Records(), budget=budget).keeps is keeps


def test_loading_reads_what_is_missing_and_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_cache, "_CHUNK", 2)
    records, told = Records(), list[tuple[int, int]]()
    made = Store(records, 90, budget=1 << 20, skip=False)
    made.load(lambda *counts: told.append(counts))
    assert told == [(40, 90), (80, 90), (90, 90)]
    assert records.read == [0, *range(90)], "the first says how large they are"
    assert len(made.missing) == 0
    records = Records()
    kept = store(records)
    kept.load()
    assert records.read == list(range(COUNT))
    kept.load()
    assert len(records.read) == COUNT
    unkept = store(records, budget=0)
    unkept.load()
    assert records.read == []


@pytest.mark.parametrize("budget", [1 << 20, 0])
def test_the_next_good_record_stands_in_for_a_bad_one(budget: int) -> None:
    records = Records(bad=(1, 2, 5))
    made = store(records, budget=budget, skip=True)
    found, indices = made.get(np.array([0, 1, 2, 5]))
    assert (numbers(found), indices.tolist()) == ([0, 3, 3, 0], [0, 3, 3, 0])
    assert set(made.bad) == {1, 2, 5}
    made.get(np.array([1, 2]))
    assert max(map(records.read.count, (1, 2, 5))) == 1, "bad ones are tried once"


def test_bad_records_are_errors_unless_they_are_skipped() -> None:
    made = store(Records(bad=(2, 4)))
    with pytest.raises(DataError) as error:
        made.get(np.arange(COUNT))
    assert [part.place for part in error.value.errors] == ["list:2", "list:4"]
    with pytest.raises(DataError, match="list:0: broken"):
        Store(Records(bad=(0,)), COUNT, skip=False)
    with pytest.raises(DataError, match="list:0: none of 1 records can be read: broken"):
        Store(Records(bad=(0,)), 1, skip=True)


@pytest.mark.parametrize("other", [np.full((1, 3, 2), 4, np.uint8), np.full((1, 2, 3), 4, np.float32)])
def test_a_batch_with_a_record_of_another_form_is_a_list(other: np.ndarray) -> None:
    made = store(Records(other={4: other}))
    found, _ = made.get(np.array([3, 4]))
    assert isinstance(found, list)
    assert [(pixels.shape, pixels.dtype) for pixels in found] == [((1, 2, 3), np.uint8), (other.shape, other.dtype)]
    assert isinstance(made.get(np.array([3, 2]))[0], np.ndarray)
    assert made.fit(np.array([3, 4, 5]))[0].tolist() == [3, 5]
    indices, pixels = made.fit(np.array([4]))
    assert (indices.tolist(), pixels.shape) == ([], (0, 1, 2, 3))


def test_a_shared_store_keeps_the_last_batch_for_the_next_layer() -> None:
    records = Records()
    made = store(records, budget=0)
    made.get(np.array([1, 2]))
    made.get(np.array([1, 2]))
    assert records.read == [1, 2, 1, 2]
    made.share(lambda index, pixels, first: None)
    records.read.clear()
    first = made.get(np.array([1, 2]))
    again = made.get(np.array([1, 2]))
    assert records.read == [1, 2]
    assert numbers(first[0]) == numbers(again[0]) == again[1].tolist() == [1, 2]
    assert numbers(made.get(np.array([1, 3]))[0]) == [1, 3]


def test_what_another_store_has_decoded_is_accepted() -> None:
    records = Records()
    made = store(records)
    made.accept(*store(Records(bad=(2,))).fit(np.array([1, 2, 3])))
    assert made.missing.tolist() == [0, 2, 4, 5]
    assert numbers(made.get(np.array([1, 3]))[0]) == [1, 3]
    assert records.read == []


def test_threads_decode_large_records_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_cache, "SMALL", 0)
    for budget in (1 << 20, 0):
        made = store(Records(), budget=budget)
        made.threads = 3
        assert numbers(made.get(np.array([4, 1, 3, 0]))[0]) == [4, 1, 3, 0]
        assert numbers(made.get(np.array([5, 2]))[0]) == [5, 2]
