"""A trunk that runs on several batches at once gives each of them what it gives it alone, and blocks stay the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fusion.data import ReadOptions
from fusion.errors import DataError
from fusion.nets.split import split_trunk
from fusion.solver import Solver
from fusion.solver.batches import LiveBatches
from fusion.solver.logging.console import Silent
from fusion.solver.step.trunk_blocks import BlockBatches

Make = Callable[..., Path]
Blobs = dict[str, Tensor]


def solver(path: Path) -> Solver:
    return Solver(path, device="cpu", display=Silent(), cache_budget=0)


def blocks_of(run: Solver, count: int, position: int = 0) -> tuple[BlockBatches, list[int]]:
    """Blocks of so many batches, and how many records the trunk was given, call by call."""
    found, asked = split_trunk(run.net), []
    assert found is not None
    trunk = found.trunk

    def counted(blobs: Blobs) -> Blobs:
        asked.append(len(blobs["data"]))
        return trunk(blobs)

    feed = BlockBatches(LiveBatches(run.nets[0].sources, torch.device("cpu"), position), trunk, counted)
    feed.count = count
    return feed, asked


def test_each_batch_has_its_own_outputs(project: Make) -> None:
    run = solver(project(shuffle=True))
    feed, asked = blocks_of(run, 3)
    plain = LiveBatches(run.nets[0].sources, torch.device("cpu"))
    for number in range(7):
        blobs, alone = next(feed), next(plain)
        assert feed.position == number + 1
        assert torch.equal(blobs["label"], alone["label"])
        torch.testing.assert_close(blobs["trunk"], run.net.trunk(alone["data"]).relu(), rtol=1e-5, atol=1e-6)
        assert blobs["trunk"].is_contiguous()
    assert asked == [12, 12, 12]


def test_a_block_begins_where_it_would_have_begun(project: Make) -> None:
    run = solver(project(shuffle=True))
    whole, _ = blocks_of(run, 4)
    every = [next(whole) for _ in range(9)]
    late, asked = blocks_of(run, 4, position=6)
    for number in (6, 7, 8):
        assert torch.equal(next(late)["trunk"], every[number]["trunk"])
    assert asked == [16, 16]
    late.position = 2
    assert torch.equal(next(late)["trunk"], every[2]["trunk"])


def test_as_many_batches_as_are_well_computed_together(project: Make) -> None:
    run = solver(project())
    run.step(1)
    feed = run.nets[0].batches
    assert isinstance(feed, BlockBatches)
    assert feed.count == 250 // 4


def test_an_error_is_raised_when_its_batch_is_due(project: Make) -> None:
    run = solver(project())
    feed, _ = blocks_of(run, 4)

    class Broken(LiveBatches):
        def __next__(self) -> Blobs:
            if self.position == 6:
                raise DataError("broken")
            return super().__next__()

    feed.feed = Broken(feed.feed.sources, feed.feed.device)
    for _ in range(6):
        next(feed)
    with pytest.raises(DataError, match="broken"):
        next(feed)
    assert feed.position == 6


def test_unreadable_records_that_are_not_needed_stop_nothing(project: Make) -> None:
    path = project(max_iter=2, test_iter=1)
    Path("train21.png").write_bytes(b"no picture")
    run = Solver(
        path, device="cpu", display=Silent(), cache_budget=0, reading=ReadOptions(budget=0), threads="auto", max_iter=2
    )
    run.step(2)
    assert isinstance(run.nets[0].batches, BlockBatches)


def test_as_much_is_read_ahead_as_a_block_takes(project: Make) -> None:
    run = Solver(project(), device="cpu", display=Silent(), cache_budget=0, reading=ReadOptions(budget=0))
    run.step(1)
    feed = run.nets[0].batches
    assert isinstance(feed, BlockBatches)
    assert feed.feed.depth >= feed.count


@pytest.mark.parametrize("random", [False, True])
def test_a_resumed_run_equals_one_that_was_not_stopped(project: Make, random: bool) -> None:
    path = project(shuffle=True)
    if random:
        net = Path("net.prototxt").read_text()
        Path("net.prototxt").write_text(net.replace("scale: 0.01", "scale: 0.01 mirror: true crop_size: 4"))
    whole = solver(path)
    whole.train()
    resumed = solver(path)
    resumed.restore(Path("small_iter_10.solverstate"))
    resumed.train()
    for one, other in zip(whole.flat_params.updated, resumed.flat_params.updated, strict=True):
        assert torch.equal(one, other)
