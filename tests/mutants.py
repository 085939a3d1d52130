"""Measure how many small mistakes in the code its tests notice: the kill rate of mutants per package.

    python tests/mutants.py [PACKAGE ...] [--count N] [--seed N] [--jobs N] [--require SHARE] [--list]

A mutant is the project with one changed expression: a comparison, sign, bound, guard, default, axis or argument order.
For each package (a folder, such as fusion/merge), N mutants are drawn by the seed. Each runs those of the package's
fast tests that reach the changed line, in a copy of the project, until one fails. A mutant that no test notices
survives; it is printed with its place, so that a test can be written or the mutant named in EQUIVALENT with the reason.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib.util
import inspect
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("prototxt", "fusion", "tools", "tests", "examples", "benchmarks", "docs", "pyproject.toml", "README.md")
# Packages whose tests lie elsewhere than in the folder of the same name under tests/.
TESTS = {"tools": ("tests/tools",), "fusion/onnx/graphs": ("tests/fusion/onnx",)}
_VALID = "only whether the filler is valid counts"
# Mutants that compute the same, as the stripped line after the change, with the reason. They are not drawn.
EQUIVALENT: Mapping[str, str] = {
    "param.dilation[:] = dilations if dilations[0] != dilations[1] else dilations[:2]": "two equal numbers are as one",
    "learns: bool = False,": "net_writer.layer: callers with weights say whether they learn",
    "if False and (slope.dim() == 2):": "head_layers: the copies that follow hold the same, and cost time only",
    "if _is_statistics(layers[1]):": "the blobs of all nets have one shape here",
    'if first.type == "InnerProduct" and not shared and blobs[1]:': "the weights of all branches have one shape here",
    "return (parts * scale.reshape(groups, 1, -2, *ones)).reshape(weight.shape)": "NumPy takes any negative size as -1",
    "if stop - start <= LARGE:": "the values of a tensor of this size are smaller, so that it is kept whole as well",
    "fill(filler, (3, 2), np.random.default_rng(0))  # an unknown type is an error now, not during training": _VALID,
    "fill(filler, (2, 3), np.random.default_rng(0))  # an unknown type is an error now, not during training": _VALID,
    "fill(filler, (2, 2), np.random.default_rng(1))  # an unknown type is an error now, not during training": _VALID,
    "return nn.Softplus(threshold=51)": "above 50, log(1 + exp(x)) is x even in float64",
    "fit = all(2 * p < k for p, k in zip(self.pad, self.kernel, strict=True)) and (": "pooling: slower, as right",
    "self.floor and any(self.pad) or all(s <= k for s, k in zip(self.stride, self.kernel, strict=True))": (
        "pooling: slower, as right"
    ),
    'if False and (torch.get_default_device().type == "meta"):': "registry: slower, and without values all the same",
    "return (torch.stack(bottoms, 1) * shares.reshape(shares.shape + (1,) * (bottoms[1].dim() - 1))).sum(1)": (
        "weighted: all bottoms have one shape"
    ),
    "if False and ((rows, columns) == (height, width)):": "cv_resize: the same size is interpolated to the same pixels",
    "return bytes([first, second + (0x1F - ((first << 8) - second) % 0x1F)]) + packed[2:]": (
        "encode_image: second is 0 at the level of best speed"
    ),
    **dict.fromkeys(
        (
            "if workers > 0 and len(images) == len(read) and not any(member.store.keeps for member in images):",
            "if workers > 1 and len(images) == len(read) and not all(member.store.keeps for member in images):",
        ),
        "read_batches: the batches are the same whoever reads them",
    ),
    "if (time.perf_counter() - started) * (len(missing) * CHUNK - 1) < WORTH:": (
        "parallel_decode: the pixels are the same whoever decodes them"
    ),
    "os.truncate(handle, 1)": "file_lock: a longer text is written over it",
    "return os.path.samestat(os.stat(path), os.fstat(handle))": "file_lock: the comparison has no direction",
    **dict.fromkeys(
        (
            "if not scale[1] or not all(std):",
            "factors = tuple(scale[1] / one for one in std)",
            'return [_power("pixels", blob, "pixels", known.scale[1], known.shift[0])], "pixels"',
            'return [_power("pixels", blob, "pixels", known.scale[0], known.shift[1])], "pixels"',
        ),
        "pixels: the three numbers are one here",
    ),
    "EARLIEST = (1980, 1, 1, 0, 0, 1)": "zip archives hold every second second, so that 1 is written as 0",
    "print(json.dumps(_finite(record), allow_nan=True), file=self._file)": "json_log: _finite leaves no NaN",
    "self._known_all = False": "decoded_cache: it only spares looking at what is known, record by record",
    "handle = lmdb.open(where, readonly=True, lock=False, readahead=False, create=True, subdir=folder)": (
        "read-only environments are not created"
    ),
    "if not lengths or not all(lengths.values()):": "hdf5_data: the lengths are equal here",
    "@lru_cache(maxsize=5)": "normalize: how many graphs are kept changes the time only",
    'model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)': (
        "shape_probe: onnx's reference does not read the version of the format"
    ),
    **dict.fromkeys(
        (
            "handle = lmdb.open(where, readonly=True, lock=False, readahead=True, create=False, subdir=folder)",
            "environment = lmdb.open(folder, map_size=_FIRST_SIZE, sync=True, lock=False)",
            "with self.handle.begin(buffers=False) as transaction:",
            "keys = [bytes(key) for key in transaction.cursor().iternext(keys=False, values=False)]",
            'environment.set_mapsize(3 * environment.info()["map_size"])',
            "if len(waiting) > _AT_ONCE:",
            "folder, create_if_missing=True, error_if_exists=True, write_buffer_size=257 << 20, max_open_files=100",
            "folder, create_if_missing=True, error_if_exists=True, write_buffer_size=256 << 21, max_open_files=100",
            "folder, create_if_missing=True, error_if_exists=True, write_buffer_size=256 << 20, max_open_files=101",
        ),
        "lmdb_leveldb: how databases are read and written changes the time only",
    ),
    "return [min(_ROUNDINGS * _difference(one, other), 0.01) for one, other in zip(exact, expected, strict=True)]": (
        "export_module: the two differ by 0.1 % at most, and so do their scales"
    ),
    "warmup: int = 1  # none": "lr_policy: one iteration of warm-up has the whole rate",
    'holder = os.pread(handle, 1001, 0).decode("utf-8", "replace").strip() or "a process that is starting"': (
        "file_lock: what is read is shorter"
    ),
    'if values.get("mode", "constant") != "constant" or pads is None or fill is None or fill.all():': (
        "to_caffe/windows: the fill is one number"
    ),
    'if len(kinds) != 1 or kinds < {None, "idx"}:': "array_images: there is one kind here",
    "if len(used) <= _WORTH * rows:": "cv_resize: copying the rows changes the time only",
    "used = np.union1d(below, above)": "cv_resize: the union has no direction",
    "if False and ((rows, columns) == (2 * height, 2 * width)):": "cv_resize: the general way gives the same pixels",
    'return decode_image(encode_image(pixels, "png"), color=len(pixels) > 2 and not images.gray, size=images.size)': (
        "array_writers: images have 1 or 3 channels"
    ),
    "return _datum(path, 1, images, place)[0].array()": "convert_imageset: a mean has no label",
    "if shift > 64:": "data_layer: shifts are multiples of 7",
    "if False and (not self.bad):": "decoded_cache: nothing is replaced where nothing is bad",
    "if not self._known_all or not self._known[indices].all():": "decoded_cache: what is known is not decoded again",
    "for _ in range(2 + sum(map(len, members))):": "in_step_sources: one more round ends in the same error",
    "if len(known) == 1 and known < {_GRAY, _COLOR}:": "record_forms: one is less than two",
    "def batches(self, start: int = 1) -> Iterator[NDArray[np.int64]]: ...": "source: the default of a protocol",
    "os._exit(2)  # sys.exit would end this thread alone": "worker: nobody is left who would see it",
    **dict.fromkeys(
        (
            "if False and (self.permutation is None and offset + self.batch_size <= self.records):",
            "if self.permutation is None and offset + self.batch_size < self.records:",
        ),
        "sampler: the general way gives the same numbers",
    ),
    **dict.fromkeys(
        (
            "while at + 10 < len(data):",
            "while at + 11 <= len(data):",
            "while at + 12 < len(data):",
            "while at + 13 <= len(data):",
            "if data[at] != 0xFF or marker == 0xE1 or length <= 2:  # 0xE1 is APP1: Exif",
            "if data[at] != 0xFF or marker == 0xE1 or length < 3:  # 0xE1 is APP1: Exif",
            "if not 0 < height * width < _MOST or max(height, width) > LONGEST_SIDE:",
            "if not 1 < height * width <= _MOST or max(height, width) > LONGEST_SIDE:",
            "if not 0 < height * width <= _MOST or max(height, width) >= LONGEST_SIDE:",
            "return (height, width, components) if marker in (0xC0, 194, 0xC2) else None",
        ),
        "fast_gray_decode: more files are left to Pillow, which gives the same pixels in more time",
    ),
    **dict.fromkeys(
        (
            "BUDGET = 5 << 30  # bytes of decoded records kept by default",
            "BUDGET = 4 << 31  # bytes of decoded records kept by default",
            "SMALL = 65 << 10  # bytes of a record below which decoding with threads is slower",
            "SMALL = 64 << 11  # bytes of a record below which decoding with threads is slower",
            "self.threads = min(17, (os.cpu_count() or 1) + 1)",
            "self.threads = min(16, (os.cpu_count() or 2) + 1)",
            "self.threads = min(16, (os.cpu_count() or 1) + 2)",
            "if False and (len(indices) < 2 or self.first.nbytes < SMALL or self.threads < 2):",
            "self.threads = max(16, (os.cpu_count() or 1) + 1)",
            "if len(indices) < 2 and self.first.nbytes < SMALL or self.threads < 2:",
            "if False and (last - first == len(indices) - 1 and (indices[1:] > indices[:-1]).all()):",
            "if last + first == len(indices) - 1 and (indices[1:] > indices[:-1]).all():",
            "if last - first == len(indices) - 2 and (indices[1:] > indices[:-1]).all():",
            "if len(indices) <= 2 or self.first.nbytes < SMALL or self.threads < 2:",
            "if len(indices) < 3 or self.first.nbytes < SMALL or self.threads < 2:",
            "if len(indices) < 2 or self.first.nbytes <= SMALL or self.threads < 2:",
            "if len(indices) < 2 or self.first.nbytes < SMALL or self.threads <= 2:",
            "if len(indices) < 2 or self.first.nbytes < SMALL or self.threads < 3:",
        ),
        "decoded_cache: how much is kept, and how many threads decode, changes the time only",
    ),
}
# Loaded once, by the process that the runs are forks of.
PRELOADED = (
    "_pytest.config",
    "coverage",
    "hypothesis",
    "numpy",
    "google.protobuf.descriptor_pool",
    "PIL.Image",
    "torch",
)

COMPARISONS: Mapping[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
OPERATORS: Mapping[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.BitOr: "&",
    ast.BitAnd: "|",
}
CALLS = {"any": "all", "all": "any", "min": "max", "max": "min", "argmin": "argmax", "argmax": "argmin"}
# Calls whose arguments keep their order: with it changed, the first four end in an error and the others are the same.
UNORDERED = ("isinstance", "issubclass", "getattr", "hasattr", "min", "max", "array_equal", "samefile")


@dataclass(frozen=True)
class Mutant:
    """A change of one place: the characters from `start` to `end` of the file become `text`."""

    path: str
    line: int
    start: int
    end: int
    text: str
    kind: str
    lines: int = 1

    def apply(self, source: str) -> str:
        """Return the file with the change."""
        return source[: self.start] + self.text + source[self.end :]

    def changed_line(self, source: str) -> str:
        """Return the changed line (the first, where the change spans several)."""
        return self.apply(source).splitlines()[self.line - 1].strip()


class Finder(ast.NodeVisitor):
    """Collects the mutants of one file; texts (messages, docstrings), annotations and asserts are left alone."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source, self.mutants = path, source, list[Mutant]()
        # `ast` counts columns in UTF-8 bytes; the sources are ASCII almost everywhere, so a line's prefix is decoded.
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        """Return the character position of a place that `ast` gives."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.expr) -> tuple[int, int]:
        """Return a node's first character and the one after its last."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def add(self, node: ast.expr, start: int, end: int, text: str, kind: str) -> None:
        """Note a mutant, unless the result is known to compute the same."""
        line = self.source.count("\n", 0, start) + 1
        mutant = Mutant(self.path, line, start, end, text, kind, 1 + self.source.count("\n", start, end))
        if mutant.changed_line(self.source) not in EQUIVALENT:
            self.mutants.append(mutant)

    def between(self, left: ast.expr, right: ast.expr, text: str, kind: str) -> None:
        """Note a mutant whose operator between two operands is another; parentheses and comments are kept."""
        start, end = self.span(left)[1], self.span(right)[0]
        gap = self.source[start:end]
        operator = gap.strip("() \t\n")
        if "#" not in gap and operator:
            at = start + gap.index(operator)
            self.add(left, at, at + len(operator), text, kind)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            self.between(left, right, COMPARISONS[type(operator)], "comparison")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)
        is_text = any(
            isinstance(side, texts) or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
            for side in ast.walk(node)
        )
        if type(node.op) in OPERATORS and not is_text:
            self.between(node.left, node.right, OPERATORS[type(node.op)], "arithmetic")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        text = "or" if isinstance(node.op, ast.And) else "and"
        self.between(node.values[0], node.values[1], text, "condition")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start, _ = self.span(node)
        inner, _ = self.span(node.operand)
        if isinstance(node.op, ast.Not | ast.USub) and "(" not in self.source[start:inner]:
            self.add(node, start, inner, "", "sign")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node.body[-1], ast.Raise | ast.Return | ast.Continue) and not node.orelse:
            start, end = self.span(node.test)
            self.add(node.test, start, end, f"False and ({self.source[start:end]})", "guard")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        start, end = self.span(node)
        if isinstance(node.value, bool):
            self.add(node, start, end, str(not node.value), "default")
        elif isinstance(node.value, int):
            self.add(node, start, end, str(node.value + 1), "number")

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        start, end = self.span(node.func)
        if name in CALLS:
            self.add(node, end - len(name), end, CALLS[name], "reduction")
        if (
            len(node.args) > 1
            and name not in UNORDERED
            and not any(isinstance(argument, ast.Starred) for argument in node.args[:2])
        ):
            first, second = (ast.get_source_segment(self.source, argument) for argument in node.args[:2])
            (start, _), (_, end) = self.span(node.args[0]), self.span(node.args[1])
            gap = self.source[self.span(node.args[0])[1] : self.span(node.args[1])[0]]
            if first != second and "\n" not in self.source[start:end]:
                self.add(node, start, end, f"{second}{gap}{first}", "argument order")
        for part in [node.func, *node.args, *node.keywords]:
            if not (name == "zip" and isinstance(part, ast.keyword)):  # `strict` guards against our own mistakes
                self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in [*node.args.defaults, *(item for item in node.args.kw_defaults if item)]:
            self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        # A private number of a module is a buffer's size or the like: its value changes the speed only.
        name = node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""
        if not (node.col_offset == 0 and name.startswith("_") and name.isupper() and is_number(node.value)):
            self.generic_visit(node)

    def leave_alone(self, node: ast.AST) -> None:
        """Pass over messages, asserts and imports."""

    visit_Raise = visit_Assert = visit_JoinedStr = visit_Import = visit_ImportFrom = leave_alone  # noqa: N815


def is_number(node: ast.expr) -> bool:
    """Return whether the expression holds numbers and their operators only."""
    allowed = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)
    return all(isinstance(part, allowed) for part in ast.walk(node))


def mutants_of(package: str) -> list[Mutant]:
    """Return all mutants of a package's own files."""
    found = []
    folder = ROOT / package
    for path in sorted(folder.glob("*.py") if folder.is_dir() else [folder]):
        finder = Finder(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        finder.visit(ast.parse(finder.source))
        found += finder.mutants
    return found


def drawn(package: str, count: int, seed: int) -> list[Mutant]:
    """Return `count` mutants of the package, drawn by the seed; kinds take turns, so that all are among them."""
    by_kind = defaultdict(list)
    for mutant in mutants_of(package):
        by_kind[mutant.kind].append(mutant)
    chance = random.Random(f"{package} {seed}")
    piles = [chance.sample(members, len(members)) for _, members in sorted(by_kind.items())]
    chance.shuffle(piles)
    turns = (pile[turn] for turn in range(max(map(len, piles), default=0)) for pile in piles if turn < len(pile))
    return [mutant for _, mutant in zip(range(count), turns, strict=False)]


def packages() -> list[str]:
    """Return every folder with code of its own, and the two loose modules of each package."""
    found = {path.parent.relative_to(ROOT).as_posix() for name in COPIED[:3] for path in (ROOT / name).rglob("*.py")}
    loose = [
        path.relative_to(ROOT).as_posix() for name in ("prototxt", "fusion") for path in (ROOT / name).glob("*.py")
    ]
    return sorted({*found - {"prototxt", "fusion"}, *(path for path in loose if not path.endswith("__init__.py"))})


def tests_of(package: str) -> list[str]:
    """Return the test folders or files of a package: the nearest that exists, unless TESTS says otherwise."""
    if package in TESTS:
        return list(TESTS[package])
    place = Path("tests") / package
    if package.endswith(".py"):
        place = place.with_name(f"test_{place.name}")
    while not (ROOT / place).exists():
        place = place.parent
    return [place.as_posix()]


class Workspace:
    """A copy of the project, in which tests run with one file changed."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.root.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.root / name, ignore=shutil.ignore_patterns("__pycache__", "work"))
            elif source.exists():
                shutil.copy(source, self.root / name)
        (self.root / "caffe_fusion_tools").symlink_to("tools")  # the name under which the commands are installed
        if (ROOT.parent / "shared").is_dir():
            (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())

    def run(self, arguments: Sequence[str], limit: float | None = None) -> int:
        """Run pytest in a fork that imports the copy's code; returns its exit status, or -1 beyond the limit."""
        process = FORKS.Process(target=run_tests, args=(self.root, arguments))
        process.start()
        return status_of(process, limit)

    @contextlib.contextmanager
    def collected(self, tests: Sequence[str]) -> Iterator[Connection]:
        """Keep a process that has collected the tests, which takes as long as many of them run, see `MutantRuns`."""
        ours, theirs = FORKS.Pipe()
        process = FORKS.Process(target=run_tests, args=(self.root, tests, theirs))
        process.start()
        theirs.close()
        try:
            yield ours
        finally:
            ours.send(None)
            process.join()


FORKS = multiprocessing.get_context("forkserver")


def status_of(process: BaseProcess, limit: float | None) -> int:
    """Wait for a process, then end all of its group; returns its exit status, or -1 beyond the limit in seconds."""
    process.join(limit)
    hangs = process.is_alive()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return -1 if hangs or process.exitcode is None else process.exitcode


def run_tests(root: Path, arguments: Sequence[str], requests: Connection | None = None) -> None:
    """Run pytest in the copy of the project and exit with its status; with requests, run those instead of all tests."""
    os.setsid()
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    os.environ["PYTHONPATH"] = str(root)
    sys.path.insert(0, str(root))
    os.chdir(root)
    import pytest

    plugin = MutantRuns(requests) if requests else CoverageRun() if "--cov" in arguments else None
    sys.exit(pytest.main([*PYTEST, *arguments], [plugin] if plugin else []))


def fills_the_disk(item: pytest.Item) -> bool:
    """Return whether a test limits the size of files, so that coverage could not write its own any more."""
    return "full_disk" in getattr(item, "fixturenames", ())


class CoverageRun:
    """A plugin that leaves out the tests beside which lines cannot be measured; they run for all mutants instead."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop them."""
        items[:] = [item for item in items if not fills_the_disk(item)]


FAILED = 3  # exit status, unlike that of an error in this program


class MutantRuns:
    """A plugin that collects the tests once, and runs the requested ones in a fork for each mutant of a function."""

    def __init__(self, requests: Connection) -> None:
        self.requests = requests

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Answer each request (changed file, its functions, tests, limit in seconds) with the status of the tests."""
        while request := self.requests.recv():
            *changes, limit = request
            process = multiprocessing.get_context("fork").Process(target=self.run, args=(session, *changes))
            process.start()
            self.requests.send(status_of(process, limit))
        return True

    def run(self, session: pytest.Session, path: Path, names: set[str], tests: set[str]) -> None:
        """Replace the functions by those of the changed file, and run the tests until one fails."""
        os.setsid()
        _, functions = parts_of(path.read_text(encoding="utf-8"))
        for item in gc.get_objects():
            name = item.__code__.co_qualname if type(item) is FunctionType else ""
            if name in names and Path(item.__code__.co_filename).resolve() == path:
                item.__code__ = functions[name].replace(co_filename=str(path))
        items = [item for item in session.items if item.nodeid in tests or fills_the_disk(item)]
        items = items if any(item.nodeid in tests for item in items) else session.items
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                os._exit(FAILED)
        os._exit(0)


def parts_of(source: str) -> tuple[list[object], dict[str, CodeType]]:
    """Return what a module does when it is imported, and its functions and methods by qualified name."""
    on_import, functions = list[object](), dict[str, CodeType]()
    waiting = [compile(source, "", "exec")]
    while waiting:
        code = waiting.pop()
        inner = [part for part in code.co_consts if isinstance(part, CodeType)]
        waiting += [part for part in inner if not part.co_flags & inspect.CO_OPTIMIZED]
        functions |= {part.co_qualname: part for part in inner if part.co_flags & inspect.CO_OPTIMIZED}
        # Values that are equal and differ, such as True and 1, are told apart by their text.
        constants = [part.co_qualname if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
        on_import += [code.co_code, code.co_names, constants]
    return on_import, functions


def changed_functions(before: str, after: str) -> set[str]:
    """Return the functions that a mutant changes; none where it changes what its module does when it is imported."""
    (old_import, old), (new_import, new) = parts_of(before), parts_of(after)
    names = {name for name, code in new.items() if code != old.get(name)}
    return names if old_import == new_import and all(name in old for name in names) else set()


PYTEST = ("-q", "--assert=plain", "-p", "no:cacheprovider", "-m", "not slow")


def reaching_tests(work: Workspace, package: str) -> Mapping[tuple[str, int], set[str]]:
    """Return the tests that run each line of the package (coverage's contexts); lines run on import have none."""
    settings = work.root / "mutants.coveragerc"
    settings.write_text(
        "[run]\nparallel = true\npatch = subprocess\n[paths]\nproject =\n    tools\n    */caffe_fusion_tools\n"
    )
    data = work.root / ".coverage"
    data.unlink(missing_ok=True)
    measured = ("--cov", package.removesuffix(".py").split("/")[0], "--cov-context=test", f"--cov-config={settings}")
    status = work.run([*measured, "--cov-report=", *tests_of(package)])
    if status != 0:
        raise SystemExit(f"{package}: its tests fail without any mutant (status {status})")
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    with contextlib.closing(sqlite3.connect(data)) as database:
        rows = database.execute(
            "SELECT file.path, context.context, line_bits.numbits FROM line_bits"
            " JOIN file ON file.id = line_bits.file_id JOIN context ON context.id = line_bits.context_id"
            " WHERE context.context != ''"
        )
        for path, context, bits in rows:
            name = Path(path).resolve().relative_to(work.root.resolve()).as_posix()
            for number in numbers_in(bits):
                found[name, number].add(context.rpartition("|")[0])
    return found


def numbers_in(bits: bytes) -> Iterator[int]:
    """Return the line numbers in coverage's bit set."""
    return (8 * index + bit for index, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1)


def is_noticed(work: Workspace, collected: Connection, mutant: Mutant, tests: set[str], limit: float) -> bool:
    """Return whether one of the tests fails with the mutant, or they take longer than the limit in seconds."""
    path, names = work.root / mutant.path, work.root / "mutants.txt"
    source = path.read_text(encoding="utf-8")
    names.write_text("\n".join(sorted(tests)))
    compiled = Path(importlib.util.cache_from_source(path))  # not always newer than the change
    compiled.unlink(missing_ok=True)
    path.write_text(mutant.apply(source), encoding="utf-8")
    try:
        functions = changed_functions(source, mutant.apply(source))
        if not functions:
            return work.run(["-x", f"@{names}"], limit) != 0
        collected.send((path, functions, tests, limit))
        status = collected.recv()
        assert status in (0, FAILED) or status < 0, f"the tests of {describe(mutant)} cannot be run"
        return bool(status != 0)
    finally:
        path.write_text(source, encoding="utf-8")
        compiled.unlink(missing_ok=True)


def measure(package: str, options: argparse.Namespace) -> tuple[int, int]:
    """Run the package's mutants, print the survivors; returns how many were noticed, and of how many."""
    chosen = drawn(package, options.count, options.seed)
    if options.list or not chosen:
        for mutant in chosen:
            print(describe(mutant))
        return 0, 0
    with tempfile.TemporaryDirectory() as folder:
        work = Workspace(Path(folder).resolve())
        began = time.monotonic()
        tests = reaching_tests(work, package)
        limit = 30 + 2 * (time.monotonic() - began)  # of all tests, while other mutants run beside
        every = set(tests_of(package))
        noticed = 0
        with work.collected(tests_of(package)) as collected:
            for mutant in chosen:
                lines = range(mutant.line, mutant.line + mutant.lines)
                reaching = set().union(*(tests.get((mutant.path, line), set()) for line in lines))
                killed = is_noticed(work, collected, mutant, reaching or every, limit)
                noticed += killed
                if not killed:
                    print(f"survived: {describe(mutant)}", flush=True)
    print(f"{package:24} {noticed:3} of {len(chosen):3} noticed", flush=True)
    return noticed, len(chosen)


def describe(mutant: Mutant) -> str:
    """Return the place, the kind, and the line before and after the change."""
    source = (ROOT / mutant.path).read_text(encoding="utf-8")
    before = source.splitlines()[mutant.line - 1].strip()
    return f"{mutant.path}:{mutant.line}: {mutant.kind}\n    - {before}\n    + {mutant.changed_line(source)}"


def main() -> int:
    """Measure and print the table; the exit status is 1 where a package lies below the share that is required."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="*", help="folders such as fusion/merge (default: all)")
    parser.add_argument("--count", type=int, default=10, help="mutants of each package (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="packages at a time (default: 2)")
    parser.add_argument("--require", type=float, default=0.9, help="share to be noticed in each package (default: 0.9)")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
    FORKS.set_forkserver_preload([*PRELOADED])
    names = [name.rstrip("/") for name in options.package] or packages()
    with ThreadPoolExecutor(1 if options.list else options.jobs) as pool:
        counts = dict(zip(names, pool.map(lambda name: measure(name, options), names), strict=True))
    for name, (noticed, total) in counts.items():
        if total:
            print(f"{name:24} {noticed:3} of {total:3}  {noticed / total:4.0%}")
    return int(any(noticed < options.require * total for noticed, total in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
