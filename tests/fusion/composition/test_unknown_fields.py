"""Fields that no schema knows are kept, said, and named where they may explain an error."""

from __future__ import annotations

from pathlib import Path

import pytest

import prototxt
from fusion.composition import Source, compose
from fusion.errors import ComposeError
from prototxt.errors import PrototxtError

LENET = Path(__file__).parents[3] / "examples" / "mnist_odd_even" / "lenet_odd_train_val.prototxt"


def damaged(old: str, new: str) -> prototxt.Document:
    text = LENET.read_text(encoding="utf-8")
    assert old in text
    return prototxt.parse(text.replace(old, new, 1), name="odd.prototxt")


def test_kept_and_said() -> None:
    fused = compose([Source("odd", damaged("pool: MAX", "poool: MAX"), at="ip1")], num_output=10)
    assert "poool: MAX" in str(fused.train_val)
    assert any("no schema knows 'poool' of PoolingParameter" in note for note in fused.notes)


def test_named_beside_the_error_that_it_causes() -> None:
    with pytest.raises(PrototxtError, match="num_output must be at least 1") as caught:
        compose([Source("odd", damaged("num_output: 20", "num_outptu: 20"), at="ip1")], num_output=10)
    assert "no schema knows 'num_outptu' of ConvolutionParameter" in str(caught.value)


def test_a_misspelt_type_is_guessed() -> None:
    with pytest.raises(ComposeError, match="did you mean 'InnerProduct'"):
        compose([Source("odd", damaged('"InnerProduct"', '"InerProduct"'), at="ip1")], num_output=10)
