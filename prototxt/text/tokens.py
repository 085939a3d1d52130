"""The lexical side of protobuf's text format: patterns, string escapes, scanning over blanks and strings.

Two rules keep hostile texts cheap. No pattern repeats a group: the regex engine keeps a record per repetition, and a
ten-megabyte line of escapes or comments must not cost gigabytes, so repetitions are loops in Python. And no two
neighbouring parts of a pattern match the same characters, or a failing match would try every way to divide them.
"""

from __future__ import annotations

import re

STRING, NUMBER, IDENTIFIER, MESSAGE, LIST = range(5)
KINDS = ("string", "number", "identifier")

_NUMBER = r"(?:0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?)"

# One whole field of the usual shape, or one other token. Group 1 is the field's name, 2 to 4 its scalar by kind,
# 5 or 6 an opening bracket; or alone: 7 a closing bracket, 8 a comment, 9 a separator. Everything else (lists,
# adjacent strings, escapes, comments inside a field, mistakes) takes the slow path in parser.py.
FIELD = re.compile(
    rf"""\s*(?:([A-Za-z_]\w*)\s*
            (?: :\s*(?: ("[^"\\\n]*"|'[^'\\\n]*')(?!\s*["'\#])
                      | (-?{_NUMBER}|-(?:inf|nan|infinity))(?![\w.])
                      | ([A-Za-z_]\w*)(?![\w.])
                      | ([{{<]) )
              | ([{{<]) )
          | ([}}>]) | (\#[^\n]*) | ([,;]) )""",
    re.ASCII | re.VERBOSE,
)
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
EXTENSION_NAME = re.compile(r"\[\s*[\w./%+~-]+\s*\]", re.ASCII)
SCALAR = re.compile(rf"({_NUMBER}(?![\w.]))|([A-Za-z_]\w*(?![\w.]))", re.ASCII)
# An element of a list together with the comma or bracket that follows it.
ELEMENT = re.compile(
    rf"""\s*(?:(?P<string>"[^"\\\n]*"|'[^'\\\n]*')|(?P<number>-?{_NUMBER})|(?P<identifier>[A-Za-z_]\w*))\s*([,\]])""",
    re.ASCII | re.VERBOSE,
)
# Text skipped after a mistake: the line, up to the next curly bracket.
BROKEN = re.compile(r"[^{}\n]*")
_BLANK = re.compile(r"\s*", re.ASCII)
_STRING_STOP = {quote: re.compile(rf"[^{quote}\\\n]*") for quote in "\"'"}
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"?])|([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))", re.DOTALL
)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def skip_blank(text: str, pos: int) -> int:
    """Return the position of the next character that is neither blank nor in a comment."""
    size = len(text)
    while True:
        match = _BLANK.match(text, pos)
        pos = match.end() if match else pos
        if pos >= size or text[pos] != "#":
            return pos
        newline = text.find("\n", pos)
        pos = size if newline < 0 else newline + 1


def string_end(text: str, pos: int) -> int:
    """Return the end of the string literal that opens at `pos`, -1 if its line ends first."""
    stop = _STRING_STOP[text[pos]]
    quote, pos, size = text[pos], pos + 1, len(text)
    while True:
        match = stop.match(text, pos)
        pos = match.end() if match else pos
        if pos >= size or text[pos] == "\n":
            return -1
        if text[pos] == quote:
            return pos + 1
        if text[pos + 1 : pos + 2] in ("\n", ""):
            return -1
        pos += 2


def strings_end(text: str, pos: int) -> int:
    """Return the end of the string literal at `pos` and all literals adjacent to it, -1 if one is not closed."""
    end = string_end(text, pos)
    while end >= 0:
        following = skip_blank(text, end)
        if text[following : following + 1] not in ('"', "'"):
            return end
        end = string_end(text, following)
    return -1


def unquote(raw: str) -> str:
    """Return the value of one or more adjacent string literals; bytes that are not UTF-8 become surrogates."""
    if "\\" not in raw and raw.find(raw[0], 1) == len(raw) - 1:
        return raw[1:-1]
    parts = []
    pos = 0
    while pos < len(raw):
        end = string_end(raw, pos)
        parts.append(raw[pos + 1 : end - 1])
        pos = skip_blank(raw, end)
    if not any("\\" in part for part in parts):
        return "".join(parts)
    # Escapes denote bytes: two of them may form one character, so the joined bytes are decoded together.
    data = b"".join(_unescape(part) for part in parts)
    return data.decode("utf-8", "surrogateescape")


def quote(value: str, mark: str = '"') -> str:
    """Return `value` as a string literal with the given quotation mark."""
    escaped = value.replace("\\", "\\\\").replace(mark, "\\" + mark).replace("\n", "\\n").replace("\r", "\\r")
    return f"{mark}{escaped}{mark}"


def _unescape(part: str) -> bytes:
    def replace(match: re.Match[str]) -> str:
        simple, octal, hexadecimal, short, long, other = match.groups()
        if simple:
            return _SIMPLE.get(simple, simple)
        if octal or hexadecimal:
            value = int(octal, 8) & 0xFF if octal else int(hexadecimal, 16)
            return chr(value) if value < 0x80 else chr(0xDC00 + value)
        if short or long:
            code = int(short or long, 16)
            return chr(code) if code < 0xD800 or 0xDFFF < code < 0x110000 else "\ufffd"
        return str(other)

    return _ESCAPE.sub(replace, part).encode("utf-8", "surrogateescape")
