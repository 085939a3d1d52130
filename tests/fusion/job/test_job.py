"""The plan of a job: its steps as command lines, from the file's keys, and the errors that stop it before the first."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from caffe_fusion_tools.commands import MODULES

from fusion import ComposeError, ReportError
from fusion.job.job import Job, plan_job
from fusion.job.steps import Data, JobStep

JobFile = Callable[..., Path]
TEST = "--list test.txt"
PCT = '[[pct]]\nkind = "kd"\nweight = 0.5\n'


def parser_of(command: str) -> argparse.ArgumentParser:
    result: argparse.ArgumentParser = import_module(f"caffe_fusion_tools.{MODULES[command]}").parser()
    return result


def planned(path: Path) -> Job:
    return plan_job(str(path), parser_of)


def lines(job: Job) -> dict[str, str]:
    return {step.name: " ".join([step.command, *step.words]) for step in job.steps}


def test_the_steps_of_a_whole_job(job_folder: JobFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.job.steps.find_spec", lambda name: None)
    job = planned(job_folder())
    assert job.notes == ()
    init = "--weights out/init.caffemodel"
    assert lines(job) == {
        "compose-plain": "compose job.toml --pct none --seed 1 --snapshot 4 -o out/plain",
        "compose-pct": "compose job.toml --seed 1 --snapshot 4 -o out/pct",
        "merge": "merge out/pct/train_val.prototxt job.toml -o out/init.caffemodel",
        "verify": "verify out/pct/train_val.prototxt out/init.caffemodel job.toml",
        "original-low": f"test --model out/pct/train_val.prototxt {init} {TEST} --logits low/ip2 --name low "
        "--predictions out/low.npz",
        "original-high": f"test --model out/pct/train_val.prototxt {init} {TEST} --logits high/ip2 --name high "
        "--predictions out/high.npz",
        "train-plain": f"train --solver out/plain/solver.prototxt {init} --log out/plain/train.log --keep 1",
        "test-plain": f"test --model out/plain/train_val.prototxt --weights out/plain/fused_iter_40.caffemodel {TEST} "
        "--logits ip2 --name fused-plain --predictions out/plain/predictions.npz",
        "train-pct": f"train --solver out/pct/solver.prototxt {init} --log out/pct/train.log --keep 1",
        "test-pct": f"test --model out/pct/train_val.prototxt --weights out/pct/fused_iter_40.caffemodel {TEST} "
        "--logits ip2 --name fused-pct --predictions out/pct/predictions.npz",
        "report": "report --old out/low.npz out/high.npz --new out/pct/predictions.npz --baseline "
        "out/plain/predictions.npz --html out/report.html --write-json out/report.json "
        "--log plain=out/plain/train.log pct=out/pct/train.log",
        "deploy": "merge out/pct/deploy.prototxt =out/pct/fused_iter_40.caffemodel -o out/pct/deploy.caffemodel",
        "export": "export out/pct/deploy.prototxt out/pct/deploy.caffemodel -o out/pct/deploy.onnx",
    }


def test_tables_go_to_their_commands(job_folder: JobFile) -> None:
    more = """[merge]
seed = 3
[train]
keep = 2
best_on = 0.2
[test]
device = "cpu"
[report]
title = "Low and high"
[gate]
max_nfr = "5%"
[export]
opset = 13
check = false
"""
    found = lines(planned(job_folder(more)))
    assert found["merge"].endswith(" --seed 3")
    assert "--seed" not in found["deploy"]
    assert found["train-pct"].endswith("--log out/pct/train.log --keep 2 --best-on 0.2")
    assert "--weights out/pct/fused_best.caffemodel" in found["test-pct"]
    assert all(found[name].endswith(" --device cpu") for name in ("original-low", "test-plain"))
    assert found["report"].endswith(" --budget job.toml --title Low and high")
    assert found["export"].endswith("deploy.onnx --opset 13")


def test_steps_can_be_left_out(job_folder: JobFile) -> None:
    path = job_folder()
    path.write_text("plain = false\nverify = false\nreport = false\nexport = false\n" + path.read_text())
    found = lines(planned(path))
    assert list(found) == ["compose-pct", "merge", "train-pct", "test-pct"]
    assert "--predictions" not in found["test-pct"]


def test_a_file_without_losses_is_trained_plainly_and_compared_all_the_same(job_folder: JobFile) -> None:
    path = job_folder()
    text = path.read_text()
    path.write_text(text.replace(PCT, "").replace('test_list = "test.txt"\n', ""))
    job = planned(path)
    found = lines(job)
    assert found["compose-plain"] == "compose job.toml --references --seed 1 --snapshot 4 -o out/plain"
    assert [name for name in found if "pct" in name] == []
    assert "--old out/low.npz out/high.npz --new out/plain/predictions.npz --html" in found["report"]
    assert len(job.notes) == 1
    assert "no test_list in [data]" in job.notes[0]
    assert "--list" not in found["test-plain"]


def test_a_share_is_kept_back_where_no_images_are_for_validation(job_folder: JobFile) -> None:
    path = job_folder()
    path.write_text(path.read_text().replace('val_list = "val.txt"\n', ""))
    job = planned(path)
    assert [step.words[1:-2] for step in job.steps[:2]] == [
        ("--pct", "none", "--seed", "1", "--snapshot", "4", "--val-share", "0.1"),
        ("--seed", "1", "--snapshot", "4", "--val-share", "0.1"),
    ]
    assert job.steps[1].outputs[-2:] == ("out/pct/train_list.txt", "out/pct/val_list.txt")
    assert job.notes == ("no val_list in [data]: 10% of the training images are kept back for it",)
    Path("train.txt").write_text(Path("train.txt").read_text() + "val/00_0.png 0\n")
    assert planned(path).steps[1].depends != job.steps[1].depends
    path.write_text(path.read_text().replace("[data]\n", "[data]\nval_share = 0.2\n"))
    assert planned(path).notes == ()


def test_losses_chosen_automatically_get_the_originals_as_references(job_folder: JobFile) -> None:
    path = job_folder()
    path.write_text('pct = "auto,kind=kd"\n' + path.read_text().replace(PCT, ""))
    found = lines(planned(path))
    assert found["train-pct"].endswith(
        "--reference @low/ip2,classes=0-2 --reference @high/ip2,classes=3,4 --pct auto,kind=kd --keep 1"
    )
    assert "--pct" not in found["train-plain"]


def test_settings_of_the_solver_win_over_those_of_the_job(job_folder: JobFile) -> None:
    more = "snapshot = 7\nrandom_seed = 9\nsnapshot_format = 'HDF5'\n"
    found = lines(planned(job_folder(more)))
    assert found["compose-pct"] == "compose job.toml -o out/pct"
    assert found["train-pct"].endswith("--log out/pct/train.log")
    assert "--weights out/pct/fused_iter_40.caffemodel.h5" in found["test-pct"]


def test_a_step_is_found_by_its_name_or_its_command(job_folder: JobFile) -> None:
    job = planned(job_folder())
    assert [job.position(name) for name in ("compose-plain", "train", "train-pct", "report")] == [0, 6, 8, 10]
    with pytest.raises(ComposeError, match=r"did you mean 'train-pct'\? one of compose-plain, compose-pct, "):
        job.position("train-ptc")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("base_lr", "base_rl", r"job.toml:27: there is no key 'solver.base_rl'\n  hint: did you mean 'base_lr'\?"),
        ("[[pct]]", "[train]\nwarmpu = 3\n[[pct]]",
         r"job.toml:22: there is no key 'train.warmpu'\n  hint: did you mean 'warmup'\?"),
        ("[[pct]]", "[train]\nwarmup = -3\n[[pct]]", "step train-plain: argument --warmup: '-3' is not a whole number"),
        ('weights = "low.caffemodel"\n', "", r"source 'low' has no weights\n  hint: add weights"),
        ('weights = "low', 'weights = "slow', "slow.caffemodel: there is no such file"),
        ('net = "low', 'net = "slow', "there is no file slow.prototxt"),
        ('"test.txt"', '"tset.txt"', "job.toml:19: there is no tset.txt"),
        ("classes = [3, 4]", "classes = [3]", "is given 1 classes, but scores 2"),
        ("[[pct]]", "[gate]\nmax_nrf = 1\n[[pct]]", r"no such limit\n  hint: did you mean 'max_nfr'\?"),
        ("[[pct]]", "[gate]\nmax_nfr = '3'\n[[pct]]", "max_nfr: 3 is not between 0 and 1"),
    ],
)  # fmt: skip
def test_mistakes_stop_a_job_before_its_first_step(old: str, new: str, says: str, job_folder: JobFile) -> None:
    path = job_folder()
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises((ComposeError, ReportError)) as caught:
        planned(path)
    assert re.search(says, str(caught.value)), str(caught.value)
    assert not Path("out").exists()


def test_a_gate_that_nothing_checks_is_refused(job_folder: JobFile) -> None:
    path = job_folder("[gate]\nmax_nfr = '1%'\n")
    text = path.read_text()
    values = 'loss = "EuclideanLoss,label=label"\n' + text.replace(PCT, "").replace("num_output = 5", "num_output = 1")
    for other in ("report = false\n" + text, values):
        path.write_text(other)
        with pytest.raises(ComposeError, match="without a report nothing checks them"):
            planned(path)


def test_a_net_of_values_is_measured_without_a_report(job_folder: JobFile) -> None:
    path = job_folder()
    text = path.read_text().replace(PCT, "").replace("num_output = 5", "num_output = 1")
    path.write_text('loss = "EuclideanLoss,label=label"\n' + text)
    job = planned(path)
    assert job.notes == ("no report: the loss is EuclideanLoss against label, and flips are of classes",)
    assert [step.name for step in job.steps] == [
        *("compose-plain", "merge", "verify", "train-plain", "test-plain", "deploy", "export"),
    ]
    assert "--predictions" not in job.steps[4].words


def test_an_ensemble_has_nothing_to_train(job_folder: JobFile) -> None:
    path = job_folder()
    text = path.read_text().replace(PCT, "")
    path.write_text('head = "probs"\n' + text)
    found = lines(planned(path))
    assert "train-plain" not in found
    assert "--weights out/init.caffemodel" in found["test-plain"]
    assert "--log" not in found["report"]
    path.write_text('head = "probs"\n' + text + "[train]\nthaw = 'ip1'\n")
    assert "--thaw ip1" in lines(planned(path))["train-plain"]


def test_the_files_that_steps_read_and_write(job_folder: JobFile) -> None:
    job = planned(job_folder())
    nets = [f"out/{name}/train_val.prototxt" for name in ("plain", "pct")]
    sources = ["low.prototxt", "low.caffemodel", "high.prototxt", "high.caffemodel"]
    init, weights = "out/init.caffemodel", [f"out/{name}/fused_iter_40.caffemodel" for name in ("plain", "pct")]
    answers = [f"out/{name}/predictions.npz" for name in ("plain", "pct")]
    logs = [f"out/{name}/train.log" for name in ("plain", "pct")]
    old = ["out/low.npz", "out/high.npz"]
    expected: dict[str, tuple[list[str], list[str]]] = {
        "merge": ([nets[1], *sources], [init]),
        "verify": ([nets[1], *sources, init], []),
        "original-low": ([nets[1], init], old[:1]),
        "original-high": ([nets[1], init], old[1:]),
        "report": ([*old, *answers, *logs], ["out/report.html", "out/report.json"]),
        "deploy": (["out/pct/deploy.prototxt", weights[1]], ["out/pct/deploy.caffemodel"]),
        "export": (["out/pct/deploy.prototxt", "out/pct/deploy.caffemodel"], ["out/pct/deploy.onnx"]),
    }
    for number, name in enumerate(("plain", "pct")):
        files = [f"out/{name}/{part}.prototxt" for part in ("train_val", "deploy", "solver")]
        expected[f"compose-{name}"] = ([], files)
        expected[f"train-{name}"] = ([files[2], nets[number], init], [weights[number], logs[number]])
        expected[f"test-{name}"] = ([nets[number], weights[number]], [answers[number]])
    assert {step.name: (list(step.inputs), list(step.outputs)) for step in job.steps} == expected
    assert {step.name: step.data for step in job.steps if step.data} == {
        **{f"original-{name}": (Data(nets[1], "TEST", "test.txt"),) for name in ("low", "high")},
        **{f"train-{name}": (Data(net, "TRAIN"), Data(net, "TEST"))
           for name, net in zip(("plain", "pct"), nets, strict=True)},
        **{f"test-{name}": (Data(net, "TEST", "test.txt"),) for name, net in zip(("plain", "pct"), nets, strict=True)},
    }  # fmt: skip
    assert {step.name: step.snapshots for step in job.steps if step.snapshots} == {
        f"train-{name}": f"out/{name}/fused" for name in ("plain", "pct")
    }
    assert [step.name for step in job.steps if step.depends] == ["compose-plain", "compose-pct", "report"]


def test_another_folder_and_the_files_name(job_folder: JobFile) -> None:
    path = job_folder()
    assert plan_job(str(path), parser_of, "there").steps[2].outputs == ("there/init.caffemodel",)
    path.write_text(path.read_text().replace('output = "out"', ""))
    assert planned(path).output == "job"


@pytest.mark.parametrize(
    ("more", "compose", "train"),
    [
        ("max_iter = 5\n", "--seed 1 --snapshot 1", "--keep 1"),
        ("max_iter = 109\n", "--seed 1 --snapshot 10", "--keep 1"),
        ("[train]\nkeep = 3\n", "--seed 1 --snapshot 4", "--keep 3"),
        ("[train]\nsnapshot_epochs = 2\n", "--seed 1", "--snapshot-epochs 2"),
        ("snapshot = 7\n[train]\nkeep = 3\n", "--seed 1", "--keep 3"),
    ],
)
def test_how_often_a_snapshot_is_taken(more: str, compose: str, train: str, job_folder: JobFile) -> None:
    path = job_folder()
    text = path.read_text()
    path.write_text((text.replace("max_iter = 40\n", "") if "max_iter" in more else text) + more)
    found = lines(planned(path))
    assert found["compose-pct"] == f"compose job.toml {compose} -o out/pct"
    assert found["train-pct"].endswith(f"--log out/pct/train.log {train}")


def test_without_losses_the_plain_net_is_trained_whatever_the_file_says(job_folder: JobFile) -> None:
    path = job_folder()
    path.write_text("plain = false\n" + path.read_text().replace(PCT, ""))
    found = lines(planned(path))
    assert [name for name in found if name.startswith("train")] == ["train-plain"]
    assert "--baseline" not in found["report"]


def test_images_of_the_report_are_found_below_their_root(job_folder: JobFile) -> None:
    for name in ("low", "high"):
        text = Path(f"{name}.prototxt").read_text()
        Path(f"{name}.prototxt").write_text(text.replace("image_data_param {", 'image_data_param { root_folder: "./"'))
    assert "--root ./" in lines(planned(job_folder()))["report"]
    text = Path("low.prototxt").read_text()
    Path("low.prototxt").write_text(text.replace("image_data_param {", "of_a_fork: 1 image_data_param {"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "--root ./" in lines(planned(job_folder()))["report"]
    Path("low.prototxt").write_text(text)
    found = lines(planned(job_folder('[report]\nroot = "there"\n')))
    assert found["report"].endswith(" --root there")
    assert found["report"].count("--root") == 1
    path = job_folder()
    path.write_text(path.read_text().replace('"test.txt"', '"photos"'))
    for number in range(5):
        Path(f"photos/{number}").mkdir(parents=True)
        Path(f"photos/{number}/a.png").write_bytes(next(Path("test").glob(f"*_{number}.png")).read_bytes())
    assert "--root" not in lines(planned(path))["report"], "the names of a folder's images have it already"


def test_an_export_is_checked_where_it_can_be(job_folder: JobFile, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("fusion.job.steps.find_spec", lambda name: asked.append(name) or True)
    assert lines(planned(job_folder()))["export"].endswith("deploy.onnx --check")
    assert asked == ["onnxruntime"]
    assert lines(planned(job_folder("[export]\ncheck = true\n")))["export"].count("--check") == 1


def test_names_of_sources_become_names_of_files(job_folder: JobFile) -> None:
    path = job_folder()
    path.write_text(path.read_text().replace('"low"', '"a/low"'))
    assert "--name a/low --predictions out/a%2Flow.npz" in lines(planned(path))["original-a/low"]


def test_a_step_is_told_before_its_command(job_folder: JobFile) -> None:
    job = Job("out", tuple(JobStep(name, command, ()) for name, command in (("b", "a"), ("a", "c"), ("c", "a"))))
    assert [job.position(name) for name in ("a", "b", "c")] == [0, 0, 1]
