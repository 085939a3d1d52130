"""Several nets into one description: branches side by side, a head on top, and the files to train and to deploy it."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fusion.composition.classifiers import classifiers_of, label_blobs
from fusion.composition.features import Features, HeadRequest
from fusion.composition.folds import folds
from fusion.composition.heads import HEADS, NEEDS_SCORES
from fusion.composition.inputs import Inputs, main_source, resolve_inputs
from fusion.composition.lists import DataLists
from fusion.composition.losses import Loss, parse_loss, validate_loss
from fusion.composition.net_text import quoted, read_net, reparse
from fusion.composition.overview import Overview, overview_of
from fusion.composition.prepared_source import PreparedSource, prepare_source
from fusion.composition.references import Pct, ReferenceScores, format_classes, resolve_classes
from fusion.composition.shapes import Shape, blob_shapes, check_whole, shape_error
from fusion.composition.solver_text import SolverSettings, solver_text
from fusion.composition.source import PathLike, Source
from fusion.composition.stages import check_stages
from fusion.composition.tasks import Task, check_tasks, loss_notes, own_labels, parse_task, resolve_goals
from fusion.composition.validate import check_goals, check_request, check_widths, scored_by_step
from fusion.composition.write_nets import (
    FusionPlan,
    Labels,
    add_class_comments,
    branch_texts,
    class_names,
    deploy_document,
    train_val_document,
)
from fusion.errors import ComposeError, ComposeWarning, raise_all
from prototxt.errors import PrototxtError
from prototxt.text.tree import Document

_OF_RENAME = tuple(f"--{name}" for name in ("thaw", "no-freeze", "all", "again"))  # which composing does not have


@dataclass(frozen=True)
class Composition:
    """A fused net as text.

    train_val  the net to train, with data layers, accuracy and losses
    deploy     the same without them; None if the shape of its input is not known
    solver     how to train the head; its paths are as if run in its own directory, `write` adjusts them
    notes      every choice that was made, one sentence each
    overview   the branches and the head at a glance
    """

    train_val: Document
    deploy: Document | None
    solver: Document
    notes: tuple[str, ...]
    overview: Overview

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
    num_output: int | None = None,
    loss: str | Loss | None = None,
    tasks: Sequence[str | Task] = (),
    data_from: str | None = None,
    train_list: str | None = None,
    val_list: str | None = None,
    train_batch: int | None = None,
    test_batch: int | None = None,
    references: bool = False,
    pct: str | Pct | Sequence[str | Pct] = (),
    hidden: int | None = None,
    project: int | None = None,
    batch_norm: bool = False,
    maps: str = "pool",
    input_shape: Sequence[int] | None = None,
    labels: Labels | None = None,
    schedule: SolverSettings | None = None,
    name: str | None = None,
) -> Composition:
    """Fuse nets: each cut at a blob, prefixed and frozen, joined by a head, which learns by the sources' loss.

    num_output   classes of the fused net, or values for a loss on values; None: as many as the labels have
    loss         instead of the sources' own, such as "SoftmaxWithLoss,ignore_label=255"
    tasks        several classifiers, each with its loss and label: "gender=SoftmaxWithLoss:gender,num_output=2"
    data_from    prefix of the source whose data layers are used, the first that has any by default
    train_list, val_list, train_batch, test_batch   replace the lists and batch sizes of these data layers
    references   keep each source's own classifier as a frozen side output
    pct          positive-congruent losses against these references, which they imply
    hidden       width of the head's hidden layer
    project      width that every source's features are projected to by a layer that learns
    batch_norm   whether every source's features get a BatchNorm that learns, behind their projection if they have one
    maps         features that are maps of several sizes: "pool" averages each over its positions, "upsample" brings
                 them to the largest, "levels" joins the first cuts of all sources, the second ones, ... by themselves
    input_shape  C, H, W of the input blobs, for the deploy net, where the sources do not tell
    labels       names of the classes, that of class 0 first, or a file with a name per line; kept in the written nets
    schedule     the solver's settings
    name         the fused net's name

    Raises: ComposeError with everything that is wrong, PrototxtError, OSError.
    """
    losses = [Pct(item) if isinstance(item, str) else item for item in ([pct] if isinstance(pct, (str, Pct)) else pct)]
    schedule = schedule or SolverSettings()
    sources = _expanded(sources)
    wanted = _loss(loss)
    asked = [parse_task(item) if isinstance(item, str) else _checked_task(item) for item in tasks]
    check_request(sources, head, num_output, losses, schedule, check_tasks(wanted, asked))
    check_widths(hidden, project, maps)
    lists = DataLists(train_list, val_list, train_batch, test_batch)
    side_outputs = references or bool(losses)
    parts = _read_parts(sources, reference=side_outputs or head in NEEDS_SCORES)
    with _doubts(parts):
        goals = resolve_goals(parts, wanted, asked, num_output)
        main = main_source(parts, data_from)
        named = [goal.loss.label for goal in goals if goal.loss.label is not None]
        compared = label_blobs(main, goals) if main else named
        known = num_output if len(goals) == 1 and goals[0].loss.kind.labels == "class" else None
        inputs = resolve_inputs(parts, data_from, lists, compared, known, own_labels(goals))
        for text in inputs.warnings:
            warnings.warn(text, ComposeWarning, stacklevel=2)
        notes = [note for part in parts for note in (*part.unknown, *part.notes)] + list(inputs.notes)
        branches = {part.prefix: branch_texts(part, inputs) for part in parts}
        blobs = [blob for part in parts for blob in inputs.blobs(part.prefix)] if input_shape else []
        given: dict[str, Shape] = dict.fromkeys(blobs, (None, *(input_shape or ())))
        shapes = blob_shapes(parts, inputs, branches, given)
        classifiers = classifiers_of(parts, goals, inputs, shapes, notes)
        check_goals(classifiers, head, maps, losses, references=references)
        classes = class_names(labels, sources, classifiers)
        notes += loss_notes(goals, {one.name: one.label for one in classifiers})
        kept = _references(parts, shapes, classifiers[0].num_output) if side_outputs or head in NEEDS_SCORES else []
        names = _names(parts, inputs)
        called = [(one.called("score") if one.name else names["classifier"], one.num_output) for one in classifiers]
        features = _features(parts, shapes)
        options = {
            "--project": project,
            "--batch-norm": batch_norm,
            "--references": side_outputs,
            "--maps levels": maps == "levels",
        }
        asked_for = [name for name, value in options.items() if value]
        steps = scored_by_step(parts, features, classifiers, head, asked_for)
        joined = HEADS[head](
            HeadRequest(
                features=[replace(item, steps=steps) for item in features],
                classifiers=dict(called),
                joined=names["joined"],
                positions=classifiers[0].positions,
                steps=steps,
                hidden=hidden,
                project=project,
                batch_norm=batch_norm,
                maps=maps,
                scores={item.prefix: (item.blob, item.classes) for item in kept},
            )
        )
        notes += joined.notes
        if side_outputs:
            notes += [f"reference: '{item.blob}' scores classes {format_classes(item.classes)}" for item in kept]
        title = name or "+".join(dict.fromkeys(part.raw.name for part in parts if part.raw.name)) or "fused"
        plan = FusionPlan(title, classifiers, parts, inputs, branches, joined, kept, losses, head in NEEDS_SCORES)
        train_val = add_class_comments(train_val_document(plan), classes)
        check_whole(train_val, given)
        deploy = deploy_document(plan, shapes, notes)
        if deploy is not None and (wrong := shape_error(deploy)):
            notes.append(f"deploy: not written, because it does not fit one sample: {wrong}")
            deploy = None
        deploy = add_class_comments(deploy, classes) if deploy is not None else None
        test_iter = schedule.test_iter or _test_iter(train_val, notes)
        solver = reparse(solver_text(schedule, test_iter), "solver.prototxt")
        return Composition(train_val, deploy, solver, tuple(dict.fromkeys(notes)), overview_of(plan, head, shapes))


@contextmanager
def _doubts(parts: Sequence[PreparedSource]) -> Iterator[None]:
    """Add to an error what no schema knows in the sources: a misspelt field is often its cause."""
    try:
        yield
    except (ComposeError, PrototxtError) as error:
        last = error.errors[-1]
        unknown = [doubt for part in parts for doubt in part.unknown]
        last.hint = "\n        ".join([*([last.hint] if last.hint else []), *unknown]) or None
        raise


def _loss(loss: str | Loss | None) -> Loss | None:
    return parse_loss(loss) if isinstance(loss, str) else validate_loss(loss) if loss is not None else None


def _checked_task(task: Task) -> Task:
    return replace(task, loss=validate_loss(task.loss))


def _expanded(sources: Sequence[Source]) -> list[Source]:
    """The sources with patterns and folders taken apart. Raises: ComposeError with all that match nothing."""
    found: list[Source] = []
    errors: list[ComposeError] = []
    for source in sources:
        try:
            found += _folds(source)
        except ComposeError as error:
            errors.append(error)
    raise_all(errors)
    return found


def _folds(source: Source) -> list[Source]:
    if isinstance(source.prototxt, Document):
        return [source]
    weights = os.fspath(source.weights) if source.weights is not None else None
    every = folds(source.prefix, os.fspath(source.prototxt), weights)
    return [replace(source, prefix=one.prefix, prototxt=one.net or "", weights=one.weights) for one in every]


def _read_parts(sources: Sequence[Source], *, reference: bool) -> list[PreparedSource]:
    """All sources, or all that is wrong with them."""
    parts, errors = [], []
    for source in sources:
        try:
            parts.append(prepare_source(source, reference=reference))
        except PrototxtError as error:
            errors += [ComposeError(part.message, place=part.place, hint=_own_hint(part.hint)) for part in error.errors]
        except FileNotFoundError as error:
            message = f"source '{source.prefix}': there is no file {error.filename}"
            errors.append(ComposeError(message, hint="paths are relative to the working directory"))
        except ComposeError as error:
            errors.append(error)
    raise_all(errors)
    stages = [stage for part in parts for stage in part.spec.stages]
    check_stages([part.prefix for part in parts], stages, [stage for part in parts for stage in part.stages])
    return parts


def _own_hint(hint: str | None) -> str | None:
    """A hint of renaming without the ways out that only fusion-rename's options open."""
    if hint is None or not any(option in hint for option in _OF_RENAME):
        return hint
    ways = [way for way in re.split(r",? or |, ", hint) if not any(option in way for option in _OF_RENAME)]
    return ", or ".join(ways).replace("the net's weights with --weights", "the source's weights (--weights P=FILE)")


def _references(parts: Sequence[PreparedSource], shapes: dict[str, Shape], num_output: int) -> list[ReferenceScores]:
    references, errors = [], []
    for part in parts:
        if part.logits is None:
            continue
        shape = shapes.get(part.logits, ())
        width = shape[1] if len(shape) == 2 else None
        found, wrong = resolve_classes(part.prefix, part.logits, part.spec.classes, width, num_output)
        references += [found] if found else []
        errors += wrong
    raise_all(errors)
    return references


def _features(parts: Sequence[PreparedSource], shapes: dict[str, Shape]) -> list[Features]:
    """All cut blobs, and what the head calls its layers on each."""
    return [
        Features(part.prefix if len(part.cuts) == 1 else f"{part.prefix}_{plain}", cut, shapes.get(cut), level)
        for part in parts
        for level, (cut, plain) in enumerate(zip(part.cuts, part.plain, strict=True))
    ]


def _names(parts: Sequence[PreparedSource], inputs: Inputs) -> dict[str, str]:
    """What the blob of all features and the classifier are called: as in the sources, if these agree."""
    plain = {cut for part in parts for cut in part.plain}
    readers = {part.reader for part in parts}
    taken = {blob for part in parts for blob in inputs.blobs(part.prefix)} | set(inputs.labels)
    classifier = readers.pop() if len(readers) == 1 else None
    joined = f"{plain.pop()}_fused" if len(plain) == 1 else "features"
    if classifier is None or classifier in taken | {"concat", "join", "hidden", joined, "loss", "accuracy"}:
        classifier = "scores"
    return {"joined": joined, "classifier": classifier}


def _test_iter(train_val: Document, notes: list[str]) -> int:
    """Batches that go once through the validation list, if it can be read; else 500, with a note."""
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
    from prototxt.text.edits import Edits

    edits = Edits(solver)
    for name in ("net", "snapshot_prefix"):
        value = solver.root.string(name)
        if value is not None:
            edits.set(solver.root, name, quoted((folder / value).as_posix()))
    return edits.apply()
