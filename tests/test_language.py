"""The language of sources and documentation: plain technical English, and one meaning per public name."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for package in ("prototxt", "fusion", "tools") for path in (ROOT / package).rglob("*.py"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("examples/*/*.md"))]
BANNED = re.compile(
    r"\b(told|behind|go on|goes on|going on|went on|anew|so many|so much|bears?|borne|reckon\w*|unlearn\w*|learnt|"
    r"to choose by|in front of|what follows|at hand|the very|(?:is|are) said|lest|hence|thereby|whence|likewise|"
    r"otherwise than|for ever|one by one|to be had|makes ready|pace|asked for|hasten\w*)\b",
    re.IGNORECASE,
)
WHAT = re.compile(r"\bwhat\b", re.IGNORECASE)
GERUNDS = {  # terms of the field; other modules are named after the thing that they define
    *("drawing", "early_stopping", "layer_timing", "logging", "pooling", "preprocessing", "serving", "sharding"),
    "text_encoding",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=name)
def test_no_banned_word(path: Path) -> None:
    lines = enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
    found = [f"{name(path)}:{number}: {match[0]}" for number, line in lines for match in BANNED.finditer(line)]
    assert not found, "say told as given, behind as after, go on as continue, anew as again, so many as N: " + str(
        found
    )


def test_what_is_rare() -> None:
    """`what` mostly stands for a noun that should be named."""
    sources = [path.read_text(encoding="utf-8") for path in SOURCES]
    assert sum(len(WHAT.findall(text)) for text in sources) <= sum(text.count("\n") for text in sources) / 400
    assert sum(len(WHAT.findall(path.read_text(encoding="utf-8"))) for path in PAGES) <= 40


def test_modules_are_named_by_nouns() -> None:
    names = {part for path in SOURCES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not [part for part in names if part.endswith("ing") and part not in GERUNDS]


def test_a_public_name_has_one_meaning() -> None:
    modules = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if path.parent.name == "pycaffe":  # whose names are those of Caffe's own Python module
                continue
            is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if is_definition and not (path.parent.name == "tools" and node.name in ("main", "parser")):
                modules[node.name].append(name(path))
    assert not {definition: paths for definition, paths in modules.items() if len(set(paths)) > 1}
