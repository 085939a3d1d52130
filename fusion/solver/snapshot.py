"""Snapshots: Caffe's weights and solver state, and beside them what Caffe forgets, so that a run goes on exactly.

    PREFIX_iter_N.caffemodel    weights, as Caffe reads them
    PREFIX_iter_N.solverstate   iteration, history, step of the learning rate, as Caffe reads them
    PREFIX_iter_N.fusionstate   position in the data, random generators, recent losses (a NumPy archive, no pickle)

The solverstate is written last: where it exists, the others are complete.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fusion.errors import TrainingError
from prototxt.files import atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Exact:
    """What Caffe's files do not hold.

    iteration  when it was taken
    positions  batches handed out so far, of the net to train and of each test net
    losses     the recent losses that average_loss shows
    seed       of data and fillers
    weights    checksum of the learnable weights, to tell whether they are those of this state
    threads    and `engine`: bits are the same only with the same ones
    """

    iteration: int
    positions: tuple[int, ...]
    losses: tuple[float, ...]
    seed: int
    weights: int
    threads: int = field(default_factory=torch.get_num_threads)
    engine: str = field(default_factory=lambda: f"torch {torch.__version__}")


def names(prefix: str, iteration: int, *, hdf5: bool = False) -> tuple[str, str, str]:
    """Paths of the caffemodel, the solverstate and the fusionstate."""
    stem, end = f"{prefix}_iter_{iteration}", ".h5" if hdf5 else ""
    return f"{stem}.caffemodel{end}", f"{stem}.solverstate{end}", f"{stem}.fusionstate"


def check_writable(prefix: str) -> None:
    """Find out before training that snapshots cannot be written. Raises: TrainingError."""
    folder = os.path.dirname(prefix) or "."
    if not os.path.isdir(folder):
        hint = "create it, or change snapshot_prefix (relative to the working directory)"
        raise TrainingError(f"the folder for snapshots does not exist: {folder}", place=prefix, hint=hint)
    if not os.access(folder, os.W_OK):
        raise TrainingError(f"snapshots cannot be written to {folder}", place=prefix, hint="change snapshot_prefix")


def write_all(writers: Sequence[tuple[str, Callable[[str], None]]], *, last_good: str | None) -> None:
    """Write files in order, each at once or not at all; on failure remove those of this snapshot.

    Raises: TrainingError saying which snapshot is left.
    """
    written: list[str] = []
    try:
        for path, write in writers:
            existed = os.path.exists(path)
            write(path)
            if not existed:
                written.append(path)
    except OSError as error:
        for name in written:
            os.unlink(name)
        left = f"the last complete snapshot is {last_good}" if last_good else "there is no earlier snapshot"
        raise TrainingError(
            f"cannot write the snapshot: {error.strerror or error}",
            place=path,
            hint=f"{left}; make room, or change snapshot_prefix, and go on with --snapshot",
        ) from error


def write_exact(path: str, exact: Exact) -> None:
    """Write a fusionstate, with the present state of torch's random generators."""
    meta = {**vars(exact), "positions": list(exact.positions), "losses": list(exact.losses)}
    arrays: dict[str, Any] = {
        "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
        "cpu": torch.get_rng_state().numpy(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        arrays["cuda"] = torch.cuda.get_rng_state().numpy()
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def exact_beside(solverstate: str) -> str:
    """The fusionstate that belongs to a solverstate."""
    return solverstate.removesuffix(".h5").removesuffix(".solverstate") + ".fusionstate"


def read_exact(path: str, iteration: int, weights: int) -> Exact | None:
    """Read the fusionstate of this iteration and these weights, and set torch's random generators as it says.

    Returns None where there is no such file, or it belongs to another state.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            meta = json.loads(archive["meta"].tobytes())
            exact = Exact(**{**meta, "positions": tuple(meta["positions"]), "losses": tuple(meta["losses"])})
            generators: dict[str, NDArray[Any]] = {key: archive[key] for key in archive.files if key != "meta"}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    if exact.iteration != iteration or exact.weights != weights:
        return None
    torch.set_rng_state(torch.from_numpy(generators["cpu"]))
    if "cuda" in generators and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(generators["cuda"]))
    return exact


def checksum(tensors: Sequence[Tensor]) -> int:
    """CRC-32 of the values."""
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.detach().cpu().contiguous().numpy().tobytes(), value)
    return value
