"""The frozen trunk's outputs in files, where they do not fit into memory or are kept for later runs.

    FOLDER/NAME-PHASE-KEY.rows      a line of JSON, zeros up to a page, then every blob's rows one after the other

KEY is a hash of everything that the numbers depend on. The file gets this name when it is complete, so that an existing
one is whole; it is opened by mapping it into memory.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fusion.distributed import process_group
from fusion.errors import TrainingError
from fusion.solver.batches import Blobs, CachedBatches
from fusion.solver.prefetch import ahead
from prototxt.files import take_room, temporary_beside

if TYPE_CHECKING:
    from fusion.data import DataSource
    from fusion.nets.frozen_engine import FrozenEngine
    from fusion.solver.mixed_precision import Precision
    from prototxt.schema.messages import NetParameter

_PAGE = 4096
_PARTS = {
    "trunk": "another net",
    "weights": "other weights",
    "data": "other data",
    "torch": "another torch, device, precision or engine",
}
Rows = dict[str, Tensor]


@dataclass(frozen=True)
class TrunkFiles:
    """The place of such files.

    folder, name  the folder, and the beginning of the files' names
    requested     whether the user has named the folder: then files are written for small outputs too, and a failure is
                  an error; otherwise only for outputs too large for memory, and old files are removed
    claim         called before a file that was not requested is written
    """

    folder: str
    name: str
    requested: bool = False
    claim: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Origin:
    """The origin of the rows: hashes by the names of `_PARTS`, and the `phase` of the net."""

    phase: str
    parts: Mapping[str, str]

    @property
    def key(self) -> str:
        """Return 16 digits for all of them."""
        return hashlib.sha256(json.dumps(dict(self.parts), sort_keys=True).encode()).hexdigest()[:16]


def origin_of(
    message: NetParameter,
    trunk: nn.Module,
    source: DataSource,
    device: torch.device,
    precision: Precision,
    engine: FrozenEngine,
) -> Origin:
    """Return the origin of the trunk's outputs for this source.

    message  the filtered description
    trunk    a Net, of which layers, tensors and phase count
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
        # every dtype as bytes: NumPy lacks bfloat16
        weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    other = f" {engine.name}" if engine.programs else ""
    parts = {
        "trunk": layers.hexdigest(),
        "weights": weights.hexdigest(),
        "data": source.fingerprint(),
        "torch": f"{torch.__version__} {kind} {precision.dtype or torch.get_default_dtype()}{other}",
    }
    return Origin(str(plan.phase), parts)


def rows_in_file(
    files: TrunkFiles, origin: Origin, first: Blobs, count: int, fill: Callable[[Rows], None]
) -> tuple[Rows, str]:
    """Return the rows, mapped from an existing file or one written now, and a sentence about it.

    first  each blob for one record, which gives the shape and type of a row
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
        raise TrainingError("the file cannot be read after it was written", place=path, hint="check the disk")
    return rows, f"written to {path}{why}"


def room(files: TrunkFiles) -> int:
    """Return the bytes that the files may take: all free space for requested files, otherwise half of it."""
    try:
        free = shutil.disk_usage(files.folder).free
    except OSError:
        return 0
    return free if files.requested else free // 2 if os.access(files.folder, os.W_OK) else 0


class MappedBatches(CachedBatches):
    """Batches from mapped rows; a thread reads them from the disk before they are needed."""

    in_memory = False

    def __init__(self, rows: Blobs, source: DataSource, device: torch.device) -> None:
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
        """Return the rows of these records, on the device."""
        return {key: rows.to(self.device) for key, rows in self._read(indices).items()}

    def _read(self, indices: np.ndarray) -> Blobs:
        return self._copy(indices)


def _layout(first: Blobs, count: int, start: int) -> list[tuple[str, int, tuple[int, ...], np.dtype[Any]]]:
    """Return each blob with its offset in bytes, shape and type."""
    found = []
    for key, tensor in sorted(first.items()):
        kind = tensor[:0].cpu().numpy().dtype
        found.append((key, start, (count, *tensor.shape[1:]), kind))
        start += -(-count * tensor[0].numel() * kind.itemsize // _PAGE) * _PAGE
    return found


def _size(first: Blobs, count: int, start: int) -> int:
    """Return the size of the whole file in bytes."""
    *_, (_, offset, shape, kind) = _layout(first, count, start)
    return offset + int(np.prod(shape)) * kind.itemsize


def _header(origin: Origin, first: Blobs, count: int) -> bytes:
    rows = [[key, list(shape), str(kind)] for key, _, shape, kind in _layout(first, count, 0)]
    text = json.dumps({"phase": origin.phase, **origin.parts, "rows": rows}).encode() + b"\n"
    return text.ljust(-(-len(text) // _PAGE) * _PAGE, b"\0")  # rows start on a page, as mapping needs


def _map(path: str, first: Blobs, count: int, start: int, access: int) -> Rows:
    with open(path, "r+b" if access == mmap.ACCESS_WRITE else "rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=access)
    return {
        key: torch.from_numpy(np.frombuffer(whole, kind, int(np.prod(shape)), offset).reshape(shape))
        for key, offset, shape, kind in _layout(first, count, start)
    }


def _open(path: str, origin: Origin, first: Blobs, count: int) -> Rows | None:
    """Return the rows if the file exists and its header and size are the expected ones."""
    header = _header(origin, first, count)
    with suppress(OSError), open(path, "rb") as file:
        whole = os.fstat(file.fileno()).st_size == _size(first, count, len(header))
        if whole and file.read(len(header)) == header:
            # torch wants writable memory, and the file must not change
            return _map(path, first, count, len(header), mmap.ACCESS_COPY)
    return None


def _others(files: TrunkFiles, origin: Origin) -> list[tuple[str, str]]:
    """Return files of this name and phase with another origin, and its differences, the closest first."""
    found: list[tuple[int, str, str]] = []
    start = f"{files.name}-{origin.phase}-"
    for name in os.listdir(files.folder):
        if name.startswith(start) and name.endswith(".rows"):
            path = os.path.join(files.folder, name)
            # AttributeError: JSON, but no object
            with suppress(OSError, ValueError, AttributeError, RecursionError), open(path, "rb") as file:
                header = json.loads(file.readline(1 << 16))
                differ = [text for part, text in _PARTS.items() if header.get(part) != origin.parts[part]]
                found.append((len(differ), path, " and ".join(differ)))
    return [(path, differ) for _, path, differ in sorted(found) if differ]


def _write(path: str, origin: Origin, first: Blobs, count: int, fill: Callable[[Rows], None]) -> None:
    """Write a file that appears under its name when it is complete. Raises: TrainingError."""
    header = _header(origin, first, count)
    size = _size(first, count, len(header))
    try:
        with temporary_beside(path) as (unfinished, handle):
            os.pwrite(handle, header, 0)
            take_room(handle, size, path)  # a full disk fails here, not with SIGBUS while rows are written
            os.ftruncate(handle, size)
            fill(_map(unfinished, first, count, len(header), mmap.ACCESS_WRITE))
            os.replace(unfinished, path)
    except OSError as error:
        raise TrainingError(
            f"cannot write {size / 2**20:.0f} MiB of the frozen trunk's outputs: {error.strerror or error}",
            place=path,
            hint="free space, name another folder with --cache-dir, or compute them in each iteration with --no-cache",
        ) from error


def trunk_files(folder: str | os.PathLike[str] | None, prefix: str) -> TrunkFiles:
    """Return the place of files: the requested folder, which is created, or else beside the snapshots of this prefix.

    Raises: TrainingError when the folder cannot be created
    """
    if folder is None:
        return TrunkFiles(os.path.dirname(prefix) or ".", f"{os.path.basename(prefix)}.trunk")
    place = os.fspath(folder)
    try:
        os.makedirs(place, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"the cache folder cannot be created: {error.strerror}", place=place) from error
    return TrunkFiles(place, "trunk", requested=True)
