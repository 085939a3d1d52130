"""Callbacks of a training run: reporting, averaging weights, choosing and stopping happen outside the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion.solver.metrics import MeanOutputs, TrainMetrics
    from fusion.solver.run import Run

Arrays = Mapping[str, "NDArray[Any]"]
_REVERSED = ("on_tests_end", "on_finish", "on_end")


class Callback:
    """Hooks that the loop calls. Override those that are needed; the others cost nothing.

    name  key of its state in snapshots; "" where it has no state
    run   the run, set by its solver before all hooks
    """

    name = ""
    run: Run

    def on_start(self) -> None:
        """Run before the first iteration, when everything is prepared; in a resumed run after `load_state_dict`."""

    def on_update(self, iteration: int) -> None:
        """Run after each of the `iteration` updates so far. Do not wait for the device here."""

    def on_log(self, iteration: int) -> None:
        """Run about every hundred iterations, when the losses so far have been read."""

    def on_display(self, metrics: TrainMetrics) -> None:
        """Run where a display is due."""

    def on_tests_start(self, iteration: int) -> None:
        """Run before the test nets are measured."""

    def on_test_start(self, iteration: int, index: int) -> None:
        """Run before test net `index` is measured."""

    def on_test_end(self, iteration: int, index: int, result: MeanOutputs) -> None:
        """Run after test net `index` was measured."""

    def on_validation(self, iteration: int, result: MeanOutputs) -> None:
        """Run after the validation records were measured."""

    def on_tests_end(self, iteration: int) -> None:
        """Run after all test nets were measured, in the reverse order of `on_tests_start`."""

    def on_snapshot(self, iteration: int, files: Sequence[str]) -> None:
        """Run after a snapshot was written: caffemodel, fusionstate and solverstate."""

    def on_finish(self, iteration: int) -> None:
        """Run after the last iteration, its test and its snapshot."""

    def on_end(self) -> None:
        """Run when the run is over, also when it failed or was interrupted."""

    def state_dict(self) -> Arrays:
        """Return the state for a snapshot, so that a resumed run equals one that was not stopped."""
        return {}

    def load_state_dict(self, state: Arrays) -> None:
        """Resume from the result of `state_dict`, which is empty where the snapshot has none."""


class CallbackList:
    """Several callbacks, each called only where it overrides the hook."""

    def __init__(self, run: Run, members: Iterable[Callback]) -> None:
        self.members = tuple(members)
        for member in self.members:
            member.run = run
        self.on_update: tuple[Callable[[int], None], ...] = tuple(
            member.on_update for member in self.members if type(member).on_update is not Callback.on_update
        )

    def call(self, hook: str, *arguments: Any) -> None:
        """Call one hook of all members, in order; those that end something in reverse order."""
        for member in reversed(self.members) if hook in _REVERSED else self.members:
            getattr(member, hook)(*arguments)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return all states, with the members' names before their keys."""
        return {f"{member.name}.{key}": value for member in self.members for key, value in member.state_dict().items()}

    def load_state_dict(self, state: Arrays) -> None:
        """Return each member's own part of the state to it."""
        for member in self.members:
            start = f"{member.name}."
            own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
            member.load_state_dict(own if member.name else {})
