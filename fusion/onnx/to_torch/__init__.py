"""ONNX graphs as torch modules: imported only for nets with Onnx layers, as the import takes seconds."""

from fusion.onnx.to_torch.modules import OnnxNet

__all__ = ["OnnxNet"]
