"""The layer types of this project: losses towards references, learned sums, and ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prototxt
from prototxt.shapes import UNKNOWN, Shape, infer


def run(bottoms: list[str], layer: str, tops: int = 1) -> tuple[list[Shape], list[Shape]]:
    """Tops and parameters of the layer over bottoms of the given shapes, such as `2x10`."""
    text, given = "", {}
    for index, shape in enumerate(bottoms):
        text += f'layer {{ name: "in{index}" type: "Input" top: "b{index}" }}\n'
        if shape != "?":
            given[f"b{index}"] = tuple(None if dim == "?" else int(dim) for dim in shape.split("x"))
    text += 'layer { name: "l" ' + "".join(f'bottom: "b{index}" ' for index in range(len(bottoms)))
    text += "".join(f'top: "t{i}" ' for i in range(tops)) + layer + " }"
    shapes = infer(prototxt.load_net(prototxt.parse(text, name="net.prototxt")), given)
    return shapes.tops[-1], shapes.params[-1]


ODD = "pct_param { classes: [1, 3, 5, 7, 9] }"


@pytest.mark.parametrize("kind", ["KDLoss", "FocalDistillationLoss", "LogitMatchingLoss", "LDILoss", "ELODILoss"])
def test_losses_towards_references(kind: str) -> None:
    assert run(["4x10", "4x10", "4"], f'type: "{kind}"') == ([()], [])
    assert run(["4x10", "4x10", "4x10", "4"], f'type: "{kind}"') == ([()], [])
    assert run(["?x10", "4x5x1x1", "4x1x1x1"], f'type: "{kind}" {ODD}') == ([()], [])
    assert run(["?", "?", "?"], f'type: "{kind}" {ODD}') == ([()], [])


@pytest.mark.parametrize(
    ("bottoms", "layer", "message"),
    [
        (["4x10", "4x5", "4"], 'type: "KDLoss"', "the reference 4x5 does not fit the new logits 4x10"),
        (["4x10", "4x10", "4"], f'type: "KDLoss" {ODD}', "does not fit the new logits 4x10 at 5 classes"),
        (["4x9", "4x5", "4"], f'type: "KDLoss" {ODD}', "names class 9, but the new logits have 9 classes"),
        (["4x10", "4x2", "4"], 'type: "KDLoss" pct_param { classes: [3, 3] }', "names a class twice"),
        (["4x10", "4x10", "5"], 'type: "KDLoss"', "labels 5 for logits 4x10"),
        (["4x10", "4x10"], 'type: "KDLoss"', "takes at least 3 bottom blobs, but has 2"),
        (["4x8", "5x8"], 'type: "CNALoss"', "bottoms must have one batch size"),
        (["4x8", "4"], f'type: "BCTLoss" {ODD}', "the scores 4x8 are not of the 5 classes"),
        (["4x8", "5"], 'type: "BCTLoss"', "labels 5 for scores 4x8"),
        (["4x8", "4x9"], 'type: "WeightedSum"', "bottom 0 is 4x8 and bottom 1 is 4x9"),
        (["4x8"], 'type: "Onnx"', "onnx_param.file is missing"),
    ],
)
def test_refused(bottoms: list[str], layer: str, message: str) -> None:
    with pytest.raises(prototxt.ShapeError) as caught:
        run(bottoms, layer)
    assert message in caught.value.message


def test_learned_sums() -> None:
    assert run(["4x8", "?x8", "4x?"], 'type: "WeightedSum"') == ([(4, 8)], [(3,)])
    assert run(["4x8", "4x8"], 'type: "Gate"') == ([(4, 8)], [(2, 16), (2,)])
    assert run(["4x8x2x2", "4x8x2x2"], 'type: "Gate" gate_param { bias_term: false }') == ([(4, 8, 2, 2)], [(2, 64)])


def test_features_and_old_classifiers() -> None:
    assert run(["4x8", "4x8"], 'type: "CNALoss"') == ([()], [])
    assert run(["4x5", "4"], f'type: "BCTLoss" {ODD}') == ([()], [])


def test_an_onnx_file_tells_its_outputs(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 3]), ("y", ["N", 3]), ("z", [7, "M"]))
    ]
    nodes = [onnx.helper.make_node("Relu", ["x"], [name]) for name in "yz"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", values[:1], values[1:])), path)

    assert run(["5x3"], f'type: "Onnx" onnx_param {{ file: "{path}" }}', 2)[0] == [(5, 3), (5, 3)]
    assert run(["5x3"], f'type: "Onnx" onnx_param {{ file: "{path}" output: "z" }}')[0] == [(5, 3)]
    assert run(["5x3"], f'type: "Onnx" onnx_param {{ file: "{tmp_path}/none.onnx" }}')[0] == [UNKNOWN]
    with pytest.raises(prototxt.ShapeError, match="1 top for 2 outputs"):
        run(["5x3"], f'type: "Onnx" onnx_param {{ file: "{path}" }}')
    with pytest.raises(prototxt.ShapeError, match=r"takes .x3, not 5x4"):
        run(["5x4"], f'type: "Onnx" onnx_param {{ file: "{path}" }}', 2)
    with pytest.raises(prototxt.ShapeError, match="2 bottoms for 1 inputs"):
        run(["5x3", "5x3"], f'type: "Onnx" onnx_param {{ file: "{path}" }}', 2)
    (tmp_path / "broken.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(prototxt.ShapeError, match=r"broken\.onnx is no readable ONNX file"):
        run(["5x3"], f'type: "Onnx" onnx_param {{ file: "{tmp_path}/broken.onnx" }}')


@pytest.mark.parametrize(
    ("bottom", "fits"),
    [("7x3x5", True), ("7x?x5", True), ("?", True), ("7x3x4", False), ("7x4x5", False), ("7x3", False), ("7x15", False),
     ("7x3x5x1", False)],
)  # fmt: skip
@pytest.mark.parametrize("named", ["", 'input: "x"'])
def test_a_bottom_must_fit_the_input_of_an_onnx_file_but_for_its_batch(
    tmp_path: Path, bottom: str, fits: bool, named: str
) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 5]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph), path)
    layer = f'type: "Onnx" onnx_param {{ file: "{path}" {named} }}'
    if fits:
        assert run([bottom], layer)[0] == [(None if bottom == "?" else 7, 3, 5)]
    else:
        with pytest.raises(prototxt.ShapeError, match=rf"input 'x' of the ONNX file takes 1x3x5, not {bottom}"):
            run([bottom], layer)


def test_weights_of_an_onnx_file_are_no_inputs(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in "xwy"]
    shape = onnx.numpy_helper.from_array(np.array([0, 2, 2]), "s")
    weight = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Reshape", ["m", "s"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:2], [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)])
    graph.initializer.extend([weight, shape])
    onnx.save(helper.make_model(graph), path)
    assert run(["5x4"], f'type: "Onnx" onnx_param {{ file: "{path}" }}')[0] == [(5, 2, 2)]
    two = f'type: "Onnx" onnx_param {{ file: "{path}" output: "m" output: "y" }}'
    assert run(["5x4"], two, 2)[0] == [(5, 4), (5, 2, 2)]
    assert run(["?"], f'type: "Onnx" onnx_param {{ file: "{path}" output: "none" }}')[0] == [UNKNOWN]
    with pytest.raises(prototxt.ShapeError, match=r"1 bottom for 2 names in onnx_param\.input"):
        run(["5x4"], f'type: "Onnx" onnx_param {{ file: "{path}" input: "x" input: "m" }}')


def test_constants_of_files_of_old_versions_have_shapes(tmp_path: Path) -> None:
    """Up to version 3 of the format, constants are inputs as well; without these the inference knows none of them."""
    onnx = pytest.importorskip("onnx")
    path, helper = tmp_path / "net.onnx", onnx.helper
    known = {"w": (6, 3, 1, 1), "s": (6,), "b": (6,), "m": (6,), "v": (6,)}
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
            for name, dims in {"x": (1, 3, 4, 4), **known}.items()]  # fmt: skip
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Identity", ["b"], ["m2"]),
             helper.make_node("BatchNormalization", ["c", "s", "b", "m2", "v"], ["n"]),
             helper.make_node("Flatten", ["n"], ["y"])]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends, [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)])
    graph.initializer.extend(onnx.numpy_helper.from_array(np.ones(known[name], np.float32), name) for name in known)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3), path)
    assert run(["5x3x4x4"], f'type: "Onnx" onnx_param {{ file: "{path}" }}')[0] == [(5, 96)]


def test_a_scalar_output_of_an_onnx_file_has_no_batch(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path, helper = tmp_path / "net.onnx", onnx.helper
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y])), path)
    assert run(["5x4"], f'type: "Onnx" onnx_param {{ file: "{path}" }}')[0] == [()]


def test_shapes_that_an_onnx_file_computes(tmp_path: Path) -> None:
    """A reshape to a shape made of another value's, and one to a large constant, whose values are not read."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 4])
    constants = [onnx.numpy_helper.from_array(np.array(value, np.int64), name)
                 for name, value in (("first", [0]), ("rest", [-1]))]  # fmt: skip
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], constants)), tmp_path / "net.onnx")
    assert run(["5x3x4"], f'type: "Onnx" onnx_param {{ file: "{tmp_path}/net.onnx" }}')[0] == [(5, 12)]
