"""The net in use from the net in training: what goes, what stays, and that the rest keeps its bytes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from prototxt.edit.deploy import deploy
from prototxt.errors import EditError, PrototxtError, ShapeError
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.shapes import infer
from prototxt.text.parser import parse, parse_file

TRAIN_VAL = """name: "n"
# the training pictures
layer { name: "train" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
  transform_param { scale: 0.5 mirror: true } image_data_param { source: "none.txt" batch_size: 7 } }
# the pictures
layer { name: "test" type: "ImageData" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.5 } image_data_param { source: "none.txt" batch_size: 5 new_height: 8 new_width: 9 } }

# scores
layer {
  name: "ip"  # the only weights
  type: "InnerProduct"
  bottom: "data"
  top: "ip"
  inner_product_param { num_output: 4 }
}
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer {
  name: "loss"
  type: "SoftmaxWithLoss"
  bottom: "ip"
  bottom: "label"  # the truth
  top: "loss"
  softmax_param { axis: 1 } # kept
}
"""
DEPLOY = """name: "n"
# the pictures
# prepared as scale: 0.5
layer {
  name: "data"
  type: "Input"
  top: "data"
  input_param { shape { dim: 1 dim: 3 dim: 8 dim: 9 } }
}

# scores
layer {
  name: "ip"  # the only weights
  type: "InnerProduct"
  bottom: "data"
  top: "ip"
  inner_product_param { num_output: 4 }
}
layer {
  name: "prob"
  type: "Softmax"
  bottom: "ip"
  # the truth
  top: "prob"
  softmax_param { axis: 1 } # kept
}
"""


def deployed(text: str, **options: object) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(deploy(parse(text, "net.prototxt"), **options).document)  # type: ignore[arg-type]


def layers(text: str) -> list[tuple[str, str, list[str], list[str]]]:
    net = load_net(parse(text))
    return [(layer.name, layer.type, list(layer.bottom), list(layer.top)) for layer in net.layer]


def test_keeps_bytes_and_comments() -> None:
    done = deploy(parse(TRAIN_VAL))
    assert str(done.document) == DEPLOY
    assert [note.split(" ")[0] for note in done.notes] == ["SoftmaxWithLoss", "prepare"]


def test_is_done_once_and_for_all() -> None:
    assert deployed(DEPLOY) == DEPLOY
    assert deployed(DEPLOY, inputs={"data": (2, 3, 4, 5)}) == DEPLOY.replace(
        "input_param { shape { dim: 1 dim: 3 dim: 8 dim: 9 } }",
        "input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } }",
    )


def test_old_text_is_upgraded_first() -> None:
    old = (
        'layers { name: "d" type: DATA top: "d" top: "l" } layers { name: "i" type: INNER_PRODUCT bottom: "d" top: "i"'
    )
    old += ' inner_product_param { num_output: 2 } } layers { name: "s" type: SOFTMAX_LOSS bottom: "i" bottom: "l" }'
    old = old.replace('top: "l" }', 'top: "l" data_param { source: "none" batch_size: 3 } }')
    assert layers(deployed(old, inputs={"": (1, 3, 4, 4)})) == [
        ("d", "Input", [], ["d"]),
        ("i", "InnerProduct", ["d"], ["i"]),
        ("prob", "Softmax", ["i"], ["prob"]),
    ]


INPUT = 'layer { name: "d" type: "Input" top: "d" top: "y" input_param { shape { dim: 1 dim: 3 } shape { dim: 1 } } }\n'


def ip(name: str, bottom: str) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        "inner_product_param { num_output: 3 } }\n"
    )


def loss(bottoms: str, type_name: str = "SoftmaxWithLoss", more: str = "") -> str:
    return f'layer {{ type: "{type_name}" {" ".join(f"bottom: {b!r}" for b in bottoms.split())} {more} }}\n'


def test_auxiliary_losses_go_with_their_branches() -> None:
    text = INPUT + ip("a", "d") + ip("aux", "a") + loss("aux y", more="loss_weight: 0.3") + ip("b", "a") + loss("b y")
    assert [name for name, *_ in layers(deployed(text))] == ["d", "a", "b", "prob"]
    kept = layers(deployed(text, outputs=["aux"]))
    assert [name for name, *_ in kept] == ["d", "a", "aux"]


def test_a_deep_auxiliary_branch_goes_whole() -> None:
    aux = ip("aux", "a") + ip("aux2", "aux") + loss("aux2 y", more="loss_weight: 0.3")
    text = INPUT + ip("a", "d") + aux + ip("b", "a") + loss("b y")
    assert [name for name, *_ in layers(deployed(text))] == ["d", "a", "b", "prob"]
    equal = text.replace("loss_weight: 0.3", "loss_weight: 1")
    assert [name for name, *_ in layers(deployed(equal))] == ["d", "a", "aux", "aux2", "aux2_prob", "b", "b_prob"]


def test_several_tasks_stay() -> None:
    text = (
        INPUT + ip("a", "d") + loss("a y") + ip("b", "d") + loss("b y", "SigmoidCrossEntropyLoss", "loss_weight: 0.5")
    )
    assert [(name, kind) for name, kind, *_ in layers(deployed(text))][-2:] == [
        ("b", "InnerProduct"),
        ("b_prob", "Sigmoid"),
    ]


def test_a_score_that_is_there_is_not_made_twice() -> None:
    softmax = 'layer { name: "p" type: "Softmax" bottom: "a" top: "p" include { phase: TEST } }\n'
    text = INPUT + ip("a", "d") + softmax + loss("p y", "Accuracy", 'top: "acc"') + loss("a y")
    assert layers(deployed(text))[-1] == ("p", "Softmax", ["a"], ["p"])
    assert "include" not in deployed(text)


def test_another_reader_or_another_softmax_is_no_score() -> None:
    softmax = 'layer { name: "p" type: "Softmax" bottom: "b" top: "p" }\n'
    text = INPUT + ip("a", "d") + ip("b", "a") + softmax + loss("a y")
    assert layers(deployed(text))[-1] == ("prob", "Softmax", ["a"], ["prob"])
    assert ("p", "Softmax", ["b"], ["p"]) in layers(deployed(text))


def test_the_prediction_is_what_was_learnt() -> None:
    text = INPUT + ip("a", "d") + loss("d a", "EuclideanLoss")
    assert [name for name, *_ in layers(deployed(text))] == ["d", "a"]


def test_loss_of_the_other_phase_and_stage_deploy() -> None:
    staged = 'layer { name: "out" type: "Softmax" bottom: "a" top: "out" include { stage: "deploy" } }\n'
    text = INPUT + ip("a", "d") + loss("a y", more="include { phase: TRAIN }")
    assert layers(deployed(text))[-1][:2] == ("prob", "Softmax")
    assert layers(deployed(text + staged))[-1][:2] == ("out", "Softmax")


def test_lists_of_layers() -> None:
    text = 'layer: [{ name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 } } },'
    text += ' { name: "r" type: "ReLU" bottom: "d" top: "r" }]'
    assert [name for name, *_ in layers(deployed(text))] == ["d", "r"]


def test_missing_inputs_are_declared() -> None:
    text = ip("a", "x")
    with pytest.raises(ShapeError, match="--input-shape x=1,"):
        deployed(text)
    assert layers(deployed(text, inputs={"": (1, 3)}))[0] == ("x", "Input", [], ["x"])


def test_refusals() -> None:
    unknown = TRAIN_VAL.replace("new_height: 8 new_width: 9", "")
    with pytest.raises(ShapeError, match=r"input 'data' is not known(.|\n)*data=1,3,\?,\?"):
        deployed(unknown)
    with pytest.raises(ShapeError, match="'dat', which is not an input"):
        deployed(TRAIN_VAL, inputs={"dat": (1,)})
    with pytest.raises(EditError, match=r"no blob 'ipp'(.|\n)*did you mean 'ip'"):
        deployed(TRAIN_VAL, outputs=["ipp"])
    with pytest.raises(EditError, match="nothing would be left"):
        deployed('base_lr: 1 net: "n"')


def test_the_tutorials_nets(reference: Path) -> None:
    for name in ("odd", "fusion"):
        doc = parse_file(reference / "tutorial" / f"lenet_{name}_train_val.prototxt")
        net = load_net(deploy(doc, {"data": (1, 1, 28, 28)}).document)
        train = filter_net(load_net(doc), "TRAIN")
        assert infer(net).blobs["prob"] == (1, 10 if name == "fusion" else 5)
        kept = {layer.name for layer in net.layer}
        assert {layer.name for layer in train.layer if layer.param} <= kept


@pytest.mark.slow
def test_public_nets(reference: Path) -> None:
    """Each net that decodes comes out as one that fits together, or is refused with a reason; BVLC's GoogLeNet too."""
    done = 0
    for path in sorted((reference / "corpus").glob("*.p*t*")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                doc = deploy(parse_file(path), {"data": (1, 3, 224, 224)}).document
            except PrototxtError:
                continue
            done += 1
            again = str(deploy(doc).document)
        assert again == str(doc), path.name
    assert done >= 20


def test_a_net_that_ends_in_accuracy() -> None:
    text = TRAIN_VAL[: TRAIN_VAL.index('layer {\n  name: "loss"')]
    net = load_net(deploy(parse(text)).document)
    assert [(layer.name, layer.type, list(layer.top)) for layer in net.layer] == [
        ("data", "Input", ["data"]),
        ("ip", "InnerProduct", ["ip"]),
    ]


def test_a_layer_in_place_on_shared_memory_is_needed_by_the_blob_that_it_changes() -> None:
    text = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "flat" type: "Flatten" bottom: "ip" top: "y" }
layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }
layer { name: "other" type: "Power" bottom: "x" top: "other" }
layer { name: "after" type: "Power" bottom: "ip" top: "z" }
"""
    kept = load_net(deploy(parse(text), outputs=("z",)).document)
    assert [layer.name for layer in kept.layer] == ["in", "ip", "flat", "relu", "after"]
