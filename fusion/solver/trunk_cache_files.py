"""The frozen trunk's outputs in a file: for what does not fit into memory, and for later runs.

    FOLDER/NAME-PHASE-KEY.rows      a line of JSON, zeros up to a page, then every blob's rows one after the other

KEY is the hash of all that the numbers follow from. The file gets this name when it is complete, so one that is there
is whole; it is opened by mapping it into memory.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fusion.distributed import process_group
from fusion.errors import TrainingError
from fusion.solver.batches import Blobs, CachedBatches
from fusion.solver.prefetch import ahead

if TYPE_CHECKING:
    from fusion.data import Source
    from fusion.solver.mixed_precision import Precision
    from prototxt.schema.messages import NetParameter

_PAGE = 4096
_PARTS = {
    "trunk": "another net",
    "weights": "other weights",
    "data": "other data",
    "torch": "another torch, device or precision",
}
Rows = dict[str, Tensor]


@dataclass(frozen=True)
class TrunkFiles:
    """Where such files lie.

    folder, name  the folder, and how the files' names begin
    requested     whether the user has named the folder: then files are kept for small outputs too, and what cannot be
                  written is an error; otherwise a file serves only what is too large for memory, and an old one goes
    claim         called before a file that was not asked for is written
    """

    folder: str
    name: str
    requested: bool = False
    claim: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Origin:
    """What the rows follow from: hashes by the names of `_PARTS`; `phase` tells the nets of one solver apart."""

    phase: str
    parts: Mapping[str, str]

    @property
    def key(self) -> str:
        """16 digits for all of them."""
        return hashlib.sha256(json.dumps(dict(self.parts), sort_keys=True).encode()).hexdigest()[:16]


def origin_of(
    message: NetParameter, trunk: nn.Module, source: Source, device: torch.device, precision: Precision
) -> Origin:
    """What the trunk's outputs for this source follow from.

    message  the filtered description
    trunk    a Net: its layers, tensors and phase are looked at
    """
    plan: Any = trunk.plan
    names = {call.name for call in plan.calls}
    layers = hashlib.sha256(repr((plan.inputs, plan.outputs)).encode())
    for layer in message.layer:
        if layer.name in names:
            layers.update(layer.SerializeToString(deterministic=True))
    weights = hashlib.blake2b(digest_size=16)
    for name, tensor in (*trunk.named_parameters(), *trunk.named_buffers()):
        weights.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    parts = {
        "trunk": layers.hexdigest(),
        "weights": weights.hexdigest(),
        "data": source.fingerprint(),
        "torch": f"{torch.__version__} {kind} {precision.dtype or torch.get_default_dtype()}",
    }
    return Origin(str(plan.phase), parts)


def rows_in_file(
    files: TrunkFiles, origin: Origin, first: Blobs, count: int, fill: Callable[[Rows], None]
) -> tuple[Rows, str]:
    """The rows, mapped from a file that is there or is made now; and a sentence on which.

    first  each blob for one record, which tells the shape and type of a row
    fill   writes all rows into tensors [count, ...] that lie in the file
    Raises: TrainingError when the file cannot be written
    """
    path = os.path.join(files.folder, f"{files.name}-{origin.phase}-{origin.key}.rows")
    with process_group.in_turn(f"trunk/{origin.phase}/{origin.key}"):
        rows = _open(path, origin, first, count)
        if rows is not None:
            return rows, f"read from {path}"
        stale = _others(files, origin)
        why = f" ({stale[0][0]} is for {stale[0][1]})" if stale else ""
        if not files.requested:
            files.claim()
        _write(path, origin, first, count, fill)
        if not files.requested:
            for old, _ in stale:
                os.unlink(old)
        rows = _open(path, origin, first, count)
    if rows is None:
        raise TrainingError("what was written a moment ago cannot be read", place=path, hint="is the disk sound?")
    return rows, f"written to {path}{why}"


def room(files: TrunkFiles) -> int:
    """Bytes that the files may take: all that is free where the user has asked for them, otherwise half of it."""
    try:
        free = shutil.disk_usage(files.folder).free
    except OSError:
        return 0
    return free if files.requested else free // 2 if os.access(files.folder, os.W_OK) else 0


class MappedBatches(CachedBatches):
    """Batches from mapped rows; a thread reads them from the disk before they are needed."""

    in_memory = False

    def __init__(self, rows: Blobs, source: Source, device: torch.device) -> None:
        super().__init__(rows, source)
        self.device = device
        self._running: Iterator[Blobs] | None = None

    def __next__(self) -> Blobs:
        if self._running is None or self._expected != self.position:
            self._running = ahead(map(self._read, self.source.order(self.position)))
        blobs = next(self._running)
        self.position += 1
        self._expected = self.position
        return blobs if self.device.type == "cpu" else {key: rows.to(self.device) for key, rows in blobs.items()}

    def close(self) -> None:
        """Stop reading ahead."""
        self._running = None

    def pick(self, indices: np.ndarray) -> Blobs:
        """The rows of these records, on the device."""
        return {key: rows.to(self.device) for key, rows in self._read(indices).items()}

    def _read(self, indices: np.ndarray) -> Blobs:
        return self._copy(indices)


def _layout(first: Blobs, count: int, start: int) -> list[tuple[str, int, tuple[int, ...], np.dtype[Any]]]:
    """Each blob with its offset in bytes, shape and type."""
    found = []
    for key, tensor in sorted(first.items()):
        kind = tensor[:0].cpu().numpy().dtype
        found.append((key, start, (count, *tensor.shape[1:]), kind))
        start += -(-count * tensor[0].numel() * kind.itemsize // _PAGE) * _PAGE
    return found


def _header(origin: Origin, first: Blobs, count: int) -> bytes:
    rows = [[key, list(shape), str(kind)] for key, _, shape, kind in _layout(first, count, 0)]
    text = json.dumps({"phase": origin.phase, **origin.parts, "rows": rows}).encode() + b"\n"
    return text.ljust(-(-len(text) // _PAGE) * _PAGE, b"\0")


def _map(path: str, first: Blobs, count: int, start: int, access: int) -> Rows:
    with open(path, "r+b" if access == mmap.ACCESS_WRITE else "rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=access)
    return {
        key: torch.from_numpy(np.frombuffer(whole, kind, int(np.prod(shape)), offset).reshape(shape))
        for key, offset, shape, kind in _layout(first, count, start)
    }


def _open(path: str, origin: Origin, first: Blobs, count: int) -> Rows | None:
    """The rows, if the file is there and is what its name says."""
    header = _header(origin, first, count)
    with suppress(OSError), open(path, "rb") as file:
        if file.read(len(header)) == header:
            return _map(path, first, count, len(header), mmap.ACCESS_COPY)
    return None


def _others(files: TrunkFiles, origin: Origin) -> list[tuple[str, str]]:
    """Files of this name and phase for something else, and for what; those that differ least first."""
    found: list[tuple[int, str, str]] = []
    start = f"{files.name}-{origin.phase}-"
    for name in os.listdir(files.folder):
        if name.startswith(start) and name.endswith(".rows"):
            path = os.path.join(files.folder, name)
            with suppress(OSError, ValueError), open(path, "rb") as file:
                header = json.loads(file.readline(1 << 16))
                differ = [text for part, text in _PARTS.items() if header.get(part) != origin.parts[part]]
                found.append((len(differ), path, " and ".join(differ)))
    return [(path, differ) for _, path, differ in sorted(found) if differ]


def _write(path: str, origin: Origin, first: Blobs, count: int, fill: Callable[[Rows], None]) -> None:
    """Write a file that appears under its name when it is complete. Raises: TrainingError."""
    header = _header(origin, first, count)
    *_, (_, offset, shape, kind) = _layout(first, count, len(header))
    size = offset + int(np.prod(shape)) * kind.itemsize
    try:
        with _unfinished(path) as unfinished:
            with open(unfinished, "r+b") as file:
                file.write(header)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                file.truncate(size)
            fill(_map(unfinished, first, count, len(header), mmap.ACCESS_WRITE))
            os.replace(unfinished, path)
    except OSError as error:
        raise TrainingError(
            f"cannot write {size / 2**20:.0f} MiB of the frozen trunk's outputs: {error.strerror or error}",
            place=path,
            hint="make room, name another folder with --cache-dir, or compute them in each iteration with --no-cache",
        ) from error


@contextmanager
def _unfinished(path: str) -> Iterator[str]:
    """A file beside `path`, locked as long as it is written; those that killed processes left are removed."""
    folder, name = os.path.split(path)
    start = f".{name}."
    for other in os.listdir(folder or "."):
        if other.startswith(start) and _lock(os.path.join(folder, other)) is not None:
            os.unlink(os.path.join(folder, other))
    temporary = os.path.join(folder, f"{start}{os.urandom(6).hex()}.tmp")
    with open(temporary, "xb"):
        pass
    held = _lock(temporary)
    try:
        yield temporary
    finally:
        if held is not None:
            os.close(held)
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _lock(path: str) -> int | None:
    """A descriptor that holds the file's lock; None where somebody else has it."""
    import fcntl

    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def trunk_files(folder: str | os.PathLike[str] | None, prefix: str) -> TrunkFiles:
    """Files in the folder that the user has named, which is made, or else beside the snapshots of this prefix.

    Raises: TrainingError when the folder cannot be made
    """
    if folder is None:
        return TrunkFiles(os.path.dirname(prefix) or ".", f"{os.path.basename(prefix)}.trunk")
    place = os.fspath(folder)
    try:
        os.makedirs(place, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"the cache folder cannot be made: {error.strerror}", place=place) from error
    return TrunkFiles(place, "trunk", requested=True)
