"""The number of parameter blobs of a layer, from its description alone: text or message, of any version.

Freezing needs the exact number: Caffe aborts on a layer with more `param {}` blocks than blobs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from prototxt.schema.legacy import FORK_V1_TYPES, PADDING, V0_TYPES, V1_TYPES
from prototxt.text.tree import Message

# V1's enum and V0's strings -> current type; some files write the enum in lower case.
OLD_TYPES: Final = {
    **FORK_V1_TYPES,
    **V1_TYPES,
    **{old.lower(): new for old, new in V1_TYPES.items()},
    **{old: V1_TYPES[new] for old, new in V0_TYPES.items()},
    PADDING: "Padding",
}

_CAFFE_DATA = ("Data", "ImageData", "HDF5Data", "MemoryData", "DummyData", "WindowData", "Input")
_FORK_DATA = ("AnnotatedData", "DenseImageData", "ImageLabelmapData", "ImageSegData", "VideoData")
DATA_TYPES: Final = frozenset((*_CAFFE_DATA, *_FORK_DATA))
# Layers without blobs: Caffe's own, this project's, and those of common forks that have none in any version.
_NO_BLOBS: Final = DATA_TYPES.union(
    ("AbsVal", "Accuracy", "ArgMax", "BNLL", "BatchReindex", "Clip", "Concat", "ContrastiveLoss", "Crop", "Dropout"),
    ("ELU", "Eltwise", "EuclideanLoss", "Exp", "Filter", "Flatten", "HDF5Output", "HingeLoss", "Im2col"),
    ("InfogainLoss", "LRN", "LSTMUnit", "Log", "MVN", "MultinomialLogisticLoss", "Padding", "Pooling", "Power", "ReLU"),
    ("Reduction", "Reshape", "SPP", "Sigmoid", "SigmoidCrossEntropyLoss", "Silence", "Slice", "Softmax"),
    ("SoftmaxWithLoss", "Split", "Swish", "TanH", "Threshold", "Tile"),
    ("KDLoss", "FocalDistillationLoss", "LogitMatchingLoss", "LDILoss", "ELODILoss", "CNALoss", "BCTLoss"),
    ("NaivePCTLoss", "Onnx"),  # an Onnx layer's weights stay in its file
    ("ApplyDeformation", "BatchReduction", "CTCBeamSearchDecoder", "CTCGreedyDecoder", "CTCLoss", "CtcLoss"),
    ("ContinuationIndicator", "CreateDeformation", "FocalLoss", "HardSigmoid", "HardSwish", "L1Loss", "L2Norm"),
    ("L2Normalization", "L2Normalize", "LabelsequenceAccuracy", "Mish", "Proposal", "ROIAlign", "RegionLoss"),
    ("SegAccuracy", "SoftmaxWithFocalLoss", "SpatialDropout", "TripletLoss", "Upsampling", "WarpCTCLoss"),
    ("WarpCtcLoss", "YoloDetectionOutput", "YoloLoss", "Yolov3", "Yolov3DetectionOutput"),
    ("Axpy", "BoxAnnotatorOHEM", "DetectionEvaluate", "DetectionOutput", "Interp", "MultiBoxLoss", "PSROIPooling"),
    ("Permute", "PriorBox", "ROIPooling", "ReLU6", "Reorg", "Reverse", "ShuffleChannel", "SmoothL1Loss"),
    ("SmoothL1LossOHEM", "SoftmaxWithLossOHEM", "Transpose", "Unpooling", "Upsample"),
)


def makes_data(type_name: str, bottoms: int) -> bool:
    """Return whether a layer is a data source: by its type, or because its type is unknown and it has no bottoms.

    A Python layer without bottoms is such a layer: its module reads the data.

    type_name  the current name of the type
    bottoms    the number of bottoms
    """
    return type_name in DATA_TYPES or (type_name not in KNOWN_TYPES and not bottoms)


def modern_type(type_name: str) -> str:
    """Return the current name of a type: `CONVOLUTION` (V1) and `conv` (V0) are `Convolution`."""
    return OLD_TYPES.get(type_name) or type_name


def param_count(type_name: str, layer: Any) -> int | None:
    """Return the number of blobs of a layer, None if its description does not determine it (Python, unknown types).

    type_name  the type, in the syntax of any version
    layer      its description: a `Message` of the text (the inner one in V0) or a LayerParameter
    """
    kind = modern_type(type_name)
    if kind in _NO_BLOBS:
        return 0
    count = _COUNTS.get(kind)
    return count(layer) if count else None


def _flag(layer: Any, block: str, name: str, default: bool) -> bool:
    """Return a boolean of a parameter block; repeated blocks are merged, so the last value counts."""
    if not isinstance(layer, Message):
        return bool(getattr(getattr(layer, block), name))
    for message in reversed(layer.messages(block)):
        value = message.string(name)
        if value is not None:
            return value.lower() in ("true", "t", "1")
    return default


def _bottoms(layer: Any) -> int:
    return len(layer.scalars("bottom")) if isinstance(layer, Message) else len(layer.bottom)


def _with_bias(block: str) -> Callable[[Any], int]:
    def count(layer: Any) -> int:
        if isinstance(layer, Message) and layer.get("biasterm") is not None:  # V0
            return 1 + (layer.string("biasterm") in ("true", "t", "1"))
        return 1 + _flag(layer, block, "bias_term", True)

    return count


def _scale(layer: Any) -> int:
    """Count a factor and a bias; with two bottoms the second one is the factor."""
    return (_bottoms(layer) < 2) + _flag(layer, "scale_param", "bias_term", False)


def _recurrent(blobs: int, states: int) -> Callable[[Any], int]:
    """Count `blobs`, and one more for static input: a bottom besides x, cont and the exposed states."""

    def count(layer: Any) -> int:
        exposed = _flag(layer, "recurrent_param", "expose_hidden", False)
        return blobs + (_bottoms(layer) > 2 + (states if exposed else 0))

    return count


def _convolution3d(layer: Any) -> int:
    """Count weights and bias; C3D 1.1 has its own parameter block, 1.0 that of Convolution."""
    if isinstance(layer, Message):
        own = bool(layer.messages("convolution3d_param"))
        return 1 + _flag(layer, "convolution3d_param" if own else "convolution_param", "bias_term", True)
    from prototxt.schema import forks

    fields = forks.fields(layer)
    own = fields.HasField("convolution3d_param")
    return 1 + bool(fields.convolution3d_param.bias_term if own else layer.convolution_param.bias_term)


# Fields that only the BN of PSPNet and TSN has, which keeps mean and variance after scale and shift (SegNet: 2 blobs).
BN_STATISTICS: Final = ("slope_filler", "momentum", "frozen", "icnet", "moving_average")


def _bn(layer: Any) -> int:
    if isinstance(layer, Message):
        stated = any(block.get(name) for block in layer.messages("bn_param") for name in BN_STATISTICS)
        blobs = max(len(layer.messages("param")), len(layer.scalars("blobs_lr")))
    else:
        from prototxt.schema import forks

        param = forks.fields(layer).bn_param
        stated = any(param.HasField(name) for name in BN_STATISTICS)
        blobs = max(len(layer.param), len(getattr(layer, "blobs_lr", ())))
    return 4 if stated or blobs > 2 else 2


def affine_batch_norm(layer: Any) -> bool:
    """Return whether a BatchNorm holds a scale and a bias after its three statistics, as NVCaffe's may.

    `scale_bias` enables them, as does a filler for either.
    """
    if isinstance(layer, Message):
        blocks = layer.messages("batch_norm_param")
        fillers = any(block.get(name) for block in blocks for name in ("scale_filler", "bias_filler"))
        return fillers or _flag(layer, "batch_norm_param", "scale_bias", False)
    from prototxt.schema import forks

    own = forks.fields(layer.batch_norm_param)
    return bool(own.scale_bias or own.HasField("scale_filler") or own.HasField("bias_filler"))


_COUNTS: Final[dict[str, Callable[[Any], int]]] = {
    "BN": _bn,
    "BatchNorm": lambda layer: 5 if affine_batch_norm(layer) else 3,
    "Bias": lambda layer: int(_bottoms(layer) < 2),
    "CenterLoss": lambda layer: 1,
    "Convolution": _with_bias("convolution_param"),
    "Convolution3D": _convolution3d,
    "ConvolutionDepthWise": _with_bias("convolution_param"),
    "ConvolutionDepthwise": _with_bias("convolution_param"),
    "Deconvolution": _with_bias("convolution_param"),
    "Deconvolution3D": _convolution3d,
    "DepthwiseConvolution": _with_bias("convolution_param"),
    "Embed": _with_bias("embed_param"),
    "Gate": _with_bias("gate_param"),
    "InnerProduct": _with_bias("inner_product_param"),
    "LSTM": _recurrent(3, 2),
    "Lstm": lambda layer: 3,
    "MarginInnerProduct": lambda layer: 1,
    "Normalize": lambda layer: 1,
    "PReLU": lambda layer: 1,
    "Parameter": lambda layer: 1,
    "RNN": _recurrent(5, 1),
    "Scale": _scale,
    "WeightedSum": lambda layer: 1,
}

KNOWN_TYPES: Final = _NO_BLOBS.union(_COUNTS)
