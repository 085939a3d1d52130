"""ONNX graphs before they run: read, brought to one plain form, checked, cut. Needs `onnx`, never torch.

graph = normalize_graph(read_graph("resnet18.onnx"))
print(support(graph).table())
part = cut(graph, outputs=["flatten"])
"""

from fusion.onnx.graphs.cut import classifier_input, cut, feature_values, find_value, image_entries, scores_value
from fusion.onnx.graphs.graph import Graph, to_model
from fusion.onnx.graphs.initializers import graph_weights
from fusion.onnx.graphs.normalize import load_graph, normalize_graph
from fusion.onnx.graphs.read import read_graph
from fusion.onnx.graphs.support import Support, check_support, support

__all__ = [
    "Graph",
    "Support",
    "check_support",
    "classifier_input",
    "cut",
    "feature_values",
    "find_value",
    "graph_weights",
    "image_entries",
    "load_graph",
    "normalize_graph",
    "read_graph",
    "scores_value",
    "support",
    "to_model",
]
