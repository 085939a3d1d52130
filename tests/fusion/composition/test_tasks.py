"""Several tasks on the joined features: a classifier, a loss and a label each, trained and deployed together."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from caffe_fusion_tools.compose import main

import fusion
import prototxt
from fusion import ComposeError
from fusion.composition import Loss, SolverSettings, Source, Task, compose, read_config
from fusion.composition.net_text import read_net
from fusion.composition.source_losses import Metric, SourceObjective, source_metrics, source_objectives
from fusion.composition.tasks import _main_objectives, check_tasks, loss_notes, parse_task, resolve_goals
from prototxt.schema.messages import AccuracyParameter

NET = """
name: "faces"
layer { name: "data" type: "HDF5Data" top: "data" top: "age" top: "gender" top: "tags"
  hdf5_data_param { source: "list.txt" batch_size: 8 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "fc1" type: "InnerProduct" bottom: "conv1" top: "fc1"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc_age" type: "InnerProduct" bottom: "fc1" top: "fc_age" inner_product_param { num_output: 1 } }
layer { name: "fc_gender" type: "InnerProduct" bottom: "fc1" top: "fc_gender" inner_product_param { num_output: 2 } }
layer { name: "l1" type: "EuclideanLoss" bottom: "fc_age" bottom: "age" top: "l1" }
layer { name: "l2" type: "SoftmaxWithLoss" bottom: "fc_gender" bottom: "gender" top: "l2" loss_weight: 0.5 }
"""
SHAPES = {"data": (8, 1, 6, 6), "age": (8, 1), "gender": (8,), "tags": (8, 3)}
TASKS = (
    "age=EuclideanLoss:age",
    "gender=SoftmaxWithLoss:gender,num_output=2,loss_weight=0.25",
    "tags=SigmoidCrossEntropyLoss:tags",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen records whose labels can be read off the picture, and the net."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(16, 1, 6, 6)).astype(np.float32)
    mean = data.mean((1, 2, 3))
    with h5py.File("records.h5", "w") as file:
        file["data"] = data
        file["age"] = mean[:, None] * 3
        file["gender"] = (mean > 0).astype(np.float32)
        file["tags"] = (data[:, 0, 0, :3] > 0).astype(np.float32)
    Path("list.txt").write_text("records.h5\n")
    Path("net.prototxt").write_text(NET)
    net = fusion.build(prototxt.load_net("net.prototxt"), "TRAIN", SHAPES, seed=1)
    fusion.save_weights(net, "net.caffemodel")
    return tmp_path


def sources() -> list[Source]:
    return [Source("a", "net.prototxt", at="fc1"), Source("b", "net.prototxt", at="fc1")]


@pytest.mark.parametrize("head", ["concat-fc", "concat-mlp", "mean", "gated"])
def test_tasks_are_trained_and_deployed_together(folder: Path, head: str) -> None:
    schedule = SolverSettings(max_iter=60, test_interval=60, test_iter=2, display=0, base_lr=0.01)
    composed = compose(sources(), head, tasks=TASKS, schedule=schedule)
    composed.write("fused")
    train = prototxt.load_net("fused/train_val.prototxt")
    own = {layer.name: layer for layer in train.layer if layer.name.startswith(("score_", "loss_", "accuracy_"))}
    assert list(own) == [
        "score_age",
        "score_gender",
        "score_tags",
        "loss_age",
        "accuracy_gender",
        "loss_gender",
        "loss_tags",
    ]
    assert [own[f"score_{name}"].inner_product_param.num_output for name in ("age", "gender", "tags")] == [1, 2, 3]
    assert [(own[f"loss_{name}"].type, list(own[f"loss_{name}"].bottom)) for name in ("age", "gender", "tags")] == [
        ("EuclideanLoss", ["score_age", "age"]),
        ("SoftmaxWithLoss", ["score_gender", "gender"]),
        ("SigmoidCrossEntropyLoss", ["score_tags", "tags"]),
    ]
    assert list(own["loss_gender"].loss_weight) == [0.25]
    fusion.apply_merge(fusion.plan_merge(train, {"a": "net.caffemodel", "b": "net.caffemodel"}), "init.caffemodel")
    start = dict(prototxt.read_weights("init.caffemodel"))
    assert np.ptp(start["score_tags"][0]) > 0
    solver = fusion.Solver("fused/solver.prototxt", weights="init.caffemodel", device="cpu")
    (before,) = solver.test()
    solver.step(60)
    (after,) = solver.test()
    assert {name for name, _, _ in after.outputs} == {"loss_age", "loss_gender", "loss_tags", "accuracy_gender"}
    for name in ("loss_age", "loss_gender", "loss_tags"):
        assert after[name] < before[name]
    weights = {name: weight for name, _, weight in after.outputs}
    assert weights == {"loss_age": 1, "loss_gender": 0.25, "loss_tags": 1, "accuracy_gender": 0}


def test_the_deployed_net_answers_every_task(folder: Path) -> None:
    composed = compose(sources(), tasks=TASKS)
    assert composed.deploy is not None
    net = fusion.build(prototxt.load_net(composed.deploy), seed=3)
    found = net({"data": torch.ones(2, 1, 6, 6)})
    assert {name: tuple(found[name].shape) for name in found} == {
        "score_age": (2, 1),
        "prob_gender": (2, 2),
        "prob_tags": (2, 3),
    }
    assert found["prob_gender"].sum(1).tolist() == pytest.approx([1, 1])
    assert ((found["prob_tags"] > 0) & (found["prob_tags"] < 1)).all()


def test_tasks_in_python_in_toml_and_on_the_command_line_are_the_same(folder: Path) -> None:
    flags = [f"--task={text}" for text in TASKS]
    command = ["--source=a=net.prototxt@fc1", "--source=b=net.prototxt@fc1", *flags, "-o", "one"]
    assert main([*command, "--write-toml", "fusion.toml"]) == 0
    assert main(["fusion.toml", "-o", "two"]) == 0
    python = compose(
        sources(),
        tasks=[
            Task("age", Loss("EuclideanLoss", label="age"), 1),
            Task("gender", Loss("SoftmaxWithLoss", {"loss_weight": 0.25}, "gender"), 2),
            Task("tags", Loss("SigmoidCrossEntropyLoss", label="tags"), 3),
        ],
    )
    texts = [Path(name, "train_val.prototxt").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1] == str(python.train_val)
    assert [task.num_output for task in read_config("fusion.toml").options.parsed_tasks()] == [None, 2, None]


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        (["age"], {}, "is not NAME=LOSS:LABEL_BLOB"),
        (["age=EuclideanLoss"], {}, "is not NAME=LOSS:LABEL_BLOB"),
        (["age=EuclideanLoss:age,num_output=x"], {}, "num_output is a number"),
        (["age=EuclideanLoss:age", "age=HingeLoss:gender,num_output=2"], {}, "two tasks are called 'age'"),
        (["a/b=EuclideanLoss:age"], {}, "is no name of a task"),
        ([Task("age", Loss("EuclideanLoss"))], {}, "names no label"),
        (["age=EuclideanLoss:age,num_output=2"], {}, "one output per value of its label, 1, not 2"),
        (["gender=SoftmaxWithLoss:gender"], {}, "task 'gender': the number of classes is not given"),
        (["age=EuclideanLoss:years"], {}, "no blob 'years' to take labels from"),
        (TASKS, {"loss": "EuclideanLoss"}, "exclude each other"),
        (TASKS, {"pct": "kd"}, "there are several tasks"),
        (TASKS, {"head": "logits"}, "there are several tasks"),
    ],
)
def test_tasks_that_cannot_be(folder: Path, tasks: list[str | Task], options: dict[str, str], message: str) -> None:
    with pytest.raises(ComposeError, match=message):
        compose(sources(), tasks=tasks, **options)  # type: ignore[arg-type]


def test_a_source_of_several_losses_is_asked_about(folder: Path) -> None:
    with pytest.raises(ComposeError, match="losses of several labels") as error:
        compose(sources(), num_output=2)
    asked = "--task fc_age=EuclideanLoss:age,num_output=1 --task fc_gender=SoftmaxWithLoss:gender,num_output=2"
    assert asked in str(error.value)
    own = compose(sources(), num_output=2, loss="SoftmaxWithLoss,label=gender")
    final = prototxt.load_net(own.train_val).layer[-1]
    assert (final.type, list(final.bottom)) == ("SoftmaxWithLoss", ["scores", "gender"])


def test_two_tasks_do_not_learn_one_label_alike() -> None:
    tasks = [parse_task(f"{name}=SoftmaxWithLoss:label,num_output={n}") for name, n in (("age", 4), ("sex", 2))]
    assert "tasks 'age' (4) and 'sex' (2) learn the same label 'label'" in str(check_tasks(None, tasks)[0])
    again = [parse_task("one=EuclideanLoss:value"), parse_task("two=EuclideanLoss:value,loss_weight=1")]
    assert len(check_tasks(None, again)) == 1
    apart = [parse_task("one=EuclideanLoss:value"), parse_task("two=SmoothL1Loss:value"), tasks[0],
             parse_task("three=EuclideanLoss:other"), parse_task("four=HingeLoss:label,num_output=4")]  # fmt: skip
    assert not check_tasks(None, apart)
    unlabelled = [Task(name, Loss("EuclideanLoss")) for name in ("one", "two")]
    assert [error.message for error in check_tasks(None, unlabelled)] == [
        "task 'one' names no label", "task 'two' names no label",
    ]  # fmt: skip


def test_a_task_as_text() -> None:
    text = " age = SoftmaxWithLoss : years , num_output = 2, loss_weight=3, num_output=4 ,"
    assert parse_task(text) == Task("age", Loss("SoftmaxWithLoss", {"loss_weight": ("3",)}, "years"), 4)
    for wrong in ("=EuclideanLoss:age", "age=:age", "age=EuclideanLoss:", "age:EuclideanLoss"):
        with pytest.raises(ComposeError, match="is not NAME=LOSS:LABEL_BLOB"):
            parse_task(wrong)


def layer(name: str, kind: str, bottoms: str, top: str = "", more: str = "") -> str:
    ends = " ".join(f'bottom: "{blob}"' for blob in bottoms.split()) + f' top: "{top or name}"'
    return f'layer {{ name: "{name}" type: "{kind}" {ends} {more} }}\n'


def prepared(text: str, cut: str = "f", prefix: str = "a", classes: tuple[int, ...] = ()) -> Any:
    """What `source_objectives` reads of a source that is cut at this blob."""
    raw = read_net(prototxt.parse(layer("front", "ReLU", "data", cut) + text))

    def error(message: str, hint: str = "", layer: Any = None) -> ComposeError:
        return ComposeError(message, hint=hint)

    return SimpleNamespace(raw=raw, raw_cuts=(cut,), prefix=prefix, spec=SimpleNamespace(classes=classes), error=error)


def dense(name: str, bottom: str = "f", width: int = 3) -> str:
    return layer(name, "InnerProduct", bottom, more=f"inner_product_param {{ num_output: {width} }}")


def objectives(text: str) -> list[SourceObjective]:
    return source_objectives(prepared(text))


def test_losses_come_by_weight_and_then_the_last_first() -> None:
    text = dense("s") + layer("one", "SoftmaxWithLoss", "s y") + layer("two", "HingeLoss", "s y")
    text += layer("much", "EuclideanLoss", "s y", more="loss_weight: 1.5")
    text += layer("own", "TripletLoss", "s y", more="loss_weight: 9") + layer("acc", "Accuracy", "s y")
    text += layer("off", "EuclideanLoss", "s y", more="loss_weight: 0")
    text += layer("twice", "EuclideanLoss", "s y", more="loss_weight: 1.2 loss_weight: 0")
    text += layer("never", "EuclideanLoss", "s y", more="loss_weight: 7 include { phase: TRAIN stage: 'x' }")
    text += layer("else", "EuclideanLoss", "data y", more="loss_weight: 7")
    assert [item.layer.name for item in objectives(text)] == ["much", "twice", "two", "one", "own"]


def test_without_a_loss_the_last_output_counts() -> None:
    text = dense("s") + layer("p", "Softmax", "s") + layer("acc", "Accuracy", "s y") + layer("x", "MyLayer", "s")
    (found,) = objectives(text)
    assert (found.layer.name, found.label, found.labels, found.scores, found.width) == ("acc", "y", "class", "s", 3)
    (found,) = objectives(dense("s") + layer("p", "Sigmoid", "s"))
    assert (found.label, found.labels, found.loss) == (None, "yes-no", None)
    assert objectives(dense("s")) == []


def test_what_a_loss_compares() -> None:
    text = (
        dense("s", width=5) + layer("r", "ReLU", "s", "s") + layer("up", "Power", "s") + layer("q", "TanH", "up", "up")
    )
    (found,) = objectives(text + layer("l", "InfogainLoss", "y up H"))
    assert found.loss is not None
    assert (found.scores, found.label, found.loss.bottoms) == ("up", "y", ("H",))
    assert found.classifier is not None
    assert (found.classifier.name, found.width) == ("s", 5)
    assert [one.name for one in found.tail] == ["r", "up", "q"]
    (both,) = objectives(dense("s") + dense("t") + layer("l", "ContrastiveLoss", "s t y"))
    assert (both.scores, both.label) == ("s", None)
    (direct,) = objectives(layer("up", "Power", "f") + layer("l", "EuclideanLoss", "up y"))
    assert (direct.classifier, direct.width, [one.name for one in direct.tail]) == (None, None, ["up"])
    map_text = layer("c", "Convolution", "f", more="convolution_param { num_output: 7 }")
    assert objectives(map_text + layer("l", "SoftmaxWithLoss", "c y"))[0].width == 7


def test_a_blob_that_is_overwritten_is_no_longer_of_the_cut() -> None:
    again = layer("again", "ReLU", "data", "s")
    loss = layer("l", "EuclideanLoss", "s y")
    assert objectives(dense("s") + again + loss) == []
    once = again.replace("top:", "include { phase: TRAIN } top:")
    assert len(objectives(dense("s") + once + loss)) == 1


def test_metrics_are_read_as_caffe_has_them() -> None:
    known = AccuracyParameter()
    assert Metric() == Metric(known.top_k, known.axis, None)
    given = "accuracy_param { top_k: 5 } accuracy_param { axis: 2 ignore_label: 0xff }"
    text = layer("one", "Accuracy", "s y") + layer("two", "Accuracy", "s y", more=given)
    text += layer("other", "Accuracy", "t y") + layer("loss", "HingeLoss", "s y")
    text += layer("never", "Accuracy", "s y", more="include { phase: TEST stage: 'x' }")
    assert source_metrics(prepared(text), "s") == [Metric(), Metric(5, 2, 255)]


def test_a_goal_takes_the_objective_of_its_label() -> None:
    one, other = (SimpleNamespace(label=label) for label in ("y", None))
    known: Any = {"a": [one, other], "b": [other, one], "c": []}
    assert _main_objectives(known, Loss("HingeLoss", label="y")) == {"a": one, "b": one}
    assert _main_objectives(known, Loss("HingeLoss", label="z")) == {"a": one, "b": other}
    assert _main_objectives(known, Loss("HingeLoss")) == {"a": one, "b": other}


SOFTMAX = dense("s") + layer("l", "SoftmaxWithLoss", "s y")


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ((SOFTMAX, SOFTMAX), "SoftmaxWithLoss"),
        ((SOFTMAX, dense("s")), "SoftmaxWithLoss"),
        ((SOFTMAX, dense("s") + layer("p", "Softmax", "s")), "SoftmaxWithLoss"),
        ((SOFTMAX, dense("s") + layer("p", "Sigmoid", "s")), "different losses: 'a' has Soft.*; 'b' ends in Sigmoid"),
        ((SOFTMAX, SOFTMAX.replace("Softmax", "Infogain").replace("With", "")), "different losses: 'a' has .* 'b' has"),
        ((dense("s"), dense("s") + layer("p", "Softmax", "s")), "SoftmaxWithLoss"),
        ((dense("s"), dense("s") + layer("p", "Sigmoid", "s")), "source 'b' ends in Sigmoid, and no source has a loss"),
        ((dense("s") + dense("t") + layer("l", "EuclideanLoss", "s t"),), "so it has no label"),
    ],
)
def test_the_loss_of_all_sources(texts: tuple[str, ...], found: str) -> None:
    sources = [prepared(text, prefix=prefix) for prefix, text in zip("ab", texts, strict=False)]
    if not found.isidentifier():
        with pytest.raises(ComposeError, match=found):
            resolve_goals(sources, None, [], None)
        return
    (goal,) = resolve_goals(sources, None, [], 4)
    assert (goal.name, goal.loss.type, goal.loss.label, goal.num_output) == ("", found, None, 4)


@pytest.mark.parametrize(("ignored", "refused"), [("-1", False), ("0", True), ("2", True), ("0x3", False)])
def test_a_source_may_not_ignore_one_of_its_own_classes(ignored: str, refused: bool) -> None:
    text = dense("s") + layer("l", "SoftmaxWithLoss", "s y", more=f"loss_param {{ ignore_label: {ignored} }}")
    assert len(resolve_goals([prepared(text)], None, [], None)) == 1
    if refused:
        with pytest.raises(ComposeError, match=f"ignores label {ignored}, which is one of its own classes"):
            resolve_goals([prepared(text, classes=(4, 5, 6))], None, [], None)
    else:
        assert resolve_goals([prepared(text, classes=(4, 5, 6))], None, [], None)


def test_where_a_loss_is_from_is_said() -> None:
    hinge = dense("s") + layer("l", "HingeLoss", "s y")
    for texts, loss, origin in (
        ((SOFTMAX, SOFTMAX), None, "the sources' own"),
        ((SOFTMAX, hinge), "SoftmaxWithLoss", "as requested"),
        ((dense("s"),), None, "no source has one"),
    ):
        sources = [prepared(text, prefix=prefix) for prefix, text in zip("ab", texts, strict=False)]
        goals = resolve_goals(sources, Loss(loss) if loss else None, [], None)
        assert loss_notes(goals, {"": "y"}) == [f"loss: SoftmaxWithLoss ({origin}); 'y' holds class numbers"]
