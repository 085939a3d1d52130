"""The plain form of graphs, where they can be cut, and what of them is known to run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import draw, model, node

from fusion.errors import OnnxError
from fusion.onnx.graphs import (
    check_support,
    classifier_input,
    cut,
    feature_values,
    find_value,
    normalize_graph,
    read_graph,
    scores_value,
    support,
)
from fusion.onnx.graphs.cut import image_entries, list_features
from fusion.onnx.graphs.read import from_model
from fusion.onnx.graphs.summary import overview, overview_text
from fusion.onnx.graphs.support import KNOWN, OWN_KNOWN, _limits


def classifier(*, softmax: bool = True, opset: int = 20) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w", "/body/conv"), node("Relu", "/body/conv", "/body/relu"),
        node("GlobalAveragePool", "/body/relu", "pool"), node("Flatten", "pool", "features"),
        node("Identity", "features", "dropped"), node("Gemm", "dropped k b", "logits", transB=1),
        node("Softmax", "logits", "y"),
    ]  # fmt: skip
    constants = {"w": draw(4, 3, 3, 3), "k": draw(5, 4), "b": draw(5)}
    return model(nodes if softmax else nodes[:-1], constants, outputs=("y" if softmax else "logits",), opset=opset)


def test_the_classifier_is_found() -> None:
    graph = normalize_graph(from_model(classifier()))
    assert scores_value(graph) == "logits"
    assert classifier_input(graph) == "features"
    assert find_value(graph, "dropped") == "features"  # names of the file stay good
    assert find_value(graph, "body/relu") == "/body/relu"
    assert find_value(graph, "nothing") is None
    assert feature_values(graph)[0] == ("y", (None, 5))
    assert list_features(graph, 2) == "y (5), logits (5) and 4 more"


def test_a_classifier_with_add_and_matmul_or_of_convolution_is_found() -> None:
    dense = [node("ReduceMean", "x a", "f", keepdims=0), node("MatMul", "f k", "m"), node("Add", "m b", "y")]
    graph = normalize_graph(from_model(model(dense, {"a": np.array([2, 3]), "k": draw(3, 5), "b": draw(5)})))
    assert classifier_input(graph) == "f"
    convolved = [node("Relu", "x", "f"), node("Conv", "f w", "c"), node("GlobalAveragePool", "c", "g"),
                 node("Flatten", "g", "y")]  # fmt: skip
    assert classifier_input(normalize_graph(from_model(model(convolved, {"w": draw(5, 3, 1, 1)})))) == "f"
    assert classifier_input(normalize_graph(from_model(model([node("Relu", "x", "y")])))) is None


def test_a_part_between_values() -> None:
    graph = normalize_graph(from_model(classifier()))
    head = cut(graph, ["logits"], ["dropped"])
    assert [item.op_type for item in head.nodes] == ["Gemm"]
    assert dict(head.inputs) == {"features": (None, 4)}
    assert list(head.constants) == ["k", "b"]
    with pytest.raises(OnnxError, match="'y' also depends on the input 'x', not on r alone"):
        cut(normalize_graph(from_model(model([node("Relu", "x", "r"), node("Add", "r x", "y")]))), ["y"], ["r"])
    with pytest.raises(OnnxError, match=r"there is no value 'logit'[\s\S]*did you mean 'logits'") as caught:
        cut(graph, ["logit"])
    assert "body/relu (4x6x6)" in str(caught.value)


def test_sizes_of_pictures_that_the_file_leaves_open_are_taken_from_outside() -> None:
    nodes = [node("Conv", "x w", "c", auto_pad="SAME_UPPER", strides=[2, 2])]
    graph = from_model(model([*nodes, node("Relu", "c", "y")], {"w": draw(4, 3, 3, 3)}, shape=("N", 3, "H", "W")))
    assert "auto_pad SAME" in support(normalize_graph(graph)).table()
    known = normalize_graph(graph, {"x": (None, 3, 7, 8)})
    assert not support(known).unsupported
    assert known.shapes["y"] == (None, 4, 4, 4)
    with pytest.raises(OnnxError, match="takes 3x"):
        normalize_graph(graph, {"x": (None, 1, 7, 8)})


def test_weights_in_a_file_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save_model(classifier(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    np.testing.assert_array_equal(read_graph(path).constants["k"], draw(5, 4))
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(OnnxError, match=r"no readable ONNX file[\s\S]*must be copied too"):
        read_graph(path)


def test_files_without_a_net(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    with pytest.raises(OnnxError, match="the file is empty"):
        read_graph(path)
    with pytest.raises(FileNotFoundError):
        read_graph(tmp_path / "none.onnx")


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21, 23])
def test_opsets_come_to_one_form(opset: int) -> None:
    graph = normalize_graph(from_model(classifier(opset=opset)))
    assert graph.opset == (13 if opset == 13 else 17)
    assert not support(graph).unsupported
    assert [item.op_type for item in graph.nodes][-2:] == ["Gemm", "Softmax"]


def test_nodes_in_any_order_are_sorted() -> None:
    file = classifier()
    turned = list(file.graph.node)[::-1]
    del file.graph.node[:]
    file.graph.node.extend(turned)
    assert normalize_graph(from_model(file)).nodes[0].op_type == "Conv"


def test_functions_of_the_file_are_inlined() -> None:
    body = [node("Relu", "a", "b"), node("Neg", "b", "c")]
    function = onnx.helper.make_function("own", "Bend", ["a"], ["c"], body, [onnx.helper.make_opsetid("", 20)])
    file = model([onnx.helper.make_node("Bend", ["x"], ["y"], domain="own")])
    file.opset_import.append(onnx.helper.make_opsetid("own", 1))
    file.functions.append(function)
    graph = normalize_graph(from_model(file))
    assert [item.op_type for item in graph.nodes] == ["Relu", "Neg"]


def test_what_only_new_opsets_can_say_is_refused_by_name() -> None:
    file = model([node("Resize", "x - s", "y", mode="linear", antialias=1)], {"s": [1.0, 1.0, 0.5, 0.5]})
    with pytest.raises(OnnxError, match=r"Resize \(1x, first 'y'\)"):
        check_support(normalize_graph(from_model(file)))
    dilated = model([node("AveragePool", "x", "y", kernel_shape=[2, 2], dilations=[2, 2])])
    assert support(normalize_graph(from_model(dilated))).unsupported


@pytest.mark.parametrize(("op", "sizes"), [("Reshape", [3, 2]), ("Reshape", [1, 6]), ("Expand", [4, 2, 3])])
def test_a_batch_that_is_written_into_sizes_stays_that_of_the_file(op: str, sizes: list[int]) -> None:
    """The mean over all samples of a batch, added to each: of another batch it would be another mean."""
    nodes = [
        node("ReduceMean", "x steps", "rows", keepdims=0), node(op, "rows sizes", "mixed"),
        node("ReduceMean", "mixed axes", "mean", keepdims=0), node("Add", "rows mean", "y"),
    ]  # fmt: skip
    constants = {"steps": np.array([1]), "sizes": np.array(sizes), "axes": np.arange(len(sizes))}
    graph = normalize_graph(from_model(model(nodes, constants, shape=(2, 5, 3))))
    assert graph.batch == 2
    assert graph.notes[-1] == f"the batch stays 2, because of node 'mixed' ({op}): longer ones run in pieces"


@pytest.mark.parametrize(
    ("size", "count", "sizes"), [(8, 3, [3, 3, 2]), (5, 2, [3, 2]), (6, 3, [2, 2, 2]), (4, 3, [2, 2, 0])]
)
def test_the_last_part_of_a_split_is_the_rest(size: int, count: int, sizes: list[int]) -> None:
    """Opset 18: parts of ceil(size / count), of which the last is smaller."""
    names = [f"y{number}" for number in range(count)]
    file = model(
        [node("Split", "x", " ".join(names), axis=1, num_outputs=count)], shape=("N", size, 2), outputs=tuple(names)
    )
    graph = normalize_graph(from_model(file))
    assert graph.constants[graph.nodes[0].input[1]].tolist() == sizes
    assert [graph.shapes[name] for name in names if name in graph.shapes][: len(sizes) - 1] == [
        (None, part, 2) for part in sizes[:-1]
    ]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "count"),
    [
        (9, 2, 3, (0, 0), 3),  # the fourth would begin at 9, the first place after the axis
        (10, 2, 3, (0, 0), 4),
        (9, 2, 2, (1, 1), 5),
        (8, 2, 2, (1, 1), 5),
        (9, 2, 2, (0, 1), 5),
        (10, 1, 3, (0, 0), 4),
    ],
)
def test_windows_that_begin_in_the_pads_after_an_axis_do_not_count(
    size: int, kernel: int, stride: int, pads: tuple[int, int], count: int
) -> None:
    """As opset 22 says and ONNX Runtime computes; two axes, of which the other has one window."""
    window = {"kernel_shape": [kernel, 1], "strides": [stride, 1], "pads": [pads[0], 0, pads[1], 0], "ceil_mode": 1}
    for op in ("MaxPool", "AveragePool"):
        graph = normalize_graph(from_model(model([node(op, "x", "y", **window)], shape=("N", 3, size, 7))))
        assert graph.shapes["y"] == (None, 3, count, 7)
        graph = normalize_graph(from_model(model([node(op, "x", "y", **window)], shape=("N", 3, size, "w"))))
        assert graph.shapes["y"] == (None, 3, count, None)


def test_the_lists_of_operators_are_those_of_the_converters() -> None:
    import fusion.onnx.to_torch.converters  # noqa: F401 - fills the register
    from fusion.onnx.to_torch.functions import OPERATORS

    assert {*OPERATORS, "BatchNormalization", "Dropout", "Resize"} == KNOWN | OWN_KNOWN


def test_what_is_no_onnx_file_is_told(tmp_path: Path) -> None:
    for content, what in ((b"<!DOCTYPE html>", "a web page"), (b"version https://git-lfs.github.com", "a Git LFS")):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(OnnxError, match=rf"x\.onnx: this is {what}.*, not an? .*\n  hint: "):
            read_graph(tmp_path / "x.onnx")


def test_sizes_that_follow_an_open_batch_become_a_constant_target() -> None:
    nodes = [
        node("Shape", "x", "all"), node("Gather", "all first", "n"), node("Concat", "n rest", "sizes", axis=0),
        node("Reshape", "x sizes", "y"),
    ]  # fmt: skip
    graph = normalize_graph(from_model(model(nodes, {"first": np.array([0]), "rest": np.array([12, 16])})))
    assert [item.op_type for item in graph.nodes] == ["Reshape"]
    assert graph.constants[graph.nodes[0].input[1]].tolist() == [0, 12, 16]
    assert graph.shapes["y"] == (None, 12, 16)


def test_constants_are_computed_once() -> None:
    nodes = [node("Add", "a b", "s"), node("Mul", "x s", "y")]
    graph = normalize_graph(from_model(model(nodes, {"a": [[1.5]], "b": [[2.0]]})))
    assert [item.op_type for item in graph.nodes] == ["Mul"]
    assert graph.constants["s"].tolist() == [[3.5]]


def test_a_size_that_only_the_values_give_stays_to_be_computed() -> None:
    nodes = [node("NonZero", "x", "places"), node("Shape", "places", "y")]
    graph = normalize_graph(from_model(model(nodes)))
    assert [item.op_type for item in graph.nodes] == ["NonZero", "Shape"]


@pytest.mark.parametrize(("op", "known"), [("Equal", True), ("Less", False)])
def test_unsigned_numbers_pass_where_torch_has_the_operator(op: str, known: bool) -> None:
    nodes = [node("Cast", "x", "u", to=onnx.TensorProto.UINT32), node(op, "u u", "y")]
    found = {item.name for item in support(normalize_graph(from_model(model(nodes)))).unsupported}
    assert found == ({"Cast"} if known else {"Cast", op})


def test_features_are_floats_with_a_row_per_sample_that_the_file_knows_too() -> None:
    nodes = [
        node("ReduceMean", "x first", "fixed"), node("ReduceMean", "x rest", "flat", keepdims=0),
        node("DepthToSpace", "x", "d", blocksize=2), node("Relu", "d", "y"),
    ]  # fmt: skip
    constants = {"first": np.array([0]), "rest": np.array([1, 2, 3])}
    graph = normalize_graph(from_model(model(nodes, constants, shape=("N", 4, 2, 2), outputs=("y", "fixed", "flat"))))
    assert {"fixed", "flat", "d:apart", "d:turned"} <= set(graph.shapes)
    assert feature_values(graph) == [("y", (None, 1, 4, 4)), ("d", (None, 1, 4, 4))]
    assert scores_value(graph) == "y"
    none = normalize_graph(from_model(model(nodes[1:2], constants, shape=("N", 4, 2, 2), outputs=("flat",))))
    assert list_features(none) == "none"


def test_lists_of_many_values_end_early() -> None:
    nodes = [node("Relu", "x" if not n else f"v{n - 1}", f"v{n}") for n in range(14)]
    graph = normalize_graph(from_model(model(nodes, shape=("N", 3, "h", 8), outputs=("v13",))))
    assert list_features(graph).startswith("v13 (3x?x8), v12 (3x?x8), ")
    assert list_features(graph).endswith("v2 (3x?x8) and 2 more")
    lines = overview_text(graph).splitlines()
    assert lines[1:5] == ["input   x  Nx3x?x8", "output  v13  Nx3x?x8", "cut     no classifier was found: name a value",
                          "values to cut at, output side first:"]  # fmt: skip
    assert lines[5:7] == ["  v13  Nx3x?x8", "  v12  Nx3x?x8"]
    assert lines[16:19] == ["  v2  Nx3x?x8", "  and 2 more", "operators: all can be run"]
    assert not any("more" in line for line in overview_text(graph, 14).splitlines())


def test_an_overview_as_data_and_text() -> None:
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f k b", "g"), node("Own", "g", "y", domain="me")]
    file = model(nodes, {"k": draw(12, 5), "b": draw(5)}, shape=(4, 3, 2, 2))
    file.opset_import.append(onnx.helper.make_opsetid("me", 1))
    graph = normalize_graph(from_model(file))
    assert overview(graph) == {
        "inputs": {"x": [None, 3, 2, 2]},
        "outputs": ["y"],
        "scores": "y",
        "cut": None,
        "candidates": {"g": [None, 5], "f": [None, 12]},
        "weights": 2,
        "values": 65,
        "operators": {
            "Flatten": {"count": 1, "reasons": []},
            "Gemm": {"count": 1, "reasons": []},
            "me::Own": {"count": 1, "reasons": ["the domain 'me' is not ONNX's own"]},
        },
        "notes": ["the batch, 4 in the file, is open"],
    }
    lines = overview_text(graph).splitlines()
    assert lines[0] == "ONNX net 'small', 2 weights, 65 values"
    assert lines[2:4] == ["output  y  ", "note    the batch, 4 in the file, is open"]
    assert "operators: 1 cannot be run" in lines


def test_inputs_that_are_outputs_too() -> None:
    turned = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Relu", "t", "y")]
    graph = normalize_graph(from_model(model(turned, shape=("N", 8, 8, 3), outputs=("y", "x"))))
    assert image_entries(graph) == {"x": "x"}
    assert image_entries(normalize_graph(from_model(model([node("Transpose", "x", "y")])))) == {"x": "x"}
    empty = cut(graph, ["x"])
    assert (empty.nodes, empty.inputs, empty.outputs) == ((), {"x": (None, 8, 8, 3)}, ("x",))
    start = cut(graph, ["t"], ["t"])
    assert (start.nodes, start.inputs) == ((), {"t": (None, 3, 8, 8)})


@pytest.mark.parametrize("op", ["AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "MaxPool"])
def test_the_numbers_of_axes_that_torch_has(op: str) -> None:
    for axes in range(2, 8):
        graph: Any = SimpleNamespace(shapes={"x": (None, 3, *[8] * (axes - 2))})
        fits = axes < 6 and (axes > 2 or op == "BatchNormalization")
        assert list(_limits(graph, node(op, "x w", "y"))) == ([] if fits else [f"an input of {axes} axes"])
    assert list(_limits(SimpleNamespace(shapes={}), node(op, "x w", "y"))) == ["an input of unknown rank"]  # type: ignore[arg-type]
