"""Pictures read per second, beside PyTorch DataLoaders that do the same work, plain and batch-wise.

Random 28x28 gray pictures: an LMDB of pixels, and shuffled lists of JPEG and of PNG files; and a shuffled list of
256x256 colour JPEGs, where decoding takes nearly all the time. Each batch of 64 becomes float32 tensors times 1/256.
Nothing is kept in memory. The plain DataLoader's data set returns single records; the batch-wise one has
`__getitems__`, which decodes a whole batch into one tensor and scales it at once. The rivals take turns; medians. The
bare loop is the speed of Pillow or the database on one core without any use of the pixels. CPU time per picture is that
of our reading in this process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import interleaved, machine, table
from torch.utils.data import DataLoader, Dataset

from fusion.data import batches, open_source
from fusion.data.convert_imageset import write_images
from fusion.data.image_options import ImageOptions
from prototxt.schema.messages import Datum, LayerParameter

BATCH, SCALE = 64, 0.00390625
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Pictures:
    """A data set: "lmdb", or a list of "jpg", "png" or "colour" files."""

    source: str
    name: str
    records: int

    @property
    def gray(self) -> bool:
        """Return whether these are the small, gray pictures."""
        return self.source != "colour"

    @property
    def mode(self) -> str:
        """Return Pillow's name of the pixel format."""
        return "L" if self.gray else "RGB"


class ListedFiles(Dataset[Any]):
    """The data set for a list of files that one writes by hand."""

    def __init__(self, path: str, mode: str) -> None:
        self.mode = mode
        self.lines = [line.split() for line in Path(path).read_text().splitlines()]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        name, label = self.lines[index]
        pixels = np.asarray(Image.open(name).convert(self.mode), np.float32) * np.float32(SCALE)
        return torch.from_numpy(pixels[None] if self.mode == "L" else pixels.transpose(2, 0, 1)), int(label)


class ListedBatches(ListedFiles):
    """The same, a batch at a time; the DataLoader passes it on unchanged."""

    def __getitems__(self, indices: list[int]) -> Batch:
        chosen = [self.lines[index] for index in indices]
        pixels = np.stack([np.asarray(Image.open(name).convert(self.mode)) for name, _ in chosen])
        pixels = pixels[:, None] if self.mode == "L" else pixels.transpose(0, 3, 1, 2)
        labels = torch.tensor([int(label) for _, label in chosen])
        return torch.from_numpy(pixels).to(torch.float32, memory_format=torch.contiguous_format).mul_(SCALE), labels


class StoredRecords(Dataset[Any]):
    """The data set for an LMDB that one writes by hand."""

    def __init__(self, path: str, count: int) -> None:
        self.path, self.count, self.transaction = path, count, None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        datum = self.datum(index)
        pixels = np.frombuffer(datum.data, np.uint8).reshape(datum.channels, datum.height, datum.width)
        return torch.from_numpy(pixels.astype(np.float32) * np.float32(SCALE)), datum.label

    def datum(self, index: int) -> Datum:
        """Return a record; open the database in the process that reads it."""
        if self.transaction is None:
            import lmdb

            self.transaction = lmdb.open(self.path, readonly=True, lock=False).begin()
        return Datum.FromString(self.transaction.get(f"{index:08d}_{index}.jpg".encode()))


class StoredBatches(StoredRecords):
    """The same, a batch at a time."""

    def __getitems__(self, indices: list[int]) -> Batch:
        found = [self.datum(index) for index in indices]
        shape = len(found), found[0].channels, found[0].height, found[0].width
        pixels = torch.frombuffer(bytearray(b"".join(datum.data for datum in found)), dtype=torch.uint8).view(shape)
        return pixels.to(torch.float32).mul_(SCALE), torch.tensor([datum.label for datum in found])


def make(count: int, colour: int) -> None:
    """Write the pictures, their lists and their LMDB into the working directory."""
    rng = np.random.default_rng(0)
    for index in range(count):
        rough = rng.integers(0, 255, (7, 7)).astype(np.uint8)
        picture = Image.fromarray(np.repeat(np.repeat(rough, 4, 0), 4, 1))
        for kind in ("jpg", "png"):
            picture.save(f"{index}.{kind}")
    for index in range(colour):
        rough = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(rough).resize((256, 256), Image.Resampling.BICUBIC).save(f"{index}.colour", "JPEG")
    for kind, records in (("jpg", count), ("png", count), ("colour", colour)):
        Path(f"{kind}.txt").write_text("".join(f"{index}.{kind} {index % 10}\n" for index in range(records)))
    if find_spec("lmdb") is not None:
        write_images("jpg.txt", "", "lmdb", ImageOptions(gray=True))


def layer_of(pictures: Pictures) -> LayerParameter:
    """Return the data layer that reads them."""
    source = pictures.source
    layer = LayerParameter(name="data", type="Data" if source == "lmdb" else "ImageData", top=["data", "label"])
    layer.transform_param.scale = SCALE
    if source == "lmdb":
        layer.data_param.source, layer.data_param.batch_size = "lmdb", BATCH
        layer.data_param.backend = layer.data_param.LMDB
    else:
        layer.image_data_param.source, layer.image_data_param.batch_size = f"{source}.txt", BATCH
        layer.image_data_param.shuffle, layer.image_data_param.is_color = True, not pictures.gray
    return layer


def rate(batches_: Iterator[Any], count: int) -> float:
    """Return pictures per second without the first batches, and so without the start of processes."""
    for _ in islice(batches_, 4):
        pass
    start = time.perf_counter()
    for _ in islice(batches_, count):
        pass
    seconds = time.perf_counter() - start
    if hasattr(batches_, "close"):
        batches_.close()
    return count * BATCH / seconds


def ours(pictures: Pictures, workers: int, count: int) -> float:
    return rate(batches(open_source(layer_of(pictures), "TRAIN", budget=0), workers=workers), count)


def plain(pictures: Pictures, workers: int, count: int) -> float:
    stored = pictures.source == "lmdb"
    data = StoredRecords("lmdb", pictures.records) if stored else ListedFiles(f"{pictures.source}.txt", pictures.mode)
    loader: DataLoader[Any] = DataLoader(data, BATCH, shuffle=not stored, num_workers=workers)
    return rate(iter(loader), count)


def batchwise(pictures: Pictures, workers: int, count: int) -> float:
    stored = pictures.source == "lmdb"
    data = StoredBatches("lmdb", pictures.records) if stored else ListedBatches(f"{pictures.source}.txt", pictures.mode)
    loader: DataLoader[Any] = DataLoader(data, BATCH, shuffle=not stored, num_workers=workers, collate_fn=unchanged)
    return rate(iter(loader), count)


def unchanged(batch: Batch) -> Batch:
    return batch


def bare(source: str, count: int) -> float:
    """Return pictures per second of reading and decoding alone, in this process."""
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


def microseconds(pictures: Pictures, count: int) -> float:
    """Return the CPU time per picture of our reading in this process."""
    found = batches(open_source(layer_of(pictures), "TRAIN", budget=0))
    next(found)
    start = time.process_time()
    for _ in islice(found, count):
        pass
    return (time.process_time() - start) / (count * BATCH) * 1e6


def compare(pictures: Pictures, rounds: int) -> list[tuple[object, ...]]:
    """Return a row for reading in this process, and one for two workers."""
    count = max(2, pictures.records // BATCH - 8)
    rows = []
    for workers in (0, 2):
        rivals = {
            "ours": partial(ours, pictures, workers, count),
            "plain": partial(plain, pictures, workers, count),
            "batchwise": partial(batchwise, pictures, workers, count),
            "bare": partial(bare, pictures.source, pictures.records // 4),
            "cpu": partial(microseconds, pictures, max(1, count // 4)),
        }
        found = interleaved(rivals, rounds=rounds)
        speeds = [f"{found[key]:,.0f}" for key in ("ours", "plain", "batchwise", "bare")]
        ratios = [f"{found['ours'] / found[key]:.2f}" for key in ("plain", "batchwise")]
        rows.append((pictures.name, workers, *speeds, *ratios, f"{found['cpu']:.0f} us"))
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--records", type=int, default=30000, help="small gray pictures (1,024 or more)")
    options.add_argument("--colour", type=int, default=2560, help="large colour pictures (1,024 or more)")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", default="", help="lmdb, jpg, png or colour")
    chosen = options.parse_args()
    kinds = [
        Pictures("lmdb", "LMDB of 28x28 gray pixels", chosen.records),
        Pictures("jpg", "list of 28x28 gray JPEGs", chosen.records),
        Pictures("png", "list of 28x28 gray PNGs", chosen.records),
        Pictures("colour", "list of 256x256 colour JPEGs", chosen.colour),
    ]
    if find_spec("lmdb") is None:
        print("LMDB: not measured, for the package lmdb is not installed")
        kinds = kinds[1:]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make(chosen.records, chosen.colour)
        for pictures in kinds:
            if chosen.only in pictures.source:
                rows += compare(pictures, chosen.rounds)
        os.chdir("/")
    speeds = ("ours, pictures/s", "plain DataLoader", "batch-wise", "bare loop on one core")
    print(table(("from", "workers", *speeds, "ours/plain", "ours/batch-wise", "CPU per picture"), rows))
    load = f"load {os.getloadavg()[0]:.1f} at the end"
    print(f"\n{machine()}, torch {torch.__version__}, medians of {chosen.rounds}; {load}")


if __name__ == "__main__":
    main()
