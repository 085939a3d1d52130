"""A net's text as layers: in which phases each is present, and its piece of the file."""

from __future__ import annotations

import pytest

from fusion.composition.net_text import keep_layers, read_net
from prototxt.text.parser import parse


def phases(rules: str, head: str = "", stages: dict[str, set[str]] | None = None) -> tuple[str, ...]:
    return read_net(parse(f'{head} layer {{ name: "a" type: "ReLU" {rules} }}'), stages).layers[0].phases


@pytest.mark.parametrize(
    ("rules", "head", "found"),
    [
        ("", "", ("TRAIN", "TEST")),
        ("include { phase: TEST }", "", ("TEST",)),
        ("include { phase: 0 }", "", ("TRAIN",)),
        ("include { phase: 1 }", "", ("TEST",)),
        ("exclude { phase: TRAIN }", "", ("TEST",)),
        ("include { phase: TRAIN } include { phase: TEST }", "", ("TRAIN", "TEST")),
        ("exclude { phase: TRAIN } exclude { phase: TEST }", "", ()),
        ("include { min_level: 1 }", "", ()),
        ("include { min_level: 1 }", "state { level: 1 }", ("TRAIN", "TEST")),
        ("include { min_level: 2 }", "state { level: 1 }", ()),
        ("include { max_level: 0 }", "state { level: 1 }", ()),
        ("include { max_level: 1 }", "state { level: 1 }", ("TRAIN", "TEST")),
        ("include { max_level: -1 }", "", ()),
        ("include { min_level: 0x1 }", "state { level: 3 level: 1 }", ("TRAIN", "TEST")),
        ('include { stage: "s" }', "", ()),
        ('include { stage: "s" }', 'state { stage: "s" }', ("TRAIN", "TEST")),
        ('include { stage: "s" stage: "t" }', 'state { stage: "s" }', ()),
        ('include { not_stage: "s" }', 'state { stage: "s" }', ()),
        ('include { not_stage: "s" }', "", ("TRAIN", "TEST")),
        ('exclude { stage: "s" }', 'state { stage: "s" }', ()),
        ('include { phase: TEST stage: "s" }', 'state { stage: "s" }', ("TEST",)),
    ],
)
def test_rules(rules: str, head: str, found: tuple[str, ...]) -> None:
    assert phases(rules, head) == found


def test_stages_may_differ_between_the_phases() -> None:
    assert phases('include { stage: "s" }', stages={"TEST": {"s"}}) == ("TEST",)
    assert phases('include { not_stage: "s" }', stages={"TEST": {"s"}}) == ("TRAIN",)
    assert phases('include { stage: "s" stage: "t" }', 'state { stage: "t" }', {"TRAIN": {"s"}}) == ("TRAIN",)


NET = """name: "n"
input: "x"
layer { name: "d" type: "Data" top: "y" top: "l" };
layer {
  name: "a" type: "ReLU" bottom: "x" top: "a"
}
layer [{ name: "b" type: "ReLU" bottom: "a" top: "b" }]
"""


def test_layers_and_their_places() -> None:
    net = read_net(parse(NET, "net.prototxt"))
    assert (net.name, net.file, net.inputs, net.input_blobs) == ("n", "net.prototxt", ("x",), ("x", "y", "l"))
    assert [(layer.number, layer.name, layer.bottoms, layer.tops) for layer in net.layers] == [
        (0, "d", (), ("y", "l")), (1, "a", ("x",), ("a",)), (2, "b", ("a",), ("b",))
    ]  # fmt: skip
    assert [layer.is_data for layer in net.layers] == [True, False, False]
    assert [str(net.place(layer)) for layer in net.layers][:2] == ["net.prototxt:3:1", "net.prototxt:4:1"]


@pytest.mark.parametrize(("kept", "names"), [({0}, ["d"]), ({1}, ["a"]), ({0, 1}, ["d", "a"]), (set(), [])])
def test_layers_that_go_leave_blank_lines(kept: set[int], names: list[str]) -> None:
    whole = read_net(parse(NET.rpartition("layer [")[0], "n"))
    net = keep_layers(whole, frozenset(kept))
    assert [layer.name for layer in net.layers] == names
    before = {layer.name: str(whole.place(layer)) for layer in whole.layers}
    assert {layer.name: str(net.place(layer)) for layer in net.layers} == {name: before[name] for name in names}
    assert ";" not in net.document.text or "d" in names
