"""Several nets into one description: what the tutorial pastes by hand. Torch-free."""

from fusion.composition.compose import Composition, compose
from fusion.composition.config import ComposeConfig, read_config, to_toml
from fusion.composition.losses import Loss
from fusion.composition.references import Pct
from fusion.composition.solver_text import SolverSettings
from fusion.composition.source import Source
from fusion.composition.tasks import Task

__all__ = [
    "ComposeConfig",
    "Composition",
    "Loss",
    "Pct",
    "SolverSettings",
    "Source",
    "Task",
    "compose",
    "read_config",
    "to_toml",
]
