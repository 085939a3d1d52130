"""Public names of a package that are imported on first use, each stated once.

    if TYPE_CHECKING:
        from fusion.composition import Composition as Composition     # `as` marks it as public (PEP 484)
    else:
        __getattr__, __dir__ = lazy_exports(__name__)

Type checkers and editors see plain imports, so they also find misspelt names; at run time the same lines are read from
the package's source when the first name is used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package whose `if TYPE_CHECKING` block lists its public names."""
    homes: dict[str, str] = {}

    def exports() -> Mapping[str, str]:
        if not homes:
            homes.update(_typed_imports(package))
        return homes

    def load(name: str) -> Any:
        if name == "__all__":  # looked up by `from package import *`
            return sorted(exports())
        if name not in exports():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = exports()[name]
        is_module = home == package
        value = importlib.import_module(f"{home}.{name}") if is_module else getattr(importlib.import_module(home), name)
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted({*vars(sys.modules[package]), *exports()})


def _typed_imports(package: str) -> dict[str, str]:
    """Return the module of each name that a package imports for type checkers. Raises: ImportError without source."""
    import ast  # on use: programs that import modules by their full names do not need it

    spec = sys.modules[package].__spec__
    # the loader, unlike open(), also reads packages inside a zip file
    source = getattr(spec and spec.loader, "get_source", lambda name: None)(package)
    if source is None:
        raise ImportError(f"the source of {package}/__init__.py, which lists its public names, is missing")
    return {
        alias.name: line.module or package
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for line in node.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
