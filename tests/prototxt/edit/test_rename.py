"""Rename and freeze: text in, text out, once more; and by decoding, that exactly the intended fields changed."""

# ruff: noqa: E501 - tables of texts

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from prototxt import PrototxtError, RenameError, decode, parse, parse_file, rename
from prototxt.edit.layer_view import text_layers
from prototxt.edit.rename import RenameOptions, rename_reported
from prototxt.errors import ParseError
from prototxt.schema import forks
from prototxt.schema.params import DATA_TYPES, KNOWN_TYPES, modern_type, param_count


def renamed(text: str, **options: Any) -> str:
    """Rename with the prefix p, and check that freezing once more changes nothing."""
    document = rename(parse(text), "p", **options)
    if options.get("freeze", True):
        again = rename(document, "q", **{**options, "again": True, "keep": ()})
        assert re.sub(r"\bq/", "", str(again)) == str(document)
    return str(document)


LENET = """\
name: "LeNet" # the net's own name
layer {
  name: "mnist"   # data
  type: "ImageData"
  top: "data"
  top: "label"
  image_data_param { source: "data/conv1/list.txt" }
}
layer {
  name: "conv1"
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 }
  convolution_param { num_output: 20 }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: 'loss' type: "SoftmaxWithLoss" bottom: "conv1" bottom: "label" }
"""


def test_the_article_s_net() -> None:
    expected = LENET
    for old, new in [
        ('name: "mnist"', 'name: "p/mnist"'),
        ('"conv1"', '"p/conv1"'),
        ('"relu1"', '"p/relu1"'),
        ("'loss'", "'p/loss'"),
        ("lr_mult: 1 ", "lr_mult: 0 "),
        ("lr_mult: 2", "lr_mult: 0"),
    ]:
        expected = expected.replace(old, new)
    assert renamed(LENET) == expected


CONV = 'layer { name: "c" type: "Convolution" bottom: "b" top: "c" %s}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # missing param blocks, exactly as many as there are blobs
        (CONV % "", 'layer { name: "p/c" type: "Convolution" bottom: "p/b" top: "p/c" param { lr_mult: 0 } param { lr_mult: 0 } }'),
        (CONV % "convolution_param { bias_term: false } ", 'layer { name: "p/c" type: "Convolution" bottom: "p/b" top: "p/c" param { lr_mult: 0 } convolution_param { bias_term: false } }'),
        (CONV % "param { decay_mult: 0 } ", 'layer { name: "p/c" type: "Convolution" bottom: "p/b" top: "p/c" param { decay_mult: 0 lr_mult: 0 } param { lr_mult: 0 } }'),
        # blocks follow the style around them, tabs and CRLF too
        (
            'layer {\r\n\tname: "s"\r\n\ttype: "Scale"\r\n\tbottom: "b"\r\n\ttop: "s"\r\n\tscale_param {\r\n\t\tbias_term: true\r\n\t}\r\n}\r\n',
            'layer {\r\n\tname: "p/s"\r\n\ttype: "Scale"\r\n\tbottom: "p/b"\r\n\ttop: "p/s"\r\n\tparam {\r\n\t\tlr_mult: 0\r\n\t}\r\n\tparam {\r\n\t\tlr_mult: 0\r\n\t}\r\n\tscale_param {\r\n\t\tbias_term: true\r\n\t}\r\n}\r\n',
        ),
        # two bottoms: nothing to learn
        ('layer { type: "Scale" bottom: "a" bottom: "b" top: "s" }', 'layer { type: "Scale" bottom: "p/a" bottom: "p/b" top: "p/s" }'),
        ('layer { type: "Scale" bottom: "a" bottom: "b" top: "s" scale_param { bias_term: true } }', 'layer { type: "Scale" bottom: "p/a" bottom: "p/b" top: "p/s" param { lr_mult: 0 } scale_param { bias_term: true } }'),
        ('layer { type: "Bias" bottom: "a" bottom: "b" top: "s" }', 'layer { type: "Bias" bottom: "p/a" bottom: "p/b" top: "p/s" }'),
        # BatchNorm: three blobs and stored statistics
        ('layer { name: "n" type: "BatchNorm" bottom: "a" top: "a" param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 } batch_norm_param { use_global_stats: false } }', 'layer { name: "p/n" type: "BatchNorm" bottom: "p/a" top: "p/a" param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 } batch_norm_param { use_global_stats: true } }'),
        # a fork's BN that keeps statistics uses them; SegNet's keeps none
        ('layer { name: "n" type: "BN" bottom: "a" top: "b" bn_param { slope_filler { value: 1 } } }', 'layer { name: "p/n" type: "BN" bottom: "p/a" top: "p/b" param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 } bn_param { slope_filler { value: 1 } frozen: true } }'),
        ('layer { name: "n" type: "BN" bottom: "a" top: "b" }', 'layer { name: "p/n" type: "BN" bottom: "p/a" top: "p/b" param { lr_mult: 0 } param { lr_mult: 0 } }'),
        # Dropout becomes the identity; an explicit 0 keeps its bytes
        ('layer { name: "d" type: "Dropout" bottom: "a" top: "a" }', 'layer { name: "p/d" type: "Dropout" bottom: "p/a" top: "p/a" dropout_param { dropout_ratio: 0 } }'),
        ('layer { name: "d" type: "Dropout" bottom: "a" top: "a" dropout_param { dropout_ratio: 0.0 } }', 'layer { name: "p/d" type: "Dropout" bottom: "p/a" top: "p/a" dropout_param { dropout_ratio: 0.0 } }'),
        # shared parameters are prefixed, or two branches would share their weights
        ('layer { name: "a" type: "PReLU" bottom: "x" top: "x" param { name: "w" lr_mult: 1 } }', 'layer { name: "p/a" type: "PReLU" bottom: "p/x" top: "p/x" param { name: "p/w" lr_mult: 0 } }'),
        # inputs by any syntax
        ('input: "x" input_dim: 1 layer { name: "a" type: "ReLU" bottom: "x" top: "y" }', 'input: "x" input_dim: 1 layer { name: "p/a" type: "ReLU" bottom: "x" top: "p/y" }'),
        ('input: ["x", "y"] layer { name: "a" type: "Eltwise" bottom: ["x", "y"] top: "z" }', 'input: ["x", "y"] layer { name: "p/a" type: "Eltwise" bottom: ["x", "y"] top: "p/z" }'),
        ('layer { name: "i" type: "Input" top: "x" } layer { name: "a" type: "ReLU" bottom: "x" top: "x" }', 'layer { name: "p/i" type: "Input" top: "x" } layer { name: "p/a" type: "ReLU" bottom: "x" top: "x" }'),
        ('layer { name: "i" type: "Python" top: "x" python_param { module: "m" } }', 'layer { name: "p/i" type: "Python" top: "x" python_param { module: "m" } }'),
        # V1: blobs_lr, param: "name", lists
        ('layers { name: "c" type: CONVOLUTION bottom: "a" top: "c" blobs_lr: [1, 2] param: ["w", ""] weight_decay: 1 }', 'layers { name: "p/c" type: CONVOLUTION bottom: "p/a" top: "p/c" blobs_lr: [0, 0] param: ["p/w", ""] weight_decay: 1 }'),
        ('layers { name: "c" type: INNER_PRODUCT bottom: "a" top: "c" blobs_lr: 1. }', 'layers { name: "p/c" type: INNER_PRODUCT bottom: "p/a" top: "p/c" blobs_lr: 0 blobs_lr: 0 }'),
        ('layers { name: "c" type: DROPOUT bottom: "a" top: "c" }', 'layers { name: "p/c" type: DROPOUT bottom: "p/a" top: "p/c" dropout_param { dropout_ratio: 0 } }'),
        # V0: the nested layer
        ('layers { layer { name: "c" type: "conv" biasterm: false } bottom: "a" top: "c" }', 'layers { layer { name: "p/c" type: "conv" blobs_lr: 0 biasterm: false } bottom: "p/a" top: "p/c" }'),
        ('layers { layer { name: "d" type: "dropout" dropout_ratio: 0.7 } bottom: "a" top: "a" }', 'layers { layer { name: "p/d" type: "dropout" dropout_ratio: 0 } bottom: "p/a" top: "p/a" }'),
        # unnamed layers stay unnamed, duplicates stay duplicates
        ('layer { type: "ReLU" bottom: "a" top: "a" } layer { name: "" type: "ReLU" bottom: "a" top: "b" }', 'layer { type: "ReLU" bottom: "p/a" top: "p/a" } layer { name: "" type: "ReLU" bottom: "p/a" top: "p/b" }'),
        # quotes, adjacent strings, angle brackets, lists of blocks, unknown fields
        ("layer < name: 'a\\'' \"b\" type: \"ReLU\" bottom: \"x\"; top: \"y\"; own_param < k: 1 > >", "layer < name: 'p/a\\'' \"b\" type: \"ReLU\" bottom: \"p/x\"; top: \"p/y\"; own_param < k: 1 > >"),
        ('layer [{ name: "a" type: "PReLU" bottom: "x" top: "y" param [{ lr_mult: 3 }] }]', 'layer [{ name: "p/a" type: "PReLU" bottom: "p/x" top: "p/y" param [{ lr_mult: 0 }] }]'),
        # a data layer in step with another's blob, which keeps its name
        ('layer { name: "d" type: "ImageData" top: "d" in_step_with: "x" } layer { name: "e" type: "ImageData" top: "x" }', 'layer { name: "p/d" type: "ImageData" top: "d" in_step_with: "x" } layer { name: "p/e" type: "ImageData" top: "x" }'),
        # a loss that names a layer
        ('layer { name: "l" type: "BCTLoss" bottom: "a" pct_param { classifier: "fc" } }', 'layer { name: "p/l" type: "BCTLoss" bottom: "p/a" pct_param { classifier: "p/fc" } }'),
        ('layer { name: "o" type: "Onnx" bottom: "a" top: "b" onnx_param { file: "n.onnx" } }', 'layer { name: "p/o" type: "Onnx" bottom: "p/a" top: "p/b" onnx_param { file: "n.onnx" frozen: true } }'),
        # a net inside a solver
        ('base_lr: 0.1 net_param { name: "n" layer { name: "a" type: "ReLU" bottom: "x" top: "x" } }', 'base_lr: 0.1 net_param { name: "n" layer { name: "p/a" type: "ReLU" bottom: "p/x" top: "p/x" } }'),
    ],
)  # fmt: skip
def test_rewrites(text: str, expected: str) -> None:
    assert renamed(text) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"freeze": False}, 'layer { name: "p/i" type: "Input" top: "x" } layer { name: "p/a" type: "PReLU" bottom: "x" top: "p/y" }'),
        ({"freeze": False, "all": True}, 'layer { name: "p/i" type: "Input" top: "p/x" } layer { name: "p/a" type: "PReLU" bottom: "p/x" top: "p/y" }'),
        ({"freeze": False, "keep": ["y"]}, 'layer { name: "p/i" type: "Input" top: "x" } layer { name: "p/a" type: "PReLU" bottom: "x" top: "y" }'),
        ({"thaw_pattern": "^a$"}, 'layer { name: "p/i" type: "Input" top: "x" } layer { name: "p/a" type: "PReLU" bottom: "x" top: "p/y" }'),
        ({"freeze_pattern": "a"}, 'layer { name: "p/i" type: "Input" top: "x" } layer { name: "p/a" type: "PReLU" bottom: "x" top: "p/y" param { lr_mult: 0 } }'),
    ],
)  # fmt: skip
def test_options(options: dict[str, Any], expected: str) -> None:
    text = 'layer { name: "i" type: "Input" top: "x" } layer { name: "a" type: "PReLU" bottom: "x" top: "y" }'
    assert str(rename(parse(text), "p", **options)) == expected


def ip(name: str, bottom: str, *, more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {more}}}\n'


def test_all_renames_the_blob_that_a_data_layer_is_in_step_with() -> None:
    text = 'layer { type: "Data" top: "x" } layer { type: "Data" top: "y" in_step_with: "x" }'
    assert str(rename(parse(text), "p", all=True)) == text.replace('"x"', '"p/x"').replace('"y"', '"p/y"')


def test_propagate_down_stops_at_the_thawed_head() -> None:
    text = 'input: "x"\n' + ip("a", "x") + ip("b", "a") + ip("c", "b")
    result = rename(parse(text), "p", thaw_pattern="c", propagate_down=True)
    stated = [layer.scalars("propagate_down") for layer in result.root.messages("layer")]
    assert [[scalar.value for scalar in scalars] for scalars in stated] == [[], [], ["false"]]


def test_propagate_down_stops_where_a_frozen_branch_ends() -> None:
    text = 'input: "x"\ninput: "y"\n' + ip("a", "x") + ip("b", "a")
    text += 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "b" bottom: "y" top: "l" }\n'
    result = rename(parse(text), "p", propagate_down=True)
    stated = [layer.scalars("propagate_down") for layer in result.root.messages("layer")]
    assert [[scalar.value for scalar in scalars] for scalars in stated] == [[], ["false"], []]
    assert str(rename(result, "p", propagate_down=True, again=True)).count("propagate_down") == 1


PYTHON = 'layer { name: "q" type: "Python" bottom: "x" top: "y" python_param { module: "m" %s } }\n'
IP = 'layer { name: "f" type: "InnerProduct" bottom: "y" top: "f" param { lr_mult: 0 } param { lr_mult: 0 } }\n'
CUSTOM = 'layer { name: "c" type: "Own" bottom: "y" top: "c" %s}\n'
PASS = 'layer { name: "s" type: "Softmax" bottom: "y" top: "s" }\n'


@pytest.mark.parametrize(
    ("text", "counts", "note", "frozen"),
    [
        # Python layers: losses, ends, those of public repositories
        (PYTHON % 'layer: "L"', None, "layer 'q': left unchanged: Python layers at the net's end, assumed to hold no weights", 0),
        (PYTHON % 'layer: "L"' + PASS, None, "layer 'q': left unchanged: Python layers at the net's end", 0),
        (PYTHON.replace("top", "loss_weight: 0.5 top") % 'layer: "L"' + IP, None, "layer 'q': left unchanged: Python losses", 0),
        (PYTHON % 'layer: "ProposalLayer"' + IP, None, "layer 'q': left unchanged: Python layers known to hold no weights", 0),
        # types of forks, measures, stated blocks
        (CUSTOM.replace("Own", "Correlation") % "", None, "layer 'c': left unchanged: Correlation holds no weights in the forks", 0),
        (CUSTOM.replace("Own", "MyAccuracy") % "", None, "layer 'c': left unchanged: measures, which learn nothing", 0),
        (CUSTOM % "param { lr_mult: 1 } param { } ", None, "layer 'c': its type is unknown: frozen by its param {} blocks", 2),
        (CUSTOM.replace("layer", "layers", 1).replace('"Own"', "OWN") % "blobs_lr: 1 ", None, "frozen by its blobs_lr", 1),
        # the weights tell, and are believed before all else
        (PYTHON % 'layer: "L"' + IP, {"q": 0}, None, 0),
        (PYTHON % 'layer: "L"' + IP, {"q": 1}, None, 1),
        (CUSTOM % "param { } ", {"c": 3}, None, 3),
    ],
)  # fmt: skip
def test_layers_of_unknown_count(text: str, counts: dict[str, int] | None, note: str | None, frozen: int) -> None:
    found = rename_reported(parse(text), "p", RenameOptions(blob_counts=counts))
    notes = [line for line in found.notes if "changes the shared" not in line]
    assert (notes == []) if note is None else (len(notes) == 1 and note in notes[0])
    layer = next(
        layer for layer in text_layers(found.document.root) if layer.name in ("p/q", "p/c") and layer.type != "Softmax"
    )
    rates = layer.body.scalars("blobs_lr") + [
        rate for block in layer.body.messages("param") for rate in block.scalars("lr_mult")
    ]
    assert [rate.value for rate in rates] == ["0"] * frozen
    assert len(layer.body.messages("param")) == (frozen if layer.version == 2 else 0)


def test_what_leaves_the_net_may_learn_through_a_python_layer() -> None:
    document = parse(PYTHON % 'layer: "L"')
    with pytest.raises(RenameError, match=r"cannot be frozen.*\n.*--weights.*--thaw '\^q\$'.*--no-freeze"):
        rename_reported(document, "p", outputs=("y",))
    rename_reported(document, "p", outputs=("z",))


def test_scale_and_bias_of_nvcaffe_s_batch_norm_are_frozen() -> None:
    text = 'layer { name: "n" type: "BatchNorm" bottom: "x" top: "y" batch_norm_param { scale_filler { value: 1 } } }'
    found = rename_reported(parse(text), "p")
    assert str(found.document).count("param { lr_mult: 0 }") == 5
    assert "use_global_stats: true" in str(found.document)
    assert found.notes == (
        "layer 'n': frozen here; NVCaffe itself trains the scale and bias of its BatchNorm whatever lr_mult says",
    )


def test_notes_of_one_kind_are_one_line() -> None:
    text = "".join(CUSTOM.replace("Own", "Correlation").replace('"c"', f'"c{i}"') % "" for i in range(6))
    found = rename_reported(parse(text), "p")
    reason = "left unchanged: Correlation holds no weights in the forks that have it"
    assert found.notes == (f"layer 'c0', 'c1', 'c2', 'c3' and 2 more: {reason}",)


DATA_LAYER = 'layer { name: "d" type: "ImageData" top: "x" }\n'


def test_some_prefixed_layers_are_prefixed_again() -> None:
    text = DATA_LAYER + ip("p/a", "x") + ip("b", "p/a")
    assert '"p/p/a"' in str(rename(parse(text), "p"))
    assert '"p/d"' in str(rename(parse(DATA_LAYER), "p"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (ip("p/a", "p/x") + ip("p/b", "p/a"), {}, "every layer already starts with 'p/'"),
        (DATA_LAYER + ip("p/a", "x"), {}, "every layer already starts with 'p/'"),
        (ip("p/a", "x") + 'layer { type: "ReLU" bottom: "p/a" top: "p/a" }', {}, "every layer already starts"),
        ("", {}, "there are no layers in this text"),
        ('net: "a.prototxt"', {}, "rename its net, a.prototxt"),
        ('input: "p/x"\n' + ip("a", "x") + ip("b", "p/x"), {}, "the blobs 'p/x' and 'x' would both be called 'p/x'"),
        (ip("a", "x"), {"keep": ["xx"]}, "did you mean 'x'?"),
        (ip("a", "x"), {"freeze_pattern": "nix"}, "--freeze: 'nix' matches no layer"),
        (ip("a", "x"), {"thaw_pattern": "nix"}, "--thaw: 'nix' matches no layer"),
        (ip("a", "x"), {"thaw_pattern": "("}, "is not a regular expression"),
        (ip("a", "x"), {"freeze": False, "thaw_pattern": "a"}, "freezing is off"),
        (PYTHON % 'layer: "L"' + IP, {}, "layer 'q' of type 'Python' cannot be frozen"),
        (PYTHON % 'layer: "L"' + CUSTOM % "", {}, "layer 'c' of type 'Own' cannot be frozen"),
        ('layer { name: "q" type: "Odd" bottom: "x" top: "y" }', {}, "layer 'q' of type 'Odd' cannot be frozen"),
        ('layer { name: "q" bottom: "x" top: "y" }', {}, "layer 'q' without a type cannot be frozen"),
        (
            ip("a", "x", more='param { name: "w" } ') + ip("b", "x", more='param { name: "w" } '),
            {"thaw_pattern": "b"},
            "layer 'a' would be frozen, but it shares the parameter 'w' with layer 'b', which would not",
        ),
        ('layers { name: "a" type: RELU bottom: "x" top: "y" }', {"propagate_down": True}, "has no propagate_down"),
    ],
)
def test_refusals(text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RenameError, match=re.escape(message)):
        rename(parse(text), "p", **options)


def test_blobs_that_would_collide_are_shown_where_the_later_one_is_read() -> None:
    text = 'input: "p/x"\n' + ip("a", "other") + "\n" + ip("b", "p/x") + "\n" + ip("c", "x")
    doc = parse(text, "net.prototxt")
    with pytest.raises(RenameError) as caught:
        rename(doc, "p")
    assert caught.value.place == doc.place(text.index('"x"'))


@pytest.mark.parametrize("prefix", ["", "/", "/a", " a", "a\n"])
def test_bad_prefixes(prefix: str) -> None:
    with pytest.raises(RenameError, match="is not a valid prefix"):
        rename(parse(ip("a", "x")), prefix)


def test_all_refusals_come_at_once() -> None:
    text = 'layer { name: "q" type: "Odd" bottom: "x" } layer { name: "r" type: "Even" bottom: "x" }'
    with pytest.raises(RenameError) as caught:
        rename(parse(text, "t"), "p")
    assert [str(error.place) for error in caught.value.errors] == ["t:1:7", "t:1:51"]


def test_weights_tell_what_the_text_does_not() -> None:
    text = 'layer { name: "q" type: "Odd" bottom: "x" }'
    assert str(rename(parse(text), "p", blob_counts={"q": 2})).count("lr_mult: 0") == 2


def test_harmless_broken_parts_stay_and_others_are_refused() -> None:
    text = 'layer { name: "d" type: "Data" top: "x"\n  data_param { source: /tmp/a }\n}\n' + ip("a", "x")
    document = parse(text, tolerant=True)
    assert "source: /tmp/a }" in str(rename(document, "p"))
    for damage in ('layer { name: "a }\n', "layer {\n", "}\n", "layer { name: $N }\n"):
        with pytest.raises(ParseError):
            rename(parse(text + damage, tolerant=True), "p")


def test_the_report_says_what_was_done() -> None:
    report = rename_reported(parse(LENET), "p")
    assert [(change.renamed, change.done) for change in report.changes] == [
        ("p/mnist", ()),
        ("p/conv1", ("2 x lr_mult set to 0",)),
        ("p/relu1", ()),
        ("p/loss", ()),
    ]
    in_place = 'input: "x" layer { name: "r" type: "ReLU" bottom: "x" top: "x" }'
    assert "changes the shared blob 'x' in place" in rename_reported(parse(in_place), "p").notes[0]


# -- by decoding -------------------------------------------------------------------------------------------------------


def decoded(document: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decode(document, "NetParameter", strict=False)


def expect(net: Any, prefix: str) -> None:
    """What rename and freeze should do, done on the message: a second implementation from the specification."""
    every = [(layer, 2) for layer in net.layer] + [(layer, 1) for layer in net.layers]
    outside = set(net.input)
    for layer, version in every:
        if is_data(layer, version):
            outside |= set(layer.top)
    for layer, version in every:
        layer.bottom[:] = [name if name in outside else f"{prefix}/{name}" for name in layer.bottom]
        layer.top[:] = [name if name in outside else f"{prefix}/{name}" for name in layer.top]
        body = layer.layer if version == 1 and layer.HasField("layer") else layer
        if body.name:
            body.name = f"{prefix}/{body.name}"
        if version == 2:
            for param in layer.param:
                if param.name:
                    param.name = f"{prefix}/{param.name}"
        else:
            layer.param[:] = [name and f"{prefix}/{name}" for name in layer.param]
        if not is_data(layer, version):
            freeze(layer, body, version)


def type_of(layer: Any, version: int) -> str:
    if version == 2:
        return str(layer.type)
    if layer.HasField("layer"):
        return modern_type(layer.layer.type)
    if forks.has_fields(layer) and (fork := forks.fields(layer)).HasField("type"):
        return modern_type(fork.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[fork.type].name)
    return modern_type(layer.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[layer.type].name)


def is_data(layer: Any, version: int) -> bool:
    kind = type_of(layer, version)
    return kind in DATA_TYPES or (not layer.bottom and kind not in KNOWN_TYPES)


BIASED = {
    "Convolution": "convolution_param",
    "Deconvolution": "convolution_param",
    "InnerProduct": "inner_product_param",
}


def freeze(layer: Any, body: Any, version: int) -> None:
    kind = type_of(layer, version)
    if kind in BIASED:
        biased = body.biasterm if body is not layer else getattr(layer, BIASED[kind]).bias_term
        count = 1 + biased
    elif kind == "Scale":
        count = (len(layer.bottom) == 1) + layer.scale_param.bias_term
    elif kind == "Embed":
        count = 1 + layer.embed_param.bias_term
    else:
        count = {"BatchNorm": 3, "PReLU": 1}.get(kind) or param_count(kind, layer) or 0
    if version == 2:
        while len(layer.param) < count:
            layer.param.add()
        for param in layer.param:
            param.lr_mult = 0
    else:
        body.blobs_lr[:] = [0.0] * max(count, len(body.blobs_lr))
    if kind == "BatchNorm":
        layer.batch_norm_param.use_global_stats = True
    if kind == "BN" and count == 4:
        forks.fields(layer).bn_param.frozen = True
    if kind == "Dropout":
        (layer.dropout_param if body is layer else body).dropout_ratio = 0


def cases(shared: Path) -> list[Path]:
    folders = [shared / "reference" / name for name in ("corpus", "caffe/upgrade", "tutorial", "models")]
    return sorted(path for folder in folders for path in folder.rglob("*.p*t*") if path.suffix in (".prototxt", ".pt"))


def test_exactly_the_intended_fields_change(shared: Path) -> None:
    checked, refused = 0, []
    for path in cases(shared):
        document = parse_file(path, tolerant=True)
        try:
            before = decoded(document)
        except PrototxtError:
            continue
        if not before.layer and not before.layers:
            continue
        try:
            result = rename(document, "odd")
        except RenameError as error:
            refused.append(path.name)
            if "cannot be frozen" not in str(error):
                raise
            continue
        expect(before, "odd")
        assert before == decoded(result), path.name
        again = rename(result, "x", again=True)
        assert str(again).replace("x/odd/", "odd/") == str(result)
        checked += 1
    assert checked > 60
    assert len(refused) < 20


def test_renaming_alone_changes_names_alone(shared: Path) -> None:
    for path in cases(shared):
        document = parse_file(path, tolerant=True)
        try:
            result = rename(document, "odd", freeze=False)
        except PrototxtError as error:
            assert "no layers" in str(error)  # noqa: PT017
            continue
        assert str(result).replace("odd/", "") == str(document).replace("odd/", "")


def test_golden_nets(golden: Path) -> None:
    for path in sorted((golden / "layers").glob("*/net.prototxt")):
        document = parse_file(path)
        before = decoded(document)
        try:
            result = rename(document, "odd")
        except RenameError as error:
            assert "Python" in str(error)  # noqa: PT017
            continue
        expect(before, "odd")
        assert before == decoded(result), path


@pytest.mark.parametrize(
    ("layer", "written"),
    [
        # BN that keeps statistics is frozen by its flag; SegNet's two blobs and moving averages have none
        ('type: "BN" bn_param { slope_filler { value: 1 } }', "frozen: true"),
        ('type: "BN" bn_param { frozen: false }', "frozen: true"),
        ('type: "BN" bn_param { slope_filler { value: 1 } decay: 0.9 }', None),
        ('type: "BN" bn_param { moving_average: true }', None),
        ('type: "BN"', None),
        ('type: "Dropout"', "dropout_param { dropout_ratio: 0 }"),
        ('type: "Dropout" dropout_param { scale_train: true }', "dropout_param { scale_train: true dropout_ratio: 0 }"),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.4 }', "dropout_param { dropout_ratio: 0 }"),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.0 }', "dropout_param { dropout_ratio: 0.0 }"),
        ('type: "BatchNorm" batch_norm_param { use_global_stats: false }', "use_global_stats: true"),
        ('type: "BatchNorm" batch_norm_param { use_global_stats: True }', "use_global_stats: True"),
        ('type: "Onnx" onnx_param { file: "f" }', "frozen: true"),
    ],
)
def test_flags_that_freeze(layer: str, written: str | None) -> None:
    text = renamed(f'layer {{ name: "l" bottom: "x" top: "y" {layer} }}')
    if written is None:
        assert "frozen" not in text
    else:
        assert written in text


@pytest.mark.parametrize("rate", ["0", "0.0", ".0", "0x0", "0e5", "-0", "0f"])
def test_rates_that_are_zero_keep_their_spelling(rate: str) -> None:
    text = CONV % f"param {{ lr_mult: {rate} }} param {{ lr_mult: 1e-9 }} "
    assert f"param {{ lr_mult: {rate} }} param {{ lr_mult: 0 }}" in renamed(text)


def test_a_misspelt_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'frezee'"):
        rename(parse(LENET), "p", frezee=False)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("layer", "done"),
    [
        ('type: "InnerProduct"', ["2 x param { lr_mult: 0 } added"]),
        ('type: "InnerProduct" param { decay_mult: 1 }', ["1 x lr_mult: 0 added", "1 x param { lr_mult: 0 } added"]),
        ('type: "InnerProduct" param { lr_mult: 1 } param { lr_mult: 0 }', ["1 x lr_mult set to 0"]),
        ('type: "InnerProduct" param { lr_mult: 0 } param { lr_mult: 0 }', []),
        ('type: "PReLU" param { } param { lr_mult: 2 } param { lr_mult: 2 }',
         ["2 x lr_mult set to 0", "1 x lr_mult: 0 added"]),
        ('type: "Dropout"', ["dropout_ratio: 0.5 -> 0"]),
        ('type: "Dropout" dropout_param { scale_train: true }', ["dropout_ratio: 0.5 -> 0"]),
        ('type: "Dropout" dropout_param { dropout_ratio: 0.4 }', ["dropout_ratio: 0.4 -> 0"]),
        ('type: "Dropout" dropout_param { dropout_ratio: 0 }', []),
        ('type: "BatchNorm" batch_norm_param { use_global_stats: t }', ["3 x param { lr_mult: 0 } added"]),
        ('type: "BatchNorm" batch_norm_param { use_global_stats: f }',
         ["3 x param { lr_mult: 0 } added", "use_global_stats: true"]),
        ('type: "Onnx" onnx_param { frozen: false }', ["weights frozen"]),
        ('type: "Onnx" onnx_param { frozen: 1 }', []),
        ('type: "BN" bn_param { slope_filler { value: 1 } }', ["4 x param { lr_mult: 0 } added", "frozen: true"]),
        ('type: "ReLU"', []),
    ],
)  # fmt: skip
def test_what_freezing_did_in_words(layer: str, done: list[str]) -> None:
    text = f'layer {{ name: "l" bottom: "x" top: "y" {layer} }}'
    (change,) = rename_reported(parse(text), "p").changes
    assert (change.name, change.renamed, list(change.done)) == ("l", "p/l", done)


def test_what_freezing_did_to_old_layers_in_words() -> None:
    text = 'layers { name: "c" type: CONVOLUTION bottom: "a" top: "c" blobs_lr: 1 }'
    (change,) = rename_reported(parse(text), "p").changes
    assert change.done == ("1 x blobs_lr set to 0", "1 x blobs_lr: 0 added")


def stated(text: str, **options: Any) -> list[list[str]]:
    result = rename(parse(text), "p", propagate_down=True, **options)
    return [
        [scalar.value for scalar in layer.scalars("propagate_down")] for layer in result.root.messages("layer")
    ]  # fmt: skip


SCALE = 'layer { name: "s" type: "Scale" bottom: "a" bottom: "x" top: "s" scale_param { bias_term: true } %s}\n'


def test_inputs_need_no_propagate_down() -> None:
    """Caffe itself sends no gradient to inputs and data."""
    assert stated('input: "x"\n' + ip("a", "x") + ip("b", "x"), thaw_pattern="b") == [["false"], []]
    assert stated('input: "x"\n' + ip("a", "x") + SCALE % "", thaw_pattern="s") == [[], ["false", "true"]]
    data = 'layer { name: "d" type: "DummyData" top: "x" }\n'
    assert stated(data + ip("a", "x") + SCALE % "", thaw_pattern="s") == [[], [], ["false", "true"]]


def test_written_flags_are_changed_only_where_the_gradient_would_enter() -> None:
    text = 'input: "x"\n' + ip("a", "x")
    written = SCALE % "propagate_down: true propagate_down: true "
    assert stated(text + written, thaw_pattern="s") == [[], ["false", "true"]]
    (_, change) = rename_reported(
        parse(text + written), "p", RenameOptions(thaw_pattern="s", propagate_down=True)
    ).changes
    assert change.done == ("1 propagate_down set to false",)
    stopped = SCALE % "propagate_down: false propagate_down: true "
    assert stated(text + stopped, thaw_pattern="s") == [[], ["false", "true"]]


def test_a_frozen_layer_between_learning_ones_lets_the_gradient_through() -> None:
    text = 'input: "x"\n' + ip("a", "x") + ip("b", "a") + ip("c", "b")
    assert stated(text, freeze_pattern="b") == [[], [], []]
    assert stated(text, freeze_pattern="[ab]") == [[], [], ["false"]]
    assert stated(text, thaw_pattern="nothing|a") == [[], [], []]


def test_a_layer_without_weights_passes_the_gradient_to_the_learning_part_alone() -> None:
    concat = 'layer { name: "c" type: "Concat" bottom: "a" bottom: "b" top: "c" }\n'
    text = 'input: "x"\n' + ip("a", "x") + ip("b", "x") + concat + ip("d", "c")
    assert stated(text, freeze_pattern="b") == [[], [], ["true", "false"], []]
    assert stated(text, freeze_pattern="a") == [[], [], ["false", "true"], []]
    assert stated(text, freeze_pattern="[ab]") == [[], [], [], ["false"]]


def test_the_end_of_a_frozen_branch_is_where_only_losses_and_measures_read() -> None:
    text = 'input: "x"\ninput: "y"\n' + ip("a", "x") + ip("b", "a")
    for kind, bottoms in (("SoftmaxWithLoss", 'bottom: "b" bottom: "y"'), ("Accuracy", 'bottom: "b" bottom: "y"'),
                          ("Silence", 'bottom: "b"')):  # fmt: skip
        end = f'layer {{ name: "l" type: "{kind}" {bottoms} }}\n'
        assert stated(text + end) == [[], ["false"], []], kind
    assert stated(text + 'layer { name: "l" type: "Softmax" bottom: "b" top: "l" }\n') == [[], [], ["false"]]


@pytest.mark.parametrize(
    ("weight", "is_loss"),
    [("1", True), ("0", False), ("0.0", False), ("-0f", False), ("0.5", True), ("1e-9", True)],
)
def test_a_python_layer_with_a_loss_weight_is_a_loss(weight: str, is_loss: bool) -> None:
    text = PYTHON.replace("top", f"loss_weight: {weight} top") % 'layer: "L"' + IP
    if is_loss:
        assert any("Python losses" in note for note in rename_reported(parse(text), "p").notes)
    else:
        with pytest.raises(RenameError, match="layer 'q' of type 'Python' cannot be frozen"):
            rename(parse(text), "p")


def test_names_are_shown_up_to_a_length_where_a_pattern_matches_none() -> None:
    few = "".join(ip(f"l{index}", "x") for index in range(3))
    with pytest.raises(RenameError, match=r"hint: the layers are l0, l1, l2$"):
        rename(parse(few), "p", thaw_pattern="nix")
    for length, end in ((299, "x"), (300, "x ...")):
        with pytest.raises(RenameError, match=rf"{end}$".replace(".", r"\.")):
            rename(parse(ip("x" * length, "y")), "p", thaw_pattern="nix")
    many = "".join(ip(f"layer{index:04}", "x") for index in range(100))
    with pytest.raises(RenameError, match=r"layer0000, .* \.\.\.$") as caught:
        rename(parse(many), "p", thaw_pattern="nix")
    assert len(str(caught.value.hint)) == len("the layers are ") + 300 + len(" ...")


def test_two_nets_of_a_solver_and_a_net_beside_them() -> None:
    text = 'train_net_param { layer { name: "a" type: "ReLU" } } test_net_param { layer { name: "b" type: "ReLU" } }'
    assert str(rename(parse(text), "p")) == text.replace('"a"', '"p/a"').replace('"b"', '"p/b"')
    both = 'layer { name: "c" type: "ReLU" } ' + text
    changed = rename_reported(parse(both), "p").changes
    assert [change.name for change in changed] == ["c", "a", "b"]
