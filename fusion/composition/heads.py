"""What joins the branches and scores the classes: each head as plain Caffe layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fusion.composition.pieces import layer_text
from fusion.errors import ComposeError

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Features:
    """A cut blob: which source it is of, its name, and its shape if that is known."""

    prefix: str
    blob: str
    shape: Shape | None

    @property
    def width(self) -> int | None:
        """Values per sample, None if unknown."""
        width: int | None = 1
        for dim in self.shape[1:] if self.shape else (None,):
            width = None if dim is None or width is None else width * dim
        return width


@dataclass(frozen=True)
class Request:
    """What a head is asked for.

    features    the cut blobs
    num_output  classes of the fused net
    joined      name of the blob that holds all features
    classifier  name of the layer and blob with the class scores
    hidden      width of the hidden layer or of the projections, None for the head's own choice
    scores      for `logits`: per source its blob with class scores, and the fused classes that these stand for
    """

    features: Sequence[Features]
    num_output: int
    joined: str
    classifier: str
    hidden: int | None = None
    scores: Mapping[str, tuple[str, Sequence[int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """A head's layers as text, the blob with the class scores, and what was chosen."""

    text: str
    logits: str
    notes: tuple[str, ...] = ()


def concat_fc(request: Request) -> Head:
    """Concatenate the features and put one fully connected layer on top, as the tutorial does."""
    text, notes = _joined(request)
    classifier = _dense(request.classifier, request.joined, request.classifier, request.num_output)
    return Head("\n".join([*text, classifier]), request.classifier, tuple(notes))


def concat_mlp(request: Request) -> Head:
    """Concatenate the features, then a hidden layer with ReLU, then the scores."""
    text, notes = _joined(request)
    hidden = request.hidden or 500
    notes.append(f"head: hidden layer 'hidden' of width {hidden}")
    text += [
        _dense("hidden", request.joined, "hidden", hidden),
        layer_text("relu_hidden", "ReLU", ["hidden"], ["hidden"]),
        _dense(request.classifier, "hidden", request.classifier, request.num_output),
    ]
    return Head("\n".join(text), request.classifier, tuple(notes))


def add(request: Request) -> Head:
    """Add the features up."""
    return _elementwise(request, "operation: SUM")


def mean(request: Request) -> Head:
    """Average the features."""
    share = f"{1 / len(request.features):.9g}"
    return _elementwise(request, "\n".join(["operation: SUM", *([f"coeff: {share}"] * len(request.features))]))


def maximum(request: Request) -> Head:
    """Take the largest of the features, element by element."""
    return _elementwise(request, "operation: MAX")


def logits(request: Request) -> Head:
    """Average the sources' own log-probabilities, each class over the sources that know it; nothing is trained.

    Runs of classes that the same sources know in the same order are sliced out, averaged, and put together again.
    """
    _check_scores(request)
    owners = [
        tuple((prefix, classes.index(number)) for prefix, (_, classes) in request.scores.items() if number in classes)
        for number in range(request.num_output)
    ]
    runs = _runs(owners)
    text = []
    pieces: dict[tuple[str, int], str] = {}
    for prefix, (blob, _) in request.scores.items():
        text += [
            layer_text(f"{prefix}_prob", "Softmax", [blob], [f"{prefix}_prob"]),
            layer_text(f"{prefix}_log_prob", "Log", [f"{prefix}_prob"], [f"{prefix}_log_prob"], _LOG_FLOOR),
        ]
        starts = sorted({position for run in runs for owner, position in owners[run[0]] if owner == prefix} | {0})
        if len(starts) == 1:
            pieces[prefix, 0] = f"{prefix}_log_prob"
            continue
        for start in starts:
            pieces[prefix, start] = f"{prefix}_from_{start}"
        body = "\n".join(["slice_param {", "  axis: 1", *(f"  slice_point: {start}" for start in starts[1:]), "}"])
        text.append(
            layer_text(f"{prefix}_slice", "Slice", [f"{prefix}_log_prob"], [pieces[prefix, s] for s in starts], body)
        )
    columns = []
    for first, last in runs:
        blobs = [pieces[owner] for owner in owners[first]]
        if len(blobs) > 1:
            share = [f"  coeff: {1 / len(blobs):.9g}"] * len(blobs)
            name = f"classes_{first}_{last}"
            body = "\n".join(["eltwise_param {", "  operation: SUM", *share, "}"])
            text.append(layer_text(name, "Eltwise", blobs, [name], body))
            blobs = [name]
        columns += blobs
    text.append(layer_text(request.classifier, "Concat", columns, [request.classifier], "concat_param { axis: 1 }"))
    return Head("\n".join(text), request.classifier, ("head: the sources' own scores are averaged, untrained",))


_LOG_FLOOR = "log_param { shift: 1e-20 }"  # a probability of 0 would become -inf, and an average of those NaN


def _check_scores(request: Request) -> None:
    known = {number for _, classes in request.scores.values() for number in classes}
    missing = sorted(set(range(request.num_output)) - known)
    if missing:
        raise ComposeError(
            f"head 'logits': no source knows these classes: {', '.join(map(str, missing))}",
            hint="say which fused classes each source's scores stand for: --classes odd=1,3,5,7,9",
        )


def _runs(owners: Sequence[tuple[tuple[str, int], ...]]) -> list[tuple[int, int]]:
    """First and last class of each run over which all owners' positions advance together."""
    runs: list[tuple[int, int]] = []
    for number, current in enumerate(owners):
        follows = runs and tuple((prefix, position - 1) for prefix, position in current) == owners[number - 1]
        if follows:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def zero_init(request: Request) -> Head:
    """Start equal to the first source: its own scores plus a layer over all features that is 0 at first."""
    if not request.scores:
        raise ComposeError("head 'zero-init' needs the first source's own classifier")
    prefix, (blob, classes) = next(iter(request.scores.items()))
    if list(classes) != list(range(request.num_output)):
        raise ComposeError(
            f"head 'zero-init' starts from the scores of source '{prefix}', which must be those of all "
            f"{request.num_output} classes in their order",
            hint="name the source with all classes first, or use another head",
        )
    text, notes = _joined(request)
    text += [
        _dense("correction", request.joined, "correction", request.num_output, filler='type: "constant"'),
        layer_text(request.classifier, "Eltwise", [blob, "correction"], [request.classifier], _SUM),
    ]
    notes.append(f"head: starts equal to source '{prefix}'")
    return Head("\n".join(text), request.classifier, tuple(notes))


_SUM = "eltwise_param { operation: SUM }"


HEADS: Final[Mapping[str, Callable[[Request], Head]]] = {
    "concat-fc": concat_fc,
    "concat-mlp": concat_mlp,
    "sum": add,
    "mean": mean,
    "max": maximum,
    "logits": logits,
    "zero-init": zero_init,
}
NEEDS_SCORES: Final = frozenset(("logits", "zero-init"))


def _joined(request: Request) -> tuple[list[str], list[str]]:
    """The layers that make one blob of all features, and what was chosen."""
    text, notes, blobs = _flat(request)
    text.append(
        layer_text(
            "concat", "Concat", blobs, [request.joined], "concat_param { axis: 1 }", comment="What the branches know."
        )
    )
    widths = [item.width for item in request.features]
    known = f", width {' + '.join(map(str, widths))}" if all(widths) and not notes else ""
    notes.append(f"head: {', '.join(item.blob for item in request.features)} concatenated to '{request.joined}'{known}")
    return text, notes


def _flat(request: Request) -> tuple[list[str], list[str], list[str]]:
    """Pool features that are maps where their sizes keep them from being joined; text, notes, and blobs to join."""
    sizes = {item.shape[2:] for item in request.features if item.shape is not None}
    unknown = [item for item in request.features if item.shape is None]
    if len(sizes) < 2:
        note = [f"head: the shape of '{item.blob}' is not known; it is joined as it is" for item in unknown]
        return [], note, [item.blob for item in request.features]
    text, notes, blobs = [], [], []
    for item in request.features:
        blob = item.blob
        if item.shape is not None and len(item.shape) > 2:
            pooled = f"{item.prefix}_pooled"
            text += [
                layer_text(pooled, "Pooling", [blob], [pooled], "pooling_param { pool: AVE global_pooling: true }"),
                layer_text(f"{item.prefix}_flat", "Flatten", [pooled], [f"{item.prefix}_flat"]),
            ]
            blob = f"{item.prefix}_flat"
            notes.append(f"head: '{item.blob}' {_shown(item.shape)} is averaged over its positions")
        blobs.append(blob)
    return text, notes, blobs


def _elementwise(request: Request, operation: str) -> Head:
    """Join features of one width by an Eltwise layer, project them to one width where they differ, then score."""
    text, notes, blobs = _flat(request)
    widths = [_pooled_width(item, bool(notes)) for item in request.features]
    if len(set(widths)) > 1 or None in widths or request.hidden:
        known = [width for width in widths if width is not None]
        target = request.hidden or (max(known) if len(known) == len(widths) else None)
        if target is None:
            raise ComposeError(
                "the widths of the features are not known, so they cannot be projected to one width",
                hint="give the width (--hidden), or sources whose input shapes are known",
            )
        for index, item in enumerate(request.features):
            name = f"{item.prefix}_projection"
            text.append(_dense(name, blobs[index], name, target))
            blobs[index] = name
        notes.append(f"head: features of widths {widths} are each projected to {target}")
    body = "eltwise_param {\n" + "\n".join(f"  {line}" for line in operation.split("\n")) + "\n}"
    text += [
        layer_text("join", "Eltwise", blobs, [request.joined], body, comment="What the branches know."),
        _dense(request.classifier, request.joined, request.classifier, request.num_output),
    ]
    return Head("\n".join(text), request.classifier, tuple(notes))


def _pooled_width(item: Features, pooled: bool) -> int | None:
    return item.shape[1] if pooled and item.shape is not None else item.width


def _shown(shape: Shape) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in shape)


def _dense(name: str, bottom: str, top: str, num_output: int, filler: str = 'type: "xavier"') -> str:
    body = f"""param {{ lr_mult: 1 }}
param {{ lr_mult: 2 }}
inner_product_param {{
  num_output: {num_output}
  weight_filler {{ {filler} }}
  bias_filler {{ type: "constant" }}
}}"""
    return layer_text(name, "InnerProduct", [bottom], [top], body)
