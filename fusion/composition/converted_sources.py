"""PyTorch nets among the sources, and sources to be Caffe layers: converted, and written beside the fused net.

fused/b.onnx                          a PyTorch net, which an `Onnx` layer of the fused net runs
fused/b.prototxt, fused/b.caffemodel  the same, or an ONNX file, as Caffe layers (`as_caffe`)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.composition.net_text import quoted, read_net, reparse
from fusion.composition.source import Source
from fusion.conversion.net_names import is_onnx_path, is_torch_net
from fusion.conversion.onnx_files import onnx_path
from fusion.errors import ComposeError, FusionError
from prototxt.text.edits import Edits
from prototxt.text.tree import Document

if TYPE_CHECKING:
    from fusion.onnx.to_caffe import CaffeNet


@dataclass(frozen=True)
class ConvertedNets:
    """The nets that were converted, by the prefixes of their sources.

    onnx   path of the temporary ONNX file
    caffe  the net in Caffe layers, as its source has it, and the converted one with its weights
    """

    onnx: dict[str, str] = field(default_factory=dict)
    caffe: dict[str, tuple[Document, CaffeNet]] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """Return the names of the files that `write` writes."""
        return (
            *(f"{prefix}.onnx" for prefix in self.onnx),
            *(f"{prefix}.{end}" for prefix in self.caffe for end in ("prototxt", "caffemodel")),
        )

    def with_own_names(self, net: Document) -> Document:
        """Return the net, reading the files by the names that they get, as if in their folder."""
        return _with_files(net, {path: f"{prefix}.onnx" for prefix, path in self.onnx.items()})

    def in_folder(self, net: Document, folder: Path) -> Document:
        """Return a net of `with_own_names`, reading the files in a folder."""
        names = [f"{prefix}.onnx" for prefix in self.onnx]
        return _with_files(net, {name: (folder / name).as_posix() for name in names})

    def write(self, folder: Path) -> tuple[Path, ...]:
        """Write the files into a folder. Raises: OSError."""
        from prototxt.files import atomic_write, write_text
        from prototxt.formats.weights import write_weights

        for name in self.names():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)  # a prefix may contain '/'
        for prefix, path in self.onnx.items():
            written = folder / f"{prefix}.onnx"
            beside = Path(f"{path}.data")  # tensors of files above 2 GB, found by the name in the file
            for source, target in ((beside, written.with_name(beside.name)), (Path(path), written)):
                if source.exists():
                    with source.open("rb") as given, atomic_write(target) as file:
                        shutil.copyfileobj(given, file)
        for prefix, (document, made) in self.caffe.items():
            write_weights(folder / f"{prefix}.caffemodel", made.weights, net=made.net)
            write_text(folder / f"{prefix}.prototxt", str(document))
        return tuple(folder / name for name in self.names())


def _with_files(net: Document, renamed: dict[str, str]) -> Document:
    if not renamed:
        return net
    edits = Edits(net)
    for layer in read_net(net).layers:
        for param in layer.message.messages("onnx_param"):
            for scalar in param.scalars("file"):
                if scalar.value in renamed:
                    edits.replace(scalar, quoted(renamed[scalar.value]))
    return edits.apply()


def convert_source(source: Source, nets: ConvertedNets, input_shape: Sequence[int] | None) -> tuple[Source, list[str]]:
    """Return a source as a prototxt or an ONNX file, and notes; adds what was converted to `nets`.

    input_shape  C, H, W of a PyTorch net's input, where its own is not wanted
    Raises: ComposeError; OSError.
    """
    whole = source.prototxt
    foreign = not isinstance(whole, Document) and (is_onnx_path(whole) or is_torch_net(whole))
    is_torch = source.module is not None or (not isinstance(whole, Document) and is_torch_net(whole))
    if source.module is not None and whole:
        raise ComposeError(f"{source} has both a module and a file", hint="give one of them")
    if source.as_caffe and not (foreign or is_torch):
        raise ComposeError(
            f"{source}: as_caffe is for ONNX files and PyTorch nets", hint="a prototxt is Caffe's already"
        )
    if (foreign or is_torch) and source.weights is not None:
        raise ComposeError(f"{source} holds its weights", place=str(source.weights), hint="leave these out")
    if not is_torch and not source.as_caffe:
        return source, []
    try:
        path = _exported(source, input_shape) if is_torch else os.fspath(str(whole))
        if not source.as_caffe:
            nets.onnx[source.prefix] = path
            return replace(source, prototxt=path, module=None, example=None), []
        return _as_caffe(source, path, nets, input_shape)
    except FusionError as error:
        raise ComposeError(f"{source}: {error.message}", place=error.place, hint=error.hint) from error


def _exported(source: Source, input_shape: Sequence[int] | None) -> str:
    if source.module is not None:
        from fusion.conversion.export_module import module_onnx

        return module_onnx(source.module, source.example)
    return onnx_path(str(source.prototxt), tuple(input_shape) if input_shape else None)


def _as_caffe(
    source: Source, path: str, nets: ConvertedNets, input_shape: Sequence[int] | None
) -> tuple[Source, list[str]]:
    from fusion.conversion.caffe_nets import to_caffe
    from fusion.onnx.graphs import load_graph
    from prototxt.schema.encode import to_text

    open_inputs = [name for name, dims in load_graph(path).inputs.items() if None in dims[1:]]
    made = to_caffe(path, shapes=dict.fromkeys(open_inputs, (None, *input_shape)) if input_shape else None)
    document = reparse(to_text(made.net), f"{source.prefix}.prototxt")
    nets.caffe[source.prefix] = (document, made)
    notes = [f"{source}: {note}" for note in made.notes]
    notes.append(f"{source}: its weights are in {source.prefix}.caffemodel, beside the fused net")
    return replace(source, prototxt=document, as_caffe=False, module=None, example=None), notes
