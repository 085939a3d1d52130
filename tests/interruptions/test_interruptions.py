"""Commands on a full disk, in a read-only folder, killed, and ended by signals: whole files or none, and one message.

FUSION_SERIES=10 takes ten times as many sizes and moments, FUSION_SEED=7 others.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import time
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prototxt.formats.solverstate import read_solverstate
from prototxt.formats.weights import read_weights

pytestmark = pytest.mark.slow
TIMES = int(os.environ.get("FUSION_SERIES", "1"))
SEED = os.environ.get("FUSION_SEED", "1")
OLD = b"an older file\n"
PAGE = 4096
ENDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}

Case = Any  # see conftest.py
Commands = Any
Disk = Any


@pytest.fixture
def before(case: Case, commands: Commands) -> dict[str, bytes]:
    """An older file of every name that the command writes."""
    whole, _ = commands.undisturbed(case)
    return {} if case.fresh or case.grows else dict.fromkeys(whole, OLD)


def test_full_disk(case: Case, commands: Commands, disk: Disk, before: dict[str, bytes], counts: Counter[str]) -> None:
    whole, _ = commands.undisturbed(case)
    pages = sum(-(-len(content) // PAGE) for content in whole.values())
    dice = random.Random(f"{SEED}:{case.name}")
    for free in sorted({pages // 2, pages - 1, *(dice.randrange(pages) for _ in range(2 * TIMES - 2))}):
        commands.empty(before)
        with disk.free(free * PAGE):
            done = commands.run(case)
        counts["on a full disk"] += 1
        told = f"{free} of {pages} pages free: {done.err}"
        check_files(case, commands, before, told)
        assert done.code in (0, 1), told
        if done.code:
            check_one_error(done.err, told)
            assert re.search(r"No space left on device|full", done.err), told
            assert str(commands.out) in done.err or "standard output" in done.err, told
            assert case.grows or re.search(r"\d [kM]i?B|\.log: |/log/", done.err), told
        assert done.code == 1 or files(commands.out).keys() >= whole.keys() or case.grows, told


def test_read_only_folder(
    case: Case, commands: Commands, disk: Disk, before: dict[str, bytes], counts: Counter[str]
) -> None:
    if ">" in case.words:
        pytest.skip("the shell opens this file, not the command")
    commands.empty(before)
    with disk.read_only():
        done = commands.run(case)
    counts["in a read-only folder"] += 1
    assert done.code == 1, done.err
    check_one_error(done.err, done.err)
    assert "Read-only file system" in done.err or "cannot be written" in done.err, done.err
    assert str(commands.out) in done.err, done.err
    assert files(commands.out) == before


def test_kill(case: Case, commands: Commands, before: dict[str, bytes], counts: Counter[str]) -> None:
    whole, seconds = commands.undisturbed(case)
    dice = random.Random(f"{SEED}:{case.name}")
    for _ in range(TIMES):
        commands.empty(before)
        moment = dice.uniform(0, seconds)
        done = commands.run(case, lambda process, moment=moment: stop(process, signal.SIGKILL, moment))
        counts["killed"] += 1
        told = f"killed after {moment:.3f} of {seconds:.3f} s: {done.code}\n{done.err}"
        check_files(case, commands, before, told)
        if case.once and files(commands.out).keys() >= whole.keys():
            continue  # it was written, and another one is not written over it
        again = commands.run(case)
        assert again.code == 0, f"{told}\nthen: {again.err}"
        left = files(commands.out)
        assert hidden(left) == [], told
        assert left.keys() >= whole.keys() or case.grows, told


def test_signals(case: Case, commands: Commands, before: dict[str, bytes], counts: Counter[str]) -> None:
    whole, seconds = commands.undisturbed(case)
    dice = random.Random(f"{SEED}:{case.name}")
    # All three end the other commands by the same lines, so that each gets one of them by default.
    for number in list(ENDS) * TIMES if TIMES > 1 or case.words[0] == "train" else [dice.choice(list(ENDS))]:
        commands.empty(before)
        moment = dice.uniform(0, seconds)
        done = commands.run(case, lambda process, at=moment, number=number: stop(process, number, at, caught=True))
        counts[f"ended by {number.name}"] += 1
        told = f"{number.name} after {moment:.3f} of {seconds:.3f} s: {done.code}\n{done.err}"
        check_files(case, commands, before, told)
        left = files(commands.out)
        assert hidden(left) == [], told
        if done.code in (0, -number):  # its work was done, or a training took a snapshot and continued
            assert left.keys() >= whole.keys() or case.grows, told
            continue
        # In its iterations a training takes SIGTERM as Ctrl-C.
        trains = case.words[0] in ("train", "run") and number != signal.SIGHUP
        assert done.code in ({128 + number, 130} if trains else {128 + number}), told
        *_, last = (line for line in done.err.splitlines() if not line.startswith("the job stops at step "))
        assert last == ENDS[signal.Signals(done.code - 128)], told
        assert "Traceback" not in done.err, told


def stop(process: int, number: int, moment: float, caught: bool = False) -> None:
    """Send a signal after so many seconds; `caught`: once the process has a handler for it."""
    end = time.monotonic() + 20
    with suppress(ProcessLookupError, FileNotFoundError):
        while caught and not handles(process, number) and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(moment)
        os.kill(process, number)


def handles(process: int, number: int) -> bool:
    """Return whether a process has a handler for SIGTERM, which commands install with those for other signals."""
    status = Path(f"/proc/{process}/status").read_text()
    if "State:\tZ" in status:
        raise ProcessLookupError
    found = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
    return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)


def check_files(case: Case, commands: Commands, before: dict[str, bytes], told: str) -> None:
    """Check that every file with a final name is the older or the whole new one."""
    whole, _ = commands.undisturbed(case)
    for name, content in files(commands.out).items():
        if case.grows or hidden([name]) or name.endswith((".lock", "/LOG")):  # LevelDB's log has the time
            continue
        if content == before.get(name) or re.fullmatch("job/(log/.*|.*/train.log)", name):  # logs grow line by line
            continue
        if name == "job/steps.json":  # it has the seconds of each step
            json.loads(content)
            continue
        if name.endswith(".fusionstate"):  # its content depends on the time
            assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None, told
            continue
        if re.fullmatch(r"(job/.*/fused|s)_iter_\d+\.(caffemodel|solverstate)(\.h5)?", name) and name not in whole:
            # of the iteration at which a signal came
            assert read_weights(commands.out / name) if "caffemodel" in name else read_solverstate(commands.out / name)
            continue
        if name == "plot.png":  # of the iterations that were run
            Image.open(io.BytesIO(content)).load()
            continue
        assert content == whole.get(name), f"{name} has {len(content)} bytes; {told}"


def check_one_error(err: str, told: str) -> None:
    """Check that there is one message, and no trace of Python."""
    assert len(re.findall(r"^error: ", err, re.MULTILINE)) == 1, told
    assert "Traceback" not in err, told
    assert "Exception ignored" not in err, told


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def hidden(names: Any) -> list[str]:
    return [name for name in names if any(part.startswith(".") for part in Path(name).parts)]
