"""Training as Caffe trains: the loop, its tests, its displays and its snapshots."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fusion.data.read_batches import skipped_lines
from fusion.distributed.process_group import Teamwork, join, together
from fusion.errors import TrainingError
from fusion.nets.build import loss_weights, total_loss
from fusion.nets.graph import Net
from fusion.nets.weights import share_weights
from fusion.references import ask
from fusion.solver.callbacks.callback import Observer, Observers, Outputs, Shown
from fusion.solver.data_parallel import DataParallel, part
from fusion.solver.evaluate_test_nets import Average, Test, measure
from fusion.solver.load_solver import load_into, optimizer_of, paths_of, read_message
from fusion.solver.logging.caffe_log import for_training
from fusion.solver.logging.console import Display, Silent
from fusion.solver.logging.debug_info import Watched
from fusion.solver.logging.report import Report
from fusion.solver.lr_policy import advance, learning_rate
from fusion.solver.mixed_precision import Precision
from fusion.solver.net_with_data import NetWithData, choose_device, open_net_with_data, place
from fusion.solver.prepare_data import layout_setter, read_ahead, tests_of
from fusion.solver.read_nets import read_nets
from fusion.solver.settings import read_settings
from fusion.solver.signals import Requests, requests
from fusion.solver.snapshots import files, save_restore
from fusion.solver.snapshots.lock import locked
from fusion.solver.snapshots.resume_state import undrawn
from fusion.solver.step.autotune import Autotuner, RequestedConfig
from fusion.solver.step.flat_params import flatten_params
from fusion.solver.step.loss_window import EVERY, Losses
from fusion.solver.step.step import Engine
from fusion.solver.train_options import TrainOptions
from fusion.solver.trunk_cache import DEFAULT_BUDGET
from fusion.solver.trunk_cache_files import trunk_files
from prototxt.schema.messages import SolverParameter

if TYPE_CHECKING:
    from fusion.data import ReadOptions
    from fusion.references import Objective, Reference

Path = str | os.PathLike[str]


class Solver:
    """A solver file at work.

    solver        a solver file, or its message
    weights       start from these: a path or several, later ones win; else from the solver's own `weights`
    device        "auto", "cpu", "cuda", "cuda:1"
    max_iter      instead of the solver's
    cache_budget  bytes of memory for the frozen trunk's outputs; 0 computes them anew in each iteration. Up to 0.5 GiB
                  more are taken for what losses need to know of each record
    cache_dir     folder in which they are kept for later runs; without one, only those beyond the budget are written,
                  beside the snapshots
    display       where to report; by default a progress bar on a terminal, Caffe's log elsewhere, on stderr
    arrays        rows for MemoryData and Input layers
    references    nets that this one is held to (fusion.references.Reference, or as on the command line)
    pct           losses towards them: "focal,weight=0.01", or fusion.references.Objective
    reading       how data is read: workers, memory, bad records (fusion.data.Reading)
    kd_alpha      a: the loss is (1 - a) * the net's own + a * weight * pct; None: both in full
    observers     what watches the run besides the display (fusion.solver.callbacks.callback)
    extras        what Caffe does not offer: warm-up, averaged weights, mixup, ... (fusion.solver.train_options)
    overrides     fields set instead of the solver's: "base_lr=0.1", "stepvalue=100,200"
    teamwork      how several processes that torchrun has started work together (fusion.distributed.process_group)
    threads       CPU threads of the loop: a number, None to leave torch's as it is, or "auto" to measure at the start
                  how many are fastest, and whether the channels had better come last in memory
    compile       let torch's compiler make what runs in each iteration, where it makes it faster; None: as a snapshot

    iter      iterations done
    net       the net in training; the test nets hold the same parameters
    jobs      it and each test net with its data; a test net to choose by comes last
    arena     where the parameters lie that are updated
    progress  how far the run is (fusion.solver.snapshots.save_restore)
    team      the processes that train together, or None

    Raises: TrainingError, DataError, BuildError, WeightsMismatch; prototxt's errors for its files.
    """

    def __init__(
        self,
        solver: SolverParameter | Path,
        weights: Path | Sequence[Path] | None = None,
        *,
        device: str = "auto",
        max_iter: int | None = None,
        cache_budget: int = DEFAULT_BUDGET,
        cache_dir: Path | None = None,
        display: Display | None = None,
        arrays: Mapping[str, ArrayLike] | None = None,
        references: Sequence[Reference | str] = (),
        pct: Sequence[Objective | str] = (),
        kd_alpha: float | None = None,
        reading: ReadOptions | None = None,
        observers: Sequence[Observer] = (),
        extras: TrainOptions | None = None,
        overrides: Sequence[str] = (),
        teamwork: Teamwork | None = None,
        threads: RequestedConfig = None,
        compile: bool | None = None,
    ) -> None:
        self.device = choose_device(device)
        self._world, how = join(self.device.type), teamwork or Teamwork()
        self.device = place(self.device, self._world)
        self.display = Silent() if self._world is not None and not self._world.first else display or for_training()
        self.extras = extras or TrainOptions()
        self.observers = Observers([Report(self), *self.extras.observers(), *observers])
        message, path = read_message(solver, max_iter, overrides)
        if self._world is not None and how.auto_scale:
            message.base_lr *= self._world.size
        self.settings = read_settings(message, path=path, policy=self.extras.lr_policy, warmup=self.extras.warmup)
        self.extras.check(self.settings)
        nets = self.extras.nets(read_nets(message, path=path))
        self.seed = int.from_bytes(os.urandom(4), "little") if self.settings.seed is None else self.settings.seed
        if self._world is not None:
            self.seed = self._world.told(self.seed)
        torch.manual_seed(self.seed)
        opened = partial(open_net_with_data, seed=self.seed, device=self.device, arrays=arrays, reading=reading)
        learning = opened(
            nets.train,
            "TRAIN",
            held=ask(references, pct, kd_alpha),
            part=part(self._world, how),
            narrow=self.extras.rest(self.seed),
        )
        self._train = self.extras.prepared(learning, self.seed, self.device)
        self._tests = [opened(test, "TEST") for test in nets.tests]
        chooser = self.extras.choosing_net(nets)
        if chooser is not None:
            self._tests.append(opened(chooser, "TEST", narrow=self.extras.held_back(self.seed)))
        self.settings = self.extras.interval(self.settings, self._train)
        if self.settings.debug_info:
            for job in self.jobs:
                job.live = "debug_info shows all of its layers"
        self._cache_budget = cache_budget
        self._trunk_files = trunk_files(cache_dir, self.settings.prefix)
        self._measured: list[Test] | None = None
        self._ending = False
        self.pacemaker = Autotuner(threads)
        self._compile = compile
        self.progress = save_restore.Progress(Losses(self.settings.average_loss))
        self._engine: Engine | None = None
        self.load(self.settings.weights if weights is None else paths_of(weights))
        for test in self._tests:
            share_weights(test.net, self._train.net)
        self.arena = flatten_params(self._train.net)
        self.optimizer = optimizer_of(self.settings, self.arena)
        self.team = None if self._world is None else DataParallel(self._world, self._train.net, self.arena, how)
        if self.team is not None:
            torch.manual_seed(self.seed + self.team.world.rank)
            self.display.say(self.team.describe())

    @property
    def iter(self) -> int:
        """Iterations done."""
        return self.progress.iteration

    @property
    def net(self) -> Net:
        """The net in training."""
        return self._train.net

    @property
    def jobs(self) -> tuple[NetWithData, ...]:
        """The net in training and each test net with its data; a test net to choose by comes last."""
        return (self._train, *self._tests)

    @cached_property
    def data(self) -> tuple[str, ...]:
        """The number of records and the fingerprint of each source, net after net."""
        return tuple(f"{len(source)} {source.fingerprint()}" for job in self.jobs for source in job.sources)

    @property
    def precision(self) -> Precision:
        """What the gradients are worked out in."""
        return self._train.precision if self._engine is None else self._engine.precision

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files."""
        return self._world is None or self._world.first

    def load(self, paths: Sequence[Path]) -> None:
        """Copy trained weights into the layers of the same names, file after file; other layers keep theirs."""
        for path in paths:
            for line in load_into([job.net for job in self.jobs], path):
                self.display.say(line)

    def train(self) -> None:
        """Run to max_iter with tests, displays and snapshots.

        Ctrl-C and SIGTERM take a snapshot and raise KeyboardInterrupt; SIGHUP and SIGUSR1 take one and go on.

        Raises: TrainingError for a loss that is not a number, a snapshot that cannot be written, or another training
        that writes snapshots of this prefix.
        """
        settings = self.settings
        with ExitStack() as held:
            if settings.snapshot or settings.snapshot_after_train:
                files.check_writable(settings.prefix)
                if self.writes:
                    held.enter_context(locked(settings.prefix, self.display.say))
                    files.sweep_up(settings.prefix)
            self._train_to_the_end()

    def _train_to_the_end(self) -> None:
        settings = self.settings
        self._get_ready()
        self.display.start(self.iter, settings.max_iter)
        try:
            with requests() as asked:
                self._run(settings.max_iter, asked)
            self._finish()
        finally:
            for job in self.jobs:
                job.feed.close()
            self.observers.call("end")
            self.display.close()

    def stop(self, why: str) -> None:
        """End the run behind the present iteration, as if it were the last one."""
        self.display.say(why)
        self._ending = True

    def step(self, count: int = 1) -> float:
        """Run `count` iterations, with the tests, displays and snapshots that fall due; returns the averaged loss."""
        self._get_ready()
        self._run(self.iter + count, Requests())
        return self.progress.losses.mean

    def test(self) -> list[Average]:
        """Measure and report all test nets."""
        nets, averages = self._get_ready(), []
        if self.team is not None:
            self.team.settle()
        self.observers.call("testing", self.iter)
        for index, test in enumerate(nets):
            if index == len(self.settings.test_iter):
                test.feed.position = 0
                self.observers.call("judged", self.iter, measure(test, self._world))
                break
            self.observers.call("measuring", self.iter, index)
            averages.append(measure(test, self._world))
            self.observers.call("measured", self.iter, index, averages[-1])
        self.observers.call("tested", self.iter)
        return averages

    def snapshot(self) -> str:
        """Write the weights and the state; returns the solverstate's path.

        Raises: TrainingError when they cannot be written; an earlier snapshot is left as it was.
        """
        return save_restore.take(self)

    def restore(self, path: Path) -> None:
        """Go on from a solverstate: exactly, with our own file beside it; else as Caffe does, data from its start.

        Raises: TrainingError when the state is that of another net; WeightsError when the file is none.
        """
        save_restore.restore(self, path)

    def resume(self) -> bool:
        """Go on from the newest complete snapshot of the solver's prefix; returns whether there is one.

        Raises: TrainingError when the snapshots are those of another net, or none of them can be used.
        """
        return save_restore.resume(self)

    def _get_ready(self) -> list[Test]:
        """Read the data ahead, and compute the frozen trunk once where there is one; nothing of it counts as drawn."""
        if self._measured is None:
            with undrawn():
                self._measured = self._prepare()
            if self.team is not None:
                self.team.begin()
            self.observers.call("begin", self)
        return self._measured

    def _prepare(self) -> list[Test]:
        read_ahead(self.jobs, self._cache_budget, self._trunk_files, self.display, self.device)
        debug = self.settings.debug_info
        watched = (self._watched(self._train), lambda: self._due(self.settings.display)) if debug else None
        with together(self._world):
            self._engine = Engine(self._train, self.arena, self.settings, self.team, watched)
        self.display.say(self._engine.choice)
        self.progress.compare(self._engine.closed is not None, self._train.runs is not self._train.net, self.display)
        if self._train.precision.dtype is not None:
            self.display.say(self._train.precision.describe(self._engine.closed is not None))
        trial = self._engine.trial if self.device.type == "cpu" else lambda: None
        if said := self.pacemaker.settle(trial, layout_setter(self.jobs, self.device)):
            self.display.say(said)
        if self._compile is False and self.progress.compiled:
            self.display.say("warning: a compiled step wrote the snapshot: the last bits may differ")
            self.progress.compiled = None
        if self._compile or self.progress.compiled:
            self.display.say(self._engine.compile(self.progress.compiled))
            self.progress.compiled = self._engine.compiled
        return tests_of(self._tests, self.settings.test_iter, self._watched if debug else None)

    def _run(self, stop: int, asked: Requests) -> None:
        """The loop, in Caffe's order: test, forward and backward, show, update, snapshot."""
        settings, engine = self.settings, self._engine
        assert engine is not None, "made when the data was prepared"
        shown, started = self.iter, time.perf_counter()
        out: dict[str, Tensor] = {}
        while self.iter < stop and not self._ending:
            if self._due(settings.test_interval) and (self.iter > 0 or settings.test_initialization):
                self.test()
            if not (asked.stop or asked.snapshot) and (seen := engine.first_seen(self.iter, stop)) > self.iter:
                self._run_unseen(engine, seen, asked)
                continue
            out, loss = engine.run(self.iter, asked)
            self.progress.losses.add(self.iter, loss)
            self.progress.step = advance(settings.schedule, self.iter, self.progress.step)
            rate = learning_rate(settings.schedule, self.iter, self.progress.step)
            if self._due(settings.display):
                now = time.perf_counter()
                self._show(out, rate, self.iter - shown, now - started)
                shown, started = self.iter, now
            elif self.iter % EVERY == EVERY - 1:
                self._look()
                self.observers.call("ticked", self.iter)
            self._update(rate)
            self.progress.iteration += 1
            for updated in self.observers.updated:
                updated(self.iter)
            wishes = asked if self.team is None else self.team.wishes
            if wishes.stop or wishes.snapshot or self._due(settings.snapshot):
                self._look()
                self.snapshot()
                wishes.snapshot = False
            if wishes.stop:
                raise KeyboardInterrupt

    def _run_unseen(self, engine: Engine, seen: int, asked: Requests) -> None:
        """Run the iterations before one whose loss is asked for, with little around the arithmetic of a head."""
        progress, schedule = self.progress, self.settings.schedule
        for iteration in range(progress.iteration, seen):
            engine.learn(iteration)
            progress.step = advance(schedule, iteration, progress.step)
            self._update(learning_rate(schedule, iteration, progress.step))
            progress.iteration += 1
            for updated in self.observers.updated:
                updated(progress.iteration)
            if asked.stop or asked.snapshot or self._ending:
                break

    def _watched(self, job: NetWithData) -> Watched:
        return Watched(job.runs, job.message, lambda text: self.display.say(text), job.precision)

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.iter % interval == 0

    @torch.no_grad()
    def _update(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.precision.update(self.optimizer)

    def _look(self) -> None:
        try:
            self.progress.losses.look()
        except TrainingError as error:
            left = f"; go on with --snapshot {self.progress.last_good}" if self.progress.last_good else ""
            raise TrainingError(error.message, hint=f"{error.hint}{left}") from None

    def _show(self, out: Mapping[str, Tensor], rate: float, iterations: int, seconds: float) -> None:
        self._look()
        outputs = _values(self._train.runs, out if self.team is None else self.team.mean(out))
        self.observers.call("shown", Shown(self.iter, self.progress.losses.mean, rate, outputs, iterations, seconds))

    @torch.no_grad()
    def _finish(self) -> None:
        """What Caffe does behind the last iteration: snapshot, show, test."""
        settings = self.settings
        self._look()
        if settings.snapshot_after_train and not (settings.snapshot and self._due(settings.snapshot)):
            self.snapshot()
        if self._due(settings.display):
            told = settings.debug_info and (self.iter - 1) % settings.display == 0  # as the last iteration was
            assert self._engine is not None, "the last iteration has run"
            runs = partial(self.precision.outputs, self._watched(self._train)) if told else self._engine.outputs
            out = (runs if self.team is None else self.team.together(runs))(self._train.feed.take())
            out = out if self.team is None else self.team.mean(out)
            self.progress.losses.add(self.iter, total_loss(self._train.runs, out).detach())
            self.observers.call("shown", Shown(self.iter, self.progress.losses.mean))
        if self._due(settings.test_interval):
            self.test()
        for line in skipped_lines([source for job in self.jobs for source in job.sources]):
            self.display.say(line)
        self.observers.call("finished", self.iter)


def _values(net: Net, out: Mapping[str, Tensor]) -> Outputs:
    weights = loss_weights(net)
    return [(name, out[name].detach().reshape(-1).tolist(), weights.get(name, 0.0)) for name in sorted(out)]
