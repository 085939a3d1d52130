"""HDF5Output: blobs written to a file."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from fusion.errors import BuildError
from fusion.layers.registry import Context, layer
from fusion.layers.uncompiled import keep_from_compiler
from prototxt.formats.hdf5_writer import open_hdf5
from prototxt.schema.messages import LayerParameter
from prototxt.text.source_places import place_of

_MIN_AXES = 4  # hdf5_output_layer.cpp writes blobs with at least 4 axes


class HDF5Output(nn.Module):
    """Writes its two bottoms as the data sets `data` and `label`; the file is complete after every batch.

    Caffe fails at the second batch; here batches are appended along the first axis.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.batches = 0
        keep_from_compiler(HDF5Output)

    @torch.no_grad()
    def forward(self, data: Tensor, label: Tensor) -> tuple[()]:
        """Append float [N, ...] and float [N, ...]; return no blob. Raises: OSError, as on a full disk."""
        import h5py

        file_mode, mode = ("r+b", "r+") if self.batches else ("w+b", "w")
        # Of h5py's own errors on a full disk the last one, as the file is closed, ends the process.
        with open(self.path, file_mode) as target, open_hdf5(h5py, target, self.path, mode) as file:
            for name, blob in (("data", data), ("label", label)):
                _append(file, name, blob)
        self.batches += 1
        return ()


def _append(file: Any, name: str, blob: Tensor) -> None:
    values = blob.detach().cpu()
    values = values if values.dtype == torch.float64 else values.float()
    rows = values.reshape(*values.shape, *[1] * (_MIN_AXES - values.dim())).numpy()
    if name not in file:
        file.create_dataset(name, data=rows, maxshape=(None, *rows.shape[1:]))
        return
    stored = file[name]
    start = len(stored)
    stored.resize(start + len(rows), axis=0)
    stored[start:] = rows


@layer("HDF5Output")
def _hdf5_output(layer: LayerParameter, context: Context) -> nn.Module:
    path, place = layer.hdf5_output_param.file_name, place_of(layer)
    name = f"layer '{layer.name}'"
    if not path:
        raise BuildError(f"{name}: no file_name", place=place, hint="give hdf5_output_param.file_name")
    if not os.path.isdir(os.path.dirname(path) or "."):
        hint = "create the folder first; it is relative to the working directory"
        raise BuildError(f"{name}: the folder of '{path}' does not exist", place=place, hint=hint)
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise BuildError(f"{name}: needs h5py", place=place, hint="pip install 'caffe-fusion[hdf5]'") from error
    return HDF5Output(path)
