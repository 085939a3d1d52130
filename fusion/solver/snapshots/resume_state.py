"""The state that Caffe's two snapshot files lack, in a third file, so that a run resumes bit for bit.

A NumPy archive without pickle: `meta` is JSON, the states of the random generators and further states are arrays.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fusion.nets.shared_params import set_tensor_by_path
from prototxt.files import atomic_write
from prototxt.formats.numpy_files import read_npz

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

ENGINE = f"torch {torch.__version__}"
_PLAIN = ("generators", "arrays")  # fields that are arrays by name, in the archive as FIELD/NAME
_MOST_THREADS = 1 << 16
_CARRIED = ("hidden", "cell")  # buffers of recurrent layers that the next batch starts from


@dataclass(frozen=True, eq=False)
class ResumeState:
    """The state that Caffe's files lack.

    iteration   of the snapshot
    positions   batches returned so far, of the net in training and of each test net
    losses      the recent losses that average_loss shows
    seed        of data and fillers
    weights     checksum of the learnable weights, which shows whether they belong to this state
    threads     and `engine`: bits are the same only with the same ones
    decisions   results of measurements and choices at the start, which a resumed run repeats
    generators  states of the random generators, as `generators` gives them
    arrays      further states, by the names of their owners
    """

    iteration: int
    positions: tuple[int, ...]
    losses: tuple[float, ...]
    seed: int
    weights: int
    threads: int = field(default_factory=torch.get_num_threads)
    engine: str = ENGINE
    decisions: Mapping[str, str] = field(default_factory=dict)
    generators: Arrays = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


def write_resume_state(path: str, state: ResumeState) -> None:
    """Write a fusionstate, whole or not at all."""
    meta = {name: value for name, value in vars(state).items() if name not in _PLAIN}
    arrays = {f"{name}/{key}": value for name in _PLAIN for key, value in getattr(state, name).items()}
    with atomic_write(path) as file:
        np.savez(file, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)


def read_resume_state(path: str) -> ResumeState | None:
    """Read a fusionstate; returns None where there is no such file or it cannot be read."""
    try:
        arrays = read_npz(path)
        meta = json.loads(arrays.pop("meta").tobytes())
        plain: dict[str, dict[str, Any]] = {name: {} for name in _PLAIN}
        for key, values in arrays.items():
            name, slash, rest = key.partition("/")
            plain[name if slash else "generators"][rest or name] = values
        lists = {name: tuple(meta[name]) for name in ("positions", "losses")}
        state = ResumeState(**{**meta, **lists, **plain})
        _check_values(state)
        _check_generators(state.generators)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError):
        return None
    return state


def _check_values(state: ResumeState) -> None:
    """Check the values that are used at once after a restart. Raises: ValueError, TypeError."""
    whole = (state.iteration, state.seed, state.weights, state.threads, *state.positions)
    words = (state.engine, *state.decisions, *state.decisions.values())
    if not all(type(number) is int and abs(number) < 1 << 63 for number in whole):
        raise TypeError("a number that is not whole, or not of 64 bits")
    if not all(isinstance(loss, (int, float)) for loss in state.losses) or not all(isinstance(w, str) for w in words):
        raise TypeError("losses that are not numbers, or decisions that are not text")
    if not isinstance(json.loads(state.decisions.get("extras", "{}")), dict):
        raise TypeError("options that are not named")
    if min(state.iteration, *state.positions, 0) < 0 or not 1 <= state.threads <= _MOST_THREADS:
        raise ValueError("a negative position, or a number of threads that no machine has")


def _check_generators(states: Arrays) -> None:
    """Set generators of our own, which fails as that of the process would. Raises: ValueError, TypeError, ..."""
    if "cpu" in states:
        torch.Generator().set_state(torch.from_numpy(np.array(states["cpu"], np.uint8)))
    if "numpy" in states:
        np.random.RandomState().set_state(_numpy_state(states["numpy"]))
    if "python" in states:
        random.Random().setstate(_python_state(states["python"]))


def below(arrays: Arrays, start: str) -> dict[str, NDArray[Any]]:
    """Return the arrays whose name begins with `start`, under the rest of their name."""
    return {name.removeprefix(start): values for name, values in arrays.items() if name.startswith(start)}


def generators() -> dict[str, NDArray[Any]]:
    """Return the states of all random generators that layers and transforms may draw from."""
    _, keys, at, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, gauss_next = random.getstate()
    states: dict[str, NDArray[Any]] = {
        "cpu": torch.get_rng_state().numpy(),
        "numpy": np.concatenate([np.asarray(keys, np.float64), [at, has_gauss, gauss]]),
        # Words of 32 bits fit into float64 exactly, beside a float and a NaN for None.
        "python": np.array([version, *words, np.nan if gauss_next is None else gauss_next], np.float64),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"cuda{number}"] = state.numpy()
    return states


def set_generators(states: Arrays) -> None:
    """Set those generators whose state is given."""
    if "cpu" in states:
        torch.set_rng_state(torch.from_numpy(np.array(states["cpu"], np.uint8)))
    for number in range(torch.cuda.device_count()):
        if f"cuda{number}" in states:
            torch.cuda.set_rng_state(torch.from_numpy(np.array(states[f"cuda{number}"], np.uint8)), number)
    if "numpy" in states:
        np.random.set_state(_numpy_state(states["numpy"]))
    if "python" in states:
        random.setstate(_python_state(states["python"]))


def _numpy_state(values: NDArray[Any]) -> tuple[Any, ...]:
    *keys, at, has_gauss, gauss = values.tolist()
    return "MT19937", np.array(keys, np.uint32), int(at), int(has_gauss), gauss


def _python_state(values: NDArray[Any]) -> tuple[Any, ...]:
    version, *words, gauss_next = values.tolist()
    return int(version), tuple(map(int, words)), None if np.isnan(gauss_next) else gauss_next


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the random generators after the block, whatever it draws."""
    before = generators()
    try:
        yield
    finally:
        set_generators(before)


def recurrent_states(net: nn.Module) -> dict[str, NDArray[Any]]:
    """Return the states of recurrent layers that the next batch starts from, by the buffer's path."""
    return {
        path: buffer.detach().cpu().numpy()
        for path, buffer in net.named_buffers()
        if path.rpartition(".")[2] in _CARRIED
    }


def set_recurrent_states(net: nn.Module, states: Arrays, device: torch.device) -> None:
    """Set the result of `recurrent_states` in the net's layers."""
    for path, values in states.items():
        set_tensor_by_path(net, path, torch.tensor(values, device=device))
