"""Branches against sources: equal after a merge, else the first layer that differs, by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.composition import Source, compose
from fusion.errors import DataError, FusionError, WeightsMismatch
from fusion.merge.merge import apply_merge, plan_merge
from fusion.nets.build import build
from fusion.nets.weights import save_weights
from fusion.verification import Feed, verify_branches, verify_nets, verify_weights
from fusion.verification.comparison import Comparison
from prototxt.errors import DecodeError
from prototxt.formats.weights import read_weights, write_weights
from prototxt.schema.load import load_net

DATA = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }
"""
BODY = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } bias_filler { value: 0.1 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
"""
END = """layer { name: "score" type: "InnerProduct" bottom: "ip" top: "score" inner_product_param { num_output: 2 } }
"""


def prefixed(text: str, prefix: str) -> str:
    for name in ("conv", "relu", "ip", "score"):
        text = text.replace(f'"{name}"', f'"{prefix}/{name}"')
    return text


def head(bottoms: str = 'bottom: "a/ip" bottom: "b/ip"') -> str:
    return f"""layer {{ name: "join" type: "Concat" {bottoms} top: "join" }}
layer {{ name: "fc" type: "InnerProduct" bottom: "join" top: "fc" inner_product_param {{ num_output: 5 }} }}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        Path(f"{name}.prototxt").write_text(DATA + BODY + END)
        save_weights(build(f"{name}.prototxt", seed=seed), f"{name}.caffemodel")
    Path("fused.prototxt").write_text(DATA + prefixed(BODY, "a") + prefixed(BODY, "b") + head())
    plan = plan_merge(load_net("fused.prototxt"), {name: f"{name}.caffemodel" for name in "ab"})
    apply_merge(plan, "fused.caffemodel")
    return tmp_path


def branches(feed: Feed = Feed()) -> list[Comparison]:  # noqa: B008 - frozen
    sources = {name: (f"{name}.prototxt", f"{name}.caffemodel") for name in "ab"}
    return verify_branches("fused.prototxt", "fused.caffemodel", sources, feed)


def test_a_merge_keeps_every_blob_bit_for_bit(folder: Path) -> None:
    found = branches()
    assert [item.name for item in found] == ["a", "b"]
    for item in found:
        assert item.first is None
        assert item.largest == 0
        assert [row.layer for row in item.differences] == [f"{item.name}/{n}" for n in ("conv", "relu", "ip")]
        assert item.skipped == ("score",)
        assert item.differences[0].shape == (2, 3, 6, 6)


def test_a_source_without_its_data_is_fed_as_its_branch_is(folder: Path) -> None:
    lost = """layer { name: "data" type: "ImageData" top: "data" top: "label"
      image_data_param { source: "lost.txt" batch_size: 4 is_color: false } }"""
    for name in "ab":
        Path(f"{name}.prototxt").write_text(lost + BODY + END)
    assert [item.largest for item in branches()] == [0, 0]
    text = Path("fused.prototxt").read_text()
    Path("fused.prototxt").write_text(lost + text[len(DATA) :])
    with pytest.raises(DataError, match=r"a\.prototxt: the shape of the input 'data' is not known"):
        branches()


def test_the_first_layer_that_differs_is_named(folder: Path) -> None:
    weights = {name: [np.array(blob) for blob in blobs] for name, blobs in read_weights("fused.caffemodel").items()}
    weights["b/ip"][0][1, 2] += 0.01
    write_weights("fused.caffemodel", weights)
    good, bad = branches()
    assert good.first is None
    assert bad.first is not None
    assert bad.first.layer == "b/ip"
    assert 1e-5 < bad.first.relative < 1
    assert bad.verdict().startswith("b: differs first in layer 'b/ip', blob 'b/ip': absolute ")


def test_a_branch_wired_to_the_other_branch_differs(folder: Path) -> None:
    text = Path("fused.prototxt").read_text()
    at = text.index('name: "b/ip"')
    Path("fused.prototxt").write_text(text[:at] + text[at:].replace('bottom: "b/conv"', 'bottom: "a/conv"', 1))
    assert [item.first.layer if item.first else None for item in branches()] == [None, "b/ip"]


def test_pictures_are_prepared_alike_for_both(folder: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save("one.png")
    found = branches(Feed(pictures=["one.png"]))
    assert found[0].differences[0].shape[0] == 1
    assert found[0].first is None
    assert "1 pictures" in found[0].what


def test_two_nets_by_layer_names_or_by_outputs(folder: Path) -> None:
    same = verify_nets(("a.prototxt", "a.caffemodel"), ("a.prototxt", "a.caffemodel"))
    assert same.first is None
    assert len(same.differences) == 3
    other = verify_nets(("a.prototxt", "a.caffemodel"), ("b.prototxt", "b.caffemodel"))
    assert other.first is not None
    assert other.first.layer == "relu"
    Path("c.prototxt").write_text((DATA + prefixed(BODY + END, "c")).replace('"data"', '"image"'))
    write_weights("c.caffemodel", {f"c/{name}": blobs for name, blobs in read_weights("a.caffemodel").items()})
    renamed = verify_nets(("a.prototxt", "a.caffemodel"), ("c.prototxt", "c.caffemodel"))
    assert [row.layer for row in renamed.differences] == ["score"]
    assert renamed.first is None


@pytest.mark.parametrize(("height", "agrees"), [(1, True), (2, False)])
def test_a_dense_layer_against_a_convolution(folder: Path, height: int, agrees: bool) -> None:
    """Maps of one position hold a dense layer's values; of more positions they are something else."""
    size = f"input_param {{ shape {{ dim: 2 dim: 3 dim: {height} dim: 1 }} }}"
    dense = f'layer {{ name: "data" type: "Input" top: "data" {size} }}\n'
    dense += 'layer { name: "s" type: "InnerProduct" bottom: "data" top: "s" inner_product_param { num_output: 2 } }\n'
    Path("dense.prototxt").write_text(dense)
    Path("maps.prototxt").write_text(dense.replace("InnerProduct", "Convolution").replace(
        "inner_product_param { num_output: 2", "convolution_param { num_output: 2 kernel_size: 1"))  # fmt: skip
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_weights("dense.caffemodel", {"s": [np.repeat(weight, height, axis=1), np.ones(2)]})
    write_weights("maps.caffemodel", {"s": [weight.reshape(2, 3, 1, 1), np.ones(2)]})
    found = verify_nets(("dense.prototxt", "dense.caffemodel"), ("maps.prototxt", "maps.caffemodel"))
    assert (found.first is None) == agrees
    if agrees:
        assert found.notes == ("compared although only one of the two has further axes of size 1 at the end: s",)
    else:
        assert found.verdict() == "nets: differs first in layer 's', blob 's': its shape is 2x2x2x1, not 2x2"


def test_weights_against_weights(folder: Path) -> None:
    (found,) = verify_weights("fused.caffemodel", {"a": "a.caffemodel"})
    assert found.first is None
    assert found.skipped == ("score",)
    (found,) = verify_weights("fused.caffemodel", {"b": "a.caffemodel"})
    assert found.first is not None
    assert found.first.layer == "b/conv"
    (found,) = verify_weights("a.caffemodel", {"": "a.caffemodel"})
    assert found.first is None
    with pytest.raises(WeightsMismatch, match=r"no layer of 'c' is in fused\.caffemodel"):
        verify_weights("fused.caffemodel", {"c": "a.caffemodel"})


def test_a_wrong_prefix_is_an_error(folder: Path) -> None:
    with pytest.raises(FusionError, match=r"'c': a.prototxt with .* have no layer in common"):
        verify_branches("fused.prototxt", "fused.caffemodel", {"c": ("a.prototxt", "a.caffemodel")})


def test_a_branch_without_weights_is_an_error(folder: Path) -> None:
    weights = dict(read_weights("fused.caffemodel"))
    del weights["a/ip"]
    write_weights("fused.caffemodel", weights)
    with pytest.raises(WeightsMismatch, match="has no weights for layer 'a/ip'"):
        branches()


def test_another_description_of_a_layer_is_an_error(folder: Path) -> None:
    text = Path("a.prototxt").read_text()
    Path("a.prototxt").write_text(text.replace("num_output: 4", "num_output: 4 bias_term: false"))
    weights = dict(read_weights("a.caffemodel"))
    write_weights("a.caffemodel", {**weights, "ip": weights["ip"][:1]})
    with pytest.raises(WeightsMismatch, match=r"layer 'a/ip' has parameters of shape \[\(4, 108\), \(4,\)\]"):
        verify_branches("fused.prototxt", "fused.caffemodel", {"a": ("a.prototxt", "a.caffemodel")})


def test_a_branch_that_reads_more_than_its_source_is_an_error(folder: Path) -> None:
    Path("fused.prototxt").write_text(
        DATA.replace('"data"', '"other"') + DATA + prefixed(BODY, "a")
        + prefixed(BODY, "b").replace('name: "b/ip" type: "InnerProduct" bottom: "b/conv"',
                                      'name: "b/ip" type: "InnerProduct" bottom: "other"')
        + head()
    )  # fmt: skip
    weights = dict(read_weights("fused.caffemodel"))
    weights["b/ip"] = [np.zeros((4, 64)), np.zeros(4)]
    write_weights("fused.caffemodel", weights)
    with pytest.raises((DataError, WeightsMismatch)):
        branches()


def test_sources_with_stages(folder: Path) -> None:
    staged = DATA.replace('top: "data"', 'top: "data" include { stage: "val" }')
    Path("a.prototxt").write_text(staged + BODY + END)
    with pytest.raises(DecodeError, match="reads 'data', which in phase TEST only layers of other stages"):
        branches()
    assert all(found.first is None for found in branches(Feed(stages=("val",))))


def test_a_branch_whose_pixels_are_made_from_another_ones(folder: Path) -> None:
    data = """layer { name: "data" type: "ImageData" top: "data" top: "label"
      transform_param { scale: %s mean_value: 3 }
      image_data_param { source: "list.txt" batch_size: 4 is_color: false } }
    """
    end = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }\n'
    for name, scale in (("a", "0.5"), ("b", "4")):
        Path(f"{name}.prototxt").write_text(data % scale + BODY + END + end)
    random = np.random.default_rng(3)
    for number in range(3):
        pixels = random.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(f"{number}.png")
    Path("list.txt").write_text("0.png 0\n1.png 1\n2.png 0\n")
    compose([Source(name, f"{name}.prototxt") for name in "ab"], num_output=2).write(".")
    Path("train_val.prototxt").rename("fused.prototxt")
    files = {name: (f"{name}.prototxt", f"{name}.caffemodel") for name in "ab"}
    apply_merge(plan_merge(load_net("fused.prototxt"), files), "fused.caffemodel")
    assert [item.largest for item in branches()] == [0, 0]
    pictures = Feed(pictures=["0.png", "1.png"])
    assert [item.largest for item in branches(pictures)] == [0, 0]


@pytest.mark.parametrize("second", ["b/data", "other"])
def test_inputs_of_one_name_and_different_shapes(tmp_path: Path, second: str) -> None:
    def net(data: str, prefix: str, dims: str) -> str:
        return (
            f'layer {{ name: "{data}" type: "Input" top: "{data}" input_param {{ shape {{ {dims} }} }} }}\n'
            f'layer {{ name: "{prefix}fc" type: "InnerProduct" bottom: "{data}" top: "{prefix}fc" '
            "inner_product_param { num_output: 6 } }\n"
        )

    small, large = "dim: 1 dim: 1 dim: 4 dim: 4", "dim: 1 dim: 3 dim: 8 dim: 8"
    (tmp_path / "a.prototxt").write_text(net("data", "", large))
    (tmp_path / "b.prototxt").write_text(net("data", "", small))
    (tmp_path / "f.prototxt").write_text(net("data", "a/", large) + net(second, "b/", small))
    rng = np.random.default_rng(0)
    a, b = ([rng.standard_normal((6, size)), rng.standard_normal(6)] for size in (192, 16))
    write_weights(tmp_path / "a.caffemodel", {"fc": a})
    write_weights(tmp_path / "b.caffemodel", {"fc": b})
    write_weights(tmp_path / "f.caffemodel", {"a/fc": a, "b/fc": b})
    sources = {one: (tmp_path / f"{one}.prototxt", tmp_path / f"{one}.caffemodel") for one in "ab"}
    found = verify_branches(tmp_path / "f.prototxt", tmp_path / "f.caffemodel", sources)
    assert [item.first for item in found] == [None, None]
    write_weights(tmp_path / "f.caffemodel", {"a/fc": a, "b/fc": [b[0] + 1, b[1]]})
    found = verify_branches(tmp_path / "f.prototxt", tmp_path / "f.caffemodel", sources)
    assert [item.first is None for item in found] == [True, False]


def test_shapes_go_by_the_fused_nets_names_and_a_source_takes_those_of_its_own_input(folder: Path) -> None:
    """Each net's own input is `data`; the fused net has that of `a` as `data` and that of `b` as `b/data`."""
    lost = """layer { name: "data" type: "ImageData" top: "data" top: "label"
      image_data_param { source: "lost.txt" batch_size: 4 CHANNELS } }
    """
    for name, channels in (("a", "new_height: 8 new_width: 8"), ("b", "is_color: false")):
        Path(f"{name}.prototxt").write_text(lost.replace("CHANNELS", channels) + BODY + END)
        shapes = {"data": (1, 3 if name == "a" else 1, 8, 8), "label": (1,)}
        save_weights(build(f"{name}.prototxt", shapes=shapes, seed=1), f"{name}.caffemodel")
    second = lost.replace('"data" type', '"b/data" type').replace('top: "data" top: "label"', 'top: "b/data"')
    second = second.replace("CHANNELS", "is_color: false")
    text = lost.replace("CHANNELS", "new_height: 8 new_width: 8") + second + prefixed(BODY, "a")
    Path("fused.prototxt").write_text(text + prefixed(BODY, "b").replace('bottom: "data"', 'bottom: "b/data"') + head())
    given = {"data": (1, 3, 8, 8), "b/data": (1, 1, 8, 8)}
    plan = plan_merge(load_net("fused.prototxt"), {name: f"{name}.caffemodel" for name in "ab"}, inputs=given)
    apply_merge(plan, "fused.caffemodel")
    assert [item.largest for item in branches(Feed(shapes=given))] == [0, 0]
    feed = Feed(shapes={"data": (1, 3, 8, 8)})
    with pytest.raises(DataError, match="the shape of the input 'data' is not known") as caught:
        verify_branches("fused.prototxt", "fused.caffemodel", {"b": ("b.prototxt", "b.caffemodel")}, feed)
    assert "give --input-shape b/data=2,1,?,? with" in str(caught.value)


def test_blobs_changed_through_shared_memory_are_compared(folder: Path) -> None:
    shared = BODY.replace('top: "conv" }\nlayer { name: "ip"', 'top: "conv" }\nSHARED layer { name: "ip"')
    extra = """layer { name: "flat" type: "Flatten" bottom: "conv" top: "flat" }
    layer { name: "twice" type: "Power" bottom: "flat" top: "flat" power_param { scale: 2 } }
    """
    owned = extra.replace('"flat"', '"a/flat"').replace('"twice"', '"a/twice"').replace('"conv"', '"a/conv"')
    Path("a.prototxt").write_text(DATA + shared.replace("SHARED", extra) + END)
    save_weights(build("a.prototxt", seed=0), "a.caffemodel")
    text = prefixed(shared, "a").replace("SHARED", owned)
    Path("fused.prototxt").write_text(DATA + text + prefixed(BODY, "b") + head())
    apply_merge(
        plan_merge(load_net("fused.prototxt"), {name: f"{name}.caffemodel" for name in "ab"}), "fused.caffemodel"
    )
    found = branches()[0]
    assert found.first is None
    assert [row.layer for row in found.differences][3:] == ["a/twice", "a/conv (shared memory)", "a/ip"]
