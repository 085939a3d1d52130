"""Edits follow the style of their neighbours and leave everything else alone."""

# ruff: noqa: E501 - tables of texts

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from prototxt import EditError, Edits, find, parse
from prototxt.text.tree import Message

BLOCK = "p { x: 0 }"


def edit(text: str, action: str, new: str = BLOCK) -> str:
    document = parse(text)
    edits = Edits(document)
    message = document.root.messages("m")[0] if document.root.messages("m") else document.root
    if action == "append":
        edits.append_field(message, new)
    elif action == "before":
        edits.insert_field(message, new, before=message.fields[0])
    elif action == "after":
        edits.insert_field(message, new, after=message.fields[0])
    elif action == "remove":
        edits.remove(message.fields[0])
    else:
        for field in message.fields:
            edits.remove(field)
    return str(edits.apply())


@pytest.mark.parametrize(
    ("text", "action", "expected"),
    [
        ("m { a: 1 }", "append", "m { a: 1 p { x: 0 } }"),
        ("m { a: 1 b: 2 }", "after", "m { a: 1 p { x: 0 } b: 2 }"),
        ("m { a: 1 }", "before", "m { p { x: 0 } a: 1 }"),
        ("m{a:1}", "append", "m{a:1 p { x: 0 }}"),
        ("m {}", "append", "m { p { x: 0 } }"),
        ("m { }", "append", "m { p { x: 0 } }"),
        ("m { a: 1, b: 2 }", "append", "m { a: 1, b: 2, p { x: 0 } }"),
        ("m { a: 1, b: 2 }", "after", "m { a: 1, p { x: 0 }, b: 2 }"),
        ("m { a: 1; b: 2; }", "append", "m { a: 1; b: 2; p { x: 0 }; }"),
        ("m {\n  a: 1 # c\n}\n", "append", "m {\n  a: 1 # c\n  p {\n    x: 0\n  }\n}\n"),
        ("m {\n  a: 1\n  q { y: 1 }\n}\n", "append", "m {\n  a: 1\n  q { y: 1 }\n  p { x: 0 }\n}\n"),
        ("m {\n\ta: 1\n\tq {\n\t\ty: 1\n\t}\n}", "after", "m {\n\ta: 1\n\tp {\n\t\tx: 0\n\t}\n\tq {\n\t\ty: 1\n\t}\n}"),
        ("m {\r\n    a: 1\r\n}\r\n", "append", "m {\r\n    a: 1\r\n    p {\r\n        x: 0\r\n    }\r\n}\r\n"),
        ("m {\n}\n", "append", "m {\n  p {\n    x: 0\n  }\n}\n"),
        ("m {\n  # only a comment\n}\n", "append", "m {\n  # only a comment\n  p {\n    x: 0\n  }\n}\n"),
        ("m { # c\n  a: 1 }", "append", "m { # c\n  a: 1 p { x: 0 } }"),
        ("m { a: 1\n    b: 2\n}", "after", "m { a: 1\n    p {\n      x: 0\n    }\n    b: 2\n}"),
        ("", "append", "p { x: 0 }\n"),
        ("# c", "append", "# c\np { x: 0 }\n"),
        ("a: 1\n# end\n", "append", "a: 1\np {\n  x: 0\n}\n# end\n"),
        ("\ufeffa: 1\n", "before", "\ufeffp { x: 0 }\na: 1\n"),
        ("m {\n  a: 1\n  b: 2\n}", "remove", "m {\n  b: 2\n}"),
        ("m {\n  a: 1, # c\n  b: 2\n}", "remove", "m {\n  # c\n  b: 2\n}"),
        ("m { a: 1; b: 2 }", "remove", "m { b: 2 }"),
        ("m { a: 1 b: 2 }", "clear", "m { }"),
        ("m { q{}b: 2 }", "remove", "m { b: 2 }"),
        ("m {\n  a: 1 b: 2\n}", "remove", "m {\n  b: 2\n}"),
        ("m {\n  a: 1 b: 2\n}", "clear", "m {\n  \n}"),
    ],
)
def test_style(text: str, action: str, expected: str) -> None:
    assert edit(text, action) == expected


def test_several_fields_get_a_line_each() -> None:
    assert edit("m {\n  a: 1\n}", "append", "r: 0 r: 0") == "m {\n  a: 1\n  r: 0\n  r: 0\n}"
    assert edit("m { a: 1 }", "append", "r: 0 r: 0") == "m { a: 1 r: 0 r: 0 }"


def test_set_replaces_or_appends() -> None:
    document = parse("a: 1 # one\nb: [1, 2]\nc { d: 'x' }\n")
    edits = Edits(document)
    edits.set(document.root, "a", "2")
    edits.set(document.root, "b", "3")
    edits.set(document.root.messages("c")[0], "d", '"y"')
    edits.set(document.root.messages("c")[0], "e", "{ f: 1 }")
    assert str(edits.apply()) == 'a: 2 # one\nb: 3\nc { d: "y" e { f: 1 } }\n'


def test_replace_and_insert_at_one_place() -> None:
    document = parse("m { a: 1 b: 2 }")
    message = document.root.messages("m")[0]
    first = message.fields[0]
    edits = Edits(document)
    edits.insert_field(message, "y: 0", before=first)
    edits.replace(first.value, "7")
    edits.insert_field(message, "z: 0", after=first)
    assert str(edits.apply()) == "m { y: 0 a: 7 z: 0 b: 2 }"


def test_no_edits_give_the_same_document() -> None:
    document = parse("a: 1")
    assert Edits(document).apply() is document


def test_edits_on_the_same_text_are_refused() -> None:
    document = parse("a: 1")
    edits = Edits(document)
    edits.replace(document.root.fields[0], "b: 2")
    edits.replace(document.root.fields[0].value, "3")
    with pytest.raises(EditError, match="two edits overlap"):
        edits.apply()


def test_an_edit_that_breaks_the_text_is_refused() -> None:
    document = parse("a: 1")
    edits = Edits(document)
    edits.replace(document.root.fields[0].value, '"x')
    with pytest.raises(EditError, match="the edit would break the text"):
        edits.apply()


def test_broken_parts_do_not_hinder() -> None:
    document = parse("a: /x\nb: 1\n", tolerant=True)
    edits = Edits(document)
    edits.set(document.root, "b", "2")
    assert str(edits.apply()) == "a: /x\nb: 2\n"


NET = "layer { name: 'a.b' p { r: 1 } p { r: 2 } } layer { name: 'c' p { r: 3 } } [x.y] { z: 4 }"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("layer.p.r", ["1", "2", "3"]),
        ("layer[name=a.b].p.r", ["1", "2"]),
        ("layer[name='c'].p[0].r", ["3"]),
        ("layer[0].p[1].r", ["2"]),
        ("layer[2].p.r", []),
        ("layer[name=none].p", []),
        ("[x.y].z", ["4"]),
    ],
)
def test_find(path: str, found: list[str]) -> None:
    fields = find(parse(NET), path)
    assert [field.value.value for field in fields if not isinstance(field.value, Message)] == found


def test_find_refuses_what_is_no_path() -> None:
    with pytest.raises(EditError, match="cannot read the path"):
        find(parse(NET), "layer..p")


TEXTS = st.recursive(
    st.sampled_from(["a: 1", "b: 'x',", "c: [1];", "m {}"]),
    lambda inner: st.tuples(st.lists(inner, max_size=3), st.sampled_from(["m { %s }", "m {\n  %s\n}", "m{%s}", "m { # c\n%s }"]), st.sampled_from([" ", "\n", "\n  ", " # c\n"])).map(lambda parts: parts[1] % parts[2].join(parts[0])),
    max_leaves=8,
)  # fmt: skip


@given(TEXTS, st.sampled_from(["append", "before", "after", "remove", "clear"]))
def test_any_edit_changes_only_what_it_says(text: str, action: str) -> None:
    document = parse(text)
    message = document.root.messages("m")[0] if document.root.messages("m") else document.root
    if not message.fields and action != "append":
        return
    result = parse(edit(text, action))
    after = result.root.messages("m")[0] if document.root.messages("m") else result.root
    names = [field.name for field in message.fields]
    wanted = {
        "append": [*names, "p"],
        "before": ["p", *names],
        "after": [*names[:1], "p", *names[1:]],
        "remove": names[1:],
        "clear": [],
    }
    assert [field.name for field in after.fields] == wanted[action]
    if action in ("append", "before", "after"):
        assert str(result).count("#") == text.count("#")
