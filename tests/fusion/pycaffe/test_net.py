"""`caffe.Net`: blobs as memory, partial passes, gradients, names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pycaffe_nets import DATA, SMALL, TRAINED

import fusion
import fusion.pycaffe as caffe

Write = Callable[..., str]


@pytest.fixture
def net(prototxt_file: Write) -> caffe.Net:
    caffe.set_random_seed(1)
    net = caffe.Net(prototxt_file(SMALL), caffe.TEST)
    net.blobs["data"].data[...] = np.random.default_rng(0).standard_normal((2, 2, 3, 3))
    return net


def reference(net: caffe.Net) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """All blobs by torch's own program of the net, and its input."""
    data = torch.from_numpy(net.blobs["data"].data.copy()).requires_grad_()
    return fusion.blobs(net.module, {"data": data}), data


def test_names_are_in_caffe_s_order(net: caffe.Net) -> None:
    assert list(net.blobs) == net._blob_names == ["data", "conv", "left", "right", "skip", "sum", "prob"]
    assert net._layer_names == ["data", "conv", "elu", "left", "right", "skip", "sum", "prob"]
    assert list(net.params) == ["conv", "left", "right", "skip"]
    assert [layer.type for layer in net.layers][:3] == ["Input", "Convolution", "ELU"]
    assert net.layer_dict["elu"] is net.layers[2]
    assert net.bottom_names["sum"] == ["left", "right", "skip"]
    assert (net.top_names["elu"], net.bottom_names["data"]) == (["conv"], [])
    assert (net.inputs, net.outputs) == (["data"], ["prob"])
    assert [blob.shape for blob in net.params["conv"]] == [(3, 2, 2, 2), (3,)]
    assert net.blobs["conv"].shape == (2, 3, 2, 2)


def test_forward_fills_every_blob_in_its_own_memory(net: caffe.Net, memory: str) -> None:
    held = {name: blob.data for name, blob in net.blobs.items()}
    out = net.forward(blobs=["left"])
    expected, _ = reference(net)
    assert set(out) == {"prob", "left"}
    for name, blob in net.blobs.items():
        np.testing.assert_allclose(blob.data, expected[name].detach(), rtol=1e-6, atol=1e-7)
        assert memory == "two copies" or np.shares_memory(held[name], blob.data)
    np.testing.assert_array_equal(out["prob"], net.blobs["prob"].data)


def test_layers_read_what_a_script_has_written(net: caffe.Net, memory: str) -> None:
    net.forward(end="elu")
    assert net.blobs["prob"].data.sum() == 0
    net.blobs["conv"].data[0] = 2
    net.params["left"][0].data[...] = 1
    net.params["left"][1].data[1] = 5
    out = net.forward(start="left", end="left")
    assert list(out) == ["left"]
    assert out["left"][0].tolist() == [24, 29, 24, 24]
    assert net.blobs["right"].data.sum() == 0


def test_backward_gives_the_gradients_of_all_blobs_and_adds_those_of_parameters(net: caffe.Net, memory: str) -> None:
    weights = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    net.forward()
    out = net.backward(prob=weights, diffs=["conv", "sum"])
    expected, data = reference(net)
    parameters = [tensor for tensors in fusion.params(net.module).values() for tensor in tensors]
    inner = [data, expected["conv"], expected["sum"]]
    found = torch.autograd.grad((expected["prob"] * torch.from_numpy(weights)).sum(), [*inner, *parameters])
    assert set(out) == {"data", "conv", "sum"}
    np.testing.assert_allclose(out["data"], found[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out["sum"], found[2], rtol=1e-4, atol=1e-6)
    blobs = [blob for blobs in net.params.values() for blob in blobs]
    for blob, gradient in zip(blobs, found[3:], strict=True):
        np.testing.assert_allclose(blob.diff, gradient, rtol=1e-4, atol=1e-6)
    once, below = [blob.diff.copy() for blob in blobs], out["data"].copy()
    net.backward()  # again, by the same diffs of the output
    for blob, before in zip(blobs, once, strict=True):
        np.testing.assert_allclose(blob.diff, 2 * before, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.blobs["data"].diff, below, rtol=1e-5, atol=1e-7)
    net.clear_param_diffs()
    assert not any(blob.diff.any() for blob in blobs)


def test_an_in_place_layer_passes_the_gradient_of_its_own_bottom(net: caffe.Net) -> None:
    net.forward()
    net.blobs["conv"].diff[...] = 1
    net.forward(end="conv")
    before = net.blobs["conv"].data.copy()
    net.backward(start="elu", end="elu")
    np.testing.assert_allclose(
        net.blobs["conv"].diff, np.where(before > 0, 1, np.exp(np.minimum(before, 0))), rtol=1e-5
    )


def test_a_changed_bottom_is_remembered_where_caffe_computes_gradients(prototxt_file: Write) -> None:
    text = f"""{DATA}
layer {{ name: "own" type: "Power" bottom: "data" top: "x" }}
layer {{ name: "prelu" type: "PReLU" bottom: "x" top: "x" prelu_param {{ channel_shared: true }} }}
"""
    net = caffe.Net(prototxt_file("force_backward: true " + text), caffe.TEST)
    net.params["prelu"][0].data[...] = -3
    net.forward(data=np.full((2, 2, 3, 3), -1.0))
    net.backward(x=np.ones((2, 2, 3, 3)))
    assert (net.blobs["x"].data == 3).all()
    assert float(net.params["prelu"][0].diff) == -36
    assert (net.blobs["data"].diff == -3).all()
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "x" bottom: "data" top: "loss" }'
    net = caffe.Net(prototxt_file(text + loss), caffe.TEST)
    net.params["prelu"][0].data[...] = -3
    net.forward(data=np.full((2, 2, 3, 3), -1.0))
    net.backward()
    assert float(net.params["prelu"][0].diff) == -72  # 36 values, 4 too large, over 2 images, times their -1
    net = caffe.Net(prototxt_file(text), caffe.TEST)
    net.forward()
    with pytest.raises(RuntimeError, match=r"'prelu'.*\n.*force_backward: true"):
        net.backward()


def test_backward_between_layers_reads_written_diffs_without_a_forward_pass(net: caffe.Net, memory: str) -> None:
    net.blobs["left"].diff[...] = [[1, 0, 0, 0], [0, 2, 0, 0]]
    out = net.backward(start="left", end="left")
    weights = net.params["left"][0].data
    assert list(out) == ["conv"]
    np.testing.assert_array_equal(out["conv"].reshape(2, -1), [weights[0], 2 * weights[1]])
    assert not net.blobs["right"].diff.any()
    np.testing.assert_array_equal(net.params["left"][1].diff, [1, 2, 0, 0])


def test_losses_start_backward_with_their_weight_and_dropout_repeats_its_mask(prototxt_file: Write) -> None:
    net = caffe.Net(prototxt_file(TRAINED), caffe.TRAIN)
    assert net.blob_loss_weights == {"data": 0, "label": 0, "low": 0, "high": 0, "loss": 2}
    assert net.outputs == ["loss"]
    assert float(net.blobs["loss"].diff) == 2
    net.forward()
    net.backward()
    scores = np.exp(net.blobs["high"].data)
    scores /= scores.sum(1, keepdims=True)
    expected = 2 * (scores - [0, 1, 0]) / 4
    np.testing.assert_allclose(net.blobs["high"].diff, expected, rtol=1e-4, atol=1e-6)
    dropped = net.blobs["low"].data == 0
    assert 0 < dropped.sum() < dropped.size
    back = np.where(dropped, 0, 2 * net.blobs["high"].diff @ net.params["high"][0].data)
    np.testing.assert_allclose(net.blobs["low"].diff, back, rtol=1e-4, atol=1e-6)
    assert not net.blobs["data"].diff.any()  # as in Caffe without force_backward


def test_caffe_computes_no_gradient_that_training_does_not_need(prototxt_file: Write) -> None:
    frozen = TRAINED.replace(
        'bottom: "data" top: "low"', 'bottom: "data" top: "low" param { lr_mult: 0 } param { lr_mult: 0 }'
    )
    net = caffe.Net(prototxt_file(frozen), caffe.TRAIN)
    net.forward()
    net.backward()
    assert net.blobs["high"].diff.any()
    assert net.params["high"][0].diff.any()
    assert not net.blobs["low"].diff.any()
    assert not net.params["low"][0].diff.any()
    net = caffe.Net(prototxt_file("force_backward: true " + frozen), caffe.TRAIN)
    net.forward()
    net.backward()
    assert net.params["low"][0].diff.any()
    assert net.blobs["data"].diff.any()
    blocked = TRAINED.replace('top: "high"', 'top: "high" propagate_down: false')
    net = caffe.Net(prototxt_file(blocked), caffe.TRAIN)
    net.forward()
    net.backward()
    assert net.params["high"][0].diff.any()
    assert not net.params["low"][0].diff.any()


def test_a_branch_outside_the_loss_is_left_out_of_backward(prototxt_file: Write) -> None:
    side = 'layer { name: "side" type: "InnerProduct" bottom: "low" top: "side" inner_product_param { num_output: 2 } }'
    net = caffe.Net(prototxt_file(TRAINED + side), caffe.TRAIN)
    net.forward()
    net.blobs["side"].diff[...] = 1
    net.backward()
    assert not net.params["side"][1].diff.any()
    assert net.params["low"][1].diff.any()


@pytest.mark.parametrize(("fillers", "values"), [("", (0, 0)), ('data_filler { type: "constant" value: 3 }', (3, 3))])
def test_one_filler_or_none_is_for_all_tops(fillers: str, values: tuple[int, int], prototxt_file: Write) -> None:
    text = f"""layer {{ name: "d" type: "DummyData" top: "x" top: "y"
      dummy_data_param {{ shape {{ dim: 1 dim: 2 }} {fillers} }} }}"""
    net = caffe.Net(prototxt_file(text), caffe.TEST)
    assert [net.blobs[name].data.tolist() for name in "xy"] == [[[value] * 2] for value in values]
    net.blobs["y"].data[...] = 5
    net.forward()
    assert net.blobs["y"].data.tolist() == [[5, 5]]


def test_outputs_are_sorted_and_have_losses_that_are_read(prototxt_file: Write) -> None:
    text = TRAINED + 'layer { name: "twice" type: "Power" bottom: "loss" top: "twice" power_param { scale: 2 } }'
    net = caffe.Net(prototxt_file(text), caffe.TEST)
    assert net.outputs == ["accuracy", "loss", "twice"]
    out = net.forward()
    assert float(out["twice"]) == pytest.approx(2 * float(out["loss"]))


def test_data_layers_read_in_each_pass_but_leave_constants_to_scripts(prototxt_file: Write) -> None:
    net = caffe.Net(prototxt_file(TRAINED), caffe.TEST)
    assert net.blobs["label"].data.tolist() == [1, 1, 1, 1]
    net.blobs["label"].data[...] = 2
    net.forward()
    first = net.blobs["data"].data.copy()
    net.forward()
    assert (first != net.blobs["data"].data).all()
    assert net.blobs["label"].data.tolist() == [2, 2, 2, 2]


def test_layers_that_read_in_step_are_filled_together(
    prototxt_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    with h5py.File("rows.h5", "w") as file:
        file["x"], file["y"] = np.arange(5, dtype=np.float32), 10 + np.arange(5, dtype=np.float32)
    Path("rows.txt").write_text("rows.h5\n")
    param = 'hdf5_data_param { source: "rows.txt" batch_size: 2 }'
    text = "".join(f'layer {{ name: "{top}" type: "HDF5Data" top: "{top}" {param} }}' for top in "xy")
    net = caffe.Net(prototxt_file(text), caffe.TEST)
    assert [net.blobs[name].shape for name in "xy"] == [(2,), (2,)]
    seen = []
    for _ in range(3):
        net.forward()
        seen.append([net.blobs[name].data.tolist() for name in "xy"])
    assert seen == [[[0, 1], [10, 11]], [[2, 3], [12, 13]], [[4, 0], [14, 10]]]


def test_passes_by_number_return_the_loss(prototxt_file: Write) -> None:
    net = caffe.Net(prototxt_file(TRAINED), caffe.TEST)
    loss = net._forward(0, 4)
    assert loss == pytest.approx(2 * float(net.blobs["loss"].data))
    assert loss > 0
    net._backward(4, 3)
    assert net.blobs["low"].diff.any()
    assert not net.params["low"][0].diff.any()


def test_hooks_get_the_numbers_of_layers(net: caffe.Net) -> None:
    calls: list[tuple[str, int, float]] = []
    for place in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(net, place)(
            lambda number, place=place: calls.append((place, number, float(abs(net.blobs["left"].data).sum())))
        )
    net.forward(start="conv", end="left")
    net.backward(start="left", end="left")
    assert [(place, number) for place, number, _ in calls] == [
        *((place, number) for number in (1, 2, 3) for place in ("before_forward", "after_forward")),
        ("before_backward", 3),
        ("after_backward", 3),
    ]
    assert calls[4][2] == 0 < calls[5][2]


def test_blobs_that_share_memory_in_caffe_change_together(prototxt_file: Write) -> None:
    text = (
        DATA
        + """
layer { name: "flat" type: "Flatten" bottom: "data" top: "flat" }
layer { name: "relu" type: "ReLU" bottom: "flat" top: "flat" }
layer { name: "after" type: "Power" bottom: "data" top: "after" }
"""
    )
    net = caffe.Net(prototxt_file(text), caffe.TEST)
    out = net.forward(data=np.full((2, 2, 3, 3), -1.0))
    assert out["flat"].max() == out["after"].max() == net.blobs["data"].data.max() == 0
    net.forward(data=np.full((2, 2, 3, 3), 1.0))
    for _ in range(2):  # the gradients of both readers of the data
        net.backward(flat=np.full((2, 18), 2.0), after=np.full((2, 2, 3, 3), 5.0))
        assert (net.blobs["data"].diff == 7).all()


def test_arrays_outlive_their_net(prototxt_file: Write) -> None:
    net = caffe.Net(prototxt_file(SMALL), caffe.TEST)
    held, parameter = net.blobs["prob"], net.params["conv"][1]
    net.forward()
    del net
    assert held.data.sum() == pytest.approx(2)
    assert parameter.data.tolist() == pytest.approx([0.1] * 3)
    assert parameter.diff.tolist() == [0] * 3


def test_levels_and_stages_choose_layers(prototxt_file: Write) -> None:
    text = DATA + "".join(
        f'layer {{ name: "{name}" type: "Power" bottom: "data" top: "{name}" include {{ {rule} }} }}'
        for name, rule in (("high", "min_level: 2"), ("low", "max_level: 1"), ("deploy", 'stage: "deploy"'))
    )
    path = prototxt_file(text)
    assert list(caffe.Net(path, caffe.TEST).blobs) == ["data", "low"]
    assert list(caffe.Net(path, caffe.TEST, 2, ["deploy"]).blobs) == ["data", "high", "deploy"]
    assert list(caffe.Net(path, phase=caffe.TEST, level=2).blobs) == ["data", "high"]


def test_a_file_name_may_be_a_path(prototxt_file: Write) -> None:
    assert caffe.Net(Path(prototxt_file(SMALL)), caffe.TEST).inputs == ["data"]
