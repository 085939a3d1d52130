"""Make the lists, databases and HDF5 files that a net names, all of other content, and look at what a branch is fed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import prototxt
from fusion.data.layer_sources import open_source
from fusion.data.lmdb_leveldb import write_database
from fusion.nets.build import blobs, build
from prototxt.formats.datum import write_mean
from prototxt.schema.messages import Datum, LayerParameter, NetParameter
from prototxt.text.tree import Document

RECORDS = 3
_SKIPPED = ("Silence", "Split")


def local(text: str) -> str:
    """The text with every path relative and short, so that its files can be made here."""

    def short(match: re.Match[str]) -> str:
        return f'{match[1]}"{re.sub("[^A-Za-z0-9_.]", "_", match[2])}"'

    return re.sub(r'((?:source|mean_?file|root_folder)\s*:\s*)["\']([^"\']*)["\']', short, text)


def random(*words: object) -> np.random.Generator:
    """Numbers that are another row for each name of a file and record."""
    return np.random.default_rng(list(" ".join(map(str, words)).encode()))


def make_files(net: NetParameter, size: int, labels: Mapping[str, Sequence[int]]) -> None:
    """Make all that the net's data layers name, pictures `size` wide and high; labels are 0, 1, 2 unless said."""
    for layer in net.layer:
        if layer.bottom:
            continue
        mean = layer.transform_param.mean_file
        if mean and not os.path.exists(mean):
            write_mean(mean, random(mean).integers(90, 130, (_channels(layer), size, size)).astype(np.float32))
        source = source_of(layer)
        if source is not None:
            make_source(layer, source, size, labels.get(source, tuple(range(RECORDS))))


def source_of(layer: LayerParameter) -> str | None:
    """What the layer reads."""
    blocks = (layer.image_data_param, layer.data_param, layer.hdf5_data_param)
    return next((block.source for block in blocks if block.source), None)


def make_source(layer: LayerParameter, source: str, size: int, labels: Sequence[int]) -> None:
    if layer.type == "HDF5Data":
        rows = [(top, (4, 8, 8)) for top in layer.top if not top.startswith("label")]
        Path(source).write_text(f"{source}.h5\n")
        with h5py.File(f"{source}.h5", "a") as file:
            for top, shape in rows:
                if top not in file:
                    file[top] = random(source, top).standard_normal((len(labels), *shape)).astype(np.float32)
            if "label" not in file:
                file["label"] = np.array(labels, np.float32)
    elif not os.path.exists(source):
        pictures = [random(source, n).integers(0, 256, (size, size, 3), np.uint8) for n in range(len(labels))]
        if layer.type == "Data":
            write_database(source, _records(pictures, labels, _channels(layer)), lmdb=layer.data_param.backend == 1)
        else:
            for number, picture in enumerate(pictures):
                Image.fromarray(picture).save(f"{layer.image_data_param.root_folder}{source}{number}.png")
            Path(source).write_text("".join(f"{source}{n}.png {label}\n" for n, label in enumerate(labels)))


def _channels(layer: LayerParameter) -> int:
    gray = layer.type == "ImageData" and not layer.image_data_param.is_color
    return 1 if gray or (len(layer.transform_param.mean_value) == 1 and layer.type == "Data") else 3


def _records(pictures: Sequence[NDArray[np.uint8]], labels: Sequence[int], channels: int) -> list[tuple[bytes, bytes]]:
    records = []
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1)[:channels])
        datum = Datum(channels=channels, height=planes.shape[1], width=planes.shape[2], data=planes.tobytes())
        datum.label = label
        records.append((f"{number:08d}".encode(), datum.SerializeToString()))
    return records


@dataclass(frozen=True)
class Fed:
    """A branch's blob: what its source reads, and what it gets in the fused net."""

    layer: str
    own: Tensor
    fused: Tensor


def fed(composed: Document, prefix: str, source: NetParameter, phase: str, lists: Mapping[str, str]) -> list[Fed]:
    """All that the layers of a branch read from outside, beside what the same layers of its source read.

    lists  per name of a data layer of the source: the list that the user gave it, "" for all
    """
    net = prototxt.filter_net(source, phase=phase)
    for layer in net.layer:
        given = lists.get(layer.name) or lists.get("")
        if not layer.bottom and given and source_of(layer) is not None:
            next(block for block in (layer.image_data_param, layer.data_param, layer.hdf5_data_param)
                 if block.source).source = given  # fmt: skip
    whole = prototxt.filter_net(prototxt.load_net(composed), phase=phase)
    by_name = {layer.name: layer for layer in whole.layer}
    outside = {top for layer in net.layer if not layer.bottom for top in layer.top}
    pairs = [
        (layer.name, mine, theirs)
        for layer in net.layer
        if layer.bottom and layer.type not in _SKIPPED and f"{prefix}/{layer.name}" in by_name
        for mine, theirs in zip(layer.bottom, by_name[f"{prefix}/{layer.name}"].bottom, strict=True)
        if mine in outside
    ]
    own, front = values(net, phase, {mine for _, mine, _ in pairs}), values(whole, phase, {one for *_, one in pairs})
    return [Fed(name, own[mine], front[theirs]) for name, mine, theirs in pairs]


def values(net: NetParameter, phase: str, wanted: set[str]) -> dict[str, Tensor]:
    """These blobs for all records, from the net's own data layers and the layers between."""
    needed, kept = set(wanted), list[LayerParameter]()
    for layer in reversed(net.layer):
        if needed.intersection(layer.top) and not set(layer.top) <= set(layer.bottom):
            needed.update(layer.bottom)
            kept.append(layer)
    given: dict[str, Tensor] = {}
    for layer in kept:
        if not layer.bottom:
            if layer.transform_param.mirror:  # which is drawn, and by the leading layer alone
                layer.transform_param.mirror = False
            given.update(open_source(layer, phase).batch(np.arange(RECORDS)))
    rest = NetParameter(layer=kept[::-1])
    if not any(layer.bottom for layer in kept):
        return given
    shapes = {blob: tuple(value.shape) for blob, value in given.items()}
    with torch.no_grad():
        found = blobs(build(rest, phase, shapes), given)
    return {**given, **found}
