"""The fuzz runner itself, for a moment; every input that it ever found; and no pickle anywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent


def fuzz(*arguments: str, folder: Path) -> str:
    for driver in ("lmdb", "plyvel"):  # the runner's targets import them
        pytest.importorskip(driver)
    command = [sys.executable, str(TESTS / "fuzz_files.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_new_inputs(tmp_path: Path) -> None:
    found = fuzz("--inputs", "2000", "--seed", "7", "--minutes", "60", folder=tmp_path)
    assert "2000 inputs" in found
    assert ", 0 findings" in found


@pytest.mark.slow
def test_what_was_once_found_stays_fixed(tmp_path: Path) -> None:
    kept = sorted((TESTS / "fuzz" / "findings").iterdir())
    assert f"{len(kept)} inputs, 0 findings" in fuzz("--replay", *map(str, kept), folder=tmp_path)


def test_no_pickle_anywhere() -> None:
    unpickling = re.compile(
        r"^\s*(?:import|from) (?:c?[pP]ickle|_pickle|dill|cloudpickle|joblib|shelve|marshal)\b"
        r"|\bpickle\.|allow_pickle=True|weights_only=False|torch\.load\((?![^)\n]*weights_only=True)"
    )
    raised, imported = "pickle.UnpicklingError", "import pickle"
    restricted = {
        # CIFAR's batches are pickles: a reader of its own knows the names that they need, and refuses all others.
        "array_images.py": (imported, "class _Unpickler(pickle.Unpickler):", f"raise {raised}("),
        # Checkpoints are read as tensors alone; inside torch.export.load, whatever would unpickle more is replaced.
        "checkpoints.py": (imported, f"if isinstance(error, {raised})"),
        "torch_nets.py": (imported, f"except {raised}", f"raise {raised}(", "known = os.environ.get(_FORCED), pickle.",
                          "pickle.loads = torch._C._pickle_load_obj = refuse", "pickle.loads, torch._C._pickle"),
    }  # fmt: skip
    for package in ("prototxt", "fusion", "tools"):
        for path in (ROOT / package).rglob("*.py"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                allowed = line.strip().startswith(restricted.get(path.name, ("no line",)))
                assert allowed or not unpickling.search(line), f"{path}:{number}: {line}"
