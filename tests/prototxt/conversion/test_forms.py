"""Which form a file's name asks for."""

from __future__ import annotations

import pytest

from prototxt.conversion.forms import form_of
from prototxt.errors import WeightsError


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.caffemodel.h5", "hdf5"), ("-", "text"), ("NET.PROTOTXT", "text"), ("mean.npy", "npy"), ("a.pb", "binary")],
)
def test_the_form_by_the_name(name: str, form: str) -> None:
    assert form_of(name) == form


def test_a_name_that_does_not_say() -> None:
    with pytest.raises(WeightsError, match=r"weights\.pth: the form to write cannot be derived from the name"):
        form_of("weights.pth")
