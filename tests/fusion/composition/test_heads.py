from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import prototxt
from fusion import ComposeError
from fusion.composition import Source, compose
from fusion.composition.features import Features
from fusion.composition.heads import HEADS, _joined_shape
from prototxt.schema.encode import to_text

Make = Callable[..., Path]


def net_of(document: prototxt.Document) -> prototxt.schema.messages.NetParameter:
    return prototxt.filter_net(prototxt.load_net(document), phase="TEST")


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("widths", [(6, 6), (6, 4)])
def test_every_head_scores_the_classes(make: Make, head: str, widths: tuple[int, int]) -> None:
    sources = [Source("a", make("one", width=widths[0]), at="fc"), Source("b", make("two", width=widths[1]), at="fc")]
    composed = compose(sources, head, num_output=3)
    for document in (composed.train_val, composed.deploy):
        net = net_of(document)
        shapes = prototxt.infer_shapes(net)
        final = next(layer for layer in net.layer if layer.type in ("Softmax", "Accuracy") and "_" not in layer.name)
        assert shapes[final.bottom[0]][1:] == (3,)


def test_features_of_different_sizes_are_pooled(make: Make) -> None:
    sources = [Source("a", make("one", maps=2), at="conv"), Source("b", make("two"), at="fc")]
    composed = compose(sources, num_output=3)
    assert prototxt.infer_shapes(net_of(composed.train_val))["features"][1:] == (2 + 6,)
    assert any("averaged over its positions" in note for note in composed.notes)


def test_features_of_different_widths_are_projected(make: Make) -> None:
    sources = [Source("a", make("one", width=6), at="fc"), Source("b", make("two", width=4), at="fc")]
    shapes = prototxt.infer_shapes(net_of(compose(sources, "sum", num_output=3).train_val))
    assert shapes["a_projection"][1] == shapes["b_projection"][1] == shapes["fc_fused"][1] == 6
    assert prototxt.infer_shapes(net_of(compose(sources, "max", num_output=3, hidden=9).train_val))["fc_fused"][1] == 9


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [((0, 1, 2), (3, 4, 5), 6), ((0, 1, 2), (0, 1, 2), 3), ((0, 2, 4), (1, 3, 5), 6), ((0, 1, 2), (2, 3, 1), 4)],
    ids=["disjoint", "equal", "interleaved", "overlapping"],
)
def test_logits_average_each_class_over_the_sources_that_know_it(
    make: Make, first: tuple[int, ...], second: tuple[int, ...], total: int
) -> None:
    sources = [Source("a", make("one"), at="fc", classes=first), Source("b", make("two"), at="fc", classes=second)]
    net = net_of(compose(sources, "logits", num_output=total).deploy)
    shapes = prototxt.infer_shapes(net)
    assert shapes["prob"] == (1, total)
    assert traced(net, shapes) == [
        {(p, c.index(k)) for p, c in (("a", first), ("b", second)) if k in c} for k in range(total)
    ]


def traced(
    net: prototxt.schema.messages.NetParameter, shapes: dict[str, tuple[int, ...]]
) -> list[set[tuple[str, int]]]:
    """For each fused class, the source and position that its score is made of."""
    columns: dict[str, list[set[tuple[str, int]]]] = {}
    for layer in net.layer:
        if layer.type == "Log":
            prefix = layer.name.removesuffix("_log_prob")
            columns[layer.top[0]] = [{(prefix, index)} for index in range(shapes[layer.top[0]][1])]
        elif layer.type == "Slice" and layer.bottom[0] in columns:
            source, points = columns[layer.bottom[0]], [0, *layer.slice_param.slice_point, None]
            for top, start, end in zip(layer.top, points[:-1], points[1:], strict=True):
                columns[top] = source[start:end]
        elif layer.type == "Eltwise":
            parts = [columns[blob] for blob in layer.bottom]
            columns[layer.top[0]] = [set().union(*column) for column in zip(*parts, strict=True)]
            assert sum(layer.eltwise_param.coeff) == pytest.approx(1)
        elif layer.type == "Concat":
            columns[layer.top[0]] = [column for blob in layer.bottom for column in columns[blob]]
    final = next(layer for layer in net.layer if layer.name == "prob")
    return columns[final.bottom[0]]


def test_logits_refuse_classes_that_nobody_knows(make: Make) -> None:
    with pytest.raises(ComposeError, match="no source knows these classes: 3, 4"):
        compose([Source("a", make("one"), at="fc", classes=(0, 1, 2))], "logits", num_output=5)


def test_zero_init_starts_at_the_first_source(make: Make) -> None:
    sources = [Source("a", make("one"), at="fc"), Source("b", make("two"), at="fc")]
    layers = {layer.name: layer for layer in net_of(compose(sources, "zero-init", num_output=3).deploy).layer}
    assert layers["correction"].inner_product_param.weight_filler.type == "constant"
    assert list(layers["classes"].bottom) == ["a/classes", "correction"]


@pytest.mark.parametrize("head", ["fastnorm", "softmax"])
def test_a_layer_of_our_own_is_remarked_on_once(make: Make, head: str) -> None:
    composed = compose([Source("a", make("one"), at="fc"), Source("b", make("two"), at="fc")], head, num_output=3)
    text = str(composed.train_val)
    assert text.count("# The features of all branches. (No layer of Caffe's: fusion-surgery bake makes it an ") == 1
    assert text.count("The features of all branches") == 1


def test_a_net_has_at_least_one_output(make: Make) -> None:
    with pytest.raises(ComposeError, match="num_output is the number of classes, not 0"):
        compose([Source("a", make("one"), at="fc")], num_output=0)


def head_text(make: Make, head: str, second: int, **options: object) -> str:
    """Return the notes on a head over features of width 6 and `second`, and its layers up to the losses, as text."""
    sources = [Source("a", make("one", width=6), at="fc"), Source("b", make("two", width=second), at="fc")]
    composed = compose(sources, head, num_output=3, **options)  # type: ignore[arg-type]
    net = net_of(composed.train_val)
    del net.layer[: max(n for n, layer in enumerate(net.layer) if layer.name in ("b/drop", "b/classes")) + 1]
    lines = [f"== {head} {second} {options}", *(note for note in composed.notes if note.startswith("head: "))]
    for layer in net.layer:
        settings = to_text(layer).split("\n", 2 + len(layer.bottom) + len(layer.top))[-1]
        ends = f"{', '.join(layer.bottom)} -> {', '.join(layer.top)}"
        lines.append(f"{layer.name} ({layer.type}) {ends}: {' '.join(settings.split())}".rstrip(": "))
    return "\n".join(lines) + "\n"


def test_the_layers_of_each_head(make: Make) -> None:
    """The file holds what each head writes; a change of a head is a change of its lines there."""
    cases: list[tuple[str, int, dict[str, object]]] = [(head, width, {}) for head in sorted(HEADS) for width in (6, 4)]
    cases += [("concat-mlp", 6, {"hidden": 7}), ("concat-fc", 4, {"project": 5, "batch_norm": True})]
    found = "".join(head_text(make, head, width, **options) for head, width, options in cases)
    assert found == (Path(__file__).parent / "heads.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("shapes", "equal", "joined"),
    [
        ([(None, 3), (None, 4)], False, (None, 7)),
        ([(None, 3, 5, 6), (None, 4, 5, 6)], False, (None, 7, 5, 6)),
        ([(None, 3, 5, 6), (None, 4, 5, 7)], False, None),
        ([(None, 3), (None, None)], False, (None, None)),
        ([(None, 3), None], False, None),
        ([None, (None, 3)], False, None),
        ([(None, 3), (None, 3)], True, (None, 3)),
        ([None, (None, 3)], True, None),
    ],
)
def test_the_shape_of_joined_features(
    shapes: list[tuple[int | None, ...] | None], equal: bool, joined: tuple[int | None, ...] | None
) -> None:
    assert _joined_shape([Features("a", "x", shape) for shape in shapes], equal) == joined


def test_heads_that_cannot_be(make: Make) -> None:
    sources = [Source("a", make("one"), at="fc", classes=(1, 0, 2)), Source("b", make("two"), at="fc")]
    with pytest.raises(ComposeError, match="scores of source 'a', which must be those of all 3 classes in their order"):
        compose(sources, "zero-init", num_output=3)
    for options in ({"project": 4}, {"batch_norm": True}):
        with pytest.raises(ComposeError, match="head 'probs' trains nothing, so it has no projection"):
            compose(sources, "probs", num_output=3, **options)  # type: ignore[arg-type]
