"""LeNet pictures per second that two processes read, beside a plain PyTorch DataLoader that does the same work.

Random 28x28 gray pictures: an LMDB of pixels, and shuffled lists of JPEG and of PNG files; each batch of 64 becomes
float32 tensors times 1/256. Nothing is kept in memory. The rivals take turns; medians. The bare loop is what Pillow or
the database gives on one core when nothing is done with the pixels. CPU time per picture is that of our reading in this
process.
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
from fusion.data.convert_imageset import Images, write_images
from prototxt.schema.messages import Datum, LayerParameter

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
        picture = Image.fromarray(np.repeat(np.repeat(rough, 4, 0), 4, 1))
        for kind in ("jpg", "png"):
            picture.save(f"{index}.{kind}")
    for kind in ("jpg", "png"):
        Path(f"{kind}.txt").write_text("".join(f"{index}.{kind} {index % 10}\n" for index in range(count)))
    write_images("jpg.txt", "", "lmdb", Images(gray=True))


def layer_of(source: str) -> LayerParameter:
    """The data layer that reads "lmdb", or a list of "jpg" or "png" files."""
    layer = LayerParameter(name="data", type="Data" if source == "lmdb" else "ImageData", top=["data", "label"])
    layer.transform_param.scale = SCALE
    if source == "lmdb":
        layer.data_param.source, layer.data_param.batch_size = "lmdb", BATCH
        layer.data_param.backend = layer.data_param.LMDB
    else:
        layer.image_data_param.source, layer.image_data_param.batch_size = f"{source}.txt", BATCH
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


def ours(source: str, workers: int, count: int) -> float:
    return rate(batches(open_source(layer_of(source), "TRAIN", budget=0), workers=workers), count)


def plain(source: str, workers: int, count: int, records: int) -> float:
    data = StoredRecords("lmdb", records) if source == "lmdb" else ListedFiles(f"{source}.txt")
    loader: DataLoader[Any] = DataLoader(data, BATCH, shuffle=source != "lmdb", num_workers=workers)
    return rate(iter(loader), count)


def bare(source: str, count: int) -> float:
    """Pictures per second of nothing but getting at the bytes and decoding them, in this process."""
    if source == "lmdb":
        import lmdb

        with lmdb.open("lmdb", readonly=True, lock=False).begin() as transaction:
            start = time.perf_counter()
            for value in islice(transaction.cursor().iternext(keys=False), count):
                Datum.FromString(value)
            return count / (time.perf_counter() - start)
    order = np.random.default_rng(0).permutation(count).tolist()
    start = time.perf_counter()
    for index in order:
        np.asarray(Image.open(f"{index}.{source}"))
    return count / (time.perf_counter() - start)


def microseconds(source: str, count: int) -> float:
    """CPU time per picture of our reading in this process."""
    found = batches(open_source(layer_of(source), "TRAIN", budget=0))
    next(found)
    start = time.process_time()
    for _ in islice(found, count):
        pass
    return (time.process_time() - start) / (count * BATCH) * 1e6


def compare(source: str, name: str, records: int, rounds: int) -> list[tuple[object, ...]]:
    """A row for reading in this process, and one for two workers."""
    count = records // BATCH - 8
    rows = []
    for workers in (0, 2):
        rivals = {
            "ours": partial(ours, source, workers, count),
            "plain": partial(plain, source, workers, count, records),
            "bare": partial(bare, source, records // 4),
            "cpu": partial(microseconds, source, count // 4),
        }
        found = interleaved(rivals, rounds=rounds)
        speeds = [f"{found[key]:,.0f}" for key in ("ours", "plain", "bare")]
        rows.append((name, workers, *speeds, f"{found['ours'] / found['plain']:.1f}x", f"{found['cpu']:.0f} us"))
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--records", type=int, default=30000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", default="", help="lmdb, jpg or png")
    chosen = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make(chosen.records)
        for source, name in (("lmdb", "LMDB"), ("jpg", "list of JPEGs"), ("png", "list of PNGs")):
            if chosen.only in source:
                rows += compare(source, name, chosen.records, chosen.rounds)
        os.chdir("/")
    speeds = ("ours, pictures/s", "DataLoader, pictures/s", "bare loop on one core")
    print(table(("from", "workers", *speeds, "ours/DataLoader", "CPU per picture"), rows))
    print(f"\n{machine()}, torch {torch.__version__}, medians of {chosen.rounds}")


if __name__ == "__main__":
    main()
