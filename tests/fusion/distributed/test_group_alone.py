"""A group of one process: what each operation gives, and what becomes of errors, without starting others."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from fusion.distributed import heartbeat, process_group
from fusion.distributed.heartbeat import Heartbeat
from fusion.distributed.process_group import DataParallelOptions, ProcessGroup
from fusion.errors import TrainingError


class Heart:
    """Notes what it is told."""

    def __init__(self, gone: str = "") -> None:
        self.gone, self.told = gone, list[str]()

    def missing(self) -> str:
        return self.gone

    def wait(self, name: str) -> None:
        self.told.append(f"wait {name}")

    def done(self, name: str) -> None:
        self.told.append(f"done {name}")

    def stop(self) -> None:
        self.told.append("stop")

    def give_up(self, reason: str) -> None:
        self.told.append(f"give up: {reason}")


def group(rank: int = 0, size: int = 1, local: int = 0, gone: str = "") -> ProcessGroup:
    return ProcessGroup(rank, size, local, Heart(gone))  # type: ignore[arg-type]


@pytest.fixture
def connected() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("connected")
def test_operations_of_one() -> None:
    one, values = group(), torch.tensor([1.0, 3.0])
    assert one.add(values) is values
    assert values.tolist() == [1, 3]
    assert group(size=2).mean(values) is values
    assert values.tolist() == [0.5, 1.5]
    one.broadcast([values])
    assert one.gather({"a": 1}) == [{"a": 1}]
    assert one.broadcast_object("b") == "b"
    assert (one.first, group(rank=1, size=2).first) == (True, False)


def test_defaults_keep_the_batches_and_the_statistics_of_one_process() -> None:
    assert DataParallelOptions() == DataParallelOptions(batch_norm="sync", auto_scale=False)


@pytest.mark.parametrize(
    ("gone", "told"), [("", "the others no longer answer"), ("process 1 is gone", "process 1 is gone")]
)
def test_a_broken_connection_names_who_is_gone(monkeypatch: pytest.MonkeyPatch, gone: str, told: str) -> None:
    def broken(*given: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", broken)
    with pytest.raises(TrainingError, match=f"process 2 of 4: {told}"):
        group(2, 4, gone=gone).add(torch.zeros(1))


@pytest.mark.parametrize(("local", "told"), [(0, ["body", "done"]), (1, ["wait", "body"])])
def test_the_first_of_a_machine_goes_before_the_others(
    monkeypatch: pytest.MonkeyPatch, local: int, told: list[str]
) -> None:
    one = group(rank=4 + local, size=8, local=local)
    monkeypatch.setattr(process_group, "_joined", one)
    heart: Any = one.heartbeat
    with process_group.in_turn("trunk"):
        heart.told.append("body")
    key = f"fusion/turn/{socket.gethostname()}/trunk"
    assert heart.told == [word if word == "body" else f"{word} {key}" for word in told]


def test_a_step_has_its_group_and_a_net_of_one_process_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    one = group()
    monkeypatch.setattr(process_group, "_joined", one)
    assert process_group.alone()
    with process_group.in_step(one):
        assert process_group.current_group() is one
        assert not process_group.alone()
        with process_group.in_step(None):
            assert process_group.alone()
        assert process_group.current_group() is one
    with suppress(ZeroDivisionError), process_group.in_step(one):
        raise ZeroDivisionError
    assert process_group.current_group() is None
    monkeypatch.setattr(process_group, "_joined", None)
    assert not process_group.alone()


@pytest.mark.parametrize(
    ("error", "told"),
    [(None, ["stop"]), (ValueError("no room"), ["give up: no room"]), (KeyboardInterrupt(), ["stop"])],
    ids=str,
)
@pytest.mark.usefixtures("connected")
def test_the_others_are_told_how_a_run_ends(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | None, told: list[str]
) -> None:
    one = group()
    heart: Any = one.heartbeat
    monkeypatch.setattr(process_group, "_joined", one)
    left: list[bool] = []
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append(True))
    with suppress(ValueError, KeyboardInterrupt), process_group.session():
        if error is not None:
            raise error
    assert heart.told == told
    assert bool(left) is (told == ["stop"])
    assert (process_group._joined is None) is (told == ["stop"])
    monkeypatch.undo()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Connecting notes what it is given, and nothing is started."""
    calls: list[Any] = []
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "here", "MASTER_PORT": "7"}.items():
        monkeypatch.setenv(name, value)
    for name in ("LOCAL_RANK", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    store = HashStore()
    monkeypatch.setattr(heartbeat, "open_store", lambda **given: calls.append(given) or store)
    monkeypatch.setattr(heartbeat, "start", lambda *given: calls.append(given) or Heart())
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **given: calls.append((backend, given))
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(process_group, "_joined", None)
    return calls


@pytest.mark.parametrize(
    ("rank", "launcher", "master"), [("0", None, True), ("1", None, False), ("0", "True", False), ("0", "False", True)]
)
def test_process_0_keeps_the_store_unless_the_launcher_does(
    monkeypatch: pytest.MonkeyPatch, launched: list[Any], rank: str, launcher: str | None, master: bool
) -> None:
    monkeypatch.setenv("RANK", rank)
    if launcher is not None:
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", launcher)
    found = process_group.join("cpu")
    assert found is not None
    assert (found.rank, found.size, found.local_rank) == (int(rank), 3, 0)
    store, (backend, given), started = launched
    assert store["is_master"] is master
    assert (backend, given["rank"], given["world_size"]) == ("gloo", int(rank), 3)
    assert started == (int(rank), 3, socket.gethostname())
    assert process_group.join("cpu") is found
    assert len(launched) == 3, "once"


@pytest.mark.parametrize(("local", "device"), [(None, 0), ("0", 0), ("1", 1)])
def test_each_process_of_a_machine_has_its_gpu(
    monkeypatch: pytest.MonkeyPatch, launched: list[Any], local: str | None, device: int
) -> None:
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    found = process_group.join("cuda")
    assert found is not None
    assert found.local_rank == device
    assert launched[0] == device
    assert launched[2][0] == "cpu:gloo,cuda:nccl"


def test_who_cannot_connect_is_told_where(monkeypatch: pytest.MonkeyPatch, launched: list[Any]) -> None:
    def refuse(*given: Any, **named: Any) -> None:
        raise ValueError("no route")

    monkeypatch.setattr(torch.distributed, "init_process_group", refuse)
    with pytest.raises(TrainingError, match="the 3 processes cannot connect at here:7: no route"):
        process_group.join("cpu")
    for rank in ("-1", "3"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(TrainingError, match="WORLD_SIZE is 3, and RANK or MASTER_ADDR is missing"):
            process_group.join("cpu")


class Store:
    """A store in this process; a counter may be moved by others between two looks at it."""

    def __init__(self, beats: list[int] | None = None) -> None:
        self.values: dict[str, Any] = {}
        self.beats = beats

    def add(self, key: str, count: int) -> int:
        if count == 0 and self.beats is not None:
            return self.beats.pop(0)
        self.values[key] = self.values.get(key, 0) + count
        return int(self.values[key])

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return str(self.values[key]).encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


def beaten(
    monkeypatch: pytest.MonkeyPatch, beats: list[int], seconds: float, *, left: bool = False
) -> tuple[list[str], Store]:
    """Beat as often as the neighbour is looked at, with so many seconds between; returns what it ends with."""
    now, told = [100.0], list[str]()
    store = Store(list(beats))
    heart = Heartbeat(store, 1, ["a", "b", "c"], silence=25.0)  # type: ignore[arg-type]
    if left:
        store.set("fusion/0/beat/2/left", "1")

    def wait(beat: float) -> bool:
        now[0] += seconds
        return not store.beats or bool(told)

    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now[0]))
    heart._stopped = SimpleNamespace(wait=wait)  # type: ignore[assignment]
    heart.beat(told.append)
    return told, store


@pytest.mark.parametrize(
    ("beats", "seconds", "left", "told"),
    [
        ([1, 2, 3, 4, 5], 24.0, False, []),
        ([0, 0], 25.0, False, []),
        ([0, 0], 25.5, False, ["process 2 (c) has been silent for 25 seconds"]),
        ([1, 1], 25.5, False, ["process 2 (c) has been silent for 25 seconds"]),
        ([1, 1, 2, 2, 3], 20.0, False, []),
        ([3, 3, 3], 13.0, False, ["process 2 (c) has been silent for 25 seconds"]),
        ([3, 3, 3, 3], 26.0, True, []),
    ],
)
def test_a_neighbour_is_silent_when_its_counter_stands(
    monkeypatch: pytest.MonkeyPatch, beats: list[int], seconds: float, left: bool, told: list[str]
) -> None:
    found, store = beaten(monkeypatch, beats, seconds, left=left)
    assert found == told
    assert store.values["fusion/0/beat/1"] == len(beats)


def test_a_store_that_is_gone_ends_the_run_unless_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Store):
        def add(self, key: str, count: int) -> int:
            raise RuntimeError("Connection reset")

    reason = "process 0 (a), or the launcher beside it, is gone"
    for stops, expected in (([False, False], [reason]), ([False, True], [])):
        told: list[str] = []
        heart = Heartbeat(Gone(), 1, ["a", "b"])  # type: ignore[arg-type]
        heart._stopped = SimpleNamespace(wait=lambda beat, stops=stops: stops.pop(0))  # type: ignore[assignment]
        heart.beat(told.append)
        assert told == expected
        assert heart.missing(0) == reason


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([1, 1], [2, 2], ""),
        ([1, 1], [2, 1], "process 2 (c) is gone"),
        ([1, 1], [1, 1], "process 0 (a), process 2 (c) are gone"),
    ],
)
def test_those_whose_counters_stand_are_missing(before: list[int], after: list[int], told: str) -> None:
    heart = Heartbeat(Store([*before, *after]), 1, ["a", "b", "c"])  # type: ignore[arg-type]
    assert heart.missing(0) == told


def test_the_first_reason_is_kept() -> None:
    store = Store()
    hearts = [Heartbeat(store, rank, ["a", "b"]) for rank in range(2)]  # type: ignore[arg-type]
    hearts[0].give_up("no room")
    hearts[1].give_up("nobody answers")
    assert store.values["fusion/0/gone"] == "process 0 (a) gave up: no room"
    assert all(heart._stopped.is_set() for heart in hearts)


def test_a_restart_begins_with_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert heartbeat._key("x") == "fusion/0/x"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert heartbeat._key("x") == "fusion/2/x"
    assert heartbeat._beat_key(3) == "fusion/2/beat/3"


def test_names_are_exchanged_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    store, threads = Store(), list[Any]()
    store.set("fusion/0/name/1", "there, pid 5")
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    monkeypatch.setattr(heartbeat, "open_store", lambda *, is_master, timeout: store if not is_master else None)
    monkeypatch.setattr(
        heartbeat.threading, "Thread", lambda **given: threads.append(given) or SimpleNamespace(start=lambda: None)
    )
    heart = heartbeat.start(0, 2, "here")
    assert heart.names == [f"here, pid {os.getpid()}", "there, pid 5"]
    assert (heart.rank, heart.silence) == (0, heartbeat.SILENCE)
    assert threads[0]["daemon"]


def test_a_store_is_opened_without_waiting_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "7")
    monkeypatch.setattr(heartbeat, "TCPStore", lambda *place, **options: given.append((place, options)))
    heartbeat.open_store(is_master=True, timeout=timedelta(seconds=3))
    assert given == [
        (("here", 7), {"is_master": True, "timeout": timedelta(seconds=3), "wait_for_workers": False})
    ]  # fmt: skip
