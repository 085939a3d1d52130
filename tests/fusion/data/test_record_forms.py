"""ImageData layers for Data layers and the reverse: the same blobs, or an error where that is not certain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.data import open_source
from fusion.data.convert_imageset import write_images
from fusion.data.image_options import ImageOptions
from fusion.data.lmdb_leveldb import write_database
from fusion.data.record_forms import GivenShape, as_database_layer, as_image_layer, reading_layer, record_shapes
from fusion.data.replaced_list import with_list
from fusion.errors import DataError, TrainingError
from prototxt.formats.datum import Datum, write_datum, write_mean
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.text.parser import parse

TRANSFORM = "transform_param { crop_size: 5 mean_value: 100 scale: 0.5 }"


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for index in range(3):
            pixels = rng.integers(0, 255, (9 + index, 14, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(f"photos/{name}/{index}.png")


def layer(kind: str, fields: str, transform: str = TRANSFORM) -> LayerParameter:
    block = {"Data": "data_param", "ImageData": "image_data_param"}[kind]
    head = f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {transform}'
    return load_net(parse(f"{head} {block} {{ batch_size: 6 {fields} }} }}")).layer[0]


def blobs(one: LayerParameter) -> tuple[np.ndarray, list[float]]:
    batch = open_source(one, "TEST").batch(np.arange(6))
    return batch["data"].numpy(), batch["label"].tolist()


@pytest.mark.parametrize("options", [{}, {"gray": True}, {"encoded": True, "encode_type": "png"}])
@pytest.mark.parametrize("lmdb", [True, False])
def test_images_give_the_blobs_of_their_database(options: dict[str, object], lmdb: bool) -> None:
    pytest.importorskip("lmdb" if lmdb else "plyvel")
    write_images("photos", "", "db", ImageOptions(size=(8, 7), **options), lmdb=lmdb)  # type: ignore[arg-type]
    database = layer("Data", f'source: "db" backend: {"LMDB" if lmdb else "LEVELDB"} rand_skip: 2')
    images, note = as_image_layer(database)
    param = images.image_data_param
    assert (param.new_height, param.new_width, param.is_color) == (8, 7, "gray" not in options)
    assert (param.batch_size, param.rand_skip, images.type, images.HasField("data_param")) == (6, 2, "ImageData", False)
    colours = "gray" if options.get("gray") else "blue first"
    assert note == f"images instead of a database: resized to 8x7 without keeping the aspect, {colours}"
    param.source = "photos"
    assert record_shapes("db", lmdb=lmdb) == [(1 if "gray" in options else 3, 8, 7)] * 6
    np.testing.assert_array_equal(blobs(images)[0], blobs(database)[0])
    assert blobs(images)[1] == blobs(database)[1]
    # and back again
    again, note = as_database_layer(images, "db")
    assert again == layer("Data", f'source: "db" backend: {"LMDB" if lmdb else "LEVELDB"} rand_skip: 2')
    assert note == "a database instead of images, whose records have the same size and colours"


def test_records_of_several_sizes_are_not_resized() -> None:
    write_images("photos", "", "db", ImageOptions())
    images, note = as_image_layer(layer("Data", 'source: "db" backend: LMDB'))
    assert not images.image_data_param.HasField("new_height")
    assert "in their own sizes" in note
    images.image_data_param.source = "photos"
    np.testing.assert_array_equal(blobs(images)[0], blobs(layer("Data", 'source: "db" backend: LMDB'))[0])


def test_size_and_colours_where_the_database_is_not_here() -> None:
    def found(transform: str, **given: tuple[int, ...]) -> tuple[int, int, bool]:
        param = as_image_layer(layer("Data", 'source: "gone" backend: LMDB', transform), GivenShape(**given))[
            0
        ].image_data_param
        return param.new_height, param.new_width, param.is_color

    write_mean("mean.binaryproto", np.zeros((1, 8, 9)))
    mean = 'transform_param { mean_file: "mean.binaryproto" crop_size: 5 }'
    assert found(mean) == (8, 9, False)
    assert found(mean, resize=(20, 30)) == (20, 30, False)
    assert found("", input_shape=(3, 6, 7)) == (6, 7, True)
    assert found("transform_param { force_gray: true }", resize=(4, 5)) == (4, 5, False)
    assert found("transform_param { mean_value: 1 mean_value: 2 mean_value: 3 }", resize=(4, 5)) == (4, 5, True)
    # A crop does not fix the size before it, and one mean may be of gray or of colour.
    with pytest.raises(
        DataError, match=r"size of its images is not known[\s\S]*before the crop of 5x5, such as --resize"
    ):
        found(TRANSFORM, input_shape=(3, 5, 5))
    with pytest.raises(DataError, match=r"the channels of its images are not known[\s\S]*--input-shape C,H,W"):
        found(TRANSFORM, resize=(8, 8))
    beside = layer("Data", 'source: "db" backend: LMDB', TRANSFORM)
    write_images("photos", "", "db", ImageOptions(size=(8, 7)))
    changed, _ = as_image_layer(layer("Data", 'source: "gone" backend: LMDB'), beside=[beside])
    assert (changed.image_data_param.source, changed.image_data_param.new_height) == ("gone", 8)


def test_forced_colours_become_the_images_own() -> None:
    write_images("photos", "", "db", ImageOptions(size=(8, 7), encoded=True, encode_type="png"))
    database = layer("Data", 'source: "db" backend: LMDB', "transform_param { force_gray: true }")
    images, _ = as_image_layer(database)
    assert not images.image_data_param.is_color
    assert not images.HasField("transform_param")
    images.image_data_param.source = "photos"
    # The records were resized in colour.
    np.testing.assert_allclose(blobs(images)[0], blobs(database)[0], atol=1)
    write_images("photos", "", "raw", ImageOptions(size=(8, 7)))  # whose records are not decoded
    raw = layer("Data", 'source: "raw" backend: LMDB', "transform_param { force_gray: true }")
    assert as_image_layer(raw)[0].image_data_param.is_color


@pytest.mark.parametrize(
    ("fields", "makes"),
    [("new_height: 8 new_width: 8", "3x8x8"), ("is_color: false", "1x?x?"), ("new_height: 7 new_width: 8", "3x7x8")],
)
def test_databases_that_do_not_fit(fields: str, makes: str) -> None:
    write_images("photos", "", "db", ImageOptions(size=(8, 7)))
    with pytest.raises(DataError) as caught:
        as_database_layer(layer("ImageData", fields), "db")
    assert f"holds images of 3x8x7, and layer 'd' makes them {makes}" in str(caught.value)
    assert as_database_layer(layer("ImageData", "shuffle: true"), "db")[1].endswith("without shuffling")


@pytest.mark.parametrize(
    ("data", "transform", "given", "gray"),
    [
        ("", "force_color: true", None, False),
        ("", "force_gray: true", None, True),
        ("force_encoded_color: true", "force_gray: true", None, False),
        ("", "force_gray: true", (3, 9, 9), True),
        ("", 'mean_file: "mean.binaryproto"', (3, 9, 9), True),
        ("", 'mean_file: "absent"', (3, 9, 9), False),
        ("", "mean_value: 1", (1, 9, 9), True),
        ("", "mean_value: 1 mean_value: 2 mean_value: 3", (1, 9, 9), False),
    ],
)
def test_what_says_the_colours_without_the_database(
    data: str, transform: str, given: tuple[int, int, int] | None, gray: bool
) -> None:
    """Settings before the mean, before the net's input."""
    write_mean("mean.binaryproto", np.zeros((1, 8, 9)))
    one = layer("Data", f'source: "gone" backend: LMDB {data}', f"transform_param {{ {transform} }}")
    images, note = as_image_layer(one, GivenShape((7, 6), given))
    assert images.image_data_param.is_color is not gray
    assert note.endswith("resized to 7x6 without keeping the aspect, " + ("gray" if gray else "blue first"))
    kept = {field.name for field, _ in images.transform_param.ListFields()}
    assert kept == {word for word in ("mean_file", "mean_value") if word in transform}


def test_images_of_two_channels_are_none() -> None:
    one = layer("Data", 'source: "gone" backend: LMDB', "transform_param { mean_value: 1 mean_value: 2 }")
    with pytest.raises(DataError, match="its images have 2 channels"):
        as_image_layer(one, GivenShape((7, 6)))


@pytest.mark.parametrize(
    ("kind", "fields", "path", "becomes"),
    [
        ("Data", 'source: "db" backend: LMDB', "db2", "Data"),
        ("Data", 'source: "db" backend: LMDB', "photos", "ImageData"),
        ("ImageData", 'source: "photos" new_height: 8 new_width: 7', "db2", "Data"),
        ("ImageData", 'source: "photos" root_folder: "x/"', "photos", "ImageData"),
        ("ImageData", 'source: "photos" root_folder: "x/"', "list.txt", "ImageData"),
    ],
)
def test_a_layer_becomes_the_one_that_reads_its_new_list(kind: str, fields: str, path: str, becomes: str) -> None:
    for name in ("db", "db2"):
        write_images("photos", "", name, ImageOptions(size=(8, 7)))
    Path("list.txt").write_text("a.png 0\n")
    found = with_list(NetParameter(layer=[layer(kind, fields)]), path).layer[0]
    assert found.type == becomes
    block = found.data_param if becomes == "Data" else found.image_data_param
    assert (block.source, block.batch_size) == (path, 6)
    assert found.image_data_param.root_folder == ("x/" if path == "list.txt" else "")


def test_forms(tmp_path: Path) -> None:
    write_images("photos", "", "db", ImageOptions(size=(8, 7)))
    Path("list.txt").write_text("a.png 0\n")
    assert [reading_layer(path) for path in ("photos", "list.txt", "db", "db/data.mdb", "absent")] == [
        *("ImageData", "ImageData", "Data", "Data", None)
    ]


def test_records_that_are_no_images_and_colours_that_differ() -> None:
    floats = Datum(1, 2, 3, float_data=np.zeros(6, np.float32))
    pairs, gray, colour = (Datum(count, 2, 3, data=bytes(6 * count)) for count in (2, 1, 3))
    for name, datums in (("floats", [floats]), ("pairs", [pairs]), ("mixed", [gray, colour])):
        write_database(name, [(b"%d" % n, write_datum(one)) for n, one in enumerate(datums)], lmdb=True)
    for name, message in (
        ("floats", "floats:0: the record is no image: values of 1x2x3"),
        ("pairs", "pairs:0: the record is no image: channels of 2x2x3"),
        ("mixed", "its images have 1 and 3 channels"),
    ):
        with pytest.raises(DataError, match=message):
            as_image_layer(layer("Data", f'source: "{name}" backend: LMDB'))
    with pytest.raises(DataError, match=r"size of its images is not known[\s\S]*the size of its records, such"):
        as_image_layer(layer("Data", 'source: "gone" backend: LMDB', "transform_param { force_gray: true }"))
    one_mean = layer("Data", 'source: "gone" backend: LMDB', "transform_param { mean_value: 1 }")
    assert as_image_layer(one_mean, GivenShape((7, 6), (3, 9, 9)))[0].image_data_param.is_color, "one for all channels"


def test_nets_of_several_lists_get_one_each() -> None:
    def net(*sources: str) -> NetParameter:
        made = NetParameter(name="n", layer=[layer("ImageData", f'source: "{source}"') for source in sources])
        for number, one in enumerate(made.layer):
            one.top[0] = f"data{number}"
        made.layer.add(name="ip", type="InnerProduct", bottom=["data0"], top=["ip"])
        made.layer.add(name="s", type="Silence", bottom=["ip"])
        return made

    for name in ("a", "b", "c", "d"):
        Path(f"{name}.txt").write_text("a.png 0\n")

    def sources(sought: NetParameter) -> list[str]:
        return [one.image_data_param.source for one in sought.layer[:2]]

    assert sources(with_list(net("a.txt", "b.txt"), "data0=c.txt,data1=d.txt")) == ["c.txt", "d.txt"]
    assert sources(with_list(net("a.txt", "a.txt"), "c.txt")) == ["c.txt", "c.txt"]
    for path in ("c.txt", "data0=c.txt", "data0=c.txt,data9=d.txt", "data0=c.txt,data1="):
        with pytest.raises(
            TrainingError, match=r"reads 'data0' from a\.txt, 'data1' from b\.txt, and .* cannot replace all"
        ):
            with_list(net("a.txt", "b.txt"), path)
    with pytest.raises(TrainingError, match="net 'n' reads no list"):
        with_list(net(), "c.txt")
