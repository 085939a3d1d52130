"""A decoding process: `python -m fusion.data.decode_worker` takes record numbers from stdin and writes their pixels."""

from __future__ import annotations

import json
import signal
import sys
from typing import cast

import numpy as np

from fusion.data.layer_sources import open_config
from fusion.data.parallel_decode import receive, send
from fusion.data.source import PictureSource
from fusion.data.source_config import SourceConfig


def main() -> None:
    """Decode the chunks of records that stdin names; what cannot be decoded is left out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads from here
    recipe = SourceConfig.from_json(json.loads(sys.stdin.buffer.readline()))
    store = cast("PictureSource", open_config(recipe, budget=0)).store
    for start, stop in receive(sys.stdin.buffer).tolist():
        for array in store.fit(np.arange(start, stop)):
            send(sys.stdout.buffer, array)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
