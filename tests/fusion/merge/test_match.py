"""Which source a layer's blobs come from, and each refusal with its words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion.errors import MergeError
from fusion.merge.merge import apply_merge, plan_merge
from fusion.merge.plan import FromFiller, FromSource, MergePlan, PlannedLayer
from fusion.merge.sources import open_merge_sources
from prototxt.formats.weights import Weights, read_weights, write_weights
from prototxt.schema.load import load_net
from prototxt.text.parser import parse

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }\n'
FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 }"


def dense(name: str, more: str = "", *, filler: str = "", outputs: int = 2) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}" {more} '
        f"inner_product_param {{ num_output: {outputs} {filler} }} }}\n"
    )


def arrays(value: float = 1, outputs: int = 2) -> list[np.ndarray]:
    return [np.full((outputs, 48), value, np.float32), np.full(outputs, value, np.float32)]


def planned(text: str, sources: object, **options: object) -> MergePlan:
    return plan_merge(load_net(parse(INPUT + text, "fused.prototxt")), sources, **options)  # type: ignore[arg-type]


def origins(plan: MergePlan) -> dict[str, object]:
    return {layer.name: layer.origins for layer in plan.layers if layer.origins}


def refusal(text: str, sources: object, **options: object) -> str:
    with pytest.raises(MergeError) as caught:
        planned(text, sources, **options)
    return str(caught.value)


def from_source(prefix: str, name: str) -> tuple[FromSource, FromSource]:
    return FromSource(prefix, name, 0), FromSource(prefix, name, 1)


def test_the_longest_prefix_wins_in_whatever_order_sources_are_given() -> None:
    text = dense("odd/a/fc") + dense("odd/fc") + dense("fc")
    given = {"": {"fc": arrays()}, "odd": {"fc": arrays(), "a/fc": arrays()}, "odd/a/": {"fc": arrays()}}
    for names in (list(given), list(given)[::-1]):
        plan = planned(text, {name: given[name] for name in names})
        assert origins(plan) == {
            "odd/a/fc": from_source("odd/a", "fc"), "odd/fc": from_source("odd", "fc"), "fc": from_source("", "fc")
        }  # fmt: skip
        assert plan.unused == {"": (), "odd": ("a/fc",), "odd/a": ()}
    opened, errors = open_merge_sources({"b": {}, "a": {}, "aa": {}, "": {}})
    assert (list(opened), errors) == (["aa", "a", "b", ""], [])


def test_a_prefix_ends_at_the_slash() -> None:
    assert "no source has the prefix 'odder' (given: 'odd')" in refusal(
        dense("odder/fc", FROZEN) + dense("odd/fc"), {"odd": {"fc": arrays()}}
    )


@pytest.mark.parametrize(
    ("count", "says"),
    [(1, "layer 'odd/0' is frozen"), (2, "layer 'odd/0' and 1 more of 'odd/' are frozen"), (3, "and 2 more of 'odd/'")],
)
def test_how_many_layers_of_a_forgotten_source(count: int, says: str) -> None:
    text = "".join(dense(f"odd/{index}", FROZEN) for index in range(count))
    found = refusal(text, {})
    assert says in found
    assert "no source has the prefix 'odd' (given: none)" in found
    assert f"fused.prototxt:{2}:1" in found


def test_new_layers_start_from_their_fillers_unless_they_look_forgotten() -> None:
    for text in (dense("odd/fc"), dense("fc", FROZEN), dense("odd/fc", "param { lr_mult: 0 }")):
        assert planned(text, {}).filled == (text.partition('name: "')[2].partition('"')[0],)
    assert planned(dense("odd/fc", FROZEN), {}, allow_missing=["odd/fc"]).filled == ("odd/fc",)


@pytest.mark.parametrize(
    ("kind", "filler", "starts"),
    [("Deconvolution", "bilinear", True), ("Deconvolution", "xavier", False), ("Convolution", "bilinear", False)],
)
def test_only_upsampling_is_frozen_at_its_filler_on_purpose(kind: str, filler: str, starts: bool) -> None:
    text = (
        f'layer {{ name: "odd/up" type: "{kind}" bottom: "x" top: "y" param {{ lr_mult: 0 }} convolution_param {{ '
        f'num_output: 3 kernel_size: 4 bias_term: false weight_filler {{ type: "{filler}" }} }} }}'
    )
    if starts:
        assert planned(text, {}).filled == ("odd/up",)
    else:
        assert "layer 'odd/up' is frozen" in refusal(text, {})


def test_fresh_layers_take_nothing_and_are_not_compared(tmp_path: Path) -> None:
    (tmp_path / "odd.prototxt").write_text(INPUT + dense("fc").replace("num_output", "axis: 2 num_output"))
    write_weights(tmp_path / "odd.caffemodel", {"fc": arrays()})
    source = {"odd": (tmp_path / "odd.prototxt", tmp_path / "odd.caffemodel")}
    assert "layer 'odd/fc' would read its weights in another way: axis is 1, and 2" in refusal(dense("odd/fc"), source)
    plan = planned(dense("odd/fc"), source, fresh=["odd/fc"])
    assert plan.filled == ("odd/fc",)
    assert plan.unused == {"odd": ("fc",)}
    assert plan.allowed == ()


def test_a_prototxt_tells_the_type_and_which_layers_there_are(tmp_path: Path) -> None:
    write_weights(tmp_path / "odd.caffemodel", {"fc": arrays(), "more": arrays()})
    path = tmp_path / "odd.prototxt"
    source = {"odd": (path, tmp_path / "odd.caffemodel")}
    path.write_text(INPUT + dense("fc").replace("InnerProduct", "Embed").replace("inner_product", "embed"))
    found = refusal(dense("odd/fc"), source)
    assert "is of type InnerProduct in the fused net, but 'fc' in" in found
    assert "is of type Embed" in found
    path.write_text(INPUT + dense("fc"))
    assert f"but {path} has no layer 'more'" in refusal(dense("odd/fc") + dense("odd/more"), source)
    path.write_text(INPUT + dense("fc") + dense("none"))
    found = refusal(dense("odd/none"), source)
    assert f"from source 'odd', but {tmp_path / 'odd.caffemodel'} has no layer 'none'" in found
    assert "needs weights of shape 2x48, 2 from" in found


def test_the_error_for_a_missing_layer_names_one_like_it() -> None:
    found = refusal(dense("odd/fc1"), {"odd": {"fc2": arrays(), "conv": arrays()}})
    assert "hint: did you mean 'fc2'? " in found
    assert found.endswith("--allow-missing odd/fc1")


def test_unused_sources_where_no_layer_has_a_prefix() -> None:
    found = refusal(dense("fc"), {"odd": {"fc": arrays()}, "": {"fc": arrays()}})
    assert found.endswith("no layer of the fused net begins with 'odd/'\n  hint: no layer in it has a prefix")


UNKNOWN = 'layer {{ name: "{}" type: "Unheard" bottom: "x" top: "y" {} }}'


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
def test_layers_of_unknown_shapes_take_what_their_source_has() -> None:
    def plan(text: str, sources: object) -> MergePlan:
        net = load_net(parse(INPUT + text, "fused.prototxt"), strict=False)
        return plan_merge(net, sources)  # type: ignore[arg-type]

    found = plan(UNKNOWN.format("odd/own", ""), {"odd": {"own": [np.ones((2, 5)), np.ones(7)]}})
    assert found.layers[1].shapes == ((2, 5), (7,))
    assert found.layers[1].origins == from_source("odd", "own")
    assert plan(UNKNOWN.format("own", ""), {}).layers[1].origins == ()
    with pytest.raises(MergeError, match="layer 'own' has blobs of unknown shapes"):
        plan(UNKNOWN.format("own", "param { lr_mult: 1 }"), {})


SHARED = 'param {{ name: "{}" }} param {{ name: "{}" }}'


def test_shared_fillers_are_the_first_layers() -> None:
    text = (
        dense("a", SHARED.format("w", "b")) + dense("c", SHARED.format("v", "b")) + dense("d", SHARED.format("w", "e"))
    )
    first = FromFiller("a", 0, "constant 0"), FromFiller("a", 1, "constant 0")
    plan = planned(text, {})
    assert origins(plan) == {
        "a": first,
        "c": (FromFiller("c", 0, "constant 0"), first[1]),
        "d": (first[0], FromFiller("d", 1, "constant 0")),
    }
    assert plan.layers[2].origin_text() == "filled: constant 0, constant 0 (shared with a)"


def test_a_shared_weight_and_a_bias_that_may_be_missing() -> None:
    text = dense("odd/a", SHARED.format("w", "b")) + dense("odd/c", SHARED.format("w", "d"))
    source = {"odd": {"a": arrays()}}
    assert "layer 'odd/c' needs weights" in refusal(text, source)
    plan = planned(text, source, allow_missing=["odd/c"])
    assert origins(plan)["odd/c"] == (FromSource("odd", "a", 0), FromFiller("odd/c", 1, "constant 0"))
    assert plan.allowed == ("odd/c",)


def test_a_layer_that_shares_all_its_blobs_comes_from_a_later_owner_too() -> None:
    text = dense("odd/c", SHARED.format("w", "b")) + dense("odd/a", SHARED.format("w", "b"))
    plan = planned(text, {"odd": {"a": arrays()}})
    assert origins(plan)["odd/c"] == origins(plan)["odd/a"] == from_source("odd", "a")
    assert [layer.shapes for layer in plan.layers[1:]] == [((2, 48), (2,))] * 2


def test_sizes_that_the_net_does_not_tell_are_those_of_the_shared_weights() -> None:
    images = 'layer { name: "x" type: "ImageData" top: "x" top: "l" image_data_param { source: "none" } }\n'
    text = images + dense("odd/c", SHARED.format("w", "b")) + dense("odd/a", SHARED.format("w", "b"))
    plan = plan_merge(load_net(parse(text)), {"odd": {"a": arrays()}})
    assert [layer.shapes for layer in plan.layers[1:]] == [((2, 48), (2,))] * 2


def test_equal_weights_of_two_sources_may_share_and_others_not() -> None:
    text = dense("a/c", SHARED.format("w", "b")) + dense("b/c", SHARED.format("w", "b"))
    assert planned(text, {"a": {"c": arrays()}, "b": {"c": arrays()}}).filled == ()
    found = refusal(text, {"a": {"c": arrays()}, "b": {"c": [arrays()[0], arrays(2)[1]]}})
    assert "layer 'b/c' shares parameter 'b' with layer 'a/c', but the two would get different weights" in found
    assert "parameter 'w'" not in found
    assert "shares parameter 'w'" in refusal(text.replace('"b/c"', '"c"'), {"a": {"c": arrays()}, "": {"c": arrays(3)}})


def test_planning_reads_no_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path / "odd.caffemodel", {"fc": arrays()})
    weights = read_weights(tmp_path / "odd.caffemodel")

    def fail(*arguments: object) -> None:
        raise AssertionError("a value was read")

    with monkeypatch.context() as patch:
        patch.setattr(Weights, "array", fail)
        patch.setattr(Weights, "__getitem__", fail)
        plan = planned(dense("odd/fc"), {"odd": weights})
        apply_merge(plan, tmp_path / "out.caffemodel")
    assert plan.sources["odd"].label == str(tmp_path / "odd.caffemodel")
    np.testing.assert_array_equal(read_weights(tmp_path / "out.caffemodel")["odd/fc"][0], arrays()[0])


def test_the_seed_reaches_the_fillers(tmp_path: Path) -> None:
    from fusion.merge.initial_fillers import initial_value

    text = dense("fc", filler='weight_filler { type: "xavier" }')
    plan = planned(text, {}, seed=5)
    apply_merge(plan, tmp_path / "out.caffemodel")
    expected = initial_value(plan.messages["fc"], 0, (2, 48), 5)
    np.testing.assert_array_equal(read_weights(tmp_path / "out.caffemodel")["fc"][0], expected)
    assert plan.seed == 5
    assert planned(text, {}).seed == 0


@pytest.mark.parametrize(("count", "text"), [(8, ", ".join(["2x3"] * 8)), (9, "9 weights, 54 values")])
def test_many_shapes_are_a_count(count: int, text: str) -> None:
    assert PlannedLayer("n", "Onnx", shapes=((2, 3),) * count).shapes_text() == text


def test_the_texts_of_shapes_and_origins() -> None:
    assert PlannedLayer("n", "t", shapes=((), (1, 20, 5))).shapes_text() == "scalar, 1x20x5"
    parts = (FromSource("", "a", 0), FromSource("", "a", 1), FromSource("p", "b", 0), FromFiller("n", 2, "xavier"))
    assert PlannedLayer("n", "t", origins=parts).origin_text() == "source: a, p: b, xavier"


def test_the_line_under_the_table_is_as_long_as_the_table_up_to_120() -> None:
    lines = planned(dense("fc"), {}).table().splitlines()
    assert lines[1] == "-" * max(len(lines[0]), len(lines[2]))
    assert planned(dense("f" * 150), {}).table().splitlines()[1] == "-" * 120
    assert lines[-1] == "1 layers with 98 values (0.0 MB): 0 from 0 sources, 1 filled with seed 0"


def test_the_plan_shows_no_weights_and_counts_its_bytes() -> None:
    plan = planned(dense("odd/fc"), {"odd": {"fc": arrays()}})
    assert plan.nbytes == 4 * (2 * 48 + 2)
    assert "array" not in repr(plan)
    assert "inner_product_param" not in repr(plan)
    assert "not used" not in plan.table()
