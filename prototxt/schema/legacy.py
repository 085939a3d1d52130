"""The names that layers, their fields and solvers had in older files, and what they are called today."""

from __future__ import annotations

# V0 type -> V1 enum value.
V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}
PADDING = "padding"

# V0 field -> V0 type ("" stands for any) -> where its value goes in V1.
_PARAM = {"conv": "convolution_param", "innerproduct": "inner_product_param", "pool": "pooling_param"}
_BATCHES = {"data": "data_param", "hdf5_data": "hdf5_data_param", "images": "image_data_param"}
_BATCHES["window_data"] = "window_data_param"


def _goes_to(name: str, *types: str) -> dict[str, str]:
    return {kind: f"{(_PARAM | _BATCHES)[kind]}.{name}" for kind in types}


V0_FIELDS: dict[str, dict[str, str]] = {
    "name": {"": "name"},
    "blobs": {"": "blobs"},
    "blobs_lr": {"": "blobs_lr"},
    "weight_decay": {"": "weight_decay"},
    "num_output": _goes_to("num_output", "conv", "innerproduct"),
    "biasterm": _goes_to("bias_term", "conv", "innerproduct"),
    "weight_filler": _goes_to("weight_filler", "conv", "innerproduct"),
    "bias_filler": _goes_to("bias_filler", "conv", "innerproduct"),
    "pad": _goes_to("pad", "conv", "pool"),
    "kernelsize": _goes_to("kernel_size", "conv", "pool"),
    "group": _goes_to("group", "conv"),
    "stride": _goes_to("stride", "conv", "pool"),
    "pool": _goes_to("pool", "pool"),
    "dropout_ratio": {"dropout": "dropout_param.dropout_ratio"},
    "local_size": {"lrn": "lrn_param.local_size"},
    "alpha": {"lrn": "lrn_param.alpha"},
    "beta": {"lrn": "lrn_param.beta"},
    "k": {"lrn": "lrn_param.k"},
    "source": _goes_to("source", *_BATCHES) | {"infogain_loss": "infogain_loss_param.source"},
    "scale": {"": "transform_param.scale"},
    "meanfile": {"": "transform_param.mean_file"},
    "batchsize": _goes_to("batch_size", *_BATCHES),
    "cropsize": {"": "transform_param.crop_size"},
    "mirror": {"": "transform_param.mirror"},
    "rand_skip": _goes_to("rand_skip", "data", "images"),
    "shuffle_images": _goes_to("shuffle", "images"),
    "new_height": _goes_to("new_height", "images"),
    "new_width": _goes_to("new_width", "images"),
    "concat_dim": {"concat": "concat_param.concat_dim"},
    "det_fg_threshold": _goes_to("fg_threshold", "window_data"),
    "det_bg_threshold": _goes_to("bg_threshold", "window_data"),
    "det_fg_fraction": _goes_to("fg_fraction", "window_data"),
    "det_context_pad": _goes_to("context_pad", "window_data"),
    "det_crop_mode": _goes_to("crop_mode", "window_data"),
    "hdf5_output_param": {"hdf5_output": "hdf5_output_param"},
}
# V1 enum value -> type of today.
V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}
# The same for values that only forks have.
FORK_V1_TYPES = {
    "BN": "BN",
    "CROP": "Crop",
    "DENSE_IMAGE_DATA": "DenseImageData",
    "IMAGE_SEG_DATA": "ImageSegData",
    "INTERP": "Interp",
    "PRELU": "PReLU",
    "PYTHON": "Python",
    "RESHAPE": "Reshape",
    "ROI_POOLING": "ROIPooling",
    "SMOOTH_L1_LOSS": "SmoothL1Loss",
    "UNPOOLING": "Unpooling",
    "UPSAMPLE": "Upsample",
    "UPSAMPLING": "Upsampling",
}
SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}
