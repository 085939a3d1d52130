"""Batches of kept rows and of sources, and the averages that tests take over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prototxt
from fusion.data import DataSource, open_source
from fusion.errors import DataError
from fusion.nets import build as nets
from fusion.solver import batches as module
from fusion.solver.batches import CachedBatches, LiveBatches, check_classes, data_layers, shapes_of
from fusion.solver.evaluate_test_nets import TestNet as MeasuredNet, averages_records, measure
from fusion.solver.mixup import Mix, MixedBatches, MixedLoss
from prototxt.schema.load import load_net

DATA = """layer { name: "in" type: "Input" top: "data" top: "label" input_param {
  shape { dim: 3 dim: 2 } shape { dim: 3 } } }
"""
ROWS = torch.arange(20.0).reshape(10, 2)


def source(count: int = 10) -> DataSource:
    """Ten records in batches of three."""
    layer = load_net(prototxt.parse(DATA)).layer[0]
    return open_source(layer, "TEST", arrays={"data": ROWS[:count].numpy(), "label": np.arange(count) % 3})


def kept() -> CachedBatches:
    return CachedBatches({"data": ROWS}, source())


def test_kept_rows_come_in_the_order_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PLANNED", 2)
    batches = kept()
    assert batches.source.batch_size == 3
    expected = [[(3 * batch + row) % 10 for row in range(3)] for batch in range(9)]
    found = [[int(value) // 2 for value in next(batches)["data"][:, 0]] for _ in range(9)]
    assert found == expected
    assert batches.position == 9
    batches.position = 2
    assert [int(value) // 2 for value in next(batches)["data"][:, 0]] == expected[2]
    assert next(batches.next_place() for _ in range(2)).tolist() == [9, 0, 1]
    batches.position = 0
    assert batches.next_place() == 0
    assert batches.next_place() == 3
    assert batches.position == 2
    batches.position = 1
    many = batches.next_many(3)["data"][:, 0]
    assert [int(value) // 2 for value in many] == [value for batch in expected[1:4] for value in batch]
    assert batches.position == 4


def test_rows_that_follow_each_other_are_a_view_and_others_a_copy() -> None:
    batches = kept()
    straight, other = batches.pick(np.array([4, 5, 6])), batches.pick(np.array([4, 6, 5]))
    assert straight["data"].data_ptr() == ROWS[4:].data_ptr()
    assert straight["data"].tolist() == ROWS[4:7].tolist()
    assert other["data"].tolist() == ROWS[[4, 6, 5]].tolist()
    assert batches.pick(np.array([7]))["data"].tolist() == ROWS[7:8].tolist()
    names = batches.add([torch.zeros(10), torch.ones(10)])
    assert names == ["column 1", "column 2"]
    assert next(batches)["column 2"].tolist() == [1, 1, 1]
    batches.keep({"data"})
    assert list(batches.rows) == ["data"]


def test_live_batches_go_on_from_any_position() -> None:
    batches = LiveBatches([source()], torch.device("cpu"))
    first = [next(batches)["label"].tolist() for _ in range(3)]
    assert first == [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    assert batches.position == 3
    assert next(batches)["data"][0].tolist() == ROWS[9].tolist()
    batches.position = 1
    assert next(batches)["data"][0].tolist() == ROWS[3].tolist()
    batches.close()
    assert next(batches)["data"][0].tolist() == ROWS[6].tolist()
    assert shapes_of(batches.sources) == {"data": (3, 2), "label": (3,)}


def test_layers_that_read_records() -> None:
    text = (
        DATA
        + """layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 1 } } }
      layer { name: "d" type: "Data" top: "d" } layer { name: "i" type: "Input" bottom: "d" top: "i" }
      layer { name: "s" type: "Silence" bottom: "p" } layer { name: "n" type: "Data" }"""
    )
    assert [layer.name for layer in data_layers(load_net(prototxt.parse(text)))] == ["in", "d"]


@pytest.mark.parametrize(
    ("loss", "width", "fits"),
    [
        ('type: "SoftmaxWithLoss"', (3, 3), True),
        ('type: "SoftmaxWithLoss"', (3, 2), False),
        ('type: "SoftmaxWithLoss" loss_param { ignore_label: 2 }', (3, 2), True),
        ('type: "Accuracy"', (3, 2), False),
        ('type: "Accuracy" accuracy_param { ignore_label: 2 }', (3, 2), True),
        ('type: "Accuracy" loss_param { ignore_label: 2 }', (3, 2), False),
        ('type: "Accuracy" accuracy_param { axis: 2 }', (3, 1, 3), True),
        ('type: "Accuracy" accuracy_param { axis: -1 }', (3, 3, 2), False),
        ('type: "SoftmaxWithLoss" softmax_param { axis: 2 }', (3, 1, 3), True),
        ('type: "SoftmaxWithLoss" softmax_param { axis: 2 }', (3, 1), True),
        ('type: "EuclideanLoss"', (3, 2), True),
    ],
)
def test_labels_are_checked_against_the_classes(loss: str, width: tuple[int, ...], fits: bool) -> None:
    net = load_net(prototxt.parse(DATA + f'layer {{ name: "l" bottom: "s" bottom: "label" top: "l" {loss} }}'))
    if fits:
        check_classes(net, [source()], {"s": width})
        return
    with pytest.raises(DataError, match="label 2"):
        check_classes(net, [source()], {"s": width})


class Counted:
    """Batches that are numbered, and their position."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self

    def __next__(self) -> dict[str, Tensor]:
        self.position += 1
        return {"x": torch.tensor([float(self.position), 10.0 * self.position])}


class Group:
    """One of two processes; the other's sums are ten times as large."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank, self.added = rank, list[float]()

    def share(self, count: int) -> tuple[int, int]:
        return count * self.rank // 2, count * (self.rank + 1) // 2

    def add(self, tensor: Tensor) -> Tensor:
        self.added.append(float(tensor[0]))
        return tensor * 11


NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 } } }
layer { name: "b" type: "Power" bottom: "x" top: "b" loss_weight: 0.5 }
layer { name: "a" type: "Power" bottom: "x" top: "a" power_param { scale: 2 } }
"""


def test_outputs_are_averaged_over_the_batches() -> None:
    test = MeasuredNet(nets.build(prototxt.parse(NET)), Counted(), 3)  # type: ignore[arg-type]
    found = measure(test)
    assert found.outputs == (("a", [4.0, 40.0], 0.0), ("b", [2.0, 20.0], 0.5))
    assert test.batches.position == 3
    assert measure(test).outputs[1][1] == [5.0, 50.0]


@pytest.mark.parametrize(("rank", "sums"), [(0, [6.0, 3.0]), (1, [14.0, 7.0])])
def test_processes_share_the_batches_of_a_test(rank: int, sums: list[float]) -> None:
    group, counted = Group(rank), Counted()
    found = measure(MeasuredNet(nets.build(prototxt.parse(NET)), counted, 4), group)  # type: ignore[arg-type]
    assert group.added == sums
    assert counted.position == 4
    assert found.outputs[1][1][0] == 11 * sums[1] / 4
    alone = Group(rank)
    measure(MeasuredNet(nets.build(prototxt.parse(NET)), Counted(), 1), alone)  # type: ignore[arg-type]
    assert alone.added == [], "one batch is not shared"


LOSS = 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "data" bottom: "label" top: "l" %s }\n'
ACCURACY = 'layer { name: "a" type: "Accuracy" bottom: "data" bottom: "label" top: "a" %s }\n'


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        (LOSS % "", True),
        (LOSS % "" + ACCURACY % "", True),
        (LOSS % "loss_param { ignore_label: 1 }", False),
        (LOSS % "loss_param { normalization: NONE }", False),
        (LOSS % "loss_param { normalization: BATCH_SIZE }", True),
        (ACCURACY % "accuracy_param { ignore_label: 1 }", False),
        (ACCURACY % 'top: "c"', False),
        (LOSS % "" + 'layer { name: "p" type: "Power" bottom: "data" top: "p" }', False),
        ("", False),
    ],
)
def test_batches_are_joined_where_outputs_are_means_over_records(text: str, joined: bool) -> None:
    assert averages_records(load_net(prototxt.parse(DATA + text))) is joined


@pytest.mark.parametrize(("averaging", "at_once"), [(True, [9, 6]), (False, [3] * 5)])
def test_joined_batches_give_the_same_averages(
    monkeypatch: pytest.MonkeyPatch, averaging: bool, at_once: list[int]
) -> None:
    monkeypatch.setattr("fusion.solver.evaluate_test_nets._CHUNK", 9)
    sizes: list[int] = []
    net = nets.build(prototxt.parse(DATA + (LOSS % "")))

    class Spy(type(net)):  # type: ignore[misc]
        def __call__(self, blobs: Any) -> Any:
            sizes.append(len(blobs["data"]))
            return super().__call__(blobs)

    net.__class__ = Spy
    rows = CachedBatches({"data": ROWS, "label": torch.from_numpy(np.arange(10) % 3).float()[:, None]}, source())
    rows.rows["data"] = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    found = measure(MeasuredNet(net, rows, 5, averaging))
    assert sizes == at_once
    assert rows.position == 5
    scores = rows.rows["data"][torch.arange(15) % 10]
    labels = rows.rows["label"][torch.arange(15) % 10, 0].long()
    assert found.outputs[0][1][0] == pytest.approx(nn.functional.cross_entropy(scores, labels).item(), rel=1e-6)


def test_mixtures_depend_on_the_seed_and_the_batch_alone() -> None:
    one, other = Mix(0.4, 3), Mix(0.4, 3)
    for number in (5, 6):
        one.draw(number, 8, torch.device("cpu"))
    other.draw(6, 8, torch.device("cpu"))
    assert one.share == other.share
    assert one.order.equal(other.order)
    assert sorted(one.order.tolist()) == list(range(8))
    other.draw(5, 8, torch.device("cpu"))
    assert one.share != other.share
    one.share, one.order = torch.tensor(0.75), torch.tensor([1, 0])
    assert one.apply(torch.tensor([[4.0], [8.0]])).tolist() == [[5.0], [7.0]]
    loss = MixedLoss(lambda x, label: (x * label).sum(), one)  # type: ignore[arg-type]
    value = loss(torch.tensor([1.0, 10.0]), torch.tensor([2.0, 3.0]))
    assert value.item() == 0.75 * (2 + 30) + 0.25 * (3 + 20)
    both = MixedLoss(lambda x, label: ((x * label).sum(), x), one)(torch.tensor([1.0, 10.0]), torch.tensor([2.0, 3.0]))
    assert both[0].item() == value.item()
    assert both[1].tolist() == [1, 10]


def test_labels_of_mixed_batches_stay() -> None:
    mixed = MixedBatches(LiveBatches([source()], torch.device("cpu")), Mix(0.4, 3), {"label"})
    mixed.position = 1
    blobs, plain = next(mixed), Mix(0.4, 3)
    plain.draw(1, 3, torch.device("cpu"))
    assert blobs["label"].tolist() == [0, 1, 2]
    assert blobs["data"].tolist() == plain.apply(ROWS[3:6]).tolist()
    assert mixed.position == 2
