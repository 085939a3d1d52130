"""What a net is fed when nobody trains it: shapes, noise, pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.errors import DataError
from fusion.nets.inputs import find_images, image_preparation, input_shapes, integer_noise, noise
from prototxt.schema.load import load_net
from prototxt.schema.messages import BlobProto
from prototxt.text.parser import parse


def test_shapes_that_are_not_known_are_listed_with_the_option() -> None:
    text = (
        'layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { source: "x" batch_size: 9 } }'
    )
    net = load_net(parse(text))
    with pytest.raises(DataError, match="the shape of the input 'data' is not known") as caught:
        input_shapes(net, batch=2)
    assert "--input-shape data=2,3,?,?" in str(caught.value)
    assert input_shapes(net, batch=2, given={"data": (2, 3, 4, 5)}) == {"data": (2, 3, 4, 5), "label": (2,)}


def test_noise_depends_on_seed_and_blob_only() -> None:
    assert noise("data", (2, 3), 1).equal(noise("data", (2, 3), 1))
    assert not noise("data", (2, 3), 1).equal(noise("data", (2, 3), 2))
    assert not noise("data", (2, 3), 1).equal(noise("other", (2, 3), 1))


def test_pictures_go_through_the_data_layers_transform(tmp_path: Path) -> None:
    text = """layer { name: "d" type: "ImageData" top: "data" top: "label"
      transform_param { crop_size: 4 scale: 0.5 mean_value: 10 mean_value: 20 mean_value: 30 mirror: true }
      image_data_param { source: "x" batch_size: 9 new_height: 6 new_width: 6 } }"""
    Image.new("RGB", (6, 6), (50, 60, 70)).save(tmp_path / "a.png")
    how = image_preparation(load_net(parse(text)), "data", (1, 3, 4, 4))
    found = how.tensor([str(tmp_path / "a.png")])
    assert found.shape == (1, 3, 4, 4)
    assert found[0, :, 0, 0].tolist() == [30.0, 20.0, 10.0]  # blue first, less its mean, halved
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="this is no image that can be read"):
        how.tensor([str(tmp_path / "b.png")])
    with pytest.raises(DataError, match="takes no images"):
        image_preparation(load_net(parse(text)), "label", (9,))


def test_paths_to_pictures(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.jpg", "sub/c.JPG", "d.txt"):
        (tmp_path / name).write_bytes(b"")
    names = [Path(path).relative_to(tmp_path).as_posix() for path in find_images([tmp_path])]
    assert names == ["a.jpg", "b.png", "sub/c.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        find_images([tmp_path / "empty", tmp_path / "absent"])
    assert len(caught.value.errors) == 2


def test_noise_is_standard_normal_and_whole_noise_fits_its_type() -> None:
    values = noise("data", (100, 100), 1)
    assert abs(float(values.mean())) < 0.05
    assert float(values.std()) == pytest.approx(1, abs=0.05)
    for kind, most in ((np.uint8, 255), (np.int8, 127), (np.bool_, 1), (np.int64, 255)):
        found = integer_noise("data", (5000,), 1, np.dtype(kind))
        assert (float(found.min()), float(found.max())) == (0, most)
        assert found.equal(found.round())
        assert found.equal(integer_noise("data", (5000,), 1, np.dtype(kind)))
        assert not found.equal(integer_noise("other", (5000,), 1, np.dtype(kind)))


MEAN = np.arange(3 * 5 * 6, dtype=np.float32).reshape(3, 5, 6)


@pytest.mark.parametrize(
    ("transform", "size"),
    [("", (4, 4)), ("crop_size: 4 mean_value: 3", (4, 4)), ('crop_size: 4 mean_file: "mean.binaryproto"', (5, 6))],
)
def test_pictures_are_as_large_as_the_mean_that_is_subtracted_before_the_crop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transform: str, size: tuple[int, int]
) -> None:
    monkeypatch.chdir(tmp_path)
    blob = BlobProto(num=1, channels=3, height=5, width=6)
    blob.data.extend(MEAN.ravel().tolist())
    Path("mean.binaryproto").write_bytes(blob.SerializeToString())
    text = f'layer {{ name: "d" type: "Data" top: "data" transform_param {{ {transform} }} }}'
    how = image_preparation(load_net(parse(text)), "data", (1, 3, 4, 4))
    assert (how.size, how.color, how.from_data_layer) == (size, True, True)
    Image.new("RGB", (6, 5), (100, 100, 100)).save("a.png")
    found = how.tensor(["a.png"])
    assert found.shape == (1, 3, 4, 4)
    if "file" in transform:
        assert found[0, :, 0, 0].tolist() == (100 - MEAN[:, 0, 1]).tolist(), "the crop is central"


def test_pictures_without_a_data_layer_are_resized_and_unchanged(tmp_path: Path) -> None:
    for name, size in (("a", (8, 6)), ("b", (2, 3))):
        Image.new("L", size, 7).save(tmp_path / f"{name}.png")
    text = 'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 3 dim: 4 } } }'
    how = image_preparation(load_net(parse(text)), "data", (1, 1, 3, 4))
    assert (how.size, how.color, how.from_data_layer, how.rgb) == ((3, 4), False, False, False)
    pictures = [str(tmp_path / f"{name}.png") for name in "ab"]
    assert how.tensor(pictures).tolist() == [[[[7] * 4] * 3]] * 2
    with pytest.raises(DataError, match="the images have different sizes"):
        replace(how, size=None).tensor(pictures)
    for shape in ((1, 2, 3, 4), (1, 3, 4), (1, 4, 3, 4)):
        with pytest.raises(DataError, match="takes no images"):
            image_preparation(load_net(parse(text)), "data", shape)
