"""A job: the file with its settings, checked, as steps in a folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fusion.composition.config import ComposeConfig, place_of_key, read_config
from fusion.composition.folds import expand_patterns
from fusion.conversion.net_names import holds_its_weights
from fusion.errors import ComposeError, raise_all
from fusion.file_lock import locked
from fusion.job.option_words import check_words, option_words
from fusion.job.steps import JobStep, StepPlanner
from prototxt.errors import did_you_mean

Parsers = Callable[[str], argparse.ArgumentParser]  # from a command such as "train" to its command line


@dataclass(frozen=True)
class Job:
    """A job: its folder, its steps in their order, and decisions that the user should know of."""

    output: str
    steps: tuple[JobStep, ...]
    notes: tuple[str, ...] = ()

    def position(self, name: str) -> int:
        """Return the position of a step, or of the first one of a command. Raises: ComposeError."""
        for number, step in enumerate(self.steps):
            if name in (step.name, step.command):
                return number
        names = [step.name for step in self.steps]
        commands = [step.command for step in self.steps]
        hint = did_you_mean(name, [*names, *commands], also=f"one of {', '.join(names)}")
        raise ComposeError(f"there is no step '{name}'", hint=hint)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold it while the block runs. Raises: TrainingError where another run holds it."""
        os.makedirs(self.output, exist_ok=True)
        hint = "wait for it, or give another output"
        with locked(f"{self.output}/run", print, "another run works in this folder", hint):
            yield


def plan_job(path: str, parsers: Parsers, output: str | None = None) -> Job:
    """Return the steps of the job in a file.

    output  the folder, instead of the file's
    Raises: ComposeError with all errors in the file and in its sources, ReportError for its gate; OSError.
    """
    config = read_config(path)
    options = _checked_options(path, config, parsers)
    output = output or config.output or Path(path).stem
    planner = StepPlanner(path, config, output, options)
    planner.plan()
    for step in planner.steps:
        try:
            check_words(step.words, parsers(step.command))
        except ComposeError as error:
            raise ComposeError(f"step {step.name}: {error.message}", place=path, hint=error.hint) from None
    return Job(output, tuple(planner.steps), tuple(planner.notes))


def _checked_options(path: str, config: ComposeConfig, parsers: Parsers) -> dict[str, list[str]]:
    """Return the words of each command's table. Raises: ComposeError with all errors, ReportError for the gate."""
    data, options, errors = Path(path).read_bytes(), {}, []
    for command in ("merge", "verify", "train", "test", "report", "export"):
        try:
            options[command] = option_words(config.job.get(command) or {}, command, parsers(command))
        except ComposeError as error:
            place = place_of_key(data, path, str(error.place))
            errors.append(ComposeError(error.message, place=place, hint=error.hint))
    if not config.sources:
        hint = 'write [[source]] with prefix = "a", net = "a.prototxt" and weights = "a.caffemodel"'
        errors.append(ComposeError("there are no sources to fuse", place=path, hint=hint))
    for source in expand_patterns(config.sources):
        if source.weights is None and not holds_its_weights(str(source.prototxt)):
            hint = 'add weights = "..." to its [[source]]'
            errors.append(ComposeError(f"{source} has no weights", place=path, hint=hint))
    for key in ("train_list", "val_list", "test_list"):
        name = config.job.get(key) or getattr(config.options, key, None)
        if name and "=" not in name and not os.path.exists(name):
            place = place_of_key(data, path, f"data.{key}")
            errors.append(
                ComposeError(f"there is no {name}", place=place, hint="paths are relative to the working folder")
            )
    raise_all(errors)
    if "gate" in config.job:
        from fusion.report import read_budget

        read_budget(path)
    return options
