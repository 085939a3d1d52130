"""ONNX graphs as torch modules, by onnx2torch: imported only where a net has such a part, as that takes seconds."""

from fusion.onnx.to_torch.modules import OnnxNet, onnx_net

__all__ = ["OnnxNet", "onnx_net"]
