"""Commands on a disk that is full: the whole file or none, and an error that says so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools import convert, merge, rename

from prototxt.formats.solverstate import SolverState, write_solverstate
from prototxt.formats.weights import write_weights

_SIZE = 1 << 20
_FREE = (0, 4096, 8192, 98304, 102400, 131072, 200704, 208896, 229376)  # bytes; the weights take 200,000


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    try:
        subprocess.run(mounted, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def only(disk: Path, free: int) -> Iterator[None]:
    """Fill the disk up to so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _SIZE - free)
    yield
    ballast.unlink()


@pytest.fixture
def sources(fused: Path) -> Path:
    """The fused net's folder, with weights and a solver state of 200,000 bytes."""
    weights = np.arange(50_000, dtype=np.float32).reshape(2, -1)
    write_weights("big.caffemodel", {"ip": [weights + 1]})
    write_solverstate("big.solverstate", SolverState(3, "big.caffemodel", [weights + 1]))
    (fused / "long.prototxt").write_text((fused / "odd.prototxt").read_text() + "#" * 200_000)
    return fused


@pytest.mark.parametrize("free", _FREE)
@pytest.mark.parametrize(
    ("command", "given", "name"),
    [
        (convert.main, ["big.caffemodel", "OUT"], "w.h5"),
        (convert.main, ["big.caffemodel", "OUT"], "w.safetensors"),
        (convert.main, ["big.solverstate", "OUT"], "s.solverstate.h5"),
        (rename.main, ["long.prototxt", "OUT", "p"], "n.prototxt"),
        (merge.main, ["fused.prototxt", "odd=odd.caffemodel", "-o", "OUT"], "i.safetensors"),
        (merge.main, ["fused.prototxt", "odd=odd.caffemodel", "-o", "OUT"], "i.caffemodel"),
    ],
)
def test_the_file_is_whole_or_absent(
    sources: Path, disk: Path, command, given: list[str], name: str, free: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([arg.replace("OUT", name) for arg in given]) == 0
    whole = (sources / name).read_bytes()
    capsys.readouterr()
    with only(disk, free):
        code = command([arg.replace("OUT", str(disk / name)) for arg in given])
        err = capsys.readouterr().err
        left = {path.name: path.read_bytes() for path in disk.iterdir() if path.name != "ballast"}
    for path in disk.iterdir():
        path.unlink()
    assert code == (1 if free < len(whole) else 0) or (code == 1 and free < len(whole) + 8192)
    assert left == ({} if code else {name: whole})
    assert not code or ("No space left on device" in err and name in err)
