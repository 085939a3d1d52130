"""Decoding the records that are kept in memory on all cores.

Small images are decoded in tens of microseconds, too short for threads of one interpreter to share them. Where the
rest would take seconds, each of several workers opens the same source and decodes every Nth chunk of records. Unfit
records are left out, and so is everything from a worker that fails, which is a warning with the reason: the store
decodes the missing records, and raises the errors for those that cannot be decoded.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion.data.decoded_cache import SMALL, Progress
from fusion.data.worker_pipe import WorkerError, running
from fusion.errors import DataError

if TYPE_CHECKING:
    from fusion.data.decoded_cache import Store
    from fusion.data.source_config import SourceConfig

CHUNK = 512  # records
WORTH = 1.5  # seconds of decoding from which on workers, which take half a second to start, pay


class SlowDecoding(UserWarning):
    """The processes that decode have failed, so that this one decodes the rest alone."""


def prefill_cache(store: Store, config: SourceConfig, progress: Progress | None = None) -> None:
    """Decode most of the records that the store of a source keeps, where the store alone would take long; never raises.

    Warns: SlowDecoding.
    """
    processes = min(8, os.cpu_count() or 1)
    missing = store.missing
    if processes < 2 or len(missing) <= 2 * CHUNK or store.first.nbytes >= SMALL:
        return
    started = time.perf_counter()
    store.accept(*store.fit(missing[:CHUNK]))
    chunks = [missing[at : at + CHUNK] for at in range(CHUNK, len(missing), CHUNK)]
    # The first chunk is a measurement: the others take as long each.
    if (time.perf_counter() - started) * (len(missing) / CHUNK - 1) < WORTH:
        return
    try:
        with tempfile.TemporaryFile() as stderr:
            _decode_by_workers(store, config, chunks, min(processes, len(chunks)), stderr, progress)
    except (OSError, ValueError, EOFError, DataError) as error:
        text = f"the processes that decode have failed, and this one decodes the rest alone, which is slower: {error}"
        warnings.warn(text, SlowDecoding, stacklevel=2)


def _decode_by_workers(
    store: Store,
    config: SourceConfig,
    chunks: list[NDArray[np.int64]],
    processes: int,
    stderr: IO[bytes],
    progress: Progress | None,
) -> None:
    bounds = [(int(chunk[0]), int(chunk[-1]) + 1) for chunk in chunks]
    jobs = [{"config": config.to_json(), "chunks": bounds[number::processes]} for number in range(processes)]
    done, total = CHUNK, CHUNK + sum(map(len, chunks))
    with running(jobs, stderr) as workers:
        for number, chunk in enumerate(chunks):
            try:
                store.accept(*workers[number % processes].receive()[1])
            except WorkerError as error:
                raise EOFError(_reason(error, stderr)) from error
            done += len(chunk)
            if progress is not None:
                progress(done, total)


def _reason(error: WorkerError, stderr: IO[bytes]) -> str:
    if "killed" in str(error):
        return f"one of them {error} (is there too little memory?)"
    stderr.seek(0)
    last = stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
    return f"one of them {error}{f': {last}' if last else ''}"
