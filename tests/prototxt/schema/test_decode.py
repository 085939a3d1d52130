"""Decoding against protobuf's own reader, and what is said about what does not fit."""

from __future__ import annotations

import random
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from prototxt.errors import DecodeError, PrototxtError
from prototxt.schema import messages
from prototxt.schema.decode import UnknownFieldWarning, decode
from prototxt.schema.encode import to_text
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.text.parser import parse, parse_file

CORPUS = 44
UNDECODABLE = 19  # by Caffe's own schema
REPORTED = {  # those of them that nothing can decode, and what is said
    "MobileNet-SSD__MobileNetSSD_train_template.prototxt": "2527:17: 'num_output': expected an integer, found cls3x",
    "caffe-googlenet-bn__deploy.prototxt": "3106:9: 'type': expected a value of LayerType",
    "net-archive__base_model.prototxt": "284:17: 'num_output': expected an integer, found NUM_OUTPUTS",
    "net-archive__poolmean.prototxt": "57:13: ",
    "net-archive__yearbook_train_val.prototxt": "17:13: ",
    "netscope__fcn-16s.prototxt": "15:1: LayerParameter has no field 'force_backward'",
}


def by_protobuf(path: Path, name: str) -> Any:
    return text_format.Parse(path.read_bytes(), getattr(messages, name)(), descriptor_pool=messages.POOL)


def test_equals_protobuf_on_every_golden_file(golden: Path) -> None:
    files = sorted(golden.rglob("*.prototxt"))
    assert len(files) > 100
    compared = 0
    for path in files:
        name = "SolverParameter" if "solver" in path.name else "NetParameter"
        try:
            expected = by_protobuf(path, name)
        except text_format.ParseError:
            continue
        if expected.IsInitialized():
            assert decode(parse_file(path), name) == expected, path
            compared += 1
    assert compared > 100


def test_equals_protobuf_on_the_corpus(reference: Path) -> None:
    compared = 0
    for path in sorted((reference / "corpus").iterdir()):
        if path.name == "INDEX.tsv":
            continue
        name = "SolverParameter" if "solver" in path.name else "NetParameter"
        try:
            expected = by_protobuf(path, name)
        except text_format.ParseError:
            continue
        assert decode(parse_file(path), name) == expected, path
        compared += 1
    assert compared == CORPUS - UNDECODABLE


def test_reports_on_what_caffe_cannot_decode(reference: Path) -> None:
    for path in sorted((reference / "corpus").iterdir()):
        if path.name in REPORTED:
            with pytest.raises(PrototxtError) as caught:
                load_net(path)
            assert str(caught.value).startswith(f"{path}:{REPORTED[path.name]}")


def test_unknown_field_of_the_golden_errors(golden: Path) -> None:
    with pytest.raises(DecodeError, match=r"12:16: ReLUParameter has no field 'slope'\n  hint: .*'negative_slope'"):
        load_net(golden / "errors" / "unknown_field.prototxt")


def test_missing_required_field_of_the_golden_errors(golden: Path) -> None:
    with pytest.raises(DecodeError, match="ClipParameter needs the field 'max'"):
        load_net(golden / "errors" / "clip_no_max.prototxt")


def test_what_caffe_refuses_later_or_never_decodes(golden: Path) -> None:
    for path in sorted((golden / "errors").glob("*.prototxt")):
        if path.stem not in ("unknown_field", "clip_no_max"):
            assert load_net(path).layer, path


def test_all_mistakes_at_once_in_the_order_of_the_text() -> None:
    text = (
        'name: 5\nlayer {\n  nam: "a"\n  convolution_param { num_output: x pad: -1 }\n  top { }\n  clip_param: 3\n}\n'
    )
    with pytest.raises(DecodeError) as caught:
        decode(parse(text, "n"), "NetParameter")
    assert [str(error).splitlines()[0] for error in caught.value.errors] == [
        "n:1:7: 'name': expected a string, found 5",
        "n:3:3: LayerParameter has no field 'nam'",
        "n:4:35: 'num_output': expected an integer, found x",
        "n:4:42: 'pad': integer -1 is out of range",
        "n:5:7: 'top' takes a value, not a block",
        "n:6:15: 'clip_param' takes a block, not the value 3",
    ]


def test_a_singular_field_given_twice() -> None:
    for text in ('name: "a" name: "b"', "convolution_param { } convolution_param { }"):
        with pytest.raises(DecodeError, match="given twice"):
            decode(parse(text), "LayerParameter")


@pytest.mark.parametrize("text", ["name: ['a']", "name: []", "name: ['a', 'b']", "relu_param: [{}]"])
def test_a_singular_field_takes_no_list(text: str) -> None:
    with pytest.raises(DecodeError, match="takes one value, not a list"):
        decode(parse(text), "LayerParameter")


def test_lists_of_messages() -> None:
    net = decode(parse("layer: [{ name: 'a' }, < name: 'b' >]"), "NetParameter")
    assert net == NetParameter(layer=[LayerParameter(name="a"), LayerParameter(name="b")])


def test_an_empty_block_is_present() -> None:
    layer = decode(parse("relu_param { }"), "LayerParameter")
    assert layer.HasField("relu_param")
    assert decode(parse("# nothing\n"), "NetParameter") == NetParameter()


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("layer { kernel_size: 3 }", "it belongs in a block: convolution_param, pooling_param"),
        ("base_lr: 0.1", "it is a field of SolverParameter"),
        ("layer { blobs_lr: 1 }", "it is a field of V1LayerParameter"),
        ("layer { convolution_parm { } }", "did you mean 'convolution_param'?"),
        ("layer { Name: 'a' }", "did you mean 'name'?"),
        ("layer { [my.extension] { } }", ""),
    ],
)
def test_hints(text: str, hint: str) -> None:
    with pytest.raises(DecodeError, match="has no field") as caught:
        decode(parse(text), "NetParameter")
    assert hint in str(caught.value)


def test_mistakes_are_not_listed_without_end() -> None:
    text = "\n".join(f"unknown_field_{index}: 1" for index in range(3000))
    with pytest.raises(DecodeError) as caught:
        decode(parse(text), "NetParameter")
    assert len(caught.value.errors) == 101
    assert str(caught.value).endswith("<text>: 2900 more mistakes")
    with pytest.warns(UnknownFieldWarning, match="and 2900 more") as warned:
        decode(parse(text), "NetParameter", strict=False)
    found = warned[0].message
    assert isinstance(found, UnknownFieldWarning)
    assert len(found.fields) == 3000


def test_extension_names_are_unknown_fields() -> None:
    with pytest.warns(UnknownFieldWarning, match="type.googleapis.com/caffe.Datum"):
        decode(parse("[type.googleapis.com/caffe.Datum] { label: 1 }"), "LayerParameter", strict=False)


def test_not_strict_warns_once_with_places() -> None:
    text = 'layer {\n  name: "a"\n  my_param { x: 1 }\n}\nlayer {\n  other: [1, 2]\n}\n'
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = decode(parse(text, "n"), "NetParameter", strict=False)
    assert [warning.category for warning in caught] == [UnknownFieldWarning]
    found = caught[0].message
    assert isinstance(found, UnknownFieldWarning)
    assert [(str(place), what) for place, what in found.fields] == [
        ("n:3:3", "'my_param' of LayerParameter"),
        ("n:6:3", "'other' of LayerParameter"),
    ]
    assert [layer.name for layer in net.layer] == ["a", ""]


def test_not_strict_lists_unknown_layer_types() -> None:
    text = 'layer { name: "a" type: "InerProduct" }\nlayer { type: "Axpy" }\nlayer { type: "ReLU" }'
    with pytest.warns(
        UnknownFieldWarning, match=r"n:1:19: type 'InerProduct' of layer 'a'; did you mean 'InnerProduct'"
    ):
        net = decode(parse(text, "n"), "NetParameter", strict=False)
    assert net.layer[0].type == "InerProduct"
    assert decode(parse(text), "NetParameter") == net, "strict is about fields: types may be added by programs"


def test_damaged_files_are_errors_and_never_crashes(golden: Path) -> None:
    """Random damage, by seed: whatever it does to the text, the outcome is a net or our error."""
    words = [
        "{",
        "}",
        "[",
        "]",
        "<",
        ":",
        '"',
        "#",
        "layers",
        "layer",
        "input",
        "input_dim",
        "type",
        "-1",
        "\x00",
        "\udcff",
    ]
    texts = [path.read_text() for path in sorted((golden / "layers").glob("*/net.prototxt"))[::10]]
    random_ = random.Random(5)
    for text in texts * 10:
        for _ in range(random_.choice([1, 2, 4])):
            start = random_.randrange(len(text) + 1)
            text = text[:start] + random_.choice(words) + text[start + random_.choice([0, 1, 9]) :]
        for strict in (True, False):
            with warnings.catch_warnings(), suppress(PrototxtError):
                warnings.simplefilter("ignore")
                net = load_net(parse(text, tolerant=not strict), strict=strict)
                assert load_net(parse(to_text(net)), strict=strict) == net or "nan" in text


def test_a_tolerant_document_keeps_its_mistakes() -> None:
    with pytest.raises(PrototxtError):
        decode(parse('layer { name: "a }\n', tolerant=True), "NetParameter")


def test_decoding_a_broken_document_names_the_place() -> None:
    doc = parse("layer { name: }\nlayer { nme: 1 }\n", "n", tolerant=True)
    with pytest.raises(DecodeError) as caught:
        decode(doc, "NetParameter")
    assert "n:1:" in str(caught.value)
    assert "n:2:9: LayerParameter has no field 'nme'" in str(caught.value)


@pytest.mark.parametrize("text", ["own_param { a: 1 }", "pooling_param { pool: MEDIAN }"])
def test_what_a_fork_may_have_says_what_not_strict_would_do(text: str) -> None:
    document = parse(f'layer {{ type: "Pooling" {text} }} layer {{ type: "Pooling" {text} }}')
    with pytest.raises(DecodeError, match="strict=False in Python keeps it") as caught:
        load_net(document)
    assert str(caught.value).count("strict=False") == 1  # said once, however many there are
    with pytest.warns(UnknownFieldWarning):
        load_net(document, strict=False)
    with pytest.raises(DecodeError) as caught:
        load_net(parse("layer { name: 1 }"))
    assert "strict=False" not in str(caught.value)
