"""The table of what each layer type supports is complete and true."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fusion.layers import registry
from fusion.nets import build as nets

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "layer-support.md"
APART = {"Python", "Onnx", "HDF5Output"}


@pytest.fixture(scope="module")
def support() -> ModuleType:
    path = Path(__file__).with_name("layer_support.py")
    spec = util.spec_from_file_location("layer_support", path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["layer_support"] = module
    spec.loader.exec_module(module)
    return module


def rows() -> dict[str, list[str]]:
    """Type -> its cells."""
    lines = [line.strip("|").split("|") for line in TABLE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[1:]}


def test_every_type_of_the_package_is_in_the_table() -> None:
    assert nets.build is not None
    ours = {
        name
        for name in registry.known_types()
        if (kind := registry.find_layer_type(name)) is not None and kind.build.__module__.startswith("fusion.")
    }
    assert set(rows()) == ours - APART


def test_what_is_not_supported_has_its_reason_in_the_data() -> None:
    for kind, cells in rows().items():
        for cell in cells:
            assert cell in ("yes", "–", "rule", "Caffe", "fork", "own") or "depend" in cell, f"{kind}: {cell}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Convolution", "KDLoss"])
def test_some_rows_made_anew(support: ModuleType, kind: str) -> None:
    subject = next(subject for subject in support.subjects() if subject.kind == kind)
    made = support.row(subject)
    assert [subject.origin, *(made[name] for name in support.COLUMNS)] == rows()[kind]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_whole_table_made_anew(support: ModuleType) -> None:
    assert support.table(support.subjects()) == TABLE.read_text(encoding="utf-8")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore")
def test_every_type_runs_on_a_gpu(support: ModuleType) -> None:
    for subject in support.subjects():
        if subject.random:
            continue
        net, inputs = subject.make(torch.float32)
        expected = net(inputs)
        net, inputs = subject.make(torch.float32)
        found = net.cuda()({key: x.cuda() for key, x in inputs.items()})
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key].cpu(), tensor, rtol=1e-3, atol=1e-4, equal_nan=True, msg=subject.kind)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["Convolution", "Pooling", "LRN", "LSTM", "Interp", "PriorBox", "Lstm", "ROIPooling"])
def test_inductor_compiles_it(support: ModuleType, kind: str) -> None:
    subject = next(subject for subject in support.subjects() if subject.kind == kind)
    net, inputs = subject.make(torch.float32)
    expected = net(inputs)
    torch._dynamo.reset()
    net, inputs = subject.make(torch.float32)
    found = torch.compile(net, fullgraph=True)(inputs)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, equal_nan=True)
