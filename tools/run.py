"""fusion-run: from trained nets and data to a fused, trained, measured and exported net, by one file and one command.

The commands run in this process: importing torch takes longer than most steps, and in processes of their own all would.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_options, remark, source_argument
from .cli import run_command
from .command_parser import CommandParser
from .commands import MODULES

if TYPE_CHECKING:
    from fusion.job.job import Job
    from fusion.job.record import Record
    from fusion.job.steps import JobStep

_TRIAL = 10, 210  # iterations
_EXAMPLE = """examples:
  %(prog)s job.toml                     every step, printed as the command that it stands for
  %(prog)s job.toml --dry-run           the steps, and which of them are to do
  %(prog)s job.toml --dry-run --measure  the same, and the time and memory of the trainings by a short trial
  %(prog)s job.toml --from train        train again, and do all steps after it
  %(prog)s --init a.prototxt:a.caffemodel b.onnx --data photos/train -o job.toml      write the file

A step whose command line and files are as in its last run is skipped. A training that was killed continues from its
newest snapshot, bit for bit. The output of each step is in its folder's log/. The exit code is that of the command that
failed: 3 for a gate that is not kept.
"""


def parser(prog: str = "fusion-run") -> CommandParser:
    """Build the command line."""
    result = CommandParser(
        prog,
        description="Fuse trained nets by a file: compose, merge, verify, train, test, report and export.",
        epilog=_EXAMPLE,
    )
    add = result.add_argument
    add("job", nargs="?", metavar="JOB.toml", help="the nets, the data and all settings (see docs/run.md)")
    add_options(result, "--dry-run", note="that is, the steps, and which of them would run")
    add("--measure", action="store_true", help="with --dry-run: begin each training in a temporary folder, and print "
        "the time and memory that it would take")  # fmt: skip
    add("--from", dest="first", metavar="STEP", help="run this step and all after it, also unchanged ones")
    add("--force", action="store_true", help="run all steps, also unchanged ones")
    add_options(result, "--quiet")
    group = result.add_argument_group("writing a job from nets and data")
    add = group.add_argument
    add(
        "--init",
        nargs="+",
        default=[],
        metavar="NET.prototxt:WEIGHTS|NET.onnx|torchvision:NAME:WEIGHTS",
        help="the nets to fuse",
    )
    add("--data", metavar="LIST|FOLDER", help="the images to train on, of all classes: a list, or a folder per class")
    add_options(group, "--output", note="here JOB.toml")
    return result


def main(argv: Sequence[str] | None = None, prog: str = "fusion-run") -> int:
    """Run the job; return 0 on success, else the exit code of the step that failed."""
    usage = parser(prog)
    arguments = usage.parse_args(argv)
    if bool(arguments.job) == bool(arguments.init):
        usage.error("give a file JOB.toml, or write one with --init" + (", not both" if arguments.job else ""))
    if arguments.init and not (arguments.data and arguments.output):
        usage.error("--init needs --data LIST|FOLDER and -o JOB.toml")
    if not arguments.init and (arguments.data or arguments.output):
        usage.error("--data and -o go with --init; the data and the folder of a job are in its file")
    if arguments.measure and not arguments.dry_run:
        usage.error("--measure goes with --dry-run")
    work = _init if arguments.init else _run
    code: int = run_command(lambda: work(arguments))
    return code


def _init(arguments: argparse.Namespace) -> int:
    """Write a job for the given nets and data."""
    from fusion.errors import ComposeError
    from fusion.job.starter import starter_text
    from prototxt.files import write_text

    if os.path.exists(arguments.output):
        raise ComposeError("this file exists", place=arguments.output, hint="name another one with -o, or remove it")
    given = [source_argument(f"={text}")[1] for text in arguments.init]
    nets = [(net, None) if isinstance(net, str) else net for net in given]
    text, questions = starter_text(nets, arguments.data, Path(arguments.output).stem)
    write_text(arguments.output, text)
    print(f"wrote {arguments.output}")
    for question in questions:
        print(f"to decide: {question}")
    if not questions:
        print(f"  fusion run {shlex.quote(arguments.output)}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from fusion.job.record import Record

    job = _plan(arguments.job)
    first = 0 if arguments.force else job.position(arguments.first) if arguments.first else len(job.steps)
    for note in job.notes:
        remark(f"note: {note}", arguments)
    if arguments.dry_run:
        _show(job, Record.read(job.output), first)
        if arguments.measure:
            _measure(arguments.job)
        return 0
    with job.held():
        return _execute(job, Record.read(job.output), first, _nothing if arguments.quiet else print)


def _plan(path: str, output: str | None = None) -> Job:
    from fusion.job.job import plan_job

    return plan_job(path, lambda command: _module(command).parser(f"fusion-{command}"), output)


def _show(job: Job, record: Record, first: int) -> None:
    """Print the steps, and which of them would run."""
    changed: set[str] = set()
    for number, step in enumerate(job.steps):
        action = "run" if number >= first or changed.intersection(step.inputs) else record.action(step)
        if action != "skip":
            changed.update(step.outputs)
        words = {"skip": "unchanged", "run": "to do", "resume": "to resume"}
        print(f"{_line(step)}  # {words[action]}")


def _measure(path: str) -> None:
    """Print the time and memory of the trainings, extrapolated from two short ones of each."""
    import resource
    from tempfile import TemporaryDirectory

    from prototxt.schema.load import load_solver

    import_module("torch")  # its time belongs to no training
    with TemporaryDirectory() as folder:
        for step in _plan(path, folder).steps:
            if step.command == "compose" or step.name == "merge":
                _try(step)
            elif step.command == "train":
                start, longer = (_try(step, "--max-iter", str(count)) for count in _TRIAL)
                each, total = max(longer - start, 0) / (_TRIAL[1] - _TRIAL[0]), load_solver(step.words[1]).max_iter
                print(f"{step.name}: about {_seconds(start + each * total)}: {_seconds(start)} to begin with, then "
                      f"{total:,} iterations of {1000 * each:.2f} ms; tests and snapshots not counted")  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"memory: {peak / 2**30:.1f} GiB at the peak of these trials")


def _try(step: JobStep, *more: str) -> float:
    """Run a step without its output; return the seconds that it took. Raises: SystemExit if it fails."""
    start, log = time.monotonic(), StringIO()
    with redirect_stdout(log), redirect_stderr(log):
        code = _call(step, more)
    if code:
        print(log.getvalue(), file=sys.stderr)
        raise SystemExit(code)
    return time.monotonic() - start


def _nothing(*_: object, **__: object) -> None:
    """Print nothing."""


def _execute(job: Job, record: Record, first: int, say: Callable[..., None]) -> int:
    """Run the steps that have to; return the exit code of the first that fails, else 0.

    say  prints what --quiet leaves out
    """
    begin, skipped = time.monotonic(), 0
    for number, step in enumerate(job.steps):
        action = "run" if number >= first else record.action(step)
        if action == "skip":
            skipped += 1
            continue
        if code := _execute_step(job, record, step, say, resume=action == "resume"):
            return code
    done = f"{len(job.steps) - skipped} steps in {_seconds(time.monotonic() - begin)}"
    say(f"{done}, {skipped} unchanged" if skipped else done)
    say("  ".join(path for step in job.steps if step.name in ("report", "deploy", "export")
        for path in step.outputs))  # fmt: skip
    return 0


def _execute_step(job: Job, record: Record, step: JobStep, say: Callable[..., None], *, resume: bool) -> int:
    """Run a step, its command line and time on one line; return its exit code."""
    from prototxt.files import open_log

    record.begin(step, resume=resume)
    log, start = Path(job.output, "log", f"{step.name.replace('/', '-')}.txt"), time.monotonic()
    log.parent.mkdir(exist_ok=True)
    more = ["--resume"] if resume else []
    bar = step.command == "train" and sys.stderr.isatty() and say is print
    say(_line(step, more), end="\n" if bar else "", flush=True)
    with (
        open_log(log, append=False) as file,
        redirect_stdout(file),
        nullcontext() if bar else redirect_stderr(file),
    ):
        code = _call(step, more)
    say(f"  # {_seconds(time.monotonic() - start)}" + (f", exit code {code}" if code else ""), flush=True)
    lines = log.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    _show_output(step, lines, code, say)
    if code:
        print(f"the job stops at step {step.name}" + ("" if bar else f"; its output is in {log}"), file=sys.stderr)
    else:
        record.end(step, time.monotonic() - start)
    return code


def _call(step: JobStep, more: Sequence[str]) -> int:
    """Call the command; the number of threads and the environment are as before afterwards."""
    threads = torch.get_num_threads() if (torch := sys.modules.get("torch")) else None
    environment = dict(os.environ)
    try:
        code: int = _module(step.command).main([*step.words, *more], f"fusion-{step.command}")
    except SystemExit as end:  # of the parser
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os.environ.clear()
        os.environ.update(environment)
        if threads is not None:
            sys.modules["torch"].set_num_threads(threads)
    return code


def _module(command: str) -> Any:
    return import_module(f".{MODULES[command]}", __package__)


def _show_output(step: JobStep, lines: Sequence[str], code: int, say: Callable[..., None]) -> None:
    """Print the part of a step's output that the user has to see: the report, warnings, and errors with their hints."""
    figures = step.command == "test" and not step.outputs and not code  # where there is no report
    if figures or (step.name == "report" and code in (0, 3)):
        print("\n".join(line for line in lines if not line.startswith("wrote ")))
        return
    starts = [number for number, line in enumerate(lines) if line.startswith(("error: ", "usage: ", "Traceback"))]
    shown = lines[starts[0] :] if code and starts else lines[-20:] if code else []
    chosen = [line.partition("] ")[2] for line in lines if "--pct auto chose" in line]
    say("\n".join(f"  {line}" for line in chosen), end="\n" if chosen else "")
    # those of composing have been printed when the job was planned
    warnings = [line for line in lines if line.startswith("warning: ") and step.command != "compose"]
    for line in [*(line for line in dict.fromkeys(warnings) if line not in shown), *shown]:
        print(line, file=sys.stderr)


def _line(step: JobStep, more: Sequence[str] = ()) -> str:
    return shlex.join([f"fusion-{step.command}", *step.words, *more])


def _seconds(seconds: float) -> str:
    """Return a time such as 0.3 s, 12 s or 3.5 min."""
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    raise SystemExit(main())
