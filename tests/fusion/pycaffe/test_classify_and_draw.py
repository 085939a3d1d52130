"""Whole scripts, after those that come with Caffe: classification, drawing, and a net that is written and run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools import pycaffe
from PIL import Image

Run = Callable[..., int]

NET = """name: "means"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 10 dim: 3 dim: 5 dim: 5 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "score" type: "Power" bottom: "pool" top: "score" power_param { scale: 2 } }
"""
CLASSIFY = """
import argparse, glob, os, sys
import numpy as np
import caffe

def main(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("input"), parser.add_argument("output")
    for name in ("model_def", "pretrained_model", "mean_file", "images_dim", "channel_swap", "ext"):
        parser.add_argument("--" + name)
    parser.add_argument("--raw_scale", type=float)
    parser.add_argument("--input_scale", type=float)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--center_only", action="store_true")
    args = parser.parse_args()
    caffe.set_mode_gpu() if args.gpu else caffe.set_mode_cpu()
    classifier = caffe.Classifier(
        args.model_def, args.pretrained_model, image_dims=[int(s) for s in args.images_dim.split(",")],
        mean=np.load(args.mean_file), input_scale=args.input_scale, raw_scale=args.raw_scale,
        channel_swap=[int(s) for s in args.channel_swap.split(",")])
    if args.input.endswith("npy"):
        inputs = np.load(args.input)
    elif os.path.isdir(args.input):
        inputs = [caffe.io.load_image(name) for name in sorted(glob.glob(args.input + "/*." + args.ext))]
    else:
        inputs = [caffe.io.load_image(args.input)]
    print("Classifying %d inputs." % len(inputs))
    np.save(args.output, classifier.predict(inputs, not args.center_only))

if __name__ == "__main__":
    main(sys.argv)
"""
DRAW = """
import sys
from google.protobuf import text_format
import caffe
import caffe.draw
from caffe.proto import caffe_pb2

net = caffe_pb2.NetParameter()
with open(sys.argv[1]) as file:
    text_format.Merge(file.read(), net)
caffe.draw.draw_net_to_file(net, sys.argv[2], sys.argv[3], caffe.TEST, True)
"""
WRITE = """
import tempfile
import caffe
from caffe import layers as L, params as P

def lenet(batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(shape=[dict(dim=[batch_size, 1, 28, 28]), dict(dim=[batch_size])], ntop=2,
                                  data_filler=[dict(value=0.5), dict(value=3)])
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool1, num_output=500, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    n.silence = L.Silence(n.ip1, ntop=0)
    return n.to_proto()

with tempfile.NamedTemporaryFile(mode="w+", suffix=".prototxt") as file:
    file.write(str(lenet(4)))
    file.flush()
    net = caffe.Net(file.name, caffe.TRAIN)
print(list(net._layer_names), net.blobs["pool1"].data.shape)
print("%.6f" % net.forward()["loss"])
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a script in this process, which is afterwards as before."""
    monkeypatch.chdir(tmp_path)
    for name in ("argv", "path", "meta_path"):
        monkeypatch.setattr(sys, name, [*getattr(sys, name)])
    before = dict(sys.modules)

    def run(text: str, *words: str) -> int:
        Path("script.py").write_text(text)
        return pycaffe.main(["script.py", *words])

    yield run
    for name in [name for name in sys.modules if name.partition(".")[0] == "caffe"]:
        del sys.modules[name]
    sys.modules["__main__"] = before["__main__"]


@pytest.fixture
def classify(run: Run) -> Callable[..., np.ndarray]:
    """Classify by a net whose scores are twice the means of the channels."""
    import fusion.pycaffe as caffe

    Path("net.prototxt").write_text(NET)
    caffe.Net("net.prototxt", caffe.TEST).save("net.caffemodel")
    np.save("mean.npy", np.array([10.0, 20, 30]))
    options = "--model_def net.prototxt --pretrained_model net.caffemodel --mean_file mean.npy --images_dim 7,9"
    options += " --raw_scale 255 --input_scale 0.5 --channel_swap 2,1,0"

    def classify(given: str, *words: str) -> np.ndarray:
        assert run(CLASSIFY, given, "out.npy", *options.split(), *words) == 0
        return np.load("out.npy")[..., 0, 0] if "--center_only" in words else np.load("out.npy")

    return classify


def test_classifying_an_image_a_folder_and_an_array(classify: Callable[..., np.ndarray]) -> None:
    Path("images").mkdir()
    for number in (1, 2):
        colour = np.full((14, 18, 3), (50, 60, 70 * number), np.uint8)
        Image.fromarray(colour).save(f"images/{number}.png")
    one, two = [70 - 10, 60 - 20, 50 - 30], [140 - 10, 60 - 20, 50 - 30]  # twice the half; blue is first
    np.testing.assert_allclose(classify("images/1.png"), [one], rtol=1e-5)
    np.testing.assert_allclose(classify("images", "--ext", "png", "--center_only"), [one, two], rtol=1e-5)
    np.save("two.npy", np.full((1, 14, 18, 3), (50, 60, 140)) / 255)
    np.testing.assert_allclose(classify("two.npy"), [two], rtol=1e-5)


def test_a_script_that_is_interrupted_or_ends_itself(run: Run) -> None:
    assert run("raise KeyboardInterrupt") == 130
    with pytest.raises(SystemExit, match="7"):
        run("import sys; sys.exit(7)")
    assert run("import sys; assert sys.argv[1:] == ['a'] and __name__ == '__main__'", "a") == 0


def test_drawing_a_net(run: Run) -> None:
    Path("net.prototxt").write_text(NET + 'layer { name: "train" type: "Silence" include { phase: TRAIN } }')
    assert run(DRAW, "net.prototxt", "net.dot", "TB") == 0
    text = Path("net.dot").read_text()
    assert 'label="pool (Pooling AVE) kernel size: 0 stride: 1 pad: 0"' in text
    assert ("rankdir=TB" in text, "train" in text) == (True, False)


def test_a_net_is_written_and_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(WRITE) == 0
    assert capsys.readouterr().out.splitlines() == [
        "['data', 'conv1', 'pool1', 'ip1', 'relu1', 'ip2', 'loss', 'silence'] (4, 20, 12, 12)",
        f"{np.log(10):.6f}",
    ]
