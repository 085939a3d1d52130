"""Models of scikit-learn beside a Caffe net: shown, composed, verified, trained towards, measured."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from caffe_fusion_tools import compose, evaluate, export, merge, predict, report, show, train, verify
from onnx import TensorProto, helper
from PIL import Image

from fusion.nets.build import build
from fusion.nets.weights import save_weights
from fusion.pct import Predictions

pytest.importorskip("onnxruntime")
Check = Callable[..., object]
NET = """name: "net"
layer {{ name: "data" type: "ImageData" top: "data" top: "label" {transform}
  image_data_param {{ source: "{list}" batch_size: 10 {image} }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: {classes} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""
SOLVER = (
    'net: "{net}" base_lr: 0.1 lr_policy: "fixed" max_iter: {iterations} snapshot_prefix: "{prefix}" random_seed: 1\n'
)
GREY, SCALED = "is_color: false", "transform_param { scale: 0.00390625 }"
UNIT = ["--pixels", "unit", "--input-shape", "X=1,1,4,4"]


def net(path: str, *, list: str = "train.txt", classes: int = 3, image: str = GREY, transform: str = SCALED) -> None:
    Path(path).write_text(NET.format(list=list, classes=classes, image=image, transform=transform))


def write_forest(path: str) -> None:
    """Write two trees as skl2onnx 1.20 writes a RandomForestClassifier: of 16 pixels, for labels 0 to 2.

    The first knows classes 0 and the others by pixel 0, the second all by pixels 5 and 10.
    """
    leaf = {"mode": "LEAF", "feature": 0, "value": 0.0, "yes": 0, "no": 0}
    trees = [
        [{"mode": "BRANCH_LEQ", "feature": 0, "value": 0.5, "yes": 1, "no": 2}, leaf, leaf],
        [{"mode": "BRANCH_LEQ", "feature": 5, "value": 0.5, "yes": 1, "no": 4},
         {"mode": "BRANCH_LEQ", "feature": 10, "value": 0.5, "yes": 2, "no": 3}, leaf, leaf, leaf],
    ]  # fmt: skip
    votes = {(0, 1): (0.0, 0.25, 0.25), (0, 2): (0.5, 0.0, 0.0), (1, 2): (0.5, 0.0, 0.0), (1, 3): (0.0, 0.0, 0.5),
             (1, 4): (0.0, 0.5, 0.0)}  # fmt: skip
    nodes: list[tuple[int, int, dict[str, Any]]] = [
        (tree, number, item) for tree, items in enumerate(trees) for number, item in enumerate(items)
    ]
    entries = [(tree, number, label, vote) for (tree, number), row in votes.items() for label, vote in enumerate(row)]
    keys = {"featureids": "feature", "values": "value", "modes": "mode", "truenodeids": "yes", "falsenodeids": "no"}
    values: dict[str, Any] = {f"nodes_{name}": [item[key] for *_, item in nodes] for name, key in keys.items()}
    values |= {"nodes_treeids": [row[0] for row in nodes], "nodes_nodeids": [row[1] for row in nodes]}
    values |= {"nodes_hitrates": [1.0] * len(nodes), "nodes_missing_value_tracks_true": [0] * len(nodes)}
    names = ("class_treeids", "class_nodeids", "class_ids", "class_weights")
    values |= dict(zip(names, (list(column) for column in zip(*entries, strict=True)), strict=True))
    write(path, "TreeEnsembleClassifier", values, classlabels_int64s=[0, 1, 2], post_transform="NONE")


def write(path: str, op: str, values: dict[str, Any], **more: Any) -> None:
    """Write a classifier of 16 pixels with its label, and its probabilities as maps."""
    nodes = [
        helper.make_node(op, ["X"], ["label", "probabilities"], domain="ai.onnx.ml", **values, **more),
        helper.make_node("Cast", ["label"], ["output_label"], to=TensorProto.INT64),
        helper.make_node("ZipMap", ["probabilities"], ["output_probability"], domain="ai.onnx.ml",
                         classlabels_int64s=[0, 1, 2]),
    ]  # fmt: skip
    outputs = [
        helper.make_tensor_value_info("output_label", TensorProto.INT64, [None]),
        onnx.ValueInfoProto(name="output_probability"),
    ]
    graph = helper.make_graph(nodes, "ONNX(Classifier)", [helper.make_tensor_value_info("X", 1, [None, 16])], outputs)
    imports = [helper.make_opsetid("", 9), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=4), path)


def write_logistic(path: str) -> None:
    """Write a multinomial LogisticRegression: class i is the brightness of pixel 5 i."""
    weight = np.zeros((3, 16))
    weight[[0, 1, 2], [0, 5, 10]] = 4
    values = {"coefficients": weight.reshape(-1).tolist(), "intercepts": [0.0, 0.5, 0.0], "multi_class": 1}
    write(path, "LinearClassifier", values, classlabels_ints=[0, 1, 2], post_transform="SOFTMAX")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("train", 30), ("val", 20)):
        lines = []
        for number in range(count):
            pixels, label = rng.integers(0, 100, 16), number % 3
            pixels[5 * label] = 200 if number % 10 else 90  # every tenth image is dark
            Image.fromarray(pixels.reshape(4, 4).astype(np.uint8)).save(f"{name}{number}.png")
            lines.append(f"{name}{number}.png {label}\n")
        Path(f"{name}.txt").write_text("".join(lines))
    net("net.prototxt")
    save_weights(build("net.prototxt", shapes={"data": (10, 1, 4, 4)}, seed=1), "net.caffemodel")
    write_forest("forest.onnx")
    write_logistic("logistic.onnx")


def accuracy(capsys: pytest.CaptureFixture[str], *arguments: str) -> float:
    capsys.readouterr()
    assert evaluate.main([*arguments, "--json", "-q"]) == 0
    found: float = json.loads(capsys.readouterr().out)["accuracy"]
    return found


def expected_votes() -> np.ndarray[Any, np.dtype[np.float64]]:
    """The forest's probabilities for the images of val.txt."""
    found = []
    for number in range(20):
        pixels = np.asarray(Image.open(f"val{number}.png")).reshape(-1) / 255
        first = (0.5, 0, 0) if pixels[0] > 0.5 else (0, 0.25, 0.25)
        second = (0, 0.5, 0) if pixels[5] > 0.5 else (0, 0, 0.5) if pixels[10] > 0.5 else (0.5, 0, 0)
        found.append(np.add(first, second))
    return np.stack(found)


def test_a_forest_as_a_reference_beside_a_caffe_net(capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main(["forest.onnx"]) == 0
    out = capsys.readouterr().out
    assert "note    its output 'output_label' is left out: labels are no scores\n" in out
    assert "note    its class scores are the logarithms of 'probabilities'\n" in out
    assert "cut     probabilities:scores\n" in out
    assert "operators: all can be run\n" in out
    sources = ["--source", "n=net.prototxt", "--source", "f=forest.onnx", "--source", "l=logistic.onnx"]
    pixels = ["--pixels", "f=unit", "--pixels", "l=unit"]
    assert compose.main([*sources, *pixels, "--num-output", "3", "--references", "-o", "fused"]) == 0
    out = capsys.readouterr().out
    assert "source 'f': cut at 'probabilities:scores', its class scores\n" in out
    assert "features', width 6 + 3 + 3\n" in out
    assert "reference: 'f/probabilities:scores' scores classes 0-2\n" in out
    weights = ["n=net.prototxt:net.caffemodel", "f=forest.onnx", "l=logistic.onnx"]
    assert merge.main(["fused/train_val.prototxt", *weights, "-o", "init.caffemodel"]) == 0
    assert verify.main(["fused/train_val.prototxt", "init.caffemodel", *weights]) == 0
    out = capsys.readouterr().out
    for name in ("f", "l"):
        assert f"{name}/probabilities:scores" in out
        assert f"\n{name}: 1 blob agrees" in out or f"\n{name}: all 1 blobs agree" in out
    Path("solver.prototxt").write_text(SOLVER.format(net="fused/train_val.prototxt", iterations=20, prefix="fused/net"))
    references = ["--reference", "@f/probabilities:scores", "--reference", "@l/probabilities:scores", "--pct", "focal"]
    assert train.main(["--solver", "solver.prototxt", "--weights", "init.caffemodel", *references, "-q"]) == 0
    blobs = ["--logits", "f/probabilities:scores", "--predictions", "forest.npz", "-q"]
    net_and_weights = ["--model", "fused/train_val.prototxt", "--weights", "fused/net_iter_20.caffemodel"]
    assert evaluate.main([*net_and_weights, *blobs, "--list", "val.txt"]) == 0
    found = Predictions.load("forest.npz")
    np.testing.assert_allclose(found.probabilities, expected_votes(), atol=1e-6)
    assert evaluate.main([*net_and_weights, "--predictions", "new.npz", "-q", "--list", "val.txt"]) == 0
    assert report.main(["--old", "forest.npz", "--new", "new.npz", "--json"]) == 0
    assert evaluate.main(["--model", "forest.onnx", "--list", "val.txt", *UNIT, "--predictions", "own.npz", "-q"]) == 0
    np.testing.assert_allclose(Predictions.load("own.npz").logits, found.logits, atol=1e-6)


@pytest.mark.parametrize("head", ["logits", "probs"])
def test_heads_that_average_answers(head: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The probabilities of the fused net are the mean of the models' probabilities, or of their logarithms."""
    sources = ["--source", "f=forest.onnx", "--source", "l=logistic.onnx", "--pixels", "f=unit", "--pixels", "l=unit"]
    lists = ["--train-list", "train.txt", "--val-list", "val.txt"]
    assert compose.main([*sources, *lists, "--num-output", "3", "--head", head, "-o", "fused", "-q"]) == 0
    assert "is_color: false" in Path("fused/train_val.prototxt").read_text()
    weights = ["f=forest.onnx", "l=logistic.onnx"]
    assert merge.main(["fused/train_val.prototxt", *weights, "-o", "fused.caffemodel", "-q"]) == 0
    net_and_weights = ["--model", "fused/train_val.prototxt", "--weights", "fused.caffemodel"]
    assert evaluate.main([*net_and_weights, "--predictions", "new.npz", "-q"]) == 0
    for name in ("forest", "logistic"):
        file = f"{name}.onnx"
        assert evaluate.main(["--model", file, "--list", "val.txt", *UNIT, "--predictions", f"{name}.npz", "-q"]) == 0
    one, other = (Predictions.load(f"{name}.npz") for name in ("forest", "logistic"))
    mean = (one.probabilities + other.probabilities) / 2
    if head == "logits":
        scores = one.logits + other.logits
        mean = np.exp(scores / 2) / np.exp(scores / 2).sum(1, keepdims=True)
    np.testing.assert_allclose(Predictions.load("new.npz").probabilities, mean, rtol=1e-4, atol=1e-6)
    assert export.main(["fused/deploy.prototxt", "fused.caffemodel", "-o", "fused.onnx", "--check"]) == 0


def test_a_model_outside_the_net_as_a_reference(refused: Check, capsys: pytest.CaptureFixture[str]) -> None:
    Path("solver.prototxt").write_text(SOLVER.format(net="net.prototxt", iterations=3, prefix="net"))
    words = ["--solver", "solver.prototxt", "--weights", "net.caffemodel", "--pct", "kd", "-q"]
    assert train.main([*words, "--reference", "forest.onnx,pixels=unit,cache=forest.npz"]) == 0
    stored = Predictions.load("forest.npz")
    row = dict(zip(stored.keys.tolist(), stored.logits, strict=True))["train3.png"]
    image = np.asarray(Image.open("train3.png")).reshape(-1)
    assert image[0] == 200
    np.testing.assert_allclose(np.exp(row), [1, 1.2e-7, 1.2e-7], atol=1e-6)
    net("colour.prototxt", image="")
    Path("solver.prototxt").write_text(SOLVER.format(net="colour.prototxt", iterations=3, prefix="net"))
    save_weights(build("colour.prototxt", shapes={"data": (10, 3, 4, 4)}, seed=1), "net.caffemodel")
    says = "reference 'forest' takes rows of numbers, and the data are colour images of 3x4x4"
    refused(train.main, [*words, "--reference", "forest.onnx,pixels=unit"], says)


def test_trees_are_not_thawed(refused: Check) -> None:
    sources = ["--source", "n=net.prototxt", "--source", "f=forest.onnx", "--pixels", "f=unit"]
    assert compose.main([*sources, "--num-output", "3", "-o", "fused", "-q"]) == 0
    weights = ["n=net.prototxt:net.caffemodel", "f=forest.onnx"]
    assert merge.main(["fused/train_val.prototxt", *weights, "-o", "init.caffemodel", "-q"]) == 0
    words = ["--solver", "fused/solver.prototxt", "--weights", "init.caffemodel", "--thaw", "f/"]
    refused(train.main, words, "forest.onnx: its trees cannot learn\n  hint: freeze the layer")


def test_a_missing_file_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The layers after it have blobs of unknown sizes, which is no error of its own."""
    sources = ["--source", "n=net.prototxt", "--source", "f=forest.onnx", "--pixels", "f=unit"]
    assert compose.main([*sources, "--num-output", "3", "-o", "fused", "-q"]) == 0
    weights = ["fused/train_val.prototxt", "n=net.prototxt:net.caffemodel", "f=forest.onnx"]
    assert merge.main([*weights, "-o", "init.caffemodel", "-q"]) == 0
    Path("forest.onnx").unlink()
    says = (
        "error: forest.onnx: layer 'f/onnx': No such file or directory\n  hint: paths are relative to the working dir"
    )
    for main, words in (
        (merge.main, [*weights[:2], "-o", "other.caffemodel"]),
        (evaluate.main, ["--model", "fused/train_val.prototxt", "--weights", "init.caffemodel"]),
    ):
        assert main(words) == 1
        err = capsys.readouterr().err
        assert err.startswith(says)
        assert len(err.splitlines()) == 2, err


def test_colour_images_and_unknown_sizes_are_refused(refused: Check) -> None:
    net("colour.prototxt", image="")
    for pixels in (["--pixels", "f=unit"], []):
        words = ["--source", "n=colour.prototxt", "--source", "f=forest.onnx", *pixels, "--num-output", "3", "-o", "x"]
        says = "source 'f' takes 16 numbers per record, and the data layer 'data' gives colour images of 3 channels"
        refused(compose.main, words, says)
    measure = ["--model", "forest.onnx", "--list", "val.txt", "--pixels", "unit"]
    refused(evaluate.main, measure, "give the size of its grey images: --input-shape X=1,1,4,4")
    refused(evaluate.main, [*measure, "--input-shape", "X=1,1,5,4"], "takes 16 numbers per image, not 5x4")


def test_images_are_classified(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["forest.onnx", *UNIT, "val1.png", "val2.png", "--jsonl", "--top", "3"]) == 0
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    found = [{item["class"]: item["score"] for item in line["top"]} for line in lines]
    for line, row in zip(found, expected_votes()[1:3], strict=True):
        assert line == pytest.approx(dict(enumerate(row)), abs=1e-6)


@pytest.mark.parametrize(("scale", "own"), [("0.00390625", False), ("0.00392157", True)])
def test_pixels_that_floats_would_round_are_read_again(scale: str, own: bool) -> None:
    """A tree compares with thresholds that some pixels equal: 0.00392157 * 255 is not 1."""
    net("net.prototxt", transform=f"transform_param {{ scale: {scale} }}")
    sources = ["--source", "n=net.prototxt", "--source", "f=forest.onnx", "--pixels", "f=rgb"]
    assert compose.main([*sources, "--num-output", "3", "-o", "fused", "-q"]) == 0
    text = Path("fused/train_val.prototxt").read_text()
    assert ('name: "f/data"' in text, "power_param { scale: 256 shift: 0 }" in text) == (own, not own)


@pytest.mark.slow
def test_models_of_scikit_learn(capsys: pytest.CaptureFixture[str]) -> None:
    """The probabilities of models that skl2onnx writes are scikit-learn's, and their labels those of the scores."""
    pytest.importorskip("skl2onnx")
    warnings.simplefilter("ignore")  # a few iterations do not converge
    from skl2onnx import to_onnx
    from sklearn.datasets import load_digits
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    digits, labels = load_digits(return_X_y=True)
    models = [RandomForestClassifier(20, random_state=0), make_pipeline(StandardScaler(), LogisticRegression()),
              GradientBoostingClassifier(n_estimators=3), GaussianNB(var_smoothing=0.1),
              make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=20))]  # fmt: skip
    lines = []
    for number, values in enumerate(digits[:200]):
        Image.fromarray(values.reshape(8, 8).astype(np.uint8)).save(f"{number}.png")
        lines.append(f"{number}.png {labels[number]}\n")
    Path("digits.txt").write_text("".join(lines))
    for model in models:
        model.fit(digits[200:], labels[200:])
        Path("model.onnx").write_bytes(to_onnx(model, digits[:1].astype(np.float32)).SerializeToString())
        words = ["--pixels", "rgb", "--input-shape", "X=1,1,8,8", "--predictions", "found.npz", "-q"]
        assert evaluate.main(["--model", "model.onnx", "--list", "digits.txt", *words]) == 0
        found = Predictions.load("found.npz")
        np.testing.assert_allclose(found.probabilities, model.predict_proba(digits[:200]), atol=2e-5)
        np.testing.assert_array_equal(found.logits.argmax(1), model.predict(digits[:200]))
