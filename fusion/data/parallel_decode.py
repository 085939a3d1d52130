"""Decoding what is kept in memory with all cores: child processes hasten it, and nothing else depends on them.

Small pictures are decoded in tens of microseconds, too short for threads of one interpreter to share them. Where the
rest would take seconds, each child (`python -m fusion.data.decode_worker`) opens the same source, decodes every Nth
chunk of records and writes them to a pipe as NumPy arrays. Records that are unfit are left out, and so is everything
from a child that fails, which is a warning with the reason: the store decodes what is missing, and finds the words for
what cannot be decoded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fusion.data.decoded_cache import SMALL, Progress

if TYPE_CHECKING:
    from fusion.data.source import PictureSource

CHUNK = 512  # records
_ENDING = 5.0  # seconds that a child gets to end after its pipe has
WORTH = 1.5  # seconds of decoding from which on children, which take half a second to start, pay


class SlowDecoding(UserWarning):
    """The processes that decode have failed, so that this one decodes the rest alone."""


def prefill_cache(source: PictureSource, progress: Progress | None = None) -> None:
    """Decode most of what the source's store will keep, where the store alone would take long; never raises.

    Warns: SlowDecoding.
    """
    store = source.store
    processes = min(8, os.cpu_count() or 1)
    missing = store.missing
    if processes < 2 or len(missing) <= 2 * CHUNK or store.first.nbytes >= SMALL:
        return
    started = time.perf_counter()
    store.accept(*store.fit(missing[:CHUNK]))
    rest = missing[CHUNK:]
    if (time.perf_counter() - started) * len(rest) / CHUNK < WORTH:
        return
    try:
        with tempfile.TemporaryFile() as said:
            _by_children(source, rest, min(processes, -(-len(rest) // CHUNK)), said, _beyond(progress, CHUNK))
    except (OSError, ValueError, EOFError) as error:
        text = f"the processes that decode have failed, and this one decodes the rest alone, which is slower: {error}"
        warnings.warn(text, SlowDecoding, stacklevel=2)


def _beyond(progress: Progress | None, done: int) -> Progress | None:
    """Progress of what is left, told as that of all."""
    return None if progress is None else lambda now, count: progress(now + done, count + done)


def _by_children(
    source: PictureSource, records: NDArray[np.int64], processes: int, said: IO[bytes], progress: Progress | None
) -> None:
    """Decode the records in several processes, whose messages go to the file `said`. Raises: OSError, EOFError."""
    chunks = [records[at : at + CHUNK] for at in range(0, len(records), CHUNK)]
    running: list[subprocess.Popen[bytes]] = []
    done = 0
    try:
        for _ in range(processes):
            running.append(_start(said))  # noqa: PERF401 - started ones must be known
        for number, child in enumerate(running):
            with suppress(BrokenPipeError), cast("IO[bytes]", child.stdin) as pipe:  # seen when its first chunk is due
                pipe.write(json.dumps(source.recipe.to_json()).encode() + b"\n")
                send(pipe, np.stack([(chunk[0], chunk[-1] + 1) for chunk in chunks[number::processes]]))
        for number, chunk in enumerate(chunks):
            pipe = cast("IO[bytes]", running[number % processes].stdout)
            try:
                source.store.accept(receive(pipe), receive(pipe))
            except (OSError, ValueError, EOFError) as error:
                raise EOFError(_reason(running[number % processes], said)) from error
            done += len(chunk)
            if progress is not None:
                progress(done, len(records))
    finally:
        for child in running:
            child.kill()
            with suppress(OSError), child:  # closes the pipes and waits
                pass


def _reason(child: subprocess.Popen[bytes], said: IO[bytes]) -> str:
    """How a child that sends nothing more has ended, and the last that it said."""
    try:
        code = child.wait(_ENDING)
    except subprocess.TimeoutExpired:
        return "one of them sent something else than pictures"
    if code < 0:
        return f"one of them was killed by signal {-code} (is there too little memory?)"
    said.seek(0)
    last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
    return f"one of them ended with code {code}{f': {last}' if last else ''}"


def _start(said: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-m", "fusion.data.decode_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env=environment,
    )


def send(pipe: IO[bytes], array: NDArray[Any]) -> None:
    """One array as a .npy file, behind its length: NumPy itself reads and writes only files that can be wound back."""
    packed = BytesIO()
    np.save(packed, array, allow_pickle=False)
    pipe.write(packed.tell().to_bytes(8, "little"))
    pipe.write(packed.getbuffer())


def receive(pipe: IO[bytes]) -> NDArray[Any]:
    """What `send` sent. Raises: ValueError, EOFError where the other side has ended."""
    packed = BytesIO(pipe.read(int.from_bytes(pipe.read(8), "little")))
    array: NDArray[Any] = np.load(packed, allow_pickle=False)
    return array
