"""An overview of an ONNX file: inputs, possible cuts, weights, and the operators that cannot be run."""

from __future__ import annotations

from typing import Any

from fusion.onnx.graphs.cut import classifier_input, feature_values, scores_value
from fusion.onnx.graphs.graph import Dims, Graph
from fusion.onnx.graphs.initializers import graph_weights
from fusion.onnx.graphs.support import support


def overview(graph: Graph) -> dict[str, Any]:
    """Return the content of `overview_text` as data."""
    arrays = graph_weights(graph)
    return {
        "inputs": {name: list(dims) for name, dims in graph.inputs.items()},
        "outputs": list(graph.outputs),
        "scores": scores_value(graph),
        "cut": classifier_input(graph),
        "candidates": {name: list(dims) for name, dims in feature_values(graph)},
        "weights": len(arrays),
        "values": sum(array.size for array in arrays.values()),
        "operators": {row.name: {"count": row.count, "reasons": list(row.reasons)} for row in support(graph).rows},
        "notes": list(graph.notes),
    }


def overview_text(graph: Graph, most: int = 12) -> str:
    """Return a page of text: inputs, outputs, the `most` values nearest to the output, and a line per operator."""
    found, operators = overview(graph), support(graph)
    lines = [f"ONNX net '{graph.name}', {found['weights']} weights, {found['values']:,} values"]
    lines += [f"input   {name}  {_shown(dims)}" for name, dims in graph.inputs.items()]
    lines += [f"output  {name}  {_shown(graph.shapes.get(name, ()))}" for name in graph.outputs]
    lines += [f"note    {note}" for note in graph.notes]
    lines += [
        f"cut     {found['cut'] or 'no classifier was found: name a value'}",
        "values to cut at, output side first:",
    ]
    values = feature_values(graph)
    lines += [f"  {name.lstrip('/')}  {_shown(dims)}" for name, dims in values[:most]]
    lines += [f"  and {len(values) - most} more"] if len(values) > most else []
    wrong = len(operators.unsupported)
    lines.append(f"operators: {'all can be run' if not wrong else f'{wrong} cannot be run'}")
    open_sizes = [name for name, dims in graph.inputs.items() if None in dims[1:]]
    if wrong and open_sizes:
        lines[-1] += f", sizes are open: try --input-shape {open_sizes[0]}=N,..."
    return "\n".join([*lines, *(f"  {line}" for line in operators.table().splitlines())]) + "\n"


def _shown(dims: Dims) -> str:
    return "x".join("N" if axis == 0 and dim is None else "?" if dim is None else str(dim)
                    for axis, dim in enumerate(dims))  # fmt: skip
