"""HDF5Output: what passes through the net, written to a file."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from fusion.errors import BuildError
from fusion.layers.registry import Context, layer
from fusion.layers.uncompiled import keep_from_compiler
from prototxt.schema.messages import LayerParameter
from prototxt.text.places import place_of

_AXES = 4  # Caffe writes blobs with at least so many


class HDF5Output(nn.Module):
    """Writes its two bottoms as the data sets `data` and `label`, whole after every batch.

    Caffe gives up at the second batch; here the batches follow each other along the first axis.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.batches = 0
        keep_from_compiler(HDF5Output)

    @torch.no_grad()
    def forward(self, data: Tensor, label: Tensor) -> tuple[()]:
        """Float [N, ...] and float [N, ...] to no blob."""
        import h5py

        with h5py.File(self.path, "a" if self.batches else "w") as file:
            for name, blob in (("data", data), ("label", label)):
                _append(file, name, blob)
        self.batches += 1
        return ()


def _append(file: Any, name: str, blob: Tensor) -> None:
    values = blob.detach().cpu()
    values = values if values.dtype == torch.float64 else values.float()
    rows = values.reshape(*values.shape, *[1] * (_AXES - values.dim())).numpy()
    if name not in file:
        file.create_dataset(name, data=rows, maxshape=(None, *rows.shape[1:]))
        return
    found = file[name]
    start = len(found)
    found.resize(start + len(rows), axis=0)
    found[start:] = rows


@layer("HDF5Output")
def hdf5_output(layer: LayerParameter, context: Context) -> nn.Module:
    """Writes to `hdf5_output_param.file_name`, relative to the working directory."""
    path, place = layer.hdf5_output_param.file_name, place_of(layer)
    name = f"layer '{layer.name}'"
    if not path:
        raise BuildError(f"{name}: no file_name", place=place, hint="give hdf5_output_param.file_name")
    if not os.path.isdir(os.path.dirname(path) or "."):
        hint = "make the folder first; it is relative to the working directory"
        raise BuildError(f"{name}: the folder of '{path}' is not there", place=place, hint=hint)
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise BuildError(f"{name}: needs h5py", place=place, hint="pip install 'caffe-fusion[hdf5]'") from error
    return HDF5Output(path)
