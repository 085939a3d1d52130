"""Several nets into one description: branches side by side, a head on top, and the files to train and to deploy it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fusion.composition.deploying import deploy_text
from fusion.composition.heads import HEADS, NEEDS_SCORES, Features, Head, Request
from fusion.composition.inputs import Inputs, Lists, input_shape, plan_inputs
from fusion.composition.pieces import Layer, excerpt, layer_text, quoted, reparse
from fusion.composition.references import Pct, Reference, check_pct, loss_layers, settle_classes
from fusion.composition.solvers import Schedule, check_schedule, solver_text
from fusion.composition.sources import Part, PathLike, Source, read_part
from fusion.errors import ComposeError, raise_all
from prototxt.errors import PrototxtError
from prototxt.tree import Document

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Composition:
    """A fused net as text.

    train_val  the net to train, with data layers, accuracy and losses
    deploy     the same without them; None if the shape of its input is not known
    solver     how to train the head; its paths are as if run in its own directory, `write` adjusts them
    notes      every choice that was made, one sentence each
    """

    train_val: Document
    deploy: Document | None
    solver: Document
    notes: tuple[str, ...]

    def write(self, directory: PathLike) -> tuple[Path, ...]:
        """Write the files into a directory, made if needed; the solver's paths then are relative to the working one.

        Raises: OSError.
        """
        from prototxt.files import write_text

        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "train_val.prototxt": str(self.train_val),
            "deploy.prototxt": str(self.deploy) if self.deploy is not None else None,
            "solver.prototxt": str(_located(self.solver, folder)),
        }
        if self.deploy is None:
            (folder / "deploy.prototxt").unlink(missing_ok=True)  # an earlier one would belong to another net
        written = []
        for name, text in texts.items():
            if text is not None:
                write_text(folder / name, text)
                written.append(folder / name)
        return tuple(written)


def compose(
    sources: Sequence[Source],
    head: str = "concat-fc",
    *,
    num_output: int,
    data_from: str | None = None,
    train_list: str | None = None,
    val_list: str | None = None,
    train_batch: int | None = None,
    test_batch: int | None = None,
    references: bool = False,
    pct: str | Pct | Sequence[str | Pct] = (),
    hidden: int | None = None,
    input_shape: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    name: str | None = None,
) -> Composition:
    """Fuse nets: each cut at a blob, prefixed and frozen, joined by a head that scores `num_output` classes.

    data_from    prefix of the source whose data layers are used, the first that has any by default
    train_list, val_list, train_batch, test_batch   replace the lists and batch sizes of these data layers
    references   keep each source's own classifier as a frozen side output
    pct          positive-congruent losses against these references, which they imply
    hidden       width of a hidden layer or of projections, where the head has them
    input_shape  C, H, W of the input blobs, for the deploy net, where the sources do not tell
    schedule     the solver's settings
    name         the fused net's name

    Raises: ComposeError with everything that is wrong, PrototxtError, OSError.
    """
    losses = [Pct(item) if isinstance(item, str) else item for item in ([pct] if isinstance(pct, (str, Pct)) else pct)]
    schedule = schedule or Schedule()
    _check_request(sources, head, num_output, losses, schedule)
    lists = Lists(train_list, val_list, train_batch, test_batch)
    side_outputs = references or bool(losses)
    parts = _read_parts(sources, reference=side_outputs or head in NEEDS_SCORES)
    inputs = plan_inputs(parts, data_from, lists)
    notes = [note for part in parts for note in part.notes] + list(inputs.notes)
    branches = {part.prefix: _branch_text(part, inputs) for part in parts}
    given = (
        {blob: (None, *input_shape) for feed in inputs.feeds.values() for blob in feed.values()} if input_shape else {}
    )
    shapes = _shapes(parts, inputs, branches, given)
    scores = _references(parts, shapes, num_output) if side_outputs or head in NEEDS_SCORES else []
    joined = _head(parts, head, num_output, shapes, scores, hidden, inputs)
    notes += joined.notes
    title = name or "+".join(dict.fromkeys(part.raw.name for part in parts if part.raw.name)) or "fused"
    train_val = _train_val(title, parts, inputs, branches, joined, scores, losses, num_output)
    if side_outputs:
        notes += [f"reference: '{item.blob}' scores classes {', '.join(map(str, item.classes))}" for item in scores]
    _check_whole(train_val, given)
    deploy = _deploy(title, parts, inputs, joined, shapes, notes, with_scores=head in NEEDS_SCORES)
    test_iter = schedule.test_iter or _test_iter(train_val, notes)
    solver = reparse(solver_text(schedule, test_iter), "solver.prototxt")
    return Composition(train_val, deploy, solver, tuple(notes))


def _check_request(
    sources: Sequence[Source], head: str, num_output: int, losses: Sequence[Pct], schedule: Schedule
) -> None:
    errors = [*check_pct(losses), *check_schedule(schedule)]
    if not sources:
        errors.append(ComposeError("there is nothing to fuse", hint="give sources: --source odd=odd.prototxt@ip1"))
    prefixes = [source.prefix for source in sources]
    for prefix in dict.fromkeys(prefixes):
        if prefixes.count(prefix) > 1:
            what = f"two sources have the prefix '{prefix}'"
            errors.append(ComposeError(what, hint="give each its own; one file may come twice under two prefixes"))
        if not prefix or prefix.strip("/") != prefix or not prefix.isprintable() or '"' in prefix or "\\" in prefix:
            errors.append(ComposeError(f"{prefix!r} is no prefix", hint="use a word such as odd"))
        if any(other.startswith(f"{prefix}/") for other in prefixes):
            errors.append(ComposeError(f"the prefix '{prefix}' begins another source's prefix", hint="rename one"))
    if head not in HEADS:
        errors.append(ComposeError(f"there is no head '{head}'", hint=f"one of {', '.join(HEADS)}"))
    if num_output < 1:
        errors.append(ComposeError(f"num_output is the number of classes, not {num_output}"))
    raise_all(errors)


def _read_parts(sources: Sequence[Source], *, reference: bool) -> list[Part]:
    """All sources, or all that is wrong with them."""
    parts, errors = [], []
    for source in sources:
        try:
            parts.append(read_part(source, reference=reference))
        except PrototxtError as error:
            errors += [ComposeError(part.message, place=part.place, hint=part.hint) for part in error.errors]
        except FileNotFoundError as error:
            what = f"source '{source.prefix}': there is no file {error.filename}"
            errors.append(ComposeError(what, hint="paths are relative to the working directory"))
        except ComposeError as error:
            errors.append(error)
    raise_all(errors)
    return parts


def _branch_text(part: Part, inputs: Inputs) -> dict[int, str]:
    """The text of each layer of the branch and its classifier, reading the fused net's data blobs."""
    from prototxt.editing import Edits

    feed = inputs.feeds[part.prefix]
    texts = {}
    for layer in part.net.layers:
        if layer.number not in part.branch.layers | part.classifier:
            continue
        text = excerpt(part.net, layer)
        changed = {blob: new for blob, new in feed.items() if blob != new and blob in layer.bottoms + layer.tops}
        if changed:
            document = reparse(text, part.net.document.name)
            edits = Edits(document)
            block = document.root.messages("layer")[0]
            for scalar in block.scalars("bottom") + block.scalars("top"):
                if scalar.value in changed:
                    edits.replace(scalar, quoted(changed[scalar.value]))
            text = str(edits.apply())
        texts[layer.number] = text
    return texts


def _shapes(
    parts: Sequence[Part], inputs: Inputs, branches: dict[str, dict[int, str]], given: dict[str, Shape]
) -> dict[str, Shape]:
    """Shapes of all blobs of data and branches, as far as they can be known. Raises: ShapeError."""
    body = "\n".join([inputs.text, *(text for branch in branches.values() for text in branch.values())])
    known = dict(given)
    for part in parts:
        own = input_shape(part)
        if own is not None and len(own) == 4:
            for blob in part.branch.inputs[:1]:
                known.setdefault(inputs.feeds[part.prefix][blob], (None, *own[1:]))
    return _inferred(reparse(body, "<branches>"), "TEST", known)


def _inferred(document: Document, phase: str, given: dict[str, Shape]) -> dict[str, Shape]:
    from prototxt.loading import load_net
    from prototxt.phases import filter_net
    from prototxt.shapes import infer

    net = filter_net(load_net(document, strict=False), phase=phase)
    tops = {top for layer in net.layer for top in layer.top}
    return infer(net, {blob: shape for blob, shape in given.items() if blob in tops}, unknown="ignore").blobs


def _references(parts: Sequence[Part], shapes: dict[str, Shape], num_output: int) -> list[Reference]:
    references, errors = [], []
    for part in parts:
        if part.logits is None:
            continue
        shape = _known(shapes.get(part.logits))
        width = shape[1] if shape is not None and len(shape) == 2 else None
        found, wrong = settle_classes(part.prefix, part.logits, part.source.classes, width, num_output)
        references += [found] if found else []
        errors += wrong
    raise_all(errors)
    return references


def _known(shape: Shape | None) -> Shape | None:
    """The shape, or None if even its rank is unknown."""
    from prototxt.shapes import UNKNOWN

    return None if shape is None or shape is UNKNOWN else shape


def _head(
    parts: Sequence[Part],
    head: str,
    num_output: int,
    shapes: dict[str, Shape],
    scores: Sequence[Reference],
    hidden: int | None,
    inputs: Inputs,
) -> Head:
    features = [Features(part.prefix, cut, _known(shapes.get(cut))) for part in parts for cut in part.cuts]
    plain = {cut for part in parts for cut in part.plain}
    readers = {part.reader for part in parts}
    taken = {blob for feed in inputs.feeds.values() for blob in feed.values()} | {inputs.label}
    classifier = readers.pop() if len(readers) == 1 else None
    joined = f"{plain.pop()}_fused" if len(plain) == 1 else "features"
    if classifier is None or classifier in taken | {"concat", "join", "hidden", joined, "loss", "accuracy"}:
        classifier = "scores"
    request = Request(
        features=features,
        num_output=num_output,
        joined=joined,
        classifier=classifier,
        hidden=hidden,
        scores={item.prefix: (item.blob, item.classes) for item in scores},
    )
    return HEADS[head](request)


def _train_val(
    title: str,
    parts: Sequence[Part],
    inputs: Inputs,
    branches: dict[str, dict[int, str]],
    head: Head,
    scores: Sequence[Reference],
    losses: Sequence[Pct],
    num_output: int,
) -> Document:
    pieces = [f"name: {quoted(title)}\n", inputs.text]
    for part in parts:
        pieces += _branch_pieces(part, branches[part.prefix])
    pieces += [head.text, layer_text("accuracy", "Accuracy", [head.logits, inputs.label], ["accuracy"], _TEST)]
    pieces.append(layer_text("loss", "SoftmaxWithLoss", [head.logits, inputs.label], ["loss"]))
    if losses:
        pieces.append(loss_layers(losses, scores, head.logits, inputs.label, num_output))
    return reparse("\n".join(pieces), "train_val.prototxt")


_TEST = "include { phase: TEST }"


def _branch_pieces(part: Part, texts: dict[int, str], *, classifier: bool = True, test_only: bool = False) -> list[str]:
    """The branch's layers in the order of the file, under a line that says where they are from."""

    def wanted(layer: Layer) -> bool:
        kept = layer.number in texts and (classifier or layer.number not in part.classifier)
        return kept and (not test_only or "TEST" in layer.phases)

    file = os.path.basename(part.raw.document.name)
    head = f"# ---- {part.prefix}: {file}, cut at {', '.join(part.plain)}; frozen ----\n"
    return [head + "\n".join(texts[layer.number] for layer in part.net.layers if wanted(layer))]


def _check_whole(train_val: Document, given: dict[str, Shape]) -> None:
    """Raises: ComposeError if the fused net would be refused in either phase."""
    for phase in ("TRAIN", "TEST"):
        try:
            _inferred(train_val, phase, given)
        except PrototxtError as error:
            raise_all([ComposeError(part.message, place=part.place, hint=part.hint) for part in error.errors])


def _deploy(
    title: str,
    parts: Sequence[Part],
    inputs: Inputs,
    head: Head,
    shapes: dict[str, Shape],
    notes: list[str],
    *,
    with_scores: bool,
) -> Document | None:
    """The deploy net, or None with a note if an input's shape is not known."""
    blobs = dict.fromkeys(blob for feed in inputs.feeds.values() for blob in feed.values())
    sizes: dict[str, tuple[int, ...]] = {}
    for blob in blobs:
        shape = _known(shapes.get(blob))
        dims = [] if shape is None else [dim for dim in shape[1:] if dim is not None]
        if shape is None or len(dims) < len(shape) - 1:
            notes.append(
                f"deploy: not written, because the shape of '{blob}' is not known; give it as --input-shape C,H,W, "
                "or compose where the first image of the lists can be read"
            )
            return None
        sizes[blob] = (1, *dims)
    branches = []
    for part in parts:
        branches += _branch_pieces(part, _branch_text(part, inputs), classifier=with_scores, test_only=True)
    text = deploy_text(title, sizes, "\n".join(branches), head.text, head.logits)
    return reparse(text, "deploy.prototxt")


def _test_iter(train_val: Document, notes: list[str]) -> int:
    """Batches that go once through the validation list, if it can be read; else 500, with a note."""
    from fusion.composition.pieces import read_net

    for layer in read_net(train_val).layers:
        if layer.is_data and "TEST" in layer.phases:
            for param in layer.message.messages("image_data_param"):
                source, batch = param.string("source"), int(param.string("batch_size") or 1)
                if source and Path(source).is_file():
                    with Path(source).open("rb") as file:
                        lines = sum(1 for line in file if line.strip())
                    return max(1, math.ceil(lines / batch))
    notes.append("solver: test_iter is 500; make it the number of validation samples divided by their batch size")
    return 500


def _located(solver: Document, folder: Path) -> Document:
    """The solver with its paths led through the folder."""
    from prototxt.editing import Edits

    edits = Edits(solver)
    for name in ("net", "snapshot_prefix"):
        value = solver.root.string(name)
        if value is not None:
            edits.set(solver.root, name, quoted((folder / value).as_posix()))
    return edits.apply()
