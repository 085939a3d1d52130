"""The registry of layer builders by layer type, and the context that a builder receives.

A custom layer takes ten lines, from any package:

    @layer("Negate", per_sample=True)
    def _negate(layer: LayerParameter, context: Context) -> nn.Module:
        return Negate()

A module's `forward(*bottoms)` returns its top, or a tuple of tops; a module with learnable or stored blobs names
them in `caffe_params`, in Caffe's order and Caffe's shapes. Packages announce builders by the entry point group
`caffe_fusion.layers`, whose entries are modules to import or functions to call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Literal, TypeVar, cast
from zlib import crc32

import numpy as np
import torch
from torch import nn

from fusion.errors import BuildError, UnknownSizeError
from prototxt.errors import did_you_mean
from prototxt.schema.layer_types import not_run
from prototxt.shapes.dimensions import is_known

if TYPE_CHECKING:
    from prototxt.errors import Place
    from prototxt.schema.messages import FillerParameter, LayerParameter
    from prototxt.shapes.dimensions import Shape

Phase = Literal["TRAIN", "TEST"]
ENTRY_POINTS = "caffe_fusion.layers"


@dataclass(frozen=True)
class Context:
    """The information for a builder beside the layer's own parameters.

    bottoms, tops  shapes of the blobs; None where a size is known only when data arrives
    params         shapes of the layer's learnable or stored blobs
    phase          the phase that the net is built for; it stays with the module, as in Caffe
    seed           seed of the fillers; None draws other numbers each time
    name           the layer's name
    """

    bottoms: Sequence[Shape] = ()
    tops: Sequence[Shape] = ()
    params: Sequence[Shape] = ()
    phase: Phase = "TEST"
    seed: int | None = None
    name: str = ""

    def parameter(self, index: int, filler: FillerParameter | float = 0.0) -> nn.Parameter:
        """Return a learnable float32 parameter in the shape of the layer's blob `index`, filled by `filler`.

        The values depend only on the seed, the layer's name and the index, so a net of the other phase gets the same.
        """
        shape = self.known_shape(index)
        value = float(filler) if isinstance(filler, (int, float)) else _constant(filler)
        if value is not None:
            zeros = torch.zeros(shape, dtype=torch.float32)  # lazily allocated: costs nothing until written to
            return nn.Parameter(zeros.fill_(value) if value else zeros)
        if torch.get_default_device().type == "meta":
            return nn.Parameter(torch.empty(shape, dtype=torch.float32))
        from fusion.fillers import fill

        array = fill(cast("FillerParameter", filler), shape, self.random(index))
        return nn.Parameter(torch.from_numpy(array).to(torch.get_default_device()))

    def random(self, index: int) -> np.random.Generator:
        """Return the generator that fills the layer's blob `index`."""
        if self.seed is None:
            return np.random.default_rng()
        return np.random.default_rng([self.seed, crc32(self.name.encode("utf-8", "surrogateescape")), index])

    def known_shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of blob `index`. Raises: UnknownSizeError where it is not known without data."""
        if index >= len(self.params):
            raise UnknownSizeError(
                f"layer '{self.name}': the shapes of its bottoms are not known, and so neither are those of its blobs",
                hint="give the net's input shapes, or the shape of its bottom",
            )
        shape = self.params[index]
        if not is_known(shape):
            raise UnknownSizeError(
                f"layer '{self.name}': the size of its blob {index} depends on data that is not known yet",
                hint="give the net's input shapes, e.g. shapes={'data': (1, 3, 224, 224)}",
            )
        return cast("tuple[int, ...]", tuple(shape))


Builder = Callable[["LayerParameter", Context], nn.Module]
Registered = TypeVar("Registered", "Builder", "type[nn.Module]")
Sampled = Callable[["LayerParameter", Context], bool]


@dataclass(frozen=True)
class RegisteredLayer:
    """A registered layer type.

    per_sample  whether each sample's tops depend on that sample alone (and on the parameters), so that they may be
                cached; a function where this depends on the layer's parameters
    """

    name: str
    build: Builder
    per_sample: bool | Sampled

    def keeps_samples_apart(self, layer: LayerParameter, context: Context) -> bool:
        """Return whether each sample's tops depend on that sample alone."""
        return self.per_sample if isinstance(self.per_sample, bool) else self.per_sample(layer, context)


@dataclass
class _Registry:
    types: dict[str, RegisteredLayer] = field(default_factory=dict)
    searched: bool = False


_registry = _Registry()


def layer(*types: str, per_sample: bool | Sampled = False) -> Callable[[Registered], Registered]:
    """Register a builder, or a module class without settings; `prototxt.shapes.shape_function` registers the shapes.

    Raises: BuildError for a type that has a builder already.
    """

    def register(build: Registered) -> Registered:
        builder: Builder = _without_settings(build) if isinstance(build, type) else build
        for name in types:
            if name in _registry.types:
                raise BuildError(f"layer type '{name}' has a builder already: {_registry.types[name].build!r}")
            _registry.types[name] = RegisteredLayer(name, builder, per_sample)
        return build

    return register


def _without_settings(module: type[nn.Module]) -> Builder:
    return functools.wraps(module, updated=())(lambda layer, context: module())


def find_layer_type(name: str) -> RegisteredLayer | None:
    """Return the registered type of that name, from installed packages too, or None."""
    if name not in _registry.types and not _registry.searched:
        _registry.searched = True
        for entry in metadata.entry_points(group=ENTRY_POINTS):
            announced = entry.load()
            if callable(announced):
                announced()
    return _registry.types.get(name)


def known_types() -> tuple[str, ...]:
    """Return the registered types, sorted."""
    return tuple(sorted(_registry.types))


def unknown_type(name: str, layer_name: str, place: Place | None) -> BuildError:
    """Return the error for an unregistered type, with the nearest known one."""
    if known := not_run(name):
        hint = "leave the layer out, or register a builder with fusion.layer; everything except running it works"
        return BuildError(f"layer '{layer_name}': {known}", place=place, hint=hint)
    hint = did_you_mean(name, known_types(), "register a builder with fusion.layers.registry.layer")
    return BuildError(f"layer '{layer_name}': unknown type '{name}'", place=place, hint=hint)


def _constant(filler: FillerParameter) -> float | None:
    return filler.value if filler.type == "constant" else None
