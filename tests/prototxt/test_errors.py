"""Hints for unknown names."""

from __future__ import annotations

from prototxt.errors import closest, did_you_mean


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
