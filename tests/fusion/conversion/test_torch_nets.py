"""PyTorch nets by name: the module that is opened, with the weights of its file, and what is refused."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from small_net import Small

from fusion.conversion import export_module as export_module_file
from fusion.conversion.export_module import export_module, module_onnx
from fusion.conversion.net_names import holds_its_weights, is_torch_net, net_files
from fusion.conversion.onnx_files import onnx_path
from fusion.conversion.torch_nets import TorchNet, _classes, _options, open_torch_net
from fusion.errors import OnnxError, WeightsMismatch
from fusion.onnx.graphs import load_graph
from fusion.onnx.to_torch import OnnxNet

NOISE = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("torchvision:resnet18:a/w.pth", ("a/w.pth",)),
        ("timm:vit_tiny+img_size=32:C:/w.pth", ("C:/w.pth",)),
        ("torchvision:resnet18", ()),
        ("a/nets.py:Small+width=2:w.safetensors", ("a/nets.py", "w.safetensors")),
        ("nets.py:make", ("nets.py",)),
        ("net.pt2", ("net.pt2",)),
    ],
)
def test_names_and_their_files(name: str, files: tuple[str, ...]) -> None:
    assert is_torch_net(name)
    assert net_files(name) == files


def test_other_names() -> None:
    others = ("net.prototxt", "net.onnx", "a:b.caffemodel", "py:net", "net.py", "torchvision", "w.safetensors")
    assert [is_torch_net(name) for name in others] == [False] * 5 + [True, False]
    assert [holds_its_weights(name) for name in ("net.onnx", "net.pt2", "net.prototxt")] == [True, True, False]
    assert net_files("a.onnx") == ("a.onnx",)


def test_a_class_in_a_file(small: Small) -> None:
    net = open_torch_net("nets.py:Small:small.pth", (3, 8, 8))
    assert (net.name, [tuple(one.shape) for one in net.example]) == ("Small", [(1, 3, 8, 8)])
    assert torch.equal(net.module.eval()(NOISE), small(NOISE))  # type: ignore[operator, union-attr]
    assert tuple(open_torch_net("nets.py:Small:small.pth").example[0].shape) == (1, 3, 224, 224)


def test_a_file_is_run_as_python_runs_it(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours come before other modules of their names; it may be called like a library, and has dataclasses."""
    Path("mine").mkdir()
    Path("others").mkdir()
    Path("mine/neighbour.py").write_text("WIDTH = 4\n")
    Path("others/neighbour.py").write_text("WIDTH = 6\n")
    Path("mine/numpy.py").write_text("""from __future__ import annotations
from dataclasses import dataclass
import neighbour
from small_net import Small

@dataclass
class Settings:
    width: int = neighbour.WIDTH

def make():
    return Small(width=Settings().width)
""")
    monkeypatch.syspath_prepend("others")
    before = sys.path[:], sys.modules["numpy"]
    assert open_torch_net("mine/numpy.py:make:small.pth").module.conv.out_channels == 4  # type: ignore[union-attr]
    assert (sys.path, sys.modules["numpy"]) == before
    del sys.modules["neighbour"]


def test_the_number_of_classes_is_that_of_the_weights(small: Small) -> None:
    torch.save(Small(num_classes=9).state_dict(), "nine.pth")
    assert open_torch_net("nets.py:Small:nine.pth").module.fc.out_features == 9  # type: ignore[union-attr]
    with pytest.raises(WeightsMismatch, match=r"'fc\.weight' is 9x4, not 2x4"):
        open_torch_net("nets.py:Small+num_classes=2:nine.pth")
    torch.save(Small(width=6).state_dict(), "wide.pth")
    with pytest.raises(WeightsMismatch, match=r"'stem\.0\.weight' is 6x3x3x3, not 4x3x3x3"):
        open_torch_net("nets.py:Small:wide.pth")
    assert open_torch_net("nets.py:Small+width=6:wide.pth").module.conv.out_channels == 6  # type: ignore[union-attr]
    Path("makers.py").write_text("""from small_net import Small
def make(**options):
    return Small(**options)
def fixed(width=4):
    return Small(width=width)
""")
    assert open_torch_net("makers.py:make:nine.pth").module.fc.out_features == 9  # type: ignore[union-attr]
    with pytest.raises(WeightsMismatch, match=r"'fc\.weight' is 9x4, not 5x4"):
        open_torch_net("makers.py:fixed:nine.pth")


@pytest.mark.parametrize(
    ("weight", "bias", "classes"),
    [
        ((9, 4), (9,), 9),
        ((9, 4), None, 9),
        ((5, 4), (5,), None),
        ((9, 4), (8,), None),
        ((9, 6), (9,), None),
        ((5, 4), (), None),
    ],
)
def test_weights_tell_their_number_of_classes(
    weight: tuple[int, ...], bias: tuple[int, ...] | None, classes: int | None
) -> None:
    own = {"other": torch.zeros(3), "fc.weight": torch.zeros(5, 4), "fc.bias": torch.zeros(5)}
    state = {"fc.weight": torch.zeros(weight), **({} if bias is None else {"fc.bias": torch.zeros(bias)})}
    assert _classes(own, state) == classes


def test_options_are_python_values_or_words() -> None:
    found = _options("net+a=3+b=true+c=false+d=(2, 5)+e=relu+f=1e-3+g=x=y", "net")
    assert found == ("net", {"a": 3, "b": True, "c": False, "d": (2, 5), "e": "relu", "f": 1e-3, "g": "x=y"})


def test_a_net_of_torchvision(small: Small) -> None:
    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(num_classes=3).eval()
    torch.save({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, "squeeze.pth")
    found = open_torch_net("torchvision:squeezenet1_1:squeeze.pth")
    assert tuple(found.example[0].shape) == (1, 3, 224, 224)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(found.module.eval()(image), net(image))  # type: ignore[operator, union-attr]
    other = open_torch_net("torchvision:squeezenet1_1:squeeze.pth", (3, 64, 48))
    assert tuple(other.example[0].shape) == (1, 3, 64, 48)


@pytest.mark.parametrize(
    ("name", "keys", "options", "side"),
    [
        ("googlenet+transform_input=true", ["a.weight", "aux1.weight"],
         {"aux_logits": True, "init_weights": False, "transform_input": True}, 224),
        ("inception_v3+transform_input=false", ["a.weight", "AuxLogits.weight"],
         {"aux_logits": True, "init_weights": False, "transform_input": False}, 299),
        ("inception_v3+transform_input=true", ["a.weight"],
         {"aux_logits": False, "init_weights": False, "transform_input": True}, 299),
        ("fcn_resnet50", ["a.weight"], {"weights_backbone": None}, 224),
        ("resnet18+deep=1", ["a.weight"], {"deep": 1}, 224),
    ],
)  # fmt: skip
def test_what_torchvision_is_asked_for(
    name: str, keys: list[str], options: dict[str, object], side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is downloaded, auxiliary heads are there where the weights have them, images have the usual size."""
    asked = []

    def get_model(*words: str, **given: object) -> torch.nn.Module:
        asked.append((*words, given))
        return torch.nn.ModuleDict({key.partition(".")[0]: torch.nn.Linear(1, 1, bias=False) for key in keys})

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    torch.save({key: torch.ones(1, 1) for key in keys}, tmp_path / "w.pth")
    found = open_torch_net(f"torchvision:{name}:{tmp_path}/w.pth")
    assert asked == [(name.partition("+")[0], {"weights": None, **options})]
    assert tuple(found.example[0].shape) == (1, 3, side, side)


@pytest.mark.parametrize(
    ("options", "settings", "shape"),
    [
        ("", {"input_size": (1, 30, 40)}, (1, 30, 40)),
        ("+img_size=50", {"input_size": (1, 30, 40)}, (1, 50, 50)),
        ("+img_size=(50, 60)", {"input_size": (1, 30, 40)}, (1, 50, 60)),
        ("+img_size=50", {}, (3, 50, 50)),
        ("", {}, (3, 224, 224)),
    ],
)
def test_a_net_of_timm(
    options: str, settings: dict[str, object], shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a module in timm's place: its names, tags, and what it is asked for, without a download."""
    asked = []

    def create_model(*words: str, **given: object) -> torch.nn.Module:
        asked.append((words, given["pretrained"]))
        net = torch.nn.Linear(1, 2)
        net.pretrained_cfg = settings  # type: ignore[assignment]
        return net

    known = ["vit_tiny", "vit_small"]
    timm = SimpleNamespace(create_model=create_model, is_model=known.__contains__, list_models=lambda: known)
    monkeypatch.setitem(sys.modules, "timm", timm)  # type: ignore[arg-type]
    torch.save(torch.nn.Linear(1, 2).state_dict(), tmp_path / "w.pth")
    found = open_torch_net(f"timm:vit_tiny.in1k{options}:{tmp_path}/w.pth")
    assert asked == [(("vit_tiny.in1k",), False)]
    assert (found.name, tuple(found.example[0].shape)) == ("vit_tiny.in1k", (1, *shape))
    with pytest.raises(OnnxError, match="timm has no net 'vit_tinny'") as raised:
        open_torch_net("timm:vit_tinny:w.pth")
    assert "'vit_tiny'" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("torchvision:resnet81:small.pth", "torchvision has no net 'resnet81'", "resnet"),
        ("torchvision:resnet18", "the weights of the net are missing", "resnet18:weights.pth"),
        ("torchvision:googlenet:small.pth", "changes its pixels first", "googlenet+transform_input=true"),
        ("torchvision:resnet18+deep:small.pth", "'deep' is no option", "num_classes=10"),
        ("torchvision:resnet18+deep=1:small.pth", "cannot be built: .*deep", "NAME+KEY=VALUE"),
        ("nets.py:Smal:small.pth", "no class or function 'Smal'", "'Small'"),
        ("nets.py:torch:small.pth", "no class or function 'torch'", None),
        ("nets.py:_hidden:small.pth", "no class or function '_hidden'", None),
        ("nets.py:Thing:small.pth", "this gives Thing, no nn.Module", "class or function"),
        ("broken.py:Net:small.pth", "cannot be run: ZeroDivisionError", None),
        ("small.pth", "it holds weights, and not how they are connected", "torchvision:NAME:small.pth"),
        ("text.pt2", r"it is no exported program: \w", "torch.export.save"),
        ("script.pt", "a TorchScript archive is not converted", "torch.jit.load"),
    ],
)
def test_what_is_refused(name: str, says: str, hint: str | None, small: Small) -> None:
    Path("broken.py").write_text("1 / 0\n")
    Path("text.pt2").write_text("no archive")
    with zipfile.ZipFile("script.pt", "w") as archive:
        archive.writestr("script/code/__torch__.py", "3")
    with pytest.raises(OnnxError, match=says) as raised:
        open_torch_net(name)
    assert hint is None or hint in str(raised.value.hint)


def test_an_exported_program(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.export.save(torch.export.export(small, (torch.zeros(1, 3, 8, 8),)), "small.pt2")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    net = open_torch_net("small.pt2")
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"  # as before
    assert (net.name, [tuple(one.shape) for one in net.example]) == ("small", [(1, 3, 8, 8)])
    _same_answers(onnx_path("small.pt2"), small)


class Scaled(torch.nn.Module):
    """Multiplies by its parameter and by the other input."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, times: torch.Tensor | int) -> torch.Tensor:
        """Return a tensor of the shape of x."""
        return self.factor * x * times


def test_inputs_of_exported_programs(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    example = torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64)
    program = torch.export.export(Scaled(), example, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, tmp_path / "open.pt2")
    inputs = open_torch_net(str(tmp_path / "open.pt2")).example
    assert [(tuple(one.shape), one.dtype) for one in inputs] == [((2, 3), torch.float32), ((2, 1), torch.int64)]
    torch.export.save(torch.export.export(Scaled(), (torch.zeros(4, 3), 7)), tmp_path / "seven.pt2")
    assert [tuple(one.shape) for one in open_torch_net(str(tmp_path / "seven.pt2")).example] == [(4, 3)]
    free = (None, torch.export.Dim.DYNAMIC)
    program = torch.export.export(Scaled(), (torch.zeros(4, 3), 7), dynamic_shapes=free)
    torch.export.save(program, tmp_path / "number.pt2")
    with pytest.raises(OnnxError, match="it has inputs that are no tensors"):
        open_torch_net(str(tmp_path / "number.pt2"))


@pytest.mark.parametrize("protocol", [None, 0, 2])
def test_an_exported_program_with_pickled_objects_is_not_loaded(protocol: int | None, small: Small) -> None:
    """As torch.save writes them, and as bare pickles: where tensors fail, torch itself falls back to loading all."""
    from test_checkpoints import Running

    torch.export.save(torch.export.export(small, (torch.zeros(1, 3, 8, 8),)), "small.pt2")
    torch.save(Running(), "bad.pt")
    content = Path("bad.pt").read_bytes() if protocol is None else pickle.dumps(Running(), protocol)
    with zipfile.ZipFile("small.pt2") as archive, zipfile.ZipFile("bad.pt2", "w") as other:
        for name in archive.namelist():
            inputs = "sample_inputs" in name and name.endswith(".pt")
            other.writestr(name, content if inputs else archive.read(name))
    with pytest.raises(OnnxError, match="pickled objects, which are not loaded because they can run code"):
        open_torch_net("bad.pt2")
    assert not Path("was_run").exists()
    assert pickle.loads(pickle.dumps(3)) == 3  # as before


def _same_answers(path: str, small: Small) -> None:
    graph = load_graph(path)
    found = OnnxNet(graph, frozen=True)(NOISE)
    torch.testing.assert_close(found[0] if isinstance(found, tuple) else found, small(NOISE), rtol=1e-5, atol=1e-6)
    assert list(graph.inputs) == ["data"]
    own = {key for key in small.state_dict() if "num_batches" not in key}
    assert own <= graph.constants.keys()


def test_the_onnx_file_answers_as_the_module(small: Small) -> None:
    path = onnx_path("nets.py:Small:small.pth", (3, 8, 8))
    _same_answers(path, small)
    assert onnx_path("nets.py:Small:small.pth", (3, 8, 8)) == path  # exported once
    assert onnx_path("net.onnx") == "net.onnx"


@pytest.mark.slow
def test_a_file_that_changes_is_exported_again(small: Small) -> None:
    path = onnx_path("nets.py:Small:small.pth", (3, 8, 8))
    with torch.no_grad():
        small.fc.bias += 1
    torch.save({"state_dict": small.state_dict()}, "small.pth")
    again = onnx_path("nets.py:Small:small.pth", (3, 8, 8))
    assert again != path
    _same_answers(again, small)


@pytest.mark.slow
def test_a_module_keeps_its_mode(small: Small) -> None:
    small.train()
    small.stem.eval()
    path = module_onnx(small, torch.zeros(1, 3, 8, 8))
    assert (small.training, small.conv.training, small.stem.training, small.stem[1].training) == (
        True,
        True,
        False,
        False,
    )
    with pytest.raises(OnnxError, match="an example of its input"):
        module_onnx(small, None)
    _same_answers(path, small.eval())


class Random(torch.nn.Module):
    """Answers by chance, also in eval mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return noise."""
        return x + torch.rand_like(x)


class Choosing(torch.nn.Module):
    """Depends on its input in a way that no graph can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a sum or the input."""
        return x.sum((2, 3)) if float(x.sum()) > 0 else x


class Magnifying(torch.nn.Module):
    """Loses the last digits of the mean: rounding changes its answers by 2e-5 at 1e3, 3e-4 at 1e4, 2e-3 at 1e5."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, C], float32."""
        return x.sum((2, 3)) / 7 + self.shift - self.shift


@pytest.mark.parametrize(
    ("module", "wrong", "agrees"),
    [
        (Magnifying(0.0), 9e-5, True),
        (Magnifying(0.0), 2e-4, False),
        (Magnifying(1e4), 2e-3, True),
        (Magnifying(1e4), 6e-3, False),
        (Magnifying(1e5), 8e-3, True),
        (Magnifying(1e5), 1.2e-2, False),
        (Random(), 0.0, False),
    ],
)
def test_a_file_may_differ_by_ten_times_the_modules_rounding(
    module: torch.nn.Module, wrong: float, agrees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(names: None, fed: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        answer = module(torch.from_numpy(fed["data"])).numpy()
        answer.flat[0] += wrong * np.abs(answer).max()
        return [answer]

    session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="data")], run=run)
    monkeypatch.setattr("fusion.onnx.runtime.inference_session", lambda path: session)
    with nullcontext() if agrees else pytest.raises(OnnxError, match=r"^net: the exported net answers differently"):
        export_module_file._check(TorchNet("net", module, (torch.zeros(1, 3, 8, 8),)), "net.onnx")
    assert not any(tensor.dtype == torch.float64 for tensor in module.state_dict().values())


@pytest.mark.slow
def test_modules_that_no_file_can_hold(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    example = (torch.zeros(1, 3, 8, 8),)
    with pytest.raises(OnnxError, match="the exported net answers differently from the module"):
        export_module(TorchNet("random", Random(), example), tmp_path / "a.onnx")
    with pytest.raises(OnnxError, match="torch cannot export it") as raised:
        export_module(TorchNet("choosing", Choosing(), example), tmp_path / "b.onnx")
    assert "\n" not in raised.value.message
