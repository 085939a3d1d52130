"""fusion-rename against the tutorial's regex script: the damage of each to a folder of nets, and its time.

    python benchmarks/rename.py [FOLDER]

The script is implemented here from its description: every layer's name is replaced wherever it occurs in the text, and
`lr_mult: ...` becomes 0. Damage is counted per net from the texts before and after.
"""

from __future__ import annotations

import functools
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from timing import interleaved, machine, process, table

import prototxt
from prototxt.edit.layer_view import outside_blobs, text_layers, text_nets
from prototxt.files import read_text
from prototxt.schema.params import param_count
from prototxt.text.tree import Document, Message, Scalar

HERE = Path(__file__).parent
PREFIX = "odd"
DAMAGES = (
    "unreadable or with broken words",
    "prefixed twice",
    "other texts rewritten",
    "inputs renamed",
    "left learning",
)
FREEZING = ("param", "lr_mult", "blobs_lr", "batch_norm_param", "use_global_stats", "dropout_param", "dropout_ratio")
ROLES = ("name", "top", "bottom", "param")


def regex_script(text: str, prefix: str = PREFIX) -> str:
    """Change a text as the tutorial's script does."""
    for name in dict.fromkeys(re.findall(r'name *: *"([^"]+)"', text)[1:]):
        text = re.sub(re.escape(name), lambda match: f"{prefix}/{match[0]}", text)
    return re.sub(r"lr_mult *: *[\d.]+", "lr_mult: 0", text)


def strings(document: Document) -> Iterator[tuple[str, str]]:
    """Yield every string of a text with its field's name, in order."""
    todo: list[Message] = [document.root]
    while todo:
        inner: list[Message] = []
        for field in todo.pop():
            for value in field.values:
                if isinstance(value, Message):
                    inner.append(value)
                elif value.kind == "string":
                    yield field.name, value.value
        todo += reversed(inner)


def words(document: Document) -> set[str]:
    """Return the names of all fields."""
    found: set[str] = set()
    todo: list[Message] = [document.root]
    while todo:
        for field in todo.pop():
            found.add(field.name)
            todo += [value for value in field.values if isinstance(value, Message)]
    return found


def damage(before: Document, after: Document) -> set[str]:
    """Return the kinds of damage in `after`."""
    found: set[str] = set()
    if len(after.errors) > len(before.errors) or not words(after) <= words(before) | set(FREEZING):
        found.add(DAMAGES[0])
    old, new = list(strings(before)), list(strings(after))
    for (name, value), (_, changed) in zip(old, new, strict=False):
        if f"{PREFIX}/{PREFIX}/" in changed:
            found.add(DAMAGES[1])
        elif changed != value and (name not in ROLES or changed != f"{PREFIX}/{value}"):
            found.add(DAMAGES[2])
    for net, original in zip(text_nets(after), text_nets(before), strict=False):
        outside = outside_blobs(original, text_layers(original))
        if any(f"{PREFIX}/{blob}" in outside_blobs(net, text_layers(net)) for blob in outside):
            found.add(DAMAGES[3])
        if any(_learns(layer.body, layer.type, layer.version) for layer in text_layers(net) if not layer.is_data):
            found.add(DAMAGES[4])
    return found


def _learns(body: Message, kind: str, version: int) -> bool:
    count = param_count(kind, body)
    rates: list[Scalar | None]
    if version == 2:
        rates = [next(iter(block.scalars("lr_mult")), None) for block in body.messages("param")]
    else:
        rates = list(body.scalars("blobs_lr"))
    if count is None or kind == "BatchNorm":
        return False  # counted only where the text alone is certain
    return len(rates) < count or any(rate is None or float(rate.raw.rstrip("fF")) != 0 for rate in rates)


def ours(text: str) -> str | None:
    """Return a text renamed by fusion-rename; None if it refuses."""
    document = prototxt.parse(text, tolerant=True)
    try:
        return str(prototxt.rename(document, PREFIX))
    except prototxt.RenameError:
        return str(prototxt.rename(document, PREFIX, freeze=False)) if "cannot be frozen" in _why(document) else None


def _why(document: Document) -> str:
    try:
        prototxt.rename(document, PREFIX)
    except prototxt.PrototxtError as error:
        return str(error)
    return ""


def count(texts: list[str], change: Callable[[str], str | None]) -> dict[str, int]:
    """Return the number of nets with each kind of damage, with any damage, and refused."""
    counts = dict.fromkeys((*DAMAGES, "damaged", "refused"), 0)
    for text in texts:
        before = prototxt.parse(text, tolerant=True)
        result = change(text)
        if result is None:
            counts["refused"] += 1
            continue
        found = damage(before, prototxt.parse(result, tolerant=True))
        if change is ours and DAMAGES[4] in found and "cannot be frozen" in _why(before):
            found.discard(DAMAGES[4])  # it reports that and exits with 1: the user knows of the learning layers
            counts["refused"] += 1
        for kind in found:
            counts[kind] += 1
        counts["damaged"] += bool(found)
    return counts


def folder() -> Path:
    """Return the folder on the command line, or the public nets beside the checkout, or the example's own."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1]).resolve()
    public = HERE.parent.parent / "shared" / "reference" / "corpus"
    return public if public.is_dir() else HERE.parent / "examples" / "mnist_odd_even"


def times(net: Path) -> str:
    """Return a table of the times of whole processes on one net."""
    with tempfile.TemporaryDirectory() as scratch:
        out = str(Path(scratch) / "out.prototxt")
        script = (
            f"from rename import regex_script; t = open({str(net)!r}).read(); open({out!r}, 'w').write(regex_script(t))"
        )
        command = [sys.executable, "-m", "caffe_fusion_tools.rename"]
        commands = {
            "fusion-rename": ([*command, str(net), out, PREFIX, "-q"], scratch),
            "fusion-rename --help": ([*command, "--help"], scratch),
            "regex script": ([sys.executable, "-c", script], str(HERE)),
            "python -c pass": ([sys.executable, "-c", "pass"], scratch),
        }
        cpu: dict[str, list[float]] = {name: [] for name in commands}

        def wall(name: str) -> float:
            words_, cwd = commands[name]
            run = process(words_, cwd=cwd)
            cpu[name].append(run.cpu)
            return run.wall

        figures = interleaved({name: functools.partial(wall, name) for name in commands}, rounds=7)
    rows = [(name, f"{value:.3f}", f"{statistics.median(cpu[name]):.3f}") for name, value in figures.items()]
    return table(("whole process", "seconds", "CPU seconds"), rows)


def main() -> int:
    paths = [path for path in sorted(folder().rglob("*")) if path.suffix in (".prototxt", ".pt")]
    texts = [text for text in map(read_text, paths) if re.search(r"\blayers?\s*[:{\[]", text)]
    results = {"regex script": count(texts, regex_script), "fusion-rename": count(texts, ours)}
    rows = [(kind, *(results[name][kind] for name in results)) for kind in (*DAMAGES, "damaged", "refused")]
    print(f"{len(texts)} nets\n")
    print(table(("nets", *results), rows))
    largest = next(
        (path for path in paths if "ResNet-152" in path.name), max(paths, key=lambda path: path.stat().st_size)
    )
    print(f"\n{largest.name}, {machine()}\n")
    print(times(largest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
