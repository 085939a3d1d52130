"""Features of other sizes and widths are brought to one form, or refused with their sizes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fusion.composition.features import (
    Features,
    HeadRequest,
    PreparedFeatures,
    Shape,
    format_shape,
    global_average_pool,
    prepare_features,
    size_from,
)
from fusion.composition.net_text import read_net
from fusion.composition.options import ComposeOptions
from fusion.composition.output_layers import _check_classifier, _set_maps
from fusion.errors import ComposeError
from prototxt.text.parser import parse


def prepared(*shapes: Shape | None, equal: bool = False, positions: bool = False, steps: bool = False,
             **options: Any) -> PreparedFeatures:  # fmt: skip
    features = [Features(f"s{n}", f"s{n}/out", shape, n, steps) for n, shape in enumerate(shapes)]
    return prepare_features(
        features, HeadRequest(features, {"fc": 2}, "j", ComposeOptions(**options), positions), equal=equal
    )


def layers(found: PreparedFeatures) -> list[tuple[str, str, tuple[str, ...]]]:
    net = read_net(parse("".join(found.text)))
    return [(layer.name, layer.type, layer.bottoms) for layer in net.layers]


def forms(found: PreparedFeatures) -> list[tuple[str, Shape | None, int]]:
    return [(item.blob, item.shape, item.level) for item in found.features]


@pytest.mark.parametrize(
    ("shape", "axis", "size"),
    [(None, 1, None), ((2, 3, 4), 1, 12), ((2, 3, 4), 2, 4), ((None, 3, 4), 1, 12), ((None, None, 4), 1, None),
     ((None, None, 4), 2, 4), ((5,), 1, 1), ((5, 3, None), 1, None)],
)  # fmt: skip
def test_sizes(shape: Shape | None, axis: int, size: int | None) -> None:
    assert size_from(shape, axis) == size


@pytest.mark.parametrize(
    ("shape", "steps", "width", "is_map"),
    [((None, 3, 4, 5), False, 60, True), ((None, 3), False, 3, False), ((None, 3, 4), False, 12, False),
     (None, False, None, False), ((), False, None, False), ((7, None, 6), True, 6, False),
     ((7, 2, 3, 4), True, 12, True)],
)  # fmt: skip
def test_widths(shape: Shape | None, steps: bool, width: int | None, is_map: bool) -> None:
    item = Features("s", "b", shape, 0, steps)
    assert (item.width, item.is_map, item.axis) == (width, is_map, 2 if steps else 1)


def test_features_are_of_one_level_without_steps_unless_said() -> None:
    item = Features("s", "b", (None, 3))
    assert (item.level, item.steps) == (0, False)
    request = HeadRequest([item], {"fc": 2}, "j", ComposeOptions())
    assert (request.positions, request.steps) == (False, False)


def test_the_mean_of_a_map() -> None:
    item, text = global_average_pool(Features("s", "b", (None, 3, 4, 5), 2))
    assert item == Features("s", "s_flat", (None, 3), 2)
    net = read_net(parse("".join(text)))
    assert [(layer.type, layer.bottoms, layer.tops) for layer in net.layers] == [
        ("Pooling", ("b",), ("s_pooled",)),
        ("Flatten", ("s_pooled",), ("s_flat",)),
    ]
    assert "pool: AVE global_pooling: true" in text[0]
    assert global_average_pool(Features("s", "b", None))[0].shape == (None, None)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(None, 3, 4, 4), (None, 5, 4, 4)], None),
        ([(None, 3), (None, 5)], None),
        ([(None, 3, 4, 4), (None, 5, 4, 3)], ["Pooling", "Flatten"] * 2),
        ([(None, 3, 4, 4), (None, 5)], ["Pooling", "Flatten"]),
        ([(None, 3, 4, 4), None], None),
        ([(None, 3, 4, 4), None, (None, 3, 2, 2)], ["Pooling", "Flatten"] * 2),
    ],
)
def test_maps_are_averaged_where_sizes_differ(shapes: list[Shape | None], expected: list[str] | None) -> None:
    found = prepared(*shapes)
    assert [kind for _, kind, _ in layers(found)] == (expected or [])
    for n, shape in enumerate(shapes):
        averaged = expected is not None and shape is not None and len(shape) == 4
        assert forms(found)[n] == ((f"s{n}_flat", shape[:2], n) if averaged and shape else (f"s{n}/out", shape, n))
    unknown = [
        f"head: the shape of 's{n}/out' is not known; it is joined as it is"
        for n, shape in enumerate(shapes)
        if shape is None
    ]
    assert list(found.notes[: len(unknown)]) == unknown
    assert len(found.notes) == len(unknown) + len(expected or []) // 2


def test_steps_are_joined_as_they_are() -> None:
    assert prepared((5, 2, 3), (5, 2, 4), steps=True).text == ()


@pytest.mark.parametrize(
    ("shapes", "options", "says"),
    [
        ([(None, 3, 4), (None, 5)], {},
         r"different shapes cannot be joined: 's0/out' \?x3x4, 's1/out' \?x5; averaging"),
        ([(None, 3, 4, 4, 4), (None, 5)], {}, "averaging takes maps of 4 axes"),
        ([(None, 3, 4, 4), (None, 5, 2, 2)], {"positions": True},
         r"the maps differ in size: 's0/out' \?x3x4x4, 's1/out' \?x5x2x2\n  hint: bring them to one size"),
        ([(None, 3, 4, 4), (None, 5, 3, 2)], {"maps": "upsample"},
         r"maps of 3x2 \('s1/out'\) cannot be brought to 4x4"),
        ([(None, 3, 4, 4), (None, 5, 2, 4)], {"maps": "upsample"},
         r"maps of 2x4 \('s1/out'\) cannot be brought to 4x4"),
        ([(None, 3, 4, 4), (None, 5, 2, 1)], {"maps": "upsample"},
         r"maps of 2x1 \('s1/out'\) cannot be brought to 4x4"),
        ([(None, 3, 4, 4), (None, 5)], {"maps": "upsample"}, r"cannot be upsampled: 's1/out' \?x5 is no map"),
        ([(None, 3, 4, 4), None], {"maps": "upsample"}, "cannot be upsampled: the size of 's1/out' is unknown"),
        ([(None, None, 4, 4)], {"maps": "upsample"}, "cannot be upsampled: the size of 's0/out' is unknown"),
        ([(None, 3, None, 4)], {"maps": "upsample"}, "cannot be upsampled: the size of 's0/out' is unknown"),
        ([(None, 3, 4, None)], {"maps": "upsample"}, "cannot be upsampled: the size of 's0/out' is unknown"),
        ([(None, 3), (None, None)], {"equal": True}, "the widths of the features are not known"),
        ([None, None], {"equal": True}, "the widths of the features are not known"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined(shapes: list[Shape | None], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ComposeError, match=says):
        prepared(*shapes, **options)


@pytest.mark.parametrize(("factor", "kernel", "pad"), [(2, 4, 1), (3, 5, 1), (4, 8, 2), (5, 9, 2)])
def test_small_maps_are_upsampled(factor: int, kernel: int, pad: int) -> None:
    found = prepared((None, 3, 2, 1), (None, 5, 2 * factor, factor), (None, 7, 2 * factor, factor), maps="upsample")
    assert layers(found) == [("s0_upsampled", "Deconvolution", ("s0/out",))]
    assert f"num_output: 3 group: 3\n    kernel_size: {kernel} stride: {factor} pad: {pad}" in found.text[0]
    assert forms(found)[:2] == [
        ("s0_upsampled", (None, 3, 2 * factor, factor), 0),
        ("s1/out", (None, 5, 2 * factor, factor), 1),
    ]
    assert found.notes == (f"head: 's0/out' ?x3x2x1 is upsampled {factor} times",)


@pytest.mark.parametrize(
    ("shapes", "options", "width", "kinds"),
    [
        ([(None, 3), (None, 5)], {"equal": True}, 5, ["InnerProduct"] * 2),
        ([(None, 3), (None, 3)], {"equal": True}, None, []),
        ([(None, 3, 4, 4), (None, 5, 4, 4)], {"equal": True}, 5, ["Convolution"] * 2),
        ([(None, 9, 1, 1), (None, 5, 1, 1)], {"equal": True}, 9, ["InnerProduct"] * 2),
        ([(None, 3, 4, 4), (None, 3, 4, 4)], {"equal": True}, None, []),
        ([(None, 3), (None, 3)], {"equal": True, "hidden": 7}, 7, ["InnerProduct"] * 2),
        ([(None, 3), (None, 3)], {"hidden": 7}, None, []),
        ([(None, 3), (None, 5)], {"project": 4}, 4, ["InnerProduct"] * 2),
        ([(None, 3), (None, 5)], {"equal": True, "project": 4, "hidden": 7}, 4, ["InnerProduct"] * 2),
        ([(None, 3), (None, 5)], {"project": 4, "batch_norm": True}, 4, ["InnerProduct", "BatchNorm", "Scale"] * 2),
        ([(None, 3), (None, 5)], {"batch_norm": True}, None, ["BatchNorm", "Scale"] * 2),
        ([(None, 3, 4), (None, 12)], {"equal": True}, None, "refused"),
        ([(None, 3, None), (None, 3, None)], {"equal": True}, None, "refused"),
        ([None], {"project": 4}, 4, ["InnerProduct"]),
    ],
)  # fmt: skip
def test_projections(
    shapes: list[Shape | None], options: dict[str, Any], width: int | None, kinds: list[str] | str
) -> None:
    if kinds == "refused":
        with pytest.raises(ComposeError):
            prepared(*shapes, **options)
        return
    found = prepared(*shapes, **options)
    assert [kind for _, kind, _ in layers(found)] == kinds
    if width is not None:
        rest = [shape[2:] if shape is not None and shape[2:] != (1, 1) else () for shape in shapes]
        assert forms(found) == [(f"s{n}_projection", (None, width, *rest[n]), n) for n in range(len(shapes))]
        assert f"are each projected to {width}" in found.notes[-1 - bool(options.get("batch_norm"))]
        biased = "lr_mult: 2" in found.text[0] and "bias_filler" in found.text[0] and "bias_term" not in found.text[0]
        assert biased is not bool(options.get("batch_norm"))


def test_shapes_in_words() -> None:
    assert format_shape((None, 3, 0)) == "?x3x0"


@pytest.mark.parametrize(
    ("block", "keeps"),
    [
        ("kernel_size: 1", True), ("kernel_size: 3 pad: 1", True), ("kernel_size: 3", False),
        ("kernel_size: 1 pad: 1", False),
        ("kernel_size: 3 pad: 2 dilation: 2", True), ("kernel_size: 3 pad: 1 dilation: 2", False),
        ("kernel_size: 1 stride: 1", True), ("kernel_size: 1 stride: 2", False), ("kernel_size: 1 stride_h: 2", False),
        ("kernel_size: 1 stride_w: 2", False), ("kernel_h: 3 kernel_w: 3 pad_h: 1 pad_w: 1", True),
        ("kernel_h: 3 kernel_w: 1 pad_h: 1 pad_w: 1", False), ("kernel_h: 1 kernel_w: 1 pad_h: 1 pad_w: 0", False),
        ("kernel_h: 1 kernel_w: 1 pad_h: 0 pad_w: 1", False), ("kernel_size: 5 pad: 2", True),
    ],
)  # fmt: skip
def test_classifiers_that_keep_the_size_of_the_map(block: str, keeps: bool) -> None:
    layer = read_net(parse(f'layer {{ name: "c" type: "Convolution" convolution_param {{ {block} }} }}')).layers[0]
    source = SimpleNamespace(error=lambda message, hint, layer: ComposeError(message, hint=hint))
    item: Any = SimpleNamespace(classifier=layer, source=source)
    if keeps:
        _check_classifier(item)
    else:
        with pytest.raises(ComposeError, match="its classifier 'c' changes the size of the map"):
            _check_classifier(item)
    _check_classifier(SimpleNamespace(classifier=None, source=source))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outside", "inside", "expected"),
    [
        ("", "num_output: 4", "num_output: 9"),
        ("", "num_output: 4 group: 4", "num_output: 9 group: 9"),
        ("", "num_output: 4 group: 2", "num_output: 9 group: 2"),
        ("", 'num_output: 4 weight_filler { type: "bilinear" }',
         'num_output: 9 weight_filler { type: "bilinear" } group: 9'),
        ("", 'num_output: 4 weight_filler { type: "xavier" }', 'num_output: 9 weight_filler { type: "xavier" }'),
        ("param { lr_mult: 0 } ", "num_output: 4", 'num_output: 9 group: 9 weight_filler { type: "bilinear" }'),
        ("param { lr_mult: 0 } ", 'num_output: 4 weight_filler { type: "xavier" }',
         'num_output: 9 group: 9 weight_filler { type: "bilinear" }'),
        ("param { lr_mult: 0 } ", 'num_output: 4 weight_filler { type: "bilinear" }',
         'num_output: 9 weight_filler { type: "bilinear" } group: 9'),
        ("param { lr_mult: 0 } param { lr_mult: 1 } ", "num_output: 4", "num_output: 9"),
        ("param { decay_mult: 0 } ", "num_output: 4", "num_output: 9"),
    ],
)  # fmt: skip
def test_the_maps_of_an_upsampling_layer(outside: str, inside: str, expected: str) -> None:
    notes: list[str] = []
    text = 'layer {{ name: "up" type: "Deconvolution" {}convolution_param {{ {} }} }}'
    assert " ".join(_set_maps(text.format(outside, inside), 4, 9, notes).split()) == text.format(outside, expected)
    removed = outside.count("lr_mult: 0") == outside.count("lr_mult") > 0 and "bilinear" not in inside
    assert notes == (["head: 'up' interpolates, as its weights do not learn"] if removed else [])
