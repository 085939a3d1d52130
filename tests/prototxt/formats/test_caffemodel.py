"""Binary caffemodels: every version that Caffe wrote is read, and what is written is what Caffe would write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prototxt.errors import WeightsError
from prototxt.formats.caffemodel import CaffemodelWriter, check_size, scan_caffemodel
from prototxt.formats.index import resolve_shape, shape_fits
from prototxt.formats.weights import read_weights, write_weights
from prototxt.schema.messages import NetParameter

SMALL = ("net", "net_double", "net_legacy_dims")


@pytest.fixture
def small(golden: Path) -> Path:
    return golden / "formats" / "small"


@pytest.mark.parametrize("name", SMALL)
def test_values_are_those_that_caffe_had_in_memory(small: Path, name: str) -> None:
    expected = np.load(small / "io.npz")
    weights = read_weights(small / f"{name}.caffemodel")
    keys = [key.split(":") for key in expected.files if key.startswith("param:")]
    assert {layer for _, layer, _ in keys} == set(weights)
    for _, layer, index in keys:
        want = expected[f"param:{layer}:{index}"]
        blob = weights[layer][int(index)]
        assert blob.dtype == np.float32
        assert shape_fits(blob.shape, want.shape)
        np.testing.assert_array_equal(blob.reshape(want.shape), want)


@pytest.mark.parametrize("name", ["v0net", "v1net", "v1shape"])
def test_old_versions_hold_the_same_layers_as_their_upgraded_form(reference: Path, name: str) -> None:
    folder = reference / "caffe" / "upgrade"
    old, new = (
        scan_caffemodel(folder / f"{name}.old.caffemodel"),
        scan_caffemodel(folder / f"{name}.upgraded.caffemodel"),
    )
    types = {entry.name: (entry.type, entry.tops) for entry in new.entries}
    for entry in old.entries:
        if entry.type != "Padding":
            assert types[entry.name] == (entry.type, entry.tops)
    expected = np.load(folder / f"{name}.npz")
    weights = read_weights(folder / f"{name}.old.caffemodel")
    for key in expected.files:
        if key.startswith("param:"):
            _, layer, index = key.split(":")
            np.testing.assert_array_equal(weights[layer][int(index)].ravel(), expected[key].ravel())


def test_published_nets_list_their_layers(reference: Path) -> None:
    found = scan_caffemodel(reference / "weights" / "mtcnn_det1.caffemodel").with_blobs()
    assert found["PReLU1"].blobs[0].shape == (10,)
    assert found["conv4-2"].type == "Convolution"


def test_written_bytes_are_protobufs_own(small: Path, tmp_path: Path) -> None:
    write_weights(tmp_path / "copy.caffemodel", read_weights(small / "net.caffemodel"))
    data = (tmp_path / "copy.caffemodel").read_bytes()
    message = NetParameter.FromString(data)
    assert message.SerializeToString(deterministic=True) == data
    original = {layer.name: layer for layer in NetParameter.FromString((small / "net.caffemodel").read_bytes()).layer}
    for layer in message.layer:
        assert layer.type == original[layer.name].type
        assert list(layer.blobs) == list(original[layer.name].blobs)


def test_arrays_and_stretches_write_the_same_bytes(small: Path, tmp_path: Path) -> None:
    weights = read_weights(small / "net.caffemodel")
    with CaffemodelWriter(tmp_path / "arrays.caffemodel") as writer:
        for name in weights:
            entry = weights.entry(name)
            writer.add_layer(name, entry.type, entry.bottoms, entry.tops, weights[name])
    write_weights(tmp_path / "stretches.caffemodel", weights)
    assert (tmp_path / "arrays.caffemodel").read_bytes() == (tmp_path / "stretches.caffemodel").read_bytes()


def test_a_large_blob_is_copied_through_the_kernel(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((700, 500)).astype(np.float32)
    write_weights(tmp_path / "a.caffemodel", {"fc": [values, values[0]]})
    write_weights(tmp_path / "b.caffemodel", read_weights(tmp_path / "a.caffemodel"))
    assert (tmp_path / "a.caffemodel").read_bytes() == (tmp_path / "b.caffemodel").read_bytes()
    np.testing.assert_array_equal(read_weights(tmp_path / "b.caffemodel")["fc"][0], values)


def test_old_dims_become_modern_where_the_type_tells_and_stay_old_where_not(small: Path, tmp_path: Path) -> None:
    old = read_weights(small / "net_legacy_dims.caffemodel")
    write_weights(tmp_path / "modern.caffemodel", old)
    modern = scan_caffemodel(tmp_path / "modern.caffemodel").with_blobs()
    assert [blob.shape for blob in modern["h0"].blobs] == [(12, 36), (12,)]
    assert [blob.shape for blob in modern["c1"].blobs] == [(4, 3, 3, 3), (4,)]
    typeless = NetParameter.FromString((small / "net_legacy_dims.caffemodel").read_bytes())
    for layer in typeless.layer:
        layer.ClearField("type")
    (tmp_path / "typeless.caffemodel").write_bytes(typeless.SerializeToString())
    write_weights(tmp_path / "again.caffemodel", read_weights(tmp_path / "typeless.caffemodel"))
    blob = scan_caffemodel(tmp_path / "again.caffemodel").with_blobs()["h0"].blobs[1]
    assert blob.legacy
    assert blob.shape == (1, 1, 1, 12)


def test_unpacked_and_split_values_are_read(tmp_path: Path) -> None:
    floats = np.arange(6, dtype="<f4")
    unpacked = b"".join(b"\x2d" + value.tobytes() for value in floats[:4]) + b"\x2a\x08" + floats[4:].tobytes()
    blob = b"\x3a\x04\x0a\x02\x02\x03" + unpacked
    layer = b"\x0a\x01a" + b"\x3a" + bytes([len(blob)]) + blob
    (tmp_path / "u.caffemodel").write_bytes(b"\xa2\x06" + bytes([len(layer)]) + layer)
    np.testing.assert_array_equal(read_weights(tmp_path / "u.caffemodel")["a"][0], floats.reshape(2, 3))


def test_unknown_fields_of_forks_are_skipped(small: Path, tmp_path: Path) -> None:
    extra = b"\xfa\x7f\x03abc" + b"\x88\x7f\x05" + b"\xf5\x7f\x00\x00\x00\x00" + b"\xf9\x7f" + b"\0" * 8
    data = (small / "net.caffemodel").read_bytes() + extra
    (tmp_path / "fork.caffemodel").write_bytes(data)
    assert len(scan_caffemodel(tmp_path / "fork.caffemodel").entries) == 10


def test_arrays_are_read_only_whether_mapped_or_copied(small: Path) -> None:
    weights = read_weights(small / "net.caffemodel")
    offsets = {blob.offset % 4 for name in weights for blob in weights.entry(name).blobs}
    assert len(offsets) > 1, "the file must have aligned and unaligned blobs"
    for name in weights:
        for blob in weights[name]:
            assert blob.flags.aligned
            assert not blob.flags.writeable


def test_two_gibibytes_are_the_limit() -> None:
    check_size("a.caffemodel", 2**31 - 1)
    with pytest.raises(WeightsError, match=r"2 GiB, protobuf's limit, and this one would have 2.00 GiB\n  hint: .*h5"):
        check_size("a.caffemodel", 2**31)


def test_a_net_gives_order_and_types_and_must_know_every_layer(tmp_path: Path) -> None:
    net = NetParameter(name="n")
    net.layer.add(name="relu", type="ReLU", bottom=["x"], top=["x"])
    net.layer.add(name="fc", type="InnerProduct", bottom=["x"], top=["y"])
    write_weights(tmp_path / "n.caffemodel", {"fc": [np.ones((1, 2))]}, net=net)
    found = scan_caffemodel(tmp_path / "n.caffemodel")
    assert (found.name, [entry.type for entry in found.entries]) == ("n", ["ReLU", "InnerProduct"])
    with pytest.raises(WeightsError, match="the net 'n' has no layer 'other'"):
        write_weights(tmp_path / "n.caffemodel", {"other": [np.ones(1)]}, net=net)


@pytest.mark.parametrize(
    ("have", "want", "legacy", "fits"),
    [
        ((1, 1, 1, 4), (4,), True, True),
        ((1, 1, 1, 4), (4,), False, False),
        ((1, 1, 3, 4), (3, 4), True, True),
        ((1, 3, 1, 4), (3, 4), True, False),
        ((1, 1, 1, 1), (), True, True),
        ((2, 3), (2, None), True, True),
        ((4,), (1, 4), True, False),
    ],
)
def test_shapes_fit_as_caffe_compares_them(
    have: tuple[int, ...], want: tuple[int | None, ...], legacy: bool, fits: bool
) -> None:
    assert shape_fits(have, want, legacy=legacy) is fits
    if fits:
        assert resolve_shape(have, want) == have[len(have) - len(want) :] if want else resolve_shape(have, want) == ()
