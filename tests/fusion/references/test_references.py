"""Training towards references that the prototxt does not know: live, kept, from files, several at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusion.errors import ComposeError, FusionError, TrainingError
from fusion.pct.predictions import Predictions
from fusion.references import Reference, open_models, parse_pct, parse_reference
from fusion.solver import Solver
from fusion.solver.logging.console import Silent
from prototxt.formats.weights import write_weights

SPEC = "old.prototxt:old.caffemodel"


@pytest.fixture
def solver(project: Callable[..., Path], write_old: Callable[..., None]) -> Path:
    path: Path = project(snapshot=0)
    write_old()
    return path


def losses(
    solver: Path, *references: object, pct: object = ("focal,weight=0.5",), count: int = 6, **options: object
) -> list[float]:
    made = Solver(solver, device="cpu", display=Silent(), references=references, pct=pct, **options)  # type: ignore[arg-type]
    made.progress.losses = type(made.progress.losses)(1)
    return [made.step() for _ in range(count)]


def test_kept_and_live_references_give_the_same_loss(solver: Path) -> None:
    kept = losses(solver, SPEC)
    np.testing.assert_allclose(losses(solver, SPEC + ",live"), kept, rtol=1e-5)
    np.testing.assert_allclose(losses(solver, SPEC, cache_budget=0), kept, rtol=1e-5)
    np.testing.assert_allclose(losses(solver, SPEC + ",half"), kept, rtol=1e-2)
    assert not np.allclose(losses(solver, pct=()), kept, rtol=1e-3)


def test_the_loss_is_the_functions(solver: Path) -> None:
    from fusion import blobs, pct

    made = Solver(solver, device="cpu", display=Silent(), references=[SPEC], pct=["focal,weight=0.5,distance=l2"])
    source = made.nets[0].sources[0]
    batch = source.batch(np.arange(4))
    values = blobs(made.net, batch)
    expected = pct.logit_matching(
        new=values["ip"], old=batch["reference/old"], target=batch["label"].long(), filter="old_correct"
    )
    np.testing.assert_allclose(values["focal_old"].item(), expected.item(), rtol=1e-6)


def test_shares_of_task_and_reference(solver: Path) -> None:
    task, both = losses(solver, SPEC, pct=(), count=1)[0], losses(solver, SPEC, pct=["kd,weight=0.5"], count=1)[0]
    mixed = losses(solver, SPEC, pct=["kd,weight=0.5"], count=1, kd_alpha=0.8)[0]
    np.testing.assert_allclose(mixed, 0.2 * task + 0.8 * (both - task), rtol=1e-5)


def test_a_file_of_logits_stands_for_its_net(solver: Path) -> None:
    kept = losses(solver, SPEC + ",cache=old.npz")
    assert Predictions.load("old.npz").meta["weights"]
    assert losses(solver, SPEC + ",cache=old.npz") == kept
    np.testing.assert_allclose(losses(solver, "old.npz"), kept, rtol=1e-6)


def test_stale_logits_are_refused(solver: Path, write_old: Callable[..., None]) -> None:
    losses(solver, SPEC + ",cache=old.npz", count=1)
    fresh = Path("old.caffemodel").read_bytes()
    write_old(seed=6)
    with pytest.raises(TrainingError, match="made with another weights"):
        losses(solver, SPEC + ",cache=old.npz", count=1)
    Path("old.caffemodel").write_bytes(fresh)
    net = Path("net.prototxt").read_text()
    Path("net.prototxt").write_text(net.replace("scale: 0.01", "scale: 0.02", 1))
    with pytest.raises(TrainingError, match="made with another preprocessing"):
        losses(solver, SPEC + ",cache=old.npz", count=1)
    with pytest.raises(TrainingError, match="other data or another transform"):
        losses(solver, "old.npz", count=1)
    assert losses(solver, "old.npz,unchecked", count=1)
    Path("net.prototxt").write_text(net.replace("scale: 0.01", "scale: 0.01 mirror: true", 1))
    with pytest.raises(TrainingError, match="do not match random views"):
        losses(solver, "old.npz,unchecked", count=1)


def test_random_pictures_are_answered_as_the_net_sees_them(solver: Path) -> None:
    net = Path("net.prototxt").read_text()
    Path("net.prototxt").write_text(net.replace("scale: 0.01", "scale: 0.01 mirror: true", 1))
    made = Solver(solver, device="cpu", display=Silent(), references=[SPEC], pct=["kd"])
    made.step()
    source = made.nets[0].sources[0]
    seen = [source.batch(np.arange(4), draw=draw) for draw in range(8)]
    assert any(not torch.equal(seen[0]["reference/old"], batch["reference/old"]) for batch in seen)
    from fusion import build, load_weights
    from fusion.nets.build import restrict_to_blobs

    old = build("old.prototxt", shapes={"data": (4, 1, 5, 6), "label": (4,)})
    load_weights(old, "old.caffemodel")
    for batch in seen:
        torch.testing.assert_close(
            restrict_to_blobs(old, ["ip"])({"data": batch["data"]})["ip"], batch["reference/old"]
        )


def test_modules_ensembles_and_subsets_of_classes(solver: Path, write_old: Callable[..., None]) -> None:
    write_old(outputs=2, seed=7, name="pair")
    module = nn.Sequential(nn.Flatten(), nn.Linear(30, 3))
    pair = "pair.prototxt:pair.caffemodel,classes=0,2"
    assert losses(solver, Reference(module, name="mine", pixels="blob"), SPEC, pair, pct=["ldi,weight=0.1", "naive"])
    half = nn.Sequential(nn.Flatten(), nn.Linear(30, 3)).bfloat16()
    half.load_state_dict(module.state_dict())
    whole, rounded = (losses(solver, Reference(each, pixels="blob"), pct=["kd"]) for each in (module, half))
    np.testing.assert_allclose(rounded, whole, rtol=0.05)
    assert rounded != whole
    same = losses(solver, SPEC + ",ensemble=two", SPEC + ",ensemble=two", pct=["kd"])
    np.testing.assert_allclose(same, losses(solver, SPEC, pct=["kd"]), rtol=1e-5)
    np.testing.assert_allclose(
        losses(solver, SPEC, SPEC, pct=["elodi,margin=0.1"]), losses(solver, SPEC, pct=["ldi,margin=0.1"]), rtol=1e-5
    )


def test_members_of_different_classes_are_averaged_where_they_know_them(
    solver: Path, write_old: Callable[..., None]
) -> None:
    write_old(outputs=2, seed=7, name="pair")
    pair = "pair.prototxt:pair.caffemodel"
    made = Solver(
        solver,
        device="cpu",
        display=Silent(),
        references=[f"{pair},classes=0,2,ensemble=x", f"{pair},classes=1,2,ensemble=x", f"{pair},classes=0,2,name=one"],
        pct=["kd"],
    )
    assert made.nets[0].models[0].classes == (0, 1, 2)
    batch = made.nets[0].sources[0].batch(np.arange(4))
    one = torch.log_softmax(batch["reference/one"], 1)
    torch.testing.assert_close(batch["reference/x"], one[:, [0, 0, 1]])


def test_an_onnx_model(solver: Path) -> None:
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((3, 30)).astype(np.float32), "w")
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["f"]),
        onnx.helper.make_node("Gemm", ["f", "w"], ["y"], transB=1),
    ]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1, 5, 6])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], [weight])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]), "old.onnx")
    made = Solver(solver, device="cpu", display=Silent(), references=["old.onnx,pixels=blob"], pct=["kd"])
    made.step()
    batch = made.nets[0].sources[0].batch(np.arange(4))
    expected = batch["data"].flatten(1) @ torch.from_numpy(onnx.numpy_helper.to_array(weight).copy()).T
    torch.testing.assert_close(batch["reference/old"], expected)


def test_an_onnx_model_is_read_up_to_its_softmax(solver: Path) -> None:
    onnx = pytest.importorskip("onnx")
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((3, 30)).astype(np.float32), "w")
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["f"]),
        onnx.helper.make_node("Gemm", ["f", "w"], ["z"], transB=1),
        onnx.helper.make_node("Softmax", ["z"], ["y"]),
    ]
    values = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 5, 6]),
              onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])]  # fmt: skip
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=9), "old.onnx")
    made = Solver(
        solver,
        device="cpu",
        display=Silent(),
        references=[f"{each},pixels=blob" for each in ("old.onnx", "old.onnx@y,name=p")],
        pct=["kd"],
    )
    made.step()
    batch = made.nets[0].sources[0].batch(np.arange(4))
    expected = batch["data"].flatten(1) @ torch.from_numpy(onnx.numpy_helper.to_array(weight).copy()).T
    torch.testing.assert_close(batch["reference/old"], expected)
    torch.testing.assert_close(batch["reference/p"], expected.softmax(1))


def test_weights_grow(solver: Path) -> None:
    task = losses(solver, pct=(), count=1)[0]
    full = losses(solver, SPEC, pct=["kd"], count=1)[0]
    late = losses(solver, SPEC + ",start=2,warmup=2", pct=["kd"], count=4)
    assert late[:2] == pytest.approx(losses(solver, pct=(), count=2))
    first = losses(solver, SPEC + ",warmup=4", pct=["kd"], count=1)[0]
    assert first == pytest.approx(task + (full - task) / 4, rel=1e-5)
    made = Solver(solver, device="cpu", display=Silent(), references=[SPEC + ",warmup=4"], pct=["kd"])
    made.step(6)
    assert made.engine.closed is not None
    assert [made.nets[0].warmups[0].at(i) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_new_features_are_held_to_the_old_classifier(project) -> None:  # type: ignore[no-untyped-def]
    """The old classifier is there with its weights, does not learn, and costs what the function says."""
    solver = project(frozen=False, snapshot=20)
    text = Path("net.prototxt").read_text()
    Path("old.prototxt").write_text(text)
    held = {"device": "cpu", "display": Silent()}
    old = Solver(solver, **held)  # type: ignore[arg-type]
    old.train()
    spec = "old.prototxt:small_iter_20.caffemodel,name=old,classes=2,0,1"
    made = Solver(solver, references=[spec], pct=["bct,on=trunk,weight=0.5"], **held)  # type: ignore[arg-type]
    plain = Solver(solver, **held)  # type: ignore[arg-type]
    weight, bias = old.net.ip.weight.detach(), old.net.ip.bias.detach()
    source = plain.nets[0].sources[0]
    batch = source.batch(next(source.order()))
    from fusion import blobs, params, pct

    kept = params(made.net)["trunk/as/old"]
    assert torch.equal(kept[0], weight)
    assert torch.equal(kept[1], bias)
    target = batch["label"].long()
    added = pct.bct(new=blobs(plain.net, batch)["trunk"], weight=weight, bias=bias, target=target, classes=[2, 0, 1])
    assert made.step() == pytest.approx(plain.step() + 0.5 * added.item(), rel=1e-6)
    made.step(5)
    assert torch.equal(params(made.net)["trunk/as/old"][0], weight)
    assert made.nets[0].sources[0].tops == ("data", "label"), "nobody asks the old net for its answers"


def test_a_blob_of_the_graph(solver: Path) -> None:
    net = Path("net.prototxt").read_text()
    side = """layer { name: "side" type: "InnerProduct" bottom: "trunk" top: "side" param { lr_mult: 0 }
      param { lr_mult: 0 } inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }"""
    Path("net.prototxt").write_text(net + side)
    assert losses(solver, "@side,classes=0,2", pct=["lm,weight=0.1"]) != losses(solver, pct=())


@pytest.mark.parametrize(
    ("references", "pct", "message"),
    [
        ([], ["kd"], "without a reference"),
        ([SPEC], ["kd,of=nobody"], "no reference is called nobody"),
        ([SPEC], ["kdd"], "no loss 'kdd'"),
        ([SPEC], ["kd,margin=1"], "no option 'margin'"),
        ([SPEC + ",classes=0,1"], ["kd"], "3] values per record for 2 classes"),
        (["old.prototxt"], ["kd"], "needs trained weights"),
        (["old.caffemodel"], ["kd"], "needs its net, not its weights alone"),
        ([SPEC + ",color=red"], ["kd"], "unknown option 'color'"),
        ([SPEC + ",weight=red"], ["kd"], "weight is a number"),
        ([SPEC + ",weight=-1"], ["kd"], "weight is 0 or more, not -1"),
        ([SPEC + ",start=-5"], ["kd"], "start is 0 or more, not -5"),
        ([SPEC], ["kd,weight=nan"], "weight is 0 or more, not nan"),
        ([SPEC + "@nothing"], ["kd"], "no blob 'nothing'"),
        ([SPEC], ["cna"], "needs on=BLOB"),
        ([SPEC], ["cna,on=trunk"], "where the frozen part ends"),
        ([SPEC], ["bct"], "needs on=BLOB"),
        ([SPEC], ["bct,on=trunk,tau=1"], "takes weight"),
        ([SPEC], ["bct,on=trunk"], "'trunk' has 8 features, the classifier of 'old' reads 30"),
        ([SPEC + "@data"], ["bct,on=trunk"], "a ImageData layer computes 'data', not an InnerProduct"),
        ([SPEC + ",ensemble=a", SPEC + ",ensemble=a"], ["bct,on=trunk"], "which 'a' does not have"),
    ],
)
def test_mistakes_are_named(solver: Path, references: list[str], pct: list[str], message: str) -> None:
    with pytest.raises(FusionError) as caught:
        losses(solver, *references, pct=pct, count=1)
    assert message in str(caught.value)
    assert isinstance(caught.value, (TrainingError, ComposeError, FusionError))


def test_a_run_is_continued_exactly(project: Callable[..., Path], write_old: Callable[..., None]) -> None:
    solver = project(snapshot=4, max_iter=8)
    write_old()
    options = {"device": "cpu", "display": Silent(), "references": [SPEC + ",warmup=6"], "pct": ["kd,weight=0.1"]}
    whole = Solver(solver, **options)
    whole.train()
    expected = whole.net.ip.weight.detach().clone()
    again = Solver(solver, **options)
    again.restore("small_iter_4.solverstate")
    again.train()
    assert torch.equal(again.net.ip.weight, expected)


def test_command_lines() -> None:
    reference = parse_reference("a.prototxt:a.caffemodel+b.caffemodel@ip2,classes=1,3-5,weight=0.5,half,start=3")
    assert (reference.net, reference.weights, reference.blob) == ("a.prototxt", ("a.caffemodel", "b.caffemodel"), "ip2")
    assert (reference.classes, reference.weight, reference.half, reference.start) == ((1, 3, 4, 5), 0.5, True, 3)
    objective = parse_pct("focal,distance=l2,weight=2,of=a+b,on=ip")
    assert (objective.pct.weight, objective.pct.options, objective.of, objective.on) == (
        2,
        {"distance": "L2"},
        ("a", "b"),
        "ip",
    )


def test_a_member_without_a_share_says_nothing(solver: Path, write_old: Callable[..., None]) -> None:
    write_old(outputs=2, seed=7, name="pair")
    full, pair = f"{SPEC},ensemble=two", "pair.prototxt:pair.caffemodel,classes=0,2,ensemble=two"
    alone = losses(solver, SPEC, pct=["kd"])
    three = [f"{full},classes=0-2", f"{pair},weight=0"]
    assert losses(solver, *three, pct=["kd"]) == alone
    assert losses(solver, *reversed(three), pct=["kd"]) == alone
    assert losses(solver, f"{full},classes=0-2,weight=0.5", f"{pair},weight=0", pct=["kd"]) == alone
    # Class 1 is known to the one without a share alone: it is left out, not 0 / 0.
    only = losses(solver, f"{full},classes=0-2,weight=0", pair, pct=["kd"])
    assert only == losses(solver, "pair.prototxt:pair.caffemodel,classes=0,2", pct=["kd"])
    with pytest.raises(TrainingError, match="ensemble 'two': every member has weight 0"):
        losses(solver, f"{full},weight=0", f"{full},weight=0", pct=["kd"])


def test_logits_that_are_missing_are_counted(solver: Path) -> None:
    losses(solver, SPEC + ",cache=old.npz", count=1)
    whole = Predictions.load("old.npz")
    gone = whole.labels == 1
    some = whole.take(~gone)
    some.save("some.npz")
    first = str(whole.keys[gone][0])
    message = rf"some\.npz: no logits for {gone.sum()} of {len(whole)} records, the first is '{first}'"
    with pytest.raises(TrainingError, match=message):
        losses(solver, "some.npz", pct=["kd"], count=1)
    # A reference that knows two classes may leave out the records of others: they get no say, and so no wrong one.
    Predictions(some.keys, some.labels, some.logits[:, [0, 2]], meta=some.meta).save("two.npz")
    Predictions(whole.keys, whole.labels, whole.logits[:, [0, 2]], meta=whole.meta).save("kept.npz")
    pair = [f"{name}.npz,classes=0,2,name=pair" for name in ("two", "kept")]
    assert losses(solver, pair[0], pct=["kd"]) == losses(solver, pair[1], pct=["kd"]) != losses(solver, pct=[])
    with pytest.raises(TrainingError, match=rf"two\.npz: no logits for {gone.sum()} of"):
        losses(solver, "two.npz,classes=0,1", pct=["kd"], count=1)


def test_a_file_that_joins_nets_is_no_reference(solver: Path) -> None:
    losses(solver, SPEC + ",cache=old.npz", count=1)
    whole = Predictions.load("old.npz")
    logits = whole.logits.copy()
    logits[3:5, 1] = -np.inf
    Predictions(whole.keys, whole.labels, logits, meta=whole.meta).save("joined.npz")
    message = (
        rf"joined\.npz: no finite logits of all classes for 2 of {len(whole)} records, the first is '{whole.keys[3]}'"
    )
    with pytest.raises(TrainingError, match=message):
        losses(solver, "joined.npz", pct=["kd"], count=1)


def test_a_net_of_two_inputs_reads_both(solver: Path) -> None:
    """Blobs of images go to its inputs of the same names; with one input, the blob must be the only one."""
    inputs = 'layer {{ name: "{0}" type: "Input" top: "{0}" input_param {{ shape {{ dim: 1 dim: 2 }} }} }}\n'
    layer = """layer {{ name: "ip" type: "InnerProduct" bottom: "{}" top: "ip"
      inner_product_param {{ num_output: 2 }} }}"""
    total = """layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum"
      eltwise_param { coeff: 1 coeff: 2 } }"""
    Path("two.prototxt").write_text(inputs.format("a") + inputs.format("b") + total + layer.format("sum"))
    Path("one.prototxt").write_text(inputs.format("c") + layer.format("c"))
    for name, size in (("two", 2), ("one", 3)):
        write_weights(f"{name}.caffemodel", {"ip": [np.eye(2, size, dtype=np.float32), np.zeros(2, np.float32)]})
    source: Any = SimpleNamespace(shapes={"a": (4, 2), "b": (4, 2)}, label_tops=())
    two = Reference("two.prototxt", weights=["two.caffemodel"], blob="ip")
    (model,) = open_models([two], source, torch.device("cpu"))
    answer = model.members[0].answer
    assert answer is not None
    assert answer({"a": torch.ones(1, 2), "b": torch.tensor([[3.0, 4.0]])}).tolist() == [[7.0, 9.0]]
    one = Reference("one.prototxt", weights=["one.caffemodel"], blob="ip")
    with pytest.raises(TrainingError, match="takes one image blob, and the data layers provide a, b"):
        open_models([one], source, torch.device("cpu"))
