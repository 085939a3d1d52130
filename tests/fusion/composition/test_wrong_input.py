"""Kinds of wrong input to composing, merging and surgery: each is one message to act on, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from caffe_fusion_tools import compose, merge, surgery

from prototxt.formats.weights import write_weights

Make = Callable[..., Path]


@dataclass(frozen=True)
class Wrong:
    """A command line, what its message holds, and what the hint under it holds."""

    command: str
    says: str
    hint: str


PAIR = "--source a=a.prototxt@fc --source b=b.prototxt@fc --num-output 3 -o out"
MERGE = "fused.prototxt a=a.prototxt:a.caffemodel b=b.caffemodel -o out/init.caffemodel"
COMPOSE = {
    "no source": Wrong("--num-output 3 -o out", "there are no sources to fuse", "--source odd="),
    "missing file": Wrong(
        f"{PAIR} --source c=none.prototxt", "there is no file none.prototxt", "relative to the working"
    ),
    "not a net": Wrong(f"{PAIR} --source c=list.txt", "list.txt:1:", ""),
    "binary instead of text": Wrong(f"{PAIR} --source c=a.caffemodel", "this is a caffemodel", ".prototxt"),
    "empty net": Wrong(f"{PAIR} --source c=empty.prototxt", "this is no net", ""),
    "cut misspelt": Wrong(
        f"{PAIR} --source c=a.prototxt@cnov", "there is no blob 'cnov'", "did you mean 'conv'? cut at one"
    ),
    "cut at an input": Wrong(f"{PAIR} --source c=a.prototxt@data", "'data' is an input", "cut at one of"),
    "cut at a loss": Wrong(f"{PAIR} --source c=a.prototxt@loss", "is a loss or a metric", "cut at one of"),
    "prefix twice": Wrong(f"{PAIR} --source a=b.prototxt", "two sources have the prefix 'a'", "under two prefixes"),
    "prefix within another": Wrong(f"{PAIR} --source a/x=b.prototxt", "begins another source's prefix", "rename one"),
    "no prefix": Wrong("--source a.prototxt --num-output 3 -o out", "expected PREFIX=", "e.g. --source odd="),
    "unknown head": Wrong(f"{PAIR} --head concat", "there is no head 'concat'", "one of concat-fc"),
    "classes that do not fit": Wrong(
        f"{PAIR} --references --classes a=0,1", "given 2 classes, but scores 3", "name 3 classes"
    ),
    "class outside": Wrong(f"{PAIR} --references --classes a=0,1,7", "class 7 is not among", "classes count from 0"),
    "scores that nobody has": Wrong(
        f"{PAIR} --head logits --num-output 5 --classes a=0,1,2 --classes b=0,1,2",
        "no source knows these classes: 3, 4",
        "--classes",
    ),
    "zero-init from a part": Wrong(
        f"{PAIR} --head zero-init --num-output 5 --classes a=0,1,2 --classes b=0,1,2",
        "must be those of all 5 classes",
        "first",
    ),
    "projection of nothing": Wrong(f"{PAIR} --head logits --project 4", "trains nothing", "omit --project"),
    "unknown maps": Wrong(f"{PAIR} --maps crop", "maps cannot be joined by 'crop'", "one of pool"),
    "unknown loss": Wrong(f"{PAIR} --pct focus", "there is no loss 'focus'", "one of kd"),
    "unknown option of a loss": Wrong(f"{PAIR} --pct kd,alhpa=1", "no option 'alhpa'", "one of weight"),
    "data from nobody": Wrong(f"{PAIR} --data-from z", "data_from names no source: 'z'", "one of a, b"),
    "no data at all": Wrong(
        "--source a=nine.prototxt@fc --num-output 3 -o out", "no source has a data layer", "--train-list"
    ),
    "pictures of another size": Wrong(f"{PAIR} --source c=nine.prototxt@fc", "takes images of 1x9x9", "train_val"),
    "no such fold": Wrong(f"{PAIR} --source c=none/*.prototxt", "no file matches none/*.prototxt", "quote the pattern"),
    "bad TOML": Wrong("bad.toml", "there is no key 'haed'", "did you mean 'head'?"),
    "unknown policy": Wrong(f"{PAIR} --lr-policy slow", "there is no lr_policy 'slow'", "one of fixed"),
    "misspelt type": Wrong(f"{PAIR} --source c=typo.prototxt@fc", "Convolutoin", "did you mean 'Convolution'"),
}
MERGING = {
    "weights missing": Wrong(
        MERGE.replace("b.caffemodel", "none.caffemodel"), "none.caffemodel: there is no such file", "check the path"
    ),
    "text instead of weights": Wrong(MERGE.replace("b.caffemodel", "list.txt"), "list.txt", ""),
    "cut-off weights": Wrong(MERGE.replace("b.caffemodel", "short.caffemodel"), "short.caffemodel", ""),
    "forgotten source": Wrong(MERGE.replace("b=b.caffemodel", ""), "no source has the prefix 'b'", "add b=WEIGHTS"),
    "wrong prefix": Wrong(
        MERGE.replace("-o", "c=a.caffemodel -o"),
        "no layer of the fused net begins with 'c/'",
        "the prefixes in it are a, b",
    ),
    "other shapes": Wrong(
        MERGE.replace("b.caffemodel", "wide.caffemodel"), "needs blobs of shape", "--allow-missing b/fc"
    ),
    "layer not there": Wrong(
        MERGE.replace("b.caffemodel", "part.caffemodel"), "has no layer 'fc'", "--allow-missing b/fc"
    ),
    "misspelt permission": Wrong(
        f"{MERGE} --allow-missing b/fx", "the fused net has no such layer", "did you mean 'b/fc'?"
    ),
    "weights read in another way": Wrong(
        MERGE.replace("a.prototxt:", "turned.prototxt:"), "transpose is false, and true", "the same setting"
    ),
    "unknown format": Wrong(MERGE.replace("init.caffemodel", "init.npz"), "init.npz", ".caffemodel"),
}
SURGERY = {
    "no such layer": Wrong(
        "head a.prototxt a.caffemodel --drop fc9 -o out/x", "no layer's name matches 'fc9'", "the layers are"
    ),
    "no regular expression": Wrong(
        "head a.prototxt a.caffemodel --drop ( -o out/x", "is no regular expression", "e.g."
    ),
    "no filler": Wrong("head a.prototxt a.caffemodel --drop fc --reinit xaviar -o out/x", "xaviar", "did you mean"),
    "phases": Wrong("fold a.prototxt a.caffemodel -o out/x", "with phases cannot be folded", "--deploy"),
    "nothing frozen": Wrong("strip a.prototxt a.caffemodel -o out/x", "is frozen", "lr_mult 0"),
    "nets of two shapes": Wrong(
        "average a.caffemodel wide.caffemodel -o out/x", "layer 'fc': net 1 has blobs", "one architecture"
    ),
    "shares that do not fit": Wrong(
        "average a.caffemodel b.caffemodel --share 1 -o out/x", "for 2 nets", "one per net"
    ),
    "beyond the nets": Wrong(
        "interpolate a.prototxt a.caffemodel b.caffemodel --share 2 -o out/x", "not between 0 and 1", "0 is"
    ),
    "nothing to bake": Wrong(
        "bake nine.prototxt a.caffemodel -o out/x", "there is no layer to bake", "deploy the net as it is"
    ),
    "no such branch": Wrong(
        "group out.prototxt a.caffemodel --branches a z -o out/x", "begins with 'z/'", "the prefixes are a, b"
    ),
}
DEPLOY = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 9 dim: 9 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 6 } }
layer { name: "classes" type: "InnerProduct" bottom: "fc" top: "classes" inner_product_param { num_output: 3 } }
layer { name: "prob" type: "Softmax" bottom: "classes" top: "prob" }
"""


@pytest.fixture
def folder(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nets with weights and their fused net; and files that are wrong in one way each."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        make(name)
        write_weights(f"{name}.caffemodel", weights(seed))
    write_weights("wide.caffemodel", {**weights(3), "fc": [np.ones((7, 72), np.float32), np.ones(7, np.float32)]})
    write_weights("part.caffemodel", {name: blobs for name, blobs in weights(4).items() if name != "fc"})
    Path("short.caffemodel").write_bytes(Path("a.caffemodel").read_bytes()[:-99])
    Path("list.txt").write_text("a.png 0\nb.png 1\n")
    Path("empty.prototxt").write_text('name: "empty"\n')
    Path("nine.prototxt").write_text(DEPLOY)
    Path("typo.prototxt").write_text(Path("a.prototxt").read_text().replace('"Convolution"', '"Convolutoin"'))
    turned = "inner_product_param { transpose: true num_output: 6 }"
    Path("turned.prototxt").write_text(
        Path("a.prototxt").read_text().replace("inner_product_param { num_output: 6 }", turned)
    )
    Path("bad.toml").write_text('haed = "sum"\n')
    assert compose.main([*PAIR.split()[:-2], "-o", "."]) == 0
    Path("train_val.prototxt").rename("fused.prototxt")
    Path("deploy.prototxt").rename("out.prototxt")
    return tmp_path


def weights(seed: int) -> dict[str, list[np.ndarray]]:
    random = np.random.default_rng(seed)
    shapes = {"conv": [(2, 1, 3, 3), (2,)], "fc": [(6, 72), (6,)], "classes": [(3, 6), (3,)]}
    return {name: [random.normal(0, 1, size).astype(np.float32) for size in sizes] for name, sizes in shapes.items()}


CASES = [
    pytest.param(main, wrong, id=f"{name}: {kind}")
    for name, main, kinds in (
        ("compose", compose.main, COMPOSE),
        ("merge", merge.main, MERGING),
        ("surgery", surgery.main, SURGERY),
    )
    for kind, wrong in kinds.items()
]


@pytest.mark.parametrize(("main", "wrong"), CASES)
def test_wrong_input_is_one_message_to_act_on(
    folder: Path, capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], wrong: Wrong
) -> None:
    before = sorted(folder.iterdir())
    capsys.readouterr()
    assert main(wrong.command.split()) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert "Traceback" not in err + out
    assert wrong.says in err
    assert wrong.hint in err.partition("hint: ")[2]
    assert sorted(folder.iterdir()) == before
