"""Values that are affine in scores and their softmax: how each operation of a trace makes one such form of others.

Sources: the gradients of log-softmax, of the negative log-likelihood and of squared distances, as in any textbook.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor, fx

aten = torch.ops.aten
Factor = float | fx.Node  # the same for all records, or [N, 1] or [N, C] of each record's own


class Basis(NamedTuple):
    """What a coefficient multiplies.

    scores   as they are, or of these:
    columns  only some columns
    softmax  their softmax
    into     and the product is added to these columns
    """

    scores: fx.Node
    columns: fx.Node | None = None
    softmax: bool = False
    into: fx.Node | None = None


@dataclass(frozen=True)
class Form:
    """The sum of each basis times its factor, and a rest.

    replaced  the operations of the trace that work it out
    """

    terms: Mapping[Basis, Factor]
    rest: Factor
    replaced: frozenset[fx.Node]


def is_matrix(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor of two axes with floating-point numbers."""
    return isinstance(value, Tensor) and value.dim() == 2 and value.is_floating_point()


def _is_one_number(values: Tensor) -> bool:
    return bool(values.numel() and (values == values.flatten()[0]).all())


class Reader:
    """Finds the form of one node from those of its arguments; what it needs is written in front of the node."""

    def __init__(
        self,
        program: fx.GraphModule,
        of_record: Collection[fx.Node],
        fixed: Collection[fx.Node],
        forms: Mapping[fx.Node, Form],
        node: fx.Node,
    ) -> None:
        self._program, self._forms, self._node = program, forms, node
        self._of_record, self._constants = of_record, fixed
        self._size: tuple[int, int] = tuple(node.meta["val"].shape)
        self._dtype: torch.dtype = node.meta["val"].dtype
        self._device: torch.device = node.meta["val"].device

    def form(self) -> Form | None:
        """The node's form, or None."""
        rule = _RULES.get(self._node.target)
        return rule(self, *self._node.args) if rule is not None and not self._node.kwargs else None

    def sum(self, one: object, other: object) -> Form | None:
        """one + other."""
        return self._join(one, other, self._add)

    def difference(self, one: object, other: object) -> Form | None:
        """one - other."""
        return self._join(one, other, lambda a, b: self._add(a, self._multiply(b, -1.0)))

    def reverse_difference(self, one: object, other: object) -> Form | None:
        """other - one."""
        return self.difference(other, one)

    def product(self, one: object, other: object) -> Form | None:
        """one * other, of which one is the same for all scores."""
        for mine, theirs in ((self._of(one), self._of(other)), (self._of(other), self._of(one))):
            if mine is not None and theirs is not None and not theirs.terms:
                factor, replaced = theirs.rest, mine.replaced | theirs.replaced | {self._node}
                terms = {basis: self._multiply(own, factor) for basis, own in mine.terms.items()}
                return Form(terms, self._multiply(mine.rest, factor), replaced)
        return None

    def negative(self, one: object) -> Form | None:
        """-one."""
        return self.product(one, -1.0)

    def choice(self, condition: object, one: object, other: object) -> Form | None:
        """One where the record says so, else the other."""
        if condition not in self._of_record:
            return None

        def choose(a: Factor, b: Factor) -> Factor:
            return a if a == b else self._call(aten.where.self, condition, self._as_node(a), self._as_node(b))

        return self._join(one, other, choose)

    def selection(self, source: object, axis: object, chosen: object) -> Form | None:
        """Some columns of scores."""
        if axis != 1 or self._fixed(chosen) is None or not isinstance(source, fx.Node) or source in self._of_record:
            return None
        assert isinstance(chosen, fx.Node)
        return Form({Basis(source, chosen): 1.0}, 0.0, frozenset((self._node,)))

    def spread(self, base: object, axis: object, chosen: object, values: object) -> Form | None:
        """Values added to some columns."""
        mine, theirs, numbers = self._of(base), self._of(values), self._fixed(chosen)
        if axis != 1 or mine is None or theirs is None or numbers is None:
            return None
        if any(basis.columns not in (None, chosen) or basis.softmax or basis.into for basis in theirs.terms):
            return None
        assert isinstance(chosen, fx.Node)
        places = torch.zeros(len(numbers), self._size[1], dtype=self._dtype, device=numbers.device)
        places[torch.arange(len(numbers)), numbers] = 1
        terms = dict(mine.terms)
        for basis, factor in theirs.terms.items():
            if basis.columns is None:
                placed = basis._replace(into=chosen)
                terms[placed] = self._add(terms.get(placed, 0.0), factor)
            else:
                whole = Basis(basis.scores)
                terms[whole] = self._add(terms.get(whole, 0.0), self._placed(factor, places))
        rest = self._add(mine.rest, self._placed(theirs.rest, places))
        return Form(terms, rest, mine.replaced | theirs.replaced | {self._node})

    def behind_softmax(self, gradient: object, output: object, axis: object, dtype: object) -> Form | None:
        """The gradient in front of a log-softmax: g - softmax * sum(g)."""
        mine = self._of(gradient)
        softmax = isinstance(output, fx.Node) and output.target is aten._log_softmax.default
        if mine is None or mine.terms or not softmax or axis != 1 or dtype is not self._dtype:
            return None
        assert isinstance(output, fx.Node)
        scores = output.args[0]
        assert isinstance(scores, fx.Node)
        total: Factor
        if isinstance(mine.rest, fx.Node) and mine.rest.meta["val"].shape[1] == self._size[1]:
            total = self._call(aten.sum.dim_IntList, mine.rest, [1], True, size=(self._size[0], 1))
        else:
            total = self._multiply(mine.rest, float(self._size[1]))
        terms = {Basis(scores, None, softmax=True): self._multiply(total, -1.0)}
        return Form(terms, mine.rest, mine.replaced | {self._node, output})

    def likelihood(
        self,
        gradient: object,
        scores: object,
        label: object,
        weight: object,
        reduction: object,
        ignored: object,
        _: object,
    ) -> Form | None:
        """The gradient of the negative log-likelihood, record by record: -g at the label, else 0."""
        fixed = self._fixed(gradient)
        alike = fixed is not None and _is_one_number(fixed)
        if label not in self._of_record or weight is not None or reduction != 0:
            return None
        if not (alike or (gradient in self._of_record and isinstance(gradient, fx.Node))):
            return None
        rows, classes = self._size
        assert isinstance(label, fx.Node)
        column = self._call(aten.unsqueeze.default, label, 1, size=(rows, 1), dtype=torch.int64)
        numbers = torch.arange(classes, device=self._device)[None]
        hit = self._call(aten.eq.Tensor, column, self._constant(numbers), dtype=torch.bool)
        if isinstance(ignored, int) and ignored >= 0:
            counts = self._call(aten.ne.Scalar, column, ignored, size=(rows, 1), dtype=torch.bool)
            hit = self._call(aten.bitwise_and.Tensor, hit, counts, dtype=torch.bool)
        if alike:
            assert fixed is not None
            each: Factor = -float(fixed.flatten()[0])
        else:
            each = self._multiply(self._call(aten.unsqueeze.default, gradient, 1, size=(rows, 1)), -1.0)
        rest = self._call(aten.where.ScalarOther, hit, self._as_node(each), 0.0)
        return Form({}, rest, frozenset((self._node,)))

    def _of(self, value: object) -> Form | None:
        """The form of an argument."""
        if isinstance(value, (int, float)):
            return Form({}, float(value), frozenset())
        if not isinstance(value, fx.Node):
            return None
        if value in self._forms:
            return self._forms[value]
        fixed, tensor = self._fixed(value), value.meta.get("val")
        if fixed is not None:
            return Form({}, float(fixed.flatten()[0]), frozenset()) if _is_one_number(fixed) else None
        if not is_matrix(tensor):
            return None
        if value in self._of_record:
            return Form({}, value, frozenset())
        return Form({Basis(value): 1.0}, 0.0, frozenset()) if tuple(tensor.shape) == self._size else None

    def _fixed(self, node: object) -> Tensor | None:
        """The value of a tensor that never changes."""
        if isinstance(node, fx.Node) and node in self._constants:
            found: Tensor = getattr(self._program, str(node.target))
            return found
        return None

    def _join(self, one: object, other: object, both: Callable[[Factor, Factor], Factor]) -> Form | None:
        mine, theirs = self._of(one), self._of(other)
        if mine is None or theirs is None:
            return None
        bases = dict.fromkeys((*mine.terms, *theirs.terms))
        terms = {basis: both(mine.terms.get(basis, 0.0), theirs.terms.get(basis, 0.0)) for basis in bases}
        return Form(terms, both(mine.rest, theirs.rest), mine.replaced | theirs.replaced | {self._node})

    def _add(self, one: Factor, other: Factor) -> Factor:
        if one == 0.0 or other == 0.0:
            return other if one == 0.0 else one
        if isinstance(one, float) and isinstance(other, float):
            return one + other
        one, other = (one, other) if isinstance(one, fx.Node) else (other, one)
        return self._call(aten.add.Tensor if isinstance(other, fx.Node) else aten.add.Scalar, one, other)

    def _multiply(self, one: Factor, other: Factor) -> Factor:
        if isinstance(one, float) and isinstance(other, float):
            return one * other
        one, other = (one, other) if isinstance(one, fx.Node) else (other, one)
        if isinstance(other, float) and other in (0.0, 1.0):
            return one if other else 0.0
        return self._call(aten.mul.Tensor if isinstance(other, fx.Node) else aten.mul.Scalar, one, other)

    def _placed(self, factor: Factor, places: Tensor) -> Factor:
        """A factor for some columns as one for all, 0 elsewhere."""
        if isinstance(factor, fx.Node) and factor.meta["val"].shape[1] == len(places):
            return self._call(aten.mm.default, factor, self._constant(places), size=self._size)
        row = places.sum(0, keepdim=True)
        if isinstance(factor, fx.Node):
            return self._multiply(self._constant(row), factor)
        return self._constant(row * factor) if factor else 0.0

    def _as_node(self, factor: Factor) -> fx.Node:
        if isinstance(factor, fx.Node):
            return factor
        return self._constant(torch.full((1, 1), factor, dtype=self._dtype, device=self._device))

    def _constant(self, value: Tensor) -> fx.Node:
        return constant(self._program, value)

    def _call(
        self, target: Any, *args: Any, size: tuple[int, int] | None = None, dtype: torch.dtype | None = None
    ) -> fx.Node:
        """A new operation; its size is that of its arguments together, unless it is told."""
        values = [arg.meta["val"] for arg in args if isinstance(arg, fx.Node)]
        shape = size or np.broadcast_shapes(*(tuple(value.shape) for value in values))  # torch's own imports SymPy
        node = self._program.graph.call_function(target, args)
        node.meta["val"] = torch.empty(shape, dtype=dtype or self._dtype, device=self._device)
        return node


_RULES: dict[Any, Callable[..., Form | None]] = {
    aten.add.Tensor: Reader.sum,
    aten.sub.Tensor: Reader.difference,
    aten.rsub.Scalar: Reader.reverse_difference,
    aten.mul.Tensor: Reader.product,
    aten.mul.Scalar: Reader.product,
    aten.neg.default: Reader.negative,
    aten.where.self: Reader.choice,
    aten.index_select.default: Reader.selection,
    aten.index_add.default: Reader.spread,
    aten._log_softmax_backward_data.default: Reader.behind_softmax,
    aten.nll_loss_backward.default: Reader.likelihood,
}


def constant(program: fx.GraphModule, value: Tensor) -> fx.Node:
    """A tensor kept in the trace, read where the graph is being written."""
    name = next(f"row{number}" for number in count() if not hasattr(program, f"row{number}"))
    program.register_buffer(name, value)
    node = program.graph.get_attr(name)
    node.meta["val"] = value
    return node
