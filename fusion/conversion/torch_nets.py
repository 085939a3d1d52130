"""PyTorch nets by name: of torchvision or timm, a class in a Python file, or an exported program."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import io
import logging
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fusion.conversion.checkpoints import StateDict, is_torchscript, load_strictly, read_state_dict, without_prefix
from fusion.conversion.net_names import LIBRARIES, TORCH_NET
from fusion.errors import OnnxError
from prototxt.errors import did_you_mean

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_SIDE = 224
_SIZE = (3, _SIDE, _SIDE)
_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch's switch: no call can load more than tensors
_TRANSFORMS = ("googlenet", "inception_v3")  # nets of torchvision whose own weights want other pixels than all others


@dataclass(frozen=True, eq=False)
class TorchNet:
    """A net that torch can run.

    name     of the net, for prototxts
    module   with its weights; or an exported program
    example  its input, float32 [1, C, H, W], or several
    """

    name: str
    module: nn.Module | ExportedProgram
    example: tuple[Tensor, ...]


def open_torch_net(text: str, shape: tuple[int, ...] | None = None) -> TorchNet:
    """Open a net by its name, in one of the forms of TORCH_NET. NAME may have options: `resnet18+num_classes=10`.

    shape  C, H, W of its input; None: as the library gives it, else 3x224x224
    Raises: OnnxError for an unknown net or option, WeightsMismatch for weights that do not fit, OSError.
    """
    library, _, rest = text.partition(":")
    if library in LIBRARIES:
        name, _, weights = rest.partition(":")
        name, options = _options(name, text)
        found = _torchvision if library == "torchvision" else _timm
        module, size = found(name, weights, options, text)
        return TorchNet(name, module, _example(shape or size))
    file, dot, rest = text.partition(".py:")
    if dot:
        name, _, weights = rest.partition(":")
        name, options = _options(name, text)
        make = _callable(f"{file}.py", name)
        return TorchNet(name, _filled(make, options, _state(weights, text), weights, text), _example(shape or _SIZE))
    if text.lower().endswith(".pt2"):
        return _program(text)
    raise _no_net(text)


def _example(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    return (torch.zeros(1, *shape),)


def _no_net(path: str) -> OnnxError:
    """Return the error of a file that torch saved and that is no net by itself."""
    if is_torchscript(path):
        hint = (
            'load it in Python with torch.jit.load, build the net from its code, and give that: Source("b", module=net)'
        )
        return OnnxError("a TorchScript archive is not converted", place=path, hint=hint)
    read_state_dict(path)  # says what the file holds where it is no state dict
    hint = f"name the net, too: {TORCH_NET.replace('WEIGHTS', os.path.basename(path))}"
    return OnnxError("it holds weights, and not how they are connected", place=path, hint=hint)


def _options(text: str, whole: str) -> tuple[str, dict[str, Any]]:
    """Parse `NAME+KEY=VALUE+...`. Raises: OnnxError."""
    name, *parts = text.split("+")
    found: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise OnnxError(f"'{part}' is no option of a net", place=whole, hint="e.g. resnet18+num_classes=10")
        try:
            found[key] = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
        except (ValueError, SyntaxError):
            found[key] = value
    return name, found


def _state(weights: str, text: str) -> StateDict:
    if not weights:
        hint = f"add the file, {text}:weights.pth or .safetensors; nothing is downloaded"
        raise OnnxError("the weights of the net are missing", place=text, hint=hint)
    return read_state_dict(weights)


def _torchvision(name: str, weights: str, options: dict[str, Any], text: str) -> tuple[nn.Module, tuple[int, ...]]:
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise OnnxError(f"torchvision has no net '{name}'", place=text, hint=did_you_mean(name, known))
    state = _state(weights, text)
    if name in _TRANSFORMS and "transform_input" not in options:
        hint = f"write {name}+transform_input=true for torchvision's own weights, =false for a net trained from scratch"
        raise OnnxError("whether this net changes its pixels first is not in its weights", place=text, hint=hint)
    builder = inspect.signature(models.get_model_builder(name)).parameters
    if name in _TRANSFORMS:
        options = {"aux_logits": any(key.lower().startswith("aux") for key in state), "init_weights": False, **options}
    elif "weights_backbone" in builder:
        options = {"weights_backbone": None, **options}

    def make(**given: Any) -> nn.Module:
        module: nn.Module = models.get_model(name, weights=None, **given)
        return module

    crops = [getattr(each.transforms(), "crop_size", [_SIDE]) for each in models.get_model_weights(name)]
    side = crops[0][0] if crops else _SIDE
    return _filled(make, options, state, weights, text), (3, side, side)


def _timm(name: str, weights: str, options: dict[str, Any], text: str) -> tuple[nn.Module, tuple[int, ...]]:
    try:
        import timm  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise OnnxError("timm is not installed", place=text, hint="pip install timm") from error
    if not timm.is_model(name.partition(".")[0]):
        raise OnnxError(f"timm has no net '{name}'", place=text, hint=did_you_mean(name, timm.list_models()))

    def make(**given: Any) -> nn.Module:
        module: nn.Module = timm.create_model(name, pretrained=False, **given)
        return module

    module = _filled(make, options, _state(weights, text), weights, text)
    channels, *sides = getattr(module, "pretrained_cfg", {}).get("input_size", _SIZE)
    size = options.get("img_size", sides)
    return module, (channels, *((size, size) if isinstance(size, int) else size))


def _filled(
    make: Callable[..., nn.Module], options: dict[str, Any], state: StateDict, weights: str, text: str
) -> nn.Module:
    """Build a net and load its weights; the number of classes is that of the weights. Raises: OnnxError."""
    module = _built(make, options, text)
    classes = _classes(module.state_dict(), without_prefix(state, module.state_dict()))
    if classes is not None and "num_classes" not in options and _takes_classes(make, options):
        module = _built(make, {**options, "num_classes": classes}, text)
    load_strictly(module, state, weights)
    return module


def _built(make: Callable[..., nn.Module], options: dict[str, Any], text: str) -> nn.Module:
    try:
        module = make(**options)
    except Exception as error:  # of every kind: the code is the library's or the user's
        message = f"the net cannot be built: {str(error).partition(chr(10))[0]}"
        raise OnnxError(message, place=text, hint="give its options as NAME+KEY=VALUE+...") from error
    if not isinstance(module, nn.Module):
        raise OnnxError(
            f"this gives {type(module).__name__}, no nn.Module", place=text, hint="name a class or function"
        )
    return module


def _takes_classes(make: Callable[..., nn.Module], options: dict[str, Any]) -> bool:
    parameters = inspect.signature(make).parameters.values()
    return any(one.name == "num_classes" or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def _classes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of weights that differ from a net's in their classifiers alone, else None."""
    unlike = [(own[key].shape, state[key].shape) for key in own if key in state and own[key].shape != state[key].shape]
    if any(len(mine) != len(other) or mine[1:] != other[1:] for mine, other in unlike):
        return None
    sizes = {(mine[0], other[0]) for mine, other in unlike}
    return sizes.pop()[1] if len(sizes) == 1 else None


def _callable(path: str, name: str) -> Callable[..., nn.Module]:
    """Return a class or function of a Python file, which is run. Raises: OnnxError, OSError."""
    os.stat(path)
    # Not the stem alone, which may be the name of a library.
    spec = importlib.util.spec_from_file_location(f"net_file_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look it up
    folder = os.path.dirname(os.path.abspath(path))
    sys.path.insert(0, folder)  # as `python FILE` does: it may import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise OnnxError(f"it cannot be run: {type(error).__name__}: {error}", place=path) from error
    finally:
        sys.path.remove(folder)
    known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if name not in known:
        raise OnnxError(f"it has no class or function '{name}'", place=path, hint=did_you_mean(name, known))
    found: Callable[..., nn.Module] = getattr(module, name)
    return found


def _program(path: str) -> TorchNet:
    """Open what torch.export.save wrote. Raises: OnnxError for an archive with pickled objects, or a damaged one."""
    open(path, "rb").close()
    try:
        with quiet_torch(), _tensors_alone():
            program = torch.export.load(path)
    except pickle.UnpicklingError as error:
        text = "it holds pickled objects, which are not loaded because they can run code"
        hint = "export the net with plain tensors as inputs, or give the module in Python"
        raise OnnxError(text, place=path, hint=hint) from error
    except Exception as error:  # of every kind, for a damaged archive
        text = str(error).partition("\n")[0]
        hint = "write it with torch.export.save"
        raise OnnxError(f"it is no exported program: {text}", place=path, hint=hint) from error
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if not all(isinstance(one, Tensor) for one in inputs):
        raise OnnxError("it has inputs that are no tensors", place=path, hint="export the net with tensors as inputs")
    sizes = [[size if isinstance(size, int) else 2 for size in value.shape] for value in inputs]
    example = (torch.zeros(size, dtype=one.dtype) for size, one in zip(sizes, inputs, strict=True))
    return TorchNet(Path(path).stem, program, tuple(example))


@contextlib.contextmanager
def _tensors_alone() -> Iterator[None]:
    """Let torch.export.load unpickle nothing but tensors: it would fall back to running what an archive holds."""

    def refuse(*_: object, **__: object) -> None:
        raise pickle.UnpicklingError("an object that is no tensor")

    known = os.environ.get(_FORCED), pickle.loads, torch._C._pickle_load_obj
    os.environ[_FORCED] = "1"
    pickle.loads = torch._C._pickle_load_obj = refuse
    try:
        yield
    finally:
        os.environ.pop(_FORCED)
        if known[0] is not None:
            os.environ[_FORCED] = known[0]
        pickle.loads, torch._C._pickle_load_obj = known[1:]


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep back the progress, logs and warnings of torch's exporter: what matters of them becomes an error."""
    known = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(known)
