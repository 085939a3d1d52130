"""Layers are found again in their file, also after copies and filters."""

from __future__ import annotations

import pytest

from prototxt.errors import Place
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.text import source_places
from prototxt.text.parser import parse


def test_places_of_a_nets_layers() -> None:
    net = load_net(parse('input: "d" input_shape { dim: 1 }\nlayer { name: "a" }\n  layer { name: "b" }\n', "f"))
    assert [str(source_places.place_of(layer)) for layer in filter_net(net).layer] == ["f:1:1", "f:2:1", "f:3:3"]


def test_places_in_a_list() -> None:
    net = load_net(parse('layer: [{ name: "la" }, { name: "lb" }]', "f"))
    assert [str(source_places.place_of(layer)) for layer in net.layer] == ["f:1:9", "f:1:25"]


def test_a_layer_from_elsewhere_has_none() -> None:
    assert source_places.place_of(LayerParameter(name="from nowhere")) is None


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_places, "LIMIT", 3)
    monkeypatch.setattr(source_places, "_places", type(source_places._places)())
    for index in range(5):
        source_places.remember(LayerParameter(name=f"l{index}"), Place("f", index, 1))
    known = [source_places.place_of(LayerParameter(name=f"l{index}")) for index in range(5)]
    assert [place and place.line for place in known] == [None, None, 2, 3, 4]
