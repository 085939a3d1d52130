"""A net's plan, the fx graph emitted from it, and `Net`, the module that runs it.

A *value* is the content of one top after one call. It has its blob's name; a version that an in-place layer replaces
later is called `blob@layer`, so that a plan is in single-assignment form and can be cut anywhere.
"""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fusion.errors import FusionError
from fusion.layers.registry import Phase


@dataclass(frozen=True)
class Call:
    """One layer in the order of execution.

    name, type  as in the prototxt
    path        the submodule that runs it
    bottoms     values that it reads
    tops        values that it computes
    blocked     indices of bottoms that get no gradient (propagate_down: false)
    portable    each sample's tops depend on that sample alone, no matter when they are computed, and nothing in the
                layer learns
    """

    name: str
    type: str
    path: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    blocked: tuple[int, ...] = ()
    portable: bool = False


@dataclass(frozen=True)
class Param:
    """One blob of a layer: a parameter or a statistic.

    attribute  path of the tensor below the net
    lr_mult, decay_mult  as in the prototxt; 0 for BatchNorm's statistics
    name       under which layers share it, or ""
    shared     the tensor belongs to an earlier layer of that name
    """

    layer: str
    path: str
    index: int
    attribute: str
    lr_mult: float
    decay_mult: float
    name: str = ""
    shared: bool = False


@dataclass(frozen=True)
class NetPlan:
    """A net as data; every change of a net makes a new plan for the same submodules.

    inputs        key in the dict of inputs -> value
    outputs       key in the dict of outputs -> value
    blobs         Caffe's blob name -> its final value
    loss_weights  value -> weight in the loss
    """

    name: str
    phase: Phase
    calls: tuple[Call, ...]
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    blobs: tuple[tuple[str, str], ...]
    loss_weights: tuple[tuple[str, float], ...] = ()
    params: tuple[Param, ...] = ()


class Net(fx.GraphModule):
    """A net that runs Caffe's layers: `net({input: tensor}) -> {output blob: tensor}`.

    The submodule of layer `odd/conv1` is `net.odd.conv1`; `print(net.code)` shows the program. The phase is fixed when
    the net is built, as in Caffe: `train()` and `eval()` change nothing.
    """

    plan: NetPlan

    def __init__(self, modules: Mapping[str, nn.Module], plan: NetPlan) -> None:
        super().__init__(dict(modules), emit_graph(plan), class_name="Net")
        self.plan = plan
        self.train(plan.phase == "TRAIN")

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the net. Raises: FusionError naming inputs that are missing, or the layer whose bottoms do not fit it."""
        try:
            result: dict[str, Tensor] = super().__call__(inputs)
        except KeyError:  # the program indexes the dict of inputs; only a failure is worth the search for the reason
            missing = [key for key in needed_inputs(self.plan) if key not in inputs]
            if not missing:
                raise
            raise FusionError(
                f"net '{self.plan.name}' needs the inputs {', '.join(map(repr, missing))}",
                hint=f"it was given {', '.join(map(repr, inputs)) or 'none'}",
            ) from None
        except (RuntimeError, IndexError, ValueError) as error:
            call = self._failing(error.__traceback__)
            if call is None or isinstance(error, torch.OutOfMemoryError):
                raise
            bottoms = ", ".join(map(repr, call.bottoms))
            raise FusionError(f"layer '{call.name}' ({call.type}) fails on {bottoms}: {error}") from error
        return result

    def _failing(self, trace: TracebackType | None) -> Call | None:
        """Return the call of the module that is on the stack of the error."""
        calls = {id(self.get_submodule(call.path)): call for call in self.plan.calls}
        found = None
        while trace is not None and found is None:
            found = calls.get(id(trace.tb_frame.f_locals.get("self")))
            trace = trace.tb_next
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Net:
        # fx copies the submodules and the graph, but no other attributes
        copied: Net = super().__deepcopy__(memo)  # type: ignore[assignment]
        copied.plan = self.plan
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return Net, (modules_by_path(self), self.plan)  # the program is emitted again instead of pickled as source


def run(net: Net, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute every value by name from the given inputs, with the calls of the net's program; gradients flow."""
    values = {value: inputs[key] for key, value in net.plan.inputs if key in inputs}
    for call in net.plan.calls:
        missing = [value for value in call.bottoms if value not in values]
        if missing:
            raise FusionError(f"layer '{call.name}' needs the input '{missing[0]}'")
        bottoms = [values[value] for value in call.bottoms]
        for index in call.blocked:
            bottoms[index] = bottoms[index].detach()
        tops = net.get_submodule(call.path)(*bottoms)
        values.update(zip(call.tops, (tops,) if len(call.tops) == 1 else tops, strict=True))
    return values


def modules_by_path(net: Net) -> dict[str, nn.Module]:
    """Return the submodules by path, each once, in the order of execution."""
    return {call.path: net.get_submodule(call.path) for call in net.plan.calls}


def with_outputs(net: Net, outputs: Mapping[str, str], given: Collection[str] = ()) -> Net:
    """Return a net of the same submodules with these values as outputs, by key, and only the calls they need.

    given  values that become inputs under their own names instead of being computed
    """
    # From the last call to the first, so that every reader of a value is known when its call is reached.
    needed = set(outputs.values())
    calls = []
    for call in reversed(net.plan.calls):
        if needed.intersection(call.tops) and not needed.intersection(call.tops) <= set(given):
            needed.update(call.bottoms)
            calls.append(call)
    inputs = [pair for pair in net.plan.inputs if pair[1] in needed]
    inputs += [(value, value) for value in given if value in needed and value not in dict(inputs).values()]
    return sub_net(net, calls[::-1], inputs, outputs.items())


def sub_net(
    net: Net, calls: Sequence[Call], inputs: Iterable[tuple[str, str]], outputs: Iterable[tuple[str, str]]
) -> Net:
    """Return a net of some of the calls, with the submodules, blobs, losses and parameters that belong to them."""
    inputs = tuple(inputs)
    values = {value for _, value in inputs} | {top for call in calls for top in call.tops}
    paths = {call.path for call in calls}
    plan = replace(
        net.plan,
        calls=tuple(calls),
        inputs=inputs,
        outputs=tuple(outputs),
        blobs=tuple(pair for pair in net.plan.blobs if pair[1] in values),
        loss_weights=tuple(pair for pair in net.plan.loss_weights if pair[0] in values),
        params=tuple(param for param in net.plan.params if param.path in paths),
    )
    return Net({call.path: net.get_submodule(call.path) for call in calls}, plan)


def emit_graph(plan: NetPlan) -> fx.Graph:
    """Return the plan as an fx graph: a node per needed input and call, and one per top of calls with several."""
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    inputs = graph.placeholder("inputs", dict[str, Tensor])
    needed = needed_inputs(plan)
    for key, value in plan.inputs:
        if key in needed:
            nodes[value] = _item(graph, inputs, key, key)
    for call in plan.calls:
        bottoms = [nodes[value] for value in call.bottoms]
        for index in call.blocked:
            bottoms[index] = graph.call_method("detach", (bottoms[index],))
        # The code is to read like the prototxt: a variable has its blob's name, in-place layers have their own.
        fresh = len(call.tops) == 1 and "@" not in call.tops[0] and not _replaces(call)
        name = call.tops[0] if fresh else call.name or call.type
        node = graph.create_node("call_module", call.path, tuple(bottoms), {}, _variable(name))
        if len(call.tops) == 1:
            nodes[call.tops[0]] = node
        else:
            for index, value in enumerate(call.tops):
                nodes[value] = _item(graph, node, index, value)
    graph.output({key: nodes[value] for key, value in plan.outputs})
    return graph


def needed_inputs(plan: NetPlan) -> tuple[str, ...]:
    """Return the keys of the inputs that a layer reads or that are outputs."""
    read = {value for call in plan.calls for value in call.bottoms} | {value for _, value in plan.outputs}
    return tuple(key for key, value in plan.inputs if value in read)


def _item(graph: fx.Graph, source: fx.Node, key: str | int, name: str) -> fx.Node:
    return graph.create_node("call_function", operator.getitem, (source, key), {}, _variable(name))


def _variable(name: str) -> str:
    """Return a Python name that resembles the blob's or layer's."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
    return f"_{text}" if text[0].isdigit() else text


def _replaces(call: Call) -> bool:
    """Return whether the layer works in place: one of its bottoms is an earlier version of its top."""
    return any(bottom.rpartition("@")[0] == top for bottom in call.bottoms for top in call.tops)


def submodule_paths(names: Iterable[tuple[str, str]]) -> list[str]:
    """Return a submodule path for every (layer name, type), unique and free of torch's own attribute names.

    `odd/conv1` becomes `odd.conv1`. Other characters become `_`; a layer whose name is also another one's prefix, a
    keyword, an attribute of nn.Module, or in use already gets the suffix `_`, then a number.
    """
    pairs = list(names)
    split = [[_identifier(part) for part in (name or kind.lower() or "layer").split("/")] for name, kind in pairs]
    # A module cannot be both a layer and the folder of other layers.
    folders = {tuple(parts[:end]) for parts in split for end in range(1, len(parts))}
    used: set[tuple[str, ...]] = set()
    paths = []
    for parts in split:
        path, tries = tuple(parts), 1
        while path in folders or path in used:
            path = (*parts[:-1], f"{parts[-1]}_{tries if tries > 1 else ''}")
            tries += 1
        used.add(path)
        paths.append(".".join(path))
    return paths


_RESERVED = frozenset(dir(fx.GraphModule)) | frozenset(vars(fx.GraphModule(nn.Module(), fx.Graph()))) | {"plan"}


def _identifier(part: str) -> str:
    text = re.sub(r"\W", "_", part, flags=re.ASCII) or "_"
    if text[0].isdigit():
        text = f"_{text}"
    return f"{text}_" if text in _RESERVED or keyword.iskeyword(text) else text
