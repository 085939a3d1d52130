"""Warnings of ours on standard error, as every command prints them."""

from __future__ import annotations

import warnings

import pytest
from caffe_fusion_tools.cli import run_command

from prototxt.schema.decode import UnknownFieldWarning


def test_a_warning_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    def twice() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            for text in ("a", "b", "a"):
                warnings.warn(UnknownFieldWarning(text), stacklevel=2)

    assert run_command(twice) == 0
    assert capsys.readouterr().err == "warning: a\nwarning: b\n"
    assert run_command(twice) == 0
    assert capsys.readouterr().err == "warning: a\nwarning: b\n"
