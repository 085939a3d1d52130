"""The files of a snapshot: Caffe's weights and solver state, and the state that Caffe lacks, for an exact resume.

    PREFIX_iter_N.caffemodel    weights, as Caffe reads them
    PREFIX_iter_N.solverstate   iteration, history, step of the learning rate, as Caffe reads them
    PREFIX_iter_N.fusionstate   position in the data, random generators, recent losses (a NumPy archive, no pickle)

The solverstate appears last, and is removed first where a snapshot is replaced: where it exists, the others belong to
it, no matter when the process was killed.
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from torch import Tensor

from fusion.errors import TrainingError

_STATE = r"_iter_(\d+)\.solverstate(\.h5)?"
_UNFINISHED = ".snapshot-"  # the name of a folder of files that are being written begins so


def names(prefix: str, iteration: int, *, hdf5: bool = False) -> tuple[str, str, str]:
    """Return the paths of the caffemodel, the solverstate and the fusionstate."""
    stem, end = f"{prefix}_iter_{iteration}", ".h5" if hdf5 else ""
    return f"{stem}.caffemodel{end}", f"{stem}.solverstate{end}", f"{stem}.fusionstate"


def check_writable(prefix: str) -> None:
    """Check before training that snapshots can be written. Raises: TrainingError."""
    folder = os.path.dirname(prefix) or "."
    if not os.path.isdir(folder):
        hint = "create it, or change snapshot_prefix (relative to the working directory)"
        raise TrainingError(f"the folder for snapshots does not exist: {folder}", place=prefix, hint=hint)
    if not os.access(folder, os.W_OK):
        raise TrainingError(f"snapshots cannot be written to {folder}", place=prefix, hint="change snapshot_prefix")


def write_all(writers: Sequence[tuple[str, Callable[[str], None]]], *, last_good: str | None) -> None:
    """Write the files of one snapshot, all or none: the last one appears last, and an older one of its name is removed.

    Raises: TrainingError naming the last complete snapshot.
    """
    last = writers[-1][0]
    try:
        with _unfinished(last) as folder:
            for path, write in writers:
                write(os.path.join(folder, os.path.basename(path)))
            with suppress(FileNotFoundError):
                os.unlink(last)  # from here on the files of this name are no snapshot
            named = {os.path.basename(path) for path, _ in writers}
            for name in sorted(set(os.listdir(folder)) - named):  # companions of one of them, such as ONNX weights
                os.replace(os.path.join(folder, name), os.path.join(os.path.dirname(last), name))
            for path, _ in writers:
                os.replace(os.path.join(folder, os.path.basename(path)), path)
    except OSError as error:
        left = f"the last complete snapshot is {last_good}" if last_good else "there is no earlier snapshot"
        raise TrainingError(
            f"cannot write the snapshot: {error.strerror or error}",
            place=last,
            hint=f"{left}; free some space, or change snapshot_prefix, and resume with --snapshot",
        ) from error


@contextmanager
def _unfinished(path: str) -> Iterator[str]:
    """Make a folder beside `path` for the time of the block."""
    stem = os.path.basename(path).partition("_iter_")[0]
    folder = os.path.join(os.path.dirname(path), f"{_UNFINISHED}{stem}-{os.urandom(6).hex()}")
    os.mkdir(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(prefix: str) -> None:
    """Remove the files that killed processes left half written."""
    folder, stem = os.path.split(prefix)
    with suppress(OSError):
        for name in os.listdir(folder or "."):
            if re.fullmatch(re.escape(f"{_UNFINISHED}{stem}-") + "[0-9a-f]{12}", name):
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def states(prefix: str) -> list[str]:
    """Return the solverstates of a prefix, the newest iteration first."""
    folder, stem = os.path.split(prefix)
    try:
        names = os.listdir(folder or ".")
    except FileNotFoundError:
        return []
    found = [(match, name) for name in names if (match := re.fullmatch(re.escape(stem) + _STATE, name))]
    return [os.path.join(folder, name) for _, name in sorted(found, key=lambda pair: (-int(pair[0][1]), pair[1]))]


def resume_state_path(solverstate: str) -> str:
    """Return the path of the fusionstate that belongs to a solverstate."""
    return solverstate.removesuffix(".h5").removesuffix(".solverstate") + ".fusionstate"


def checksum(tensors: Sequence[Tensor]) -> int:
    """Return the CRC-32 of the values."""
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.detach().cpu().contiguous().numpy().tobytes(), value)
    return value
