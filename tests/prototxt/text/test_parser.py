"""Text in, the same text out; mistakes with their place; and nothing hostile takes the parser down."""

from __future__ import annotations

import gc
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from prototxt import ParseError, parse, parse_file
from prototxt.files import read_text
from prototxt.text.tree import Document, Message, Scalar

Plain = list[tuple[str, object]]


def plain(message: Message) -> Plain:
    """A message as nested lists, for comparing."""
    return [(field.name, [_plain(value) for value in field.values]) for field in message.fields]


def _plain(value: Scalar | Message) -> object:
    return plain(value) if isinstance(value, Message) else value.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  # only a comment", []),
        ("\ufeffa: 1", [("a", ["1"])]),
        ("a: 1", [("a", ["1"])]),
        ("a:1,b:2;c:3", [("a", ["1"]), ("b", ["2"]), ("c", ["3"])]),
        ("a: 1\r\nb: 2\r\n", [("a", ["1"]), ("b", ["2"])]),
        ("a\t:\t'x'", [("a", ["x"])]),
        ("a { b: 1 }", [("a", [[("b", ["1"])]])]),
        ("a: { b: 1 }", [("a", [[("b", ["1"])]])]),
        ("a < b: 1 >", [("a", [[("b", ["1"])]])]),
        ("a{b<c{}>}", [("a", [[("b", [[("c", [[]])]])]])]),
        ("a: [1, 2,3]", [("a", ["1", "2", "3"])]),
        ("a: []", [("a", [])]),
        ("a: [ # c\n 'x' 'y' , \"z\"]", [("a", ["xy", "z"])]),
        ("a [{b: 1}, <b: 2>] c: 3", [("a", [[("b", ["1"])], [("b", ["2"])]]), ("c", ["3"])]),
        ("a: [{b: [1]}]", [("a", [[("b", ["1"])]])]),
        ("a # c\n : # d\n 'x' # e\n 'y'", [("a", ["xy"])]),
        ("a: \"x\" 'y'\n\"z\" b: 1", [("a", ["xyz"]), ("b", ["1"])]),
        ('a: "#{}<>:" b: 1', [("a", ["#{}<>:"]), ("b", ["1"])]),
        ("[a.b.c]: 1 [x.com/Y] { z: 1 }", [("[a.b.c]", ["1"]), ("[x.com/Y]", [[("z", ["1"])]])]),
        ("a: .5 b: 1. c: 1e-3f", [("a", [".5"]), ("b", ["1."]), ("c", ["1e-3f"])]),
        ("a: inf b: -inf c: nan d: -.5E+2", [("a", ["inf"]), ("b", ["-inf"]), ("c", ["nan"]), ("d", ["-.5E+2"])]),
        ("a: 0x1F b: 017 c: -0xff", [("a", ["0x1F"]), ("b", ["017"]), ("c", ["-0xff"])]),
        ("a: - 5", [("a", ["- 5"])]),
        ("a: TRAIN b: true", [("a", ["TRAIN"]), ("b", ["true"])]),
        ("# Ünter\nname: 'Ünter'", [("name", ["Ünter"])]),
    ],
)  # fmt: skip
def test_reads(text: str, expected: Plain) -> None:
    document = parse(text)
    assert plain(document.root) == expected
    assert str(document) == text


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (r'"a\"b"', 'a"b'),
        (r"'a\'b'", "a'b"),
        (r'"\n\t\r\a\b\f\v\\\?"', "\n\t\r\a\b\f\v\\?"),
        (r'"\101\60"', "A0"),
        (r'"\x41\X4a"', "AJ"),
        (r'"\303\251"', "é"),
        (r'"\u00e9\U0001F600"', "é😀"),
        (r'"\377"', "\udcff"),
        (r'"\303" "\251"', "é"),
        (r'"back\\"  "slash"', "back\\slash"),
        ("''", ""),
        ("'' ''", ""),
    ],
)
def test_strings(raw: str, value: str) -> None:
    assert parse(f"a: {raw}").root.string("a") == value


def test_invalid_utf8_survives(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b'name: "caf\xe9" # \xff\n')
    document = parse_file(path)
    assert str(document).encode("utf-8", "surrogateescape") == path.read_bytes()
    assert document.root.string("name") == "caf\udce9"


def test_nodes_know_their_spans() -> None:
    text = 'a: "x"; b { c: [1, 22] }'
    document = parse(text)
    a, b = document.root.fields
    assert (text[a.start : a.end], text[b.start : b.end]) == ('a: "x"', "b { c: [1, 22] }")
    assert isinstance(a.value, Scalar)
    assert a.value.raw == '"x"'
    assert isinstance(b.value, Message)
    c = b.value.fields[0]
    assert [text[value.start : value.end] for value in c.values] == ["1", "22"]
    assert (document.root.start, document.root.end, document.root.is_root) == (0, len(text), True)


def test_lookups() -> None:
    root = parse("a: 1 b { c: 'x' } a: [2, 3] b { c: 'y' }").root
    assert [scalar.value for scalar in root.scalars("a")] == ["1", "2", "3"]
    assert [message.string("c") for message in root.messages("b")] == ["x", "y"]
    assert root.string("a") == "3"
    assert root.string("none", "default") == "default"
    assert root.get("none") is None
    assert len(root.all("b")) == 2


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: 1\nb 2\n", "t:2:3", "expected ':' or '{' after 'b', found '2'"),
        ('a: "x\nb: 1', "t:1:4", "the string of 'a' is not closed on its line"),
        ("a {\n  b: 1\n", "t:1:3", "'{' is never closed"),
        ("a: 1 }", "t:1:6", "'}' closes nothing"),
        ("a < b: 1 }", "t:1:10", "expected '>' to close '<', found '}'"),
        ("a: [1 2]", "t:1:7", "expected ',' or ']' in the list, found '2'"),
        ("a: [1,", "t:1:7", "expected a value in the list, found the end of the text"),
        ("a: [1, {b: 1}]", "t:1:8", "a list holds either messages or plain values, not both"),
        ("a [1]", "t:1:3", "expected ':' before the list of 'a'"),
        ("a: 1e", "t:1:4", "expected a value for 'a', found '1'"),
        ("a: x.y", "t:1:4", "expected a value for 'a', found 'x'"),
        ("a: -b", "t:1:4", "expected a value for 'a', found '-'"),
        ("a:", "t:1:3", "expected a value for 'a', found the end of the text"),
        (": 1", "t:1:1", "expected a field name, found ':'"),
        ("a: 1;; b: 2", "t:1:6", "';' without a field before it"),
        ("{}", "t:1:1", "expected a field name, found '{'"),
    ],
)
def test_mistakes_have_a_place(text: str, place: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, "t")
    assert str(caught.value.errors[0]).startswith(f"{place}: {message}\n")
    document = parse(text, "t", tolerant=True)
    assert str(document) == text
    assert [str(error) for error in document.errors] == [str(error) for error in caught.value.errors]


def test_shows_the_line_with_a_caret() -> None:
    with pytest.raises(ParseError) as caught:
        parse('layer {\n\tname "conv1"\n}', "net.prototxt")
    assert str(caught.value).splitlines()[:3] == [
        "net.prototxt:2:7: expected ':' or '{' after 'name', found '\"'",
        '     name "conv1"',
        "          ^",
    ]


def test_a_very_long_line_is_shown_in_part() -> None:
    with pytest.raises(ParseError) as caught:
        parse("a: 1 " * 100_000 + "b 2")
    assert len(str(caught.value)) < 500
    assert "b 2\n" in str(caught.value)


def test_several_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ParseError) as caught:
        parse('a 1\nb: 2\nc: "x\nd: @\ne: 3\n')
    assert [error.place.line for error in caught.value.errors] == [1, 3, 4]


def test_tolerant_keeps_what_can_be_read() -> None:
    text = 'layer {\n  name: "a"\n  source: /path/{x}/b\n  top: "b"\n}\nlayer $x {\n  name: "c"\n}\n'
    document = parse(text, tolerant=True)
    assert [layer.string("name") for layer in document.root.messages("layer")] == ["a"]
    assert document.root.messages("layer")[0].string("top") == "b"
    assert [text[start:end] for start, end in document.broken] == ["source: /path/{x}/b", "layer $x "]


def test_place_counts_from_one_and_ignores_the_bom() -> None:
    document = parse("\ufeffa: 1\r\n  b: 2")
    assert str(document.place(document.root.fields[0].start)) == "<text>:1:1"
    assert str(document.place(document.root.fields[1].start)) == "<text>:2:3"
    assert document.line(1) == "\ufeffa: 1"


def corpus(reference: Path) -> list[Path]:
    return [path for path in sorted((reference / "corpus").iterdir()) if path.suffix in (".prototxt", ".pt")]


def test_corpus_is_kept_byte_for_byte(reference: Path) -> None:
    refused = []
    for path in corpus(reference):
        document = parse_file(path, tolerant=True)
        assert str(document).encode("utf-8", "surrogateescape") == path.read_bytes()
        refused += [path.name] if document.errors else []
    assert refused == ["net-archive__poolmean.prototxt", "net-archive__yearbook_train_val.prototxt"]


def test_golden_texts_parse(golden: Path) -> None:
    for path in golden.rglob("*.prototxt"):
        assert str(parse_file(path)) == read_text(path)


# -- properties --------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["a", "b_1", ":", " ", "\n", "\r\n", "\t", "{", "}", "<", ">", "[", "]", ",", ";", '"x"', "'y'", '"', "'", "\\",
     "#c\n", "#", "1", "-", ".5", "1e3", "0x", "inf", "TRAIN", "é", "\udcff", "\0", "[a.b/c]", "\ufeff", "$"]
)  # fmt: skip


def check(text: str) -> None:
    document = parse(text, tolerant=True)
    assert str(document) == text
    assert walk(document) >= 0
    if document.errors:
        with pytest.raises(ParseError) as caught:
            parse(text)
        assert all(error.place is not None for error in caught.value.errors)
    else:
        assert plain(parse(text).root) == plain(document.root)
        assert not document.broken


def walk(document: Document) -> int:
    """Visit every node and check that children lie inside their parents, in order."""
    seen, todo = 0, [document.root]
    while todo:
        message = todo.pop()
        at = message.start
        for field in message:
            seen += 1
            assert at <= field.start <= field.end <= message.end
            at = field.end
            for value in field.values:
                assert field.start <= value.start <= value.end <= field.end
                if isinstance(value, Message):
                    todo.append(value)
    return seen


@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_tokens_round_trip_or_are_refused(text: str) -> None:
    check(text)


@given(st.text(max_size=60))
def test_any_text_round_trips_or_is_refused(text: str) -> None:
    check(text)


FIELDS = st.recursive(
    st.sampled_from(["a: 1", "b: 'x'", "c: [1, 2]", "d: TRAIN", "e: \"x\" 'y'", "f: -1.5e3f"]),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda fields: "m {" + "\n".join(fields) + "}")
        | st.lists(inner, min_size=1, max_size=3).map(
            lambda fields: "l [" + ",".join("<" + f + ">" for f in fields) + "]"
        )
    ),
    max_leaves=20,
)


@given(FIELDS, st.integers(0, 400), st.sampled_from(["", "}", '"', "\n", "#", "{"]))
def test_damaged_texts_are_read_or_refused(text: str, at: int, damage: str) -> None:
    check(text)
    check(text[:at])
    check(text[:at] + damage + text[at:])


# -- hostile texts -----------------------------------------------------------------------------------------------------

HOSTILE = {
    "nesting": "a{" * 10_000,
    "closed nesting": "a{" * 10_000 + "}" * 20_000,
    "lists": "a:" + "[" * 30_000,
    "closing": "}" * 30_000,
    "quotes": 'a:"' * 10_000,
    "one string": 'a: "' + "x" * 1_000_000 + '"',
    "escapes": 'a: "' + "\\n" * 30_000 + '"',
    "many strings": "a: " + '"x" ' * 10_000,
    "open string": 'a: "' + "\\n" * 30_000,
    "comments": "#\n" * 10_000 + "x",
    "comment": "#" * 1_000_000,
    "comments inside": "a " + "#\n" * 10_000 + ": 1",
    "blanks": "a" + " " * 500_000 + "!",
    "blank lines": "a:\n" + "\n" * 50_000 + "!",
    "one line": "a: 1 " * 10_000,
    "dense": "a:1 " * 10_000,
    "empty blocks": "a{}" * 10_000,
    "list": "a: [" + "1," * 10_000 + "1]",
    "block list": "a: [" + "{}," * 10_000 + "{}]",
    "brackets in junk": "x}" * 10_000,
    "pairs in junk": "!" + "{}" * 10_000,
    "junk lines": "!\n" * 10_000,
    "zeros": "\0" * 30_000,
    "separators": ",;" * 10_000,
    "digits": "a: " + "9" * 500_000,
    "digits and a letter": "a: " + "9" * 500_000 + "x",
    "blanks before nothing": "a:" + " " * 500_000,
    "minus": "a: " + "-\n" * 10_000,
    "names": " ".join(f"n{i}:1" for i in range(10_000)),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_texts_cost_little(text: str) -> None:
    started = time.process_time()
    document = parse(text, tolerant=True)
    walk(document)
    seconds = time.process_time() - started
    assert str(document) == text
    assert seconds < 5, f"{len(text)} characters took {seconds:.1f} s"
    tracemalloc.start()
    try:
        parse(text, tolerant=True)
        assert tracemalloc.get_traced_memory()[1] < 60 * len(text) + 300_000
    finally:
        tracemalloc.stop()


def test_the_collector_is_left_as_it_was() -> None:
    assert gc.isenabled()
    parse("a: 1")
    assert gc.isenabled()
    gc.disable()
    try:
        parse("a: 1")
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("text", ['a: "x\\\ny"', 'a: "x\\', "a: 'x\\\n'", 'a: "x\n"'])
def test_a_string_ends_on_its_line_even_after_a_backslash(text: str) -> None:
    with pytest.raises(ParseError):
        parse(text)
    assert len(parse(text + "\nb: 1\n", tolerant=True).root.all("b")) == 1
