"""Hostile files for the readers, as many as fit into a time: `python tests/fuzz_files.py --minutes 30`.

Every input comes from a seed and its number, so that a finding can be made again. It runs under a limit of processor
time and of memory (beyond a fixed allowance: 60 times a text's size, twice a binary's, and the pixels that the header
of an image may promise), in a process whose death is a finding as well. Findings are kept as files; `--replay FILES`
runs such files again.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

# This folder has a folder `prototxt` too, of tests: it must not hide the package.
sys.path[0] = str(Path(__file__).parent / "fuzz")
import binary_mutations  # noqa: E402
import data_targets  # noqa: E402
import image_set_targets  # noqa: E402
import job_targets  # noqa: E402
import reader_targets  # noqa: E402
import targets  # noqa: E402
import text_mutations  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
SECONDS, PER_MEGABYTE = 4.0, 20.0  # of processor time for one input; the usual one takes milliseconds
ALLOWANCE = 96 << 20  # bytes, whatever the size: modules that are imported late, HDF5's caches, records of errors
STUCK = 150.0  # seconds without news after which the process is stuck in native code


class OverTimeError(BaseException):
    """An input took too long; not an Exception, so that no handler on the way takes it for the input's mistake."""


_FURTHER = (reader_targets, data_targets, image_set_targets, job_targets)
BINARY: dict[str, Callable[[Path], None]] = {
    **targets.BINARY,
    **{name: action for module in _FURTHER for name, action in module.TARGETS.items()},
}
# Prototxts and weights have most of the ways to be wrong: a target of theirs gets more inputs than another reader.
_SHARES = (*(list(targets.TEXT) * 4), *(["caffemodel", "hdf5", "safetensors"] * 2), *BINARY)


def inputs(seed: int, chosen: Sequence[str] = _SHARES) -> Iterator[tuple[str, str | bytes]]:
    """Endless: (target, content) of the chosen targets."""
    texts, binaries = text_mutations.seeds(GOLDEN), binary_seeds()
    for number in range(1 << 60):
        rng = random.Random(f"{seed}:{number}")
        target = rng.choice(chosen)
        if target in targets.TEXT:
            yield target, text_mutations.mutate(rng, texts)
        else:
            yield target, binary_mutations.mutate(rng, binaries[target])


def binary_seeds() -> dict[str, list[bytes]]:
    """Files of every binary format, small ones."""
    from prototxt.formats.weights import read_weights, write_weights

    small, states = GOLDEN / "formats" / "small", GOLDEN / "solvers" / "resume_adam"
    data = GOLDEN / "formats" / "data"
    found = {
        "caffemodel": [path.read_bytes() for path in sorted(small.glob("*.caffemodel"))],
        "hdf5": [path.read_bytes() for path in sorted(small.glob("*.h5"))],
        "state": [path.read_bytes() for path in sorted(states.glob("*.solverstate*"))],
        "mean": [path.read_bytes() for path in sorted(data.glob("*.binaryproto"))],
        "datum": [
            b"\x08\x01\x10\x02\x18\x02\x22\x04abcd\x28\x05\x38\x00",
            b"\x08\x01\x10\x01\x18\x01\x35\0\0\x80\x3f\x28\x01",
        ],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder / "a.safetensors", read_weights(small / "net.caffemodel"))
        found["safetensors"] = [(folder / "a.safetensors").read_bytes()]
        found["hdf5"] += _chunked(folder)
        found["convert"] = [*(data for files in found.values() for data in files), *_convertible(folder)]
        for module in _FURTHER:
            found.update(module.seeds(folder))
    return found


def _chunked(folder: Path) -> list[bytes]:
    import h5py
    import numpy as np

    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("data/conv")
        group.create_dataset("0", data=np.ones((8, 16), "f4"), compression="gzip", chunks=(4, 8), shuffle=True)
        group.create_dataset("1", data=np.ones(8, "f8"), chunks=(4,), fletcher32=True)
    return [path.read_bytes()]


def _convertible(folder: Path) -> list[bytes]:
    """A mean image of NumPy's, and a solver and a net as messages."""
    import numpy as np

    from prototxt.schema.messages import NetParameter, SolverParameter

    np.save(folder / "mean.npy", np.ones((3, 2, 2), np.float32))
    solver = SolverParameter(net="net.prototxt", base_lr=0.1, lr_policy="step", stepsize=5, max_iter=10)
    net = NetParameter(name="net")
    net.layer.add(name="ip", type="InnerProduct", bottom=["data"], top=["ip"]).inner_product_param.num_output = 3
    return [(folder / "mean.npy").read_bytes(), solver.SerializeToString(), net.SerializeToString()]


def run_one(target: str, content: str | bytes, folder: Path) -> None:
    """Run a target on an input. Raises: what escapes it, but for the errors that it may end with."""
    from prototxt.errors import PlacedError

    action: Callable[[], None]
    if isinstance(content, str):
        text, size, factor, room = content, len(content), 60, 0
        action = lambda: targets.TEXT[target](text)  # noqa: E731
    else:
        path, size, factor = folder / "input", len(content), 2
        path.write_bytes(content)
        room = data_targets.ROOM.get(target, 0)
        action = lambda: BINARY[target](path)  # noqa: E731
    with contextlib.suppress(PlacedError, OSError), _limits(factor * size + room, size):
        action()


@contextlib.contextmanager
def _limits(room: int, size: int) -> Iterator[None]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS + PER_MEGABYTE * size / 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (used + ALLOWANCE + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _over_time(*_: object) -> None:
    raise OverTimeError("over its time")


def work(seed: int, chosen: Sequence[str], start: int, out: Connection, folder: str) -> None:
    """Run inputs from number `start` on, forever; tell the parent of each, and of findings."""
    os.chdir(folder)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGVTALRM, _over_time)
    for number, (target, content) in enumerate(inputs(seed, chosen)):
        if number < start:
            continue
        out.send(("start", number, target, content))
        try:
            run_one(target, content, Path(folder))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                return
            out.send(("finding", number, target, "".join(traceback.format_exception(error))))


def fuzz(minutes: float, count: int, seed: int, keep: Path, chosen: Sequence[str] = _SHARES) -> int:
    """Fuzz for a time or a number of inputs; returns the number of findings."""
    end, begun = time.monotonic() + 60 * minutes, time.monotonic()
    done: Counter[str] = Counter()
    findings = number = 0
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end and sum(done.values()) < count:
            receive, send = context.Pipe(duplex=False)
            worker = context.Process(target=work, args=(seed, chosen, number, send, folder), daemon=True)
            worker.start()
            send.close()
            last: tuple[str, str | bytes] = ("", "")
            while time.monotonic() < end and sum(done.values()) < count:
                try:
                    if not receive.poll(STUCK if any(last) else 10 * STUCK):  # it imports the readers first
                        raise EOFError("stuck")
                    kind, number, target, content = receive.recv()
                except (EOFError, OSError) as error:
                    worker.kill()
                    worker.join()
                    findings += 1
                    _keep(keep, seed, number, *last, f"the process died ({worker.exitcode}) {error}")
                    number += 1
                    break
                if kind == "start":
                    last = (target, content)
                    done[target] += 1
                else:
                    findings += 1
                    _keep(keep, seed, number, *last, content)
            worker.kill()
            worker.join()
    listed = ", ".join(f"{target} {total}" for target, total in sorted(done.items()))
    print(
        f"{sum(done.values())} inputs in {(time.monotonic() - begun) / 60:.1f} minutes, {findings} findings ({listed})"
    )
    return findings


def _keep(folder: Path, seed: int, number: int, target: str, content: str | bytes, reason: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{target}-{seed}-{number}.bin"
    path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
    print(f"FINDING {path}: {reason}", flush=True)


def replay(paths: list[Path]) -> int:
    """Run kept inputs again; the target is the first word of a file's name."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGVTALRM, _over_time)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            target, data = path.name.split("-")[0], path.read_bytes()
            content = data.decode("utf-8", "surrogateescape") if target in targets.TEXT else data
            try:
                run_one(target, content, Path(folder))
            except BaseException:
                failed += 1
                print(f"{path}: {traceback.format_exc()}")
    print(f"{len(paths)} inputs, {failed} findings")
    return failed


def main() -> int:
    """0 without a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--inputs", type=int, default=1 << 60, help="stop after this many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", choices=[*targets.TEXT, *BINARY], default=_SHARES, help="only these")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for findings")
    parser.add_argument("--replay", type=Path, nargs="*", help="run these files instead")
    options = parser.parse_args()
    if options.replay is not None:
        return int(replay(options.replay) > 0)
    return int(fuzz(options.minutes, options.inputs, options.seed, options.keep, options.targets) > 0)


if __name__ == "__main__":
    sys.exit(main())
