"""Errors as text, alone and together, and hints for unknown names."""

from __future__ import annotations

import pytest

from prototxt.errors import EditError, ParseError, Place, PrototxtError, closest, did_you_mean, raise_all


def test_closest_ignores_case_and_underscores() -> None:
    assert closest("numoutput", ["num_output", "pad"]) == "num_output"
    assert closest("Kernel_Size", ["kernel_size"]) == "kernel_size"
    assert closest("xyz", ["num_output"]) is None


def test_closest_takes_a_word_of_only_one_name() -> None:
    assert closest("shape", ["reshape_to_blob_shape", "pad"]) == "reshape_to_blob_shape"
    assert closest("size", ["new_size_of_each", "old_size_of_each"]) is None


def test_the_hint_names_the_closest_or_says_otherwise() -> None:
    assert did_you_mean("conv", ["conv1", "pool"]) == "did you mean 'conv1'?"
    assert did_you_mean("xyz", ["conv1"]) == ""
    assert did_you_mean("xyz", ["conv1"], "the blobs are conv1") == "the blobs are conv1"
    assert did_you_mean("conv", ["conv1"], also="list them all") == "did you mean 'conv1'? list them all"
    assert did_you_mean("xyz", ["conv1"], also="list them all") == "list them all"
    assert did_you_mean("convx", ["conv1"], cutoff=0.9) == ""


def test_closest_needs_the_similarity_and_takes_the_first_of_two_spellings() -> None:
    assert closest("convolve", ["convxxxx"], cutoff=0.5) == "convxxxx"
    assert closest("convolve", ["convxxxx"]) is None
    assert closest("shape", ["blob_shape"], cutoff=1) is None
    assert closest("Conv_1", ["conv1", "CONV1"], cutoff=1) == "conv1"
    assert closest("conv2", ["conv1", "conv2x", "conv3"]) == "conv2x"
    assert closest("MAX", ["pool_max"]) == "pool_max"


def test_line_breaks_of_names_start_no_line() -> None:
    error = PrototxtError("layer 'a\nerror: b\r' is bad:\n  why", place="c\rd\r\ne:1", hint="rename 'a\nerror: b'")
    shown = "c\\rd\n    e:1: layer 'a\n    error: b\\r' is bad:\n  why\n  hint: rename 'a\n    error: b'"
    assert str(error) == shown
    with pytest.raises(PrototxtError) as both:
        raise_all([error, PrototxtError("x")])
    assert str(both.value) == f"{shown}\nx"


def test_an_error_is_place_message_and_hint() -> None:
    assert str(PrototxtError("bad")) == "bad"
    assert str(PrototxtError("bad", place="net")) == "net: bad"
    assert str(PrototxtError("bad", place=Place("net", 2, 3), hint="mend it")) == "net:2:3: bad\n  hint: mend it"
    assert str(PrototxtError("bad", hint="")) == "bad"
    assert str(PrototxtError("bad", place="")) == ": bad"


def test_several_errors_are_one_of_the_first_ones_class() -> None:
    raise_all([])
    first, second, third = EditError("one", place="a", hint="h"), ParseError("two"), ParseError("three")
    with pytest.raises(EditError) as caught:
        raise_all([first])
    assert caught.value is first
    with pytest.raises(ParseError) as caught_two:
        raise_all([second, third])
    assert str(caught_two.value) == "two\nthree"
    with pytest.raises(EditError) as caught:
        raise_all([first, caught_two.value])
    assert caught.value.errors == (first, second, third)
    assert str(caught.value) == "a: one\n  hint: h\ntwo\nthree"
    assert (caught.value.message, caught.value.place, caught.value.hint) == ("one", "a", "h")
