"""Draw the graph of a NetParameter, as `caffe.draw` does: Graphviz lays it out if it is installed.

Without Graphviz, an SVG is the drawing of `fusion-show --svg`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from typing import Any

from fusion.errors import FusionError
from fusion.pycaffe.proto import caffe_pb2
from prototxt.drawing.dot import dot_string
from prototxt.files import atomic_write

_COLOURS = {
    "Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900", "InnerProduct": "#CC33FF",
}  # fmt: skip
_IN_PLACE = "#90EE90"
_BLOB = 'shape=octagon, fillcolor="#E0E0E0", style=filled'
_LEARNING = ("Convolution", "Deconvolution", "InnerProduct")
_SOURCES = ("dot", "gv", "raw")


def get_pooling_types_dict() -> dict[int, str]:
    """Return the names of the methods of pooling by their numbers."""
    return {number: name for name, number in caffe_pb2.PoolingParameter.PoolMethod.items()}


def get_edge_label(layer: Any) -> str:
    """Return the label of the arrow from a layer to its tops: the batch size of data, the number of outputs."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    return str(layer.inner_product_param.num_output) if layer.type == "InnerProduct" else '""'


def get_layer_lr_mult(layer: Any) -> tuple[float, float]:
    """Return the factors of the learning rates of weights and bias. Raises: ValueError for a layer without."""
    if layer.type not in _LEARNING:
        raise ValueError(f"{layer.type} layers do not have a learning rate multiplier")
    if len(layer.param) > 2:
        raise ValueError("Could not parse the learning rate multiplier")
    weights, bias = [*(param.lr_mult for param in layer.param), 1.0, 1.0][:2]
    return weights, bias


def get_layer_label(layer: Any, rankdir: str, display_lrm: bool = False) -> str:
    """Return the label of a layer, in double quotes.

    rankdir      "TB" and "BT" have room for one line, "LR" and "RL" for several
    display_lrm  state the factors of learning rates that are not 0
    """
    separator = " " if rankdir in ("TB", "BT") else r"\n"
    return f'"{separator.join(_label_parts(layer, display_lrm))}"'


def _label_parts(layer: Any, display_lrm: bool) -> list[str]:
    kind = f" {get_pooling_types_dict()[layer.pooling_param.pool]}" if layer.type == "Pooling" else ""
    parts = [layer.name, f"({layer.type}{kind})"]
    if layer.type in ("Convolution", "Deconvolution", "Pooling"):
        parts += _window(layer)
    if display_lrm and layer.type in _LEARNING and any(rates := get_layer_lr_mult(layer)):
        parts.append(f"lr mult: {rates[0]:.1f}, {rates[1]:.1f}")
    return parts


def _window(layer: Any) -> list[str]:
    if layer.type == "Pooling":
        param = layer.pooling_param
        sizes = [param.kernel_size, param.stride, param.pad]
    else:
        param = layer.convolution_param
        fields = ((param.kernel_size, 1), (param.stride, 1), (param.pad, 0))
        sizes = [field[0] if field else default for field, default in fields]
    return [f"{name}: {size}" for name, size in zip(("kernel size", "stride", "pad"), sizes, strict=True)]


def choose_color_by_layertype(layertype: str) -> str:
    """Return the colour of a layer's box."""
    return _COLOURS.get(layertype, "#6495ED")


def get_pydot_graph(
    caffe_net: Any, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Any:
    """Return the graph as a `pydot.Dot`; see `draw_net`. Raises: FusionError without pydot."""
    try:
        import pydot
    except ImportError as error:
        hint = "pip install pydot; draw_net and draw_net_to_file do without"
        raise FusionError("get_pydot_graph needs pydot", hint=hint) from error
    return pydot.graph_from_dot_data(_dot(caffe_net, rankdir, label_edges, phase, display_lrm))[0]


def draw_net(
    caffe_net: Any, rankdir: str, ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """Return the drawing of a net as a file's content.

    rankdir      "LR", "RL", "TB" or "BT": the direction from data to outputs
    ext          the format: "svg", "png", "pdf" and all others of Graphviz; "dot", "gv" and "raw" need no Graphviz
    phase        caffe_pb2.TRAIN or TEST: the layers of this phase; None: all
    display_lrm  state the factors of learning rates that are not 0

    Raises: FusionError without Graphviz for a format that needs it.
    """
    source = _dot(caffe_net, rankdir, True, phase, display_lrm).encode()
    if ext in _SOURCES:
        return source
    program = shutil.which("dot")
    if program is None:
        return _without_graphviz(caffe_net, ext, phase)
    ran = subprocess.run([program, f"-T{ext}"], input=source, capture_output=True, check=False)
    if ran.returncode:
        raise FusionError(f"Graphviz cannot draw the net as .{ext}: {ran.stderr.decode(errors='replace').strip()}")
    return ran.stdout


def draw_net_to_file(
    caffe_net: Any,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Write the drawing of a net, in the format of the name's ending; see `draw_net`."""
    path = os.fspath(filename)
    content = draw_net(caffe_net, rankdir, path[path.rfind(".") + 1 :], phase, display_lrm)
    with atomic_write(path) as file:
        file.write(content)


def _dot(caffe_net: Any, rankdir: str, label_edges: bool, phase: int | None, display_lrm: bool) -> str:
    """Return the graph in the language of Graphviz: boxes of layers, octagons of blobs."""
    separator = " " if rankdir in ("TB", "BT") else "\n"
    layers, blobs, arrows = [], dict[str, str](), []
    for number, layer in enumerate(layer for layer in caffe_net.layer if _is_drawn(layer, phase)):
        in_place = list(layer.bottom) == list(layer.top) and len(layer.top) == 1
        colour = _IN_PLACE if in_place else choose_color_by_layertype(layer.type)
        label = dot_string(separator.join(_label_parts(layer, display_lrm)))
        layers.append(f'  layer{number} [label={label}, shape=box, fillcolor="{colour}", style=filled];')
        for blob in (*layer.bottom, *layer.top):
            blobs.setdefault(blob, f"blob{len(blobs)}")
        arrows += [f"  {blobs[blob]} -> layer{number};" for blob in layer.bottom]
        text = get_edge_label(layer).strip('"') if label_edges else ""
        arrows += [f"  layer{number} -> {blobs[blob]} [label={dot_string(text)}];" for blob in layer.top]
    octagons = [f"  {name} [label={dot_string(blob)}, {_BLOB}];" for blob, name in blobs.items()]
    head = [f"digraph {dot_string(caffe_net.name or 'Net')} {{", f"  rankdir={rankdir};"]
    return "\n".join([*head, *layers, *octagons, *arrows, "}"]) + "\n"


def _is_drawn(layer: Any, phase: int | None) -> bool:
    """Return whether a layer is present in a phase, as far as its rules name phases. Raises: ValueError."""
    if layer.include and layer.exclude:
        raise ValueError(f"layer {layer.name} has both include and exclude specified.")
    if phase is None:
        return True
    met = any(not rule.HasField("phase") or rule.phase == phase for rule in layer.include or layer.exclude)
    return met if layer.include else not met


def _without_graphviz(caffe_net: Any, ext: str, phase: int | None) -> bytes:
    """Return the toolkit's own drawing, an SVG. Raises: FusionError for another format."""
    if ext != "svg":
        hint = "install Graphviz (its command is dot), or draw the net as .svg or .dot"
        raise FusionError(f"drawing a net as .{ext} needs Graphviz, which is not installed", hint=hint)
    from prototxt.drawing.nodes import diagram_of
    from prototxt.drawing.svg import to_svg
    from prototxt.schema.partial_load import load_partial
    from prototxt.summary.net_summary import list_net
    from prototxt.text.parser import parse

    name = caffe_pb2.Phase.Name(caffe_pb2.TEST if phase is None else phase)
    warnings.warn(f"Graphviz is not installed: the net of phase {name} is drawn from top to bottom", stacklevel=3)
    net = load_partial(parse(str(caffe_net), caffe_net.name or "net")).net
    return to_svg(diagram_of(list_net(net, name))).encode()
