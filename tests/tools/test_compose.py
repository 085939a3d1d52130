from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from caffe_fusion_tools.compose import main

import prototxt

NET = Path(__file__).parents[2] / "examples" / "mnist_odd_even"


def arguments(*more: str) -> list[str]:
    nets = [f"--source={name}={NET / f'lenet_{name}_train_val.prototxt'}@ip1" for name in ("odd", "even")]
    return [*nets, "--num-output", "10", "-o", "fused", *more]


def test_writes_three_files_and_tells_its_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lists = ["--train-list", "t.txt", "--val-list", "v.txt", "--train-batch", "50", "--test-batch", "20"]
    classes = ["--classes", "odd=1,3,5,7,9", "--classes", "even=0,2,4,6,8"]
    pct = ["--pct", "focal,weight=0.5,temperature=1", "--pct", "naive"]
    schedule = ["--max-iter", "40", "--lr", "0.02", "--seed", "7"]
    assert main(arguments(*lists, *classes, *pct, *schedule, "--input-shape", "1,28,28")) == 0
    output = capsys.readouterr().out
    assert "wrote fused/deploy.prototxt" in output
    assert "reference: 'odd/ip2' scores classes 1,3,5,7,9" in output
    solver = prototxt.load_solver("fused/solver.prototxt")
    assert (solver.max_iter, solver.base_lr, solver.random_seed) == (40, pytest.approx(0.02), 7)
    focal = [layer for layer in prototxt.load_net("fused/train_val.prototxt").layer if layer.name == "focal_odd"]
    assert focal[0].pct_param.temperature == 1


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    classes = ["--classes", "odd=1,3,5,7,9", "--classes", "even=0,2,4,6,8", "--references"]
    more = ["--head", "gated", "--dry-run", "--input-shape", "1,28,28", "--data-from", "odd"]
    assert main(arguments(*classes, *more)) == 0
    output = capsys.readouterr().out
    assert "odd/ip1 [?x500]   odd/ip2 [?x5], classes 1,3,5,7,9" in output
    assert (
        "data [?x1x28x28] ─┬─ odd (6 layers) ──▶ odd/ip1 [?x500] ──┬─▶ gated ─▶ ip2 [?x10]\n"
        "                  │  └▶ odd/ip2 [?x5]                     │\n"
        "                  └─ even (6 layers) ─▶ even/ip1 [?x500] ─┘\n"
        "                     └▶ even/ip2 [?x5]\n"
    ) in output
    assert not list(tmp_path.iterdir())


def test_flags_as_a_file_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--head", "sum", "--lr", "0.02", "--train-list", "t.txt", "--val-list", "v.txt"]
    more += ["--pct", "focal,weight=0.5,temperature=1"]
    more += ["--classes", "odd=1,3,5,7,9", "--classes", "even=0,2,4,6,8", "--project", "9", "--batch-norm"]
    assert main(arguments(*more, "--write-toml", "fusion.toml", "--svg", "fused.svg")) == 0
    first = {path.name: path.read_text() for path in Path("fused").iterdir()}
    assert Path("fused.svg").read_text().lstrip().startswith(("<svg", "<?xml"))
    assert main(["fusion.toml"]) == 0
    assert {path.name: path.read_text() for path in Path("fused").iterdir()} == first
    assert main(["fusion.toml", "--head", "max", "-o", "other"]) == 0
    assert "operation: MAX" in Path("other/train_val.prototxt").read_text()


def test_a_job_composes_without_its_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    classes = ["--classes", "odd=1,3,5,7,9", "--classes", "even=0,2,4,6,8"]
    lists = ["--train-list", "t.txt", "--val-list", "v.txt"]
    assert main(arguments(*classes, *lists, "--pct", "naive", "--write-toml", "job.toml")) == 0
    Path("job.toml").write_text(Path("job.toml").read_text() + "[train]\nwarmup = 5\n[gate]\nmax_nfr = '1%'\n")
    assert main(["job.toml", "-o", "pct"]) == 0
    assert main(["job.toml", "--pct", "none", "-o", "plain"]) == 0
    assert "NaivePCTLoss" in Path("pct/train_val.prototxt").read_text()
    plain = Path("plain/train_val.prototxt").read_text()
    assert "NaivePCTLoss" not in plain
    assert "odd/ip2" not in plain


def test_what_must_be_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    nets = arguments()[:2]
    lists = ["--train-list", "t.txt", "--val-list", "v.txt"]
    assert main([]) == main([*nets, *lists, "--dry-run"]) == main([*nets, "--num-output", "3"]) == 1
    error = capsys.readouterr().err
    assert "there are no sources to fuse" in error
    assert "the number of classes is not given" in error
    assert "the output folder is missing" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--source", "third"], "expected PREFIX="),
        (["--classes", "third=1"], "--classes names no source: 'third'"),
        (["--share", "odd=much"], "--share much: 'much' is not a number"),
        (["--share", "od=2"], "--share names no source: 'od'"),
        (
            ["--classes", "odd=1,x", "--train-list", "t.txt", "--val-list", "v.txt"],
            "source 'odd': class '1' is given by name",
        ),
        (["--pct", "focal,weight"], "'weight' has no value"),
        (["--pct", "focal,weight=much"], "is not a number"),
        (["--source", "odd=other.prototxt"], "two sources have the prefix 'odd'"),
        (["--head", "concat_fc"], "there is no head"),
    ],
)
def test_bad_usage_is_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments(*more)) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_two_lenets_take_little_and_no_torch(tmp_path: Path) -> None:
    # VmHWM and not ru_maxrss: the latter starts from what the parent held when it forked.
    code = "import re, sys; from caffe_fusion_tools.compose import main; main(sys.argv[1:]); "
    code += "print('torch' in sys.modules, re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    command = [sys.executable, "-c", code, *arguments()]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    torch, peak = output.split()[-2:]
    assert torch == "False"
    assert int(peak) < 80 * 1024


def test_stages_of_the_command_count_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (NET / "lenet_odd_train_val.prototxt").read_text(encoding="utf-8")
    text = text.replace("phase: TRAIN", 'stage: "train"').replace("phase: TEST", 'stage: "val"')
    Path("net.prototxt").write_text(text)
    Path("fusion.toml").write_text('num_output = 5\noutput = "out"\n[[source]]\nprefix = "a"\nnet = "net.prototxt"\n')
    assert main(["fusion.toml"]) == 1
    assert "--stage train --stage val; it names train, val" in capsys.readouterr().err
    assert main(["fusion.toml", "--stage", "train", "--stage", "val", "--write-toml", "again.toml"]) == 0
    assert "source 'a': stages train (TRAIN), val (TEST)" in capsys.readouterr().out
    assert 'stages = ["train", "val"]' in Path("again.toml").read_text()
    assert main(["again.toml"]) == 0
    assert "stage" not in Path("out/train_val.prototxt").read_text()


def test_names_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from caffe_fusion_tools.merge import main as merge
    from caffe_fusion_tools.predict import main as predict
    from PIL import Image

    from fusion import build, save_weights

    monkeypatch.chdir(tmp_path)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    Path("names.txt").write_text("\n".join(names))
    shapes = {"data": (1, 1, 28, 28), "label": (1,)}
    nets = {name: NET / f"lenet_{name}_train_val.prototxt" for name in ("odd", "even")}
    for seed, (name, net) in enumerate(nets.items()):
        save_weights(build(net, phase="TEST", shapes=shapes, seed=seed), f"{name}.caffemodel")
    classes = ["--classes", "odd=1,3,5,7,9", "--classes", "even=0,2,4,6,8", "--references"]
    lists = ["--train-list", "t.txt", "--val-list", "v.txt", "--labels", "names.txt", "--input-shape", "1,28,28"]
    assert main(arguments(*classes, *lists)) == 0
    sources = [f"{name}={net}:{name}.caffemodel" for name, net in nets.items()]
    assert merge(["fused/train_val.prototxt", *sources, "-o", "fused.caffemodel"]) == 0
    Image.linear_gradient("L").resize((28, 28)).save("3.png")
    capsys.readouterr()
    outputs = [
        "--output-blob",
        "ip2",
        "--output-blob",
        "odd/ip2",
        "--output-blob",
        "even/ip2",
        "--top",
        "10",
        "--input-shape",
        "data=1,1,28,28",
    ]
    assert predict(["fused/train_val.prototxt", "fused.caffemodel", "3.png", *outputs, "--csv"]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]
    assert all(names[int(row[3])] == row[4] for row in rows)
    found = {
        output: sorted(int(row[3]) for row in rows if row[1] == output) for output in ("ip2", "odd/ip2", "even/ip2")
    }
    assert found == {"ip2": list(range(10)), "odd/ip2": [1, 3, 5, 7, 9], "even/ip2": [0, 2, 4, 6, 8]}
    alone = [str(nets["odd"]), "odd.caffemodel", "3.png", "--output-blob", "ip2", "--top", "1", "--csv"]
    assert (
        predict([*alone, "--input-shape", "data=1,1,28,28", "--labels", "names.txt", "--classes", "ip2=1,3,5,7,9"]) == 0
    )
    best = next(row for row in rows if row[1] == "odd/ip2")
    assert capsys.readouterr().out.splitlines()[1].split(",")[3:5] == best[3:5]
