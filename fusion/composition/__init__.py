"""Several nets into one description: what the tutorial pastes by hand. Torch-free."""

from fusion.composition.composing import Composition, compose
from fusion.composition.losses import Loss
from fusion.composition.recipe import Recipe, read_recipe, to_toml
from fusion.composition.references import Pct
from fusion.composition.solvers import Schedule
from fusion.composition.sources import Source
from fusion.composition.tasks import Task

__all__ = ["Composition", "Loss", "Pct", "Recipe", "Schedule", "Source", "Task", "compose", "read_recipe", "to_toml"]
