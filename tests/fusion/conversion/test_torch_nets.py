"""PyTorch nets by name: the module that is opened, with the weights of its file, and what is refused."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
from small_net import Small

from fusion.conversion.export_module import export_module, module_onnx
from fusion.conversion.net_names import holds_its_weights, is_torch_net, net_files
from fusion.conversion.onnx_files import onnx_path
from fusion.conversion.torch_nets import TorchNet, open_torch_net
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


def test_the_number_of_classes_is_that_of_the_weights(small: Small) -> None:
    torch.save(Small(num_classes=9).state_dict(), "nine.pth")
    assert open_torch_net("nets.py:Small:nine.pth").module.fc.out_features == 9  # type: ignore[union-attr]
    with pytest.raises(WeightsMismatch, match=r"'fc\.weight' is 9x4, not 2x4"):
        open_torch_net("nets.py:Small+num_classes=2:nine.pth")
    torch.save(Small(width=6).state_dict(), "wide.pth")
    with pytest.raises(WeightsMismatch, match=r"'stem\.0\.weight' is 6x3x3x3, not 4x3x3x3"):
        open_torch_net("nets.py:Small:wide.pth")
    assert open_torch_net("nets.py:Small+width=6:wide.pth").module.conv.out_channels == 6  # type: ignore[union-attr]


def test_a_net_of_torchvision(small: Small) -> None:
    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(num_classes=3).eval()
    torch.save({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, "squeeze.pth")
    found = open_torch_net("torchvision:squeezenet1_1:squeeze.pth")
    assert tuple(found.example[0].shape) == (1, 3, 224, 224)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(found.module.eval()(image), net(image))  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("torchvision:resnet81:small.pth", "torchvision has no net 'resnet81'", "resnet"),
        ("torchvision:resnet18", "the weights of the net are missing", "resnet18:weights.pth"),
        ("torchvision:googlenet:small.pth", "changes its pixels first", "googlenet+transform_input=true"),
        ("torchvision:resnet18+deep:small.pth", "'deep' is no option", "num_classes=10"),
        ("torchvision:resnet18+deep=1:small.pth", "cannot be built: .*deep", "NAME+KEY=VALUE"),
        ("nets.py:Smal:small.pth", "no class or function 'Smal'", "'Small'"),
        ("nets.py:Thing:small.pth", "this gives Thing, no nn.Module", "class or function"),
        ("broken.py:Net:small.pth", "cannot be run: ZeroDivisionError", None),
        ("small.pth", "it holds weights, and not how they are connected", "torchvision:NAME:small.pth"),
        ("text.pt2", "it is no exported program", "torch.export.save"),
    ],
)
def test_what_is_refused(name: str, says: str, hint: str | None, small: Small) -> None:
    Path("broken.py").write_text("1 / 0\n")
    Path("text.pt2").write_text("no archive")
    with pytest.raises(OnnxError, match=says) as raised:
        open_torch_net(name)
    assert hint is None or hint in str(raised.value.hint)


def test_an_exported_program(small: Small) -> None:
    torch.export.save(torch.export.export(small, (torch.zeros(1, 3, 8, 8),)), "small.pt2")
    net = open_torch_net("small.pt2")
    assert [tuple(one.shape) for one in net.example] == [(1, 3, 8, 8)]
    _same_answers(onnx_path("small.pt2"), small)


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


def test_a_module_keeps_its_mode(small: Small) -> None:
    small.train()
    small.stem.eval()
    module_onnx(small, torch.zeros(1, 3, 8, 8))
    assert (small.training, small.conv.training, small.stem.training, small.stem[1].training) == (
        True,
        True,
        False,
        False,
    )
    with pytest.raises(OnnxError, match="an example of its input"):
        module_onnx(small, None)


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


@pytest.mark.slow
def test_modules_that_no_file_can_hold(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    example = (torch.zeros(1, 3, 8, 8),)
    with pytest.raises(OnnxError, match="the exported net answers differently from the module"):
        export_module(TorchNet("random", Random(), example), tmp_path / "a.onnx")
    with pytest.raises(OnnxError, match="torch cannot export it") as raised:
        export_module(TorchNet("choosing", Choosing(), example), tmp_path / "b.onnx")
    assert "\n" not in raised.value.message
