"""What the tests of the commands share: how a command says no, two nets to fuse, a net to train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prototxt.formats.weights import write_weights

Main = Callable[[list[str]], int]
FUSED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 6 } } }
layer { name: "odd/ip" type: "InnerProduct" bottom: "data" top: "odd/ip" inner_product_param { num_output: 4 } }
layer { name: "fc" type: "InnerProduct" bottom: "odd/ip" top: "fc"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[Main, list[str], str], str]:
    """Checks that a command cannot do what is asked: it ends with 1 and one message. Returns what is on stdout."""

    def check(main: Main, arguments: list[str], says: str) -> str:
        capsys.readouterr()
        assert main(arguments) == 1
        out, err = capsys.readouterr()
        assert err.startswith("error: ")
        assert says in err
        assert "Traceback" not in err
        return out

    return check


@pytest.fixture
def misused(capsys: pytest.CaptureFixture[str]) -> Callable[[Main, list[str], str], None]:
    """Checks that a command does not take its arguments: it ends with 2, its usage and a message."""

    def check(main: Main, arguments: list[str], says: str = "") -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("usage: fusion-")
        assert says in err

    return check


@pytest.fixture
def fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a fused net and its one source, whose weights are 0 to 23."""
    monkeypatch.chdir(tmp_path)
    Path("fused.prototxt").write_text(FUSED)
    Path("odd.prototxt").write_text(FUSED[: FUSED.index('layer { name: "fc"')].replace("odd/", ""))
    write_weights("odd.caffemodel", {"ip": [np.arange(24.0).reshape(4, 6), np.zeros(4)]})
    return tmp_path


@pytest.fixture
def to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, int], None]:
    """Makes a working directory with a net, its solver and as many records of 4 numbers and one of 3 labels."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)

    def write(net: str, solver: str, records: int) -> None:
        rng = np.random.default_rng(0)
        with h5py.File("data.h5", "w") as file:
            file["data"] = rng.standard_normal((records, 4)).astype(np.float32)
            file["label"] = (np.arange(records) % 3).astype(np.float32)
        Path("list.txt").write_text("data.h5\n")
        Path("net.prototxt").write_text(net)
        Path("solver.prototxt").write_text(solver)

    return write
