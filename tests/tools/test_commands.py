"""fusion COMMAND and fusion-COMMAND are one program, which names itself as it was called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from caffe_fusion_tools import completion
from caffe_fusion_tools.commands import COMMANDS, MODULES, main

import fusion

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
SHARED = sorted(MODULES.keys() - {"completion"})


def ended(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_every_command_is_installed_under_both_names() -> None:
    table = PYPROJECT.partition("[project.scripts]\n")[2].partition("\n\n")[0]
    scripts = {name: ast.literal_eval(target) for name, _, target in (line.split() for line in table.splitlines())}
    assert scripts.pop("fusion") == "caffe_fusion_tools.commands:main"
    assert scripts == {f"fusion-{name}": f"caffe_fusion_tools.{MODULES[name]}:main" for name in SHARED}


@pytest.mark.parametrize("name", SHARED)
def test_a_command_names_itself_as_it_was_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended([name, "--no-such-option"]) == 2
    assert capsys.readouterr().err.startswith(f"usage: fusion {name} ")
    with pytest.raises(SystemExit):
        import_module(f"caffe_fusion_tools.{MODULES[name]}").main(["--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: fusion-{name} ")
    examples = text.partition("\nexample")[2]
    assert f"fusion {name}" not in text
    assert not examples or f"  fusion-{name} " in examples


@pytest.mark.parametrize("name", SHARED)
def test_the_chosen_command_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: fusion {name} ")


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert listed == [name for step in COMMANDS.values() for name in step]
    assert listed[:5] == ["run", "rename", "compose", "merge", "verify"]
    assert main([]) == 2
    assert "\n    rename  " in capsys.readouterr().err


def test_help_says_which_options_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["merge", "--help"]) == 0
    options = re.split(r"\n  (?=-)", capsys.readouterr().out)
    said = [option.split()[0] for option in options if "repeatable" in option]
    assert said == ["--allow-missing", "--input-shape", "--stage"]


def test_misspelt_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (["trian"], "fusion: error: there is no command 'trian'; did you mean 'train'?"),
        (["xyzzy"], "fusion: error: there is no command 'xyzzy'\n"),
        (["--verison"], "fusion: error: unrecognized arguments: --verison; did you mean '--version'?"),
        (["show", "a", "--jsn"], "fusion show: error: unrecognized arguments: --jsn; did you mean '--json'?"),
        (["surgery", "fold", "a", "b", "-o", "c", "--forc=1"], "--forc=1; did you mean '--force'?"),
        (["show", "a", "b"], "unrecognized arguments: b\n"),
        (["test", "--model", "a", "--weights", "b", "--iter", "3"], "unrecognized arguments: --iter 3"),
    ):
        assert ended(words) == 2
        assert says in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert f'\nversion = "{fusion.__version__}"\n' in PYPROJECT
    for words in (["--version"], ["train", "--version"], ["surgery", "fold", "--version"]):
        assert ended(words) == 0
        assert capsys.readouterr().out == f"caffe-fusion {fusion.__version__}\n"


def test_module() -> None:
    command = [sys.executable, "-m", "fusion", "rename", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("usage: fusion rename ")


def test_only_the_chosen_command_is_imported() -> None:
    code = """
import sys
from caffe_fusion_tools.commands import main
try: main(["rename", "--help"])
except SystemExit: print([name for name in sys.modules if name.startswith("caffe_fusion_tools.")])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ast.literal_eval(found.stdout.splitlines()[-1])
    assert not {"caffe_fusion_tools.train", "caffe_fusion_tools.show"} & set(modules)


def complete(script: str, words: str) -> list[str]:
    """Return the replies of bash to a tab after these words."""
    state = f"COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}"
    ask = state + '; _shtab_fusion; printf "%s\\n" "${COMPREPLY[@]}"'
    found = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    return found.stdout.split()


def test_completion(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert complete(script, "fusion tr") == ["train"]
    assert complete(script, "fusion train --early") == ["--early-stopping"]
    assert complete(script, "fusion surgery fo") == ["fold"]
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").touch()
    assert complete(script, "fusion show ne") == ["net.prototxt"]
    assert complete(script, "fusion train --solver ne") == ["net.prototxt"]


def test_completion_without_shtab(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert completion.main(["zsh"]) == 1
    assert capsys.readouterr().err == (
        "error: completion needs shtab\n  hint: pip install 'caffe-fusion[completion]'\n"
    )
