"""ONNX models in ONNX Runtime: the outputs of a file itself, independent of this package's own conversion."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.errors import ExportError, OnnxError

Path = str | os.PathLike[str]


def inference_session(model: Path | bytes, threads: int | None = None) -> Any:
    """Open a session of ONNX Runtime for a model, on the CPU, without warnings.

    threads  by default those of OMP_NUM_THREADS, or the runtime's choice
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
    # Quantized files are computed as they are written; by default the runtime rounds sums of whole numbers instead.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # the runtime ignores the variable
    options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
    try:
        return ort.InferenceSession(model if isinstance(model, bytes) else place, options, ["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base class of their own
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "is it an ONNX file, of an opset that the runtime knows? a lower --opset may help"
        raise ExportError(f"ONNX Runtime cannot load the model: {message}", place=place, hint=hint) from error


def run_file(
    path: Path, values: Sequence[str], inputs: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Compute named values of a file, also inner ones, in float32; inputs beyond a fixed batch are fed in pieces.

    inputs  float32 [N, ...] by name; whole numbers for inputs of an integer type
    Raises: OnnxError when the file cannot be read or run, or an input cannot hold its numbers; ExportError without
            ONNX Runtime.
    """
    import onnx

    from fusion.onnx.graphs.cast_to_float32 import to_float32
    from fusion.onnx.graphs.graph import all_reads

    place = os.fspath(path)
    model = to_float32(onnx.load(place))
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in known)
    read = set(all_reads(model.graph.node))
    for index, value in reversed(list(enumerate(model.graph.input))):
        if value.name not in inputs and value.name not in read:  # the runtime wants values for these as well
            del model.graph.input[index]
    runtime = inference_session(model.SerializeToString())
    size = next((item.shape[0] for item in runtime.get_inputs() if item.shape), None)
    count = len(next(iter(inputs.values())))
    step = size if isinstance(size, int) and size > 0 else count
    arrays = {item.name: cast_input(inputs[item.name], item.type, item.name, place) for item in runtime.get_inputs()
              if item.name in inputs}  # fmt: skip
    pieces = []
    for start in range(0, count, step):
        fed = {name: array[start : start + step] for name, array in arrays.items()}
        try:
            pieces.append(runtime.run(list(values), fed))
        except Exception as error:  # its exceptions have no base class of their own
            raise OnnxError(f"ONNX Runtime cannot run it: {str(error).splitlines()[0]}", place=place) from error
    return {name: np.concatenate(column) for name, column in zip(values, zip(*pieces, strict=True), strict=True)}


def integer_dtype(kind: str) -> np.dtype[Any] | None:
    """Return the dtype of an integer or bool input from ONNX Runtime's name for it; None for any other type."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype(name) if name == "bool" or name.lstrip("u").startswith("int") else None


def cast_input(array: NDArray[np.float32], kind: str, name: str, place: str | None = None) -> NDArray[Any]:
    """Return the numbers in the type of the input `name`. Raises: OnnxError for numbers that it cannot hold."""
    dtype = integer_dtype(kind)
    if dtype is None:
        return array
    with np.errstate(invalid="ignore"):
        found = array.astype(dtype)
    if not np.array_equal(found.astype(np.float32), array):
        wrong = array[found.astype(np.float32) != array][0]
        message = f"its input '{name}' takes {dtype.name}, and is fed {wrong:g}"
        raise OnnxError(message, place=place, hint="feed it pixels as they are: no mean, no scale")
    return found
