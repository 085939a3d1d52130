"""Fuse several nets into one description, as the tutorial does by hand. Torch-free."""

from fusion.composition.compose import Composition, compose, compose_with
from fusion.composition.config import ComposeConfig, read_config, to_toml
from fusion.composition.losses import Loss
from fusion.composition.options import ComposeOptions
from fusion.composition.references import Pct
from fusion.composition.solver_text import SolverSettings
from fusion.composition.source import Source
from fusion.composition.tasks import Task

__all__ = [
    "ComposeConfig",
    "ComposeOptions",
    "Composition",
    "Loss",
    "Pct",
    "SolverSettings",
    "Source",
    "Task",
    "compose",
    "compose_with",
    "read_config",
    "to_toml",
]
