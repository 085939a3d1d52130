"""The project's structure: imports go one way, light packages stay light, and the public names are what they say."""

from __future__ import annotations

import ast
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# In import order: a module imports only from its own package and from packages above it. A folder is one package.
PACKAGES = (
    *("prototxt.lazy_exports", "prototxt.errors", "prototxt.files", "prototxt.sniff", "prototxt.text"),
    *("prototxt.schema", "prototxt.formats", "prototxt.shapes", "prototxt.edit", "prototxt.conversion"),
    *(
        "prototxt.summary",
        "prototxt.drawing",
        "prototxt",
        "fusion.version",
        "fusion.errors",
        "fusion.stand_in",
        "fusion.file_lock",
        "fusion.fillers",
        "fusion.onnx",
    ),
    *("fusion.distributed", "fusion.data", "fusion.pct", "fusion.layers", "fusion.nets", "fusion.verification"),
    *("fusion.export", "fusion.conversion", "fusion.composition", "fusion.merge", "fusion.surgery"),
    *("fusion.references", "fusion.report", "fusion.solver", "fusion.sweep", "fusion.serving", "fusion.job"),
    "fusion.pycaffe",
    *("fusion", "tools", "fusion.__main__"),
)
TORCH_FREE = (
    *(
        "prototxt",
        "fusion.version",
        "fusion.errors",
        "fusion.stand_in",
        "fusion.file_lock",
        "fusion.fillers",
        "fusion.onnx.graphs",
        "fusion.onnx.to_caffe",
        "fusion.composition",
        "fusion.merge",
    ),
    *("fusion.surgery", "fusion.report", "fusion.data", "fusion.job"),
)
SOURCES = sorted(path for package in ("prototxt", "fusion", "tools") for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [module_name(path) for path in SOURCES]


def package_of(module: str) -> int:
    """The index of the most specific package that holds the module."""
    if module in ("prototxt", "fusion"):
        return PACKAGES.index(module)
    held = [name for name in PACKAGES if name not in ("prototxt", "fusion") and (module + ".").startswith(name + ".")]
    assert held, f"{module} belongs to no package: add it to PACKAGES at its place in the import order"
    return PACKAGES.index(max(held, key=len))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path: Path, *, typed: bool = False) -> set[str]:
    """All project modules that a file imports anywhere, in blocks for type checkers only if `typed`."""
    home = path.relative_to(ROOT).parts[0]
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if is_type_checking(node) and not typed:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # The commands are installed under another name than their folder's, so they name each other relatively.
            module = f"tools.{node.module}" if node.level else node.module or ""
            assert node.level == 0 or home == "tools", "imports are absolute"
            found.update(f"{module}.{alias.name}" for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))
    return {owner(name) for name in found if name.split(".")[0] in ("prototxt", "fusion", "tools")}


def owner(name: str) -> str:
    """The module that an imported name stands for: itself, or the module that it is an attribute of."""
    return name if name in MODULES else name.rpartition(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=MODULES)
def test_imports_follow_the_arrow(path: Path) -> None:
    here = package_of(module_name(path))
    for imported in imports(path, typed=True):
        if imported in ("prototxt", "fusion") and PACKAGES.index(imported) > here:
            pytest.fail(f"{module_name(path)} imports the whole package {imported}: name the module instead")
        assert package_of(imported) <= here, f"{module_name(path)} imports {imported}, which comes after it"


def test_no_cycles() -> None:
    graph = {module_name(path): imports(path, typed=True) for path in SOURCES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for imported in sorted(graph.get(module, set()) - {module}):
                visit(imported, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_every_folder_is_packaged() -> None:
    """setuptools is given a list; a folder that it lacks would be missing once the project is installed."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = ast.literal_eval(text[text.index("packages = [") :].partition("=")[2].partition("]")[0].strip() + "]")
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in SOURCES}
    installed = {"caffe_fusion_tools", "caffe_fusion_tools.mnist_odd_even"}
    assert sorted(listed) == sorted({*folders - {"tools"}, *installed})


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_light_packages_never_import_torch() -> None:
    light = [name for name in MODULES if (name + ".").startswith(tuple(f"{package}." for package in TORCH_FREE))]
    imported = "\n".join(f"import {name}" for name in light)
    assert run_python(f"{imported}\nimport sys; print('torch' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("package", ["prototxt", "fusion"])
def test_importing_a_package_costs_nothing(package: str) -> None:
    heavy = "{'torch', 'numpy', 'google.protobuf', 'onnx'}"
    assert run_python(f"import {package}, sys; print({heavy} & set(sys.modules))").strip() == "set()"


def test_help_imports_nothing_heavy() -> None:
    code = """
import importlib, sys
from caffe_fusion_tools.commands import MODULES
for module in MODULES.values(): importlib.import_module(f"caffe_fusion_tools.{module}").parser().format_help()
"""
    assert run_python(code + "print({'torch', 'numpy', 'google.protobuf'} & set(sys.modules))").strip() == "set()"


LISTS_NAMES = re.compile(r"^__all__ = \[|= lazy_exports\(", re.MULTILINE)
EXPORTING = [
    module_name(path)
    for path in SOURCES
    if path.name == "__init__.py"
    and "layers" not in path.parts
    and LISTS_NAMES.search(path.read_text(encoding="utf-8"))
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_public_names_survive_any_import_order(seed: int) -> None:
    submodules = [name for name in MODULES if "fusion.onnx" not in name and not name.startswith("tools")]
    public = {"pct", "caffe_pb2", "classifier", "detector", "io", "net_spec", "proto"}  # pycaffe's too are modules
    order = random.Random(seed).sample(submodules, len(submodules))
    run_python(f"""
import importlib, types
for name in {order!r}: importlib.import_module(name)
for package in map(importlib.import_module, {EXPORTING!r}):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert name in {public} or not isinstance(getattr(package, name), types.ModuleType), name
""")
