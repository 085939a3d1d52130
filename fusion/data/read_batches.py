"""Batches one after the other, read by this process or by several of its own; the batches are the same.

Which records a batch holds, and what is drawn in it, follow from the source's seed and the batch's number alone. So
each of N workers makes every Nth batch, and nothing need be agreed upon between them. A worker is a plain child
process (`python -m fusion.data.batch_worker`) that writes to a pipe: nothing is forked, the caller's script does not
run again, a pipe that is full holds the worker back, and one that ends early tells that the worker has died.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fusion.data.in_step import InStep, members_of
from fusion.data.sharding import Shard, ShardSpec
from fusion.data.source import PictureSource, Source
from fusion.errors import DataError, raise_all

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 600.0  # seconds without a byte after which a worker is given up
_SHOWN = 5
_PIPE = 1 << 20


def batches(
    source: Source, start: int = 0, *, workers: int = 0, patience: float = PATIENCE
) -> Iterator[dict[str, Tensor]]:
    """The source's batches from number `start` on, without end.

    workers   processes that read; 0: this one. Arrays and fillers, and what is kept in memory, need none
    patience  seconds without a sign of life after which a worker is given up
    Raises    DataError for records that cannot be read, and when a worker dies
    """
    whole, part = (source.source, source.part) if isinstance(source, Shard) else (source, ShardSpec())
    read = whole.members if isinstance(whole, InStep) else (whole,)
    pictures = [member for member in read if isinstance(member, PictureSource)]
    if workers > 0 and len(pictures) == len(read) and not all(member.store.keeps for member in pictures):
        yield from _by_workers(pictures, part, start, workers, patience)
    for number, indices in enumerate(source.order(start), start):
        yield source.batch(indices, draw=number)


def bad_records(sources: Sequence[Source]) -> dict[str, DataError]:
    """The records that were skipped so far, by where they stand (`list.txt:7`), and what is wrong with each."""
    found: dict[str, DataError] = {}
    for source in sources:
        for member in members_of(source):
            found.update((member.place(index), error) for index, error in sorted(member.bad.items()))
    return found


def skipped_lines(sources: Sequence[Source]) -> list[str]:
    """What to tell about skipped records at the end of a run; nothing where all were good."""
    found = bad_records(sources)
    if not found:
        return []
    lines = [f"warning: {len(found)} bad records were skipped, and the next good ones taken instead:"]
    lines += [f"  {place}: {error.message}" for place, error in list(found.items())[:_SHOWN]]
    return lines + ([f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])


def _by_workers(
    sources: Sequence[PictureSource], part: ShardSpec, start: int, workers: int, patience: float
) -> Iterator[dict[str, Tensor]]:
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(workers):
            running.append(_start(sources, part, start + number, workers))  # noqa: PERF401 - started ones must be known
        while True:
            for worker in running:
                values, indices = _receive(worker, sources, patience)
                blobs: dict[str, Tensor] = {}
                for source, found in zip(sources, values, strict=True):
                    blobs.update(source.finish(found, indices))
                yield blobs
    finally:
        for worker in running:
            worker.kill()
            with worker:  # closes the pipes and waits
                pass


def _start(sources: Sequence[PictureSource], part: ShardSpec, first: int, step: int) -> subprocess.Popen[bytes]:
    """A worker that makes the batches first, first + step, ..."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    worker = subprocess.Popen(
        [sys.executable, "-m", "fusion.data.batch_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    _widen(worker.stdout)
    job = {"recipes": [source.recipe.to_json() for source in sources], "part": vars(part), "first": first, "step": step}
    with suppress(BrokenPipeError), cast("IO[bytes]", worker.stdin) as pipe:
        pipe.write(json.dumps(job).encode())
    return worker


def _widen(pipe: IO[bytes] | None) -> None:
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(cast("IO[bytes]", pipe), fcntl.F_SETPIPE_SZ, _PIPE)


def _receive(
    worker: subprocess.Popen[bytes], sources: Sequence[PictureSource], patience: float
) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """The next batch of a worker: each source's pictures, and record numbers. Raises: DataError."""
    size = int.from_bytes(_read(worker, bytearray(8), patience), "little")
    head: dict[str, Any] = json.loads(_read(worker, bytearray(size), patience))
    for source, bad in zip(sources, head["bad"], strict=False):
        source.bad.update({int(i): DataError(text, place=source.place(int(i))) for i, text in bad.items()})
    raise_all([DataError(text, place=place, hint=hint) for text, place, hint in head["errors"]])
    indices = np.empty(head["shapes"][0][0], np.int64)
    values = [np.empty(shape, np.float32) for shape in head["shapes"]]
    for array in (indices, *values):
        _read(worker, array.reshape(-1).view(np.uint8), patience)
    return values, indices


def _read(worker: subprocess.Popen[bytes], target: Any, patience: float) -> Any:
    """Fill a buffer from the worker's pipe."""
    pipe = cast("IO[bytes]", worker.stdout)
    view, got = memoryview(target), 0
    while got < len(view):
        count = _read_some(pipe, view[got:], patience)
        if not count:
            code = worker.wait()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            hint = "is there too little memory? Take fewer workers, or 0 to read in this process"
            raise DataError(f"a reading process {how}", hint=hint)
        got += count
    return target


def _read_some(pipe: IO[bytes], view: memoryview, patience: float) -> int:
    """Fill the start of a buffer; returns how many bytes there were, 0 when the pipe has ended."""
    if os.name != "posix":
        return cast("int", pipe.readinto(view))  # type: ignore[attr-defined]
    ready = select.poll()
    ready.register(pipe, select.POLLIN | select.POLLHUP)
    if not ready.poll(patience * 1000):
        hint = "do the disk or the network folder with the data still answer?"
        raise DataError(f"a reading process has said nothing for {patience:g} seconds", hint=hint)
    return os.readv(pipe.fileno(), [view])
