"""ONNX graphs before they run: read, brought to one plain form, judged, cut. Needs `onnx`, never torch.

graph = normalize(read("resnet18.onnx"))
print(support(graph).table())
part = cut(graph, outputs=["flatten"])
"""

from fusion.onnx_graphs.cutting import before_classifier, candidates, cut, entries, scores, tensor
from fusion.onnx_graphs.graph import Graph, to_model
from fusion.onnx_graphs.normalizing import load, normalize
from fusion.onnx_graphs.reading import read
from fusion.onnx_graphs.support import Support, check_support, support
from fusion.onnx_graphs.trained import weights

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
