"""Child processes that read data, and the messages on their pipes.

A worker (`python -m fusion.data.worker`) gets its job as JSON on stdin and answers on stdout. A message is the length
of a JSON object, the object, and the bytes of the arrays that its key "arrays" describes. Nothing is forked and the
caller's script does not run again; a full pipe holds the worker back, and one that ends early shows that it has died.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from fusion.errors import DataError, raise_all

Message = tuple[dict[str, Any], Sequence[NDArray[Any]]]

PATIENCE = 600.0  # seconds without a byte after which a worker is given up
_ENDING = 5.0  # seconds that a worker gets to end after its pipe has ended
_LONGEST = 1 << 28  # bytes of a JSON object; more is no message
_PIPE = 1 << 20


class WorkerError(EOFError):
    """A worker sends nothing more; the text completes a sentence: "was killed by signal 9"."""


class Worker:
    """One running child process.

    job     see `fusion.data.worker`
    stderr  the file that gets its error messages; None: those of this process
    """

    def __init__(self, job: dict[str, Any], stderr: IO[bytes] | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fusion.data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
        )
        self._pipe = cast("IO[bytes]", self._process.stdout)
        with suppress(ImportError, AttributeError, OSError):  # Linux only: a larger pipe wakes the two less often
            import fcntl

            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        # A worker that has died already shows when its first message is due.
        with suppress(BrokenPipeError), cast("IO[bytes]", self._process.stdin) as pipe:
            pipe.write(json.dumps(job).encode())

    def receive(self, patience: float = PATIENCE) -> Message:
        """Return the next message.

        Raises: DataError that the worker met, or when it sends nothing for `patience` seconds; WorkerError
        """
        size = int.from_bytes(self._fill(bytearray(8), patience), "little")
        if size > _LONGEST:
            raise WorkerError("sent something other than data")
        head: dict[str, Any] = json.loads(self._fill(bytearray(size), patience))
        raise_all([DataError(text, place=place, hint=hint) for text, place, hint in head.get("errors", ())])
        arrays = [np.empty(shape, kind) for kind, shape in head["arrays"]]
        for array in arrays:
            self._fill(array.reshape(-1).view(np.uint8), patience)
        return head, arrays

    def kill(self) -> None:
        """End the process, close its pipes and wait for it."""
        self._process.kill()
        with suppress(OSError), self._process:
            pass

    def _fill(self, target: Any, patience: float) -> Any:
        view, done = memoryview(target), 0
        while done < len(view):
            count = self._read_some(view[done:], patience)
            if not count:
                raise WorkerError(self._ending())
            done += count
        return target

    def _read_some(self, view: memoryview, patience: float) -> int:
        """Fill the start of a buffer; return the number of bytes, 0 when the pipe has ended."""
        if os.name != "posix":
            return cast("int", self._pipe.readinto(view))  # type: ignore[attr-defined]
        ready = select.poll()
        ready.register(self._pipe, select.POLLIN | select.POLLHUP)
        if not ready.poll(patience * 1000):
            hint = "do the disk or the network folder with the data still answer?"
            raise DataError(f"a reading process has sent nothing for {patience:g} seconds", hint=hint)
        return os.readv(self._pipe.fileno(), [view])

    def _ending(self) -> str:
        try:
            code = self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            return "has closed its pipe"
        return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


@contextmanager
def running(jobs: Iterable[dict[str, Any]], stderr: IO[bytes] | None = None) -> Iterator[list[Worker]]:
    """Start a worker for each job and kill them all at the end. Raises: OSError when one cannot be started."""
    workers: list[Worker] = []
    try:
        for job in jobs:
            workers.append(Worker(job, stderr))  # noqa: PERF401 - those started before a failure must be killed
        yield workers
    finally:
        for worker in workers:
            worker.kill()


def write_message(pipe: IO[bytes], message: Message) -> None:
    """Write a message as `Worker.receive` reads it."""
    head, arrays = message
    text = json.dumps({**head, "arrays": [(array.dtype.str, array.shape) for array in arrays]}).encode()
    pipe.write(len(text).to_bytes(8, "little") + text)
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).data)
    pipe.flush()
