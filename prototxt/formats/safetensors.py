"""Weights as safetensors: tensors named <layer>/<i>, the layers in order in the metadata; needs no other package.

Layout: 8 bytes little-endian length, that many bytes of JSON {name: {dtype, shape, data_offsets}}, then the values.
Source: https://github.com/huggingface/safetensors (format).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from prototxt.errors import WeightsError
from prototxt.files import atomic_write
from prototxt.formats.copy import BufferedWriter, OpenFiles, Payload, payload_bytes
from prototxt.formats.index import BlobSpan, FileStamp, LayerEntry, Scan

_MAX_HEADER = 100_000_000  # the reference implementation's own bound
# Parsed JSON takes twenty times its size: above 2 MiB, a header may have at most 1/16 of the file.
_HEADER, _SHARE = 2 << 20, 16
_TYPES = {"F32": ("<f4", 4), "F64": ("<f8", 8), "F16": ("<f2", 2), "BF16": ("bfloat16", 2)}
_DAMAGED = "the file is cut off or damaged: fetch or copy it again"
_NAMING = "name the tensors <layer>/0, <layer>/1, ... in Caffe's order of blobs"


def scan_safetensors(path: str | os.PathLike[str]) -> Scan:
    """List the layers of a safetensors file whose tensors are named <layer>/<i>.

    Raises: WeightsError if the header is damaged, or a tensor has another name.
    """
    place = os.fspath(path)
    with open(path, "rb") as file:
        stamp = FileStamp.of(file.fileno())
        start = int.from_bytes(file.read(8), "little") + 8
        if start > min(stamp.size, _MAX_HEADER, max(_HEADER, stamp.size // _SHARE)):
            raise WeightsError(f"byte 0: a header of {start - 8} bytes does not fit", place=place, hint=_DAMAGED)
        header = _header(file.read(start - 8), place)
    metadata = header.pop("__metadata__", {})
    blobs = _blobs(header, start, stamp.size, place)
    listed = _listed(metadata if isinstance(metadata, dict) else {}, place)
    order = [*(entry.name for entry in listed), *(name for name in blobs if name not in {e.name for e in listed})]
    types = {entry.name: entry for entry in listed}
    entries = tuple(
        LayerEntry(name, known.type, tuple(blobs.get(name, ())), known.bottoms, known.tops)
        for name in order
        for known in (types.get(name, LayerEntry(name)),)
    )
    if not any(entry.blobs for entry in entries):
        raise WeightsError("the file holds no tensors", place=place, hint="write it again")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    return Scan(place, "safetensors", str(name), entries, stamp)


def _header(data: bytes, place: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        header = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"byte 8: the header is not JSON: {error}", place=place, hint=_DAMAGED) from None
    if not isinstance(header, dict):
        raise WeightsError("byte 8: the header is not a JSON object", place=place, hint=_DAMAGED)
    return header


def _blobs(header: dict[str, Any], start: int, size: int, place: str) -> dict[str, list[BlobSpan]]:
    found: dict[str, dict[int, BlobSpan]] = {}
    for tensor, about in header.items():
        layer, _, index = tensor.rpartition("/")
        if not (layer and index.isascii() and index.isdigit() and len(index) < 4):
            raise WeightsError(f"tensor '{tensor[:80]}' is not named <layer>/<i>", place=place, hint=_NAMING)
        found.setdefault(layer, {})[int(index)] = _span(tensor, about, start, size, place)
    for layer, blobs in found.items():
        if sorted(blobs) != list(range(len(blobs))):
            raise WeightsError(f"layer '{layer}' has blobs {sorted(blobs)}", place=place, hint=_NAMING)
    _check_apart([span for blobs in found.values() for span in blobs.values()], place)
    return {layer: [blobs[index] for index in sorted(blobs)] for layer, blobs in found.items()}


def _span(tensor: str, about: Any, start: int, size: int, place: str) -> BlobSpan:
    try:
        kind, shape, (begin, end) = about["dtype"], about["shape"], about["data_offsets"]
        whole = isinstance(shape, list) and all(
            type(value) is int and 0 <= value < 1 << 63 for value in (*shape, begin, end)
        )
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise WeightsError(f"tensor '{tensor[:80]}' has a damaged description", place=place, hint=_DAMAGED)
    if not isinstance(kind, str) or kind not in _TYPES:
        hint = f"weights are one of {', '.join(_TYPES)}"
        raise WeightsError(f"tensor '{tensor[:80]}' has type {str(kind)[:40]}", place=place, hint=hint)
    dtype, width = _TYPES[kind]
    if len(shape) > 32 or end - begin != math.prod(shape) * width:
        message = f"tensor '{tensor[:80]}' of shape {tuple(shape[:33])} has {end - begin} bytes"
        raise WeightsError(f"byte {start + begin}: {message}", place=place, hint=_DAMAGED)
    if start + end > size:
        message = f"tensor '{tensor[:80]}' ends at byte {start + end}, but the file has {size}"
        raise WeightsError(f"byte {start + begin}: {message}", place=place, hint=_DAMAGED)
    return BlobSpan(tuple(shape), dtype, start + begin, end - begin)


def _check_apart(spans: list[BlobSpan], place: str) -> None:
    """Check that no tensors share bytes, as the format requires: a small file could unpack to any size."""
    end = 0
    for span in sorted((span for span in spans if span.nbytes), key=lambda span: span.offset):
        if span.offset < end:
            raise WeightsError(f"byte {span.offset}: two tensors share bytes", place=place, hint=_DAMAGED)
        end = span.offset + span.nbytes


def _listed(metadata: dict[str, Any], place: str) -> list[LayerEntry]:
    text = metadata.get("layers")
    if text is None:
        return []
    try:
        return [
            LayerEntry(str(n), str(t), (), tuple(map(str, b)), tuple(map(str, o))) for n, t, b, o in json.loads(text)
        ]
    except (ValueError, TypeError, RecursionError):
        raise WeightsError("the list of layers in the metadata is damaged", place=place, hint=_DAMAGED) from None


def write_safetensors(
    path: str,
    layers: Sequence[tuple[LayerEntry, Sequence[Payload]]],
    *,
    name: str = "",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write tensors <layer>/<i> in the order of the layers, and each layer's type, bottoms and tops as metadata."""
    listed = json.dumps([[e.name, e.type, e.bottoms, e.tops] for e, _ in layers], separators=(",", ":"))
    header: dict[str, Any] = {"__metadata__": {"format": "caffe", "layers": listed, "name": name}}
    position = 0
    for entry, blobs in layers:
        for index, blob in enumerate(blobs):
            end = position + payload_bytes(blob)
            key = f"{entry.name}/{index}"
            header[key] = {"dtype": "F32", "shape": list(blob.shape), "data_offsets": [position, end]}
            position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the values start aligned, so that they can be mapped
    with atomic_write(path, least=8 + len(text) + position) as file, OpenFiles() as sources:
        sink = BufferedWriter(file)
        sink.write(len(text).to_bytes(8, "little") + text)
        for _, blobs in layers:
            for blob in blobs:
                sink.put(blob, sources)
                if progress:
                    progress(payload_bytes(blob))
        sink.flush()
