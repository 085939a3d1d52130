"""`caffe.SGDSolver` and the others: the solver of this package, with nets whose blobs a script sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion.layers.python import allowing_python
from fusion.pycaffe import mode
from fusion.pycaffe.errors import caffe_errors
from fusion.pycaffe.net import Net
from fusion.solver.batches import check_classes, shapes_of
from fusion.solver.lr_policy import advance, learning_rate
from fusion.solver.net_with_data import NetWithData
from fusion.solver.signals import Requests
from fusion.solver.solver import Solver as Training
from prototxt.schema.load import load_solver
from prototxt.shapes import infer

if TYPE_CHECKING:
    from fusion.distributed.process_group import DataParallelOptions
    from fusion.layers.registry import Phase
    from fusion.solver.batches import Blobs
    from fusion.solver.read_nets import Descriptions
    from prototxt.schema.messages import NetParameter, SolverParameter

Path = str | os.PathLike[str]
Hook = Callable[[], object]


class _Feed:
    """The batches of a net that reads its data itself: nothing but their number."""

    def __init__(self, net: Net) -> None:
        self._net, self._position = net, 0

    @property
    def position(self) -> int:
        """Return the number of batches so far."""
        return self._position

    @position.setter
    def position(self, number: int) -> None:
        self._position = number
        self._net.seek(number)

    def __iter__(self) -> Iterator[Blobs]:
        return self

    def __next__(self) -> Blobs:
        self._position += 1
        return {}

    def close(self) -> None:
        """Stop reading ahead."""
        self._net.close()


class _ByLayer:
    """A net of a solver, run layer by layer.

    begin  called before each pass of training
    """

    def __init__(self, net: Net, begin: Hook) -> None:
        self._net, self._begin = net, begin

    def __call__(self, blobs: Blobs) -> Blobs:
        """Return the outputs of a forward pass."""
        self._net.run_forward()
        return {name: self._net.blobs[name].values.read() for name in self._net.outputs}

    def step(self, blobs: Blobs) -> tuple[Blobs, Tensor]:
        """Run forward and backward; returns outputs and loss."""
        self._begin()
        loss = self._net.run_forward()
        self._net.run_backward()
        return {name: self._net.blobs[name].values.read() for name in self._net.outputs}, torch.tensor(loss)


class _Training(Training):
    """A run of training whose iterations a script sees: it may write blobs and parameters at any time.

    caffe_nets  the net in training, then the test nets
    """

    def __init__(self, path: Path, overrides: Sequence[str]) -> None:
        self.caffe_nets: list[Net] = []
        self.hooks: list[tuple[Hook, Hook]] = []
        self._begun = False
        self._last = 0
        display = mode.new_display()
        with allowing_python():
            super().__init__(path, device=mode.device_name(), overrides=overrides, display=display, cache_budget=0)
        if self.settings.debug_info:
            self.display.say("warning: debug_info shows nothing here: read the blobs of solver.net")
        train, *tests = self.caffe_nets
        train.find_parameters()  # small ones have moved
        for test in tests:
            test.share_with(train)
        self._blobs = {
            blob.parameter: blob for blobs in train.params.values() for blob in blobs if blob.parameter is not None
        }
        for parameter, blob in self._blobs.items():
            if parameter.grad is not None:  # a part of the gradient of several parameters
                blob.set_gradients(parameter.grad)

    def _open(self, descriptions: Descriptions, parallel: DataParallelOptions) -> tuple[NetWithData, ...]:
        """Open the nets on blobs; a script may fill those of data layers."""
        return (
            self._open_net(descriptions.train, "TRAIN"),
            *(self._open_net(message, "TEST") for message in descriptions.tests),
        )

    def _open_net(self, message: NetParameter, phase: Phase) -> NetWithData:
        net = Net.of_message(message, phase, self.seed)
        check_classes(message, net.sources, infer(message, inputs=shapes_of(net.sources)).blobs)
        self.caffe_nets.append(net)
        module, reason = net.module, "a script may change any blob"
        feed, by_layer = _Feed(net), _ByLayer(net, self._begin)
        return NetWithData(message, module, net.sources, module, feed, no_cache_reason=reason, by_layer=by_layer)

    def _begin(self) -> None:
        """Start an iteration at its first pass: gradients are 0, and scripts are called."""
        if self._begun:
            return
        self._begun = True
        self.use_gradients(clear=True)
        for on_start, _ in self.hooks:
            on_start()

    def use_gradients(self, *, clear: bool = False) -> None:
        """Let the optimizer use the memory of the diffs."""
        for parameter, blob in self._blobs.items():
            if clear:
                blob.clear_gradients()
            if parameter.requires_grad:
                parameter.grad = blob.gradients.read()

    def run_until(self, iteration: int) -> None:
        """Run with the tests, displays and snapshots that are due; afterwards the diffs are the last gradients."""
        self._last = iteration
        self._run(iteration, Requests())

    def train(self) -> None:
        """Run to max_iter."""
        self._last = self.settings.max_iter
        super().train()

    def _update(self, rate: float) -> None:
        for _, on_gradients_ready in self.hooks:
            on_gradients_ready()
        self._begun = False
        super()._update(rate)

    def _apply(self, rate: float) -> None:
        self.use_gradients()
        gradients = [tensor.grad for tensor in self.flat_params.updated if tensor.grad is not None]
        # The optimizer overwrites them; a script reads those of the last iteration only.
        kept = [gradient.clone() for gradient in gradients] if self.iter + 1 >= self._last else []
        super()._apply(rate)
        for gradient, values in zip(gradients, kept, strict=False):
            gradient.copy_(values)
        self.caffe_nets[0].note_update()


class Solver:
    """The base of all solvers: training by a solver file, with nets whose blobs a script reads and writes.

    net        the net in training
    test_nets  the test nets, on the same parameters
    iter       iterations done
    param      the solver's message; base_lr may be changed

    After `step` the blobs of `net` are those of the last iteration, and the diffs of its parameters its gradients
    (in Caffe, their update).

    Raises: CaffeError.
    """

    type = ""

    def __init__(self, solver_file: Path) -> None:
        overrides = [f"type={self.type}"] if self.type else []
        with caffe_errors():
            self.param: SolverParameter = load_solver(solver_file)
            seed = mode.next_seed()
            if seed is not None and self.param.random_seed < 0:
                overrides.append(f"random_seed={seed}")
            self._training = _Training(solver_file, overrides)

    @property
    def net(self) -> Net:
        """Return the net in training."""
        return self._training.caffe_nets[0]

    @property
    def test_nets(self) -> list[Net]:
        """Return the test nets."""
        return self._training.caffe_nets[1:]

    @property
    def iter(self) -> int:
        """Return the number of iterations done."""
        return self._training.iter

    @property
    def lr(self) -> float:
        """Return the learning rate of the next update."""
        self._set_base_lr()
        progress, schedule = self._training.progress, self._training.settings.schedule
        return learning_rate(schedule, self.iter, advance(schedule, self.iter, progress.lr_step))

    def step(self, count: int) -> None:
        """Run `count` iterations, with the tests, displays and snapshots that are due."""
        self._set_base_lr()
        with caffe_errors():
            self._training.run_until(self.iter + count)

    def solve(self, resume_file: Path | None = None) -> None:
        """Run to max_iter, from a solverstate if one is given."""
        self._set_base_lr()
        if resume_file is not None:
            self.restore(resume_file)
        with caffe_errors():
            self._training.train()

    def restore(self, state_file: Path) -> None:
        """Resume from a solverstate, with the weights that it names."""
        with caffe_errors():
            self._training.restore(state_file)
        self.net.note_update()

    def snapshot(self) -> None:
        """Write the weights and the state under the solver's prefix."""
        self.net.synchronize()
        with caffe_errors():
            self._training.snapshot()

    def apply_update(self) -> None:
        """Update the parameters from their diffs, without counting an iteration."""
        with caffe_errors():
            self._training._apply(self.lr)

    def share_weights(self, net: Net) -> None:
        """Let another net use the parameters of the net in training."""
        net.share_with(self.net)

    def add_callback(self, on_start: Hook, on_gradients_ready: Hook) -> None:
        """Call functions in each iteration: before its forward pass, and between its gradients and its update."""
        self._training.hooks.append((on_start, on_gradients_ready))

    def _set_base_lr(self) -> None:
        settings = self._training.settings
        if settings.schedule.base_lr != self.param.base_lr:
            self._training.settings = replace(settings, schedule=replace(settings.schedule, base_lr=self.param.base_lr))


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum, whichever type the file names; so do the others."""

    type = "SGD"


class NesterovSolver(SGDSolver):
    """Nesterov's accelerated gradient."""

    type = "Nesterov"


class AdaGradSolver(SGDSolver):
    """AdaGrad."""

    type = "AdaGrad"


class RMSPropSolver(SGDSolver):
    """RMSProp."""

    type = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    """AdaDelta."""

    type = "AdaDelta"


class AdamSolver(SGDSolver):
    """Adam."""

    type = "Adam"


def get_solver(solver_file: Path) -> Solver:
    """Return the solver of the type that the file names. Raises: CaffeError."""
    with caffe_errors():
        name = load_solver(solver_file).type
    kinds = (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
    kind: type[Solver] = next((kind for kind in kinds if kind.type == name), Solver)
    return kind(solver_file)  # the error of an unknown type lists the known ones
