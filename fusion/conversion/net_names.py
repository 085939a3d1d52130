"""What the name of a net says about its kind."""

from __future__ import annotations

import os
import re

PathLike = str | os.PathLike[str]

LIBRARIES = ("torchvision", "timm")
TORCH_NET = "torchvision:NAME:WEIGHTS, timm:NAME:WEIGHTS, FILE.py:NAME:WEIGHTS or FILE.pt2"
"""The forms of a PyTorch net, for hints and help."""
_CLASS = re.compile(r".+\.py:\w+")
_TORCH_FILES = (".pt", ".pth", ".pt2", ".ckpt")


def is_onnx_path(path: PathLike) -> bool:
    """Return whether the name is that of an ONNX file."""
    return os.fspath(path).lower().endswith(".onnx")


def is_torch_net(name: PathLike) -> bool:
    """Return whether the name is that of a PyTorch net, or of a file as torch saves them."""
    text = os.fspath(name)
    return text.partition(":")[0] in LIBRARIES or bool(_CLASS.match(text)) or text.lower().endswith(_TORCH_FILES)


def net_files(name: PathLike) -> tuple[str, ...]:
    """Return the files that a net is read from: one, or those in the name of a PyTorch net."""
    text = os.fspath(name)
    if text.partition(":")[0] in LIBRARIES:
        return tuple(filter(None, [text.split(":", 2)[-1]] if text.count(":") > 1 else []))
    file, dot, rest = text.partition(".py:")
    return (f"{file}.py", *filter(None, [rest.partition(":")[2]])) if dot else (text,)


def holds_its_weights(name: PathLike) -> bool:
    """Return whether a net needs no file of weights beside it, as an ONNX file and a PyTorch net."""
    return is_onnx_path(name) or is_torch_net(name)
