"""A table of a job becomes options of its command; its keys are those of the command's own parser."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from typing import Any

import pytest

from fusion import ComposeError
from fusion.job.option_words import check_words, option_words


def parser_of(command: str) -> argparse.ArgumentParser:
    module = {"train": "training_options", "test": "evaluate"}.get(command, command)
    result: argparse.ArgumentParser = import_module(f"caffe_fusion_tools.{module}").parser()
    return result


@pytest.mark.parametrize(
    ("command", "table", "words"),
    [
        ("train", {"warmup": 5, "ema": 0.99, "amp": "bf16"}, ["--warmup", "5", "--ema", "0.99", "--amp", "bf16"]),
        ("train", {"set": ["momentum=0.8", "iter_size=2"]}, ["--set", "momentum=0.8", "--set", "iter_size=2"]),
        ("train", {"set": "momentum=0.8"}, ["--set", "momentum=0.8"]),
        ("train", {"no_cache": True, "compile": False}, ["--no-cache", "--no-compile"]),
        ("train", {"no_cache": False, "compile": True}, ["--compile"]),
        ("train", {"label_smoothing": -0.5}, ["--label-smoothing=-0.5"]),
        ("train", {"set": ["-a", "b-c"]}, ["--set=-a", "--set", "b-c"]),
        ("verify", {"images": "a.png"}, ["--images", "a.png"]),
        ("report", {"title": "Two nets", "image_bytes": 100}, ["--title", "Two nets", "--image-bytes", "100"]),
        ("verify", {"images": ["a.png", "b.png"], "rtol": 1e-3}, ["--images", "a.png", "b.png", "--rtol", "0.001"]),
        ("export", {"input_shape": ["data=1,3,8,8"], "check": True}, ["--input-shape", "data=1,3,8,8", "--check"]),
    ],
)
def test_entries_become_options(command: str, table: dict[str, Any], words: list[str]) -> None:
    parser = parser_of(command)
    assert option_words(table, command, parser) == words
    parser.parse_known_args([*{"verify": ["n", "w", "p=s"], "export": ["n", "w", "-o", "o.onnx"]}.get(command, []),
                             *{"report": ["--old", "o", "--new", "n"]}.get(command, []), *words])  # fmt: skip


@pytest.mark.parametrize(
    ("command", "table", "says", "hint"),
    [
        ("train", {"warmpu": 5}, "there is no key 'train.warmpu'", "did you mean 'warmup'?"),
        ("train", {"weights": "w"}, "'train.weights' is set by the job itself", "leave it out"),
        ("train", {"lr": 0.1}, "'train.lr' is set by the job itself", "base_lr under [solver]"),
        ("report", {"max_nfr": "1%"}, "'report.max_nfr' is set by the job itself", "under [gate]"),
        ("train", {"no_cache": 1}, "'train.no_cache' is 1, not true or false", ""),
        ("train", {"warmup": True}, "'train.warmup' is True, not a text or number", ""),
        ("train", {"warmup": [1, 2]}, "'train.warmup' is [1, 2], not a text or number", ""),
        ("train", {"set": [["a"]]}, "'train.set' is [['a']], not a list of texts or numbers", ""),
        ("test", {"help": True}, "'test.help' is set by the job itself", ""),
        ("test", {"version": True}, "'test.version' is set by the job itself", "leave it out"),
        ("train", {"no_compile": True}, "there is no key 'train.no_compile'", "did you mean 'compile'?"),
        (
            "verify",
            {"xyzzy": 1},
            "there is no key 'verify.xyzzy'",
            "one of batch, images, input_shape, rtol, seed, stage",
        ),
        ("train", {"no_cache": "yes"}, "'train.no_cache' is 'yes', not true or false", ""),
        ("train", {"set": ["a=1", True]}, "'train.set' is ['a=1', True], not a list of texts or numbers", ""),
        ("train", {"set": [True]}, "'train.set' is [True], not a list of texts or numbers", ""),
        ("train", {"warmup": {"a": 1}}, "'train.warmup' is {'a': 1}, not a text or number", ""),
    ],
)
def test_mistakes_name_their_key(command: str, table: dict[str, Any], says: str, hint: str) -> None:
    with pytest.raises(ComposeError, match=re.escape(says)) as caught:
        option_words(table, command, parser_of(command))
    assert caught.value.place == f"{command}.{next(iter(table))}"
    assert hint in (caught.value.hint or "")


def test_a_command_line_is_checked_without_running_it() -> None:
    words = ["--solver", "s.prototxt", "--warmup"]
    with pytest.raises(ComposeError, match="argument --warmup: '-1' is not a whole number from 1"):
        check_words([*words, "-1"], parser_of("train"))
    check_words([*words, "1"], parser_of("train"))
