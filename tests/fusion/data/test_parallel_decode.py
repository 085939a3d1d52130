"""Children may decode what is kept; the pixels and the errors are those of one process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusion.data import open_source, parallel_decode
from fusion.data.source import ImageSource
from fusion.errors import DataError
from prototxt.schema.messages import LayerParameter

COUNT = 60


@pytest.fixture
def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LayerParameter:
    """A layer of sixty pictures; children are worth their while at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel_decode, "CHUNK", 7)
    monkeypatch.setattr(parallel_decode, "WORTH", 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        Image.fromarray(rng.integers(0, 255, (5, 6)).astype(np.uint8)).save(f"p{index}.png")
    Path("list.txt").write_text("".join(f"p{index}.png 0\n" for index in range(COUNT)))
    made = LayerParameter(name="data", type="ImageData", top=["data", "label"])
    made.image_data_param.source, made.image_data_param.batch_size = "list.txt", 4
    return made


def loaded(layer: LayerParameter, **options: Any) -> ImageSource:
    source = open_source(layer, "TRAIN", **options)
    assert isinstance(source, ImageSource)
    return source


def pixels(source: ImageSource) -> np.ndarray:
    return source.batch(np.arange(COUNT))["data"].numpy()


def test_children_decode_the_same_pixels(layer: LayerParameter) -> None:
    alone, helped = loaded(layer), loaded(layer)
    seen: list[tuple[int, int]] = []
    parallel_decode.prefill_cache(helped.store, helped.config, lambda done, count: seen.append((done, count)))
    assert len(helped.store.missing) == 0, "the children did all of it"
    assert seen[-1] == (COUNT, COUNT)
    alone.store.load()
    np.testing.assert_array_equal(pixels(helped), pixels(alone))


def test_records_that_are_not_kept_are_not_decoded_before(layer: LayerParameter) -> None:
    source = loaded(layer, budget=0)
    source.load()
    assert not source.store.keeps


def test_unfit_records_are_left_to_the_store(layer: LayerParameter) -> None:
    Path("p20.png").write_bytes(b"no picture")
    Image.new("L", (9, 9)).save("p30.png")
    helped = loaded(layer)
    parallel_decode.prefill_cache(helped.store, helped.config)
    assert helped.store.missing.tolist() == [20, 30]
    with pytest.raises(DataError, match=r"p20\.png"):
        helped.load()
    skipping = loaded(layer, on_bad_record="skip")
    skipping.load()
    assert set(skipping.bad) == {20, 30}


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("exit 1", r"one of them ended with code 1$"),
        ("exit 0", r"one of them ended with code 0$"),
        ("echo something else", r"one of them sent something other than data"),
        ("echo out of luck >&2; exit 3", r"ended with code 3: out of luck$"),
        ("kill -9 $$", r"was killed by signal 9 \(is there too little memory\?\)$"),
        ("", "No such file"),
    ],
)
def test_a_child_that_fails_costs_only_time_and_is_told(
    layer: LayerParameter, program: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program:
        Path("child.sh").write_text(f"#!/bin/sh\n{program}\n")
        Path("child.sh").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(Path("child.sh").resolve()))
    helped, alone = loaded(layer), loaded(layer)
    with pytest.warns(parallel_decode.SlowDecoding, match=reason):
        helped.load()
    alone.store.load()
    np.testing.assert_array_equal(pixels(helped), pixels(alone))
