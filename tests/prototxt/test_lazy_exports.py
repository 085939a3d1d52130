"""Names that a package imports on first use."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

import fusion
import prototxt
from prototxt.lazy_exports import lazy_exports

INIT = """
from typing import TYPE_CHECKING
from prototxt.lazy_exports import lazy_exports
if TYPE_CHECKING:
    from shop import till as till
    from shop.goods import Apple as Apple, pear as pear
else:
    __getattr__, __dir__ = lazy_exports(__name__)
"""
FILES = {"shop/__init__.py": INIT, "shop/till.py": "", "shop/goods.py": "class Apple: ...\ndef pear(): return 5\n"}
USE = """
import sys, shop
assert "shop.goods" not in sys.modules
assert {"Apple", "pear", "till"} <= set(dir(shop))
assert shop.pear() == 5 and "shop.till" not in sys.modules
from shop import *
assert Apple is sys.modules["shop.goods"].Apple and till is sys.modules["shop.till"]
try:
    shop.plum
except AttributeError as error:
    print(error)
"""


def run(path: Path, code: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("zipped", [False, True])
def test_names_are_imported_on_first_use(tmp_path: Path, zipped: bool) -> None:
    (tmp_path / "shop").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    if zipped:
        with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
            for name in FILES:
                archive.write(tmp_path / name, name)
    result = run(tmp_path / "shop.zip" if zipped else tmp_path, USE)
    assert result.stdout == "module 'shop' has no attribute 'plum'\n", result.stderr


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package of the texts above, imported into this process."""
    (tmp_path / "shop").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("shop")
    for name in ("shop", "shop.goods", "shop.till"):
        sys.modules.pop(name, None)


def test_a_name_is_loaded_once_and_stays(shop: Any) -> None:
    assert {"Apple", "pear", "till", "__name__"} <= set(dir(shop))
    assert shop.pear() == 5
    assert vars(shop)["pear"] is sys.modules["shop.goods"].pear
    assert "Apple" not in vars(shop)
    assert "shop.till" not in sys.modules
    assert shop.till is sys.modules["shop.till"]
    assert shop.__all__ == ["Apple", "pear", "till"]
    with pytest.raises(AttributeError, match="module 'shop' has no attribute 'plum'"):
        shop.plum  # noqa: B018


def test_a_package_without_source_or_loader(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in (None, ModuleSpec("shop", None)):
        monkeypatch.setattr(shop, "__spec__", spec)
        load, names = lazy_exports("shop")
        for use in (lambda load=load: load("Apple"), names):
            with pytest.raises(ImportError, match=r"the source of shop/__init__\.py, .* is missing"):
                use()


def test_a_missing_source_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text(INIT)
    code = "import compileall, os; compileall.compile_dir(sys.path[0], quiet=1, legacy=True)\n"
    result = run(tmp_path, f"{code}os.remove({str(tmp_path / 'shop' / '__init__.py')!r})\nimport shop; shop.Apple")
    assert "ImportError: the source of shop/__init__.py, which lists its public names, is missing" in result.stderr


def test_the_packages_list_their_names() -> None:
    assert {"compose", "Solver", "pct"} <= set(dir(fusion))
    assert {"parse", "load_net", "UpgradeWarning"} <= set(dir(prototxt))
    with pytest.raises(AttributeError, match="module 'fusion' has no attribute 'Solvr'"):
        fusion.Solvr  # noqa: B018
