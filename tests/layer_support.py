"""Make docs/layer-support.md, what each layer type passes: `python -m tests.layer_support docs/layer-support.md`.

Caffe's types are held to a recorded case, those of forks to plain loops, the project's own to themselves.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import prototxt
from fusion.layers import registry
from fusion.layers.recurrent import reset
from fusion.nets import build as nets
from fusion.nets.graph import Net
from prototxt.shapes import infer

TESTS = Path(__file__).parent / "fusion"
COLUMNS = ("forward", "backward", "shape", "gradcheck", "float64", "bf16", "channels last", "compile", "export")
YES, NONE = "yes", "–"
LAST = torch.channels_last
HEAD = """# Layer support

Made by `python -m tests.layer_support docs/layer-support.md`; a slow test generates it again and compares.

- **forward**, **backward**: the numbers equal those recorded from BVLC Caffe, or, for forks, those of loops in
  NumPy; the project's own losses have separate tests
- **shape**: the outputs have the shapes that shape inference gives
- **gradcheck**: gradients are derivatives, by differences in float64; "rule": the fork's own rule, no derivative
- **float64**, **bf16**: runs in float64, and under bfloat16 autocast on the CPU within 3 % of the largest number,
  gradients too
- **channels last**: the same numbers and gradients in this memory layout
- **compile**: `torch.compile(fullgraph=True)` with the backend aot_eager; **export**: `torch.export`; the numbers agree

– means nothing to check: no gradient, or random numbers.

| type | from | """


def load(path: Path) -> ModuleType:
    """A module of the tests, which are no package."""
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Subject:
    """A layer type, a net that has it, and how to check it.

    describe    the net's description, of one phase
    make        a net and inputs in a number type
    labels      inputs that no gradient reaches
    numbers     raises where the numbers, forward and backward, are wrong
    smooth      a net and inputs whose gradients are derivatives, or None for a rule of the fork's own
    unsuited    why it is no static graph, or ""
    """

    kind: str
    origin: str
    describe: Callable[[], Any]
    make: Callable[[torch.dtype], tuple[Net, dict[str, Tensor]]]
    labels: frozenset[str]
    numbers: Callable[[], None]
    smooth: Callable[[], tuple[Net, dict[str, Tensor]]] | None
    random: bool = False
    unsuited: str = ""
    atol: float = 1e-5


def subjects() -> list[Subject]:
    """One for every registered type."""
    warnings.simplefilter("ignore")
    return sorted([*_caffes(), *_forks(), *_own()], key=lambda subject: subject.kind.lower())


def _caffes() -> list[Subject]:
    properties, golden = (
        load(TESTS / "layers" / "test_layer_properties.py"),
        load(TESTS / "layers" / "test_golden_layers.py"),
    )
    names = ("l", "label", "idx", "sel", "s", "cont", "H", "ref", "t")
    found = []
    for kind, case in properties.REPRESENTATIVE.items():
        labels = frozenset(("x", "in", "data", *names) if kind == "Embed" else names)
        steady = properties.STEADY.get(kind, case)
        found.append(
            Subject(
                kind,
                "Caffe",
                lambda case=case: _described(
                    properties.LAYERS / case / "net.prototxt", golden.load(case).meta["phase"]
                ),  # type: ignore[misc]
                lambda dtype, case=case: properties.load(case, dtype),  # type: ignore[misc]
                labels,
                (lambda: None) if kind in properties.RANDOM else lambda case=case: golden.check(golden.load(case)),  # type: ignore[misc]
                lambda steady=steady: properties.load(steady, torch.float64),  # type: ignore[misc]
                kind in properties.RANDOM,
                properties.DYNAMIC.get(kind, ""),
                1e-4 if kind == "ContrastiveLoss" else 1e-5,
            )
        )
    return found


def _forks() -> list[Subject]:
    tests = load(TESTS / "layers" / "test_forks.py")
    found: dict[str, Subject] = {}
    for case in tests.CASES.values():

        def make(dtype: torch.dtype, case: Any = case) -> tuple[Net, dict[str, Tensor]]:
            return tests.build(case).to(dtype), {key: x.to(dtype) for key, x in tests.inputs(case).items()}

        labels = frozenset(f"b{i}" for i in range(len(case.inputs)) if i not in case.free)
        found.setdefault(
            case.kind,
            Subject(
                case.kind,
                "fork",
                lambda case=case: _described(prototxt.parse(case.net), case.phase),  # type: ignore[misc]
                make,
                labels,
                lambda name=case.name: tests.test_outputs_are_those_of_the_loops(name),  # type: ignore[misc]
                (lambda make=make: make(torch.float64)) if case.derivative else None,  # type: ignore[misc]
                unsuited=case.dynamic,
            ),
        )
    return list(found.values())


LOGITS = "shape { dim: 4 dim: 3 }"
OWN = {
    **dict.fromkeys(
        ("KDLoss", "FocalDistillationLoss", "LogitMatchingLoss", "LDILoss", "ELODILoss", "NaivePCTLoss"),
        (f"{LOGITS} {LOGITS} shape {{ dim: 4 }}", 'bottom: "a" bottom: "b" bottom: "l"', "abl"),
    ),
    "CNALoss": (f"{LOGITS} {LOGITS} shape {{ dim: 4 }}", 'bottom: "a" bottom: "b" bottom: "l"', "abl"),
    "BCTLoss": (f"{LOGITS} shape {{ dim: 4 }}", 'bottom: "a" bottom: "l"', "al"),
    "WeightedSum": (f"{LOGITS} {LOGITS}", 'bottom: "a" bottom: "b"', "ab"),
    "Gate": (f"{LOGITS} {LOGITS}", 'bottom: "a" bottom: "b"', "ab"),
}


def _own() -> list[Subject]:
    found = []
    for kind, (shapes, bottoms, tops) in OWN.items():
        if registry.find_layer_type(kind) is None:
            continue
        names = " ".join(f'top: "{top}"' for top in tops)
        text = f'layer {{ name: "in" type: "Input" {names} input_param {{ {shapes} }} }}\n'
        text += f'layer {{ name: "own" type: "{kind}" {bottoms} top: "t0" }}'

        def make(dtype: torch.dtype, text: str = text, tops: str = tops) -> tuple[Net, dict[str, Tensor]]:
            draw = torch.Generator().manual_seed(0)
            values = {top: torch.randn(4, 3, generator=draw, dtype=torch.float64).to(dtype) for top in tops}
            values["a"].requires_grad_()
            if "l" in tops:
                values["l"] = torch.tensor([0, 1, 2, 1]).to(dtype)
            return nets.build(prototxt.parse(text), "TRAIN", seed=0).to(dtype), values

        references = frozenset("bl" if "Loss" in kind else "")
        found.append(
            Subject(
                kind,
                "own",
                lambda text=text: _described(prototxt.parse(text), "TRAIN"),  # type: ignore[misc]
                make,
                references,
                lambda: None,
                lambda make=make: make(torch.float64),  # type: ignore[misc]
            )
        )
    return found


def _described(net: Any, phase: str) -> Any:
    return prototxt.filter_net(prototxt.load_net(net), phase=phase)


def row(subject: Subject) -> dict[str, str]:
    """The cells of a type; a cell that fails holds "no" and the reason."""
    cells = {"forward": _tried(subject.numbers)}
    net, inputs = subject.make(torch.float32)
    values = nets.blobs(net, _free(subject, inputs))
    flows = any(value.requires_grad for value in values.values() if value.grad_fn is not None)
    cells["backward"] = NONE if not flows else cells["forward"]
    cells["shape"] = _tried(lambda: _check_shapes(subject, values))
    if subject.smooth is None:
        cells["gradcheck"] = "rule"
    else:
        cells["gradcheck"] = _tried(lambda: _check_gradients(subject)) if flows and not subject.random else NONE
    cells["float64"] = _tried(lambda: _check_double(subject))
    for column, check in (("bf16", _check_half), ("channels last", _check_layout)):
        cells[column] = NONE if subject.random else _tried(lambda run=check: run(subject))  # type: ignore[misc]
    for column, check in (("compile", _check_compile), ("export", _check_export)):
        if subject.random:
            cells[column] = NONE
        else:
            cells[column] = f"no: {subject.unsuited}" if subject.unsuited else _tried(lambda run=check: run(subject))  # type: ignore[misc]
    return cells


def table(chosen: list[Subject]) -> str:
    """The whole document."""
    lines = [HEAD + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for subject in chosen:
        cells = row(subject)
        lines.append(f"| {subject.kind} | {subject.origin} | " + " | ".join(cells[name] for name in COLUMNS) + " |")
    lines += [
        "",
        "Not in the table: `Python` runs a user's class, `Onnx` a file, `HDF5Output` writes one; data is no module.",
        "",
    ]
    return "\n".join(lines)


def _tried(check: Callable[[], object]) -> str:
    try:
        check()
    except Exception as error:
        return f"no: {type(error).__name__} {str(error).splitlines()[0][:60] if str(error) else ''}".strip()
    return YES


def _free(subject: Subject, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: x.detach().clone().requires_grad_(key not in subject.labels) for key, x in inputs.items()}


def _outputs(net: Net, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    reset(net)
    for module in net.modules():
        if hasattr(module, "calls"):
            module.calls = 0  # type: ignore[assignment]
    return dict(net(inputs))


def _check_shapes(subject: Subject, values: dict[str, Tensor]) -> None:
    told = infer(subject.describe()).blobs
    for key, value in values.items():
        assert len(told[key]) == value.dim(), f"{told[key]} is not {tuple(value.shape)}"
        fits = (size in (None, given) for size, given in zip(told[key], value.shape, strict=True))
        assert all(fits), f"{told[key]} is not {tuple(value.shape)}"


def _check_gradients(subject: Subject) -> None:
    assert subject.smooth is not None
    net, inputs = subject.smooth()
    keys = [key for key in inputs if key not in subject.labels]
    own = {key: p.detach() for key, p in net.named_parameters()}

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        reset(net)
        given = {**inputs, **dict(zip(keys, tensors[: len(keys)], strict=True))}
        out = torch.func.functional_call(net, dict(zip(own, tensors[len(keys) :], strict=True)), (given,))
        return tuple(value for value in out.values() if value.requires_grad)

    tensors = [inputs[key].detach().clone().requires_grad_() for key in keys] + [
        p.clone().requires_grad_() for p in own.values()
    ]
    assert torch.autograd.gradcheck(outputs, tensors, atol=subject.atol, fast_mode=True)


def _check_double(subject: Subject) -> None:
    net, inputs = subject.make(torch.float64)
    out = net(inputs)
    assert all(x.dtype == torch.float64 for x in out.values() if x.is_floating_point()), "another number type"


def _check_half(subject: Subject) -> None:
    expected, slopes = _with_gradients(subject, *subject.make(torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        found, half = _with_gradients(subject, *subject.make(torch.float32))
    assert half.keys() == slopes.keys(), "other gradients"
    _near(found, expected, 3e-2)
    _near(half, slopes, 3e-2)


def _check_layout(subject: Subject) -> None:
    expected, slopes = _with_gradients(subject, *subject.make(torch.float32))
    net, inputs = subject.make(torch.float32)
    inputs = {key: x.contiguous(memory_format=LAST) if x.dim() == 4 else x for key, x in inputs.items()}
    found, other = _with_gradients(subject, net.to(memory_format=LAST), inputs)
    assert other.keys() == slopes.keys(), "other gradients"
    _near(found, expected, 1e-5)
    _near(other, slopes, 1e-4)


def _with_gradients(
    subject: Subject, net: Net, inputs: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, and the gradients of a random mix of them; backward runs outside of autocast, as it should."""
    free, draw = _free(subject, inputs), torch.Generator().manual_seed(0)
    out = dict(net(free))
    with torch.autocast("cpu", enabled=False):
        parts = [(x * torch.randn(x.shape, generator=draw)).sum() for x in out.values() if x.requires_grad]
        if parts:
            torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
    named = {**free, **dict(net.named_parameters())}
    return out, {key: value.grad for key, value in named.items() if value.grad is not None}


def _near(found: dict[str, Tensor], expected: dict[str, Tensor], part: float) -> None:
    """Within a part of each number and of the largest one."""
    for key, tensor in expected.items():
        scale = float(tensor.detach().abs().max()) if tensor.numel() else 0.0
        torch.testing.assert_close(found[key].to(tensor.dtype), tensor, rtol=part, atol=part * scale, equal_nan=True)


def _check_compile(subject: Subject) -> None:
    net, inputs = subject.make(torch.float32)
    expected = _outputs(net, inputs)
    torch._dynamo.reset()
    net, inputs = subject.make(torch.float32)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    _same(compiled(inputs), expected)


def _check_export(subject: Subject) -> None:
    net, inputs = subject.make(torch.float32)
    expected = _outputs(net, inputs)
    net, inputs = subject.make(torch.float32)
    _same(torch.export.export(net, (inputs,), strict=False).module()(inputs), expected)


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, equal_nan=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    text = table(subjects())
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
