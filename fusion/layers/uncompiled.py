"""Layers that torch.compile must not trace, because they have side effects or run foreign code."""

from __future__ import annotations

import torch
from torch import nn

_KEPT: set[type[nn.Module]] = set()


def keep_from_compiler(kind: type[nn.Module]) -> None:
    """Make torch.compile run modules of this type untraced."""
    # Called by the first instance instead of decorating the method: importing the compiler costs every command 2 s.
    if kind not in _KEPT:
        _KEPT.add(kind)
        kind.forward = torch.compiler.disable(kind.forward)  # type: ignore[no-untyped-call, unused-ignore]
