"""Hostile files: weights, states, records, predictions and settings, damaged by someone who knows the formats."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

_ABSURD = (0, 1, 2, 127, 128, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**64 - 1)


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One hostile file, of the format of one of the seeds."""
    data = rng.choice(seeds)
    structured = _mutator(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        by_format = rng.random() < 0.6 and data
        data = structured(rng, data) if by_format else rng.choice(_BYTES)(rng, data, seeds)
        if len(data) > 200_000:
            break
    return data


def _mutator(data: bytes) -> Callable[[random.Random, bytes], bytes]:
    """Return the mutator of a file's format."""
    if data[8:9] == b"{":
        return _safetensors
    if data[:4] == b"\x89HDF":
        return _hdf5
    if data[:4] == b"PK\x03\x04":
        return _archive
    if data[16:20] == _LMDB:
        return _pages
    if data[:8] == b"LEVELDB ":
        return _leveldb
    if data[:8] == _PNG:
        return _png
    if data[:2] in (b"\xff\xd8", b"RI", b"GI", b"BM", b"II", b"PA"):
        return lambda rng, data: rng.choice((_number, _number, _flip))(rng, data, [data])
    # Text, also with a few bytes that are not: protobuf has zeros and other control characters.
    return _text if not re.search(rb"[\0-\x08\x0e-\x1f]", data) else _protobuf


def _cut(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 10, 100))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """A number of fixed width, as lengths and addresses in HDF5 and safetensors are."""
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(1, len(data)))
    return data[:at] + (rng.choice(_ABSURD) & (1 << 8 * size) - 1).to_bytes(size, "little") + data[at + size :]


def _remove(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    at, size = rng.randrange(max(1, len(data))), rng.choice((1, 4, 32, 500))
    return data[:at] + data[at + size :]


def _repeat(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    at, size = rng.randrange(max(1, len(data))), rng.choice((1, 2, 3, 8, 64, 500))
    times, most = rng.choice((2, 2, 10, 1000, 30_000)), rng.choice((5_000, 5_000, 30_000, 500_000))
    return data[:at] + data[at : at + size] * min(times, most // size) + data[at + size :]


def _splice(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    other = rng.choice(seeds)
    start, at = rng.randrange(len(other) or 1), rng.randrange(len(data) + 1)
    return data[:at] + other[start : start + rng.choice((4, 64, 1000, 10**6))] + data[at:]


def _zeros(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    at, size = rng.randrange(max(1, len(data))), rng.choice((4, 64, 512))
    return data[:at] + rng.choice((b"\0", b"\xff")) * min(size, len(data) - at) + data[at + size :]


_BYTES: tuple[Callable[[random.Random, bytes, list[bytes]], bytes], ...] = (
    *(_cut, _flip, _flip, _number, _number, _remove, _repeat, _splice, _zeros),
)


# -- protobuf: fields are changed at any depth, and the lengths around them follow or do not --------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(start, key, start of the value, end) of each field. Raises: ValueError where the bytes are no message."""
    at = 0
    while at < len(data):
        start = at
        key, at = _read_varint(data, at)
        if key & 7 == 0:
            value, (_, at) = at, _read_varint(data, at)
        elif key & 7 == 2:
            length, value = _read_varint(data, at)
            at = value + length
        elif key & 7 in (1, 5):
            value, at = at, at + (8 if key & 7 == 1 else 4)
        else:
            raise ValueError
        if at > len(data) or key < 8:
            raise ValueError
        yield start, key, value, at


def _protobuf(rng: random.Random, data: bytes, depth: int = 0) -> bytes:
    try:
        fields = list(_fields(data))
    except ValueError:
        return _flip(rng, data, [])
    if not fields:
        return data + _odd_field(rng)
    start, key, value, end = rng.choice(fields)
    if key & 7 == 2 and end - value > 2 and depth < 6 and rng.random() < 0.75:
        inner = _protobuf(rng, data[value:end], depth + 1)
        return data[:start] + _varint(key) + _varint(len(inner)) + inner + data[end:]
    return data[:start] + _changed(rng, key, data[value:end]) + data[end:]


def _changed(rng: random.Random, key: int, content: bytes) -> bytes:
    """One field, changed."""
    size = _varint(len(content)) if key & 7 == 2 else b""
    whole = _varint(key) + size + content
    choice = rng.randrange(9)
    if choice == 0:
        return b""
    if choice == 1:
        return whole * rng.choice((2, 3, 33, 2000))
    if choice == 2:
        return _varint(key) + _varint(rng.choice(_ABSURD)) + content  # a length or value that cannot be
    if choice == 3:
        return _varint(rng.choice((key ^ 1, key ^ 2, key + 8, rng.randrange(8, 2000)))) + size + content
    if choice == 4:
        return whole + _odd_field(rng)
    if choice == 5:
        dims = b"".join(_varint(rng.choice(_ABSURD)) for _ in range(rng.choice((1, 4, 33, 300))))
        return (
            whole
            + _varint(7 << 3 | 2)
            + _varint(len(dims) + 1 + len(_varint(len(dims))))
            + b"\x0a"
            + _varint(len(dims))
            + dims
        )
    if choice == 6:
        cut = content[: rng.randrange(len(content) + 1)]
        return _varint(key) + (_varint(len(cut)) if key & 7 == 2 else b"") + cut
    if choice == 7:
        for _ in range(rng.choice((3, 100, 2000))):
            whole = _varint(key | 2) + _varint(len(whole)) + whole
        return whole
    return _varint(rng.choice((1, 2, 5, 7, 8, 9, 100)) << 3 | rng.choice((0, 1, 2, 5))) + whole


def _odd_field(rng: random.Random) -> bytes:
    content = bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 4, 8, 30))))
    return _varint(rng.randrange(1, 120) << 3 | rng.choice((0, 1, 2, 2, 2, 3, 4, 5))) + _varint(len(content)) + content


# -- safetensors: the header is JSON ----------------------------------------------------------------------------------


def _safetensors(rng: random.Random, data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        name = rng.choice(sorted(header))
        part = header[name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _flip(rng, data, [])
    odd = rng.choice(
        (None, [], {}, "", 0, -1, 1.5, 10**30, [1] * 40, [-1], [2**62, 4], "F32", [0, 10**9], [[[]]], True)
    )
    key = rng.choice(("shape", "dtype", "data_offsets", "more", "name"))
    if rng.random() < 0.2 or not isinstance(part, dict):
        header[rng.choice((name, name + "/0", "a/00", "/", "__metadata__", "a/-1"))] = odd
    else:
        header[name] = {**part, key: odd}
    if rng.random() < 0.1:
        header["deep"] = 0
        text = json.dumps(header).replace('"deep": 0', '"deep": ' + "[" * 3000 + "]" * 3000).encode()
    else:
        text = json.dumps(header).encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(text) + rng.choice((0, 0, 0, 1, -1))) + text + data[8 + size :]


# -- HDF5: its structure lies in signatures and fixed-width numbers behind them ---------------------------------------


def _hdf5(rng: random.Random, data: bytes) -> bytes:
    marks = [
        at
        for mark in (b"TREE", b"SNOD", b"HEAP", b"OHDR", b"\x89HDF", b"FRHP", b"BTHD", b"GCOL")
        for at in _places(data, mark)
    ]
    if not marks:
        return _flip(rng, data, [])
    at = rng.choice(marks) + rng.randrange(4, 120)
    if at >= len(data):
        return data
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice((*_ABSURD, rng.randrange(len(data)), rng.choice(marks)))
    return data[:at] + (value & (1 << 8 * size) - 1).to_bytes(size, "little") + data[at + size :]


def _places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


# -- NumPy archives: each entry has a header and values, which are packed again with their checksums -------------------


def _archive(rng: random.Random, data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist() if entry.file_size < 1 << 20}
    except Exception:  # damaged by an earlier mutation, in one of many ways
        return _flip(rng, data, [])
    if not entries:
        return data
    name = rng.choice(sorted(entries))
    entries[name] = _npy(rng, entries[name])
    if rng.random() < 0.1:
        entries[rng.choice((*entries, "meta.npy", "other.npy", "../x.npy", "keys"))] = rng.choice([*entries.values()])
    if rng.random() < 0.1:
        del entries[name]
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    ) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return out.getvalue()


def _npy(rng: random.Random, data: bytes) -> bytes:
    """Change the header of an array, its values, or the JSON among them."""
    if data[:6] != b"\x93NUMPY" or rng.random() < 0.2:
        return rng.choice(_BYTES)(rng, data, [data])
    size = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + size], data[10 + size :]
    if rng.random() < 0.3:
        body = _text(rng, body)
    else:
        shape = rng.choice(
            ("(1099511627776,)", "(-1,)", "(0,)", "()", "(2, 3)", "((1,),)", "(1.5,)", "(True,)", "[3]", "(" * 300)
        )
        kind = rng.choice(
            ("|O", "<U99999999", "<f8", "<f2", "|V0", "<M8[s]", "|b1", "<c16", ">i4", "f4,f4", "x", "<U0")
        )
        for pattern, value in ((rb"\([^)]*\)", shape), (rb"'[<>|][^']*'", repr(kind))):
            if rng.random() < 0.6:
                header = re.sub(pattern, value.encode(), header, count=1)
    return data[:8] + len(header).to_bytes(2, "little") + header + body


# -- text: JSON, TOML, tables, logs and lists -------------------------------------------------------------------------

_TOKEN = re.compile(rb"-?[0-9][0-9.eE+-]*|[A-Za-z_]+|\"[^\"\n]*\"|[\[\]{}:,=\n]")
_ODD_TOKENS = """
    0 -1 1e999 -1e999 NaN nan Infinity inf 1e400 99999999999999999999999999 0.1e-400 true null "" "\\ud800" "\\u0000"
    "1%" "1e999%" "nan%" [] {} [[]] [1,2] {"a":1} [null] 1979-05-27 0x7fffffffffffffffff 1_0 -0 \x1b[2J =1+1 kd none
"""
_TOKENS = [*(word.encode() for word in _ODD_TOKENS.split()), b"\x1b[2J", b"\0", b"\r", b"\xff\xfe", b"\xef\xbb\xbf"]
_LONGEST = 500_000  # bytes of a token that is repeated
_DEEP = ((b"[", b"]"), (b'{"a":', b"}"), (b"{a=", b"}"), (b"(", b")"), (b'"', b'"'), (b"[a.", b"]"), (b"a.", b"=1\n"))


def _text(rng: random.Random, data: bytes) -> bytes:
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return rng.choice(_BYTES)(rng, data, [data or b"0"])
    token, other = rng.choice(tokens), rng.choice(tokens)
    choice = rng.randrange(10)
    if choice < 5:
        new = rng.choice(_TOKENS)
    elif choice == 5:
        new = other[0]
    elif choice == 6:
        new = str(rng.choice(_ABSURD)).encode() * rng.choice((1, 1, 2, 500))
    elif choice == 7:
        opening, closing = rng.choice(_DEEP)
        depth = rng.choice((3, 500, 5_000, 20_000))
        new = opening * depth + rng.choice((b"", b"1", token[0])) + closing * rng.choice((depth, depth, 0))
    else:
        new = token[0] * min(rng.choice((0, 2, 30, 3000)), _LONGEST // len(token[0]))
    return data[: token.start()] + new + data[token.end() :]


# -- LMDB: pages of 4,096 bytes with a header of 16, then the places of their nodes ------------------------------------

_LMDB = (0xBEEFC0DE).to_bytes(4, "little")
_PAGE = 4096


def _pages(rng: random.Random, data: bytes) -> bytes:
    count = max(1, len(data) // _PAGE)
    page = rng.randrange(min(2, count)) if rng.random() < 0.4 else rng.randrange(count)
    choice = rng.randrange(8)
    if choice == 0:  # swapped or repeated pages
        other = rng.randrange(count)
        content = data[other * _PAGE : (other + 1) * _PAGE]
        return data[: page * _PAGE] + content + data[(page + 1) * _PAGE :]
    if choice == 1:
        return data[: rng.randrange(count) * _PAGE + rng.choice((0, 0, 100))]
    at = page * _PAGE + rng.randrange(rng.choice((16, 64, 160, _PAGE)))
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice((*_ABSURD, rng.randrange(count), count, count + 1, _PAGE, 0xFFFF, 16, rng.randrange(1 << 16)))
    return data[:at] + (value & (1 << 8 * size) - 1).to_bytes(size, "little") + data[at + size :]


# -- LevelDB: the input's first line names a file; records of logs and blocks of tables have checksums -----------------


def _leveldb(rng: random.Random, data: bytes) -> bytes:
    """Change a record's or a block's content with its checksum, or anything."""
    name, line, content = data.partition(b"\n")
    content = content or b"0"
    parts = list(_blocks(content) if name.endswith(b".ldb") else _log_records(content))
    if not parts or rng.random() < 0.2:
        return name + line + rng.choice(_BYTES)(rng, content, [content])
    start, end = rng.choice(parts)
    inner = bytearray(rng.choice((_flip, _number, _number, _zeros))(rng, content[start:end], [])[: end - start])
    inner += bytes(end - start - len(inner))
    if name.endswith(b".ldb"):  # the content and its type, then the checksum of both
        return name + line + content[:start] + bytes(inner) + _masked_crc32c(inner) + content[end + 4 :]
    # the checksum is that of the type and the content, and the length stands between
    head = _masked_crc32c(content[start - 1 : start] + inner) + content[start - 3 : start]
    return name + line + content[: start - 7] + head + bytes(inner) + content[end:]


def _log_records(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each record's content."""
    at = 0
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        end = at + 7 + int.from_bytes(data[at + 4 : at + 6], "little")
        if end > len(data) or end == at + 7:
            return
        yield at + 7, end
        at = end


def _blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each block with its type: the index and the one about filters, by the table's end."""
    try:
        meta, at = _read_varint(data[-48:], 0)
        meta_size, at = _read_varint(data[-48:], at)
        index, at = _read_varint(data[-48:], at)
        index_size, at = _read_varint(data[-48:], at)
    except ValueError:
        return
    for start, size in ((meta, meta_size), (index, index_size), (0, min(4096, meta))):
        if start + size + 5 <= len(data):
            yield start, start + size + 1
    yield max(0, len(data) - 48), max(0, len(data) - 8)


def _masked_crc32c(data: bytes | bytearray) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


# -- PNG: chunks with checksums, and pixels that are compressed -------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"


def _png(rng: random.Random, data: bytes) -> bytes:
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return _flip(rng, data, [])
    number = rng.randrange(len(chunks))
    kind, content = chunks[number]
    if kind == b"IHDR" and rng.random() < 0.7:
        sides = [rng.choice((0, 1, 9, 11, 3000, 65535, 65536, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
        content = struct.pack(">II", *sides) + bytes(rng.choice((0, 1, 2, 3, 4, 6, 8, 16)) for _ in range(2)) + b"\0\0"
        content += bytes([rng.randrange(3)])
    elif kind == b"IDAT" and rng.random() < 0.7:
        try:
            rows = zlib.decompress(content)
        except zlib.error:
            rows = b""
        content = zlib.compress(rng.choice(_BYTES)(rng, rows or b"0", [rows or b"0"]))
    elif rng.random() < 0.3:
        kind = rng.choice((b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"IEND", b"iCCP", b"zTXt", b"acTL", b"abcd"))
    else:
        content = rng.choice(_BYTES)(rng, content, [content or b"0"])
    chunks[number : number + 1] = [(kind, content)] * rng.choice((0, 1, 1, 1, 1, 2))
    packed = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return _PNG + b"".join(packed)
