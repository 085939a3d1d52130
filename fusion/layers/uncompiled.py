"""Layers that torch.compile must leave alone, because they do what it cannot follow."""

from __future__ import annotations

import torch
from torch import nn

_KEPT: set[type[nn.Module]] = set()


def keep_from_compiler(kind: type[nn.Module]) -> None:
    """Let torch.compile run modules of this kind as they are.

    Called when the first is made and not above the method: the compiler takes two seconds to import, of every command.
    """
    if kind not in _KEPT:
        _KEPT.add(kind)
        kind.forward = torch.compiler.disable(kind.forward)  # type: ignore[no-untyped-call, unused-ignore]
