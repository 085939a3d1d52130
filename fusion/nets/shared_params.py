"""The blobs of a layer's module: their settings in the prototxt, and one tensor for those that share a name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fusion.nets.graph import Param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


@dataclass(frozen=True)
class Owner:
    """The first blob of a shared name; rates are None where its layers leave them open."""

    layer: str
    index: int
    tensor: Tensor
    lr_mult: float | None
    decay_mult: float | None


class Reshaped(nn.Module):
    """A module that reads some of its blobs from tensors of another shape (share_mode: PERMISSIVE).

    caffe_params  attribute names in this module
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.caffe_params: tuple[str, ...] = tuple(f"module.{name}" for name in caffe_params(module))
        self.shapes: dict[str, torch.Size] = {}

    def adopt(self, index: int, tensor: Tensor, shape: torch.Size) -> None:
        """Read the module's blob `index` from `tensor`, viewed in `shape`."""
        name = self.caffe_params[index].removeprefix("module.")
        setattr(self.module, name, None)  # the optimizer and the weights must not find the module's own tensor
        setattr(self, f"shared_{name}", tensor)
        self.shapes[name] = shape
        self.caffe_params = (*self.caffe_params[:index], f"shared_{name}", *self.caffe_params[index + 1 :])

    def forward(self, *bottoms: Tensor) -> Any:
        """Run the module with the shared blobs viewed in its own shapes."""
        own = {name: getattr(self, f"shared_{name}").view(shape) for name, shape in self.shapes.items()}
        return torch.func.functional_call(self.module, own, bottoms)


def caffe_params(module: nn.Module) -> tuple[str, ...]:
    """Return the attributes that hold the module's blobs, in Caffe's order."""
    names: tuple[str, ...] = getattr(module, "caffe_params", ())
    return names


def tensor_by_path(module: nn.Module, attribute: str) -> Tensor:
    """Return the parameter or buffer at a dotted path."""
    folder, _, name = attribute.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(folder), name)
    return tensor


def set_tensor_by_path(module: nn.Module, attribute: str, tensor: Tensor) -> None:
    """Replace the parameter or buffer at a dotted path."""
    folder, _, name = attribute.rpartition(".")
    setattr(module.get_submodule(folder), name, tensor)


def share_params(
    module: nn.Module, layer: LayerParameter, path: str, owners: dict[str, Owner]
) -> tuple[nn.Module, list[Param]]:
    """Give the module the shared tensors that its `param` blocks name, and list its blobs.

    module  as built
    owners  by name; grows
    returns the module, wrapped where a shared blob has another shape, and its blobs in Caffe's order

    Shape inference has checked that the shapes and rates agree.
    """
    shared = [_join_owner(module, layer, index, owners) for index in range(len(caffe_params(module)))]
    for index, owner in enumerate(shared):  # the owner itself keeps its tensor
        if owner is not None and owner.tensor is not tensor_by_path(module, caffe_params(module)[index]):
            module = _adopt(module, index, owner.tensor)
    params = []
    for index, attribute in enumerate(caffe_params(module)):
        spec = layer.param[index] if index < len(layer.param) else None
        learns = isinstance(tensor_by_path(module, attribute), nn.Parameter)
        lr_mult = (spec.lr_mult if spec else 1.0) if learns else 0.0
        params.append(
            Param(
                layer.name,
                path,
                index,
                f"{path}.{attribute}",
                lr_mult,
                spec.decay_mult if spec else 1.0,
                spec.name if spec else "",
            )
        )
    return module, params


def resolve_rates(params: list[Param], modules: dict[str, nn.Module], owners: dict[str, Owner]) -> list[Param]:
    """Return the blobs with the final rates of their shared names; turn gradients off for those of rate 0."""
    resolved = []
    for param in params:
        owner = owners.get(param.name) if param.name else None
        if owner is not None:
            first = (param.layer, param.index) == (owner.layer, owner.index)
            param = replace(
                param,
                lr_mult=1.0 if owner.lr_mult is None else owner.lr_mult,
                decay_mult=1.0 if owner.decay_mult is None else owner.decay_mult,
                shared=not first,
            )
        tensor = tensor_by_path(modules[param.path], param.attribute[len(param.path) + 1 :])
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(param.lr_mult != 0)
        resolved.append(param)
    return resolved


def _join_owner(module: nn.Module, layer: LayerParameter, index: int, owners: dict[str, Owner]) -> Owner | None:
    """Return the owner of the shared name of the layer's blob `index`, if it has one; the first blob becomes it."""
    if index >= len(layer.param) or not layer.param[index].name:
        return None
    spec = layer.param[index]
    tensor = tensor_by_path(module, caffe_params(module)[index])
    owners[spec.name] = _merge_rates(owners.get(spec.name), layer, index, tensor)
    return owners[spec.name]


def _merge_rates(owner: Owner | None, layer: LayerParameter, index: int, tensor: Tensor) -> Owner:
    """Return the owner after this layer has joined: a rate that only one of them states is valid for both."""
    spec = layer.param[index]
    lr_mult = spec.lr_mult if spec.HasField("lr_mult") else None
    decay_mult = spec.decay_mult if spec.HasField("decay_mult") else None
    if owner is None:
        return Owner(layer.name, index, tensor, lr_mult, decay_mult)
    return Owner(
        owner.layer,
        owner.index,
        owner.tensor,
        lr_mult if owner.lr_mult is None else owner.lr_mult,
        decay_mult if owner.decay_mult is None else owner.decay_mult,
    )


def _adopt(module: nn.Module, index: int, tensor: Tensor) -> nn.Module:
    """Replace the module's own blob by the owner's tensor, with a wrapper where the shapes differ."""
    attribute = caffe_params(module)[index]
    shape = tensor_by_path(module, attribute).shape
    if tensor.shape == shape:
        set_tensor_by_path(module, attribute, tensor)
        return module
    wrapped = module if isinstance(module, Reshaped) else Reshaped(module)
    wrapped.adopt(index, tensor, shape)
    return wrapped
