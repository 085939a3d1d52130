"""The nets of a solver file: one to train and any number to test, filtered to their states."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion.data.net_classes import classes_of_nets
from fusion.data.replaced_list import with_list
from fusion.errors import TrainingError, raise_all
from prototxt.schema.filter import filter_whole
from prototxt.schema.load import load_net
from prototxt.text.class_names import class_names_of
from prototxt.text.parser import parse_file

if TYPE_CHECKING:
    from prototxt.schema.messages import NetParameter, NetState, SolverParameter


@dataclass(frozen=True)
class Descriptions:
    """Decoded and filtered nets; a test net's number is that of its test_iter.

    class_names  those in the nets' files, where a file names its classes
    """

    train: NetParameter
    tests: tuple[NetParameter, ...]
    class_names: tuple[str, ...] = ()

    def test_on(self, path: str | os.PathLike[str]) -> NetParameter:
        """Return the first test net, reading another list (or folder, or database).

        Raises: TrainingError for a list that cannot replace its own, DataError for a folder of other classes.
        """
        net = with_list(self.tests[0], path)
        classes_of_nets([self.train, *self.tests, net], self.class_names)
        return net


def read_nets(solver: SolverParameter, *, path: str | None = None) -> Descriptions:
    """Return the nets that a solver names or holds.

    Raises: TrainingError when there is not exactly one net to train, or test nets, test_iter and test_state do not
    match in number; DataError when they read folders of different classes; prototxt's errors for the nets themselves.
    """
    generic = [*_given(solver, "net_param"), *_given(solver, "net")]
    train = [*_given(solver, "train_net_param"), *_given(solver, "train_net"), *generic]
    own_tests: list[NetParameter | str] = [*solver.test_net_param, *solver.test_net]
    # Caffe tests the training net itself where test_iter has more values than there are test nets
    tests = own_tests + (generic * max(0, len(solver.test_iter) - len(own_tests)))
    raise_all(_mistakes(solver, len(train), len(own_tests), len(tests), path))
    loaded: dict[str, NetParameter] = {}
    names: dict[str, tuple[str, ...]] = {}
    for file in [net for net in (train[0], *tests) if isinstance(net, str)]:
        if file not in loaded:
            document = parse_file(file)
            loaded[file], names[file] = load_net(document), class_names_of(document).names
    states: list[NetState | None] = [*solver.test_state] or [None] * len(tests)
    found = Descriptions(
        train=_filtered(_of(train[0], loaded), "TRAIN", solver.train_state),
        tests=tuple(_filtered(_of(net, loaded), "TEST", state) for net, state in zip(tests, states, strict=True)),
        class_names=next(filter(None, names.values()), ()),
    )
    classes_of_nets([found.train, *found.tests], found.class_names)
    return found


def _given(solver: SolverParameter, name: str) -> list[NetParameter | str]:
    return [getattr(solver, name)] if solver.HasField(name) else []


def _mistakes(solver: SolverParameter, train: int, own_tests: int, tests: int, path: str | None) -> list[TrainingError]:
    found = []
    if train != 1:
        nets = "no net to train" if not train else f"{train} nets to train"
        hint = "give exactly one of net, net_param, train_net and train_net_param"
        found.append(TrainingError(f"the solver names {nets}", place=path, hint=hint))
    if len(solver.test_iter) != tests:
        message = f"{own_tests} test nets, but {len(solver.test_iter)} values of test_iter"
        found.append(TrainingError(message, place=path, hint="give one test_iter per test net"))
    if len(solver.test_state) not in (0, tests):
        message = f"{len(solver.test_state)} values of test_state for {tests} test nets"
        found.append(TrainingError(message, place=path, hint="give none, or one per test net"))
    if tests and solver.test_interval <= 0:
        found.append(TrainingError("test_iter is given without test_interval", place=path, hint="add test_interval"))
    if any(count < 1 for count in solver.test_iter):
        found.append(TrainingError("test_iter must be at least 1", place=path, hint="correct test_iter"))
    return found


def _of(net: NetParameter | str, loaded: dict[str, NetParameter]) -> NetParameter:
    return loaded[net] if isinstance(net, str) else net


def _filtered(net: NetParameter, phase: str, state: NetState | None) -> NetParameter:
    """Return the layers of the net's own state, to which the solver may add level and stages."""
    level = net.state.level
    if state is not None and state.HasField("level"):
        level = state.level
    return filter_whole(net, phase, level, tuple(state.stage) if state is not None else ())
