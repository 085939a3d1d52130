"""The layer types known by name: Caffe's, this project's own, and those of common forks.

A type that is not here is no mistake in itself: nets can be edited, renamed and merged without knowing it.
"""

from __future__ import annotations

_CAFFE = """
    AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Clip Concat ContrastiveLoss Convolution Crop Data
    Deconvolution Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp Filter Flatten HDF5Data HDF5Output HingeLoss
    Im2col ImageData InfogainLoss InnerProduct Input LRN LSTM LSTMUnit Log MVN MemoryData MultinomialLogisticLoss
    PReLU Parameter Pooling Power Python RNN ReLU Reduction Reshape SPP Scale Sigmoid SigmoidCrossEntropyLoss
    Silence Slice Softmax SoftmaxWithLoss Split Swish TanH Threshold Tile WindowData
"""
_OWN = """
    BCTLoss CNALoss ELODILoss FocalDistillationLoss Gate KDLoss LDILoss LogitMatchingLoss NaivePCTLoss Onnx
    WeightedSum
"""
_FORK = """
    AnnotatedData ApplyDeformation Axpy BatchReduction BN BoxAnnotatorOHEM CenterLoss ContinuationIndicator
    Convolution3D ConvolutionDepthWise ConvolutionDepthwise CreateDeformation CTCBeamSearchDecoder CTCGreedyDecoder
    CTCLoss CtcLoss Deconvolution3D DenseImageData DepthwiseConvolution DetectionEvaluate DetectionOutput FocalLoss
    ImageLabelmapData ImageSegData Interp LabelsequenceAccuracy Lstm MarginInnerProduct Mish MultiBoxLoss Normalize
    Permute PriorBox Proposal PSROIPooling RegionLoss ReLU6 Reorg Reverse ROIAlign ROIPooling SegAccuracy
    ShuffleChannel SmoothL1Loss SmoothL1LossOHEM SoftmaxWithLossOHEM SpatialDropout Transpose TripletLoss Unpooling
    Upsample Upsampling VideoData YoloDetectionOutput YoloLoss Yolov3 Yolov3DetectionOutput
"""
# Known types without an implementation here: nets with them can be shown, edited, renamed and merged, but not run.
_NOT_RUN = """
    ApplyDeformation BatchReduction BoxAnnotatorOHEM Convolution3D CreateDeformation CTCBeamSearchDecoder
    CTCGreedyDecoder Deconvolution3D DetectionEvaluate FocalLoss L1Loss RegionLoss ROIAlign SegAccuracy
    SmoothL1LossOHEM SoftmaxWithFocalLoss SoftmaxWithLossOHEM TripletLoss Upsampling YoloDetectionOutput YoloLoss
    Yolov3 Yolov3DetectionOutput
"""
# Types of forks not listed elsewhere here, without parameter blobs in the sources of the forks that have them (C3D,
# Caffe for Windows, DeepLab, FlowNet, MNC, MobileNet-YOLO, MS-CNN, NVCaffe, OpenPose, ParseNet, R-FCN, TSN and others).
_WEIGHTLESS = """
    Accum Arccos AssistedExcitation BatchContrastiveLoss BlackAugmentation BlackHole BoxOutput ChannelNorm
    ConfidencePenaltyLoss Correlation Correlation1D CorrelationLoss Cosine DecodeBBox DeformablePSROIPooling DenseCRF
    DetectNetTransformation DetectionLoss DomainTransform DownSampling Downsample EltwiseProduct EvalDetection
    FLOWriter Flip FloatWriter FlowAugmentation FlowWarp Gather GaussianYolov3 GeneralContrastiveLoss
    GeneralTripletLoss GenerateAugmentationParameters Gram Hotspot ImResize ImageDim ImgWriter Insanity
    LabelSpecificAdd LpqLoss MaskPooling MaskResize MatWrite Mean NCALoss NegReLU Nms Noise PFMWriter PSROIAlign
    Pairwise ParseEvaluate ParseOutput PixelShuffle Pooling3D PredictBox ProposalTarget ROIWarping ROIWarpingTest
    Resample Resize SELU Scatter SeLu SeLuDropout Slope SoftContrastiveLoss SoftTruncation SpatialTransformer
    SubRegion TRT Transformer Truncation UnPooling UniqueLabel VoxelCustomLoss VoxelSoftmax VoxelSoftmaxLoss YoloSeg
"""
# Classes of public Python layers in the middle of a net without parameter blobs (Faster R-CNN, R-FCN, MNC,
# DetectNet).
_WEIGHTLESS_PYTHON = """
    AnchorTargetLayer CFMDataLayer ClusterDetections ClusterGroundtruth MaskLayer ProposalLayer ProposalTargetLayer
    ScoreDetections StageBridgeLayer TorchImageTransformLayer mAP
"""

CAFFE_TYPES = frozenset(_CAFFE.split())
OWN_TYPES = frozenset(_OWN.split())
FORK_TYPES = frozenset(_FORK.split())
KNOWN_TYPES = CAFFE_TYPES | OWN_TYPES | FORK_TYPES
WEIGHTLESS_TYPES = frozenset(_WEIGHTLESS.split())
WEIGHTLESS_PYTHON = frozenset(_WEIGHTLESS_PYTHON.split())
NOT_RUN_TYPES = frozenset(_NOT_RUN.split())


def not_run(type_name: str) -> str | None:
    """Return the message for a known type without an implementation here; None for others and unknown types."""
    if type_name not in NOT_RUN_TYPES | WEIGHTLESS_TYPES:
        return None
    return f"type '{type_name}' is a fork's: known, but without an implementation here, so it cannot be run"
