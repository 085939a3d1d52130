"""The prototxt loss layers: the functions' numbers, settings from pct_param, refusals with the layer's name."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import fusion
import prototxt
from fusion import pct
from fusion.composition import Pct
from fusion.composition.references import pct_options
from fusion.errors import BuildError
from fusion.layers.pct import check_classifiers

NET = """
layer { name: "in" type: "Input" top: "z" top: "t" top: "u" top: "label" input_param {
  shape { dim: 6 dim: 5 } shape { dim: 6 dim: %d } shape { dim: 6 dim: %d } shape { dim: 6 } } }
layer { name: "fit" type: "%s" bottom: "z" %s top: "loss" loss_weight: 0.5 pct_param { %s } }
"""
LABELS = torch.tensor([0, 3, 1, 4, 2, 1])


def tensors(width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = {
        name: torch.randn(6, columns, generator=generator) for name, columns in (("z", 5), ("t", width), ("u", width))
    }
    draw["z"].requires_grad_()
    return {**draw, "label": LABELS.float()}


def net(kind: str, settings: str, width: int, bottoms: str = "t label") -> fusion.Net:
    named = " ".join(f'bottom: "{name}"' for name in bottoms.split())
    return fusion.build(prototxt.load_net(prototxt.parse(NET % (width, width, kind, named, settings))), phase="TRAIN")


SUBSET = {"classes": [1, 3, 4]}
CASES = [
    ("KDLoss", "", pct.kd, {"temperature": 5.0}),
    ("KDLoss", "temperature: 2 classes: [1, 3, 4]", pct.kd, {"temperature": 2.0, **SUBSET}),
    ("FocalDistillationLoss", "", pct.focal_distillation, {"temperature": 100.0, "alpha": 1, "beta": 5}),
    ("FocalDistillationLoss", "alpha: 0 beta: 2 classes: [1, 3, 4]", pct.focal_distillation,
     {"alpha": 0, "beta": 2, **SUBSET}),
    ("FocalDistillationLoss", "distance: L2", pct.focal_distillation, {"distance": "l2"}),
    ("FocalDistillationLoss", "distance: LI margin: 0.1 filter: NEG_FLIP", pct.ldi,
     {"margin": 0.1, "filter": "neg_flip"}),
    ("LogitMatchingLoss", "filter: NEW_INCORRECT", pct.logit_matching, {"filter": "new_incorrect"}),
    ("LDILoss", "", pct.ldi, {}),
    ("LDILoss", "topk: 2 p: 3 exclude_gt: true one_sided: true relative: true p_norm: true margin: 0", pct.ldi,
     {"topk": 2, "p": 3, "exclude_gt": True, "one_sided": True, "relative": True, "p_norm": True, "margin": 0}),
    ("NaivePCTLoss", "classes: [1, 3, 4]", pct.naive, SUBSET),
    ("CNALoss", "tau: 0.1 neighbours: 2 inside: true", pct.cna, {"tau": 0.1, "neighbours": 2, "inside": True}),
    ("CNALoss", "tau: 0.1 classes: [1, 3, 4]", pct.cna, {"tau": 0.1, **SUBSET}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "loss", "given"), CASES)
def test_a_layer_is_its_function(kind: str, settings: str, loss: object, given: dict[str, object]) -> None:
    width = len(given.get("classes", range(5)))
    inputs = tensors(width)
    built = net(kind, settings, width)
    expected = loss(new=inputs["z"], old=inputs["t"], target=LABELS, **given)
    out = built(inputs)
    torch.testing.assert_close(out["loss"], expected)
    torch.testing.assert_close(fusion.nets.build.total_loss(built, out), 0.5 * expected)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(built)))
    torch.testing.assert_close(twin(inputs)["loss"], expected)


def test_several_references() -> None:
    inputs = tensors(5)
    new, old = inputs["z"], [inputs["t"], inputs["u"]]
    each = [pct.kd(new=new, old=t, target=LABELS) for t in old]
    torch.testing.assert_close(net("KDLoss", "", 5, "t u label")(inputs)["loss"], (each[0] + each[1]) / 2)
    weighted = net("KDLoss", "reference_weight: [0.4, 0.6]", 5, "t u label")
    torch.testing.assert_close(weighted(inputs)["loss"], 0.4 * each[0] + 0.6 * each[1])
    mean = net("ELODILoss", "reference_weight: [1, 3] margin: 0.2", 5, "t u label")
    expected = pct.elodi(new=new, old=old, target=LABELS, reference_weights=[1, 3], margin=0.2)
    torch.testing.assert_close(mean(inputs)["loss"], expected)
    features = [pct.cna(new=new, old=t, tau=0.1) for t in old]
    torch.testing.assert_close(net("CNALoss", "tau: 0.1", 5, "t u label")(inputs)["loss"], sum(features) / 2)
    torch.testing.assert_close(net("CNALoss", "tau: 0.1", 5, "t u")(inputs)["loss"], sum(features) / 2)


@pytest.mark.parametrize(("kind", "bottoms"), [("CNALoss", "t"), ("BCTLoss", "label")])
def test_a_feature_loss_above_a_frozen_trunk_is_refused(kind: str, bottoms: str) -> None:
    inputs = {name: tensor.detach() for name, tensor in tensors(5).items()}
    built = net(kind, "", 5, bottoms)
    with pytest.raises(fusion.TrainingError, match="layer 'fit': no learnable parameter lies below 'z'"):
        built(inputs)
    with torch.no_grad():
        assert built(inputs)["loss"].isfinite()
    inputs["z"].requires_grad_()
    assert built(inputs)["loss"].isfinite()


def test_bct_holds_new_features_to_the_old_classifier() -> None:
    text = """
    layer { name: "in" type: "Input" top: "features" top: "label"
            input_param { shape { dim: 6 dim: 4 } shape { dim: 6 } } }
    layer { name: "old" type: "InnerProduct" bottom: "features" top: "scores" inner_product_param { num_output: 3
            weight_filler { type: "xavier" } } param { lr_mult: 0 } param { lr_mult: 0 } }
    layer { name: "fit" type: "BCTLoss" bottom: "scores" bottom: "label" top: "loss"
            pct_param { classes: [1, 3, 4] classifier: "old" } }
    """
    built = fusion.build(prototxt.load_net(prototxt.parse(text)), phase="TRAIN", seed=0)
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight, bias = fusion.params(built)["old"]
    out = built({"features": features, "label": LABELS.float()})["loss"]
    torch.testing.assert_close(out, pct.bct(new=features, weight=weight, bias=bias, target=LABELS, classes=[1, 3, 4]))
    out.backward()
    assert features.grad.any()
    assert weight.grad is None


FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 }"


@pytest.mark.parametrize(
    ("param", "settings", "message"),
    [
        ("", "", "layer 'fit': its old classifier 'old' is not frozen"),
        ("param { lr_mult: 0 }", "", "is not frozen"),
        (
            FROZEN,
            'classifier: "odd"',
            "'scores' is not a top of the classifier 'odd'",
        ),
        (FROZEN, "epsilon: 0.1", "does not use pct_param.epsilon"),
    ],
)
def test_an_old_classifier_that_is_none_is_refused(param: str, settings: str, message: str) -> None:
    text = f"""
    layer {{ name: "in" type: "Input" top: "features" top: "label"
            input_param {{ shape {{ dim: 6 dim: 4 }} shape {{ dim: 6 }} }} }}
    layer {{ name: "new" type: "InnerProduct" bottom: "features" top: "new" inner_product_param {{ num_output: 4 }} }}
    layer {{ name: "old" type: "InnerProduct" bottom: "new" top: "scores" {param}
            inner_product_param {{ num_output: 3 }} }}
    layer {{ name: "fit" type: "BCTLoss" bottom: "scores" bottom: "label" top: "loss" pct_param {{ {settings} }} }}
    """
    with pytest.raises(fusion.BuildError, match=message):
        fusion.build(prototxt.load_net(prototxt.parse(text)), phase="TRAIN", seed=0)


@pytest.mark.parametrize(
    ("param", "bias", "frozen"),
    [
        ("param { lr_mult: 0 }", "false", True),
        ("param { lr_mult: 0 } param { lr_mult: 0 }", "true", True),
        ("param { lr_mult: 0 } param { lr_mult: 0.1 }", "true", False),
        ("param { lr_mult: 2 } param { lr_mult: 0 }", "true", False),
        ("param { lr_mult: 0 }", "true", False),
        ("", "false", False),
    ],
)
def test_an_old_classifier_is_frozen_where_all_its_blobs_are(param: str, bias: str, frozen: bool) -> None:
    text = f"""
    layer {{ name: "old" type: "InnerProduct" bottom: "x" top: "scores" {param}
            inner_product_param {{ num_output: 3 bias_term: {bias} }} }}
    layer {{ name: "fit" type: "BCTLoss" bottom: "scores" bottom: "label" top: "loss"
            pct_param {{ classifier: "old" }} }}
    """
    errors = check_classifiers(prototxt.load_net(prototxt.parse(text)))
    found = [error.message for error in errors]
    assert found == ([] if frozen else ["layer 'fit': its old classifier 'old' is not frozen"])


@pytest.mark.parametrize(
    ("kind", "settings", "bottoms", "message"),
    [
        ("KDLoss", "topk: 3", "t label", "layer 'fit': KDLoss does not use pct_param.topk"),
        ("LDILoss", "temperature: 3 tau: 1", "t label", "pct_param.temperature, pct_param.tau"),
        ("KDLoss", "reference_weight: [1, 2]", "t label", "2 reference weights for 1 references"),
        ("CNALoss", "classes: [1, 3]", "t", "needs the labels"),
        ("CNALoss", "classes: [1, 3]", "label", "there are no reference features"),
        ("CNALoss", "", "label", "there are no reference features"),
    ],
)
def test_refusals(kind: str, settings: str, bottoms: str, message: str) -> None:
    with pytest.raises(fusion.BuildError, match=message):
        net(kind, settings, 5, bottoms)


def test_a_reference_without_a_share_says_nothing() -> None:
    inputs = tensors(5)
    inputs["u"] = torch.full((6, 5), -torch.inf)
    alone = net("KDLoss", "", 5)(inputs)["loss"]
    assert torch.equal(net("KDLoss", "reference_weight: [1, 0]", 5, "t u label")(inputs)["loss"], alone)
    for shares in ("[0, 0]", "[1, -1]", "[1, inf]"):
        with pytest.raises(BuildError, match="each is 0 or more, and one of them above 0"):
            net("KDLoss", f"reference_weight: {shares}", 5, "t u label")


@pytest.mark.parametrize(
    ("kind", "layer", "distance"),
    [("kd", "KDLoss", None), ("lm", "LogitMatchingLoss", None), ("ldi", "LDILoss", None), ("elodi", "ELODILoss", None)]
    + [("focal", "FocalDistillationLoss", distance) for distance in ("KL", "L2", "LI")],
)
def test_composition_offers_the_options_of_the_layers(kind: str, layer: str, distance: str | None) -> None:
    loss = Pct(kind, options={} if distance is None else {"distance": distance})
    with pytest.raises(BuildError) as error:
        net(layer, f"tau: 1 {'' if distance is None else f'distance: {distance}'}", 5)
    accepted = str(error.value.hint).removeprefix("it reads ").split(", ")
    assert {*accepted} == {*pct_options(loss), "classes", "reference_weight"}
