"""How layers, inputs and blobs of two nets are matched, on plans written by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fusion.errors import DataError, WeightsMismatch
from fusion.verification.nets import (
    Feed,
    branch_inputs,
    computed_inputs,
    computed_values,
    output_values,
    source_feed,
)
from fusion.verification.pairs import (
    blobs_of_equal_names,
    check_missing,
    check_weights,
    differing_preparation,
    handed_over,
    made_at_the_front,
    nothing_in_common,
    paired,
)
from prototxt.schema.load import load_net
from prototxt.text.parser import parse


def net(calls: str, inputs: str = "", outputs: str = "", blobs: str = "") -> Any:
    """Return a net of calls such as `conv:data>conv` (of type Ident, or `conv/ReLU:...`); other values as key=value."""
    plan = []
    for text in calls.split():
        head, _, values = text.partition(":")
        name, _, kind = head.partition("!")
        bottoms, _, tops = values.partition(">")
        split = [tuple(filter(None, side.split(","))) for side in (bottoms, tops)]
        plan.append(SimpleNamespace(name=name, type=kind or "ReLU", bottoms=split[0], tops=split[1]))
    pairs = [[(item.partition("=")[0], item.rpartition("=")[2]) for item in text.split()]
             for text in (inputs, outputs, blobs)]  # fmt: skip
    return SimpleNamespace(plan=SimpleNamespace(calls=plan, inputs=pairs[0], outputs=pairs[1], blobs=pairs[2]))


def names(pairs: list[tuple[Any, Any]]) -> list[tuple[str, str]]:
    return [(one.name, other.name) for one, other in pairs]


def test_layers_match_by_name_with_the_prefix_or_without() -> None:
    source = net("a:x>a b:a>b :b>c odd/d:c>d e:d>e")
    fused = net("odd/a:x>oa a:x>a odd/d:a>od b:od>b odd/e:b>e odd/e:e>e2 other/b:b>ob")
    assert names(paired(source, fused, "odd")) == [("a", "odd/a"), ("odd/d", "odd/d"), ("e", "odd/e")]
    assert paired(source, fused, "odd")[2][1].bottoms == ("b",), "the first of one name"
    assert names(paired(source, fused, "")) == [("a", "a"), ("b", "b"), ("odd/d", "odd/d")]
    assert paired(source, net("x:a>b"), "odd") == []


def side(net: Any, sizes: str = "", text: str = "", missing: tuple[str, ...] = (), label: str = "L") -> Any:
    shapes = {
        name: tuple(map(int, size.split("x"))) for name, _, size in (part.partition("=") for part in sizes.split())
    }
    message = load_net(parse(text)) if text else None
    return SimpleNamespace(net=net, shapes=shapes, message=message, missing=missing, label=label)


def test_values_that_depend_on_images_alone() -> None:
    calls = (
        "a:data>a l!SoftmaxWithLoss:a,label>loss acc!Accuracy:a,label>acc e!EuclideanLoss:a,a>e j:label>j k:a,j>k m:a>m"
    )
    one = side(net(calls + " n!Accuracy:m>n", "data label", "loss k m=m"), "data=2x3x4x4 label=2")
    assert computed_values(one) == {"data", "a", "m"}
    assert output_values(one) == ["m"]


def test_blobs_of_equal_names_in_the_order_of_the_first() -> None:
    one = side(net("a:x>va b:va>vb c:vb>vc", "x", "", "p=vb q=va r=vc x=x"), "x=2x3")
    other = side(net("a:x>wq b:wq>wp c:l>wr", "x l", "", "p=wp q=wq r=wr"), "x=2x3 l=2")
    assert blobs_of_equal_names(one, other) == [("va", "wq"), ("vb", "wp")]


def test_inputs_are_handed_over_by_the_layers_that_read_them() -> None:
    source = net("a:d,e>a b:e>b", "data=d extra=e")
    branch = net("p/a:x,y>pa p/b:y>pb", "in=x more=y")
    pairs = paired(source, branch, "p")
    one, two = torch.ones(1), torch.zeros(1)
    assert handed_over("p", pairs, source, branch, {"data": one, "extra": two}) == {"in": one, "more": two}
    with pytest.raises(DataError, match="'p': the branch also reads 'more'"):
        handed_over("p", pairs, source, branch, {"data": one})


def test_inputs_of_unrelated_nets_are_those_of_one_name_or_the_only_one() -> None:
    one, two = torch.ones(1), torch.zeros(1)
    source = net("a:d>a", "data=d extra=e")
    assert handed_over("n", [], source, net("b:x>b", "data=x"), {"data": one, "extra": two}) == {"data": one}
    assert handed_over("n", [], source, net("b:x>b", "image=x"), {"data": one}) == {"image": one}
    with pytest.raises(DataError, match="also reads 'image'"):
        handed_over("n", [], source, net("b:x>b", "image=x"), {"data": one, "extra": two})
    with pytest.raises(DataError, match="also reads 'y', 'z'"):
        handed_over("n", [], source, net("b:x>b", "y=x z=w"), {"data": one})


def test_inputs_that_the_fused_net_computes_itself() -> None:
    source = net("a:d>a b:d,a>b c:e>c", "data=d extra=e")
    fused = net("front:x>f p/a:f>pa p/b:f,pa>pb p/c:y>pc", "in=x other=y")
    assert made_at_the_front(paired(source, fused, "p"), source, fused) == ("f",)


def test_weights_of_both_sides_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    source, fused = net("a:x>a b:a>b c:b>c"), net("p/a:x>a p/b:a>b h:b>c")
    blobs = {"a": [(2, 3), (2,)], "b": [(4,)], "p/a": [(2, 3), (2,)], "p/b": [(4,)]}
    monkeypatch.setattr(
        "fusion.verification.pairs.params",
        lambda found: {
            call.name: [torch.zeros(shape) for shape in blobs.get(call.name, ())] for call in found.plan.calls
        },
    )
    pairs = paired(source, fused, "p")
    check_weights("p", pairs, side(source, missing=("c",)), side(fused, missing=("h",)))
    for sides in (((), ("p/b",)), (("b",), ())):
        with pytest.raises(WeightsMismatch, match="'p': L has no weights for layer '"):
            check_weights("p", pairs, side(source, missing=sides[0]), side(fused, missing=sides[1]))
    blobs["p/b"] = [(5,)]
    with pytest.raises(
        WeightsMismatch, match=r"'p': layer 'p/b' has parameters of shape \[\(5,\)\], its source \[\(4,\)\]"
    ):
        check_weights("p", pairs, side(source), side(fused))
    with pytest.raises(WeightsMismatch, match="'n': R has no weights for layer 'z'"):
        check_missing("n", [(side(source), ()), (side(fused, label="R"), ("z",))])


def test_nets_without_a_common_layer_are_told_by_their_first_four() -> None:
    calls = " ".join(f"{name}:x>y" for name in "abcde")
    error = nothing_in_common("p", side(net(calls)), side(net(calls.upper().replace("X>Y", "x>y")), label="R"))
    assert str(error).startswith("'p': L and R have no layer in common")
    assert "the first has a, b, c, d, ...; the second A, B, C, D, ...;" in str(error)


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("ImageData scale: 2", "ImageData scale: 3", True),
        ("ImageData scale: 2", "ImageData scale: 2", False),
        ("ImageData scale: 2", "ImageData", True),
        ("ImageData scale: 2", "Data scale: 3", True),
        ("Input", "ImageData scale: 3", False),
        ("ImageData scale: 2", "Input", False),
    ],
)
def test_other_preparations_of_pixels_are_told_once(one: str, other: str, told: bool) -> None:
    def data(text: str, top: str) -> str:
        kind, _, transform = text.partition(" ")
        settings = f"transform_param {{ {transform} }}" if transform else ""
        return f'layer {{ name: "{top}" type: "{kind}" top: "{top}" {settings} }}'

    sides = (side(net("a:x>a b:x>b"), text=data(one, "x")), side(net("p/a:y>a p/b:y>b"), text=data(other, "y")))
    found = differing_preparation(paired(sides[0].net, sides[1].net, "p"), *sides)
    assert found == ("note: the data layers prepare 'x' and 'y' differently (transform_param)",) * told
    assert differing_preparation(paired(sides[0].net, net("p/a:z>a"), "p"), *sides) == ()


def test_the_words_for_inputs() -> None:
    assert Feed(["a.png", "b.png"]).words == "2 pictures"
    assert Feed(seed=3).words == "noise with seed 3"


def inputs(path: Path, *layers: str) -> Path:
    """Write a net of inputs such as `data=1x3x8` and of layers such as `conv:data>conv`."""
    text = ""
    for item in layers:
        name, _, shape = item.partition("=")
        if shape:
            dims = " ".join(f"dim: {dim}" for dim in shape.split("x"))
            text += f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
        else:
            name, _, ends = item.partition(":")
            bottom, _, top = ends.partition(">")
            text += f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top}" }}\n'
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("fused", "source", "given", "found"),
    [
        (["data=1x3"], ["data=1x3"], {"data": (5, 3)}, {"data": (5, 3)}),
        (["data=1x3", "p/data=1x4"], ["data=1x4"], {"data": (5, 3)}, {}),
        (
            ["data=1x3", "p/data=1x4"],
            ["data=1x4"],
            {"data": (5, 3), "p/data": (5, 4)},
            {"data": (5, 4), "p/data": (5, 4)},
        ),
        (["data=1x3"], ["data=1x4"], {"data": (5, 3)}, {}),
        (["data=1x3"], ["data=1x4"], {"data": (5, 4)}, {"data": (5, 4)}),
        (["data=1x3"], ["other=1x4"], {"data": (5, 3)}, {"data": (5, 3)}),
    ],
)
def test_the_shapes_that_a_source_takes(
    fused: list[str], source: list[str], given: dict[str, Any], found: dict[str, Any], tmp_path: Path
) -> None:
    paths = inputs(tmp_path / "fused", *fused), inputs(tmp_path / "source", *source)
    assert source_feed(Feed(shapes=given), *paths, "p").shapes == found
    assert source_feed(Feed(), *paths, "p").shapes == {}


def test_inputs_of_a_branch_and_those_that_the_fused_net_computes(tmp_path: Path) -> None:
    fused = inputs(tmp_path / "fused", "data=1x3", "p/data=1x4", "more=1x5", "q/a:data>q/a", "p/first:q/a>p/f",
                   "p/second:p/f>p/s", "p/third:more>p/t")  # fmt: skip
    source = inputs(tmp_path / "source", "x=1x3", "first:x>f", "second:f>s", "third:more>t")
    assert branch_inputs(fused, "p") == {"data": (1, 4), "p/data": (1, 4), "more": (1, 5)}
    assert branch_inputs(fused, "q") == {"data": (1, 3), "p/data": (1, 4), "more": (1, 5)}
    assert computed_inputs(fused, source, "p") == {"x": (1, 3)}
