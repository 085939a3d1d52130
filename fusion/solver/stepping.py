"""Forward and backward of one iteration: through autograd, or as a flat list of operations traced once.

A small head spends more time in autograd's and the modules' bookkeeping than in arithmetic. Traced, an iteration is
the same operations in a straight line.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fusion.graph import Net
from fusion.nets import total_loss
from fusion.solver.arena import Arena
from fusion.solver.feeds import Blobs

Step = Callable[[Blobs], tuple[dict[str, Tensor], Tensor]]  # outputs and loss; gradients are left in the arena

# Layers without randomness and without a memory of earlier calls, so that one trace stands for all iterations.
TRACEABLE = frozenset(
    {
        *("AbsVal", "Accuracy", "BNLL", "BCTLoss", "Bias", "Clip", "Concat", "ELODILoss", "ELU", "Eltwise"),
        *("EuclideanLoss", "Exp", "Flatten", "FocalDistillationLoss", "HingeLoss", "InnerProduct", "KDLoss", "LDILoss"),
        *("Log", "LogitMatchingLoss", "NaivePCTLoss", "PReLU", "Power", "ReLU", "Reshape", "Scale", "Sigmoid"),
        *("SigmoidCrossEntropyLoss", "Silence", "Slice", "Softmax", "SoftmaxWithLoss", "Split", "Swish", "TanH"),
        "WeightedSum",
    }
)
_CLOSE = 1e-5


def eager(net: Net, arena: Arena) -> Step:
    """Through autograd; gradients are added to what the arena holds."""

    def step(blobs: Blobs) -> tuple[dict[str, Tensor], Tensor]:
        out = net(blobs)
        loss = total_loss(net, out)
        loss.backward()  # type: ignore[no-untyped-call]
        return out, loss.detach()

    return step


def traced(net: Net, arena: Arena, samples: tuple[Blobs, Blobs]) -> Step | None:
    """The same, from a trace; it overwrites the gradients. None where the net does not allow it.

    samples  two batches: the trace is made with one and must give autograd's gradients for both
    """
    if arena.single or not {call.type for call in net.plan.calls} <= TRACEABLE:
        return None
    params = [blob.tensor for blob, home in zip(arena.blobs, arena.homes, strict=True) if home is not None]
    if not all(isinstance(param, nn.Parameter) for param in params):
        return None
    try:
        step = _trace(net, arena, params, samples[0])
        agrees = all(_agrees(net, arena, step, blobs) for blobs in samples)
    except Exception:  # whatever a layer does that cannot be traced, autograd can do it
        agrees = False
    arena.zero()
    return step if agrees else None


def _trace(net: Net, arena: Arena, params: list[Tensor], sample: Blobs) -> Step:
    from torch.fx.experimental.proxy_tensor import make_fx

    keys = [key for key, _ in net.plan.inputs]
    names: list[str] = []

    def whole(*values: Tensor) -> list[Tensor]:
        out = net(dict(zip(keys, values, strict=True)))
        names[:] = out
        loss = total_loss(net, out)
        gradients = torch.autograd.grad(loss, params, allow_unused=True)
        used = [torch.zeros_like(p) if g is None else g for p, g in zip(params, gradients, strict=True)]
        return [*out.values(), loss.detach(), *used]

    program = make_fx(whole)(*(sample[key] for key in keys))
    _tidy(program)
    forward, count = program.forward, len(names)
    targets = _targets(arena)

    def step(blobs: Blobs) -> tuple[dict[str, Tensor], Tensor]:
        with torch.inference_mode():
            results = forward(*[blobs[key] for key in keys])
            gradients = results[count + 1 :]
            for flat, members in targets:
                torch.cat([gradients[i].reshape(-1) for i in members], out=flat)
        return dict(zip(names, results, strict=False)), results[count]

    return step


def _targets(arena: Arena) -> list[tuple[Tensor, list[int]]]:
    """Each flat gradient, and the numbers of the parameters that lie in it, in their order."""
    found: dict[Tensor, list[tuple[int, int]]] = {}
    homes = [home for home in arena.homes if home is not None]
    for index, (flat, start) in enumerate(homes):
        found.setdefault(flat, []).append((start, index))
    return [(flat.grad, [i for _, i in sorted(members)]) for flat, members in found.items() if flat.grad is not None]


def _tidy(program: torch.fx.GraphModule) -> None:
    """Drop what changes nothing, and compute once what is constant."""
    aten = torch.ops.aten
    constants: dict[torch.fx.Node, Tensor] = {}
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        value = node.meta.get("val")
        if node.target in (aten.alias.default, aten.detach.default) or _sums_scalar(node):
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten.view.default:
            _shorten_view(node)
        if node.target is aten.ones_like.default and value is not None:
            constants[node] = torch.ones(value.shape, dtype=value.dtype, device=value.device)
        elif node.all_input_nodes and all(source in constants for source in node.all_input_nodes):
            args = torch.fx.node.map_arg(node.args, lambda source: constants[source])
            constants[node] = node.target(*args, **node.kwargs)
    for number, (node, tensor) in enumerate(constants.items()):
        program.register_buffer(f"constant{number}", tensor)
        with program.graph.inserting_before(node):
            node.replace_all_uses_with(program.graph.get_attr(f"constant{number}"))
    program.graph.eliminate_dead_code()
    program.recompile()


def _sums_scalar(node: torch.fx.Node) -> bool:
    if node.target is not torch.ops.aten.sum.default or not isinstance(node.args[0], torch.fx.Node):
        return False
    value = node.args[0].meta.get("val")
    return value is not None and value.dim() == 0


def _shorten_view(node: torch.fx.Node) -> None:
    """A view of a view is a view; one to the shape that is there already is nothing."""
    source = node.args[0]
    while isinstance(source, torch.fx.Node) and source.target is torch.ops.aten.view.default:
        source = source.args[0]
    assert isinstance(source, torch.fx.Node)
    node.args = (source, *node.args[1:])
    before, after = source.meta.get("val"), node.meta.get("val")
    if before is not None and after is not None and before.shape == after.shape:
        node.replace_all_uses_with(source)


def _agrees(net: Net, arena: Arena, step: Step, blobs: Blobs) -> bool:
    """Whether the traced step gives autograd's loss and gradients for this batch."""
    arena.zero()
    _, expected = eager(net, arena)(blobs)
    gradients = [flat.grad.clone() for flat in arena.flat if flat.grad is not None]
    arena.zero()
    _, loss = step(blobs)
    own = [flat.grad for flat in arena.flat if flat.grad is not None]
    pairs = [(loss, expected), *zip(own, gradients, strict=True)]
    return all(_close(ours, theirs) for ours, theirs in pairs)


def _close(ours: Tensor, theirs: Tensor) -> bool:
    scale = theirs.abs().max().item()
    return bool((ours - theirs).abs().max().item() <= _CLOSE * scale)
