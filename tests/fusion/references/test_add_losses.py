"""The layers that references add to a net, and the weights that its own losses keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from fusion.composition import Pct
from fusion.errors import FusionError, TrainingError
from fusion.references import Reference, open_models
from fusion.references.add_losses import ClassificationTask, NetWithLosses, add_losses, find_task, models_with_logits
from fusion.references.loss_warmup import LossWarmup
from fusion.references.models import Model, class_scores_blob, combine_logits
from fusion.references.parse import Objective, parse_pct
from prototxt import parse
from prototxt.schema.load import load_net
from prototxt.schema.messages import NetParameter

TASK = ClassificationTask("ip", "label", 3)
NET = """layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "twice" type: "EuclideanLoss" bottom: "ip" bottom: "t" top: "e" loss_weight: 2 }
"""


def net(text: str = NET) -> NetParameter:
    return load_net(parse(text))


def models(*references: Reference) -> list[Model]:
    return open_models(references, {"data": (4, 30), "label": (4,)}, torch.device("cpu"))


def module(name: str = "old", **options: Any) -> Reference:
    return Reference(nn.Flatten(), name=name, pixels="blob", **options)


def added(references: Sequence[Reference], *pct: str, text: str = NET, **options: Any) -> NetWithLosses:
    return add_losses(net(text), TASK, models(*references), [parse_pct(each) for each in pct], **options)


def weights(found: NetWithLosses) -> dict[str, list[float]]:
    return {layer.name: pytest.approx(list(layer.loss_weight)) for layer in found.net.layer if layer.loss_weight}


def test_weights_are_multiplied() -> None:
    found = added([module(weight=0.5), module("new")], "kd,weight=3", "focal")
    assert weights(found) == {
        "twice": [2], "kd_old": [1.5], "kd_new": [3], "focal_old": [0.5], "focal_new": [1]
    }  # fmt: skip
    assert found.layers == (("kd_old", "kd_new"), ("focal_old", "focal_new"))
    assert [layer.name for layer in found.net.layer][:3] == ["reference/old", "reference/new", "ip"]
    shared = added([module(weight=0.5)], "kd,weight=3", kd_alpha=0.25)
    assert weights(shared) == {"loss": [0.75], "twice": [1.5], "kd_old": [0.375]}
    for alpha, task, loss in ((0.0, 1, 0), (1.0, 0, 1)):
        ends = weights(added([module()], "kd", kd_alpha=alpha))
        assert (ends["loss"], ends["kd_old"]) == ([task], [loss])


def test_a_weight_in_an_ensemble_is_a_share() -> None:
    pair = [module(ensemble="two", weight=0.5), module("new", ensemble="two", weight=0.25)]
    assert weights(added(pair, "kd,weight=3"))["kd_two"] == [3]
    elodi = added([module(weight=0.5), module("new", weight=0.25)], "elodi,weight=3")
    (layer,) = [each for each in elodi.net.layer if each.type == "ELODILoss"]
    assert list(layer.pct_param.reference_weight) == [0.5, 0.25]
    assert list(layer.loss_weight) == [3]


def test_objectives_apply_to_the_references_that_they_name() -> None:
    found = added([module(), module("new")], "kd,of=new", "focal,of=old+new")
    assert found.layers == (("kd_new",), ("focal_old", "focal_new"))
    both = models(module(), module("new"))
    bct, kd = (Objective(Pct(kind), on="f", of=("new",)) for kind in ("bct", "kd"))
    assert [each.name for each in models_with_logits(both, [])] == ["old", "new"]
    assert [each.name for each in models_with_logits(both, [bct])] == []
    assert [each.name for each in models_with_logits(both, [bct, kd])] == ["new"]


def test_schedules_are_those_of_the_references() -> None:
    references = [module(start=3), module("new", warmup=5), module("plain")]
    assert added(references, "kd").schedules == {"kd_old": (3, 0), "kd_new": (0, 5)}


def test_names_of_layers_are_fresh() -> None:
    taken = NET.replace('name: "twice"', 'name: "kd_old"')
    found = added([module()], "kd", "kd,weight=2", text=taken)
    assert found.layers == (("kd_old2",), ("kd_old3",))
    tops = {layer.name: list(layer.top) for layer in found.net.layer}
    assert (tops["kd_old2"], tops["kd_old3"]) == (["kd_old2"], ["kd_old3"])


@pytest.mark.parametrize("alpha", [-0.01, 1.01])
def test_shares_lie_between_0_and_1(alpha: float) -> None:
    with pytest.raises(TrainingError, match=r"kd_alpha must lie in \[0, 1\]"):
        added([module()], "kd", kd_alpha=alpha)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(FusionError) as caught:
        added([module()], "kd,of=x+old", "cna", "cna,on=ip,margin=2", "bct,on=ip,tau=1", kd_alpha=2)
    assert [error.message.split(":")[0] for error in caught.value.errors] == [
        "kd_alpha must lie in [0, 1], not 2", "--pct kd", *["--pct cna compares features"] * 2,
        "--pct bct compares features",
    ]  # fmt: skip
    assert "no reference is called x" in str(caught.value)
    with pytest.raises(TrainingError, match="a loss towards references without a reference"):
        added([], "kd")


def test_the_task_is_that_of_the_net() -> None:
    assert find_task(net(), {"ip": (4, 3)}) == TASK
    for shapes in ({"ip": (3,)}, {}):
        with pytest.raises(TrainingError, match="no loss compares 'ip' with labels"):
            find_task(net(), shapes)
    without = NET.replace('"SoftmaxWithLoss" bottom: "ip" bottom: "label"', '"Softmax" bottom: "ip"')
    with pytest.raises(TrainingError, match="no loss compares 'ip' with labels"):
        find_task(net(without.split('layer { name: "twice"')[0]), {"ip": (4, 3)})


def test_scores_are_the_bottom_of_losses_before_measures() -> None:
    loss = 'layer { name: "l%s" type: "SoftmaxWithLoss" bottom: "%s" bottom: "label" top: "l%s" }\n'
    accuracy = 'layer { name: "acc" type: "Accuracy" bottom: "c" bottom: "label" top: "acc" }\n'
    softmax = 'layer { name: "p" type: "Softmax" bottom: "d" top: "p" }\n'
    assert class_scores_blob(net(softmax + accuracy + loss % ("a", "a", "a"))) == "a"
    assert class_scores_blob(net(softmax + accuracy)) == "c"
    assert class_scores_blob(net(softmax)) == "d"
    assert class_scores_blob(net(accuracy + loss % ("a", "a", "a") + loss % ("b", "b", "b"))) == "c"
    with pytest.raises(TrainingError, match="which blob holds the class scores"):
        class_scores_blob(net(loss % ("a", "a", "a") + loss % ("b", "b", "b")))


def test_ensembles_that_cannot_be_averaged() -> None:
    with pytest.raises(TrainingError, match="ensemble 'two': members of different classes"):
        models(module(ensemble="two", classes=[0, 1]), module("new", ensemble="two"))
    with pytest.raises(TrainingError, match="ensemble 'two': a blob of the graph cannot be a member"):
        models(module(ensemble="two"), Reference(None, blob="side", ensemble="two"))
    (one,) = models(Reference(None, blob="side", ensemble="two"))
    assert (one.blob, one.members[0].in_graph) == ("side", True)
    (other,) = models(module())
    assert (other.blob, other.members[0].in_graph) == ("reference/old", False)


def test_logits_are_averaged_by_their_shares() -> None:
    (pair,) = models(module(ensemble="x", weight=3.0), module("new", ensemble="x"))
    one, other = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, -2.0]])
    assert combine_logits(pair, [one, other]).tolist() == [[2.0, 1.0]]
    (mixed,) = models(module(ensemble="x", weight=3.0, classes=[0, 2]), module("new", ensemble="x", classes=[2, 1]))
    assert mixed.classes == (0, 1, 2)
    first, second = torch.log_softmax(one, 1)[0], torch.log_softmax(other, 1)[0]
    expected = torch.stack([first[0], second[1], (3 * first[1] + second[0]) / 4])
    torch.testing.assert_close(combine_logits(mixed, [one, other])[0], expected)


def test_a_factor_of_a_loss_is_no_weight_of_the_net() -> None:
    warmup = LossWarmup(nn.Identity(), start=2, warmup=4)
    assert warmup.state_dict() == {}
    assert [warmup.at(iteration) for iteration in range(8)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [LossWarmup(nn.Identity(), 2, 0).at(iteration) for iteration in range(4)] == [0, 0, 1, 1]
    assert warmup(torch.tensor(3.0)) == 3
    warmup.set(3)
    assert warmup(torch.tensor(3.0)) == 1.5
