"""Losses towards references in a net: the student comes first and learns, and no reference does."""

from __future__ import annotations

import pytest

import fusion
import prototxt
from fusion.errors import BuildError
from fusion.layers.registry import Phase

KINDS = (*("KDLoss", "FocalDistillationLoss", "LogitMatchingLoss", "LDILoss", "ELODILoss", "NaivePCTLoss", "CNALoss"),)
DATA = """layer { name: "in" type: "Input" top: "data" top: "label" input_param {
  shape { dim: 4 dim: 3 } shape { dim: 4 } } }
"""
FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 }"


def dense(name: str, bottom: str = "data", params: str = "", further: str = "") -> str:
    body = f'{params} {further} inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }}'
    return f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {body} }}\n'


def loss(kind: str, *bottoms: str, further: str = "") -> str:
    named = " ".join(f'bottom: "{name}"' for name in (*bottoms, "label"))
    return f'layer {{ name: "hold" type: "{kind}" {named} top: "hold" loss_weight: 1 {further} }}\n'


def build(text: str, phase: Phase = "TRAIN") -> fusion.Net:
    task = 'layer { name: "ce" type: "SoftmaxWithLoss" bottom: "s" bottom: "label" top: "ce" }\n'
    return fusion.build(prototxt.load_net(prototxt.parse(DATA + text + task)), phase=phase)


@pytest.mark.parametrize("kind", KINDS)
def test_the_student_comes_first(kind: str) -> None:
    nets = dense("s") + dense("t", params=FROZEN)
    build(nets + loss(kind, "s", "t"))
    with pytest.raises(BuildError, match=r"'hold': no learnable parameter lies below 't'[^$]*put 's' there"):
        build(nets + loss(kind, "t", "s"))
    build(nets + loss(kind, "t", "s"), "TEST")  # it only measures
    with pytest.raises(BuildError, match=r"no learnable parameter lies below 't'[^$]*thaw layers below it"):
        build(nets + loss(kind, "t", "t"))


@pytest.mark.parametrize("kind", KINDS)
def test_references_stay(kind: str) -> None:
    below = dense("old1") + dense("t", "old1", FROZEN)
    with pytest.raises(BuildError, match=r"'hold': its reference 't' would change in training, since old1 below it l"):
        build(dense("s") + below + loss(kind, "s", "t"))
    build(dense("s") + dense("old1", params=FROZEN) + dense("t", "old1", FROZEN) + loss(kind, "s", "t"))


def test_every_reference_is_looked_at() -> None:
    text = dense("s") + dense("t", params=FROZEN) + dense("u", params="param { lr_mult: 0 }")  # its bias learns
    with pytest.raises(BuildError, match="its reference 'u' would change"):
        build(text + loss("KDLoss", "s", "t", "u"))


def test_a_shared_blob_learns_where_its_owner_does() -> None:
    own = 'param { name: "w" lr_mult: 1 } param { name: "b" lr_mult: 1 }'
    lent = 'param { name: "w" } param { name: "b" }'
    with pytest.raises(BuildError, match="its reference 't' would change in training, since t below it learns"):
        build(dense("s", params=own) + dense("t", params=lent) + loss("KDLoss", "s", "t"))


def test_a_batchs_statistics_move_a_reference() -> None:
    normal = 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" %s }\n'
    rest = dense("s") + dense("t", "bn", FROZEN) + loss("KDLoss", "s", "t")
    with pytest.raises(BuildError, match="since bn below it learns"):
        build(normal % "" + rest)
    build(normal % "batch_norm_param { use_global_stats: true }" + rest)
    # On the student's side they are as good as anywhere, and no parameter that a gradient would reach.
    student = normal % "" + dense("s", "bn") + dense("t", params=FROZEN)
    build(student + loss("KDLoss", "s", "t"))
    with pytest.raises(BuildError, match="no learnable parameter lies below 'bn'"):
        build(student + loss("CNALoss", "bn", "t"))


def test_a_gradient_that_is_blocked_teaches_nothing() -> None:
    top = dense("head", "s", FROZEN, "propagate_down: false") + dense("t", params=FROZEN)
    with pytest.raises(BuildError, match="no learnable parameter lies below 'head'"):
        build(dense("s") + top + loss("KDLoss", "head", "t"))
    with pytest.raises(BuildError, match="no learnable parameter lies below 's'"):
        build(dense("s") + top + loss("KDLoss", "s", "t", further="propagate_down: [false, false, false]"))
    with pytest.raises(BuildError, match="its reference 'head' would change in training, since s below it"):
        build(dense("s") + top + loss("KDLoss", "s", "head"))


def test_the_old_classifier_reads_what_learns() -> None:
    built = dense("s") + dense("old", "s", FROZEN)
    build(built + loss("BCTLoss", "old"))
    with pytest.raises(BuildError, match="no learnable parameter lies below 'old'"):
        build(dense("s") + dense("old", "data", FROZEN) + loss("BCTLoss", "old"))


def test_in_place_layers_stand_for_their_version() -> None:
    relu = 'layer { name: "relu" type: "ReLU" bottom: "t" top: "t" }\n'
    build(dense("s") + dense("t", params=FROZEN) + relu + loss("KDLoss", "s", "t"))
    with pytest.raises(BuildError, match="since t below it learns"):
        build(dense("s") + dense("t") + relu + loss("KDLoss", "s", "t"))


def test_layers_of_one_name_are_told_apart() -> None:
    text = dense("s") + dense("t", params=FROZEN) + loss("KDLoss", "s", "t")
    further = loss("KDLoss", "s", "t", "t").replace('top: "hold"', 'top: "hold2"')
    build(text + further)
    with pytest.raises(BuildError, match="no learnable parameter lies below 't'"):
        build(text + further.replace('bottom: "s"', 'bottom: "t"'))
