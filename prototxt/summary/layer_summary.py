"""The main parameters of a layer in a few words, for tables and drawings: `7x7 /2 pad 3, 64 outputs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prototxt.schema.messages import EltwiseParameter, LayerParameter, PoolingParameter, ReductionParameter


def summary(layer: LayerParameter) -> str:
    """Return the main parameters of a layer, "" if it has none."""
    writer = _WRITERS.get(layer.type)
    return writer(layer) if writer else ""


def _window(param: Any) -> str:
    """Return kernel, stride and padding of a convolution or pooling."""
    kernel = _sizes(param, "kernel")
    stride, pad = _sizes(param, "stride"), _sizes(param, "pad")
    words = [_by(kernel)] if kernel else []
    if any(size != 1 for size in stride):
        words.append(f"/{_by(stride) if len(set(stride)) > 1 else stride[0]}")
    if any(pad):
        words.append(f"pad {_by(pad) if len(set(pad)) > 1 else pad[0]}")
    return " ".join(words)


def _sizes(param: Any, name: str) -> list[int]:
    field = "kernel_size" if name == "kernel" else name
    if getattr(param, f"{name}_h") or getattr(param, f"{name}_w"):
        return [getattr(param, f"{name}_h"), getattr(param, f"{name}_w")]
    value = getattr(param, field)
    return [value] if isinstance(value, int) else list(value)


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes if len(sizes) > 1 else [*sizes] * 2))


def _convolution(layer: LayerParameter) -> str:
    param = layer.convolution_param
    words = [_window(param)]
    if any(size != 1 for size in param.dilation):
        words.append(f"dilation {param.dilation[0]}")
    if param.group > 1:
        words.append(f"{param.group} groups")
    words.append(f"{param.num_output} outputs")
    return ", ".join(word for word in words if word)


def _pooling(layer: LayerParameter) -> str:
    param = layer.pooling_param
    kind = PoolingParameter.PoolMethod.Name(param.pool)
    return f"{kind} global" if param.global_pooling else f"{kind} {_window(param)}"


def _data(layer: LayerParameter) -> str:
    for name in ("data_param", "image_data_param", "hdf5_data_param", "window_data_param"):
        if layer.HasField(name):
            param = getattr(layer, name)
            return f"{param.source}, {param.batch_size} at a time"
    return ""


_WRITERS: dict[str, Callable[[LayerParameter], str]] = {
    **dict.fromkeys(("Convolution", "Deconvolution", "ConvolutionDepthwise", "DepthwiseConvolution"), _convolution),
    **dict.fromkeys(("Data", "ImageData", "HDF5Data", "WindowData"), _data),
    "Pooling": _pooling,
    "InnerProduct": lambda layer: f"{layer.inner_product_param.num_output} outputs",
    "Embed": lambda layer: f"{layer.embed_param.num_output} outputs of {layer.embed_param.input_dim}",
    "Dropout": lambda layer: f"{layer.dropout_param.dropout_ratio:g}",
    "LRN": lambda layer: f"over {layer.lrn_param.local_size}",
    "Eltwise": lambda layer: EltwiseParameter.EltwiseOp.Name(layer.eltwise_param.operation),
    "Reduction": lambda layer: ReductionParameter.ReductionOp.Name(layer.reduction_param.operation),
    "Concat": lambda layer: f"axis {layer.concat_param.axis}",
    "Slice": lambda layer: f"axis {layer.slice_param.axis}",
    "LSTM": lambda layer: f"{layer.recurrent_param.num_output} outputs",
    "RNN": lambda layer: f"{layer.recurrent_param.num_output} outputs",
    "Python": lambda layer: f"{layer.python_param.module}.{layer.python_param.layer}",
    "Onnx": lambda layer: layer.onnx_param.file,
}
