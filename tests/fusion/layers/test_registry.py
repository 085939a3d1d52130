"""Layer types of one's own, and what is told of those that nobody knows."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

import pytest
import torch
from torch import Tensor, nn

import prototxt
from fusion.errors import BuildError
from fusion.layers import registry
from fusion.layers.registry import Context, layer
from fusion.nets import build as nets
from prototxt.schema.messages import FillerParameter, LayerParameter
from prototxt.shapes import LAYER_TYPES, Shape, shape_function

TEXT = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "own" type: "Twice" bottom: "x" top: "y" loss_weight: 1 }
"""


class Twice(nn.Module):
    caffe_params = ("weight",)

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


@pytest.fixture
def twice() -> Iterator[None]:
    """A type registered as a user would, and taken away again."""

    @shape_function("Twice", bottoms=1, tops=1)
    def shapes(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
        return [bottoms[0]], [(1,)]

    @layer("Twice", per_sample=True)
    def build(layer: LayerParameter, context: Context) -> nn.Module:
        return Twice(context.parameter(0, 2.0))

    yield
    del LAYER_TYPES["Twice"], registry._registry.types["Twice"]


@pytest.mark.usefixtures("twice")
def test_a_layer_of_one_s_own_builds_runs_and_learns() -> None:
    net = nets.build(prototxt.parse(TEXT), "TRAIN")
    out = net({"x": torch.ones(2, 3)})
    nets.total_loss(net, out).backward()
    assert float(out["y"].detach().sum()) == 12
    assert float(nets.params(net)["own"][0].grad) == 6  # type: ignore[arg-type]


@pytest.mark.usefixtures("twice")
def test_a_second_builder_is_an_error() -> None:
    with pytest.raises(BuildError, match="'Twice' has a builder already"):
        layer("Twice")(lambda layer, context: nn.Identity())


def test_packages_bring_types_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Entry:
        def load(self) -> object:
            return lambda: calls.append("registered")

    monkeypatch.setattr(metadata, "entry_points", lambda group: [Entry()] if group == registry.ENTRY_POINTS else [])
    monkeypatch.setattr(registry._registry, "searched", False)
    assert registry.find_layer_type("NoSuchType") is None
    assert registry.find_layer_type("NorThis") is None
    assert calls == ["registered"]


def test_fillers_depend_on_seed_name_and_index_alone() -> None:
    filler = FillerParameter(type="gaussian", std=1)

    def draw(seed: int, name: str, index: int) -> Tensor:
        context = Context(params=((4, 3), (4, 3)), seed=seed, name=name)
        return context.parameter(index, filler).detach()

    assert torch.equal(draw(1, "a", 0), draw(1, "a", 0))
    others = [draw(2, "a", 0), draw(1, "b", 0), draw(1, "a", 1)]
    assert not any(torch.equal(draw(1, "a", 0), other) for other in others)


def test_a_parameter_of_unknown_size_asks_for_shapes() -> None:
    with pytest.raises(BuildError, match="blob 0"):
        Context(params=((4, None),), name="ip").parameter(0)


def test_known_types_that_cannot_be_run_are_said_to_be_so() -> None:
    """By one table, which lists what has no builder, and no more."""
    from prototxt.schema.layer_types import KNOWN_TYPES, NOT_RUN_TYPES, not_run
    from prototxt.schema.params import DATA_TYPES, KNOWN_TYPES as COUNTED

    assert (KNOWN_TYPES | COUNTED) - set(registry.known_types()) - DATA_TYPES - {"Padding"} == NOT_RUN_TYPES
    assert not_run("Convolution") is None
    assert not_run("Nonsense") is None
    for kind in ("DetectionEvaluate", "Correlation"):
        error = registry.unknown_type(kind, "e", None)
        assert error.message == f"layer 'e': type '{kind}' is a fork's: known, but without an implementation here, " + (
            "so it cannot be run"
        )
        assert "did you mean" not in (error.hint or "")
