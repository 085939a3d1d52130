"""ONNX graphs before they run: read, brought to one plain form, judged, cut. Needs `onnx`, never torch.

graph = normalize(read("resnet18.onnx"))
print(support(graph).table())
part = cut(graph, outputs=["flatten"])
"""

from fusion.onnx.graphs.cut import before_classifier, candidates, cut, entries, scores, tensor
from fusion.onnx.graphs.graph import Graph, to_model
from fusion.onnx.graphs.initializers import weights
from fusion.onnx.graphs.normalize import load, normalize
from fusion.onnx.graphs.read import read
from fusion.onnx.graphs.support import Support, check_support, support

__all__ = [
    "Graph",
    "Support",
    "before_classifier",
    "candidates",
    "check_support",
    "cut",
    "entries",
    "load",
    "normalize",
    "read",
    "scores",
    "support",
    "tensor",
    "to_model",
    "weights",
]
