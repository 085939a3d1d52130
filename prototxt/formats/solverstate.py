"""The .solverstate files of Caffe's solvers, binary and HDF5: iteration, weights file, history, step.

Sources: Caffe's SGDSolver::SnapshotSolverStateToBinaryProto and -ToHDF5; NVCaffe's caffe.proto for two more fields,
whose datasets in HDF5 are named as intel/caffe writes them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prototxt.errors import WeightsError
from prototxt.files import atomic_write
from prototxt.formats.blob_proto import scan_blob
from prototxt.formats.caffemodel import frame_blob
from prototxt.formats.copy import float_bytes
from prototxt.formats.index import BlobSpan, FileStamp, Scan
from prototxt.formats.mmap_reader import Array, MmapReader
from prototxt.sniff.protobuf_wire import (
    FIXED32,
    LENGTH,
    VARINT,
    ByteWindow,
    damage_error,
    encode_varint,
    field_key,
    signed_value,
    text_field,
    wire_fields,
)
from prototxt.sniff.weights_format import detect_format, other_message_error

_WIRES = {1: VARINT, 2: LENGTH, 3: LENGTH, 4: VARINT, 5: FIXED32, 6: VARINT}


@dataclass(frozen=True, slots=True)
class SolverState:
    """The state, besides the weights, that a solver needs to resume.

    iter          iterations done
    learned_net   path of the weights as written by the solver, or ""
    history       float32 arrays of the update rule, in Caffe's order: one per parameter, two for Adam and AdaDelta
    current_step  steps taken by the learning rate policy `multistep`
    minimum_loss, iter_last_event   for NVCaffe's policy `plateau`: the lowest loss so far, and the iteration of the
                                    last change of it or of the rate
    """

    iter: int
    learned_net: str
    history: Sequence[Array]
    current_step: int = 0
    minimum_loss: float | None = None
    iter_last_event: int | None = None


def read_solverstate(path: str | os.PathLike[str]) -> SolverState:
    """Read a solver state, whose form is detected from its content.

    Raises: WeightsError if the file is damaged, or holds something else.
    """
    return _read_hdf5(path) if detect_format(path) == "hdf5" else _read_binary(path)


def write_solverstate(path: str | os.PathLike[str], state: SolverState) -> None:
    """Write a solver state atomically, as HDF5 if the name ends in .h5, else binary."""
    if os.fspath(path).endswith(".h5"):
        _write_hdf5(os.fspath(path), state)
        return
    with atomic_write(path) as file:
        file.write(field_key(1, VARINT) + encode_varint(state.iter))
        if state.learned_net:
            file.write(text_field(2, state.learned_net))
        for blob in state.history:
            before, _, after = frame_blob(3, blob)
            file.write(before)
            file.write(float_bytes(blob))
            file.write(after)
        file.write(field_key(4, VARINT) + encode_varint(state.current_step))
        if state.minimum_loss is not None:
            file.write(field_key(5, FIXED32) + struct.pack("<f", state.minimum_loss))
        if state.iter_last_event is not None:
            file.write(field_key(6, VARINT) + encode_varint(state.iter_last_event))


def _read_binary(path: str | os.PathLike[str]) -> SolverState:
    place = os.fspath(path)
    numbers: dict[int, int | None] = {1: 0, 4: 0, 6: None}
    learned_net, minimum_loss = "", None
    spans: list[BlobSpan] = []
    with open(path, "rb") as file:
        window = ByteWindow.over_file(file.fileno(), place)
        stamp = FileStamp.of(file.fileno())
        for number, wire, a, b in wire_fields(window, 0, window.size):
            if wire != _WIRES.get(number, wire):
                raise _not_a_state(window, b)
            if number in numbers:
                numbers[number] = signed_value(a)
            elif number == 2:
                learned_net = window.read(a, b).decode("utf-8", "surrogateescape")
            elif number == 5:
                (minimum_loss,) = struct.unpack("<f", window.read(b - 4, b))
            elif number == 3:
                spans.append(scan_blob(window, a, b, f"history blob {len(spans)}"))
    iteration, step = numbers[1] or 0, numbers[4] or 0
    if iteration < 0:
        raise WeightsError(f"the iteration is negative: {iteration}", place=place, hint="the file is damaged")
    reader = MmapReader(Scan(place, "solverstate", "", (), stamp))
    history = tuple(map(reader.array, spans))
    return SolverState(iteration, learned_net, history, step, minimum_loss, numbers[6])


def _not_a_state(window: ByteWindow, at: int) -> WeightsError:
    other = other_message_error(window)
    hint = "a solver state ends in .solverstate; give weights (.caffemodel) by their own option"
    if other is not None:
        return WeightsError(other.message.replace("trained weights", "a solver state"), place=window.path, hint=hint)
    return damage_error(window.path, at, "this is not a solver state", hint)


def _read_hdf5(path: str | os.PathLike[str]) -> SolverState:
    from prototxt.formats.hdf5 import UnpackedSize, damage_as_weights_error, dataset_span, open_file, read_dataset

    place = os.fspath(path)
    with open_file(path) as file, damage_as_weights_error(place):
        if not {"iter", "history"} <= set(file):
            hint = "a solver state holds iter, learned_net, current_step and history; give the .solverstate.h5"
            raise WeightsError("this HDF5 file is not a solver state", place=place, hint=hint)
        history = file["history"]
        sets = [history[str(index)] for index in range(len(history))]
        unfolding = UnpackedSize(place, os.stat(path).st_size)
        for index, dataset in enumerate(sets):
            dataset_span(dataset, f"history blob {index}", unfolding)
        arrays = tuple(read_dataset(dataset, place) for dataset in sets)
        learned = file["learned_net"][()] if "learned_net" in file else b""
        step = _number(file, "current_step") if "current_step" in file else 0
        minimum = float(_scalar(file, "minimum_loss")) if "minimum_loss" in file else None
        event = _number(file, "iter_last_event") if "iter_last_event" in file else None
        return SolverState(_number(file, "iter"), _text(learned), arrays, step, minimum, event)


def _number(file: Any, name: str) -> int:
    return int(_scalar(file, name))


def _scalar(file: Any, name: str) -> Any:
    return np.asarray(file[name][()]).reshape(-1)[0]


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _write_hdf5(path: str, state: SolverState) -> None:
    from prototxt.formats.hdf5 import h5py
    from prototxt.formats.hdf5_writer import open_hdf5

    module = h5py(path)
    with atomic_write(path) as file, open_hdf5(module, file, path) as target:
        target["iter"] = np.array([state.iter], np.int32)
        learned = state.learned_net.encode("utf-8", "surrogateescape")
        target["learned_net"] = np.array(learned, f"S{len(learned) + 1}")  # with the final zero, as a C string
        target["current_step"] = np.array([state.current_step], np.int32)
        if state.minimum_loss is not None:
            target["minimum_loss"] = np.array([state.minimum_loss], np.float32)
        if state.iter_last_event is not None:
            target["iter_last_event"] = np.array([state.iter_last_event], np.int32)
        history = target.create_group("history")
        for index, blob in enumerate(state.history):
            history.create_dataset(str(index), data=np.asarray(blob, "<f4"))
