"""A reading process: `python -m fusion.data.batch_worker` takes a job from stdin and writes batches to stdout."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.data.decoded_cache import Stores
from fusion.data.in_step import read_values
from fusion.data.layer_sources import open_config
from fusion.data.sharding import ShardSpec
from fusion.data.source import PictureSource
from fusion.data.source_config import SourceConfig
from fusion.errors import DataError, FusionError

_AHEAD = 2  # batches that are ready while another is written
Message = tuple[dict[str, Any], Sequence[NDArray[Any]]]


def main() -> None:
    """Make the batches first, first + step, ... until nobody reads them any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads from here
    job = json.loads(sys.stdin.buffer.read())
    waiting: queue.Queue[Message] = queue.Queue(_AHEAD)
    threading.Thread(target=_write, args=(waiting,), daemon=True).start()
    stores: Stores = {}
    try:
        sources = [open_config(SourceConfig.from_json(recipe), budget=0, stores=stores) for recipe in job["recipes"]]
        pictures = [source for source in sources if isinstance(source, PictureSource)]
        told = [set[int]() for _ in pictures]
        for source in pictures:
            source.store.threads = 1
        part, step, number = ShardSpec(**job["part"]), job["step"], job["first"]
        order = part.of(pictures[0].order(part.first(number)))
        while True:
            values, indices = read_values(pictures, next(order), draw=part.draw(number))
            bad = [_news(source.bad, known) for source, known in zip(pictures, told, strict=True)]
            waiting.put(({"bad": bad, "shapes": [found.shape for found in values], "errors": []}, (indices, *values)))
            for _ in range(step - 1):
                next(order)
            number += step
    except FusionError as error:
        errors = [(part.message, _text(part.place), part.hint) for part in error.errors or (error,)]
        waiting.put(({"bad": [], "shapes": [[0]], "errors": errors}, ()))
        waiting.join()


def _news(bad: dict[int, DataError], told: set[int]) -> dict[int, str]:
    """What is wrong with records that were not told of before."""
    fresh = {index: error.message for index, error in bad.items() if index not in told}
    told.update(fresh)
    return fresh


def _write(waiting: queue.Queue[Message]) -> None:
    """Write what waits; when the reader has gone, so does this process."""
    pipe = sys.stdout.buffer
    try:
        while True:
            head, arrays = waiting.get()
            text = json.dumps(head).encode()
            pipe.write(len(text).to_bytes(8, "little") + text)
            for array in arrays:
                pipe.write(np.ascontiguousarray(array).data)
            pipe.flush()
            waiting.task_done()
    except BaseException:
        os._exit(1)


def _text(place: object) -> str | None:
    return None if place is None else str(place)


if __name__ == "__main__":
    main()
