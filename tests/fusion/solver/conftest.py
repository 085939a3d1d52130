"""Training as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import pytest

Make = Callable[..., Path]

# Imports what training needs once, then makes a process of its own for every command line in a line of JSON.
_CODE = """
import json, os, sys
import fusion.solver.data_parallel
from caffe_fusion_tools.train import main

def run(log, arguments, environment):
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.environ.update(environment)
    code = 70
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)

for line in sys.stdin:
    job = json.loads(line)
    os.chdir(job["folder"])
    children = []
    for each in job["runs"]:
        child = os.fork()
        if not child:
            run(**each)
        children.append(child)
    print(json.dumps(children), flush=True)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


class Starter:
    """Starts `fusion-train` in the working directory, alone or as several processes that work together."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def start(self, prefix: str, *options: str, processes: int = 1) -> list[int]:
        """Train with snapshots under this prefix, messages in PREFIX.log and PREFIX.RANK.log; returns their numbers."""
        solver = f"{prefix}.prototxt"
        Path(solver).write_text(Path("solver.prototxt").read_text().replace('"small"', f'"{prefix}"'))
        arguments = ["--solver", solver, "--device", "cpu", *options]
        port = str(_free_port())
        runs = []
        for rank in range(processes):
            torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "localhost"}
            environment = {name: str(value) for name, value in torchrun.items()} | {"MASTER_PORT": port}
            log = f"{prefix}.{rank}.log" if rank else f"{prefix}.log"
            runs.append({"log": log, "arguments": arguments, "environment": environment if processes > 1 else {}})
        pipe = cast("IO[str]", self.process.stdin)
        pipe.write(json.dumps({"folder": str(Path.cwd()), "runs": runs}) + "\n")
        pipe.flush()
        found: list[int] = json.loads(cast("IO[str]", self.process.stdout).readline())
        return found

    def wait(self) -> list[int]:
        """Their exit codes, below 0 for a signal."""
        found: list[int] = json.loads(cast("IO[str]", self.process.stdout).readline())
        return found

    def run(self, prefix: str, *options: str, processes: int = 1) -> str:
        """Train to the end; returns the messages."""
        self.start(prefix, *options, processes=processes)
        codes = self.wait()
        assert codes == [0] * processes, "".join(path.read_text() for path in sorted(Path.cwd().glob(f"{prefix}*.log")))
        return Path(f"{prefix}.log").read_text()

    def stop(self) -> None:
        """End it."""
        cast("IO[str]", self.process.stdin).close()
        cast("IO[str]", self.process.stdout).close()
        try:
            self.process.wait(60)
        finally:  # what a failed test started and did not await, too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def session_starter() -> Iterator[Starter]:
    """One for all tests; started when the first of them needs it."""
    if not hasattr(os, "fork"):
        pytest.skip("POSIX only")
    starter = Starter()
    yield starter
    starter.stop()


@pytest.fixture
def starter(project: Make, session_starter: Starter) -> Starter:
    """Trains in the project's folder."""
    return session_starter
