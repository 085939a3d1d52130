"""Who of several processes is gone: told by their beats, or by themselves."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from fusion.distributed import heartbeat
from fusion.distributed.heartbeat import Heartbeat


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Heartbeat]]:
    """Two hearts that beat fast and are patient for one second."""
    monkeypatch.setattr(heartbeat, "BEAT", 0.05)
    server = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10))
    stores = [TCPStore("localhost", server.port, is_master=False, timeout=timedelta(seconds=10)) for _ in range(2)]
    hearts = [Heartbeat(store, rank, ["a, pid 1", "b, pid 2"], silence=1.0) for rank, store in enumerate(stores)]
    yield hearts
    for heart in hearts:
        heart.stop()


def beating(heart: Heartbeat) -> queue.Queue[str]:
    """Let it beat in a thread; what it would end with."""
    told: queue.Queue[str] = queue.Queue()

    def end(why: str) -> None:
        told.put(why)
        heart.stop()

    threading.Thread(target=heart.beat, args=(end,), daemon=True).start()
    return told


def test_all_is_well(pair: list[Heartbeat]) -> None:
    told = [beating(heart) for heart in pair]
    assert pair[0].missing(0.5) == ""
    assert all(queue.empty() for queue in told)


def test_one_falls_silent(pair: list[Heartbeat]) -> None:
    assert "process 1 (b, pid 2) has been silent for 1 seconds" in beating(pair[0]).get(timeout=20)
    assert pair[0].missing(0.2) == "process 1 (b, pid 2) is gone"


def test_one_gives_up(pair: list[Heartbeat]) -> None:
    told = beating(pair[0])
    pair[1].give_up("no space left")
    assert told.get(timeout=20) == "process 1 (b, pid 2) gave up: no space left"


def test_one_leaves_in_peace(pair: list[Heartbeat]) -> None:
    told = beating(pair[0])
    pair[1].stop()
    with pytest.raises(queue.Empty):
        told.get(timeout=1.5)


def test_one_waits_for_another(pair: list[Heartbeat]) -> None:
    done = threading.Event()

    def wait() -> None:
        pair[1].wait("trunk")
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not done.wait(0.2)
    pair[0].done("trunk")
    assert done.wait(20)
