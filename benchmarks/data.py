"""LeNet pictures per second that two processes read, beside a plain PyTorch DataLoader that does the same work.

Random 28x28 gray pictures: an LMDB of pixels and a shuffled list of JPEG files; each batch of 64 becomes float32
tensors times 1/256. Nothing is kept in memory. The rivals take turns; medians.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import interleaved, machine, table
from torch.utils.data import DataLoader, Dataset

from fusion.data import batches, open_source
from fusion.data.writing import Images, write_images
from prototxt.messages import Datum, LayerParameter

BATCH, SCALE = 64, 0.00390625


class ListedFiles(Dataset[Any]):
    """What one writes by hand for a list of files."""

    def __init__(self, path: str) -> None:
        self.lines = [line.split() for line in Path(path).read_text().splitlines()]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        name, label = self.lines[index]
        pixels = np.asarray(Image.open(name).convert("L"), np.float32)
        return torch.from_numpy(pixels * np.float32(SCALE))[None], int(label)


class StoredRecords(Dataset[Any]):
    """What one writes by hand for an LMDB."""

    def __init__(self, path: str, count: int) -> None:
        self.path, self.count, self.transaction = path, count, None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.transaction is None:
            import lmdb

            self.transaction = lmdb.open(self.path, readonly=True, lock=False).begin()
        datum = Datum.FromString(self.transaction.get(f"{index:08d}_{index}.jpg".encode()))
        pixels = np.frombuffer(datum.data, np.uint8).reshape(datum.channels, datum.height, datum.width)
        return torch.from_numpy(pixels.astype(np.float32) * np.float32(SCALE)), datum.label


def make(count: int) -> None:
    """Write the pictures, their list and their LMDB into the working directory."""
    rng = np.random.default_rng(0)
    for index in range(count):
        rough = rng.integers(0, 255, (7, 7)).astype(np.uint8)
        Image.fromarray(np.repeat(np.repeat(rough, 4, 0), 4, 1)).save(f"{index}.jpg")
    Path("list.txt").write_text("".join(f"{index}.jpg {index % 10}\n" for index in range(count)))
    write_images("list.txt", "", "lmdb", Images(gray=True))


def layer_of(kind: str) -> LayerParameter:
    """The data layer."""
    layer = LayerParameter(name="data", type=kind, top=["data", "label"])
    layer.transform_param.scale = SCALE
    if kind == "Data":
        layer.data_param.source, layer.data_param.batch_size = "lmdb", BATCH
        layer.data_param.backend = layer.data_param.LMDB
    else:
        layer.image_data_param.source, layer.image_data_param.batch_size = "list.txt", BATCH
        layer.image_data_param.shuffle, layer.image_data_param.is_color = True, False
    return layer


def rate(batches_: Iterator[Any], count: int) -> float:
    """Pictures per second once reading runs: the first batches, and so the start of processes, are not counted."""
    for _ in islice(batches_, 4):
        pass
    start = time.perf_counter()
    for _ in islice(batches_, count):
        pass
    seconds = time.perf_counter() - start
    if hasattr(batches_, "close"):
        batches_.close()
    return count * BATCH / seconds


def ours(kind: str, workers: int, count: int) -> float:
    return rate(batches(open_source(layer_of(kind), "TRAIN", budget=0), workers=workers), count)


def plain(kind: str, workers: int, count: int, records: int) -> float:
    data = StoredRecords("lmdb", records) if kind == "Data" else ListedFiles("list.txt")
    loader: DataLoader[Any] = DataLoader(data, BATCH, shuffle=kind != "Data", num_workers=workers)
    return rate(iter(loader), count)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--records", type=int, default=30000)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    count = chosen.records // BATCH - 8
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make(chosen.records)
        for kind, name in (("Data", "LMDB"), ("ImageData", "shuffled list of JPEGs")):
            for workers in (0, 2):
                rivals = {
                    "ours": partial(ours, kind, workers, count),
                    "plain": partial(plain, kind, workers, count, chosen.records),
                }
                found = interleaved(rivals, rounds=chosen.rounds)
                ratio = found["ours"] / found["plain"]
                rows.append((name, workers, f"{found['ours']:,.0f}", f"{found['plain']:,.0f}", f"{ratio:.1f}x"))
        os.chdir("/")
    print(table(("from", "workers", "ours, pictures/s", "DataLoader, pictures/s", "ratio"), rows))
    print(f"\n{machine()}, torch {torch.__version__}, medians of {chosen.rounds}")


if __name__ == "__main__":
    main()
