"""The texts of a fused net's data layers: other lists, names and orders, and everything else as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusion.composition.data_layers import (
    DataLayerChange,
    DataLayout,
    data_layer_texts,
    image_data_layers,
    map_blob,
    silence_layer,
)
from fusion.composition.lists import DataLists, ListChoice
from fusion.composition.net_text import read_net
from fusion.composition.preprocessing import Affine, describe_stream
from fusion.errors import ComposeError
from prototxt.text.parser import parse

LISTS = DataLists("t", "v", 8, 2)
KINDS = {"ImageData": "image_data_param", "Data": "data_param", "HDF5Data": "hdf5_data_param"}


def texts(change: DataLayerChange, inner: str = "", block: str = 'source: "l"', kind: str = "ImageData") -> list[str]:
    """The changed layer, without line breaks and what its text begins and ends with."""
    own = f"{KINDS[kind]} {{ {block} }}" if kind in KINDS else block
    net = read_net(parse(f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {inner} {own} }}'))
    return [" ".join(text.split()) for text in data_layer_texts(net, net.layers[0], change)]


TRAIN, TEST = " include { phase: TRAIN }", " include { phase: TEST }"
Change = DataLayerChange


@pytest.mark.parametrize(
    ("change", "phase", "block", "blocks"),
    [
        (Change(), "", "", [("", "")]),
        (Change(lists=LISTS), "", "", [('source: "t" batch_size: 8', TRAIN), ('source: "v" batch_size: 2', TEST)]),
        (Change(lists=LISTS), TRAIN, 'source: "l" batch_size: 3 root_folder: "r/"',
         [('source: "t" batch_size: 8 root_folder: "r/"', "")]),
        (Change(lists=LISTS), TEST, "", [('source: "v" batch_size: 2', "")]),
        (Change(lists=DataLists(".")), TRAIN, 'source: "l" root_folder: "r/"', [('source: "."', "")]),
        (Change(lists=DataLists(None, None, 5, 5)), "", "", [('source: "l" batch_size: 5', "")]),
        (Change(lists=DataLists("t", "t")), "", "", [('source: "t"', "")]),
        (Change(lists=DataLists("t", "t", split=True)), "", "", [('source: "t"', TRAIN), ('source: "t"', TEST)]),
        (Change(shuffle=True), "", "", [('source: "l" shuffle: true', TRAIN), ('source: "l"', TEST)]),
        (Change(shuffle=True), TEST, "", [('source: "l"', "")]),
        (Change(follows=True), "", 'source: "l" shuffle: true rand_skip: 4',
         [('source: "l" shuffle: false rand_skip: 0', "")]),
        (Change(shuffle=True, follows=True), TRAIN, "", [('source: "l"', "")]),
        (Change(raw=True, shape=(1, 3, 5, 7)), "", "", [('source: "l" new_height: 5 new_width: 7 is_color: true', "")]),
        (Change(raw=True, shape=(1, 2, 5, 7)), "", "", [('source: "l" new_height: 5 new_width: 7 is_color: true', "")]),
        (Change(raw=True, shape=(1, 1, 5, 7)), "", "",
         [('source: "l" new_height: 5 new_width: 7 is_color: false', "")]),
        (Change(raw=True, shape=(1, 3, 5)), "", "", [("", "")]),
        (Change(raw=True), "", "", [("", "")]),
    ],
)  # fmt: skip
def test_records(change: Change, phase: str, block: str, blocks: list[tuple[str, str]]) -> None:
    words = 'layer {{ name: "d" type: "ImageData" top: "data" top: "label"{} image_data_param {{ {} }}{} }}'
    expected = [words.format(phase, own or 'source: "l"', added) for own, added in blocks]
    assert texts(change, phase, block or 'source: "l"') == expected


@pytest.mark.parametrize(
    ("change", "inner", "head"),
    [
        (Change(follows=True), "transform_param { mirror: true scale: 2 }",
         'top: "data" top: "label" transform_param { mirror: false scale: 2 }'),
        (Change(), "transform_param { mirror: true }", 'top: "data" top: "label" transform_param { mirror: true }'),
        (Change(raw=True, follows=True), "transform_param { mirror: true } transform_param { scale: 2 }",
         'top: "data" top: "label"'),
        (Change(), 'in_step_with: "o"', 'top: "data" top: "label" in_step_with: "o"'),
        (Change(follows=True), 'in_step_with: "o"', 'top: "data" top: "label"'),
        (Change(follows=True, step={"TRAIN": "s"}), 'in_step_with: "o"', 'top: "data" top: "label" in_step_with: "s"'),
        (Change(step={"TEST": "s"}), TEST, f'top: "data" top: "label" in_step_with: "s"{TEST}'),
        (Change(step={"TEST": "s"}), TRAIN, f'top: "data" top: "label"{TRAIN}'),
        (Change(blobs={"data": "a/data"}), "", 'top: "a/data" top: "label"'),
        (Change(dropped=["label"]), "", 'top: "data"'),
        (Change(dropped=["data"], blobs={"data": "x", "label": "y"}), "", 'top: "y"'),
        (Change(added=["more"]), TEST, f'top: "data" top: "label" top: "more"{TEST}'),
    ],
)  # fmt: skip
def test_tops_and_order(change: Change, inner: str, head: str) -> None:
    assert texts(change, inner) == [
        f'layer {{ name: "d" type: "ImageData" {head} image_data_param {{ source: "l" }} }}'
    ]


def test_names_and_other_types() -> None:
    assert texts(Change(name="n"))[0].startswith('layer { name: "n" type')
    plain = 'layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "l" } }'
    assert texts(Change(raw=True, shape=(1, 3, 5, 7)), kind="Data") == [plain]
    assert len(texts(Change(), kind="DummyData", block="")) == 1
    for change in (Change(lists=LISTS), Change(lists=DataLists(None, None, 5, 5)), Change(follows=True)):
        with pytest.raises(ComposeError, match="'d' of type 'DummyData' takes no list and no batch size"):
            texts(change, TRAIN, "", "DummyData")
    bare = read_net(parse('layer { name: "d" type: "ImageData" top: "data" include { phase: TRAIN } }'))
    with pytest.raises(ComposeError, match="'d' of type 'ImageData' takes no list and no batch size"):
        data_layer_texts(bare, bare.layers[0], Change(lists=LISTS))


@pytest.mark.parametrize(
    ("lists", "top", "size", "step", "blocks"),
    [
        (LISTS, "data", None, {}, [("", "t", "8"), ("", "v", "2")]),
        (DataLists(".", "."), "a/x", (3, 5, 7), {},
         [("", ".", "50 new_height: 5 new_width: 7 shuffle: true"), ("", ".", "50 new_height: 5 new_width: 7")]),
        (DataLists(".", "v"), "a/x", (1, 5, 7), {"TRAIN": "s"},
         [('in_step_with: "s" ', ".", "50 new_height: 5 new_width: 7 is_color: false"),
          ("", "v", "50 new_height: 5 new_width: 7 is_color: false")]),
    ],
)  # fmt: skip
def test_image_layers_over_lists(
    lists: DataLists, top: str, size: tuple[int, ...] | None, step: dict[str, str], blocks: list[tuple[str, str, str]]
) -> None:
    found = [" ".join(text.split()) for text in image_data_layers(lists, top, size, step)]
    label = "label" if top == "data" else f"{top}_label"
    assert found[:2] == [
        f'layer {{ name: "{top}" type: "ImageData" top: "{top}" top: "{label}" {follows}include {{ phase: {phase} }} '
        f'image_data_param {{ source: "{source}" batch_size: {rest} }} }}'
        for phase, (follows, source, rest) in zip(("TRAIN", "TEST"), blocks, strict=True)
    ]
    silent = f'# The same labels again. layer {{ name: "{label}s" type: "Silence" bottom: "{label}" }}'
    assert found[2:] == ([] if top == "data" else [silent])
    assert silence_layer("s", []) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("variance_norm: 1", "variance_norm: FAN_OUT", True),
        ("variance_norm: 1", "variance_norm: AVERAGE", False),
        ("variance_norm: 0", "", True),
        ("value: 1.0", "value: 1", True),
        ("value: 2", "", False),
        ('type: "constant"', "", True),
        ('type: "1"', 'type: "1.0"', False),
        ("std: 2 value: 3", "value: 3 std: 2", True),
    ],
)
def test_settings_are_compared_by_value(one: str, other: str, same: bool) -> None:
    found = []
    for inner in (one, other):
        filler = f"dummy_data_param {{ data_filler {{ {inner} }} shape {{ dim: 2 }} }}"
        net = read_net(parse(f'layer {{ name: "d" type: "DummyData" top: "data" {filler} }}'))
        found.append(describe_stream(net.layers[0], "data", None))
    assert (found[0] == found[1]) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("force_color: 1", "force_color: true", True),
        ("force_color: t", "force_color: True", True),
        ("force_color: false", "", True),
        ("force_color: true", "", False),
        ("mirror: true", "", False),
        ("crop_size: 16", "crop_size: 17", False),
        ("scale: 1.0", "", True),
    ],
)
def test_transforms_are_compared_by_value(one: str, other: str, same: bool) -> None:
    found = []
    for inner in (one, other):
        body = f'transform_param {{ {inner} }} data_param {{ source: "l" }}'
        net = read_net(parse(f'layer {{ name: "d" type: "Data" top: "data" {body} }}'))
        found.append(describe_stream(net.layers[0], "data", None))
    assert (found[0] == found[1]) is same


def image_layer(name: str, lists: str, inner: str = "", more: str = "") -> str:
    block = f'image_data_param {{ source: "{lists}" {more} }}'
    return f'layer {{ name: "{name}" type: "ImageData" top: "{name}" top: "label" {inner} {block} }}\n'


def source(text: str, *inputs: str, prefix: str = "a") -> Any:
    net = read_net(parse(text))
    return SimpleNamespace(prefix=prefix, data_layers=net.layers, branch=SimpleNamespace(inputs=inputs), net=net)


def layout(text: str, *inputs: str, lists: DataLists | None = None) -> DataLayout:
    return DataLayout(source(text, *inputs), ["label"], ListChoice(lists or DataLists()))


MIRROR, CROP = "transform_param { mirror: true }", "transform_param { crop_size: 3 }"


@pytest.mark.parametrize(
    ("text", "other", "unseen", "followed"),
    [
        (image_layer("x", "l"), image_layer("z", "m"), "", {}),
        (image_layer("x", "l", MIRROR), image_layer("z", "m"), "", {"TRAIN": "x", "TEST": "x"}),
        (image_layer("x", "l", CROP), image_layer("z", "m"), "", {"TRAIN": "x"}),
        (image_layer("x", "l"), image_layer("z", "m", CROP), "", {"TRAIN": "x"}),
        (image_layer("x", "l"), image_layer("z", "m", CROP + TEST), "", {}),
        (image_layer("x", "l"), image_layer("z", "m"), "TEST", {"TEST": "x"}),
        (image_layer("x", "l", MIRROR + TRAIN), image_layer("z", "m"), "", {"TRAIN": "x"}),
        (image_layer("y", "k", MIRROR) + image_layer("x", "l", MIRROR), image_layer("z", "m"), "",
         {"TRAIN": "x", "TEST": "x"}),
        (image_layer("y", "k", MIRROR) + image_layer("x", "l", MIRROR), image_layer("z", "k"), "",
         {"TRAIN": "y", "TEST": "y"}),
        (image_layer("y", "k", MIRROR) + image_layer("x", "l", MIRROR + ' in_step_with: "y"'), image_layer("z", "m"),
         "", {"TRAIN": "y", "TEST": "y"}),
        (image_layer("x", "photos"), image_layer("z", "m"), "", {"TRAIN": "x"}),
    ],
)  # fmt: skip
def test_which_layer_is_followed(
    text: str, other: str, unseen: str, followed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos/cat").mkdir(parents=True)
    Path("photos/cat/a.png").touch()
    found, further = layout(text, "x"), source(other, prefix="b")
    found.unseen = {("b", unseen)}
    assert found.step(further, further.data_layers[0]) == followed


def test_images_over_lists_follow_the_layer_of_the_first_input() -> None:
    text = image_layer("y", "k", MIRROR) + image_layer("x", "l", MIRROR + TEST)
    assert layout(text, "x").step() == {"TEST": "x"}
    assert layout(image_layer("x", "l"), "x").step() == {}


def test_layers_beside_a_shuffled_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos/cat").mkdir(parents=True)
    Path("photos/cat/a.png").touch()
    for folder, text in ((True, image_layer("x", "photos")), (False, image_layer("x", "l"))):
        found = layout(text + image_layer("y", "photos") + image_layer("z", "photos", TEST), "x")
        assert list(map(found.follows_shuffled, found.main.data_layers)) == [False, folder, False]


def test_the_batch_size_of_a_phase() -> None:
    text = image_layer("x", "l", TRAIN) + image_layer("y", "l", more="batch_size: 7")
    text = image_layer("w", "l", TEST, "batch_size: 9") + text
    assert [layout(text, "x").batch(phase) for phase in ("TRAIN", "TEST")] == [7, 9]
    asked = layout(text, "x", lists=DataLists(train_batch=3, test_batch=4))
    assert [asked.batch(phase) for phase in ("TRAIN", "TEST")] == [3, 4]
    assert layout(image_layer("x", "l"), "x").batch("TRAIN") is None


def test_a_mapped_blob_has_a_name_of_its_own() -> None:
    found = layout(image_layer("x", "l"), "x")
    other = source('layer { name: "b/q_prepared" type: "ReLU" bottom: "q" top: "b/q_prepared_" }', "q", prefix="b")
    assert map_blob(other, "q", "x", Affine((1.0,), (0.0,)), found, "") == "x"
    assert found.origins == {}
    for blob in ("q", "b/q"):
        assert map_blob(other, blob, "x", Affine((2.0,), (1.0,)), found, "") == "b/q_prepared__"
    assert found.origins == {"b/q_prepared__": "x"}
    assert [" ".join(text.split()) for text in found.front["b"]][:1] == [
        'layer { name: "b/q_prepared__" type: "Power" bottom: "x" top: "b/q_prepared__" '
        "power_param { scale: 2 shift: 1 } }"
    ]
