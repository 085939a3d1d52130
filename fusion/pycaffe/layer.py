"""The layers of a net, run one at a time on the memory of its blobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion.layers.pycaffe import Blob, Blobs, UserLayer
from fusion.pycaffe.errors import CaffeError
from fusion.stand_in import stand_in

if TYPE_CHECKING:
    from fusion.pycaffe.connections import Ends

_SAME_IN_PLACE = ("ReLU", "Dropout")  # their gradient is the same from their tops
_CARRYING = ("LSTM", "RNN")  # a second call would continue from the state after the first
Run = tuple[Sequence[Tensor], Sequence[Tensor]]  # bottoms and tops of a call that autograd has recorded


class NetLayer:
    """A layer as `net.layers` lists it.

    blobs        those that it learns or stores
    bottom, top  those that it reads and makes; the same ones where it works in place
    """

    def __init__(self, ends: Ends, blobs: Mapping[str, Blob], own: Blobs) -> None:
        self.ends, self.blobs = ends, own
        self.bottom = [blobs[name] for name in ends.bottoms]
        self.top = [blobs[name] for name in ends.tops]
        self.copies = [(blobs[changed], blobs[other]) for changed, other in ends.copies]
        self.fill_losses()

    @property
    def name(self) -> str:
        """Return the layer's name."""
        return self.ends.layer.name

    @property
    def type(self) -> str:
        """Return the layer's type."""
        return self.ends.layer.type

    @property
    def shown(self) -> NetLayer | UserLayer:
        """Return the object that `net.layers` has: a user's own one for a Python layer."""
        return self

    def forward(self) -> float:
        """Fill the tops from the bottoms; returns the layer's part of the loss."""
        self.run_forward()
        for changed, other in self.copies:
            other.values.write().copy_(changed.values.read().view(other.shape))
        pairs = zip(self.top, self.ends.weights, strict=False)
        return sum(weight * float(top.values.read().sum()) for top, weight in pairs if weight)

    def backward(self, written: set[str]) -> None:
        """Compute the gradients of bottoms and blobs from those of the tops.

        written  values whose gradients a later layer has computed in this pass, to which this one's are added; grows
        """
        if self.ends.backward and self.ends.call is not None:
            self.run_backward(written)

    def run_forward(self) -> None:
        """Do nothing: a script fills the tops of a layer without data of its own."""

    def run_backward(self, written: set[str]) -> None:
        """Do nothing: nothing lies below a data layer."""

    def fill_top(self, index: int, values: Tensor) -> None:
        """Copy a result into the memory of a top, which takes its shape."""
        top = self.top[index]
        if top.shape != values.shape:
            top.reshape(*values.shape)
            self.fill_losses()
        target = top.values.write()
        if target.data_ptr() != values.data_ptr():  # the module may return its bottom as it is
            target.copy_(values)

    def add_gradient(self, index: int, gradient: Tensor | None, written: set[str]) -> None:
        """Set the gradient of a bottom, None for 0, or add to it where other layers read the same value."""
        value, target = self.ends.reads[index], self.bottom[index].gradients.write()
        if value in written:
            if gradient is not None:
                target.add_(gradient)
        elif gradient is None:
            target.zero_()
        else:
            target.copy_(gradient)
        written.add(value)

    def fill_losses(self) -> None:
        """Set the gradient of each loss to its weight, where Caffe keeps it too."""
        for top, weight in zip(self.top, self.ends.weights, strict=False):
            if weight:
                top.gradients.write().fill_(weight)


class ModuleLayer(NetLayer):
    """A layer that a torch module computes.

    records  tells whether autograd records the forward pass, given whether a backward pass may run the module again
             instead: an in-place layer has lost its bottom by then
    """

    def __init__(
        self, ends: Ends, blobs: Mapping[str, Blob], own: Blobs, module: nn.Module, records: Callable[[bool], bool]
    ) -> None:
        super().__init__(ends, blobs, own)
        self.module = module
        self._in_place = {i for i, name in enumerate(ends.bottoms) if name in ends.tops}
        self._repeats = not (self._in_place and self.type not in _SAME_IN_PLACE) and self.type not in _CARRYING
        self._records = ends.backward and records(self._repeats)
        self._recorded: Run | None = None

    def run_forward(self) -> None:
        """Fill the tops by a call of the module."""
        self._recorded = None
        self._synchronize()
        if self._records:
            self._recorded = self._record()
            results: Sequence[Tensor] = self._recorded[1]
        else:
            with torch.no_grad():
                results = self._call([blob.values.read() for blob in self.bottom])
        for index, values in enumerate(results):
            self.fill_top(index, values.detach())

    def run_backward(self, written: set[str]) -> None:
        """Compute the gradients by autograd."""
        self._synchronize()
        if not self._recorded and not self._repeats:
            text = f"layer '{self.name}' ({self.type}) has changed the values that its gradient needs"
            raise CaffeError(
                text, hint="add force_backward: true to the net, which Caffe needs here too, and run forward"
            )
        bottoms, tops = self._recorded or self._record()
        wanted = [index for index, need in enumerate(self.ends.needs) if need]
        learned = [(blob, own) for blob in self.blobs if (own := blob.parameter) is not None and own.requires_grad]
        targets = [bottoms[index] for index in wanted] + [own for _, own in learned]
        ends = [(top, blob.gradients.read()) for top, blob in zip(tops, self.top, strict=True) if top.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(targets)
        if ends and targets:
            # The graph is kept: a second backward pass is possible in Caffe.
            outputs, gradients = zip(*ends, strict=True)
            found = torch.autograd.grad(outputs, targets, gradients, retain_graph=True, allow_unused=True)
        for index, gradient in zip(wanted, found, strict=False):
            self.add_gradient(index, gradient, written)
        for (blob, _), gradient in zip(learned, found[len(wanted) :], strict=True):
            if gradient is not None:
                blob.gradients.write().add_(gradient)

    def _record(self) -> Run:
        bottoms = []
        for index, blob in enumerate(self.bottom):
            # `data` has a version counter of its own: a script may write blobs between forward and backward
            values = blob.values.read().data
            values = values.clone() if index in self._in_place else values
            bottoms.append(values.requires_grad_(self.ends.needs[index]))
        with torch.enable_grad():
            return bottoms, self._call(bottoms)

    def _call(self, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
        try:
            tops: Tensor | tuple[Tensor, ...] = self.module(*bottoms)
        except (RuntimeError, IndexError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            shapes = ", ".join(
                f"{name} {blob.shape}" for name, blob in zip(self.ends.bottoms, self.bottom, strict=True)
            )
            raise CaffeError(f"layer '{self.name}' ({self.type}) fails on {shapes}: {error}") from error
        return tops if isinstance(tops, tuple) else (tops,)

    def _synchronize(self) -> None:
        """Bring a script's changes of the layer's blobs to the GPU, where the module may change statistics itself."""
        for blob in self.blobs:
            blob.values.read() if isinstance(blob.parameter, nn.Parameter) else blob.values.write()


class PythonRun(NetLayer):
    """A user's Python layer, which works on the blobs themselves, as in Caffe."""

    def __init__(self, ends: Ends, blobs: Mapping[str, Blob], user: UserLayer) -> None:
        super().__init__(ends, blobs, user.blobs)
        self.user = user

    @property
    def shown(self) -> UserLayer:
        """Return the user's object."""
        return self.user

    def run_forward(self) -> None:
        """Let the user's code shape and fill the tops."""
        with stand_in():
            self.user.reshape(self.bottom, self.top)
            self.user.forward(self.bottom, self.top)

    def run_backward(self, written: set[str]) -> None:
        """Let the user's code fill the gradients of the bottoms and add to those of the blobs."""
        if not hasattr(self.user, "backward"):
            hint = "define it, or set propagate_down: false"
            raise CaffeError(f"layer '{self.name}': its class has no backward", hint=hint)
        # A gradient that other layers have computed before is no place for this one's.
        apart = self._bottoms_apart(written)
        bottoms = [apart.get(index, blob) for index, blob in enumerate(self.bottom)]
        with stand_in():
            self.user.backward(self.top, list(self.ends.needs), bottoms)
        for index, need in enumerate(self.ends.needs):
            if index in apart:
                self.add_gradient(index, apart[index].gradients.read(), written)
            elif need:
                written.add(self.ends.reads[index])

    def _bottoms_apart(self, written: Collection[str]) -> dict[int, Blob]:
        """Return blobs with gradients of their own for bottoms with several readers, by index."""
        apart = {}
        for index, (value, need) in enumerate(zip(self.ends.reads, self.ends.needs, strict=True)):
            if need and (value in written or value in self.ends.reads[:index]):
                apart[index] = Blob(*self.bottom[index].shape)
                apart[index].share_values(self.bottom[index])
        return apart
