"""Which list each data layer reads, and which blob a branch without data layers is fed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusion.composition.branch_inputs import (
    _fits,
    _map,
    _same_blob,
    _to_pixels,
    feeds_from_main,
    image_shape,
    only_input,
    raw_pixels_blob,
)
from fusion.composition.lists import (
    DataLists,
    ListChoice,
    _is_lmdb_file,
    _lines,
    choose_lists,
    labels_in_list,
    lists_of_source,
    names_in_list,
)
from fusion.composition.net_text import read_net
from fusion.composition.preprocessing import Affine, MeanScale, Stream
from fusion.errors import ComposeError
from prototxt.text.parser import parse

BLOCKS = {"ImageData": "image_data_param", "Data": "data_param", "HDF5Data": "hdf5_data_param"}
Given = str | Mapping[str, str] | None


def data(name: str, lists: str, *, kind: str = "ImageData", phase: str = "", top: str = "", more: str = "") -> str:
    own = f'{BLOCKS[kind]} {{ source: "{lists}" {more} }}' if kind in BLOCKS else ""
    include = f"include {{ phase: {phase} }}" if phase else ""
    return f'layer {{ name: "{name}" type: "{kind}" top: "{top or name}" top: "label" {include} {own} }}\n'


class Fake(SimpleNamespace):
    """A prepared source of these data layers."""

    def __str__(self) -> str:
        return f"'{self.prefix}'"

    def error(self, message: str, hint: str = "", layer: Any = None) -> ComposeError:
        return ComposeError(message, hint=hint)


def source(
    prefix: str, text: str = "", *, train: Given = None, val: Given = None, inputs: tuple[str, ...] = ("d",),
    shape: tuple[int, ...] | None = None, pixels: str | None = None,
) -> Any:  # fmt: skip
    layers = read_net(parse(text)).layers if text else ()
    spec = SimpleNamespace(train_list=train, val_list=val, pixels=pixels, prototxt=f"{prefix}.prototxt")
    tops = tuple(dict.fromkeys(top for layer in layers for top in layer.tops))
    return Fake(prefix=prefix, data_layers=list(layers), spec=spec, input_shape=shape, data_blobs=tops,
                branch=SimpleNamespace(inputs=inputs))  # fmt: skip


def chosen(sources: list[Any], data_from: str | None = None, lists: DataLists | None = None) -> dict[str, str | None]:
    choice = choose_lists(sources, sources[0], data_from, lists or DataLists())
    return {f"{item.prefix}/{layer.name} {phase}": choice.path(item, layer, phase)
            for item in sources for layer in item.data_layers for phase in layer.phases}  # fmt: skip


BOTH = data("d", "a.t", phase="TRAIN") + data("d", "a.v", phase="TEST")
TWO = data("d", "one") + data("e", "two")


@pytest.mark.parametrize(
    ("sources", "data_from", "lists", "found"),
    [
        ([source("a", BOTH)], None, None, {"a/d TRAIN": "a.t", "a/d TEST": "a.v"}),
        ([source("a", BOTH)], None, DataLists("t", "v"), {"a/d TRAIN": "t", "a/d TEST": "v"}),
        ([source("a", BOTH)], None, DataLists("t"), {"a/d TRAIN": "t", "a/d TEST": "a.v"}),
        ([source("a", BOTH, train="x")], None, DataLists("t", "v"), {"a/d TRAIN": "x", "a/d TEST": "v"}),
        ([source("a", TWO, inputs=("d", "e"), train={"e": "x"})], None, DataLists("t"),
         {"a/d TRAIN": "t", "a/d TEST": "one", "a/e TRAIN": "x", "a/e TEST": "two"}),
        ([source("a", BOTH), source("b", data("d", "b"))], "a", None,
         {"a/d TRAIN": "a.t", "a/d TEST": "a.v", "b/d TRAIN": "a.t", "b/d TEST": "a.v"}),
        ([source("a", BOTH, train="x"), source("b", data("d", "b"))], "a", None,
         {"a/d TRAIN": "x", "a/d TEST": "a.v", "b/d TRAIN": "x", "b/d TEST": "a.v"}),
        ([source("a", BOTH), source("b", data("d", "b"))], None, None,
         {"a/d TRAIN": "a.t", "a/d TEST": "a.v", "b/d TRAIN": "b", "b/d TEST": "b"}),
        ([source("a", TWO, inputs=("d", "e")), source("b", data("e", "b"), inputs=("e",))], "a", None,
         {"a/d TRAIN": "one", "a/d TEST": "one", "a/e TRAIN": "two", "a/e TEST": "two", "b/e TRAIN": "two",
          "b/e TEST": "two"}),
        ([source("a", data("d", "same") + data("e", "same"), inputs=("d", "e"))], None, DataLists("t", "v"),
         {"a/d TRAIN": "t", "a/d TEST": "v", "a/e TRAIN": "t", "a/e TEST": "v"}),
        ([source("a", BOTH), source("b", data("u", "unread") + data("d", "b"))], None, DataLists("t", "v"),
         {"a/d TRAIN": "t", "a/d TEST": "v", "b/u TRAIN": "unread", "b/u TEST": "unread", "b/d TRAIN": "t",
          "b/d TEST": "v"}),
    ],
)  # fmt: skip
def test_the_list_of_each_layer(
    sources: list[Any], data_from: str | None, lists: DataLists | None, found: dict[str, str]
) -> None:
    if len(sources) > 1 and any(layer.name == "u" for layer in sources[1].data_layers):
        sources[1].data_layers[0] = read_net(parse(data("u", "unread").replace('top: "label"', ""))).layers[0]
    assert chosen(sources, data_from, lists) == found


@pytest.mark.parametrize(
    ("sources", "data_from", "lists", "says"),
    [
        ([source("a", TWO, inputs=("d", "e"))], None, DataLists("t"),
         r"'a' has several data layers in phase TRAIN \('d' one, 'e' two\), and t may be for any of them\n"
         r"  hint: name the layer, or one of its tops: --train-list a/d=FILE --train-list a/e=FILE"),
        ([source("a", BOTH, train={"q": "x"})], None, None,
         r"'a' has no data layer 'q' in phase TRAIN\n  hint: its data layers with a list are a/d \(d, label\)"),
        ([source("a", TWO, inputs=("d", "e"), val={"label": "x"})], None, None,
         "'a' has several data layers 'label' in phase TEST"),
        ([source("a", data("d", "", kind="DummyData"))], None, DataLists("t"),
         "'a' takes no list in phase TRAIN: its data layer is of type DummyData\n  hint: give the data"),
        ([source("a", BOTH), source("b", data("d", "b", kind="HDF5Data"))], "a", None,
         r"'b' cannot read the list of 'a' in phase TRAIN: its data is 'HDF5Data', that of 'a' is 'ImageData'\n"
         r"  hint: name a list: --train-list b/d=FILE"),
        ([source("a", TWO, inputs=("d", "e")), source("b", data("x", "b"), inputs=("x",))], "a", None,
         "'b' cannot read the list of 'a' in phase TRAIN: its data is one of several lists there"),
        ([source("a", data("d", "", kind="DummyData")), source("b", data("d", "b"))], "a", None,
         "its data is 'ImageData', that of 'a' is missing"),
        ([source("a", data("d", "a", kind="Data"))], None, DataLists("t.TXT"),
         r"layer 'd' of 'a' reads a database, and t.TXT is a list\n  hint: make a database of it \(fusion-convert "
         r"images t.TXT FOLDER/ t_lmdb --lmdb\) and give that, or give the source an ImageData layer for phase TRAIN"),
        ([source("a", data("d", "a", kind="Data"))], None, DataLists(None, "x.lst"), "x.lst is a list"),
        ([source("a", data("d", "a", kind="HDF5Data"))], None, DataLists("empty"),
         "of type 'HDF5Data' reads a list, and empty is a folder\n  hint: give a list of lines: --train-list a/d=FILE"),
        ([source("a", BOTH)], None, DataLists("hdf5.txt"), "reads 'path label' per line, and hdf5.txt begins 'one.h5"),
        ([source("a", data("d", "a", kind="HDF5Data"))], None, DataLists("images.txt"),
         "of type 'HDF5Data' reads one HDF5 file per line, and images.txt begins 'a.png 0"),
        ([source("a", data("d", "a", kind="Data"))], None, DataLists("images.txt"), "images.txt is a list"),
        ([source("a", data("d", "a", kind="Data"))], None, DataLists("photos"),
         "photos is a folder of images\n  hint: make a database of it \\(fusion-convert images photos '' photos_lmdb"),
        ([source("a", data("d", "", kind="DummyData", phase="TRAIN") + data("d", "a", phase="TEST"))], None,
         DataLists("t"), "'a' takes no list in phase TRAIN: its data layer is of type DummyData\n"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_given(
    sources: list[Any], data_from: str | None, lists: DataLists | None, says: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("photos/cat").mkdir(parents=True)
    Path("photos/cat/a.png").write_bytes(b"")
    Path("hdf5.txt").write_text("\none.h5\n")
    Path("images.txt").write_text("a.png 0\nb.png 1\n")
    with pytest.raises(ComposeError, match=says):
        chosen(sources, data_from, lists)


def test_databases_of_any_name_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"x" * 63 + b"\0")
    Path("late").write_bytes(b"x" * 64 + b"\0")
    assert [_is_lmdb_file(Path(name)) for name in ("file", "late")] == [True, False]
    for name in ("file", "missing", "missing_lmdb"):
        assert set(chosen([source("a", data("d", "a", kind="Data"))], None, DataLists(name, name)).values()) == {name}


def test_a_source_is_chosen_lists_in_the_phases_of_its_layers() -> None:
    assert not DataLists().split
    train = source("a", data("d", "a.t", phase="TRAIN"))
    assert chosen([train], None, DataLists("t", "v")) == {"a/d TRAIN": "t"}
    choice = choose_lists([train], train, None, DataLists("t", "v", 3, 4))
    assert choice.for_layer(train, train.data_layers[0]) == DataLists("t", None, 3, 4)


def test_what_lists_hold(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a b.png 1\n\n  \nc.png -2\n")
    assert labels_in_list(str(path)) == ["1", "-2"]
    assert names_in_list("ImageData", str(path)) == {"a b.png", "c.png"}
    assert names_in_list("HDF5Data", str(path)) == {"a b.png 1", "c.png -2"}
    assert names_in_list("Data", str(path)) == set()
    assert _lines(str(path)) == ["a b.png 1\n", "c.png -2\n"]
    assert (_lines(str(tmp_path)), labels_in_list(str(tmp_path / "none"))) == ([], [])


@pytest.mark.parametrize(
    ("text", "train", "val", "found"),
    [("", "t", "v", DataLists("t", "v")), ("", None, None, None), (BOTH, "t", "v", None), ("", "t", None, "both"),
     ("", None, "v", "both"), ("", {"d": "t"}, "v", "both"), ("", "t", {"d": "v"}, "both")],
)  # fmt: skip
def test_lists_of_a_source_without_data_layers(
    text: str, train: Given, val: Given, found: DataLists | str | None
) -> None:
    item = source("a", text, train=train, val=val)
    if found == "both":
        with pytest.raises(
            ComposeError, match="'a' has no data layer, so it takes one list per phase\n  hint: give both"
        ):
            lists_of_source(item)
    else:
        assert lists_of_source(item) == found


def test_only_training_on_a_folder_of_images_shuffles(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"")
    for kind, path, phase, needs in [
        ("ImageData", str(tmp_path), "TRAIN", True), ("ImageData", str(tmp_path), "TEST", False),
        ("Data", str(tmp_path), "TRAIN", False), ("ImageData", str(tmp_path / "list.txt"), "TRAIN", False),
    ]:  # fmt: skip
        item = source("a", data("d", path, kind=kind))
        assert ListChoice(DataLists()).needs_shuffle(item, item.data_layers[0], phase) is needs


@pytest.mark.parametrize(
    ("inputs", "main", "found"),
    [
        (("d",), BOTH, {"d": "d"}),
        (("x",), BOTH, {"x": "d"}),
        (("d", "e"), TWO, {"d": "d", "e": "e"}),
        (("x",), TWO, r"'b' reads x, but the data layers of 'a' give d, e\n  hint: give the blobs the same names"),
        (("d", "x"), TWO, "'b' reads d, x, but the data layers of 'a' give d, e"),
        (("x", "y"), BOTH, "'b' reads x, y, but the data layers of 'a' give d"),
        (("x",), data("label", "l"), "give nothing but labels"),
    ],
)
def test_a_source_without_data_is_fed_that_of_the_main_one(inputs: tuple[str, ...], main: str, found: Any) -> None:
    layout: Any = SimpleNamespace(main=source("a", main), labels=["label"], note=lambda text: None)
    if isinstance(found, str):
        with pytest.raises(ComposeError, match=found):
            feeds_from_main(source("b", inputs=inputs), inputs, layout)
    else:
        assert feeds_from_main(source("b", inputs=inputs), inputs, layout) == found


@pytest.mark.parametrize(
    ("shape", "more", "given"),
    [
        ((1, 3, 8, 9), "new_height: 8 new_width: 9", None),
        ((1, 3, 8, 9), "", None),
        (None, "new_height: 8 new_width: 8", None),
        ((1, 64), "is_color: false", None),
        (
            (1, 192),
            "new_height: 8 new_width: 8",
            "'b' takes 192 numbers per record, .* gives colour images of 3 channels",
        ),
        ((1, 3, 8, 9), "new_height: 8 new_width: 8", "images of 3x8x9, but the data of 'a' has 3x8x8"),
        ((1, 3, 8, 9), "new_height: 9 new_width: 9", "images of 3x8x9, but the data of 'a' has 3x9x9"),
        ((1, 1, 8, 9), "", r"images of 1x8x9, but the data of 'a' has 3x\?x\?"),
    ],
)
def test_images_have_the_size_that_a_source_takes(shape: tuple[int, ...] | None, more: str, given: str | None) -> None:
    notes: list[str] = []
    layout: Any = SimpleNamespace(main=source("a", data("d", "l", more=more)), labels=["label"], note=notes.append)
    item = source("b", shape=shape)
    if given is not None:
        with pytest.raises(ComposeError, match=given):
            feeds_from_main(item, ("d",), layout)
        item.data_layers = layout.main.data_layers  # one with data layers says itself what it takes
    assert feeds_from_main(item, ("d",), layout) == {"d": "d"}
    fed = "'b' has no data layer and is fed the data of 'a', mean and scale included; if it was trained on other values"
    assert notes == ([] if given else [f"{fed}, say so: --pixels b=unit"])


def test_what_fits() -> None:
    sizes = [(3, 8, 9), (None, 8, 9), (3, None, None), (3, 9, 9), (1, None, 9)]
    assert [_fits((3, 8, 9), given) for given in sizes] == [True, True, True, False, False]
    assert (image_shape(source("a", shape=(1, 3, 8, 9))), image_shape(source("a", shape=(1,)))) == ((3, 8, 9), None)
    assert image_shape(source("a", shape=(1, 64))) == (1, None, None), "a row of a grey image's values"
    assert only_input(source("a", inputs=("x",))) == "x"
    with pytest.raises(ComposeError, match="'a' has several inputs and no data layer"):
        only_input(source("a", inputs=("x", "y")))


def test_pixels_need_one_blob_of_images() -> None:
    for text, given in ((TWO, "d, e"), (data("label", "l"), "none")):
        layout: Any = SimpleNamespace(main=source("a", text), labels=["label"])
        with pytest.raises(ComposeError, match=f"'b' takes images, and the data layers of 'a' give {given}\n"):
            raw_pixels_blob(source("b"), "x", layout)


def stream(mean: float = 0.0, scale: float = 1.0, records: str = "r", known: bool = True) -> Stream:
    return Stream((records,), 0, (), MeanScale((mean,), scale) if known else None)


def test_maps_hold_in_both_phases() -> None:
    half, one = Affine((0.5,), (0.0,)), Affine((1.0,), (0.0,))
    plain, halved, other = stream(), stream(scale=0.5), stream(records="o")
    both = {"TRAIN": plain, "TEST": plain}
    assert _map(both, {"TRAIN": halved, "TEST": halved}) == half
    assert _map(both, {"TRAIN": halved}) == half
    assert _map(both, {"TRAIN": halved, "TEST": plain}) is None
    assert _map({"TRAIN": plain}, {"TRAIN": plain}) is None
    assert _map(both, {"TRAIN": other}) is None
    assert _to_pixels({"TRAIN": halved, "TEST": halved}) == Affine((2.0,), (0.0,))
    assert _to_pixels({"TRAIN": halved, "TEST": plain}) is None
    assert _to_pixels({"TRAIN": stream(known=False), "TEST": stream(known=False)}) is None
    assert _to_pixels(both) == one
    layout: Any = SimpleNamespace(streams={"h": {"TRAIN": halved, "TEST": halved}, "d": both, "e": both})
    assert [_same_blob({"TRAIN": item}, layout) for item in (plain, halved, other)] == ["d", "h", None]
