"""Hooks of a training run: what reports, averages weights, chooses or stops does so from outside the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion.solver.evaluate_test_nets import Average
    from fusion.solver.solver import Solver

Outputs = Sequence[tuple[str, list[float], float]]  # an output's name, its values, its weight in the loss
Arrays = Mapping[str, "NDArray[Any]"]


@dataclass(frozen=True)
class Shown:
    """What is known where a display falls due.

    iteration   the one that is running
    loss        averaged over average_loss iterations
    rate        the learning rate, or None behind the last iteration
    outputs     of the training net, for the last batch
    iterations  since the last display, and `seconds` that they took
    """

    iteration: int
    loss: float
    rate: float | None = None
    outputs: Outputs = ()
    iterations: int = 0
    seconds: float = 0.0

    @property
    def speed(self) -> float:
        """Iterations per second since the last display; 0 at the first one."""
        return self.iterations / self.seconds if self.seconds > 0 else 0.0


class Observer:
    """Watches a run. Override what is needed; a hook that nobody overrides costs nothing.

    name  under which its state is kept in snapshots; "" where it has none
    """

    name = ""

    def begin(self, run: Solver) -> None:
        """Everything is prepared and the first iteration is next; also after resuming, then behind `restore`."""

    def updated(self, iteration: int) -> None:
        """So many updates are done. Called each time: do not wait for the device."""

    def ticked(self, iteration: int) -> None:
        """The losses up to here were looked at, about every hundred iterations."""

    def shown(self, shown: Shown) -> None:
        """A display fell due."""

    def testing(self, iteration: int) -> None:
        """The test nets are measured next."""

    def measuring(self, iteration: int, index: int) -> None:
        """Test net `index` is next."""

    def measured(self, iteration: int, index: int, average: Average) -> None:
        """Test net `index` was measured."""

    def judged(self, iteration: int, average: Average) -> None:
        """The records to choose by were measured."""

    def tested(self, iteration: int) -> None:
        """All test nets were measured. Called in the reverse order of `testing`."""

    def saved(self, iteration: int, files: Sequence[str]) -> None:
        """A snapshot was written: caffemodel, fusionstate and solverstate."""

    def finished(self, iteration: int) -> None:
        """The last iteration, test and snapshot are behind us."""

    def end(self) -> None:
        """The run is over, also when it failed or was interrupted."""

    def state(self) -> Arrays:
        """What to keep in a snapshot, so that a resumed run equals one that was not stopped."""
        return {}

    def restore(self, state: Arrays) -> None:
        """Go on from what `state` gave; it is empty where the snapshot has none."""


class Observers:
    """Several as one, each called only where it overrides the hook."""

    def __init__(self, members: Iterable[Observer]) -> None:
        self.members = tuple(members)
        self.updated: tuple[Callable[[int], None], ...] = tuple(
            member.updated for member in self.members if type(member).updated is not Observer.updated
        )

    def call(self, hook: str, *arguments: Any) -> None:
        """Call one hook of all, in order; `tested`, `finished` and `end` in reverse order."""
        for member in reversed(self.members) if hook in ("tested", "finished", "end") else self.members:
            getattr(member, hook)(*arguments)

    def state(self) -> dict[str, NDArray[Any]]:
        """All states, the members' names in front of their keys."""
        return {f"{member.name}.{key}": value for member in self.members for key, value in member.state().items()}

    def restore(self, state: Arrays) -> None:
        """Give each member its own part back."""
        for member in self.members:
            start = f"{member.name}."
            own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
            member.restore(own if member.name else {})
