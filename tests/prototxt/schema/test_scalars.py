"""Every scalar type against what protobuf's text format takes and refuses."""

from __future__ import annotations

import math

import pytest

from prototxt.errors import DecodeError
from prototxt.schema.decode import decode
from prototxt.schema.messages import ConvolutionParameter, LRNParameter, PoolingParameter
from prototxt.text.parser import parse

ACCEPTED = [
    ("BlobProto", "num: 5", 5),
    ("BlobProto", "num: -5", -5),
    ("BlobProto", "num: - 5", -5),
    ("BlobProto", "num: 0x1F", 31),
    ("BlobProto", "num: 0X1f", 31),
    ("BlobProto", "num: -0x10", -16),
    ("BlobProto", "num: 010", 8),
    ("BlobProto", "num: 0", 0),
    ("BlobProto", "num: -0", 0),
    ("BlobProto", "num: 2147483647", 2**31 - 1),
    ("BlobProto", "num: -2147483648", -(2**31)),
    ("ConvolutionParameter", "num_output: 4294967295", 2**32 - 1),
    ("ConvolutionParameter", "num_output: 0xffffffff", 2**32 - 1),
    ("SolverParameter", "random_seed: -9223372036854775808", -(2**63)),
    ("SolverParameter", "random_seed: 9223372036854775807", 2**63 - 1),
    ("PowerParameter", "power: 2", 2.0),
    ("PowerParameter", "power: -2", -2.0),
    ("PowerParameter", "power: .5", 0.5),
    ("PowerParameter", "power: 1.", 1.0),
    ("PowerParameter", "power: -.5", -0.5),
    ("PowerParameter", "power: 2.5e1", 25.0),
    ("PowerParameter", "power: 25E-1", 2.5),
    ("PowerParameter", "power: 1e+2f", 100.0),
    ("PowerParameter", "power: 0.5f", 0.5),
    ("PowerParameter", "power: 3F", 3.0),
    ("PowerParameter", "power: inf", math.inf),
    ("PowerParameter", "power: -inf", -math.inf),
    ("PowerParameter", "power: Infinity", math.inf),
    ("PowerParameter", "power: 1e60", math.inf),
    ("PowerParameter", "power: 0", 0.0),
    ("ConvolutionParameter", "bias_term: true", True),
    ("ConvolutionParameter", "bias_term: True", True),
    ("ConvolutionParameter", "bias_term: t", True),
    ("ConvolutionParameter", "bias_term: 1", True),
    ("ConvolutionParameter", "bias_term: 0x1", True),
    ("ConvolutionParameter", "bias_term: false", False),
    ("ConvolutionParameter", "bias_term: False", False),
    ("ConvolutionParameter", "bias_term: f", False),
    ("ConvolutionParameter", "bias_term: 0", False),
    ("PoolingParameter", "pool: AVE", 1),
    ("PoolingParameter", "pool: 2", 2),
    ("PoolingParameter", "pool: 0x1", 1),
    ("LayerParameter", 'name: "conv1"', "conv1"),
    ("LayerParameter", "name: 'conv\"1\"'", 'conv"1"'),
    ("LayerParameter", 'name: "a" \'b\'\n"c"', "abc"),
    ("LayerParameter", 'name: "\\x41\\102\\n\\"\\\'\\\\"', "AB\n\"'\\"),
    ("LayerParameter", 'name: "\\303\\274 \u00fc"', "\u00fc \u00fc"),
    ("LayerParameter", 'name: "\\u00fc\\U0001F600\\\\d"', "\u00fc\U0001f600\\d"),
    ("LayerParameter", 'name: ""', ""),
    ("Datum", 'data: "\\377\\000a"', b"\xff\x00a"),
    ("Datum", 'data: "\u00fc"', "\u00fc".encode()),
]
REFUSED = [
    ("BlobProto", "num: 2147483648", "out of range"),
    ("BlobProto", "num: -2147483649", "out of range"),
    ("BlobProto", "num: " + "9" * 5000, "out of range"),
    ("BlobProto", "num: 1.0", "expected an integer, found 1.0"),
    ("BlobProto", "num: 1e3", "expected an integer"),
    ("BlobProto", "num: 08", "expected an integer"),
    ("BlobProto", "num: ten", "expected an integer, found ten"),
    ("BlobProto", 'num: "1"', "expected an integer"),
    ("ConvolutionParameter", "num_output: -1", "out of range"),
    ("ConvolutionParameter", "num_output: 4294967296", "out of range"),
    ("ConvolutionParameter", "num_output: true", "expected an integer"),
    ("SolverParameter", "random_seed: 9223372036854775808", "out of range"),
    ("PowerParameter", "power: 0x10", "expected a number"),
    ("PowerParameter", "power: 010", "drop the leading zeros"),
    ("PowerParameter", "power: 00.5", "drop the leading zeros"),
    ("PowerParameter", "power: -01e5", "drop the leading zeros"),
    ("PowerParameter", "power: one", "expected a number"),
    ("PowerParameter", 'power: "1"', "expected a number"),
    ("ConvolutionParameter", "bias_term: yes", "expected true or false"),
    ("ConvolutionParameter", "bias_term: TRUE", "expected true or false"),
    ("ConvolutionParameter", "bias_term: 2", "expected true or false"),
    ("ConvolutionParameter", 'bias_term: "true"', "expected true or false"),
    ("PoolingParameter", "pool: AVG", "did you mean 'AVE'"),
    ("PoolingParameter", "pool: max", "did you mean 'MAX'"),
    ("PoolingParameter", "pool: 7", "no value with number 7"),
    ("PoolingParameter", 'pool: "MAX"', "write MAX without quotes"),
    ("LayerParameter", "name: conv1", "put it into quotes"),
    ("LayerParameter", "name: 1", "expected a string"),
    ("LayerParameter", 'name: "C:\\data"', r"unknown escape \\d in .*\n  hint: write \\\\ for a backslash"),
    ("LayerParameter", 'name: "\\xg"', "unknown escape"),
    ("LayerParameter", 'name: "\\u12"', "unknown escape"),
    ("LayerParameter", 'name: "\\U00110000"', "unknown escape"),
    ("Datum", 'data: "\\q"', "unknown escape"),
    ("LayerParameter", 'name: "\\377"', "not UTF-8"),
    ("Datum", "data: 1", "expected a string"),
]


@pytest.mark.parametrize(("message", "text", "value"), ACCEPTED)
def test_accepted(message: str, text: str, value: object) -> None:
    assert getattr(decode(parse(text), message), text.partition(":")[0]) == value


@pytest.mark.parametrize(("message", "text", "complaint"), REFUSED)
def test_refused(message: str, text: str, complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint) as caught:
        decode(parse(text, "net.prototxt"), message)
    assert str(caught.value).startswith("net.prototxt:1:")


@pytest.mark.parametrize("text", ["nan", "-nan", "NaN"])
def test_nan(text: str) -> None:
    assert math.isnan(decode(parse(f"power: {text}"), "PowerParameter").power)


def test_floats_are_rounded_to_float32() -> None:
    assert decode(parse("alpha: 1e-4"), "LRNParameter") == LRNParameter(alpha=1e-4)


def test_lists_of_every_kind_of_scalar() -> None:
    expected = ConvolutionParameter(pad=[1, 2, 3])
    assert decode(parse("pad: [1, 0x2] pad: 3 pad: []"), "ConvolutionParameter") == expected
    assert list(decode(parse("top: ['a' 'b', \"c\"]"), "LayerParameter").top) == ["ab", "c"]
    assert list(decode(parse("loss_weight: [1, .5, inf]"), "LayerParameter").loss_weight) == [1, 0.5, math.inf]
    assert list(decode(parse("propagate_down: [true, f, 1]"), "LayerParameter").propagate_down) == [True, False, True]
    assert list(decode(parse("blob_share_mode: [STRICT, 1]"), "V1LayerParameter").blob_share_mode) == [0, 1]


def test_enum_defaults_stay_unset() -> None:
    assert decode(parse(""), "PoolingParameter") == PoolingParameter()
