"""Training from a solver file, with Caffe's semantics and torch's machinery.

solver = Solver("solver.prototxt", weights="init.caffemodel")
solver.train()                 # to max_iter, with tests, displays and snapshots; or
solver.step(100)
solver.net                     # the net in training
"""

from __future__ import annotations

from fusion.solver.optimizers import SGD, AdaDelta, AdaGrad, Adam, CaffeOptimizer, Nesterov, RMSProp
from fusion.solver.solver import Solver
from fusion.solver.train_options import TrainOptions

__all__ = ["SGD", "AdaDelta", "AdaGrad", "Adam", "CaffeOptimizer", "Nesterov", "RMSProp", "Solver", "TrainOptions"]
