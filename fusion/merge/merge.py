"""Build the initial weights of a fused net: first a plan with the origin of every blob, then a stream of bytes.

    plan = plan_merge(load_net("fused.prototxt"), {"odd": "odd.caffemodel", "even": "even.caffemodel"})
    print(plan.table())
    apply_merge(plan, "init.caffemodel")

All mismatches are reported at once: a layer of a prefixed branch without fitting weights is an error unless allowed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from fusion.errors import MergeError, raise_all
from fusion.merge.initial_fillers import initial_value
from fusion.merge.match import Matching, match_layers
from fusion.merge.onnx import onnx_payloads
from fusion.merge.plan import FromFiller, FromOnnx, FromSource, MergePlan, PlannedLayer
from fusion.merge.sources import SourceLike, expand_merge_sources, open_merge_sources
from fusion.merge.targets import target_layers
from fusion.onnx.sidecar import ONNX, sidecar_path, write_companion
from prototxt.formats.copy import FileSlice, LazyBlob, Payload
from prototxt.formats.index import LayerEntry, Scan, Shape
from prototxt.formats.scan import scan_weights
from prototxt.formats.weights import save_layers
from prototxt.schema.messages import NetParameter

__all__ = ["MergePlan", "apply_merge", "plan_merge"]

_SAMPLE = 4096  # bytes at either end of each copied blob that are compared after writing


def plan_merge(
    fused_net: NetParameter,
    sources: Mapping[str, SourceLike],
    *,
    seed: int = 0,
    allow_missing: Sequence[str] = (),
    inputs: Mapping[str, Sequence[int | None]] | None = None,
    fresh: Collection[str] = (),
) -> MergePlan:
    """Find the origin of every blob of the fused net.

    fused_net      decoded; of one phase, or with the layers of all
    sources        prefix -> weights file, or arrays by layer name, or (prototxt, weights file). The fused layer
                   `odd/conv1` takes `conv1` of source `odd`, or `odd/conv1` if that is its name there. A pattern or
                   folder of weights, `fold`, is the sources `fold1`, `fold2`, ..., as in composing
    seed           of the fillers of new layers; `fusion.build` with the same seed fills them with the same numbers
    allow_missing  names of layers (or shell patterns) that may start from their fillers instead of a source's weights
    inputs         shapes of input blobs, where the net does not have them and a new layer's size depends on them
    fresh          names of layers that start from their fillers even if the sources have weights

    Raises: MergeError with all mismatches; ShapeError when the fused net itself is wrong, WeightsError when layers of
            one name have weights.
    """
    opened, errors = open_merge_sources(expand_merge_sources(sources))
    raise_all(errors)
    targets = target_layers(fused_net, inputs)
    matching = match_layers(targets, opened, tuple(allow_missing), fresh)
    raise_all(matching.errors)
    layers = tuple(
        PlannedLayer(
            item.layer.name,
            item.layer.type,
            tuple(item.layer.bottom),
            tuple(item.layer.top),
            *matching.found.get(item.layer.name, ((), ())),
        )
        for item in targets
    )
    messages = {item.layer.name: item.layer for item in targets}
    unused = _unused(matching, layers, opened)
    return MergePlan(fused_net.name, layers, unused, matching.allowed, seed, opened, messages, matching.differing)


def apply_merge(
    plan: MergePlan, path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the planned weights as .caffemodel, .caffemodel.h5 or .safetensors, and check them against the plan.

    Those of Onnx layers go to a safetensors file beside it, see `fusion.onnx.sidecar`.

    Source blobs, also those of ONNX files, are copied as bytes, so memory does not grow with them. The same plan writes
    the same bytes.

    progress  called with the bytes written so far and their sum

    Raises: WeightsError when a source has changed since the plan, or the format cannot hold the result; MergeError when
            the written file is not as planned; OSError.
    """
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, plan.nbytes)

    every = [
        (LayerEntry(layer.name, layer.type, (), layer.bottoms, layer.tops), _payloads(plan, layer))
        for layer in plan.layers
    ]
    layers = write_companion(path, every, name=plan.name, progress=advance)
    _check_companion(path, every)

    save_layers(path, layers, name=plan.name, check=partial(_check, layers), progress=advance)


def _check_companion(path: str | os.PathLike[str], layers: Sequence[tuple[LayerEntry, Sequence[Payload]]]) -> None:
    """Compare the file of ONNX weights beside `path` with the plan. Raises: MergeError."""
    other = sidecar_path(path)
    planned = [(entry, blobs) for entry, blobs in layers if entry.type == ONNX and blobs]
    if other is not None and planned:
        with open(other, "rb") as file:
            _check(planned, scan_weights(other), lambda offset, count: os.pread(file.fileno(), count, offset))


def _unused(
    matching: Matching, layers: Sequence[PlannedLayer], sources: Mapping[str, object]
) -> dict[str, tuple[str, ...]]:
    used = {(o.prefix, o.layer) for layer in layers for o in layer.origins if isinstance(o, FromSource)}
    return {
        prefix: tuple(name for name in matching.offered[prefix] if (prefix, name) not in used)
        for prefix in sorted(sources)
    }


def _payloads(plan: MergePlan, layer: PlannedLayer) -> list[Payload]:
    files = {origin.file for origin in layer.origins if isinstance(origin, FromOnnx)}
    weights = {file: onnx_payloads(plan.messages[layer.name], file) for file in files}
    for origin, shape in zip(layer.origins, layer.shapes, strict=True):
        if isinstance(origin, FromOnnx) and getattr(weights[origin.file].get(origin.name), "shape", None) != shape:
            text = f"its weight '{origin.name}' has changed since the merge was planned"
            raise MergeError(text, place=origin.file, hint="the file was written again in the meantime: merge again")
    return [
        weights[origin.file][origin.name] if isinstance(origin, FromOnnx) else _payload(plan, origin, shape)
        for origin, shape in zip(layer.origins, layer.shapes, strict=True)
    ]


def _payload(plan: MergePlan, origin: FromSource | FromFiller, shape: Shape) -> Payload:
    if isinstance(origin, FromSource):
        return plan.sources[origin.prefix].payload(origin.layer, origin.index, shape)
    message = plan.messages[origin.layer]
    return LazyBlob(shape, lambda: initial_value(message, origin.index, shape, plan.seed))


def _check(
    layers: Sequence[tuple[LayerEntry, Sequence[Payload]]], scan: Scan, read: Callable[[int, int], bytes]
) -> None:
    """Compare the written file with the plan: layers, shapes, and the ends of every copied blob.

    Raises: MergeError naming the differences.
    """
    written = {entry.name: entry for entry in scan.entries}
    errors = []
    handles: dict[str, int] = {}
    try:
        for entry, blobs in layers:
            found = written[entry.name].blobs if entry.name in written else ()
            if [blob.shape for blob in found] != [tuple(blob.shape) for blob in blobs]:
                errors.append(f"layer '{entry.name}' has other shapes than planned")
                continue
            # A shifted or truncated copy differs at one of its ends; filled blobs have no bytes in a source.
            for index, (blob, span) in enumerate(zip(blobs, found, strict=True)):
                if not isinstance(blob, FileSlice):
                    continue
                source = blob.scan.path
                if source not in handles:
                    handles[source] = os.open(source, os.O_RDONLY)
                ends = {0, max(0, span.nbytes - _SAMPLE)}  # a shifted or truncated copy differs at one of its ends
                count = min(_SAMPLE, span.nbytes)
                if any(
                    os.pread(handles[source], count, blob.blob.offset + end) != read(span.offset + end, count)
                    for end in ends
                ):
                    errors.append(f"blob {index} of layer '{entry.name}' differs from that in '{source}'")
    finally:
        for handle in handles.values():
            os.close(handle)
    hint = "a source was changed during the merge, or the disk is failing: merge again"
    raise_all([MergeError(f"after writing, {error}", place=scan.path, hint=hint) for error in errors])
