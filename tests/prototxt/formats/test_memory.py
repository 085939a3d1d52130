"""Small files cannot ask for large memory: under 60 times a text's size, under twice a binary's, and some megabytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ALLOWANCE = 24.0  # MiB: what even a small file may take
TEXT = """
import resource, sys, warnings
warnings.simplefilter("ignore")
from prototxt import PrototxtError, load_net, parse
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
load_net(parse('layers { type: RELU }'))
text = sys.argv[1] * (500_000 // len(sys.argv[1]))
before = peak()
try:
    load_net(parse(text, tolerant=True), strict=False)
except PrototxtError as error:
    assert len(str(error)) < 50_000
print(peak() - before)
"""
BINARY = """
import resource, sys
from prototxt import PrototxtError, read_weights
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
read_weights(sys.argv[1])
before = peak()
try:
    weights = read_weights(sys.argv[2])
    arrays = [weights[name] for name in weights]
except PrototxtError:
    pass
print(peak() - before)
"""


def megabytes(program: str, *arguments: str) -> float:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["layer{}", "layers{}", "layers{type:BN}", "layer{a:1}", "x:1 ", "x{}", "layer{param{}}"]
)
def test_texts(unit: str) -> None:
    assert megabytes(TEXT, unit) < 60 * 0.48 + ALLOWANCE


def field(number: int, content: bytes) -> bytes:
    size = len(content)
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    key = bytes((number << 3 & 0x7F | 2 | 0x80, number >> 4)) if number > 15 else bytes((number << 3 | 2,))
    return key + bytes((*length, size)) + content


VALUE = b"\x2a\x04\0\0\x80\x3f\x3a\x03\x0a\x01\x01"
FILES = {
    "empty layers": field(100, b"") * 1_000_000,
    "small layers": field(100, field(1, b"a") + field(7, VALUE)) * 150_000,
    "empty V1 layers": field(2, b"") * 1_500_000,
    "pieces of values": field(100, field(1, b"a") + field(7, b"\x2a\x00" * 1_500_000)),
    "empty lists in JSON": (3_000_002).to_bytes(8, "little") + b"[" + b"[]," * 1_000_000 + b"]",
}


@pytest.mark.parametrize("name", FILES)
def test_binaries(name: str, tmp_path: Path, golden: Path) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(FILES[name])
    usual = golden / "formats" / "small" / "net.caffemodel"
    assert megabytes(BINARY, str(usual), str(path)) < 2 * len(FILES[name]) / 2**20 + ALLOWANCE
