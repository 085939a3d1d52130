"""Convert Caffe's files between text, protobuf, HDF5, safetensors and NumPy; the target's name selects the form."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prototxt.conversion.file_content import BINARY, BLOB, MESSAGES, NUMPY, SOLVER, STATE, TEXT, Content
from prototxt.conversion.forms import STREAM, check_conversion, describe_content, form_of
from prototxt.errors import WeightsError

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion beyond the change of form.

    upgrade   upgrade V0 and V1
    deploy    make the deploy net of a training net, with these inputs, outputs and stages
    net       net text that gives the order, types, bottoms and tops of the layers of weights
    """

    upgrade: bool = False
    deploy: bool = False
    inputs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    stages: Sequence[str] = ()
    net: PathLike | None = None


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion: descriptions of the two files, and notes, one sentence each."""

    source: str
    target: str
    notes: tuple[str, ...] = ()


def convert(source: PathLike, target: PathLike, request: ConvertOptions | None = None) -> Conversion:
    """Convert a file, recognised by its content, to the form of the target's name; `-` is text on stdout.

    The target is replaced atomically and may be the source. Weights are streamed.

    Raises: PrototxtError with the reason and a remedy; OSError.
    """
    from prototxt.conversion.file_content import contents_of

    request = request or ConvertOptions()
    place = os.fspath(target)
    content = contents_of(source)
    form = form_of(place)
    check_conversion(content, os.fspath(source), place, upgrade=request.upgrade, deploy=request.deploy)
    if content.kind == STATE:
        notes = _state(source, target)
    elif content.kind == BLOB:
        notes = _blob(content, form, source, place)
    elif content.form == TEXT:
        notes = _text(content.kind, form, source, place, request)
    elif form == TEXT or content.kind == SOLVER:
        notes = _description(content.kind, form, source, place, request)
    elif content.form == form == BINARY:
        notes = _upgraded(source, place)
    else:
        notes = _weights(source, target, request)
    return Conversion(describe_content(content), describe_content(Content(content.kind, form)), tuple(notes))


def _text(kind: str, form: str, source: PathLike, target: str, request: ConvertOptions) -> list[str]:
    from prototxt.edit.deploy import deploy
    from prototxt.edit.upgrade_text import upgrade_text
    from prototxt.schema.decode import decode
    from prototxt.text.parser import parse_file

    doc = parse_file(source)
    notes: list[str] = []
    if request.deploy:
        deployed = deploy(doc, request.inputs, outputs=request.outputs, stages=request.stages)
        doc, notes = deployed.document, list(deployed.notes)
    elif request.upgrade:
        new = upgrade_text(doc, strict=False)
        notes = ["it is in today's form already"] if str(new) == str(doc) else []
        doc = new
    if form == TEXT:
        _write_text(target, str(doc))
        return notes
    with warnings.catch_warnings():
        if request.deploy or request.upgrade:
            warnings.simplefilter("ignore")  # the upgrade has warned already
        message = decode(doc, MESSAGES[kind], strict=False)
    _write_message(target, message)
    return notes


def _description(kind: str, form: str, source: PathLike, target: str, request: ConvertOptions) -> list[str]:
    """Convert a binary net or solver to text (or upgrade a binary solver), without the values of its blobs."""
    from prototxt.conversion.net_without_blobs import read_without_blobs
    from prototxt.edit.deploy import deploy
    from prototxt.schema.encode import to_text
    from prototxt.schema.upgrade import upgrade_net, upgrade_solver
    from prototxt.text.parser import parse

    notes: list[str] = []
    message: Any
    if kind == SOLVER:
        message = parse_binary(source, SOLVER)
        message = upgrade_solver(message) if request.upgrade else message
    else:
        skeleton = read_without_blobs(source)
        message = skeleton.net
        if skeleton.blob_count:
            notes.append(f"left out the values of {skeleton.blob_count} blobs: for these, name the target .h5")
        if request.upgrade or request.deploy:
            message = upgrade_net(message)
    if form != TEXT:
        _write_message(target, message)
        return notes
    text = to_text(message)
    if request.deploy:
        deployed = deploy(
            parse(text, os.fspath(source)), request.inputs, outputs=request.outputs, stages=request.stages
        )
        text, notes = str(deployed.document), [*notes, *deployed.notes]
    _write_text(target, text)
    return notes


def _upgraded(source: PathLike, target: str) -> list[str]:
    from prototxt.conversion.net_without_blobs import read_without_blobs, write_upgraded

    skeleton = read_without_blobs(source)
    if not (skeleton.net.layers or skeleton.net.layer):
        raise WeightsError("the net has no layers", place=os.fspath(source), hint="check that this file is a net")
    count = write_upgraded(skeleton, target)
    return [f"{count} layers, {skeleton.blob_count} blobs copied unchanged"]


def _weights(source: PathLike, target: PathLike, request: ConvertOptions) -> list[str]:
    from prototxt.formats.weights import layers_of, read_weights, save_layers
    from prototxt.schema.duplicate_names import check_layer_names
    from prototxt.schema.load import load_net

    weights = read_weights(source)
    net = load_net(request.net, strict=False) if request.net is not None else None
    if net is not None:
        check_layer_names(net)
    layers = layers_of(weights, net, os.fspath(target))
    save_layers(os.fspath(target), layers, name=net.name if net is not None else weights.scan.name)
    return [f"{sum(bool(blobs) for _, blobs in layers)} layers, {sum(len(blobs) for _, blobs in layers)} blobs"]


def _state(source: PathLike, target: PathLike) -> list[str]:
    from prototxt.formats.solverstate import read_solverstate, write_solverstate

    state = read_solverstate(source)
    write_solverstate(target, state)
    return [f"iteration {state.iter}, {len(state.history)} blobs of history"]


def _blob(content: Content, form: str, source: PathLike, target: str) -> list[str]:
    """Convert a mean image between protobuf, text and a NumPy array [C, H, W]."""
    from prototxt.schema.decode import decode
    from prototxt.schema.encode import to_text
    from prototxt.text.parser import parse_file

    if content.form == NUMPY:
        return _from_numpy(source, target)
    if form == NUMPY:
        return _to_numpy(source, target, content)
    if content.form == TEXT:
        _write_message(target, decode(parse_file(source), MESSAGES[BLOB]))
    else:
        _write_text(target, to_text(parse_binary(source, BLOB)))
    return []


def _from_numpy(source: PathLike, target: str) -> list[str]:
    from prototxt.formats.datum import write_mean
    from prototxt.formats.numpy_files import read_npy

    if form_of(target) != BINARY:
        raise WeightsError("a NumPy array becomes a mean image", place=target, hint="name the target .binaryproto")
    try:
        values = read_npy(source)
    except ValueError as error:
        hint = "save the array with numpy.save, as numbers"
        raise WeightsError(f"NumPy cannot read the array: {error}", place=os.fspath(source), hint=hint) from None
    if values.dtype.kind not in "fiu":
        hint = "save it as float32"
        raise WeightsError(f"a mean image is numbers, not {values.dtype}", place=os.fspath(source), hint=hint)
    write_mean(target, values.reshape(values.shape[-3:]) if values.size and values.shape[:-3] == (1,) else values)
    return [f"shape {'x'.join(map(str, values.shape))}"]


def _to_numpy(source: PathLike, target: str, content: Content) -> list[str]:
    import numpy as np

    from prototxt.files import atomic_write
    from prototxt.formats.datum import read_mean

    if content.form != BINARY:
        hint = "convert the text to .binaryproto first"
        raise WeightsError("only a binary mean image becomes an array", place=os.fspath(source), hint=hint)
    mean = read_mean(source)
    array = io.BytesIO()  # into a file, NumPy writes by a way of its own, whose errors have neither name nor number
    np.save(array, mean, allow_pickle=False)
    with atomic_write(target, least=len(array.getbuffer())) as file:
        file.write(array.getbuffer())
    return [f"shape {'x'.join(map(str, mean.shape))}"]


def parse_binary(path: PathLike, kind: str) -> Any:
    """Read a whole binary message. Raises: WeightsError if it is damaged."""
    from google.protobuf.message import DecodeError

    from prototxt.conversion.net_without_blobs import mend_strings
    from prototxt.schema import messages

    with open(path, "rb") as file:
        data = file.read()
    try:
        message = getattr(messages, MESSAGES[kind]).FromString(data)
    except DecodeError as error:
        hint = "the file is cut off or damaged: fetch or copy it again"
        raise WeightsError(f"this is not {MESSAGES[kind]}: {error}", place=os.fspath(path), hint=hint) from None
    mend_strings(message, os.fspath(path))
    return message


def _write_message(target: str, message: Any) -> None:
    from prototxt.files import atomic_write
    from prototxt.formats.caffemodel import check_size

    check_size(target, message.ByteSize())
    with atomic_write(target) as file:
        file.write(message.SerializeToString(deterministic=True))


def _write_text(target: str, text: str) -> None:
    if target == STREAM:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    else:
        from prototxt.files import write_text

        write_text(target, text)
