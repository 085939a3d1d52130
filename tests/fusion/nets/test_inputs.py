"""What a net is fed when nobody trains it: shapes, noise, pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fusion.errors import DataError
from fusion.nets.inputs import find_images, image_preparation, input_shapes, noise
from prototxt.schema.load import load_net
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
