"""The command-line syntax of references and losses: every option, and the names that references get."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from fusion.errors import TrainingError
from fusion.references import Reference, parse_pct, parse_reference
from fusion.references.parse import with_unique_names


def test_options_of_a_reference() -> None:
    text = "a.prototxt:a.caffemodel,name=n,ensemble=e,cache=c.npz,input=data,start=3,warmup=4,weight=0,classes=0"
    found = parse_reference(text)
    assert (found.name, found.ensemble, found.cache, found.input) == ("n", "e", "c.npz", "data")
    assert (found.start, found.warmup, found.weight, found.classes) == (3, 4, 0.0, (0,))
    assert (found.half, found.live, found.unchecked) == (False, False, False)
    plain = parse_reference("f.npz")
    assert (plain.net, plain.weights, plain.blob, plain.weight) == ("f.npz", (), None, 1.0)
    assert parse_reference("@side/ip").blob == "side/ip"
    assert parse_reference("@side/ip").net is None


@pytest.mark.parametrize("switch", ["half", "live", "unchecked"])
def test_switches_are_turned_on_and_off(switch: str) -> None:
    for text, expected in ((switch, True), (f"{switch}=1", True), (f"{switch}=yes", True), (f"{switch}=no", False),
                           (f"{switch}=0", False)):  # fmt: skip
        found = parse_reference(f"f.npz,{text}")
        assert {name: getattr(found, name) for name in ("half", "live", "unchecked")} == {
            **dict.fromkeys(("half", "live", "unchecked"), False), switch: expected
        }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1,3,5", (1, 3, 5)), ("0-2", (0, 1, 2)), ("4,0-1,9", (4, 0, 1, 9)), ("7-7", (7,)), ("3-2", ())],
)
def test_classes(text: str, expected: tuple[int, ...]) -> None:
    assert parse_reference(f"f.npz,classes={text},weight=2").classes == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f.npz,classes=a", "'a' is not a class number"),
        ("f.npz,classes=1-", "'1-' is not a class number"),
        ("f.npz,classes=-1", "'-1' is not a class number"),
        ("f.npz,classes=1,x", "'x' is not a class number"),
        ("f.npz,name", "'name' has no value"),
        ("f.npz,weight=inf", "weight is 0 or more, not inf"),
        ("f.npz,start=1.5", "start is a number, not '1.5'"),
        ("f.npz,wieght=1", "unknown option 'wieght'"),
        ("@", "it names neither a file nor a blob"),
        ("", "it names neither a file nor a blob"),
        ("n.prototxt@ip", "a prototxt needs trained weights"),
    ],
)
def test_mistakes_in_a_reference(text: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        parse_reference(text)


def test_a_file_may_have_signs_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a@b.npz", "c:d.npz"):
        Path(name).touch()
        assert (parse_reference(name).net, parse_reference(name).blob) == (name, None)
    found = parse_reference("c:d.npz@ip")
    assert (found.net, found.weights, found.blob) == ("c:d.npz", (), "ip")


def test_options_of_a_loss() -> None:
    found = parse_pct("focal")
    assert (found.pct.kind, found.pct.weight, found.pct.options, found.on, found.of) == ("focal", 1.0, {}, None, ())
    assert parse_pct("kd,filter=old_correct,temperature=2").pct.options == {"filter": "OLD_CORRECT", "temperature": "2"}
    with pytest.raises(TrainingError, match="--pct kd,margin: 'margin' has no value"):
        parse_pct("kd,margin")
    with pytest.raises(TrainingError, match="weight is 0 or more, not -1"):
        parse_pct("kd,weight=-1")


def test_names_come_from_files_and_are_made_unique() -> None:
    module = nn.Identity()
    named = nn.Identity()
    named.name = "own"  # type: ignore[assignment]
    references = [
        Reference("dir/net.prototxt", ["x/first.caffemodel", "y/last.caffemodel"]),
        Reference("dir/net.prototxt", ["z/last.caffemodel"]),
        Reference("dir/table.npz"),
        Reference(None, blob="side/ip"),
        Reference(module),
        Reference(named),
        Reference("dir/table.npz", name="last"),
    ]
    found = [reference.name for reference in with_unique_names(references)]
    assert found == ["last", "last2", "table", "side", "reference4", "own", "last3"]
