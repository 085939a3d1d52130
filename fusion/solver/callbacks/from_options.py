"""The callbacks that training options need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion.solver.callbacks.best_weights import BestWeights
from fusion.solver.callbacks.callback import Callback
from fusion.solver.callbacks.early_stopping import EarlyStopping
from fusion.solver.callbacks.ema import EMA
from fusion.solver.callbacks.keep_newest import KeepNewest, SaveInit
from fusion.solver.callbacks.loss_scale import LossScale

if TYPE_CHECKING:
    from fusion.solver.train_options import TrainOptions


def callbacks_from_options(options: TrainOptions) -> list[Callback]:
    """Return the callbacks of these options; averaged weights come first, since the others measure them."""
    callbacks: list[Callback] = []
    if options.ema:
        callbacks.append(EMA(options.ema))
    if options.amp == "fp16":
        callbacks.append(LossScale())
    if options.best_on is not None:
        callbacks.append(best := BestWeights())
        if options.early_stopping:
            callbacks.append(EarlyStopping(best, options.early_stopping))
    if options.keep:
        callbacks.append(KeepNewest(options.keep))
    if options.save_init:
        callbacks.append(SaveInit(options.save_init))
    return callbacks
