"""Shapes of nets: reshaping, batches of any length, and errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pycaffe_nets import DATA, SMALL, TRAINED

import fusion.pycaffe as caffe

Write = Callable[..., str]

MAPS = (
    DATA
    + """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 3 kernel_size: 2 } }
layer { name: "large" type: "Interp" bottom: "conv" top: "large" interp_param { zoom_factor: 2 } }
layer { name: "mean" type: "Pooling" bottom: "large" top: "mean" pooling_param { pool: AVE global_pooling: true } }
"""
)


@pytest.mark.filterwarnings("ignore:a field, value or type of forks")
def test_a_reshaped_input_reshapes_the_net(prototxt_file: Write) -> None:
    net = caffe.Net(prototxt_file(MAPS), caffe.TEST)
    net.blobs["data"].reshape(1, 2, 6, 5)
    assert net.blobs["large"].shape == (2, 3, 3, 3)
    net.reshape()
    assert [blob.shape for blob in net.blobs.values()] == [(1, 2, 6, 5), (1, 3, 5, 4), (1, 3, 9, 7), (1, 3, 1, 1)]
    net.params["conv"][0].data[...] = 1
    out = net.forward(data=np.ones((1, 2, 6, 5)))
    assert out["mean"].reshape(-1).tolist() == [8, 8, 8]
    net.blobs["data"].reshape(2, 2, 3, 3)  # forward reshapes too
    net.forward(data=np.ones((2, 2, 3, 3)))
    assert (net.blobs["large"].data == 8).all()
    assert net.blobs["large"].shape == (2, 3, 3, 3)


def test_a_top_takes_the_shape_that_its_values_have(prototxt_file: Write) -> None:
    text = """
layer { name: "data" type: "Input" top: "data" top: "chosen"
  input_param { shape { dim: 2 dim: 2 dim: 3 dim: 3 } shape { dim: 2 } } }
layer { name: "filter" type: "Filter" bottom: "data" bottom: "chosen" top: "kept" }
layer { name: "twice" type: "Power" bottom: "kept" top: "twice" power_param { scale: 2 } }
"""
    net = caffe.Net(prototxt_file(text), caffe.TEST)
    images = np.arange(36).reshape(2, 2, 3, 3)
    for chosen in ([0, 1], [1, 1], [1, 0]):
        out = net.forward(data=images, chosen=np.array(chosen))
        np.testing.assert_array_equal(out["twice"], 2 * images[np.array(chosen, bool)])


def test_inputs_that_the_parameters_do_not_fit_are_refused(prototxt_file: Write) -> None:
    net = caffe.Net(prototxt_file(SMALL), caffe.TEST)
    net.blobs["data"].reshape(2, 2, 4, 4)
    with pytest.raises(RuntimeError, match=r"'left'.* blob 0 would have the shape \(4, 27\), but it has \(4, 12\)"):
        net.reshape()
    with pytest.raises(caffe.CaffeError, match="'left'"):
        net.forward()


def test_a_smaller_batch_keeps_the_memory(prototxt_file: Write) -> None:
    net = caffe.Net(prototxt_file(SMALL), caffe.TEST)
    blob = net.blobs["data"]
    blob.data[...] = np.arange(36).reshape(2, 2, 3, 3)
    held = blob.data
    blob.reshape(1, 2, 3, 3)
    assert np.shares_memory(held, blob.data)
    assert blob.data.reshape(-1)[-1] == 17
    blob.reshape(2, 2, 3, 3)
    assert blob.data.reshape(-1)[-1] == 35
    blob.reshape(3, 2, 3, 3)
    assert not blob.data.any()


def test_all_rows_run_in_padded_batches(prototxt_file: Write) -> None:
    net = caffe.Net(prototxt_file(SMALL), caffe.TEST)
    rows = np.random.default_rng(0).standard_normal((5, 2, 3, 3)).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    out = net.forward_all(data=rows, blobs=["left"])
    both, diffs = net.forward_backward_all(data=rows, prob=weights, blobs=["left"], diffs=["sum"])
    assert (set(out), set(diffs)) == ({"prob", "left"}, {"data", "sum"})
    for number in range(5):
        single = net.forward(data=np.stack([rows[number]] * 2), blobs=["left"])
        for name in ("prob", "left"):
            np.testing.assert_allclose(out[name][number], single[name][0], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(both[name][number], out[name][number])
        single = net.backward(prob=np.stack([weights[number]] * 2), diffs=["sum"])
        np.testing.assert_allclose(diffs["data"][number], single["data"][0], rtol=1e-4, atol=1e-6)
    assert len(out["prob"]) == len(diffs["data"]) == 5
    with pytest.raises(ValueError, match="different numbers of rows"):
        net.forward_backward_all(data=rows, prob=weights[:3])
    with pytest.raises(ValueError, match=r"outputs \['prob'\], not \['rob'\]"):
        net.forward_backward_all(rob=rows)


def test_memory_data_takes_the_script_s_arrays_batch_by_batch(prototxt_file: Write) -> None:
    text = """layer { name: "d" type: "MemoryData" top: "x" top: "y"
      memory_data_param { batch_size: 2 channels: 1 height: 1 width: 3 } }"""
    net = caffe.Net(prototxt_file(text), caffe.TEST)
    with pytest.raises(RuntimeError, match="set_input_arrays"):
        net.forward()
    rows = np.arange(18, dtype=np.float32).reshape(6, 1, 1, 3)
    net.set_input_arrays(rows, np.arange(6, dtype=np.float32))
    seen = []
    for number in range(4):
        rows[0] = 100 + number  # the arrays are read when their batch is due
        net.forward()
        seen.append((net.blobs["x"].data[0, 0, 0, 0], net.blobs["y"].data.reshape(-1).tolist()))
    assert seen == [(100, [0, 1]), (6, [2, 3]), (12, [4, 5]), (103, [0, 1])]
    rows = rows[:4].copy()
    for data, labels, problem in (
        (rows[:3], np.zeros(3, np.float32), "multiple of the batch size 2"),
        (rows, np.zeros(2, np.float32), "same first dimension"),
        (rows.astype(np.float64), np.zeros(4, np.float32), "data array must be float32"),
        (rows[:, :, :, :2].copy(), np.zeros(4, np.float32), "wrong width: 2 instead of 3"),
        (rows[::2], np.zeros(2, np.float32), "C contiguous"),
        (rows[0], np.zeros(4, np.float32), "4-d"),
    ):
        with pytest.raises(RuntimeError, match=problem):
            net.set_input_arrays(data, labels)
    with pytest.raises(RuntimeError, match="first layer is a MemoryData"):
        caffe.Net(prototxt_file(SMALL), caffe.TEST).set_input_arrays(rows, np.zeros(4, np.float32))


@pytest.mark.parametrize(
    ("call", "kind", "problem"),
    [
        (lambda net: net.blobs["cnov"], KeyError, "did you mean 'conv'"),
        (lambda net: net.params["elu"], KeyError, "no 'elu'"),
        (lambda net: net.forward(start="cov"), ValueError, "no layer 'cov': did you mean 'conv'"),
        (lambda net: net.backward(end="cov"), ValueError, "no layer 'cov'"),
        (lambda net: net.forward(blobs=["nothing"]), KeyError, "no 'nothing'"),
        (lambda net: net.forward(dat=np.zeros((2, 2, 3, 3))), ValueError, r"\['dat'\] do not match the net's inputs"),
        (lambda net: net.forward(data=np.zeros((1, 2, 3, 3))), ValueError, "'data' is not batch sized"),
        (lambda net: net.forward(data=np.zeros((2, 2, 3, 4))), ValueError, "'data': could not broadcast"),
        (lambda net: net.backward(conv=np.zeros((2, 2))), ValueError, "do not match the net's outputs"),
    ],
)
def test_mistakes_get_pycaffe_s_kind_of_error(
    call: Callable[[caffe.Net], object], kind: type[Exception], problem: str, prototxt_file: Write
) -> None:
    net = caffe.Net(prototxt_file(SMALL), caffe.TEST)
    with pytest.raises(kind, match=problem):
        call(net)


def test_a_net_that_caffe_would_die_of_is_a_runtime_error(prototxt_file: Write) -> None:
    with pytest.raises(RuntimeError, match=r"could not open file nowhere\.prototxt"):
        caffe.Net("nowhere.prototxt", caffe.TEST)
    with pytest.raises(RuntimeError, match=r"nowhere\.caffemodel: there is no such file"):
        caffe.Net(prototxt_file(SMALL), "nowhere.caffemodel", caffe.TEST)
    with pytest.raises(RuntimeError, match="unknown bottom blob 'nothing'"):
        caffe.Net(prototxt_file(SMALL.replace('bottom: "sum"', 'bottom: "nothing"')), caffe.TEST)
    with pytest.raises(TypeError, match=r"needs a phase, caffe\.TRAIN or caffe\.TEST, not None"):
        caffe.Net(prototxt_file(SMALL))
    with pytest.raises(TypeError, match="takes these arguments"):
        caffe.Net(prototxt_file(SMALL), "w", caffe.TEST, 0)
    net = caffe.Net(prototxt_file(TRAINED), caffe.TEST)
    net.blobs["label"].data[...] = 3
    with pytest.raises(RuntimeError, match="'loss'"):
        net.forward()
