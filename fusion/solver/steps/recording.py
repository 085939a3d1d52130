"""A function of tensors written down as it runs: the operations below autograd, as a torch.fx graph.

The same as `torch.fx.experimental.proxy_tensor.make_fx` gives for a function that asks no tensor for its numbers. That
one brings torch's compiler along from torch 2.14 on, and with it SymPy: one to two seconds and 150 MB of every run.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


def record(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    """The operations that make the function's results of these inputs, views and gradients among them.

    The results are a tensor, or lists, tuples and dicts of tensors. Tensors that the function takes from elsewhere
    become attributes of the program: the same tensors, so that it sees their present values. Each node's `meta["val"]`
    has the shape, the number type and the device of what the node makes, but neither its numbers nor its memory.

    Raises: ValueError where the function asks a tensor for its number or compares whole tensors, for the answer would
    be that of these inputs. `tolist` and `numpy` ask without being seen: check the program with other inputs.
    """
    recorder = _Recorder()
    for number, tensor in enumerate(inputs):
        recorder.note(tensor, recorder.graph.placeholder(f"input{number}"))
    with recorder:
        results = function(*inputs)
    recorder.graph.output(tree_map_only(Tensor, recorder.node, results))
    return fx.GraphModule(recorder.root, recorder.graph)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation that runs while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.root, self.graph = nn.Module(), fx.Graph()
        self._known: dict[int, tuple[Tensor, fx.Node]] = {}  # with the tensors, lest another takes over an address

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nobody compiles a function that is being recorded, so nothing need be kept from the compiler."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given: tuple[Any, dict[str, Any]] = tree_map_only(Tensor, self.node, (tuple(args), dict(kwargs or {})))
        made = func(*args, **(kwargs or {}))
        if isinstance(made, (bool, int, float)):
            raise ValueError("a step that asks tensors for a number cannot be recorded")
        self.note(made, self.graph.call_function(func, *given))
        return made

    def note(self, made: object, node: fx.Node) -> None:
        """Remember which node makes a tensor, or each tensor of a tuple or list."""
        if isinstance(made, Tensor):
            self._known[id(made)] = made, node
            node.meta["val"] = made.new_empty([1] * made.dim()).expand(made.shape)
        elif isinstance(made, (tuple, list)):
            for place, part in enumerate(made):
                self.note(part, self.graph.call_function(operator.getitem, (node, place)))

    def node(self, tensor: Tensor) -> fx.Node:
        """The node that makes a tensor; a new attribute where none does."""
        if id(tensor) not in self._known:
            name = f"tensor{len(self._known)}"
            self.root.register_buffer(name, tensor)
            self.note(tensor, self.graph.get_attr(name))
        return self._known[id(tensor)][1]
