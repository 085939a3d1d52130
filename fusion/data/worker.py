"""The child process that reads for another one: `python -m fusion.data.worker`; see `fusion.data.worker_pipe`."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from fusion.data.decoded_cache import Stores
from fusion.data.in_step_sources import read_values
from fusion.data.layer_sources import open_config
from fusion.data.sharding import ShardSpec
from fusion.data.source import ImageSource
from fusion.data.source_config import SourceConfig
from fusion.data.worker_pipe import Message, write_message
from fusion.errors import FusionError

_AHEAD = 2  # messages that are ready while another is written


def serve() -> None:
    """Take a job from stdin and write its messages to stdout until they are all written or nobody reads them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads from this one
    job = json.loads(sys.stdin.buffer.read())
    waiting: queue.Queue[Message] = queue.Queue(_AHEAD)
    threading.Thread(target=_write, args=(waiting,), daemon=True).start()
    try:
        for message in (_pixels if "chunks" in job else _batches)(job):
            waiting.put(message)
    except FusionError as error:
        parts = [(part.message, part.place and str(part.place), part.hint) for part in error.errors or (error,)]
        waiting.put(({"errors": parts}, ()))
    waiting.join()


def _batches(job: dict[str, Any]) -> Iterator[Message]:
    """Yield the batches first, first + step, ... without end, each with the records newly found to be bad."""
    stores: Stores = {}
    sources = [open_config(SourceConfig.from_json(config), budget=0, stores=stores) for config in job["configs"]]
    images = [source for source in sources if isinstance(source, ImageSource)]
    for source in images:
        source.store.threads = 1
    reported = [set[int]() for _ in images]
    part, number = ShardSpec(**job["part"]), job["first"]
    order = part.of(images[0].order(part.first(number)))
    while True:
        values, indices = read_values(images, next(order), draw=part.draw(number))
        bad = []
        for source, known in zip(images, reported, strict=True):
            bad.append({index: error.message for index, error in source.bad.items() if index not in known})
            known.update(source.bad)
        yield {"bad": bad}, (indices, *values)
        for _ in range(job["step"] - 1):
            next(order)
        number += job["step"]


def _pixels(job: dict[str, Any]) -> Iterator[Message]:
    """Yield the numbers and pixels of the sound records of each chunk (start, stop)."""
    store = cast("ImageSource", open_config(SourceConfig.from_json(job["config"]), budget=0)).store
    for start, stop in job["chunks"]:
        yield {}, store.fit(np.arange(start, stop))


def _write(waiting: queue.Queue[Message]) -> None:
    """Write the queued messages; end the process when its reader has gone."""
    try:
        while True:
            write_message(sys.stdout.buffer, waiting.get())
            waiting.task_done()
    except BaseException:
        os._exit(1)  # sys.exit would end this thread alone


if __name__ == "__main__":
    serve()
