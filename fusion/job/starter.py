"""The first version of a job: written from the nets and the data, with a comment for each decision that is left."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fusion.composition.branches import cut_candidates
from fusion.composition.compose import compose_with
from fusion.composition.config import toml_literal
from fusion.composition.converted_sources import ConvertedNets, convert_source
from fusion.composition.options import ComposeOptions
from fusion.composition.pixels import PIXELS
from fusion.composition.prepared_source import prepare_source
from fusion.composition.source import Source
from fusion.conversion.net_names import holds_its_weights, net_files
from fusion.conversion.onnx_files import onnx_path
from fusion.data.image_list import ImageList, read_list
from fusion.errors import ComposeError
from prototxt.text.class_names import class_names_of
from prototxt.text.parser import parse_file

_COMMON = (
    "train_val",
    "train",
    "deploy",
    "net",
    "model",
    "weights",
    "best",
)  # names of files that do not tell one net from another
_SHOWN = 8
_PASSES, _LEAST = 20, 1000  # over the training records; iterations
_BATCH = 50


@dataclass
class _Starter:
    """A job in the making.

    questions  the decisions that are left to the user
    """

    data: ImageList
    lines: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    @property
    def num_output(self) -> int:
        return len(self.data.classes) or int(self.data.labels.max()) + 1

    def ask(self, prefix: str, key: str, choices: str) -> None:
        """Write a commented line with the choices."""
        self.lines.append(f"# {key} = ...  # {choices}")
        self.questions.append(f"{prefix}: {key}")


def starter_text(nets: Sequence[tuple[str, str | None]], data: str, output: str) -> tuple[str, tuple[str, ...]]:
    """Return a job as TOML, and the decisions that are left, such as "even: classes".

    nets    prototxt and weights, or an ONNX file or PyTorch net and None
    data    a list of training images or a folder of class folders
    output  the job's folder
    Raises: ComposeError, PrototxtError, DataError, OSError for files that cannot be read.
    """
    job = _Starter(read_list(data))
    names = f": {', '.join(job.data.classes)}" if job.data.classes else ""
    job.lines += [
        "# A job: `fusion run` with this file composes, trains, tests, reports and exports. Every key: docs/run.md",
        f"num_output = {job.num_output}  # the classes of {data}{names}",
        f"output = {toml_literal(output)}",
        'pct = "auto"  # losses that keep the answers that the nets have right; or [[pct]] with kind = "focal"',
    ]
    prefixes = prefixes_of([net for net, _ in nets])
    for prefix, (net, weights) in zip(prefixes, nets, strict=True):
        _add_source(job, prefix, net, weights)
    job.lines += ["", "[data]", f"train_list = {toml_literal(data)}"]
    for key, words in (("val_list", ("val", "valid", "validation")), ("test_list", ("test",))):
        if found := _beside(data, words):
            job.lines.append(f"{key} = {toml_literal(found)}")
        elif key == "val_list":
            job.lines.append("val_share = 0.1  # of each class of these images is kept back for validation")
        else:
            job.lines.append("# test_list = ...  # else the validation images")
    iterations = max(_PASSES * len(job.data.names) // _BATCH, _LEAST)
    job.lines += ["", "[solver]", f"max_iter = {iterations}"]
    job.lines += [
        "",
        "# [gate]",
        '# max_nfr = "1%"  # of answers that only the originals have right; exit code 3 if exceeded',
    ]
    return "\n".join(job.lines) + "\n", tuple(job.questions)


def _add_source(job: _Starter, prefix: str, net: str, weights: str | None) -> None:
    job.lines += ["", "[[source]]", f"prefix = {toml_literal(prefix)}", f"net = {toml_literal(net)}"]
    job.lines += [f"weights = {toml_literal(weights)}"] if weights else []
    source = Source(prefix, net, weights=weights)
    try:
        found = prepare_source(convert_source(source, ConvertedNets(), None)[0], reference=True)
    except ComposeError as error:
        job.ask(prefix, "at", f"{error.message}; {error.hint}")
        return
    candidates = _candidates(net) or cut_candidates(found.raw)
    taken = (*found.plain, str(found.logits).removeprefix(f"{prefix}/"))
    others = ", ".join([blob for blob in candidates if blob not in taken][:_SHOWN])
    job.lines.append(f"at = {toml_literal(found.plain[0])}  # what its classifier reads{others and f'; or {others}'}")
    if not found.data_layers:
        job.ask(prefix, "pixels", f"its images: {', '.join(toml_literal(name) for name in PIXELS)}, or mean:...")
    _add_classes(job, source, () if holds_its_weights(net) else class_names_of(parse_file(net)).names)


def _add_classes(job: _Starter, source: Source, names: Sequence[str]) -> None:
    """Write the classes of a source where they are certain: by its net's names of them, or as composing finds them."""
    known = job.data.classes
    options = ComposeOptions(
        num_output=job.num_output, references=True, train_list=job.data.path, val_list=job.data.path
    )
    if names and set(names) <= set(known):
        job.lines.append(f"classes = {toml_literal(list(names))}")
        return
    try:
        branch = compose_with([source], options).overview.branches[0]
    except ComposeError as error:
        choices = ", ".join(map(toml_literal, known)) or f"numbers from 0 to {job.num_output - 1}"
        job.ask(source.prefix, "classes", f"{error.message}; name them in the order of its scores, of: {choices}")
    else:
        shown = [known[number] for number in branch.classes] if known else list(branch.classes)
        job.lines.append(f"classes = {toml_literal(shown)}")


def prefixes_of(nets: Sequence[str]) -> list[str]:
    """Return a name for each net: its file's, or that of its folder if the file has a common name."""
    found: list[str] = []
    for net in nets:
        path = Path(net_files(net)[-1] if net_files(net) else net)
        stem = path.parent.name if path.stem in _COMMON and path.parent.name else path.stem
        stem = re.sub(rf"[_.-]({'|'.join(_COMMON)})$", "", stem)
        name = re.sub(r"\W+", "_", stem).strip("_") or "net"
        found.append(name if name not in found else f"{name}{len(found) + 1}")
    return found


def _beside(data: str, words: Sequence[str]) -> str | None:
    """Return the list or folder for validation or test beside the one to train on: train_all.txt, val_all.txt."""
    folder, name = os.path.split(data.rstrip("/"))
    paths = [os.path.join(folder, re.sub("train(ing)?", word, name)) for word in words]
    return next((path for path in paths if path != data.rstrip("/") and os.path.exists(path)), None)


def _candidates(net: str) -> list[str]:
    """Return the values of an ONNX file or PyTorch net at which it can be cut."""
    if not holds_its_weights(net):
        return []
    from fusion.onnx.graphs import load_graph
    from fusion.onnx.graphs.cut import feature_values

    return [name.lstrip("/") for name, _ in feature_values(load_graph(onnx_path(net)))]
