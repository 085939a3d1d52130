"""ONNX graphs as Caffe nets: a prototxt and a caffemodel that compute the same."""

from fusion.onnx.to_caffe.convert import CaffeNet, convert_graph

__all__ = ["CaffeNet", "convert_graph"]
