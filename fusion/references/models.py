"""Opened references: functions from a batch to logits, with their classes and provenance."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fusion.conversion.net_names import TORCH_NET, holds_its_weights, is_onnx_path, net_files
from fusion.conversion.onnx_files import onnx_path
from fusion.data.in_step_sources import as_follower, leader_of
from fusion.data.net_classes import classes_of_nets
from fusion.errors import DataError, TrainingError
from fusion.nets.build import build, restrict_to_blobs
from fusion.nets.graph import needed_inputs
from fusion.nets.weights import load_weights
from fusion.pct.losses import mean_logits
from fusion.pct.predictions import Predictions
from fusion.pct.provenance import file_hash
from fusion.references.class_scores import check_class_scores
from fusion.references.parse import Reference, with_unique_names
from fusion.references.pixels import StudentBlob, pixel_converter
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net

if TYPE_CHECKING:
    from fusion.data import DataSource
    from fusion.onnx.graphs import Graph
    from prototxt.schema.messages import LayerParameter, NetParameter

Blobs = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Answer = Callable[[Blobs], Tensor]
_TABLES = (".npz", ".csv", ".parquet")
_WEIGHTS = (".caffemodel", ".h5", ".safetensors")


@dataclass(frozen=True, eq=False)
class Model:
    """A reference, or an ensemble of several.

    members      nets or files, whose logits are averaged
    classes      the new net's class of each logit; empty: the same classes
    """

    name: str
    members: tuple[EnsembleMember, ...]
    classes: tuple[int, ...]

    @property
    def spec(self) -> Reference:
        """Return the specification; of an ensemble, that of its first member."""
        return self.members[0].spec

    @property
    def blob(self) -> str:
        """Return the blob of the net in training that contains its logits."""
        return self.spec.blob or "" if self.members[0].in_graph else f"reference/{self.name}"


@dataclass(frozen=True, eq=False)
class EnsembleMember:
    """One net or file.

    answer     from the batch's blobs to logits [N, K] on the CPU; None for a file and for a blob of the graph
    file       stored predictions
    hashes     of net and weights, stored with cached logits
    """

    spec: Reference
    answer: Answer | None = None
    file: Predictions | None = None
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def in_graph(self) -> bool:
        """Return whether it is a blob of the net in training."""
        return self.answer is None and self.file is None


def open_models(
    references: Sequence[Reference], source: DataSource | Shapes, device: torch.device, net: NetParameter | None = None
) -> list[Model]:
    """Open all references; those of one ensemble become one model.

    source  their input: one data layer, or several in step; or the shapes of its blobs, images first
    net     with the data layers; without it, the transform of their blobs from pixels is not known
    Raises: TrainingError; prototxt's and torch's errors for the files.
    """
    groups: dict[str, list[EnsembleMember]] = {}
    for spec in with_unique_names(references):
        member = _open(spec, _InputShapes(spec, source, net), device)
        groups.setdefault(spec.ensemble or spec.name, []).append(member)
    return [_model(name, members) for name, members in groups.items()]


def combine_logits(model: Model, logits: Sequence[Tensor]) -> Tensor:
    """Average the members' logits [N, K]; those of different classes are averaged as log-probabilities."""
    shares = [member.spec.weight for member in model.members]
    if len(logits) == 1:
        return logits[0]
    if len({tuple(member.spec.classes) for member in model.members}) == 1:
        return mean_logits(logits, shares)
    # Logits of nets with different classes have different scales, so probabilities within each one's classes count.
    total = torch.zeros(len(logits[0]), len(model.classes))
    weight = torch.zeros(len(model.classes))
    for member, values, share in zip(model.members, logits, shares, strict=True):
        columns = torch.tensor([model.classes.index(c) for c in member.spec.classes])
        total[:, columns] += share * torch.log_softmax(values.float(), 1)
        weight[columns] += share
    return total / weight


def _model(name: str, members: list[EnsembleMember]) -> Model:
    if len(members) > 1:
        members = _with_share(name, members)
    sets = [tuple(member.spec.classes) for member in members]
    if len(members) > 1 and any(member.in_graph for member in members):
        raise TrainingError(f"ensemble '{name}': a blob of the graph cannot be a member", hint="use --pct elodi")
    if len(set(sets)) == 1:
        return Model(name, tuple(members), sets[0])
    if not all(sets):
        raise TrainingError(f"ensemble '{name}': members of different classes", hint="give each its classes=...")
    return Model(name, tuple(members), tuple(sorted({c for classes in sets for c in classes})))


def _with_share(name: str, members: Sequence[EnsembleMember]) -> list[EnsembleMember]:
    """Return the members with a weight above 0; a single one gets weight 1. Raises: TrainingError without any."""
    # A class that only members of weight 0 know would be 0 / 0.
    weighted = [member for member in members if member.spec.weight > 0]
    if not weighted:
        raise TrainingError(f"ensemble '{name}': every member has weight 0", hint="give one a weight above 0")
    return weighted if len(weighted) > 1 else [replace(weighted[0], spec=replace(weighted[0].spec, weight=1.0))]


class _InputShapes(dict[str, tuple[int, ...]]):
    """The shapes of the blobs that a reference may read, images first: all, or the one of its option `input`.

    images  names of the image blobs
    layers  data layers of the student, as far as they are known
    """

    def __init__(self, spec: Reference, source: DataSource | Shapes, net: NetParameter | None) -> None:
        blobs, labels = (source, [*source][1:]) if isinstance(source, dict) else (source.shapes, source.label_tops)
        images = [top for top in blobs if top not in labels]
        if spec.input is not None and spec.input not in images:
            raise TrainingError(
                f"reference '{spec.name}': no data layer provides '{spec.input}'", hint=_choices(images)
            )
        self.images = images if spec.input is None else [spec.input]
        super().__init__((top, blobs[top]) for top in (*self.images, *labels))
        self.layers = [] if net is None else [layer for layer in net.layer if layer.top and not layer.bottom]

    def first(self, spec: Reference) -> str:
        """Return the only image blob. Raises: TrainingError where there are several."""
        if len(self.images) > 1:
            given = ", ".join(self.images)
            raise TrainingError(
                f"reference '{spec.name}' takes one image blob, and the data layers provide {given}",
                hint=_choices(self.images),
            )
        return next(iter(self))

    def student_blob(self, top: str) -> StudentBlob:
        """Return a blob of the net in training."""
        layer = next((layer for layer in self.layers if top in layer.top), None)
        leader = None if layer is None else leader_of(layer, self.layers)
        return StudentBlob(self[top], layer if layer is None or leader is None else as_follower(layer, leader))


def _choices(images: Sequence[str]) -> str:
    return f"name the one that it reads: {' or '.join(f'input={top}' for top in images)}"


def _open(spec: Reference, shapes: _InputShapes, device: torch.device) -> EnsembleMember:
    net = spec.net
    stored = isinstance(net, Predictions) or str(net).endswith(_TABLES)
    if spec.pixels is not None and (net is None or stored):
        kind = "a blob of the graph" if net is None else "stored logits"
        raise TrainingError(f"reference '{spec.name}': the option pixels is for nets, not for {kind}")
    if net is None:
        return EnsembleMember(spec)
    if isinstance(net, Predictions):
        return EnsembleMember(spec, file=net)
    if isinstance(net, nn.Module):
        answer = _from_module(net, spec, shapes, device)
        return _with_pixels(
            spec, answer, {"net": _class(net), "weights": _state(net)}, shapes, {shapes.first(spec): None}
        )
    path = os.fspath(net)
    if path.endswith(_TABLES):
        return EnsembleMember(spec, file=Predictions.load(path))
    if holds_its_weights(path):
        answer = _from_module(_onnx(spec, path, shapes), spec, shapes, device)
        files = [file_hash(file) for file in net_files(path)]
        # the name of a PyTorch net belongs to it: its class and options are in there
        net_hash = files[0] if is_onnx_path(path) else hashlib.sha256("".join([path, *files]).encode()).hexdigest()
        hashes = {"net": net_hash, "weights": files[-1]}
        return _with_pixels(spec, answer, hashes, shapes, {shapes.first(spec): None})
    if path.lower().endswith(_WEIGHTS):
        hint = f"give NET.prototxt:WEIGHTS, NET.onnx or {TORCH_NET}; in Python a Reference takes any module"
        raise TrainingError("a reference needs its net, not its weights alone", place=path, hint=hint)
    return _caffe(spec, path, shapes, device)


def _with_pixels(
    spec: Reference,
    answer: Answer,
    hashes: dict[str, str],
    shapes: _InputShapes,
    layers: Mapping[str, LayerParameter | None],
) -> EnsembleMember:
    """Return a net as a member that converts images to the pixel format of its training.

    layers  its own data layer, if it has one, by image blob
    """
    converters = {
        top: pixel_converter(spec.name, spec.pixels, own, shapes.student_blob(top)) for top, own in layers.items()
    }
    needed = {top: convert for top, convert in converters.items() if convert is not None}
    # The hashes of net and data already include the transforms of data layers.
    options = {"pixels": spec.pixels} if spec.pixels is not None and needed else {}
    hashes = {**hashes, **options, **({} if spec.input is None else {"input": spec.input})}
    if not needed:
        return EnsembleMember(spec, answer, hashes=hashes)

    def prepared(blobs: Blobs) -> Tensor:
        return answer({**blobs, **{top: convert(blobs[top]) for top, convert in needed.items()}})

    return EnsembleMember(spec, prepared, hashes=hashes)


def _check_folder_classes(spec: Reference, own: NetParameter, shapes: _InputShapes) -> None:
    """Check that the reference's class folders, if it reads such, are the student's. Raises: TrainingError."""
    student = type(own)()
    student.layer.extend(shapes.layers)
    try:
        classes_of_nets([student, own])
    except DataError as error:
        message = f"reference '{spec.name}': {error.place}: {error.message}"
        hint = "name the net's class of each of its scores, in their order: classes=N,N,..."
        raise TrainingError(message, hint=hint) from error


def _caffe(spec: Reference, path: str, shapes: _InputShapes, device: torch.device) -> EnsembleMember:
    whole = load_net(path)
    if not spec.classes:
        _check_folder_classes(spec, whole, shapes)
    message = filter_net(whole, "TEST")
    data = [layer for layer in message.layer if layer.top and not layer.bottom]
    tops = [top for layer in data for top in layer.top]
    if len({layer.top[0] for layer in data}) == 1:
        shapes.first(spec)  # an error here is clearer than one about weights of another shape
    known = {top: shapes.get(top) or next(iter(shapes.values())) for top in tops[:1]}
    net = build(message, "TEST", shapes={**known, **{top: shapes[top] for top in tops if top in shapes}})
    for weights in spec.weights:
        report = load_weights(net, weights)
        if report.missing:
            raise TrainingError(
                f"reference '{spec.name}': no weights for {', '.join(report.missing)}",
                place=os.fspath(weights),
                hint="a reference must be trained; give the weights of its prototxt",
            )
    blob = spec.blob or class_scores_blob(message, path)
    check_class_scores(message, blob, path)
    part = restrict_to_blobs(net, [blob])
    part.requires_grad_(False).to(device)
    needed = needed_inputs(part.plan)
    sources = _sources(spec, needed, shapes)
    (output,) = (key for key, _ in part.plan.outputs)

    @torch.no_grad()
    def answer(blobs: Blobs) -> Tensor:
        return part({key: blobs[top].to(device) for key, top in sources.items()})[output].flatten(1).float().cpu()

    hashes = {
        "net": file_hash(path),
        "weights": hashlib.sha256("".join(map(file_hash, spec.weights)).encode()).hexdigest()
        if len(spec.weights) != 1
        else file_hash(spec.weights[0]),
    }
    own = {top: layer for layer in data for top in layer.top}
    read = {top: own.get(key) for key, top in sources.items() if top in shapes.images}
    return _with_pixels(spec, answer, hashes, shapes, read or {shapes.images[0]: None})


def _onnx(spec: Reference, path: str, shapes: _InputShapes) -> nn.Module:
    """Return the file's net up to the named value, or the class scores before any softmax. Raises: OnnxError."""
    from fusion.onnx.graphs import cut, image_entries, load_graph, scores_value
    from fusion.onnx.to_torch import OnnxNet

    path = onnx_path(path, tuple(shapes[shapes.first(spec)][1:]))
    graph = load_graph(path)
    shape = shapes[shapes.first(spec)][1:]
    if _takes_rows(graph):
        if len(shape) == 3 and shape[0] != 1:
            size = "x".join(map(str, shape))
            message = f"reference '{spec.name}' takes rows of numbers, and the data are colour images of {size}"
            hint = "the order of their values in such a row is not known: read grey images, or rows from HDF5 files"
            raise TrainingError(message, place=path, hint=hint)
        shape = (math.prod(shape),)
    if len(graph.inputs) == 1 and image_entries(graph).keys() == set(image_entries(graph).values()):
        graph = load_graph(path, {next(iter(graph.inputs)): (None, *shape)})
    blob = spec.blob or scores_value(graph)
    if blob.isdecimal() and int(blob) < len(graph.outputs) and blob not in graph.shapes:
        blob = graph.outputs[int(blob)]  # outputs may be given by index
    net = OnnxNet(cut(graph, [blob], [image_entries(graph)[name] for name in cut(graph, [blob]).inputs]), frozen=True)
    return nn.Sequential(nn.Flatten(), net) if _takes_rows(graph) else net


def _takes_rows(graph: Graph) -> bool:
    """Return whether each sample of the graph's only input is a row of numbers."""
    return len(graph.inputs) == 1 and len(next(iter(graph.inputs.values()))) == 2


def class_scores_blob(
    message: NetParameter, path: str | None = None, hint: str = "name it: NET.prototxt:WEIGHTS@BLOB"
) -> str:
    """Return the bottom of the net's losses on classes, or else of its Softmax. Raises: TrainingError unless unique."""
    for types in (("SoftmaxWithLoss", "InfogainLoss", "HingeLoss"), ("Accuracy",), ("Softmax",)):
        bottoms = {layer.bottom[0] for layer in message.layer if layer.type in types}
        if len(bottoms) == 1:
            return bottoms.pop()
    for layer in message.layer:
        if layer.bottom and not bottoms:
            check_class_scores(message, layer.bottom[0], path)
    raise TrainingError("which blob holds the class scores?", place=path, hint=hint)


def _sources(spec: Reference, needed: Sequence[str], shapes: _InputShapes) -> dict[str, str]:
    """Return the blob of the data layer for each of the reference's inputs."""
    if len(needed) == 1:
        first = shapes.first(spec)
        return {needed[0]: needed[0] if needed[0] in shapes else first}
    absent = [key for key in needed if key not in shapes]
    if absent:
        raise TrainingError(
            f"reference '{spec.name}' needs {', '.join(absent)}; the data layer provides {', '.join(shapes)}"
        )
    return {key: key for key in needed}


def _from_module(module: nn.Module, spec: Reference, shapes: _InputShapes, device: torch.device) -> Answer:
    module.eval().requires_grad_(False).to(device)
    top = shapes.first(spec)
    # Inputs get the type of the weights: half-precision modules reject float32.
    kind = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)

    @torch.no_grad()
    def answer(blobs: Blobs) -> Tensor:
        out: Any = module(blobs[top].to(device, kind))
        if isinstance(out, dict):
            out = out[spec.blob or next(iter(out))]
        elif isinstance(out, (tuple, list)):
            out = out[int(spec.blob or 0)]
        return torch.as_tensor(out).flatten(1).float().cpu()

    return answer


def _class(module: nn.Module) -> str:
    return hashlib.sha256(repr(module).encode()).hexdigest()


def _state(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):  # as bytes: NumPy has no bfloat16
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
