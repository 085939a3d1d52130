"""Text that decodes to the equal message, in Caffe's style."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from prototxt.errors import DecodeError
from prototxt.schema.decode import decode
from prototxt.schema.encode import float_text, to_text
from prototxt.schema.load import load_net
from prototxt.schema.messages import BlobProto, Datum, LayerParameter, NetParameter, SolverParameter
from prototxt.text.parser import parse, parse_file


def test_style() -> None:
    text = """name: "net"
layer {
  name: "conv1"
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  param {
    lr_mult: 1
  }
  param {}
  loss_weight: 0.1
  convolution_param {
    num_output: 20
    bias_term: false
    kernel_size: 5
    weight_filler {
      type: "xavier"
      std: 1e-05
    }
    engine: CAFFE
  }
}
"""
    written = to_text(decode(parse(text), "NetParameter"))
    assert sorted(written.splitlines()) == sorted(text.splitlines())
    assert written.startswith('name: "net"\nlayer {\n  name: "conv1"\n  type: "Convolution"\n  bottom: "data"\n')


def test_empty() -> None:
    assert to_text(NetParameter()) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1e-5, "1e-05"),
        (100.0, "100"),
        (1e10, "1e+10"),
        (0.0005, "0.0005"),
        (16777217, "16777216"),
        (1 / 3, "0.33333334"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (-0.0, "-0"),
    ],
)
def test_floats(value: float, text: str) -> None:
    single = struct.unpack("f", struct.pack("f", value))[0]
    assert float_text(single) == text


@given(st.floats(width=32, allow_nan=False))
def test_floats_read_back(value: float) -> None:
    assert struct.pack("f", float(float_text(value))) == struct.pack("f", value)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary())
def test_strings_read_back(text: str, data: bytes) -> None:
    layer = LayerParameter(name=text)
    assert decode(parse(to_text(layer)), "LayerParameter") == layer
    datum = Datum(data=data)
    assert decode(parse(to_text(datum)), "Datum") == datum


def test_numbers_of_every_width() -> None:
    blob = BlobProto(data=[0.1, -2], double_data=[0.1, 1e300, -math.inf], num=-3)
    assert decode(parse(to_text(blob)), "BlobProto") == blob
    solver = SolverParameter(random_seed=-(2**63), test_initialization=False, snapshot_format="HDF5")
    assert decode(parse(to_text(solver)), "SolverParameter") == solver


def test_golden_files_read_back(golden: Path) -> None:
    for path in sorted((golden / "layers").glob("*/net.prototxt")):
        net = load_net(path)
        assert load_net(parse(to_text(net))) == net, path


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
def test_corpus_reads_back(reference: Path) -> None:
    for path in sorted((reference / "corpus").iterdir()):
        doc = parse_file(path, tolerant=True)
        if path.name == "INDEX.tsv" or doc.errors or "{cls" in str(doc):
            continue
        name = "SolverParameter" if "solver" in path.name else "NetParameter"
        try:
            message = decode(doc, name, strict=False)
        except DecodeError:  # templates; test_decoding looks at what is said
            continue
        assert decode(parse(to_text(message)), name, strict=False) == message, path
