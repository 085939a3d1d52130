"""Fuse nets: branches side by side, a head on top, and the files to train and to deploy the result."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Concatenate, ParamSpec

from fusion.composition.chains import chain_inputs, last_sources
from fusion.composition.classifiers import FusedClassifier, classifiers_of, label_blobs
from fusion.composition.converted_sources import ConvertedNets, convert_source
from fusion.composition.features import Features, HeadRequest
from fusion.composition.folds import expand_patterns
from fusion.composition.fused_classes import fused_classes, with_classes
from fusion.composition.heads import HEADS, NEEDS_SCORES, Head
from fusion.composition.inputs import Inputs, main_source, resolve_inputs
from fusion.composition.lists import DataLists, labels_in_list
from fusion.composition.net_text import quoted, read_net, reparse
from fusion.composition.onnx_sources import check_sizes
from fusion.composition.options import ComposeOptions
from fusion.composition.overview import Overview, overview_of
from fusion.composition.prepared_source import PreparedSource, prepare_source
from fusion.composition.record_forms import with_record_forms
from fusion.composition.references import ReferenceScores, format_classes, resolve_classes
from fusion.composition.shapes import Shape, blob_shapes, check_whole, shape_error
from fusion.composition.solver_text import SolverSettings, solver_text
from fusion.composition.source import PathLike, Source
from fusion.composition.stages import check_stages
from fusion.composition.tasks import Goal, check_tasks, loss_notes, resolve_goals, source_labels
from fusion.composition.validate import check_goals, check_request, is_scored_by_step
from fusion.composition.validation_share import WrittenLists, split_lists, with_training_lists
from fusion.composition.write_nets import (
    FusionPlan,
    branch_texts,
    deploy_document,
    named_classes,
    train_val_document,
)
from fusion.errors import ComposeError, ComposeWarning, raise_all
from prototxt.errors import PrototxtError
from prototxt.text.tree import Document

P = ParamSpec("P")
_RENAME_ONLY = tuple(f"--{name}" for name in ("thaw", "no-freeze", "all", "again"))  # options of fusion-rename alone


@dataclass(frozen=True)
class Composition:
    """A fused net as text, with the paths of its own files as if run in its own directory; `write` adjusts them.

    train_val  the net to train, with data layers, accuracy and losses
    deploy     the same without them; None if the shape of its input is not known
    solver     how to train the head
    lists      the image lists that are written beside the nets
    nets       the sources that were converted, written beside them too
    notes      every choice that was made, one sentence each
    overview   the branches and the head at a glance
    """

    train_val: Document
    deploy: Document | None
    solver: Document
    notes: tuple[str, ...]
    overview: Overview
    lists: WrittenLists = field(default_factory=WrittenLists)
    nets: ConvertedNets = field(default_factory=ConvertedNets)

    def with_nets(self, nets: ConvertedNets) -> Composition:
        """Return the composition with sources that were converted, under the names of their files."""
        deploy = self.deploy and nets.with_own_names(self.deploy)
        return replace(self, train_val=nets.with_own_names(self.train_val), deploy=deploy, nets=nets)

    def write(self, directory: PathLike) -> tuple[Path, ...]:
        """Write the files into a directory, made if needed; their paths then are relative to the working one.

        Raises: OSError; DataError for a list that cannot be written.
        """
        from prototxt.files import write_text

        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "train_val.prototxt": str(self.nets.in_folder(self.lists.in_folder(self.train_val, folder), folder)),
            "deploy.prototxt": str(self.nets.in_folder(self.deploy, folder)) if self.deploy is not None else None,
            "solver.prototxt": str(_with_paths_in(self.solver, folder)),
        }
        if self.deploy is None:
            (folder / "deploy.prototxt").unlink(missing_ok=True)  # an earlier one would belong to another net
        written = [*self.lists.write(folder), *self.nets.write(folder)]
        for name, text in texts.items():
            if text is not None:
                write_text(folder / name, text)
                written.append(folder / name)
        return tuple(written)


def compose_with(sources: Sequence[Source], options: ComposeOptions) -> Composition:
    """Fuse nets as `compose` does, with the options as one value.

    Raises: ComposeError with all errors, PrototxtError, OSError.
    """
    sources = expand_patterns(sources)
    sources, options = with_training_lists(sources, options)
    loss, tasks, pct = options.parsed_loss(), options.parsed_tasks(), options.parsed_pct()
    check_request(sources, options, pct, check_tasks(loss, tasks))
    reference = options.references or bool(pct) or options.head in NEEDS_SCORES
    nets = ConvertedNets()
    prepared = _prepare_all(sources, nets, options.input_shape, reference=reference)
    with _unknown_fields_in_hints(prepared):
        chosen: list[str] = []
        prepared = with_record_forms(prepared, options, chosen)
        goals = resolve_goals(last_sources(prepared), loss, tasks, options.num_output)
        inputs = _resolve_inputs(prepared, goals, options)
        notes = [note for source in prepared for note in (*source.unknown, *source.notes)]
        notes += [*chosen, *inputs.notes]
        classes = fused_classes(goals, inputs, options, notes)
        for text in inputs.warnings:
            warnings.warn(text, ComposeWarning, stacklevel=3)
        prepared, goals = with_classes(prepared, goals, classes, notes, scored=reference)
        composition = _write(_plan(prepared, goals, inputs, options, classes.names, notes), notes)
    return composition.with_nets(nets)


def _with_keywords(options: Callable[P, ComposeOptions]) -> Callable[Concatenate[Sequence[Source], P], Composition]:
    # ParamSpec gives `compose` the fields of ComposeOptions as typed keywords, without a second list of them.
    def compose(sources: Sequence[Source], *head: P.args, **keywords: P.kwargs) -> Composition:
        """Fuse nets: each cut at a blob, prefixed and frozen, joined by a head, which learns by the sources' loss.

        head, keywords  the fields of ComposeOptions, where they are explained
        Raises: ComposeError with all errors, PrototxtError, OSError.
        """
        return compose_with(sources, options(*head, **keywords))

    fields = signature(options)  # shown by help() and editors
    parameters = [Parameter("sources", Parameter.POSITIONAL_OR_KEYWORD), *fields.parameters.values()]
    compose.__signature__ = fields.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=Composition
    )
    return compose  # type: ignore[return-value]  # `sources` may be given by name too


compose = _with_keywords(ComposeOptions)


def _resolve_inputs(sources: Sequence[PreparedSource], goals: Sequence[Goal], options: ComposeOptions) -> Inputs:
    first = [source for source in sources if source.spec.reads is None]
    main = main_source(first, options.data_from)
    lists = DataLists(
        options.train_list,
        options.val_list,
        options.train_batch,
        options.test_batch,
        split=options.val_share is not None,
    )
    labels = label_blobs(main, goals) if main else [goal.loss.label for goal in goals if goal.loss.label is not None]
    classes = options.num_output if len(goals) == 1 and goals[0].loss.kind.labels == "class" else None
    inputs = resolve_inputs(first, options.data_from, lists, labels, classes, source_labels(goals))
    return chain_inputs(sources, inputs)


def _plan(
    sources: Sequence[PreparedSource],
    goals: Sequence[Goal],
    inputs: Inputs,
    options: ComposeOptions,
    names: Sequence[str],
    notes: list[str],
) -> FusionPlan:
    """Decide everything about the fused net; adds notes.

    names  of its classes
    Raises: ComposeError.
    """
    last = last_sources(sources)
    branches = {source.prefix: branch_texts(source, inputs) for source in sources}
    blobs = [blob for source in sources for blob in inputs.blobs(source.prefix)] if options.input_shape else []
    given: dict[str, Shape] = dict.fromkeys(blobs, (None, *(options.input_shape or ())))
    shapes = blob_shapes(sources, inputs, branches, given)
    for source in sources:
        check_sizes(source.spec, {blob: shapes.get(fed, ()) for blob, fed in inputs.feeds[source.prefix].items()})
    classifiers = classifiers_of(goals, inputs, shapes, notes)
    pct = options.parsed_pct()
    check_goals(classifiers, options, pct)
    classes = named_classes(names, options.labels, sources, classifiers)
    notes += loss_notes(goals, {one.name: one.label for one in classifiers})
    side_outputs = options.references or bool(pct)
    references = []
    if side_outputs or options.head in NEEDS_SCORES:
        references = _references(last, shapes, classifiers[0].num_output)
    features = _features(last, shapes)
    steps = is_scored_by_step(last, features, classifiers, options)
    head = _head([replace(item, steps=steps) for item in features], last, inputs, classifiers, references, options)
    notes += head.notes
    if side_outputs:
        notes += [f"reference: '{item.blob}' scores classes {format_classes(item.classes)}" for item in references]
    return FusionPlan(options, classifiers, sources, inputs, branches, given, shapes, head, references, pct, classes)


def _head(
    features: Sequence[Features],
    sources: Sequence[PreparedSource],
    inputs: Inputs,
    classifiers: Sequence[FusedClassifier],
    references: Sequence[ReferenceScores],
    options: ComposeOptions,
) -> Head:
    joined, only = _names(sources, inputs)
    request = HeadRequest(
        features=features,
        classifiers={one.layer_name("score") if one.name else only: one.num_output for one in classifiers},
        joined=joined,
        options=options,
        positions=classifiers[0].positions,
        steps=features[0].steps,
        scores={item.prefix: (item.blob, item.classes) for item in references},
        shares={source.prefix: source.spec.share for source in sources if source.spec.share is not None},
    )
    return HEADS[options.head](request)


def _write(plan: FusionPlan, notes: list[str]) -> Composition:
    """Write the nets and the solver as text; adds notes. Raises: ComposeError for a net that Caffe would refuse."""
    train_val = train_val_document(plan)
    check_whole(train_val, plan.given)
    deploy = deploy_document(plan, notes)
    if deploy is not None and (error := shape_error(deploy)):
        notes.append(f"deploy: not written, because it does not fit one sample: {error}")
        deploy = None
    lists = WrittenLists()
    if plan.options.val_share is not None:
        train_val, lists = split_lists(train_val, plan.options.val_share, notes)
    schedule = plan.options.schedule or SolverSettings()
    test_iter = schedule.test_iter or _test_iter(train_val, lists, notes)
    solver = reparse(solver_text(schedule, test_iter), "solver.prototxt")
    return Composition(train_val, deploy, solver, tuple(dict.fromkeys(notes)), overview_of(plan), lists)


@contextmanager
def _unknown_fields_in_hints(sources: Sequence[PreparedSource]) -> Iterator[None]:
    """Add the fields that no schema knows to the hint of an error: a misspelt field is often its cause."""
    try:
        yield
    except (ComposeError, PrototxtError) as error:
        last = error.errors[-1]  # printed last, so that the notes follow all errors
        unknown = [note for source in sources for note in source.unknown]
        last.hint = "\n        ".join([*([last.hint] if last.hint else []), *unknown]) or None
        raise


def _prepare_all(
    sources: Sequence[Source], nets: ConvertedNets, input_shape: Sequence[int] | None, *, reference: bool
) -> list[PreparedSource]:
    """Prepare all sources; adds those that are converted to `nets`. Raises: ComposeError with the errors of all."""
    prepared, errors = [], []
    for source in sources:
        try:
            converted, notes = convert_source(source, nets, input_shape)
            made = prepare_source(converted, reference=reference)
            prepared.append(replace(made, notes=(*notes, *made.notes)))
        except PrototxtError as error:
            errors += [ComposeError(one.message, place=one.place, hint=_own_hint(one.hint)) for one in error.errors]
        except FileNotFoundError as error:
            message = f"{source}: there is no file {error.filename}"
            errors.append(ComposeError(message, hint="paths are relative to the working directory"))
        except ComposeError as error:
            for one in error.errors:
                if one.place is not None and one.place == nets.onnx.get(source.prefix):
                    one.place = str(source.prototxt) or type(source.module).__name__  # not a temporary file
            errors.append(error)
    raise_all(errors)
    stages = [stage for source in sources for stage in source.stages]
    check_stages([source.prefix for source in sources], stages, [stage for one in prepared for stage in one.stages])
    return prepared


def _own_hint(hint: str | None) -> str | None:
    """Remove from a hint about renaming the ways out that only fusion-rename's options open."""
    if hint is None or not any(option in hint for option in _RENAME_ONLY):
        return hint
    ways = [way for way in re.split(r",? or |, ", hint) if not any(option in way for option in _RENAME_ONLY)]
    return ", or ".join(ways).replace("the net's weights with --weights", "the source's weights (--weights P=FILE)")


def _references(sources: Sequence[PreparedSource], shapes: dict[str, Shape], num_output: int) -> list[ReferenceScores]:
    references, errors = [], []
    for source in sources:
        if source.logits is None:
            continue
        shape = shapes.get(source.logits, ())
        width = shape[1] if len(shape) == 2 else None
        found, problems = resolve_classes(source.prefix, source.logits, source.classes, width, num_output)
        references += [found] if found else []
        errors += problems
    raise_all(errors)
    return references


def _features(sources: Sequence[PreparedSource], shapes: dict[str, Shape]) -> list[Features]:
    """Return all cut blobs, and the stems of the names of the head's layers on each."""
    return [
        Features(source.prefix if len(source.cuts) == 1 else f"{source.prefix}_{plain}", cut, shapes.get(cut), level)
        for source in sources
        for level, (cut, plain) in enumerate(zip(source.cuts, source.plain, strict=True))
    ]


def _names(sources: Sequence[PreparedSource], inputs: Inputs) -> tuple[str, str]:
    """Return the names of the blob of all features and of the only classifier: as in the sources, if these agree."""
    plain = {cut for source in sources for cut in source.plain}
    readers = {source.reader for source in sources}
    used = {blob for source in sources for blob in inputs.blobs(source.prefix)} | set(inputs.labels)
    classifier = readers.pop() if len(readers) == 1 else None
    joined = f"{plain.pop()}_fused" if len(plain) == 1 else "features"
    if classifier is None or classifier in used | {"concat", "join", "hidden", joined, "loss", "accuracy"}:
        classifier = "scores"
    return joined, classifier


def _test_iter(train_val: Document, lists: WrittenLists, notes: list[str]) -> int:
    """Return the number of batches in the validation list, if it can be read; else 500, with a note."""
    for layer in read_net(train_val).layers:
        if layer.is_data and "TEST" in layer.phases:
            for param in layer.message.messages("image_data_param"):
                source, batch = param.string("source"), int(param.string("batch_size") or 1)
                if source and (records := lists.records(source) or len(labels_in_list(source))):
                    return math.ceil(records / batch)
    notes.append("solver: test_iter is 500; make it the number of validation samples divided by their batch size")
    return 500


def _with_paths_in(solver: Document, folder: Path) -> Document:
    from prototxt.text.edits import Edits

    edits = Edits(solver)
    for name in ("net", "snapshot_prefix"):
        value = solver.root.string(name)
        if value is not None:
            edits.set(solver.root, name, quoted((folder / value).as_posix()))
    return edits.apply()
