"""Weights of Onnx layers in a merge: from their own file or one of the same graph, and refused where they differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fusion.errors import MergeError
from fusion.merge.merge import apply_merge, plan_merge
from fusion.merge.plan import FromOnnx, FromSource, MergePlan
from fusion.onnx.sidecar import read_pair, write_pair
from prototxt.formats.safetensors import scan_safetensors
from prototxt.schema.load import load_net
from prototxt.schema.messages import NetParameter
from prototxt.text.parser import parse

LAYER = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "b/net" type: "Onnx" bottom: "x" top: "y" onnx_param { file: "own.onnx" } }
layer { name: "fc" type: "InnerProduct" bottom: "y" top: "fc" inner_product_param { num_output: 2 } }
"""


def write(path: str, *, rows: int = 4, seed: int = 0, extra: bool = False) -> list[np.ndarray]:
    """Write y = relu(x w' + b) with x [N, 3]; returns w and b."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((rows, 3)).astype(np.float32), rng.standard_normal(rows).astype(np.float32)]
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["g"], transB=1), helper.make_node("Relu", ["g"], ["y"])]
    if extra:
        weights.append(np.full(rows, 2, np.float32))
        nodes[1:] = [helper.make_node("Mul", ["g", "s"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    held = [numpy_helper.from_array(array, name) for name, array in zip("wbs", weights, strict=False)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 3), ("y", rows))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return weights


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The weights of the layer's own file, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write("own.onnx")


def fused() -> NetParameter:
    return load_net(parse(LAYER, "fused.prototxt"))


def planned(**sources: object) -> MergePlan:
    return plan_merge(fused(), sources)  # type: ignore[arg-type]


def test_without_a_source_the_weights_are_those_of_the_layers_own_file(own: list[np.ndarray]) -> None:
    plan = planned()
    origins = {layer.name: layer.origins for layer in plan.layers}
    assert origins["b/net"] == tuple(FromOnnx("own.onnx", "b/net", index, name) for index, name in enumerate("wb"))
    assert plan.filled == ("fc",)
    assert "b/net  Onnx          4x3, 4  own.onnx" in plan.table().splitlines()
    assert plan.table().endswith("2 layers with 26 values (0.0 MB): 1 from 1 source, 1 filled with seed 0")
    apply_merge(plan, "out.caffemodel")
    found = read_pair("out.caffemodel")
    assert set(found) == {"b/net", "fc"}
    for ours, theirs in zip(found["b/net"], own, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [entry.name for entry in scan_safetensors("out.onnx.safetensors").entries] == ["b/net"]


def test_another_file_of_the_same_graph_replaces_it(own: list[np.ndarray]) -> None:
    other = write("other.onnx", seed=1)
    plan = planned(b="other.onnx")
    assert plan.layers[1].origins == tuple(FromOnnx("other.onnx", "b/net", i, name) for i, name in enumerate("wb"))
    assert plan.table().endswith("1 from 1 source, 1 filled with seed 0")
    apply_merge(plan, "out.safetensors")
    assert not Path("out.onnx.safetensors").exists()
    np.testing.assert_array_equal(read_pair("out.safetensors")["b/net"][1], other[1])
    assert not np.array_equal(other[1], own[1])


def test_weights_under_the_layers_name_come_before_its_file(own: list[np.ndarray]) -> None:
    plan = planned(b={"net": [blob + 1 for blob in own]})
    assert plan.layers[1].origins == (FromSource("b", "net", 0), FromSource("b", "net", 1))
    apply_merge(plan, "out.caffemodel")
    np.testing.assert_array_equal(read_pair("out.caffemodel")["b/net"][0], own[0] + 1)


@pytest.mark.parametrize("ending", ["caffemodel", "caffemodel.h5", "safetensors"])
@pytest.mark.filterwarnings("ignore::prototxt.formats.hdf5_writer.SlashWarning")
def test_a_fused_net_is_a_source_with_the_weights_that_its_onnx_layers_have_now(
    own: list[np.ndarray], ending: str
) -> None:
    if ending.endswith("h5"):
        pytest.importorskip("h5py")
    trained = [blob * 2 for blob in own]
    write_pair(f"trained.{ending}", {"b/net": trained, "fc": [np.ones((2, 4)), np.ones(2)]}, net=fused())
    for source in (f"trained.{ending}", ("fused.prototxt", f"trained.{ending}")):
        Path("fused.prototxt").write_text(LAYER)
        plan = plan_merge(fused(), {"": source})
        assert plan.layers[1].origins == (FromSource("", "b/net", 0), FromSource("", "b/net", 1))
        assert plan.layers[1].shapes == ((4, 3), (4,))
        apply_merge(plan, "out.caffemodel")
        for ours, theirs in zip(read_pair("out.caffemodel")["b/net"], trained, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_weights_of_other_shapes_than_the_graphs_are_refused(own: list[np.ndarray]) -> None:
    text = "layer 'b/net' needs blobs of shape 4x3, 4, but 'net' in arrays of 'b' has 5x3, 5"
    with pytest.raises(MergeError, match=text):
        planned(b={"net": [np.ones((5, 3)), np.ones(5)]})
    with pytest.raises(MergeError, match=r"has 4x3\n"):
        planned(b={"net": own[:1]})


def test_a_source_without_its_sidecar_is_refused(own: list[np.ndarray]) -> None:
    apply_merge(planned(), "trained.caffemodel")
    Path("trained.onnx.safetensors").unlink()
    with pytest.raises(MergeError, match=r"weights of its Onnx layers 'b/net' are in trained\.onnx\.safetensors"):
        plan_merge(fused(), {"": "trained.caffemodel"})


def test_a_source_with_other_layers_leaves_the_weights_to_the_file(own: list[np.ndarray]) -> None:
    plan = planned(b={"other": own})
    assert {type(origin) for origin in plan.layers[1].origins} == {FromOnnx}
    assert plan.unused == {"b": ("other",)}


@pytest.mark.parametrize(
    ("options", "says"),
    [({"rows": 5}, "'w' is 5x3 there"), ({"extra": True}, "it has 3 weights, not 2")],
)
def test_another_graph_is_refused_with_a_difference(own: list[np.ndarray], options: dict[str, int], says: str) -> None:
    write("other.onnx", **options)  # type: ignore[arg-type]
    text = f"layer 'b/net': other.onnx does not have the graph of own.onnx: {says}"
    with pytest.raises(MergeError, match=text) as caught:
        planned(b="other.onnx")
    assert str(caught.value.place) == "fused.prototxt:3:1"


def test_a_missing_or_damaged_file_is_one_error(own: list[np.ndarray]) -> None:
    with pytest.raises(MergeError, match=r"none\.onnx: No such file or directory"):
        planned(b="none.onnx")
    Path("other.onnx").write_bytes(b"\x08")
    with pytest.raises(MergeError, match=r"other\.onnx: this is no readable ONNX file") as caught:
        planned(b="other.onnx")
    assert len(caught.value.errors) == 1


def test_a_file_that_changes_after_planning_stops_the_merge(own: list[np.ndarray]) -> None:
    plan = planned()
    write("own.onnx", rows=5)
    with pytest.raises(MergeError, match=r"own\.onnx: its weight 'w' has changed since the merge was planned"):
        apply_merge(plan, "out.caffemodel")
    assert not list(Path().glob("out*"))


def test_the_file_of_onnx_weights_is_read_again(own: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its float32 weights are copied as bytes from the ONNX file."""
    large = write("own.onnx", rows=2000)  # from 16 KiB on weights stay in the file
    plan = planned()
    apply_merge(plan, "good.caffemodel")
    np.testing.assert_array_equal(read_pair("good.caffemodel")["b/net"][0], large[0])
    import fusion.merge.merge as module

    whole = module.write_companion

    def damaging(path: str, *arguments: object, **options: object) -> object:
        layers = whole(path, *arguments, **options)  # type: ignore[arg-type]
        data = bytearray(Path("out.onnx.safetensors").read_bytes())
        data[scan_safetensors("out.onnx.safetensors").entries[0].blobs[0].offset] ^= 1
        Path("out.onnx.safetensors").write_bytes(data)
        return layers

    monkeypatch.setattr(module, "write_companion", damaging)
    with pytest.raises(MergeError, match=r"after writing, blob 0 of layer 'b/net' differs from that in '.*own\.onnx'"):
        apply_merge(plan, "out.caffemodel")


def test_progress_counts_every_byte_once(own: list[np.ndarray]) -> None:
    seen: list[tuple[int, int]] = []
    apply_merge(planned(), "out.caffemodel", progress=lambda done, whole: seen.append((done, whole)))
    assert seen[-1] == (104, 104)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert 64 in [done for done, _ in seen], "those of the ONNX file"
