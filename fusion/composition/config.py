"""A fusion as a TOML file: the options of fusion-compose, stored so that they can be run again.

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

The keys and their types are the fields of ComposeOptions, Source and SolverSettings. Paths are relative to the working
directory, as everywhere. A job for `fusion run` is such a file with more in it (`fusion.job`), which composing ignores.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from fusion.composition.losses import Loss, plain_options
from fusion.composition.options import ComposeOptions
from fusion.composition.references import Pct
from fusion.composition.solver_text import SolverSettings
from fusion.composition.source import PathLike, Source
from fusion.composition.tasks import Task
from fusion.data.parse_json_toml import parse_toml
from fusion.errors import ComposeError, raise_all
from prototxt.errors import did_you_mean

# The first word of a type in an annotation -> the types of its TOML values, and how errors name them.
_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "str": ((str,), "a text"),
    "PathLike": ((str,), "a text"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "Sequence": ((list,), "a list"),
    "Mapping": ((dict,), "a table"),
}
# The tables of a job; those in _STEPS may be `false` instead, for a job without that step.
_STEPS: Final = ("verify", "report", "export")
JOB_TABLES: Final = ("merge", "train", "test", "gate", *_STEPS)
_TABLES: Final = ("source", "data", "task", "pct", "solver", *JOB_TABLES)
_DATA: Final = ("data_from", "train_list", "val_list", "train_batch", "test_batch", "val_share")
_OPTIONS: Final = {
    item.name: str(item.type) for item in fields(ComposeOptions) if item.name not in ("tasks", "pct", "schedule")
}
_TOP: Final = {name: kind for name, kind in {**_OPTIONS, "output": "str", "plain": "bool"}.items() if name not in _DATA}
_IN_PYTHON: Final = ("module", "example")  # fields of a source that no file can hold
_SOURCE: Final = {
    item.name.replace("prototxt", "net"): str(item.type) for item in fields(Source) if item.name not in _IN_PYTHON
}
_TASK: Final = {"name": "str", "loss": "str", "label": "str", "num_output": "int"}


@dataclass(frozen=True)
class ComposeConfig:
    """The arguments of `compose`, and the folder for its files.

    job  the rest of a job: its tables as they stand there, False for a step to leave out, and the keys `plain`,
         `test_list` and `pct`, which is "auto" or "auto,kind=kd" where the losses are not in the file
    """

    sources: tuple[Source, ...] = ()
    options: ComposeOptions = field(default_factory=ComposeOptions)
    output: str | None = None
    job: Mapping[str, Any] = field(default_factory=dict)


def read_config(path: PathLike) -> ComposeConfig:
    """Read a fusion file. Raises: ComposeError with all errors in it, OSError."""
    file = _ConfigFile(os.fspath(path))
    top = file.checked({key: value for key, value in file.content.items() if key not in _TABLES}, _TOP, "", _TABLES)
    data = file.checked(file.table("data"), {**{name: _OPTIONS[name] for name in _DATA}, "test_list": "str"}, "data.")
    job = _job(file)
    sources = [_source(file, table, number) for number, table in enumerate(file.tables("source"), 1)]
    losses = [] if "pct" in job else file.tables("pct")
    pct = [_pct(file, table, number) for number, table in enumerate(losses, 1)]
    tasks = [_task(file, table, number) for number, table in enumerate(file.tables("task"), 1)]
    solver = _solver(file)
    raise_all(file.errors)
    output = top.pop("output", None)
    job.update({key: part.pop(key) for key, part in (("plain", top), ("test_list", data)) if key in part})
    top["references"] = top.get("references", False) or "pct" in job
    options = ComposeOptions(**top, **data, tasks=tuple(tasks), pct=tuple(pct), schedule=solver)
    return ComposeConfig(tuple(sources), options, output, job)


class _ConfigFile:
    """The content of a fusion file, and the errors found in it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.data = Path(path).read_bytes()
        self.content: dict[str, Any] = parse_toml(self.data, path, ComposeError)
        self.errors: list[ComposeError] = []

    def error(self, message: str, hint: str | None = None, key: str = "") -> None:
        self.errors.append(ComposeError(message, place=place_of_key(self.data, self.path, key), hint=hint))

    def table(self, key: str) -> dict[str, Any]:
        value = self.content.get(key, {})
        if isinstance(value, dict):
            return value
        self.error(f"'{key}' is a table", f"write [{key}] and its lines below it")
        return {}

    def tables(self, key: str) -> list[dict[str, Any]]:
        value = self.content.get(key, [])
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            return value
        self.error(f"'{key}' is a list of tables", f"write [[{key}]], with two brackets, and its lines below it")
        return []

    def checked(
        self, table: Mapping[str, Any], known: Mapping[str, str], where: str, tables: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Return the entries that are known and of the annotated type, lists as tuples; an error for each other."""
        good = {}
        for key, value in table.items():
            if key not in known:
                names = [*known, *tables]
                hint = did_you_mean(key, names) or f"one of {', '.join(names)}"
                self.error(f"there is no key '{where}{key}'", hint, f"{where}{key}")
            elif problem := _type_error(value, known[key]):
                self.error(f"'{where}{key}' {problem}", key=f"{where}{key}")
            else:
                good[key] = tuple(value) if isinstance(value, list) else value
        return good

    def check_present(self, table: Mapping[str, Any], names: Iterable[str], which: str, hint: str) -> None:
        missing = [name for name in names if name not in table]
        if missing:
            self.error(f"{which} has no {' and no '.join(missing)}", hint)


def place_of_key(data: bytes, path: str, key: str) -> str:
    """Return `file:line` of the first line that sets a key such as `num_output` or `source.at`, else the file."""
    number = _lines_of_keys(data).get(key)
    return path if number is None else f"{path}:{number}"


@lru_cache(maxsize=1)
def _lines_of_keys(data: bytes) -> dict[str, int]:
    """Return the number of the first line that sets each key."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        name, equals, _ = line.partition("=")
        if header := re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]", line):
            table = f"{header[1]}."
        elif equals:
            found.setdefault(table + name.strip().strip("\"'"), number)
    return found


def _type_error(value: Any, annotation: str) -> str | None:
    """Return why a TOML value does not fit an annotation such as `str | Sequence[int] | None`, None if it does."""
    kinds = [_TYPES[word] for part in annotation.split(" | ") if (word := part.partition("[")[0]) in _TYPES]
    # The exact type: True is an int for isinstance.
    if not any(type(value) in types for types, _ in kinds):
        return f"is {value!r}, not {' or '.join(dict.fromkeys(word for _, word in kinds))}"
    element = re.search(r"(Sequence\[|Mapping\[str, )([\w |]+)\]", annotation)
    if element is None or not isinstance(value, (list, dict)):
        return None
    kinds = [_TYPES[word] for word in element.group(2).split(" | ")]
    items = value if isinstance(value, list) else value.values()
    if all(any(type(item) in types for types, _ in kinds) for item in items):
        return None
    words = [f"{word[2:]}s" for _, word in kinds]
    return f"is a list of {' or '.join(words)}" if isinstance(value, list) else f"has {kinds[0][1]} for each layer"


def _source(file: _ConfigFile, table: dict[str, Any], number: int) -> Source:
    good = file.checked(table, _SOURCE, "source.")
    file.check_present(table, ("prefix", "net"), f"source {number}", 'e.g. prefix = "odd" and net = "odd.prototxt"')
    return Source(good.pop("prefix", ""), good.pop("net", ""), **good)


def _pct(file: _ConfigFile, table: dict[str, Any], number: int) -> Pct:
    """Read a positive-congruent loss; its options are checked where those of the command and of Python are."""
    rest = dict(table)
    kind, weight = rest.pop("kind", None), rest.pop("weight", 1.0)
    if not isinstance(kind, str):
        file.error(f"pct {number} has no kind", 'e.g. kind = "focal"')
    if problem := _type_error(weight, "float"):
        file.error(f"'pct.weight' {problem}")
        weight = 1.0
    return Pct(str(kind), float(weight), rest)


def _task(file: _ConfigFile, table: dict[str, Any], number: int) -> Task:
    """Read a task; the parameters of its loss are checked where those of the command and of Python are."""
    good = file.checked({key: table[key] for key in table if key in _TASK}, _TASK, "task.")
    hint = 'e.g. name = "age", loss = "EuclideanLoss" and label = "age_label"'
    file.check_present(table, ("name", "loss", "label"), f"task {number}", hint)
    rest = {key: value for key, value in table.items() if key not in _TASK}
    return Task(good.get("name", ""), Loss(good.get("loss", ""), rest, good.get("label")), good.get("num_output"))


def _job(file: _ConfigFile) -> dict[str, Any]:
    """Read the tables of a job; their keys are options of commands, which are not known here."""
    absent = [key for key in _STEPS if file.content.get(key) is False]
    job: dict[str, Any] = {key: file.table(key) for key in JOB_TABLES if key in file.content and key not in absent}
    job.update(dict.fromkeys(absent, False))
    pct = file.content.get("pct")
    return {**job, "pct": pct} if isinstance(pct, str) and pct.partition(",")[0] == "auto" else job


def _solver(file: _ConfigFile) -> SolverSettings | None:
    """Read the fields of SolverSettings; other fields go to the solver as they stand, if Caffe knows them."""
    from prototxt.schema.messages import SolverParameter

    table = file.table("solver")
    known = {item.name: "str | int | float | bool | Sequence" for item in SolverParameter.DESCRIPTOR.fields}
    known.update({item.name: str(item.type) for item in fields(SolverSettings) if item.name != "further"})
    good = file.checked(table, known, "solver.")
    return SolverSettings().with_fields(good) if good else None


def to_toml(config: ComposeConfig) -> str:
    """Return the configuration as a fusion file, which reads as the same configuration; defaults are left out."""
    options = config.options
    given = {item.name: getattr(options, item.name) for item in fields(options) if item.name in _OPTIONS}
    given = {key: value for key, value in given.items() if value != getattr(ComposeOptions, key)}
    tables = {key: value for key, value in config.job.items() if isinstance(value, dict)}
    others = {key: value for key, value in config.job.items() if key not in tables}
    test_list = others.pop("test_list", None)
    own = {key: value for key, value in given.items() if key not in _DATA}
    lines = _lines({**own, "output": config.output, **others})
    for source in config.sources:
        entries = {key: getattr(source, key.replace("net", "prototxt")) for key in _SOURCE}
        lines += ["", "[[source]]", *_lines({key: value for key, value in entries.items() if value not in ((), False)})]
    data = _lines({**{key: value for key, value in given.items() if key in _DATA}, "test_list": test_list})
    lines += ["", "[data]", *data] if data else []
    for task in options.parsed_tasks():
        loss = task.loss
        entries = {"name": task.name, "loss": loss.type, "label": loss.label, "num_output": task.num_output}
        lines += ["", "[[task]]", *_lines({**entries, **plain_options(loss)})]
    for pct in options.parsed_pct():
        lines += ["", "[[pct]]", *_lines({"kind": pct.kind, "weight": pct.weight, **pct.options})]
    if options.schedule is not None:
        lines += ["", "[solver]", *_lines(options.schedule.changed_fields())]
    for key, table in tables.items():
        lines += ["", f"[{key}]", *_lines(table)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _lines(entries: Mapping[str, object]) -> list[str]:
    return [f"{key} = {toml_literal(value)}" for key, value in entries.items() if value is not None]


def toml_literal(value: object) -> str:
    """Return a TOML literal."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_literal, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{toml_literal(key)} = {toml_literal(item)}' for key, item in value.items())} }}"
    escaped = os.fspath(str(value)).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
