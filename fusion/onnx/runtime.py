"""ONNX models run by ONNX Runtime: what an ONNX file itself says, apart from anything that this package makes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.errors import ExportError, OnnxError

Path = str | os.PathLike[str]


def session(model: Path | bytes) -> Any:
    """ONNX Runtime's session for a model, on the CPU, its warnings off.

    Raises: ExportError when ONNX Runtime is not installed, or cannot load the model.
    """
    place = None if isinstance(model, bytes) else os.fspath(model)
    try:
        import onnxruntime as ort
    except ImportError as error:
        hint = 'pip install "caffe-fusion[onnxruntime]"'
        raise ExportError("checking needs ONNX Runtime, which is not installed", hint=hint) from error
    options = ort.SessionOptions()
    options.log_severity_level = 4
    threads = int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
    options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(model if isinstance(model, bytes) else place, options, ["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base class of their own
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "is it an ONNX file, of an opset that the runtime knows? a lower --opset may help"
        raise ExportError(f"ONNX Runtime cannot load the model: {message}", place=place, hint=hint) from error


def run_file(
    path: Path, values: Sequence[str], inputs: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """The named values of a file, also inner ones, as it stands but in float32: a batch that it fixes is fed in pieces.

    inputs  float32 [N, ...] by name; whole numbers where the file takes such
    Raises: OnnxError when the file cannot be read or run, or an input cannot hold its numbers; ExportError without
            ONNX Runtime.
    """
    import onnx

    from fusion.onnx.graphs.cast_to_float32 import widened

    place = os.fspath(path)
    model = widened(onnx.load(place))
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in known)
    runtime = session(model.SerializeToString())
    size = next((item.shape[0] for item in runtime.get_inputs() if item.shape), None)
    count = len(next(iter(inputs.values())))
    step = size if isinstance(size, int) and size > 0 else count
    wanted = {item.name: as_kind(inputs[item.name], item.type, item.name, place) for item in runtime.get_inputs()
              if item.name in inputs}  # fmt: skip
    pieces = []
    for start in range(0, count, step):
        fed = {name: array[start : start + step] for name, array in wanted.items()}
        try:
            pieces.append(runtime.run(list(values), fed))
        except Exception as error:  # its exceptions have no base class of their own
            raise OnnxError(f"ONNX Runtime cannot run it: {str(error).splitlines()[0]}", place=place) from error
    return {name: np.concatenate(column) for name, column in zip(values, zip(*pieces, strict=True), strict=True)}


def whole_kind(kind: str) -> np.dtype[Any] | None:
    """The type of an input that takes whole numbers or truth values, as ONNX Runtime calls it; None for another."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype(name) if name == "bool" or name.lstrip("u").startswith("int") else None


def as_kind(array: NDArray[np.float32], kind: str, name: str, place: str | None = None) -> NDArray[Any]:
    """The numbers in the type of the input `name`. Raises: OnnxError where it cannot hold them."""
    wanted = whole_kind(kind)
    if wanted is None:
        return array
    with np.errstate(invalid="ignore"):
        found = array.astype(wanted)
    if not np.array_equal(found.astype(np.float32), array):
        strange = array[found.astype(np.float32) != array][0]
        what = f"its input '{name}' takes {wanted.name}, and is fed {strange:g}"
        raise OnnxError(what, place=place, hint="feed it pixels as they are: no mean, no scale")
    return found
