"""Opening a 600 MB caffemodel and listing its layers: time without start-up, and peak memory.

The file has the layers of a ResNet-152, widened; it is written here. Start-up is the same program with a tiny file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from timing import interleaved, machine, table

from prototxt.formats.caffemodel import CaffemodelWriter

# In a program of its own, so that the memory of this one does not count.
PROGRAM = """
import resource, sys, time
from prototxt.formats.scan import scan_weights
start = time.perf_counter()
layers = scan_weights(sys.argv[1]).entries
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(layers))
"""


def write_model(path: Path, megabytes: int, layers: int) -> None:
    """Write a caffemodel with `layers` convolutions, each with BatchNorm and Scale."""
    values = np.zeros((max(1, megabytes * 250_000 // layers // 2304), 256, 3, 3), np.float32)
    with CaffemodelWriter(path, "big") as writer:
        for index in range(layers):
            name = f"res{index}"
            writer.add_layer(name, "Convolution", ("data",), (name,), [values])
            writer.add_layer(
                f"{name}_bn", "BatchNorm", (name,), (name,), [values[:, 0, 0, 0]] * 2 + [values[0, 0, 0, :1]]
            )
            writer.add_layer(f"{name}_scale", "Scale", (name,), (name,), [values[:, 0, 0, 0]] * 2)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        big = Path(folder, "big.caffemodel")
        # In another process: a child's peak memory includes that of its parent when it was forked.
        subprocess.run([sys.executable, __file__, str(big)], check=True)
        seen: list[tuple[float, float, int]] = []

        def listed() -> float:
            command = [sys.executable, "-c", PROGRAM, str(big)]
            words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            seen.append((float(words[0]), float(words[1]), int(words[2])))
            return seen[-1][0]

        seconds = interleaved({"list": listed})["list"]
        size = big.stat().st_size / 1e6
    rows = [[f"{size:.0f} MB, {seen[-1][2]} layers", f"{1000 * seconds:.0f} ms", f"{max(s[1] for s in seen):.0f} MiB"]]
    print(table(["file", "list layers", "peak memory"], rows))
    print(f"\n{machine()}")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        write_model(Path(sys.argv[1]), 600, 155)
    else:
        main()
