"""Checkpoints as state dicts. Nothing but tensors is loaded from a file, because pickled objects can run code."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from fusion.errors import SHOWN, WeightsMismatch

StateDict = dict[str, Tensor]
_SAVE = 'save its tensors alone: torch.save(net.state_dict(), "net.pth")'


def read_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """Read the tensors of a .pth, .pt, .ckpt or .safetensors file.

    A checkpoint that has one state dict under a key, such as `state_dict` of Lightning's, is opened there.
    Raises: WeightsMismatch for a TorchScript archive, a pickled module, and a file without a state dict; OSError.
    """
    place = os.fspath(path)
    if place.lower().endswith(".safetensors"):
        return _read_safetensors(place)
    with open(place, "rb") as file:
        if is_torchscript(place):
            hint = "load it in Python with torch.jit.load, and save its state_dict() as .pth"
            text = "it is a TorchScript archive, which holds a program beside its tensors"
            raise WeightsMismatch(text, place=place, hint=hint)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # of every kind, for a damaged file
            raise _unreadable(place, error) from error
    found = _state_dicts(content)
    if len(found) == 1:
        return dict(next(iter(found.values())))
    if not found:
        raise WeightsMismatch("it holds no state dict", place=place, hint=_SAVE)
    message = f"it holds {len(found)} state dicts: {', '.join(found)}"
    raise WeightsMismatch(
        message, place=place, hint='save the one to use alone: torch.save(checkpoint["..."], "net.pth")'
    )


def _read_safetensors(place: str) -> StateDict:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        hint = "pip install caffe-fusion[pytorch], or save the state dict as .pth"
        raise WeightsMismatch("reading it needs the package safetensors", place=place, hint=hint) from error
    open(place, "rb").close()  # OSError with the name
    try:
        return load_file(place)
    except SafetensorError as error:
        raise WeightsMismatch(f"it cannot be read: {error}", place=place, hint="fetch or copy it again") from error


def _unreadable(place: str, error: Exception) -> WeightsMismatch:
    if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error).lower():
        text = "it holds pickled Python objects, which are not loaded because they can run code"
        return WeightsMismatch(text, place=place, hint=f"where you trust it, load it in Python, and {_SAVE}")
    text = str(error).partition("\n")[0]
    return WeightsMismatch(f"it is no checkpoint of PyTorch: {text}", place=place, hint=_SAVE)


def is_torchscript(path: str) -> bool:
    """Return whether a file is an archive with a TorchScript program."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):  # no archive, or a damaged one
        return False


def _state_dicts(content: object) -> dict[str, Mapping[str, Tensor]]:
    """Return the state dicts in a checkpoint by their keys; "" for the checkpoint itself.

    Of averaged weights beside the trained ones only the user knows which are meant, so that no key is preferred.
    """
    if _is_state_dict(content):
        return {"": content}
    items = content.items() if isinstance(content, Mapping) else ()
    return {str(key): value for key, value in items if _is_state_dict(value)}


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())


def load_strictly(module: nn.Module, state: StateDict, place: str) -> None:
    """Load a state dict of which every tensor has its place; a prefix of all its keys, as of DataParallel, is dropped.

    Raises: WeightsMismatch with the keys that are missing, unknown, or of another shape.
    """
    own = module.state_dict()
    state = without_prefix(state, own)
    problems = [f"'{key}' is missing" for key in own if key not in state]
    problems += [f"'{key}' is unknown" for key in state if key not in own]
    problems += [
        f"'{key}' is {_shape(state[key])}, not {_shape(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        listed = "\n    ".join(["it does not fit the net:", *problems[:SHOWN], *more])
        raise WeightsMismatch(listed, place=place, hint="give the weights of this net, or the net of these weights")
    module.load_state_dict(state)


def without_prefix(state: StateDict, own: Mapping[str, Any]) -> StateDict:
    """Return the state dict with the keys of a module, where it has them below one more name (`module.`, `model.`)."""
    first = {key.partition(".")[0] for key in state}
    if len(first) != 1 or set(state) & set(own):
        return state
    return {key.partition(".")[2]: value for key, value in state.items()}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
