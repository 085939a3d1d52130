"""Training as Caffe trains: the loop, its tests, its displays and its snapshots."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion.data.read_batches import skipped_lines
from fusion.data.sharding import shard
from fusion.distributed.process_group import DataParallelOptions, join
from fusion.errors import TrainingError
from fusion.file_lock import locked
from fusion.nets.build import loss_weights, params, total_loss
from fusion.nets.frozen_engine import AUTO
from fusion.nets.weights import share_weights
from fusion.references import parse_references
from fusion.solver.callbacks.callback import CallbackList
from fusion.solver.callbacks.from_options import callbacks_from_options
from fusion.solver.data_parallel import DataParallel, part_of_batches
from fusion.solver.device import choose_device, device_of_process
from fusion.solver.evaluate_test_nets import measure
from fusion.solver.kept_references import copy_kept
from fusion.solver.load_solver import as_paths, load_into, optimizer_of, read_message
from fusion.solver.logging.caffe_log import for_training
from fusion.solver.logging.caffe_report import CaffeReport
from fusion.solver.logging.console import Silent
from fusion.solver.lr_policy import advance, learning_rate
from fusion.solver.metrics import MeanOutputs, Outputs, TrainMetrics
from fusion.solver.net_with_data import open_net_with_data
from fusion.solver.prepare import PreparedRun, prepare_run, watched_net
from fusion.solver.read_nets import Descriptions, read_nets
from fusion.solver.run import Progress
from fusion.solver.settings import read_settings
from fusion.solver.signals import Requests, requests_by_signal
from fusion.solver.snapshots import files, save_restore
from fusion.solver.snapshots.resume_state import preserved_generators
from fusion.solver.solver_options import SolverOptions
from fusion.solver.step.autotune import Autotuner
from fusion.solver.step.flat_params import flatten_params
from fusion.solver.step.loss_window import EVERY, Losses
from fusion.solver.step.step import Engine
from fusion.solver.train_options import TrainOptions
from fusion.solver.trunk_cache import DEFAULT_BUDGET
from fusion.solver.trunk_cache_files import trunk_files
from prototxt.schema.messages import SolverParameter

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fusion.data import DataSource
    from fusion.nets.graph import Net
    from fusion.solver.mixed_precision import Precision
    from fusion.solver.net_with_data import NetWithData

Path = str | os.PathLike[str]


class Solver:
    """A run of a solver file.

    solver   a solver file, or its message
    weights  start from these: a path or several, later ones win; else from the solver's own `weights`
    options  the keywords of fusion.solver.solver_options.SolverOptions: device, max_iter, references, ...

    iter         iterations done
    net          the net in training; the test nets share its parameters
    nets         it and each test net with its data; a validation net comes last
    flat_params  the parameters that are updated
    progress     the position of the run
    writes       whether this process is the one that writes files

    Raises: TrainingError, DataError, BuildError, WeightsMismatch; prototxt's errors for its files.
    """

    def __init__(
        self,
        solver: SolverParameter | Path,
        weights: Path | Sequence[Path] | None = None,
        **options: Unpack[SolverOptions],
    ) -> None:
        unknown = sorted(options.keys() - SolverOptions.__annotations__.keys())
        if unknown:
            raise TypeError(f"Solver() got an unexpected keyword argument '{unknown[0]}'")
        self._options = options
        device = choose_device(options.get("device", "auto"))
        self._group, parallel = join(device.type), options.get("data_parallel") or DataParallelOptions()
        self.device = device_of_process(device, self._group)
        self.writes = self._group is None or self._group.first
        self.display = (options.get("display") or for_training()) if self.writes else Silent()
        self.extras = options.get("extras") or TrainOptions()
        report = CaffeReport(all_outputs=options.get("all_outputs", False))
        own = [report, *callbacks_from_options(self.extras)]
        self.callbacks = CallbackList(self, [*own, *options.get("callbacks", ())])
        message, path = read_message(solver, options.get("max_iter"), options.get("overrides", ()))
        if self._group is not None and parallel.auto_scale:
            message.base_lr *= self._group.size
        self.settings = read_settings(message, path=path, policy=self.extras.lr_policy, warmup=self.extras.warmup)
        self.extras.check(self.settings)
        descriptions = self.extras.nets(read_nets(message, path=path))
        self.seed = int.from_bytes(os.urandom(4), "little") if self.settings.seed is None else self.settings.seed
        if self._group is not None:
            self.seed = self._group.broadcast_object(self.seed)
        torch.manual_seed(self.seed)  # fillers must draw the same in all processes
        self.nets = self._open(descriptions, parallel)
        self.net = self.nets[0].net
        self.extras.check_net(self.nets[0], self.device)
        self.settings = self.extras.interval(self.settings, self.nets[0])
        self._trunk_files = trunk_files(options.get("cache_dir"), self.settings.prefix)
        self._prepared: PreparedRun | None = None
        self._ending = False
        self.autotuner = Autotuner(options.get("threads"))
        self.progress = Progress(Losses(self.settings.average_loss))
        for job in self.nets:
            copy_kept(job.net, tuple(params(job.net)))
        self.load(self.settings.weights if weights is None else as_paths(weights))
        for test in self.nets[1:]:
            share_weights(test.net, self.net)  # after loading: layers that only a test net has keep theirs
        self.flat_params = flatten_params(self.net)
        self.optimizer = optimizer_of(self.settings, self.flat_params)
        self.data_parallel: DataParallel | None = None
        if self._group is not None:
            self.data_parallel = DataParallel(self._group, self.net, self.flat_params, parallel)
            torch.manual_seed(self.seed + self._group.rank)  # dropout and crops differ from process to process
            self.display.say(self.data_parallel.describe())

    def _open(self, descriptions: Descriptions, parallel: DataParallelOptions) -> tuple[NetWithData, ...]:
        """Open the net in training and the test nets with their data."""
        options, part = self._options, part_of_batches(self._group, parallel)
        opened = partial(
            open_net_with_data,
            seed=self.seed,
            device=self.device,
            arrays=options.get("arrays"),
            reading=options.get("reading"),
        )

        def select(sources: Sequence[DataSource]) -> Sequence[DataSource]:
            sources = self.extras.select(self.seed)(sources)
            return sources if part is None else [shard(source, part) for source in sources]

        references = parse_references(options.get("references", ()), options.get("pct", ()), options.get("kd_alpha"))
        nets = [opened(descriptions.train, "TRAIN", references=references, select=select)]
        nets += [opened(test, "TEST") for test in descriptions.tests]
        validation = self.extras.validation_net(descriptions)
        if validation is not None:
            nets.append(opened(validation, "TEST", select=self.extras.select(self.seed, validation=True)))
        if self.settings.debug_info:
            return tuple(replace(net, no_cache_reason="debug_info shows all of its layers") for net in nets)
        if self.extras.mixup:
            nets[0] = replace(nets[0], no_cache_reason="mixup mixes its inputs again each time")
        return tuple(nets)

    @property
    def iter(self) -> int:
        """Return the number of iterations done."""
        return self.progress.iteration

    @cached_property
    def data(self) -> tuple[str, ...]:
        """Return the number of records and the fingerprint of each source, net after net."""
        return tuple(f"{len(source)} {source.fingerprint()}" for job in self.nets for source in job.sources)

    @property
    def precision(self) -> Precision:
        """Return the precision of the gradients."""
        return self.nets[0].precision if self._prepared is None else self._prepared.engine.precision

    @property
    def engine(self) -> Engine:
        """Return forward and backward of an iteration; prepares the run."""
        return self._prepare().engine

    def load(self, paths: Sequence[Path]) -> None:
        """Copy trained weights into the layers of the same names, file after file; other layers keep theirs."""
        for path in paths:
            for line in load_into(self.nets, path):
                self.display.say(line)

    def train(self) -> None:
        """Run to max_iter with tests, displays and snapshots.

        Ctrl-C and SIGTERM take a snapshot and raise KeyboardInterrupt; SIGHUP and SIGUSR1 take one and continue.

        Raises: TrainingError for a loss that is not a number, a snapshot that cannot be written, or another training
        that writes snapshots of this prefix.
        """
        settings = self.settings
        with ExitStack() as stack:
            if settings.snapshot or settings.snapshot_after_train:
                files.check_writable(settings.prefix)
                if self.writes:
                    stack.enter_context(locked(settings.prefix, self.display.say))
                    files.remove_unfinished(settings.prefix)
            self._prepare()
            self.display.start(self.iter, settings.max_iter)
            try:
                with requests_by_signal() as requests:
                    self._run(settings.max_iter, requests)
                self._finish()
            finally:
                for job in self.nets:
                    job.batches.close()
                self.callbacks.call("on_end")
                self.display.close()

    def step(self, count: int = 1) -> float:
        """Run `count` iterations, with the tests, displays and snapshots that are due; returns the averaged loss."""
        self._run(self.iter + count, Requests())
        return self.progress.losses.mean

    def stop(self, reason: str) -> None:
        """End the run after the present iteration, as if it were the last one."""
        self.display.say(reason)
        self._ending = True

    def test(self) -> list[MeanOutputs]:
        """Measure and report all test nets."""
        tests, results = self._prepare().tests, []
        if self.data_parallel is not None:
            self.data_parallel.synchronize()
        self.callbacks.call("on_tests_start", self.iter)
        for index, test in enumerate(tests):
            if index == len(self.settings.test_iter):
                test.batches.position = 0  # the validation records are the same in each test
                self.callbacks.call("on_validation", self.iter, measure(test, self._group))
                break
            self.callbacks.call("on_test_start", self.iter, index)
            results.append(measure(test, self._group))
            self.callbacks.call("on_test_end", self.iter, index, results[-1])
        self.callbacks.call("on_tests_end", self.iter)
        return results

    def snapshot(self) -> str:
        """Write the weights and the state; returns the solverstate's path.

        Raises: TrainingError when they cannot be written; an earlier snapshot is left as it was.
        """
        paths = save_restore.save_snapshot(self, self.callbacks.state_dict())
        if self.writes:
            self.callbacks.call("on_snapshot", self.iter, paths)
        return paths[-1]

    def restore(self, path: Path) -> None:
        """Resume from a solverstate: exactly with our own file beside it, else as Caffe does, with data from its start.

        Raises: TrainingError when the state is that of another net; WeightsError for a file of another kind.
        """
        self.callbacks.load_state_dict(save_restore.restore_snapshot(self, path))

    def resume(self) -> bool:
        """Resume from the newest complete snapshot of the solver's prefix; returns whether there is one.

        Raises: TrainingError when the snapshots are those of another net, or none of them can be used.
        """
        state = save_restore.resume(self)
        if state is not None:
            self.callbacks.load_state_dict(state)
        return state is not None

    def _prepare(self) -> PreparedRun:
        """Prepare the run, once; no random draw of the preparation changes those of training."""
        if self._prepared is None:
            budget = self._options.get("cache_budget", DEFAULT_BUDGET)
            with preserved_generators():
                engine = self._options.get("frozen_engine", AUTO)
                prepared = prepare_run(self, budget, self._trunk_files, engine, self._options.get("compile"))
            self.nets, self._prepared = prepared.nets, prepared
            if self.data_parallel is not None:
                self.data_parallel.broadcast()
            self.callbacks.call("on_start")
        return self._prepared

    def _run(self, stop: int, requests: Requests) -> None:
        """Run the loop, in Caffe's order: test, forward and backward, display, update, snapshot."""
        settings, engine = self.settings, self.engine
        displayed, start = self.iter, time.perf_counter()
        while self.iter < stop and not self._ending:
            if self._due(settings.test_interval) and (self.iter > 0 or settings.test_initialization):
                self.test()
            end = self.iter if requests.stop or requests.snapshot else engine.window_end(self.iter, stop)
            if end > self.iter and self._run_window(engine, end, requests):
                continue
            out, loss = engine.run(self.iter, requests)
            self.progress.losses.add(self.iter, loss)
            self.progress.lr_step = advance(settings.schedule, self.iter, self.progress.lr_step)
            rate = learning_rate(settings.schedule, self.iter, self.progress.lr_step)
            if self._due(settings.display):
                now = time.perf_counter()
                self._display(out, rate, self.iter - displayed, now - start)
                displayed, start = self.iter, now
            elif self.iter % EVERY == EVERY - 1:
                self._check_losses()
                self.callbacks.call("on_log", self.iter)
            self._update(rate)
            # With other processes, those requests count that all processes have agreed on.
            agreed = requests if self.data_parallel is None else self.data_parallel.requests
            if agreed.stop or agreed.snapshot or self._due(settings.snapshot):
                self._check_losses()
                self.snapshot()
                agreed.snapshot = False
            if agreed.stop:
                raise KeyboardInterrupt

    def _run_window(self, engine: Engine, end: int, requests: Requests) -> bool:
        """Run iterations whose losses nobody reads, with little around the arithmetic of a head.

        Returns False before the update of an iteration whose gradients are no numbers: its loss then is none either.
        """
        progress, schedule = self.progress, self.settings.schedule
        update, callbacks = self.optimizer.prepared(), self.callbacks.on_update
        with engine.window():
            for iteration in range(progress.iteration, end):
                engine.learn(iteration)
                if iteration % EVERY == EVERY - 1 and not engine.is_finite():
                    return False
                progress.lr_step = advance(schedule, iteration, progress.lr_step)
                update(learning_rate(schedule, iteration, progress.lr_step))
                progress.iteration += 1
                for on_update in callbacks:
                    on_update(progress.iteration)
                if requests.stop or requests.snapshot or self._ending:
                    break
        if self.iter % EVERY == 0:
            self.callbacks.call("on_log", self.iter - 1)
        return True

    def _apply(self, rate: float) -> None:
        """Update the parameters from their gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            self.precision.update(self.optimizer)

    def _update(self, rate: float) -> None:
        self._apply(rate)
        self.progress.iteration += 1
        for on_update in self.callbacks.on_update:
            on_update(self.progress.iteration)

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.iter % interval == 0

    def _check_losses(self) -> None:
        try:
            self.progress.losses.look()
        except TrainingError as error:
            left = f"; resume with --snapshot {self.progress.last_good}" if self.progress.last_good else ""
            raise TrainingError(error.message, hint=f"{error.hint}{left}") from None

    def _display(self, out: Mapping[str, Tensor], rate: float, iterations: int, seconds: float) -> None:
        self._check_losses()
        outputs = _values(self.nets[0].active_net, out if self.data_parallel is None else self.data_parallel.mean(out))
        loss = self.progress.losses.mean
        self.callbacks.call("on_display", TrainMetrics(self.iter, loss, rate, outputs, iterations, seconds))

    @torch.no_grad()
    def _finish(self) -> None:
        """Do as Caffe does after the last iteration: snapshot, display, test."""
        settings, train, parallel = self.settings, self.nets[0], self.data_parallel
        self._check_losses()
        if settings.snapshot_after_train and not (settings.snapshot and self._due(settings.snapshot)):
            self.snapshot()
        if self._due(settings.display):
            outputs = self.engine.outputs
            if settings.debug_info and (self.iter - 1) % settings.display == 0:  # Caffe's flag of the last iteration
                outputs = partial(self.precision.outputs, watched_net(self, train))
            out = (outputs if parallel is None else parallel.in_step(outputs))(next(train.batches))
            out = out if parallel is None else parallel.mean(out)
            self.progress.losses.add(self.iter, total_loss(train.active_net, out).detach())
            self.callbacks.call("on_display", TrainMetrics(self.iter, self.progress.losses.mean))
        if self._due(settings.test_interval):
            self.test()
        for line in skipped_lines([source for job in self.nets for source in job.sources]):
            self.display.say(line)
        self.callbacks.call("on_finish", self.iter)


def _values(net: Net, out: Mapping[str, Tensor]) -> Outputs:
    weights = loss_weights(net)
    return [(name, out[name].detach().reshape(-1).tolist(), weights.get(name, 0.0)) for name in sorted(out)]
