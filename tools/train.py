"""fusion-train: train a net from its solver file, as `caffe train` does."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from .cli import run_command
from .reading_options import read_options
from .training_options import check_options, parser, solver_overrides, train_options

if TYPE_CHECKING:
    from fusion.solver import Solver
    from fusion.solver.callbacks.callback import Callback
    from fusion.solver.logging.console import Display
    from fusion.solver.solver_options import SolverOptions
    from fusion.solver.train_options import TrainOptions
    from prototxt.schema.messages import SolverParameter


def main(argv: Sequence[str] | None = None, prog: str = "fusion-train") -> int:
    """Train; return 0 on success, 1 for bad input or a failed run, 2 for bad usage, 130 after Ctrl-C."""
    usage = parser(prog)
    options = usage.parse_args(argv)
    check_options(options, usage)
    # torchrun sets WORLD_SIZE and RANK
    if options.sweep and int(os.environ.get("WORLD_SIZE") or 1) > 1:
        usage.error("a sweep runs in one process: start it without torchrun")
    work = _sweep if options.sweep else _time if options.time else _train
    code: int = run_command(lambda: work(options))
    return code


def _train(options: argparse.Namespace) -> int:
    from fusion.distributed.process_group import session

    with session(), ExitStack() as closing:
        solver = _open(options, _display(options, closing))
        if options.snapshot:
            solver.restore(options.snapshot)
        elif options.resume:
            solver.resume()
        if options.dry_run:
            return _plan(solver, _budget(options))
        solver.train()
    return 0


def _open(options: argparse.Namespace, display: Display | None) -> Solver:
    from fusion.solver import Solver
    from fusion.sweep import choose_pct

    # []: no weights now, the snapshot brings them; None: those that the solver file names
    weights = _weights(options) or ([] if options.snapshot else None)
    chosen = choose_pct(
        options.solver,
        weights,
        select_on=options.select_on,
        slack=options.slack,
        resume=bool(options.snapshot or options.resume),
        **_solver_options(options, display),
    )
    return Solver(options.solver, weights, **chosen)


def _solver_options(options: argparse.Namespace, display: Display | None) -> SolverOptions:
    from fusion.distributed.process_group import DataParallelOptions
    from fusion.solver.solver_options import SolverOptions

    return SolverOptions(
        device=options.device,
        max_iter=options.max_iter,
        cache_budget=_budget(options),
        cache_dir=options.cache_dir,
        frozen_engine=options.frozen_engine,
        compile=options.compile,
        threads=options.threads or (None if "OMP_NUM_THREADS" in os.environ else "auto"),
        display=display,
        all_outputs=options.all_outputs,
        references=options.reference,
        pct=options.pct,
        kd_alpha=options.kd_alpha,
        reading=read_options(options),
        callbacks=_callbacks(options),
        extras=_extras(options),
        overrides=_seeded(options),
        data_parallel=DataParallelOptions(options.batch_norm, options.auto_scale),
    )


def _weights(options: argparse.Namespace) -> list[str]:
    return options.weights.split(",") if options.weights else []


def _budget(options: argparse.Namespace) -> int:
    from fusion.solver.trunk_cache import DEFAULT_BUDGET

    if options.no_cache:
        return 0
    return DEFAULT_BUDGET if options.cache_budget is None else int(options.cache_budget)


def _writes() -> bool:
    """Return whether this process, of those started by torchrun, is the one that writes files."""
    return not int(os.environ.get("RANK") or 0)


def _display(options: argparse.Namespace, closing: ExitStack) -> Display | None:
    """Return where to report; None lets the solver choose between a bar and a log."""
    from fusion.solver.logging.caffe_log import Both, CaffeLog, for_training
    from fusion.solver.logging.console import Quiet, Silent
    from prototxt.files import open_log

    shown = Silent() if options.dry_run else Quiet() if options.quiet else None
    if not options.log or options.dry_run or not _writes():
        return shown
    resumed = bool(options.snapshot or options.resume)
    file = closing.enter_context(open_log(options.log, append=resumed))
    return Both(shown or for_training(), CaffeLog(file))


def _callbacks(options: argparse.Namespace) -> list[Callback]:
    found: list[Callback] = []
    if options.dry_run or not _writes():
        return found
    if options.log_json:
        from fusion.solver.logging.json_log import JsonLog

        found.append(JsonLog(options.log_json))
    if options.tensorboard:
        from fusion.solver.logging.tensorboard import TensorBoard

        found.append(TensorBoard(options.tensorboard))
    if options.plot:
        from .curve_plot import CurvePlot

        found.append(CurvePlot(options.plot))
    return found


def _extras(options: argparse.Namespace) -> TrainOptions:
    """Return the options, completed by those that the snapshot was trained with."""
    from fusion.solver.snapshots.find import recorded_decisions

    given, state = train_options(options), _state(options)
    return given.completed(recorded_decisions(state)) if state else given


def _seeded(options: argparse.Namespace) -> list[str]:
    """Return the solver overrides; a resumed run without a seed takes that of its snapshot."""
    from fusion.solver.snapshots.files import resume_state_path
    from fusion.solver.snapshots.resume_state import read_resume_state

    given, state = solver_overrides(options), _state(options)
    exact = read_resume_state(resume_state_path(state)) if state else None
    # Caffe's default seed is -1, which draws one
    if exact is None or _message(options).random_seed >= 0:
        return given
    return [*given, f"random_seed={exact.seed}"]


def _state(options: argparse.Namespace) -> str | None:
    """Return the solverstate from which the run resumes."""
    from fusion.solver.settings import prefix_of
    from fusion.solver.snapshots.files import states

    if not options.resume:
        return cast("str | None", options.snapshot)
    return next(iter(states(prefix_of(_message(options), options.solver))), None)


def _message(options: argparse.Namespace) -> SolverParameter:
    from fusion.solver.overrides import override
    from prototxt.schema.load import load_solver

    message: SolverParameter = load_solver(options.solver)
    override(message, solver_overrides(options))
    return message


def _plan(solver: Solver, budget: int) -> int:
    from fusion.solver.dry_run import describe_plan
    from fusion.solver.snapshots.files import check_writable

    print("\n".join(describe_plan(solver, budget)))
    if solver.settings.snapshot or solver.settings.snapshot_after_train:
        check_writable(solver.settings.prefix)
    return 0


def _time(options: argparse.Namespace) -> int:
    from fusion.solver.logging.caffe_log import CaffeLog
    from fusion.solver.logging.layer_timing import time_net
    from fusion.solver.read_nets import read_nets

    net = options.model
    if options.solver:
        net = train_options(options).nets(read_nets(_message(options), path=options.solver)).train
    found = time_net(net, _weights(options), device=options.device, iterations=options.iterations, amp=options.amp)
    log = CaffeLog()
    if options.amp not in (None, "off"):
        log.say(f"in mixed precision ({options.amp})")
    for line in found.lines():
        log.say(line)
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from fusion.solver.logging.console import Quiet
    from fusion.sweep import SweepOptions, read_axes, sweep

    result = sweep(
        options.solver,
        read_axes(options.sweep),
        SweepOptions(
            references=options.reference,
            weights=_weights(options) or None,
            kd_alpha=options.kd_alpha,
            select_on=options.select_on,
            slack=options.slack,
            output=options.output,
            device=options.device,
            max_iter=options.max_iter,
            overrides=solver_overrides(options),
            extras=train_options(options),
            cache_budget=_budget(options),
            cache_dir=options.cache_dir,
            frozen_engine=options.frozen_engine,
            reading=read_options(options),
            threads=options.threads if isinstance(options.threads, int) else 1,
            display=Quiet() if options.quiet else None,
        ),
    )
    print(f"{len(result.entries)} heads in {options.output}/table.csv; chosen: {result.best.name}")
    new, best = f"{options.output}/new", result.best.name
    plain = next((e.cell.name for e in result.entries if e.cell.loss == "none" and not (e.diverged or e.chosen)), None)
    words = ["fusion-report", "--old", f"{options.output}/old/*.npz", "--new", f"{new}/*.npz"]
    words += ["--baseline", f"{new}/{plain}.npz"] if plain else []
    print("  " + " ".join([*words, "--featured", f"{new}/{best}.npz", "--html", f"{options.output}/report.html"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
