"""The settings of a whole process: device, seed, log, layer types."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import fusion.pycaffe as caffe
from fusion.pycaffe import mode


@pytest.mark.filterwarnings("default")
def test_a_missing_gpu_is_reported_once_and_the_cpu_used(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(mode._mode, "warned", False)
    caffe.set_mode_gpu()
    caffe.set_mode_gpu()
    assert [("no CUDA device" in str(found.message)) for found in recwarn] == [True]
    assert mode.device_name() == "cpu"


def test_the_gpu_is_the_chosen_one_until_the_cpu_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(mode._mode, "device", 0)
    caffe.set_device(1)
    caffe.set_mode_gpu()
    assert mode.device_name() == "cuda:1"
    caffe.set_mode_cpu()
    assert mode.device_name() == "cpu"


def test_nets_after_one_seed_draw_differently_and_the_same_in_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode._mode, "seeds", None)
    assert mode.next_seed() is None
    with torch.random.fork_rng():
        caffe.set_random_seed(3)
        first = [mode.next_seed(), mode.next_seed(), float(torch.rand(()))]
        caffe.set_random_seed(3)
        assert [mode.next_seed(), mode.next_seed(), float(torch.rand(()))] == first
    assert first[0] != first[1]


def test_information_is_logged_unless_the_level_is_higher(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode._mode, "log", 0)
    caffe.log("one")
    caffe.init_log(1)
    caffe.log("two")
    caffe.init_log(0, True)
    caffe.log("three")
    assert capsys.readouterr().err == "one\nthree\n"


def test_layer_types_are_those_of_layers_and_of_data() -> None:
    types = caffe.layer_type_list()
    assert {"Data", "Convolution", "InnerProduct", "Python", "HDF5Data", "Input"} <= set(types)
    assert types == sorted(set(types))


def test_a_single_solver_is_all_there_is() -> None:
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    caffe.set_solver_count(1)
    with pytest.raises(NotImplementedError, match=r"set_solver_count\(2\).*fusion-train"):
        caffe.set_solver_count(2)
    for call in (lambda: caffe.NCCL(None, ""), caffe.NCCL.new_uid):
        with pytest.raises(NotImplementedError, match=r"caffe\.NCCL.*torchrun with fusion-train"):
            call()


def test_a_timer_counts_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((2.0, 2.25))
    monkeypatch.setattr(mode.time, "perf_counter", lambda: next(times))
    timer = caffe.Timer()
    assert timer.ms == 0
    timer.start()
    timer.stop()
    assert timer.ms == 250


def test_phases_are_caffe_s_and_importing_the_package_is_cheap() -> None:
    assert (caffe.TRAIN, caffe.TEST, caffe.__version__) == (0, 1, "1.0.0")
    code = "import fusion.pycaffe, sys; print({'torch', 'numpy', 'google.protobuf'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
