"""Several nets into one description: what the tutorial pastes by hand. Torch-free."""

from fusion.composition.composing import Composition, compose
from fusion.composition.recipe import Recipe, read_recipe, to_toml
from fusion.composition.references import Pct
from fusion.composition.solvers import Schedule
from fusion.composition.sources import Source

__all__ = ["Composition", "Pct", "Recipe", "Schedule", "Source", "compose", "read_recipe", "to_toml"]
