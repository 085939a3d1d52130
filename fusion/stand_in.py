"""`import caffe` finds `fusion.pycaffe`: in a process that asks for it, or only while a Python layer's code runs.

The package is imported by name, since it comes later in the order of imports.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ALIAS, _PACKAGE = "caffe", "fusion.pycaffe"


def install() -> None:
    """Let `import caffe` and its submodules find `fusion.pycaffe` from now on, even where a Caffe is installed."""
    if _finder not in sys.meta_path:
        _pop_modules()
        sys.meta_path.insert(0, _finder)


@contextmanager
def stand_in() -> Iterator[None]:
    """Do as `install` inside the block: layers that derive from a real pycaffe's class could not run here."""
    if _finder in sys.meta_path:
        yield
        return
    before = _pop_modules()
    sys.meta_path.insert(0, _finder)
    try:
        yield
    finally:
        sys.meta_path.remove(_finder)
        _pop_modules()
        sys.modules.update(before)


def _pop_modules() -> dict[str, ModuleType]:
    """Remove `caffe` and its submodules from the imported modules, and return them."""
    names = [name for name in sys.modules if name.partition(".")[0] == _ALIAS]
    return {name: sys.modules.pop(name) for name in names}


class _Finder(MetaPathFinder):
    """Finds `caffe.io` as `fusion.pycaffe.io`: the same module, not a second copy of it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of an alias, or None for other modules, and for those that the package lacks."""
        if fullname.partition(".")[0] != _ALIAS:
            return None
        own = _PACKAGE + fullname[len(_ALIAS) :]
        return None if importlib.util.find_spec(own) is None else ModuleSpec(fullname, _AliasLoader(own))


class _AliasLoader(Loader):
    def __init__(self, own: str) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._own)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has replaced it by the alias's


_finder = _Finder()
