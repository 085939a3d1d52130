"""An ONNX file as a net of its own, described as prototxt, to classify images and to be measured on lists of them."""

from __future__ import annotations

import math
import os
from dataclasses import replace

from fusion.composition.net_text import format_layer, read_net, reparse
from fusion.composition.onnx_sources import read_onnx
from fusion.composition.pixels import PIXELS
from fusion.composition.source import Source
from fusion.conversion.onnx_files import onnx_path
from fusion.errors import ComposeError
from fusion.onnx.graphs import Graph, load_graph, scores_value
from prototxt.text.tree import Document

PathLike = str | os.PathLike[str]
_BATCH = 32


def onnx_net(
    path: PathLike,
    *,
    pixels: str | None,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    measured: bool = False,
) -> Document:
    """Describe the net of a file or PyTorch net: raw pixels, blue first, to probabilities, if `measured` with its data.

    pixels    how it expects images: a name of PIXELS or custom ones (`fusion.composition.pixels`)
    size      (height, width) of its images, where the file leaves them open, or takes their values as a row
    channels  of a PyTorch net's images, with their size
    measured  read images and labels from a list that is still to be given, and compare the class scores with the labels
    Raises: ComposeError without pixels or sizes, and for a net that takes no images or cannot be run; OSError.
    """
    place = os.fspath(path)
    if pixels is None:
        hint = f"give --pixels, one of {', '.join(PIXELS)}, or such as mean:104,117,123,std:1,order:bgr"
        raise ComposeError("how this net expects the pixels of images is not known", place=place, hint=hint)
    file = onnx_path(path, (channels, *size) if size else None)
    graph = replace(load_graph(file), place=place)
    text = read_onnx(Source("net", file, at=scores_value(graph), pixels=pixels), reference=True)
    net = read_net(text.document)
    inputs = [layer for layer in net.layers if layer.type == "Input"]
    if len(inputs) > 1:
        names = ", ".join(layer.name for layer in inputs)
        raise ComposeError(f"a net with several inputs ({names}) takes no images", place=place)
    entry, scores = inputs[0].tops[0], str(text.logits)
    depth, height, width = _sizes(graph, entry, size)
    if measured:
        image = f"new_height: {height} new_width: {width}{' is_color: false' if depth == 1 else ''}"
        body = f'image_data_param {{ source: "" batch_size: {_BATCH} {image} }}'
        ends = [format_layer("data", "ImageData", [], [entry, "label"], body)]
        ends.append(format_layer("accuracy", "Accuracy", [scores, "label"], ["accuracy"]))
        ends.append(format_layer("loss", "SoftmaxWithLoss", [scores, "label"], ["loss"]))
    else:
        shape = f"input_param {{ shape {{ dim: 1 dim: {depth} dim: {height} dim: {width} }} }}"
        ends = [format_layer(entry, "Input", [], [entry], shape)]
        ends.append(format_layer("prob", "Softmax", [scores], ["prob"]))
    source = str(text.document)
    return reparse("\n".join([source[: inputs[0].start], ends[0], source[inputs[0].end :], *ends[1:]]), place)


def _sizes(graph: Graph, entry: str, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Return channels, height and width of the image input; a row of values is a grey image. Raises: ComposeError."""
    dims = next((dims for name, dims in {**graph.shapes, **graph.inputs}.items() if name.lstrip("/") == entry), ())
    if len(dims) == 2 and dims[1] is not None:
        if size is None or math.prod(size) != dims[1]:
            side = math.isqrt(dims[1])
            example = f"1,1,{side},{dims[1] // side}" if dims[1] % side == 0 else "1,1,H,W"
            message = f"its input '{entry}' takes {dims[1]} numbers per image"
            raise ComposeError(
                f"{message}, not {size[0]}x{size[1]}" if size else f"{message}; the size of the images is not known",
                place=graph.place,
                hint=f"give the size of its grey images: --input-shape {entry}={example}",
            )
        return 1, *size
    if len(dims) != 4 or dims[1] not in (1, 3):
        shown = "x".join("?" if dim is None else str(dim) for dim in dims)
        raise ComposeError(f"its input '{entry}' of shape {shown} takes no images", place=graph.place)
    height, width = (known or given for known, given in zip(dims[2:], size or (None, None), strict=True))
    if height is None or width is None:
        hint = f"give --input-shape {entry}=1,{dims[1]},224,224"
        raise ComposeError("the file leaves the size of its images open", place=graph.place, hint=hint)
    return dims[1], height, width
