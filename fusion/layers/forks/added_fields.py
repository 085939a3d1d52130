"""Fields that forks add to Caffe's own layers: each is supported or an error, never ignored.

Sources: NVIDIA/caffe (`scale_bias`, `scale_filler`, `frozen`), alexgkendall/caffe-segnet (`class_weighting`,
`weight_by_label_freqs`, `sample_weights_test`), happynear/caffe-windows (`normalize` of InnerProduct). `ceil_mode`,
`torch_pooling` and `hole` are read where shapes are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.errors import BuildError
from fusion.layers.dense import InnerProduct
from fusion.layers.dropout import Dropout
from fusion.layers.losses import SoftmaxWithLoss
from fusion.layers.normalization import BatchNorm
from fusion.layers.registry import Context
from prototxt.schema import forks
from prototxt.schema.params import affine_batch_norm

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from prototxt.schema.messages import LayerParameter

Variant = Callable[["LayerParameter", Context, nn.Module, Any], nn.Module]

HARMLESS = frozenset(
    {"engine", "reshape_every_iter", "split_param", "ceil_mode", "torch_pooling", "hole", "hole_h", "hole_w"}
)
"""Fields that change no number, or that shape inference and the builders read themselves."""


class AffineBatchNorm(BatchNorm):
    """BatchNorm followed by its own scale and bias.

    scale, bias  [C]
    """

    caffe_params = ("mean", "variance", "factor", "scale", "bias")  # type: ignore[assignment]

    def __init__(self, plain: BatchNorm, scale: nn.Parameter, bias: nn.Parameter) -> None:
        super().__init__(plain.mean.shape[0], plain.use_global, plain.fraction, plain.eps)
        self.scale, self.bias = scale, bias

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, ...] to the same shape."""
        shape = (1, -1, *[1] * (x.dim() - 2))
        return super().forward(x) * self.scale.reshape(shape) + self.bias.reshape(shape)


def _batch_norm(layer: LayerParameter, context: Context, module: nn.Module, own: Any) -> nn.Module:
    plain = cast("BatchNorm", module)
    if own.frozen:  # stored statistics in TRAIN too
        plain.use_global = True
    if not affine_batch_norm(layer):
        return plain
    scale = context.parameter(3, own.scale_filler if own.HasField("scale_filler") else 1.0)
    bias = context.parameter(4, own.bias_filler if own.HasField("bias_filler") else 0.0)
    return AffineBatchNorm(plain, scale, bias)


class UnitInnerProduct(InnerProduct):
    """An inner product with weights of length 1 per output."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [*batch, *sample] to [*batch, num_output]."""
        weight = F.normalize(self.weight, dim=0 if self.transpose else 1)
        return F.linear(x.flatten(self.axis), weight.T if self.transpose else weight, self.bias)


def _inner_product(layer: LayerParameter, context: Context, module: nn.Module, own: Any) -> nn.Module:
    plain = cast("InnerProduct", module)
    if own.normalize_scale:
        raise _refused(layer, "inner_product_param.normalize_scale")
    return UnitInnerProduct(plain.weight, plain.bias, plain.axis, plain.transpose) if own.normalize else plain


class UnscaledDropout(nn.Module):
    """Zeroes elements at random in TRAIN without scaling; TEST scales by 1 - ratio."""

    def __init__(self, ratio: float, train: bool) -> None:
        super().__init__()
        self.ratio, self.train_phase = ratio, train

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return F.dropout(x, self.ratio, training=True) * (1 - self.ratio) if self.train_phase else x * (1 - self.ratio)


def _dropout(layer: LayerParameter, context: Context, module: nn.Module, own: Any) -> nn.Module:
    ratio = layer.dropout_param.dropout_ratio
    if not own.scale_train:
        return UnscaledDropout(ratio, train=context.phase == "TRAIN")
    return Dropout(ratio) if own.sample_weights_test else module


class WeightedSoftmaxWithLoss(nn.Module):
    """The softmax loss with a weight per class; the divisor counts labels without their weights.

    weight  [C]
    """

    weight: Tensor

    def __init__(self, plain: SoftmaxWithLoss, weight: Tensor) -> None:
        super().__init__()
        self.plain = plain
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map scores [*outer, C, *inner] and labels [outer * inner], of any dtype, to a scalar."""
        return self.plain(x, label, self.weight)  # type: ignore[no-any-return]


def _softmax_loss(layer: LayerParameter, context: Context, module: nn.Module, own: Any) -> nn.Module:
    if own.weight_source or own.focal_gamma:
        raise _refused(layer, "loss_param.weight_source" if own.weight_source else "loss_param.focal_gamma")
    if not own.weight_by_label_freqs:
        return module
    classes = context.bottoms[0][layer.softmax_param.axis]
    if len(own.class_weighting) != classes:
        raise BuildError(
            f"layer '{layer.name}': {len(own.class_weighting)} class_weighting for {classes} classes",
            hint="give one for each class, or remove weight_by_label_freqs",
        )
    return WeightedSoftmaxWithLoss(cast("SoftmaxWithLoss", module), torch.tensor(list(own.class_weighting)))


_VARIANTS: dict[tuple[str, str], Variant] = {
    ("BatchNorm", "batch_norm_param"): _batch_norm,
    ("InnerProduct", "inner_product_param"): _inner_product,
    ("Dropout", "dropout_param"): _dropout,
    ("SoftmaxWithLoss", "loss_param"): _softmax_loss,
}


def vary(layer: LayerParameter, context: Context, module: nn.Module) -> nn.Module:
    """Adapt the module to the fork fields in the layer's messages.

    Raises: BuildError for an unsupported field.
    """
    if any(forks.fields(spec).freeze for spec in layer.param):
        raise BuildError(f"layer '{layer.name}': param.freeze is a fork's field", hint="write lr_mult: 0 instead")
    for descriptor, value in layer.ListFields():
        if descriptor.message_type is None or descriptor.is_extension or not hasattr(value, "DESCRIPTOR"):
            continue  # repeated messages have no DESCRIPTOR
        message = cast("Message", value)
        if forks.extension_of(message.DESCRIPTOR) is None or not forks.has_fields(message):
            continue
        own = forks.fields(message)
        variant = _VARIANTS.get((layer.type, descriptor.name))
        if variant is not None:
            module = variant(layer, context, module, own)
            continue
        unknown = [field.name for field, _ in own.ListFields() if field.name not in HARMLESS]
        if unknown:
            raise _refused(layer, f"{descriptor.name}.{unknown[0]}")
    return module


def _refused(layer: LayerParameter, field: str) -> BuildError:
    return BuildError(
        f"layer '{layer.name}': {field} is a fork's field that {layer.type} does not support",
        hint="remove it if the net does not need it, or register your own builder",
    )
