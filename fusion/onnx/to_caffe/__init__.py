"""ONNX graphs as Caffe nets: a prototxt and a caffemodel that compute the same."""

from fusion.onnx.to_caffe.convert import CaffeNet, to_caffe

__all__ = ["CaffeNet", "to_caffe"]
