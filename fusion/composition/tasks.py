"""The training goals of the fused net: one loss, which is the sources' own, or several tasks that the user names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fusion.composition import losses
from fusion.composition.labels import SourceLabels, pairs_error
from fusion.composition.losses import CHOICES, Loss, comparison_key, describe_loss
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.source_losses import SourceObjective, format_objectives, sorted_by_layer, source_objectives
from fusion.errors import ComposeError, raise_all

_NAME = re.compile(r"[A-Za-z]\w*")
_EXAMPLE = "e.g. --task age=EuclideanLoss:age_label --task gender=SoftmaxWithLoss:gender_label,num_output=2"


@dataclass(frozen=True)
class Task:
    """One of several classifiers of the fused net, with its loss.

    name        its layers are `score_NAME`, `loss_NAME`, `accuracy_NAME`, and `prob_NAME` to deploy
    loss        its label must be named
    num_output  classes, or values; None: as many as the label has, or the num_output of the whole net
    """

    name: str
    loss: Loss
    num_output: int | None = None


@dataclass(frozen=True)
class Goal:
    """The loss of one classifier, and the sources' own losses on the same label.

    name        the task; "" for the only classifier
    objectives  per source the loss, metric or output that reads its scores, where it has one
    """

    name: str
    loss: Loss
    num_output: int | None
    objectives: Mapping[str, SourceObjective]


def parse_task(text: str) -> Task:
    """Read `gender=SoftmaxWithLoss:gender_label,num_output=2`, with further parameters of the loss.

    Raises: ComposeError.
    """
    name, equals, rest = text.partition("=")
    head, _, options = rest.partition(",")
    kind, colon, label = head.partition(":")
    if not (equals and colon and name.strip() and kind.strip() and label.strip()):
        raise ComposeError(f"task '{text}' is not NAME=LOSS:LABEL_BLOB[,num_output=N,...]", hint=_EXAMPLE)
    items = [item.strip() for item in options.split(",") if item.strip()]
    numbers = [item.partition("=")[2].strip() for item in items if item.partition("=")[0].strip() == "num_output"]
    if numbers and not numbers[-1].isdecimal():
        raise ComposeError(f"task '{name.strip()}': num_output is a number, not '{numbers[-1]}'", hint=_EXAMPLE)
    others = [item for item in items if item.partition("=")[0].strip() != "num_output"]
    loss = losses.parse_loss(",".join([kind.strip(), *others, f"label={label.strip()}"]))
    return Task(name.strip(), loss, int(numbers[-1]) if numbers else None)


def resolve_goals(
    sources: Sequence[PreparedSource], loss: Loss | None, tasks: Sequence[Task], num_output: int | None
) -> list[Goal]:
    """Return the goals of the fused net: as requested, else the loss of the sources.

    Raises: ComposeError where the sources disagree, or have a loss that no classifier supports.
    """
    known = {source.prefix: source_objectives(source) for source in sources}
    tasks = tasks or [Task("", loss or _common_loss(sources, known))]
    return [Goal(t.name, t.loss, t.num_output or num_output, _main_objectives(known, t.loss)) for t in tasks]


def source_labels(goals: Sequence[Goal]) -> SourceLabels | None:
    """Return the labels of the sources' own losses; None if the user names labels."""
    (goal, *others) = goals
    if others or goal.loss.label is not None:
        return None
    labels = {prefix: item.label for prefix, item in goal.objectives.items() if item.loss is not None}
    return SourceLabels(goal.loss.type, {prefix: label for prefix, label in labels.items() if label is not None})


def check_tasks(loss: Loss | None, tasks: Sequence[Task]) -> list[ComposeError]:
    """Return the errors in the requested tasks."""
    errors = []
    if loss is not None and tasks:
        errors.append(ComposeError("a loss for one classifier and tasks exclude each other", hint=_EXAMPLE))
    names = [task.name for task in tasks]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            errors.append(ComposeError(f"two tasks are called '{name}'", hint=_EXAMPLE))
        if not _NAME.fullmatch(name):
            errors.append(ComposeError(f"{name!r} is no name of a task", hint="use a word such as age"))
    errors += [_same_label_error(*pair) for pair in itertools.combinations(tasks, 2) if _learn_the_same(*pair)]
    unlabelled = [task.name for task in tasks if not task.loss.label]
    return errors + [ComposeError(f"task '{name}' names no label", hint=_EXAMPLE) for name in unlabelled]


def _learn_the_same(one: Task, other: Task) -> bool:
    """Return whether two tasks learn one label by one loss, or as classes of different numbers."""
    if one.loss.label is None or one.loss.label != other.loss.label:
        return False
    classes = one.loss.kind.labels == other.loss.kind.labels == "class" and one.num_output != other.num_output
    return classes or comparison_key(one.loss) == comparison_key(other.loss)


def _same_label_error(one: Task, other: Task) -> ComposeError:
    widths = [f"'{task.name}'" + (f" ({task.num_output})" if task.num_output else "") for task in (one, other)]
    return ComposeError(
        f"tasks {' and '.join(widths)} learn the same label '{one.loss.label}'",
        hint="each task has a label of its own: an HDF5Data layer has a top for each label, or a Slice splits them",
    )


def _main_objectives(known: Mapping[str, Sequence[SourceObjective]], loss: Loss) -> dict[str, SourceObjective]:
    """Return of each source the objective with the loss's label, or else its main one."""
    return {
        prefix: next((item for item in items if loss.label is not None and item.label == loss.label), items[0])
        for prefix, items in known.items()
        if items
    }


def _common_loss(sources: Sequence[PreparedSource], known: Mapping[str, Sequence[SourceObjective]]) -> Loss:
    """Return the loss of all sources that have one. Raises: ComposeError if they differ."""
    found: dict[str, Loss] = {}
    errors: list[ComposeError] = []
    for source in sources:
        try:
            loss = _loss_of(source, known[source.prefix])
        except ComposeError as error:
            errors.append(error)
            continue
        if loss is not None:
            found[source.prefix] = loss
    raise_all(errors)
    ends = {prefix: items[0] for prefix, items in known.items() if items and prefix not in found}
    if not found:
        return _default(ends)
    first = next(iter(found.values()))
    others = {prefix: item for prefix, item in ends.items() if item.labels not in (None, first.kind.labels)}
    if others or len({comparison_key(loss) for loss in found.values()}) > 1:
        losses_found = [f"'{prefix}' has {describe_loss(loss)}" for prefix, loss in found.items()]
        losses_found += [f"'{prefix}' ends in {item.layer.type}" for prefix, item in others.items()]
        raise ComposeError(f"the sources have different losses: {'; '.join(losses_found)}", hint=f"name one: {CHOICES}")
    return replace(first, label=None)


def _loss_of(source: PreparedSource, items: Sequence[SourceObjective]) -> Loss | None:
    """Return the loss of one source, None if it has none. Raises: ComposeError for several, or an unsupported one."""
    own = [item for item in items if item.loss is not None]
    if not own:
        return None
    layer = own[0].layer
    supported = [item.loss for item in own if item.loss is not None and item.loss.type in losses.SUPPORTED]
    if len({item.label for item in own}) > 1:
        kind = supported[0].type if supported else "TYPE"
        hint = f"name one (--loss {kind},label={own[0].label}), or tasks: {_task_options(own)}"
        raise source.error(f"{source} has losses of several labels: {format_objectives(own)}", hint, layer)
    if not supported and (error := pairs_error(source)):
        raise error
    if not supported:
        message = f"{source} has the loss {layer.type}, which no head supports: {losses.unsupported_reason(layer.type)}"
        raise source.error(message, f"name one: {CHOICES}", layer)
    loss = supported[0]
    if loss.label is None:
        message = f"{source}: both bottoms of its {loss.type} are computed from the cut, so it has no label"
        raise source.error(message, f"name loss and label: {CHOICES},label=BLOB", layer)
    ignored = losses.loss_option(loss, "ignore_label")
    if source.spec.classes and ignored is not None and 0 <= int(ignored, 0) < len(source.spec.classes):
        message = f"{source} ignores label {ignored}, which is one of its own classes, not of the fused ones"
        raise source.error(message, f"name the fused label to ignore, if any: {CHOICES}", layer)
    if source.spec.classes and loss.type == "InfogainLoss":
        message = f"{source} weighs its own classes by a matrix, which are not those of the fused net"
        raise source.error(message, "give the fused net's: --loss InfogainLoss,source=FILE", layer)
    return loss


def _task_options(items: Sequence[SourceObjective]) -> str:
    """Return the losses as options of fusion-compose."""
    found = []
    for item in sorted_by_layer(items):
        name = item.classifier.name if item.classifier is not None else item.scores
        name = re.sub(r"\W", "_", name.removeprefix(f"{item.source.prefix}/"))
        width = f",num_output={item.width}" if item.width is not None else ""
        found.append(f"--task {name}={item.layer.type}:{item.label}{width}")
    return " ".join(found)


def _default(ends: Mapping[str, SourceObjective]) -> Loss:
    """Return the loss if no source has one: SoftmaxWithLoss, unless an output contradicts. Raises: ComposeError."""
    others = {prefix: item for prefix, item in ends.items() if item.labels not in (None, "class")}
    if others:
        prefix, item = next(iter(others.items()))
        message = f"source '{prefix}' ends in {item.layer.type}, and no source has a loss for the fused net"
        raise ComposeError(message, hint=f"name one: {CHOICES}")
    return Loss("SoftmaxWithLoss")


def loss_notes(goals: Sequence[Goal], label_of: Mapping[str, str]) -> list[str]:
    """Return the notes on the losses.

    label_of  per goal the fused net's blob with its labels
    """
    notes = []
    words = {"class": "class numbers", "yes-no": "a 0 or 1 per output", "target": "target values"}
    for goal in goals:
        own = [item.loss for item in goal.objectives.values() if item.loss is not None]
        key = comparison_key(goal.loss)
        origin = "as requested" if goal.loss.label or own else "no source has one"
        if own and all(loss.type in losses.SUPPORTED and comparison_key(loss) == key for loss in own):
            origin = "the sources' own"
        task = f"task '{goal.name}': " if goal.name else ""
        labels = f"'{label_of[goal.name]}' holds {words[goal.loss.kind.labels]}"
        notes.append(f"loss: {task}{describe_loss(goal.loss)} ({origin}); {labels}")
        notes += _omitted_losses(goal, task)
    return notes


def _omitted_losses(goal: Goal, task: str) -> list[str]:
    """Return a note on the further losses of each source, which the fused net does not have."""
    found = []
    for prefix, main in goal.objectives.items():
        others = [item for item in source_objectives(main.source) if item.loss is not None and item.layer != main.layer]
        if others and not goal.name:
            found.append(f"loss: {task}these losses of source '{prefix}' are left out: {format_objectives(others)}")
    return found
