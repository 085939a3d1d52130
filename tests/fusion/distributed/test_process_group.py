"""What a launcher must say, and that without one nothing happens."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from fusion.distributed import process_group
from fusion.errors import TrainingError


def test_alone_there_is_nobody_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if value is not None:
            monkeypatch.setenv("WORLD_SIZE", value)
        assert process_group.join("cpu") is None
    assert process_group.current_group() is None
    assert not process_group.alone()
    with process_group.session(), process_group.in_turn("anything"):
        pass
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR"])
def test_what_the_launcher_leaves_out(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(TrainingError, match="WORLD_SIZE is 2, and RANK or MASTER_ADDR is missing"):
        process_group.join("cpu")


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match="process 3 of this machine has no GPU: there are 2"):
        process_group.join("cuda")


def test_shares_are_whole_and_even() -> None:
    from fusion.distributed.process_group import ProcessGroup

    for count, size in ((10, 4), (4, 4), (7, 3)):
        parts = [ProcessGroup(rank, size, rank, heartbeat=None).share(count) for rank in range(size)]  # type: ignore[arg-type]
        assert parts[0][0] == 0
        assert parts[-1][1] == count
        assert all(one[1] == other[0] for one, other in pairwise(parts))
        assert all(end > begin for begin, end in parts)
