"""A fusion as a file: what fusion-compose takes as flags, written down in TOML to be kept and run again.

    head = "concat-fc"
    num_output = 10
    output = "fused"

    [[source]]
    prefix = "odd"
    net = "lenet_odd.prototxt"
    at = "ip1"

    [data]
    train_list = "train_all.txt"

    [solver]
    base_lr = 0.01

Paths are relative to the working directory, as everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final

from fusion.composition.losses import Loss, plain_options
from fusion.composition.references import Pct
from fusion.composition.solver_text import SolverSettings
from fusion.composition.source import Source
from fusion.composition.tasks import Task
from fusion.data.json_toml import parse_toml
from fusion.errors import ComposeError, raise_all

PathLike = str | os.PathLike[str]
_NUMBER: Final = (int, float)
# Key of the file -> the types that its value may have. Keys are the names of `compose`'s arguments.
_TOP: Final[Mapping[str, tuple[type, ...]]] = {
    "head": (str,),
    "num_output": (int,),
    "loss": (str,),
    "output": (str,),
    "name": (str,),
    "hidden": (int,),
    "project": (int,),
    "batch_norm": (bool,),
    "maps": (str,),
    "references": (bool,),
    "input_shape": (list,),
    "labels": (str,),
}
_DATA: Final[Mapping[str, tuple[type, ...]]] = {
    "data_from": (str,),
    "train_list": (str,),
    "val_list": (str,),
    "train_batch": (int,),
    "test_batch": (int,),
}
_SOURCE: Final[Mapping[str, tuple[type, ...]]] = {
    "prefix": (str,),
    "net": (str,),
    "at": (str, list),
    "weights": (str,),
    "classes": (list,),
    "logits": (str,),
    "pixels": (str,),
    "stages": (list,),
    "train_list": (str, dict),
    "val_list": (str, dict),
}
_SOLVER: Final[Mapping[str, tuple[type, ...]]] = {
    item.name: _NUMBER if "float" in str(item.type) else (str,) if "str" in str(item.type) else (int,)
    for item in fields(SolverSettings)
    if item.name != "further"
}
_TASK: Final[Mapping[str, tuple[type, ...]]] = {"name": (str,), "loss": (str,), "label": (str,), "num_output": (int,)}
_TABLES: Final = ("source", "data", "task", "pct", "solver")


@dataclass(frozen=True)
class ComposeConfig:
    """What `compose` is called with, and where its files go.

    options  keyword arguments of `compose` besides the sources, the losses and the schedule
    tasks    classifiers with losses of their own
    solver   fields of Schedule, and others of SolverParameter
    output   the folder for the files
    """

    sources: tuple[Source, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    pct: tuple[Pct, ...] = ()
    solver: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None
    tasks: tuple[Task, ...] = ()

    @property
    def schedule(self) -> SolverSettings:
        """The solver's settings as `compose` takes them."""
        own = {key: value for key, value in self.solver.items() if key in _SOLVER}
        return SolverSettings(**own, further={key: value for key, value in self.solver.items() if key not in _SOLVER})

    def over(self, other: ComposeConfig) -> ComposeConfig:
        """This one where it says something, else the other: a command's flags over its file."""
        return ComposeConfig(
            sources=self.sources or other.sources,
            options={**other.options, **self.options},
            pct=self.pct or other.pct,
            solver={**other.solver, **self.solver},
            output=self.output or other.output,
            tasks=self.tasks or other.tasks,
        )


def read_config(path: PathLike) -> ComposeConfig:
    """Read a fusion file. Raises: ComposeError with everything that is wrong in it, OSError."""
    place = os.fspath(path)
    found = _toml(place)
    errors: list[ComposeError] = []
    top = {key: value for key, value in found.items() if key not in _TABLES}
    options = _checked(top, _TOP, place, "", errors, further=_TABLES)
    data = _checked(_table(found, "data", place, errors), _DATA, place, "data.", errors)
    sources = [
        _source(item, number, place, errors) for number, item in enumerate(_tables(found, "source", place, errors), 1)
    ]
    losses = [_loss(item, number, place, errors) for number, item in enumerate(_tables(found, "pct", place, errors), 1)]
    tasks = [_task(item, number, place, errors) for number, item in enumerate(_tables(found, "task", place, errors), 1)]
    solver = _solver(_table(found, "solver", place, errors), place, errors)
    raise_all(errors)
    output = options.pop("output", None)
    return ComposeConfig(tuple(sources), {**options, **data}, tuple(losses), solver, output, tuple(tasks))


def _toml(place: str) -> dict[str, Any]:
    with open(place, "rb") as file:
        data = file.read()
    return parse_toml(data, place, ComposeError)


def _table(found: Mapping[str, Any], key: str, place: str, errors: list[ComposeError]) -> Mapping[str, Any]:
    value = found.get(key, {})
    if isinstance(value, dict):
        return value
    errors.append(ComposeError(f"'{key}' is a table", place=place, hint=f"write [{key}] and its lines below it"))
    return {}


def _tables(found: Mapping[str, Any], key: str, place: str, errors: list[ComposeError]) -> list[dict[str, Any]]:
    value = found.get(key, [])
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    hint = f"write [[{key}]], with two brackets, and its lines below it"
    errors.append(ComposeError(f"'{key}' is a list of tables", place=place, hint=hint))
    return []


def _checked(
    table: Mapping[str, Any],
    known: Mapping[str, tuple[type, ...]],
    place: str,
    where: str,
    errors: list[ComposeError],
    further: Sequence[str] = (),
) -> dict[str, Any]:
    """The entries that are known and of the right type; an error for each other."""
    good = {}
    for key, value in table.items():
        if key not in known:
            near = get_close_matches(key, [*known, *further], n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"one of {', '.join([*known, *further])}"
            errors.append(ComposeError(f"there is no key '{where}{key}'", place=place, hint=hint))
        elif not isinstance(value, known[key]) or (isinstance(value, bool) and bool not in known[key]):
            wanted = " or ".join(_WORDS[kind] for kind in known[key])
            errors.append(ComposeError(f"'{where}{key}' is {value!r}, not {wanted}", place=place))
        else:
            good[key] = value
    return good


_WORDS: Final = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def _source(table: dict[str, Any], number: int, place: str, errors: list[ComposeError]) -> Source:
    good = _checked(table, _SOURCE, place, "source.", errors)
    missing = [key for key in ("prefix", "net") if key not in table]
    if missing:
        message = f"source {number} has no {' and no '.join(missing)}"
        errors.append(ComposeError(message, place=place, hint='e.g. prefix = "odd" and net = "odd.prototxt"'))
    at = good.get("at")
    errors += [
        ComposeError(f"'source.{key}' has a text for each layer", place=place)
        for key in ("train_list", "val_list")
        if isinstance(good.get(key), dict) and any(not isinstance(item, str) for item in good[key].values())
    ]
    for key, kind in (("at", str), ("classes", int), ("stages", str)):
        if any(not isinstance(item, kind) for item in good.get(key, []) if isinstance(good[key], list)):
            errors.append(ComposeError(f"'source.{key}' is a list of {_WORDS[kind][2:]}s", place=place))
    return Source(
        prefix=good.get("prefix", ""),
        prototxt=good.get("net", ""),
        at=at if at is None or isinstance(at, str) else tuple(at),
        weights=good.get("weights"),
        classes=tuple(good.get("classes", ())),
        logits=good.get("logits"),
        pixels=good.get("pixels"),
        stages=tuple(good.get("stages", ())),
        train_list=good.get("train_list"),
        val_list=good.get("val_list"),
    )


def _loss(table: dict[str, Any], number: int, place: str, errors: list[ComposeError]) -> Pct:
    """Its options are checked where all losses are, whether they come from a file or not."""
    rest = dict(table)
    kind, weight = rest.pop("kind", None), rest.pop("weight", 1.0)
    if not isinstance(kind, str):
        errors.append(ComposeError(f"pct {number} has no kind", place=place, hint='e.g. kind = "focal"'))
    if not isinstance(weight, _NUMBER) or isinstance(weight, bool):
        errors.append(ComposeError(f"'pct.weight' is {weight!r}, not a number", place=place))
        weight = 1.0
    return Pct(str(kind), float(weight), rest)


def _task(table: dict[str, Any], number: int, place: str, errors: list[ComposeError]) -> Task:
    """The loss's own parameters are checked where all losses are."""
    good = _checked({key: table[key] for key in table if key in _TASK}, _TASK, place, "task.", errors)
    missing = [key for key in ("name", "loss", "label") if key not in table]
    if missing:
        message = f"task {number} has no {' and no '.join(missing)}"
        hint = 'e.g. name = "age", loss = "EuclideanLoss" and label = "age_label"'
        errors.append(ComposeError(message, place=place, hint=hint))
    rest = {key: value for key, value in table.items() if key not in _TASK}
    loss = Loss(good.get("loss", ""), rest, good.get("label"))
    return Task(good.get("name", ""), loss, good.get("num_output"))


def _solver(table: Mapping[str, Any], place: str, errors: list[ComposeError]) -> dict[str, Any]:
    """Fields of Schedule; others go to the solver as they stand, if Caffe knows them."""
    from prototxt.schema.messages import SolverParameter

    known = {item.name: (str, int, float, bool, list) for item in SolverParameter.DESCRIPTOR.fields}
    return _checked(table, {**known, **_SOLVER}, place, "solver.", errors)


def to_toml(recipe: ComposeConfig) -> str:
    """The recipe as a fusion file, which reads as the same recipe."""
    lines = [_line(key, recipe.options[key]) for key in _TOP if key in recipe.options]
    lines += [_line("output", recipe.output)] if recipe.output else []
    for source in recipe.sources:
        lines += ["", "[[source]]", _line("prefix", source.prefix), _line("net", str(source.prototxt))]
        entries = {key: getattr(source, key) for key in _SOURCE if key not in ("prefix", "net")}
        lines += [_line(key, value) for key, value in entries.items() if value]
    data = [_line(key, recipe.options[key]) for key in _DATA if key in recipe.options]
    lines += ["", "[data]", *data] if data else []
    for task in recipe.tasks:
        lines += ["", "[[task]]", _line("name", task.name), _line("loss", task.loss.type)]
        lines += [_line("label", task.loss.label)] if task.loss.label else []
        lines += [_line("num_output", task.num_output)] if task.num_output is not None else []
        lines += [_line(name, value) for name, value in plain_options(task.loss).items()]
    for loss in recipe.pct:
        lines += ["", "[[pct]]", _line("kind", loss.kind), _line("weight", loss.weight)]
        lines += [_line(key, value) for key, value in loss.options.items()]
    solver = [_line(key, value) for key, value in recipe.solver.items()]
    lines += ["", "[solver]", *solver] if solver else []
    return "\n".join(lines).lstrip("\n") + "\n"


def _line(key: str, value: object) -> str:
    return f"{key} = {_value(value)}"


def _value(value: object) -> str:
    """A TOML literal."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_value(key)} = {_value(item)}' for key, item in value.items())} }}"
    escaped = os.fspath(str(value)).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
