"""Unpack MNIST into JPEG images and lists for Caffe, split as in the tutorial.

    python -m caffe_fusion_tools.mnist_odd_even.prepare [DIRECTORY] [--limit N]

Of the 60,000 training images the first 50,000 are for training (mnist/train/000000_5.jpg and so on), the other 10,000
for validation; the 10,000 test images are for the final result. The lists have paths and labels: `*_all.txt` all
digits, `*_odd.txt` and `*_even.txt` half of them with label // 2 as the class. The example's nets and solvers are
copied beside the lists, so that all commands run there.
"""

from __future__ import annotations

import argparse
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from fusion.data.array_images import read_idx

HERE = Path(__file__).resolve().parent
SPLITS = {
    "train": ("train", slice(0, 50_000)),
    "val": ("train", slice(50_000, 60_000)),
    "test": ("t10k", slice(10_000)),
}
CHUNK = 2_500


def main(argv: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("directory", type=Path, nargs="?", default=Path(), help="output directory (default: here)")
    options.add_argument("--limit", type=int, help="take only the first N images of each split")
    arguments = options.parse_args(argv)
    prepare(arguments.directory, arguments.limit)
    return 0


def prepare(directory: Path, limit: int | None = None) -> None:
    """Write images, lists, nets and solvers; existing images are kept."""
    for split, (file, part) in SPLITS.items():
        chosen = read_idx(HERE / "data" / f"{file}-labels-idx1-ubyte.gz")[part][:limit]
        names = [f"mnist/{split}/{number:06d}_{label}.jpg" for number, label in enumerate(chosen)]
        write_images(directory, split, names)
        for kind, lines in lists(names, chosen.tolist()).items():
            (directory / f"{split}_{kind}.txt").write_text("".join(lines), encoding="utf-8")
            print(f"{split}_{kind}.txt: {len(lines):,} images")
    for path in sorted(HERE.glob("lenet_*.prototxt")):
        shutil.copyfile(path, directory / path.name)
        print(path.name)


def lists(names: list[str], labels: list[int]) -> dict[str, list[str]]:
    """Return the lines of the three lists of a split."""
    pairs = list(zip(names, labels, strict=True))
    return {
        "all": [f"{name} {label}\n" for name, label in pairs],
        "odd": [f"{name} {label // 2}\n" for name, label in pairs if label % 2 == 1],
        "even": [f"{name} {label // 2}\n" for name, label in pairs if label % 2 == 0],
    }


def write_images(directory: Path, split: str, names: list[str]) -> None:
    """Write a split's images as JPEG of quality 75, in two processes, unless they exist."""
    done = directory / f"mnist/.{split}_{len(names)}"
    if done.exists():
        return
    (directory / "mnist" / split).mkdir(parents=True, exist_ok=True)
    file, part = SPLITS[split]
    pixels = read_idx(HERE / "data" / f"{file}-images-idx3-ubyte.gz")[part]
    jobs = [(directory, names[at : at + CHUNK], pixels[at : at + CHUNK]) for at in range(0, len(names), CHUNK)]
    if len(jobs) == 1:
        write_chunk(jobs[0])
    else:
        with ProcessPoolExecutor(2) as pool:
            for _ in pool.map(write_chunk, jobs):
                pass
    done.touch()


def write_chunk(job: tuple[Path, list[str], np.ndarray]) -> None:
    directory, names, pixels = job
    for name, image in zip(names, pixels, strict=False):
        Image.fromarray(image).save(directory / name, quality=75)


if __name__ == "__main__":
    raise SystemExit(main())
