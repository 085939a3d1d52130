"""One spelling, form and description per option over all commands."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from caffe_fusion_tools import convert_data, rename, show
from caffe_fusion_tools.arguments import (
    add_options,
    bytes_argument,
    classes_argument,
    net_or_onnx,
    rate_argument,
    shape_argument,
    size_argument,
    source_argument,
)
from caffe_fusion_tools.commands import MODULES

# one name with a meaning per command: of sources (P=...) and of nets, of a filter and of snapshots
SEVERAL = {
    "--batch-norm",
    "--classes",
    "--drop",
    "--force",
    "--freeze",
    "--images",
    "--input-shape",
    "--keep",
    "--log",
    "--logits",
}
SEVERAL |= {
    "--thaw",
    "--pixels",
    "--layers",
    "--model",
    "--name",
    "--pct",
    "--share",
    "--snapshot",
    "--stage",
    "--weights",
    "--iterations",
}


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)
        else:
            yield action


def all_options() -> dict[str, list[argparse.Action]]:
    found = defaultdict(list)
    parsers = [import_module(f"caffe_fusion_tools.{module}").parser() for module in MODULES.values()]
    for parser in (*parsers, convert_data.parser()):
        for action in actions(parser):
            for name in action.option_strings:
                found[name].append(action)
    return found


def test_an_option_has_one_form_and_one_description() -> None:
    for name, every in all_options().items():
        descriptions = {str(action.help).partition("; ")[0].partition(" (default")[0] for action in every}
        forms = {(action.nargs, type(action), len(action.option_strings)) for action in every}
        assert name in SEVERAL or (len(descriptions), len(forms)) == (1, 1), (name, descriptions, forms)


def test_every_option_is_described() -> None:
    assert not [name for name, every in all_options().items() if not all(action.help for action in every)]


def test_a_value_has_one_metavar() -> None:
    for name, every in all_options().items():
        assert name in SEVERAL or len({str(action.metavar) for action in every}) == 1, name


def test_descriptions_name_defaults() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, "--rtol", "--json", note="with --check")
    add_options(parser, "--seed", default=0)
    text = parser.format_help()
    assert "relative difference allowed; with --check (default 1e-05)" in " ".join(text.split())
    assert "seed of all random draws (default 0)" in text
    assert "print the result as JSON; with --check\n" in text


def test_class_numbers() -> None:
    assert classes_argument("1,3, 5") == [1, 3, 5]
    assert classes_argument("0-4,9") == [0, 1, 2, 3, 4, 9]
    for wrong in ("", "1,", "-1", "1-", "a", "1,x"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a class number"):
            classes_argument(wrong)


def test_rates_and_sizes() -> None:
    assert (rate_argument("0.5%"), rate_argument("0.005")) == (0.005, 0.005)
    with pytest.raises(argparse.ArgumentTypeError, match="write 1% or 100%"):
        rate_argument("1")
    sizes = [bytes_argument(text) for text in ("7", "1.5k", "512M", "3G", "2KiB", "2mb")]
    assert sizes == [7, 1536, 512 * 1024**2, 3 * 1024**3, 2048, 2 * 1024**2]
    for wrong in ("", "M", "1T", "-1", "1.M"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a size"):
            bytes_argument(wrong)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("odd=w.h5", ("odd", "w.h5")),
        ("=w.h5", ("", "w.h5")),
        ("odd=a:b.prototxt:w.h5", ("odd", ("a:b.prototxt", "w.h5"))),
        ("odd=net.pbtxt:w.h5", ("odd", ("net.pbtxt", "w.h5"))),
        ("odd=net.txt:w.h5", ("odd", ("net.txt", "w.h5"))),
        ("odd=C:/w.h5", ("odd", "C:/w.h5")),
        ("a=b=c", ("a", "b=c")),
    ],
)
def test_sources(text: str, found: object) -> None:
    assert source_argument(text) == found


def test_what_is_no_source_shape_or_size() -> None:
    for text, says in (("w.h5", "for layers without a prefix: '=w.h5'"), ("odd=", "give a file after the equals sign")):
        with pytest.raises(argparse.ArgumentTypeError, match=says):
            source_argument(text)
    assert shape_argument("a=b=1,3x4") == ("a=b", (1, 3, 4))
    for text in ("1,3", "=1,3", "d=", "d=1,x", "d=1,0", "d=0,1"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not BLOB=N,C,H,W"):
            shape_argument(text)
    assert (size_argument("1X2"), size_argument("30,4")) == ((1, 2), (30, 4))
    for text in ("3", "3x", "x3", "0x3", "3x0", "ax3", "3xa", "3x4x5"):
        with pytest.raises(argparse.ArgumentTypeError, match="give HEIGHTxWIDTH"):
            size_argument(text)


@pytest.mark.parametrize(
    ("shapes", "size", "channels"),
    [([], None, 3), ([(1, 4)], None, 3), ([(1, 3, 5), (1, 2, 6, 7), (1, 3, 8, 9), (1, 2, 3, 4, 5)], (6, 7), 2)],
)
def test_an_onnx_net_takes_the_size_of_the_first_input_of_images(
    shapes: list[tuple[int, ...]], size: object, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusion.composition.onnx_net.onnx_net", lambda path, **given: (path, given))
    arguments: Any = SimpleNamespace(input_shape=[("x", shape) for shape in shapes], pixels="unit")
    for measured in ({}, {"measured": True}):
        options = {"pixels": "unit", "size": size, "channels": channels, "measured": bool(measured)}
        expected = ("net.ONNX", options)
        assert net_or_onnx("net.ONNX", arguments, **measured) == expected  # type: ignore[comparison-overlap]


def test_quiet_prints_the_result_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text('layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 } } }\n')
    assert rename.main([str(net), "-", "odd", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert 'name: "odd/d"' in out
    assert err == ""
    assert show.main([str(net), "--phase", "test"]) == 0
