"""Old files brought up to date as text: the same net as Caffe's upgrade, with the comments kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from prototxt.edit import upgrade_text as modernizing
from prototxt.edit.upgrade_text import upgrade_text
from prototxt.errors import PrototxtError
from prototxt.schema.load import load_net, load_solver
from prototxt.schema.messages import NetParameter
from prototxt.text.parser import parse, parse_file

V1 = """# a net
name: "n"
input: "data" # the picture
input_dim: 1
input_dim: 3
input_dim: 8
input_dim: 8
layers {
  name: "c"     # first
  type: CONVOLUTION
  bottom: "data" top: "c"
  # rates
  blobs_lr: 1
  blobs_lr: 2   # bias
  weight_decay: 1
  convolution_param { num_output: 4 kernel_size: 3 } # small
}
# second layer
layers { name: 'r', type: RELU, bottom: "c", top: "c" }
"""
V1_UPGRADED = """# a net
name: "n"
layer {
  name: "input"
  type: "Input"
  top: "data"
  input_param {
    shape { dim: 1 dim: 3 dim: 8 dim: 8 }
  }
} # the picture
layer {
  name: "c"     # first
  type: "Convolution"
  bottom: "data" top: "c"
  # rates
  param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 }
  # bias
  convolution_param { num_output: 4 kernel_size: 3 } # small
}
# second layer
layer { name: 'r', type: "ReLU", bottom: "c", top: "c" }
"""
V0 = """layers {
  # pictures
  layer {
    name: "d" type: "data" # from a database
    source: "a # b"
    # of 255
    scale: 0.5
  }
  top: "data" # out
}
# pads
layers { layer { name: "p" type: "padding" pad: 1 # lost
  } bottom: "data" top: "p" }
layers { layer { name: "c" type: "conv" num_output: 2 kernelsize: 3 } bottom: "p" top: "c" }
"""
V0_UPGRADED = """layer {
  # pictures
  name: "d"
  type: "Data"  # from a database
  top: "data"  # out
  transform_param {
    # of 255
    scale: 0.5
  }
  data_param {
    source: "a # b"
  }
}
# pads
layer {
  name: "c"
  type: "Convolution"
  bottom: "data"
  top: "c"
  convolution_param {
    num_output: 2
    pad: 1
    kernel_size: 3
  }
}
"""


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edits themselves must be right: writing the net anew would lose the comments."""
    monkeypatch.setattr(modernizing, "_rewritten", None)


def test_v1_in_place() -> None:
    assert str(upgrade_text(parse(V1))).splitlines() == V1_UPGRADED.splitlines()


def test_v0_rewritten() -> None:
    assert str(upgrade_text(parse(V0))).splitlines() == V0_UPGRADED.splitlines()


def test_what_is_up_to_date_stays_as_it_is(golden: Path) -> None:
    for path in sorted((golden / "layers").glob("*/net.prototxt"))[:40]:
        doc = parse_file(path)
        assert str(upgrade_text(doc)) == str(doc), path


@pytest.mark.parametrize(
    "text",
    [
        V1.replace("\n", "\r\n"),
        "layers: [{ name: 'a' type: RELU }, { name: 'b' type: TANH }]",
        "layer { name: 'x' }\ninput: 'd' input_shape { dim: 1 }",
        "input: 'd'",
        "layers { type: DATA transform_param { scale: 2 } data_param { scale: 0.5 mirror: true } }",
        "layers { type: DATA data_param { mirror: false } name: 'd' }",
        "layers { name: 'a' type: CONVOLUTION param: 'w' blob_share_mode: PERMISSIVE weight_decay: [1, 0] }",
        'layer { type: "BatchNorm" param { lr_mult: 1 } param { lr_mult: 0 decay_mult: 0 } param { } }',
        "layers { layer { name: 'a' type: 'relu' } } layers { name: 'b' type: RELU }",
    ],
)
def test_means_what_the_old_text_means(text: str) -> None:
    doc = parse(text)
    new = upgrade_text(doc)
    assert load_net(new) == load_net(doc)
    assert not {"layers", "input", "input_dim", "input_shape"} & {field.name for field in new.root}
    assert str(upgrade_text(new)) == str(new)


def test_solvers() -> None:
    old = "base_lr: 0.1 # rate\nsolver_type: ADAM # old\nnet_param { layers { type: RELU } }\n"
    new = upgrade_text(parse(old))
    assert str(new) == 'base_lr: 0.1 # rate\ntype: "Adam" # old\nnet_param { layer { type: "ReLU" } }\n'
    assert load_solver(new) == load_solver(parse(old))


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
@pytest.mark.parametrize(
    "text",
    ["layers { name: 'a' type: DAT data_param { scale: 2 } } # x\n", "base_lr: 1\nsolver_type: ADAMM\n"],
)
def test_values_that_nobody_knows_stay(text: str) -> None:
    expected = text.replace("layers", "layer").replace("DAT", '"DAT"')
    assert str(upgrade_text(parse(text), strict=False)) == expected


def test_mistakes_are_reported() -> None:
    with pytest.raises(PrototxtError, match="1:10: "):
        upgrade_text(parse("layers { tpe: RELU }"))


def test_rewriting_when_edits_do_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(modernizing, "_edit_net", lambda *_: None)
    new = upgrade_text(parse("layers { name: 'a' type: RELU }"))
    assert load_net(new) == load_net(parse("layers { name: 'a' type: RELU }"))


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
@pytest.mark.filterwarnings("ignore::prototxt.schema.upgrade.UpgradeWarning")
def test_corpus_and_upgrade_cases(reference: Path) -> None:
    files = [path for path in sorted((reference / "corpus").iterdir()) if path.name != "INDEX.tsv"]
    files += sorted(
        path for path in (reference / "caffe" / "upgrade").glob("*.prototxt") if "expected" not in path.name
    )
    compared = 0
    for path in files:
        doc = parse_file(path, tolerant=True)
        if not any(old in str(doc) for old in ("layers", "input", "solver_type", "BatchNorm")):
            continue
        load = load_solver if "solver" in path.name else load_net
        try:
            expected: object = load(doc, strict=False)
        except PrototxtError:
            continue
        new = upgrade_text(doc, strict=False)
        assert load(new, strict=False) == expected, path
        assert str(new).count("#") == str(doc).count("#"), path
        compared += 1
    assert compared > 30
    assert NetParameter() == load_net(upgrade_text(parse("")))


@pytest.mark.parametrize(("blocks", "rates"), [(3, "0"), (2, "1"), (4, "1")])
def test_the_rates_of_statistics_become_zero(blocks: int, rates: str) -> None:
    """As in Caffe's upgrade_proto.cpp: BatchNorm with three blobs, and no other number of them."""
    param = "param { lr_mult: 1 decay_mult: 1 } " * blocks
    text = f'layer {{ name: "n" type: "BatchNorm" bottom: "x" top: "x" {param}}}'
    upgraded = str(upgrade_text(parse(text)))
    assert upgraded.count(f"lr_mult: {rates} ") == blocks
    assert upgraded.count(f"decay_mult: {rates} ") == blocks
