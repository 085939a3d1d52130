"""ONNX files through the commands, as a person would fuse them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from caffe_fusion_tools import compose, export, merge, show, surgery, verify

from fusion.errors import MergeError
from fusion.merge.merge import apply_merge, plan_merge
from fusion.nets.build import build
from fusion.nets.weights import save_weights
from prototxt.schema.load import load_net

sys.path.insert(
    0, str(Path(__file__).parents[1] / "fusion" / "onnx" / "graphs")
)  # the helper of the tests of that room
from graphs import draw, model, node

pytest.importorskip("onnxruntime")
CAFFE = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.prototxt").write_text(CAFFE)
    save_weights(build("a.prototxt", seed=1), "a.caffemodel")
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("GlobalAveragePool", "r", "g"),
             node("Reshape", "g s", "f"), node("Gemm", "f k", "y", transB=1)]  # fmt: skip
    constants = {"w": draw(4, 3, 3, 3), "s": np.array([1, -1]), "k": draw(3, 4)}
    onnx.save(model(nodes, constants, shape=(1, 3, 8, 8)), "b.onnx")
    return tmp_path


def test_from_two_files_to_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = ["--train-list", "t.txt", "--val-list", "v.txt"]
    sources = ["--source", "a=a.prototxt", "--source", "b=b.onnx", "--pixels", "b=unit"]
    assert compose.main([*sources, *lists, "--num-output", "3", "-o", "fused"]) == 0
    out = capsys.readouterr().out
    assert "source 'b': cut at 'f', which its classifier reads" in out
    assert "source 'b': weights frozen: b/onnx" in out
    assert "data: there is no t.txt here yet" in out
    whole = ["fused/deploy.prototxt", "a=a.prototxt:a.caffemodel", "b=b.onnx"]
    assert merge.main([*whole, "-o", "init.caffemodel", "--verify"]) == 0
    out, err = capsys.readouterr()
    assert "b.onnx" in out
    assert "verified b: 1 blob agrees" in out
    assert Path("init.onnx.safetensors").is_file(), err
    assert "wrote init.caffemodel and init.onnx.safetensors: " in err
    assert verify.main(["fused/deploy.prototxt", "init.caffemodel", *whole[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    for opset in ("13", "17", "21"):
        command = ["fused/deploy.prototxt", "init.caffemodel", "-o", "fused.onnx", "--check", "--opset", opset]
        assert export.main(command) == 0
        assert "agree" in capsys.readouterr().out


def test_stripped_and_restored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = ["--train-list", "t.txt", "--val-list", "v.txt"]
    compose.main(["--source", "a=a.prototxt", "--source", "b=b.onnx", *lists, "--num-output", "3", "-o", "fused"])
    merge.main(["fused/deploy.prototxt", "a=a.caffemodel", "-o", "init.caffemodel"])
    assert surgery.main(["strip", "fused/deploy.prototxt", "init.caffemodel", "-o", "head"]) == 0
    assert surgery.main(["restore", "fused/deploy.prototxt", "head.caffemodel", "init.caffemodel", "-o", "again"]) == 0
    assert "wrote again.caffemodel and again.onnx.safetensors" in capsys.readouterr().err
    for name in ("caffemodel", "onnx.safetensors"):
        assert Path(f"again.{name}").read_bytes() == Path(f"init.{name}").read_bytes()


def test_an_onnx_file_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main(["b.onnx"]) == 0
    out = capsys.readouterr().out
    for part in ("input   x  Nx3x8x8", "cut     f", "  r  Nx4x6x6", "operators: all can be run", "is open"):
        assert part in out
    assert show.main(["b.onnx", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cut"] == "f"
    assert found["operators"]["Conv"] == {"count": 1, "reasons": []}
    onnx.save(model([node("Unique", "x", "y")]), "g.onnx")
    assert show.main(["g.onnx"]) == 0
    out = capsys.readouterr().out
    assert "operators: 1 cannot be run\n" in out
    assert "  Unique        1  no converter (y)\n" in out


def test_errors_are_one_line_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--source", "b=b.onnx@nothing", "--train-list", "t", "--val-list", "v", "--num-output", "3", "-o", "f"]
    assert compose.main(common) == 1
    assert "b.onnx: source 'b': cut blob 'nothing': there is no value 'nothing'" in capsys.readouterr().err
    assert compose.main([*common[:1], "b=b.onnx", *common[2:], "--pixels", "c=unit"]) == 1
    assert "--pixels names no source: 'c'" in capsys.readouterr().err
    assert not Path("f").exists()


def lenet(seed: int) -> onnx.ModelProto:
    """The tutorial's LeNet with weights of its own."""
    shapes = {"w1": (20, 1, 5, 5), "b1": (20,), "w2": (50, 20, 5, 5), "b2": (50,), "w3": (500, 800), "b3": (500,),
              "w4": (10, 500), "b4": (10,)}  # fmt: skip
    constants = {name: draw(*shape, seed=seed) / np.prod(shape[1:]) ** 0.5 for name, shape in shapes.items()}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [node("Conv", "x w1 b1", "c1"), node("MaxPool", "c1", "p1", **pool),
             node("Conv", "p1 w2 b2", "c2"), node("MaxPool", "c2", "p2", **pool), node("Flatten", "p2", "f"),
             node("Gemm", "f w3 b3", "ip1", transB=1), node("Relu", "ip1", "r"),
             node("Gemm", "r w4 b4", "ip2", transB=1)]  # fmt: skip
    return model(nodes, constants, shape=(1, 1, 28, 28), outputs=("ip2",))


@pytest.mark.parametrize("given", ["folds/*.onnx", "folds", "fusion.toml"])
def test_five_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
                    ) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("folds").mkdir()
    for seed in range(5):
        onnx.save(lenet(seed), f"folds/{seed + 7}.onnx")  # 7 to 11: their order is that of numbers
    net = "folds" if given.endswith(".toml") else given
    lists = ["--train-list", "t.txt", "--val-list", "v.txt", "--input-shape", "1,28,28"]
    command = ["--source", f"fold={net}", *lists, "--num-output", "10", "--write-toml", "fusion.toml", "-o", "fused"]
    assert compose.main(command) == 0
    assert "source 'fold5': cut at 'r', which its classifier reads" in capsys.readouterr().out
    sources = [given if given.endswith(".toml") else f"fold={given}"]
    assert merge.main(["fused/train_val.prototxt", *sources, "-o", "init.caffemodel"]) == 0
    assert "folds/11.onnx" in capsys.readouterr().out.splitlines()[6]
    assert verify.main(["fused/deploy.prototxt", "init.caffemodel", *sources, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in found] == [f"fold{number}" for number in range(1, 6)]
    assert all(item["agrees"] and len(item["blobs"]) == 1 for item in found)
    assert len({item["blobs"][0]["absolute"] for item in found}) > 1


def test_a_file_that_was_written_anew_is_not_merged(folder: Path) -> None:
    lists = ["--train-list", "t.txt", "--val-list", "v.txt"]
    assert compose.main(["--source", "b=b.onnx", *lists, "--num-output", "3", "-o", "fused"]) == 0
    plan = plan_merge(load_net("fused/deploy.prototxt"), {"b": "b.onnx"})
    nodes = [node("Conv", "x w", "r"), node("GlobalAveragePool", "r", "g"), node("Flatten", "g", "f"),
             node("Gemm", "f k", "y", transB=1)]  # fmt: skip
    onnx.save(model(nodes, {"w": draw(5, 3, 3, 3), "k": draw(3, 5)}, shape=(1, 3, 8, 8)), "b.onnx")
    with pytest.raises(MergeError, match=r"b.onnx: its weight 'w' has changed since the merge was planned"):
        apply_merge(plan, "init.caffemodel")
    assert not list(folder.glob("init*"))


# A child's peak counts from what its parent had: a small process in between.
PEAK = """import resource, subprocess, sys
subprocess.run([sys.executable, "-m", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    peaks = {}
    for rows in (64, 65536):
        nodes = [node("Flatten", "x", "f"), node("Gemm", "f w", "h", transB=1), node("Gemm", "h v", "y")]
        onnx.save(model(nodes, {"w": draw(rows, 192), "v": draw(rows, 3)}), f"{rows}.onnx")
        lists = ["--train-list", "t", "--val-list", "v", "--num-output", "3"]
        assert compose.main(["--source", f"b={rows}.onnx", *lists, "-o", f"{rows}"]) == 0
        command = ["caffe_fusion_tools.merge", f"{rows}/deploy.prototxt", f"b={rows}.onnx", "-o", f"{rows}.caffemodel"]
        done = subprocess.run([sys.executable, "-c", PEAK, *command], capture_output=True, text=True, check=True)
        peaks[rows] = int(done.stdout) / 1024
    assert Path("65536.onnx").stat().st_size > 48e6
    assert peaks[65536] < peaks[64] + 16, peaks
