"""What a data layer reads and how it prepares it, in a form that can be compared; and the maps between two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusion.composition.net_text import LayerText, read_net
from fusion.composition.preprocessing import (
    Affine,
    MeanScale,
    Stream,
    affine_between,
    crops_at_random,
    describe_stream,
    list_and_batch,
    mirrors,
    parameters,
    stated_size,
    stream_affine,
    uses_random_numbers,
)
from prototxt.text.parser import parse


def layer(settings: str = "", image: str = "", kind: str = "ImageData", name: str = "d") -> LayerText:
    block = {"ImageData": "image_data_param", "Data": "data_param", "HDF5Data": "hdf5_data_param",
             "WindowData": "window_data_param"}.get(kind)  # fmt: skip
    own = f'{block} {{ source: "list.txt" batch_size: 4 {image} }}' if block else image
    text = f'layer {{ name: "{name}" type: "{kind}" top: "data" top: "label" {settings} {own} }}'
    return read_net(parse(text)).layers[0]


@pytest.mark.parametrize(
    ("given", "target", "found"),
    [
        (MeanScale(), MeanScale(), Affine((1.0,), (0.0,))),
        (MeanScale((4.0,), 0.5), MeanScale((4.0,), 2.0), Affine((4.0,), (0.0,))),
        (MeanScale((4.0,), 0.5), MeanScale((1.0,), 2.0), Affine((4.0,), (6.0,))),
        (MeanScale((1.0, 2.0)), MeanScale((0.0,), 2.0), Affine((2.0, 2.0), (2.0, 4.0))),
        (MeanScale((1.0, 2.0)), MeanScale((0.0, 1.0)), Affine((1.0,), (1.0,))),
        (MeanScale("m", 0.5), MeanScale("m", 1.0), Affine((2.0,), (0.0,))),
        (MeanScale("m"), MeanScale("n"), None),
        (MeanScale("m"), MeanScale(), None),
        (MeanScale(), MeanScale("m"), None),
        (MeanScale((1.0,), 0.0), MeanScale(), None),
        (MeanScale(), MeanScale((1.0,), 0.0), Affine((0.0,), (0.0,))),
        (MeanScale((1.0, 2.0)), MeanScale((1.0, 2.0, 3.0)), None),
    ],
)
def test_the_map_between_two_means_and_scales(given: MeanScale, target: MeanScale, found: Affine | None) -> None:
    assert affine_between(given, target) == found
    known = Stream(("r",), 0, (), given), Stream(("r",), 0, (), target)
    assert stream_affine(*known) == found
    for other in (Stream(("s",), 0, (), target), Stream(("r",), 1, (), target), Stream(("r",), 0, ("p",), target)):
        assert stream_affine(known[0], other) is None
    assert stream_affine(known[0], Stream(("r",), 0, (), None)) is None
    same = Stream(("r",), 0, ("p",), None)
    assert stream_affine(same, same) == Affine((1.0,), (0.0,))


def test_what_changes_nothing() -> None:
    assert Affine((1.0, 1.0), (0.0, 0.0)).identity
    assert not Affine((1.0, 2.0), (0.0, 0.0)).identity
    assert not Affine((1.0,), (0.0, 1.0)).identity


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ("", MeanScale()),
        ("transform_param { scale: 2 }", MeanScale((0.0,), 2.0)),
        ("transform_param { mean_value: 1 mean_value: 2 }", MeanScale((1.0, 2.0))),
        ("transform_param { mean_value: 0 mean_value: 0 }", MeanScale()),
        ('transform_param { mean_file: "m" scale: 0 }', MeanScale("m", 0.0)),
        ("transform_param { scale: 2 } transform_param { mean_value: 3 }", MeanScale((3.0,), 2.0)),
        ("transform_param { force_color: true crop_size: 3 mirror: true }", MeanScale()),
        ("transform_param { resize: 3 }", None),
    ],
)
def test_the_values_of_a_layer(settings: str, values: MeanScale | None) -> None:
    assert describe_stream(layer(settings), "data", "list.txt").values == values


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (layer(), layer(image="shuffle: true rand_skip: 3"), True),
        (layer(), layer(image="new_height: 0"), True),
        (layer(), layer(image="new_height: 8"), False),
        (layer(image="is_color: false"), layer(image="is_color: 0"), True),
        (layer(image="is_color: true"), layer(), True),
        (layer("transform_param { mirror: false }"), layer("transform_param { }"), True),
        (layer("transform_param { mirror: true }"), layer(), False),
        (layer("transform_param { scale: 2 }"), layer(), True),
        (layer("transform_param { crop_size: 0x8 }"), layer("transform_param { crop_size: 0x8 }"), True),
        (layer("include { phase: TRAIN }"), layer("include { phase: TEST }"), True),
        (layer("loss_weight: 1"), layer(), False),
        (layer(name="e"), layer(), True),
    ],
)
def test_which_records_are_prepared_alike(one: LayerText, other: LayerText, same: bool) -> None:
    found = [describe_stream(item, "data", "list.txt").prepared for item in (one, other)]
    assert (found[0] == found[1]) is same


def test_the_records_of_each_type(tmp_path: Path) -> None:
    assert describe_stream(layer(), "data", "a") == Stream(("ImageData", "a", None, None), 0, (), MeanScale())
    assert describe_stream(layer(), "label", "a") == Stream(("ImageData", "a", None, None), 1)
    rooted = layer(image='root_folder: "r/"')
    assert describe_stream(rooted, "label", "a").records == ("ImageData", "a", None, "r/")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").touch()
    folder = ("ImageData", f"{tmp_path}/", None, None)
    assert [describe_stream(rooted, "label", f"{tmp_path}{end}").records for end in ("", "/")] == [folder] * 2
    backends = [layer(image=f"backend: {text}", kind="Data") for text in ("LMDB", "1", "LEVELDB", "0")]
    assert [describe_stream(item, "label", "a").records[2] for item in backends] == ["LMDB", "LMDB", None, None]
    assert describe_stream(layer(kind="HDF5Data"), "label", "a") == Stream(("HDF5Data", "a", None, None), "label")
    assert describe_stream(layer(kind="WindowData"), "data", "a").values is None
    python = layer(kind="Python", image='python_param { module: "m" layer: "l" }')
    assert describe_stream(python, "label", None) == Stream(
        ("Python", ("python_param", (("layer", "l"), ("module", "m")))), 1
    )
    assert parameters(layer("transform_param { scale: 2 }", name="a")) == parameters(
        layer("transform_param { scale: 2.0 mirror: false }", name="b")
    )
    assert parameters(layer("transform_param { scale: 2 }")) != parameters(layer())


def test_lists_and_batches() -> None:
    assert list_and_batch(layer()) == ("list.txt", 4)
    assert list_and_batch(layer(kind="Python")) == (None, None)
    assert list_and_batch(
        read_net(parse('layer { type: "Data" top: "d" data_param { backend: LMDB } }')).layers[0]
    ) == (
        None,
        None,
    )


@pytest.mark.parametrize(
    ("settings", "image", "random", "crops", "flips"),
    [
        ("", "", "", "", False),
        ("", "shuffle: true", "TRAIN TEST", "", False),
        ("", "shuffle: false", "", "", False),
        ("", "rand_skip: 3", "TRAIN TEST", "", False),
        ("", "rand_skip: 0", "", "", False),
        ("transform_param { mirror: true }", "", "TRAIN TEST", "", True),
        ("transform_param { crop_size: 3 }", "", "TRAIN", "TRAIN", False),
        ("transform_param { crop_size: 0 }", "", "", "", False),
    ],
)
def test_what_is_random(settings: str, image: str, random: str, crops: str, flips: bool) -> None:
    one = layer(settings, image)
    assert " ".join(phase for phase in ("TRAIN", "TEST") if uses_random_numbers(one, phase)) == random
    assert " ".join(phase for phase in ("TRAIN", "TEST") if crops_at_random(one, phase)) == crops
    assert mirrors(one) is flips


@pytest.mark.parametrize(
    ("settings", "image", "kind", "size"),
    [
        ("", "", "ImageData", (3, None, None)),
        ("", "is_color: false", "ImageData", (1, None, None)),
        ("", "is_color: 0", "ImageData", (1, None, None)),
        ("", "new_height: 8 new_width: 9", "ImageData", (3, 8, 9)),
        ("transform_param { crop_size: 5 }", "new_height: 8 new_width: 9", "ImageData", (3, 5, 5)),
        ("transform_param { crop_size: 0 }", "", "Data", (None, None, None)),
        ("transform_param { crop_size: 7 }", "", "Data", (None, 7, 7)),
    ],
)
def test_the_size_that_is_stated(settings: str, image: str, kind: str, size: Any) -> None:
    assert stated_size(layer(settings, image, kind)) == size
