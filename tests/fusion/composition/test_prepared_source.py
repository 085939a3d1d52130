"""A source before it is fused: its inputs in every syntax, its cut and scores, and what is asked about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion import ComposeError
from fusion.composition import Source
from fusion.composition.prepared_source import _freeze_notes, prepare_source

BODY = """
layer { name: "conv" type: "Convolution" bottom: "FROM" top: "conv" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 3 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
INPUT = 'layer { name: "d" type: "Input" top: "a" top: "b" input_param { SHAPES } }'
DIMS = "input_dim: 1 input_dim: 3 input_dim: 4 input_dim: 5 "
SHAPES = "input_shape { dim: 1 dim: 3 dim: 4 dim: 5 } input_shape { dim: 2 dim: 6 dim: 7 dim: 8 }"


@pytest.mark.parametrize(
    ("text", "blob", "shape"),
    [
        (f'input: "a" {DIMS}', "a", (1, 3, 4, 5)),
        (f'input: "a" {DIMS} input: "b" {DIMS.replace("3", "6")}', "a", (1, 3, 4, 5)),
        (f'input: "a" {DIMS} input: "b" {DIMS.replace("3", "6")}', "b", (1, 6, 4, 5)),
        (f'input: "a" input: "b" {SHAPES}', "a", (1, 3, 4, 5)),
        (f'input: "a" input: "b" {SHAPES}', "b", (2, 6, 7, 8)),
        ('input: "a"', "a", None),
        (INPUT.replace("SHAPES", "shape { dim: 2 dim: 9 } shape { dim: 3 }"), "a", (2, 9)),
        (INPUT.replace("SHAPES", "shape { dim: 2 dim: 9 } shape { dim: 3 dim: 8 }"), "b", (3, 8)),
        (INPUT.replace("SHAPES", "shape { dim: 2 dim: 9 }"), "b", (2, 9)),
        (INPUT.replace("SHAPES", ""), "a", None),
        ('layer { name: "d" type: "ImageData" top: "a" top: "l" image_data_param { source: "x" } }', "a", None),
    ],
)
def test_the_shape_of_the_first_input(text: str, blob: str, shape: tuple[int, ...] | None, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(text + BODY.replace("FROM", blob))
    assert prepare_source(Source("p", path, at="conv"), reference=False).input_shape == shape


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "net.prototxt"
    found.write_text(f'input: "a" {DIMS}' + BODY.replace("FROM", "a"))
    return found


def test_a_branch_and_its_classifier(path: Path) -> None:
    found = prepare_source(Source("p", path), reference=True)
    assert (found.cuts, found.plain, found.raw_cuts) == (("p/conv",), ("conv",), ("conv",))
    assert (found.logits, found.reader, len(found.branch.layers), len(found.classifier)) == ("p/ip", "ip", 1, 1)
    assert "source 'p': cut at 'conv', which its classifier reads" in found.notes
    alone = prepare_source(Source("p", path, at=("conv", "ip")), reference=False)
    assert (alone.cuts, alone.logits, alone.reader, alone.classifier) == (("p/conv", "p/ip"), None, "ip", frozenset())
    assert prepare_source(Source("p", path, at="p/conv"), reference=False).raw_cuts == ("conv",)


def test_names_that_have_the_prefix_already(path: Path) -> None:
    text = path.read_text()
    for name in ("conv", "ip", "prob"):
        text = text.replace(f'"{name}"', f'"p/{name}"')
    path.write_text(text)
    for at in ("conv", "p/conv"):
        found = prepare_source(Source("p", path, at=at, logits="ip"), reference=True)
        assert (found.cuts, found.plain, found.raw_cuts) == (("p/conv",), ("conv",), ("p/conv",))
        assert (found.logits, found.reader) == ("p/ip", "ip")
        assert "source 'p': its names already start with 'p/'" in found.notes


SECOND = """
layer { name: "low" type: "InnerProduct" bottom: "a" top: "low" inner_product_param { num_output: 3 } }
layer { name: "lowest" type: "Softmax" bottom: "low" top: "lowest" }
"""


def test_several_classifiers_are_asked_about(path: Path) -> None:
    path.write_text(path.read_text() + SECOND.replace('bottom: "a"', 'bottom: "conv"'))
    assert prepare_source(Source("p", path), reference=False).cuts == ("p/conv",), "both read it"
    with pytest.raises(ComposeError, match=r"has several classifiers: .*\n  hint: name the one to keep .* --logits p="):
        prepare_source(Source("p", path), reference=True)
    assert prepare_source(Source("p", path, logits="low"), reference=True).logits == "p/low"
    path.write_text(path.read_text().replace('bottom: "conv" top: "low"', 'bottom: "ip" top: "low"'))
    with pytest.raises(ComposeError, match=r"'ip' \(reads 'conv'\)|'low' \(reads 'ip'\)") as caught:
        prepare_source(Source("p", path), reference=False)
    assert "say where to cut: 'p=...@" in str(caught.value)
    assert prepare_source(Source("p", path, logits="low"), reference=False).raw_cuts == ("ip",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name: "n"', "source 'p': this is no net: it has no layers"),
        ('input: "a" layer { name: "r" type: "ReLU" bottom: "a" top: "r" }', "no classifier was found to cut before"),
    ],
)
def test_nets_without_a_classifier(text: str, says: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(ComposeError, match=says):
        prepare_source(Source("p", path), reference=False)


def test_pixels_are_not_of_nets_with_data_layers(path: Path) -> None:
    with pytest.raises(ComposeError, match="pixels are for ONNX files and for nets with one Input layer"):
        prepare_source(Source("p", path, pixels="unit"), reference=False)


@pytest.mark.parametrize("fields", [1, 2, 3])
def test_fields_that_no_schema_knows_are_noted_once(path: Path, fields: int) -> None:
    lines = path.read_text().replace('type: "Convolution"', 'type: "Convolution"' + "\n odd_field: 1" * fields)
    path.write_text(lines)
    (note,) = prepare_source(Source("p", path, at="conv"), reference=False).unknown
    assert note.endswith("" if fields == 1 else f"(and {fields - 1} more of them)")
    assert f"{path}:3" in note


def test_an_old_syntax_is_upgraded_with_a_note(path: Path) -> None:
    new = prepare_source(Source("p", path), reference=False)
    assert not any("old syntax" in note for note in new.notes)
    path.write_text(f'input: "a" {DIMS} layers {{ name: "ip" type: INNER_PRODUCT bottom: "a" top: "ip" '
                    'inner_product_param { num_output: 3 } } layers { name: "p" type: SOFTMAX bottom: "ip" top: "p" }'
                    )  # fmt: skip
    old = prepare_source(Source("p", path, at="ip"), reference=False)
    assert any("its old syntax is upgraded" in note for note in old.notes)
    assert [layer.type for layer in old.raw.layers] == ["InnerProduct", "Softmax"] or old.raw.layers[0].type == "Input"


def test_changes_of_freezing_are_told_for_up_to_four_layers() -> None:
    assert _freeze_notes({"a": ["x"], "b": ["x", "y"], "c": []}) == ["x: a, b", "y: b"]
    assert _freeze_notes({name: ["x"] for name in "abcd"}) == ["x: a, b, c, d"]
    assert _freeze_notes({name: ["x"] for name in "abcdef"}) == ["x: a, b, c, d and 2 more"]
