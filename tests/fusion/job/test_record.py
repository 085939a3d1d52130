"""The record of done steps: a step runs again exactly when something that its result depends on has changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fusion.job.record import Record
from fusion.job.steps import Data, JobStep

STEP = JobStep("merge", "merge", ("a", "b"), inputs=("in.bin",), outputs=("out.bin",), depends="text")


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[JobStep], Record]:
    monkeypatch.chdir(tmp_path)
    Path("in.bin").write_bytes(b"input")

    def run(step: JobStep = STEP) -> Record:
        record = Record.read(".")
        record.begin(step, resume=False)
        for path in step.outputs:
            Path(path).write_bytes(b"output")
        record.end(step, 1.5)
        return Record.read(".")

    return run


def test_a_step_that_is_done_is_skipped(done: Callable[[], Record]) -> None:
    record = done()
    assert record.action(STEP) == "skip"
    assert record.steps["merge"].seconds == 1.5
    os.utime("in.bin", (1, 1))  # another time, the same bytes
    os.utime("out.bin", (1, 1))
    assert record.action(STEP) == "skip"


@pytest.mark.parametrize("path", ["in.bin", "out.bin"])
def test_one_byte_more_or_less_in_a_file_counts(path: str, done: Callable[[], Record]) -> None:
    record, before = done(), Path(path).read_bytes()
    Path(path).write_bytes(before[:-1] + b"x")
    os.utime(path, (1, 1))
    assert record.action(STEP) == "run"
    Path(path).write_bytes(before)
    assert record.action(STEP) == "skip"
    Path(path).unlink()
    assert record.action(STEP) == "run"


@pytest.mark.parametrize(
    "change", [{"words": ("a", "c")}, {"words": ("ab",)}, {"depends": "texT"}, {"command": "verify"}, {"inputs": ()}]
)
def test_another_command_line_or_text_counts(change: dict[str, object], done: Callable[[], Record]) -> None:
    assert done().action(replace(STEP, **change)) == "run"  # type: ignore[arg-type]


def test_weights_beside_a_file_belong_to_it(done: Callable[..., Record]) -> None:
    Path("net.onnx").write_bytes(b"net")
    Path("net.onnx.data").write_bytes(b"1")
    Path("w.caffemodel").write_bytes(b"w")
    Path("w.onnx.safetensors").write_bytes(b"1")
    step = replace(STEP, inputs=("net.onnx", "w.caffemodel"))
    record = done(step)
    for path in ("net.onnx.data", "w.onnx.safetensors"):
        Path(path).write_bytes(b"22")
        assert record.action(step) == "run"
        Path(path).write_bytes(b"1")
    assert record.action(step) == "skip"


def test_the_record_of_an_interrupted_step(done: Callable[..., Record]) -> None:
    training = replace(STEP, snapshots="fused")
    for name in ("fused_iter_9.solverstate", "fused_best.caffemodel", "fused2_iter_9.solverstate"):
        Path(name).write_bytes(b"")
    record = Record.read(".")
    record.begin(training, resume=False)
    # the snapshots of an earlier training, which --resume would continue, are gone
    assert sorted(path.name for path in Path().glob("fused*")) == ["fused2_iter_9.solverstate"]
    Path("fused_iter_3.solverstate").write_bytes(b"")
    assert Record.read(".").action(training) == "resume"
    assert Record.read(".").action(replace(training, words=("a",))) == "run"
    assert Record.read(".").action(replace(training, snapshots="")) == "run"
    record.begin(training, resume=True)
    assert Path("fused_iter_3.solverstate").exists()


def test_a_damaged_record_lets_all_steps_run(done: Callable[[], Record]) -> None:
    done()
    for text in ("", "[]", '{"steps": {"merge": {"kye": 1}}, "hashes": {}}', '{"steps": 1}'):
        Path("steps.json").write_text(text)
        assert Record.read(".").action(STEP) == "run"


def test_an_image_counts_by_its_size_and_time(job_folder: Callable[[], Path], done: Callable[..., Record]) -> None:
    job_folder()
    step = replace(STEP, data=(Data("low.prototxt", "TEST", "test.txt"),))
    record = done(step)
    assert record.action(step) == "skip"
    os.utime("val/00_0.png", (1, 1))
    os.utime("train/00_0.png", (1, 1))
    assert record.action(step) == "skip"
    os.utime("test/29_4.png", (1, 1))
    assert record.action(step) == "run"


@pytest.mark.parametrize(
    "content",
    [
        "{" * 5000,
        '{"steps": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"steps": {}, "hashes": {"a": [1, 2]}}',
        '{"steps": {}, "hashes": {"a": [1e999, 2, "h"]}}',
        '{"steps": {"merge": {"key": "k", "outputs": [], "seconds": 1}}, "hashes": {}}',
        '{"steps": {"merge": {"key": "k", "outputs": null, "seconds": {}}}, "hashes": {}}',
        '{"steps": {"merge": {"key": "k", "outputs": null, "seconds": 1, "more": 1}}, "hashes": {}}',
    ],
)
def test_a_damaged_record_is_an_empty_one(content: str, tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text(content)
    assert Record.read(str(tmp_path)) == Record(str(tmp_path))


def test_the_time_of_all_attempts_counts(done: Callable[..., Record]) -> None:
    record = done()
    record.begin(STEP, resume=True)
    assert (Record.read(".").steps["merge"].seconds, Record.read(".").steps["merge"].outputs) == (1.5, None)
    record.end(STEP, 2.0)
    assert Record.read(".").steps["merge"].seconds == 3.5
    record.begin(STEP, resume=False)
    assert Record.read(".").steps["merge"].seconds == 0.0


def test_snapshots_of_a_choice_are_removed_too(done: Callable[..., Record]) -> None:
    names = ["fused[1]_iter_9.solverstate", "fused[1]_best.caffemodel", "fused[1]_pct/kd.txt", "fused1_iter_9.h5"]
    Path("fused[1]_pct").mkdir()
    for name in names:
        Path(name).write_bytes(b"")
    record = Record.read(".")
    record.begin(STEP, resume=False)
    assert all(Path(name).exists() for name in names), "a step without snapshots removes none"
    record.begin(replace(STEP, snapshots="fused[1]"), resume=False)
    assert [name for name in names if Path(name).exists()] == ["fused1_iter_9.h5"]


def test_a_folder_counts_by_its_files(done: Callable[..., Record]) -> None:
    folder = Path("some[1]")
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    (folder / "b").mkdir()
    (folder / "b" / "c").write_bytes(b"1")
    step = replace(STEP, inputs=("some[1]",))
    record = done(step)
    assert record.action(step) == "skip"
    for path in (folder / "a", folder / "b" / "c"):
        os.utime(path, (1, 1))
        assert record.action(step) == "run"
        record = done(step)
        assert record.action(step) == "skip"


def test_a_file_is_read_again_only_when_its_size_or_time_has_changed(
    done: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusion.job import record as module

    record, read = done(), []
    monkeypatch.setattr(module, "file_hash", lambda path: read.append(path) or "hash")
    assert record.action(STEP) == "skip"
    assert read == []
    os.utime("in.bin", (1, 1))
    assert (record.action(STEP), read) == ("run", ["in.bin"])
    record.action(STEP)
    assert read == ["in.bin"]
    Path("in.bin").write_bytes(b"inputs")
    os.utime("in.bin", (1, 1))
    record.action(STEP)
    assert read == ["in.bin"] * 2


def test_the_records_of_the_phase_that_is_read_count(
    job_folder: Callable[[], Path], done: Callable[..., Record]
) -> None:
    job_folder()
    Path("low.prototxt").write_text(
        "".join(
            f'layer {{ name: "d" type: "ImageData" top: "data" top: "label" include {{ phase: {phase} }}\n'
            f'  image_data_param {{ source: "{name}.txt" batch_size: 5 }} }}\n'
            for phase, name in (("TRAIN", "train"), ("TEST", "val"))
        )
    )
    for phase, image, other in (
        ("TRAIN", "train/00_0.png", "val/00_0.png"),
        ("TEST", "val/00_0.png", "train/00_0.png"),
    ):
        step = replace(STEP, name=phase, data=(Data("low.prototxt", phase),))
        record = done(step)
        os.utime(other, (2, 2))
        assert record.action(step) == "skip"
        os.utime(image, (3, 3))
        assert record.action(step) == "run"
    absent = replace(STEP, data=(Data("absent.prototxt", "TEST"),))
    assert done(absent).action(absent) == "skip"
