"""Upgrades are what Caffe's own tools made of the same files, message for message."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from prototxt.errors import UpgradeError
from prototxt.schema import messages
from prototxt.schema.legacy import V0_FIELDS, V0_TYPES, V1_TYPES
from prototxt.schema.load import load_net, load_solver
from prototxt.schema.messages import LayerParameter, NetParameter, SolverParameter, V1LayerParameter
from prototxt.schema.upgrade import UpgradeWarning, upgrade_net, upgrade_solver
from prototxt.text.parser import parse
from prototxt.text.source_places import place_of

CASES = 12


def pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The old files with what Caffe's tool made of them."""
    found = [(path.with_suffix(""), path) for path in folder.glob("*.prototxt.upgraded")]
    found += [(Path(str(path).replace(".upgraded", "")), path) for path in folder.glob("*.upgraded.prototxt")]
    return sorted(found)


def by_protobuf(path: Path, message: Any) -> Any:
    return text_format.Parse(path.read_bytes(), message, descriptor_pool=messages.POOL)


def test_equal_to_caffes_own_tool(reference: Path) -> None:
    cases = pairs(reference / "caffe" / "upgrade")
    assert len(cases) == CASES
    for old, new in cases:
        if "solver" in old.name:
            assert load_solver(old) == by_protobuf(new, SolverParameter()), old
        else:
            assert load_net(old) == by_protobuf(new, NetParameter()), old


def test_upgrading_twice_changes_nothing(reference: Path) -> None:
    for old, _ in pairs(reference / "caffe" / "upgrade"):
        if "solver" not in old.name:
            net = load_net(old)
            assert upgrade_net(net) == net


def test_v1_type_names(reference: Path) -> None:
    assert json.loads((reference / "caffe" / "upgrade" / "v1_type_names.json").read_text()) == V1_TYPES


def test_the_tables_name_what_exists() -> None:
    assert set(V1_TYPES) == set(V1LayerParameter.LayerType.keys())
    assert set(V0_TYPES.values()) <= set(V1_TYPES)
    v0 = messages.V0LayerParameter.DESCRIPTOR.fields_by_name
    for name, homes in V0_FIELDS.items():
        assert name in v0
        for path in homes.values():
            descriptor: Any = V1LayerParameter.DESCRIPTOR
            for part in path.split("."):
                field = descriptor.fields_by_name[part]
                descriptor = field.message_type


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ('input: "a" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4', [[1, 2, 3, 4]]),
        ('input: "a" input_shape { dim: 5 dim: 6 }', [[5, 6]]),
        ('input: "a" input: "b" input_shape { dim: 1 } input_shape { }', [[1], []]),
        ('input: "a" input: "b" ' + "input_dim: 2 " * 8, [[2] * 4, [2] * 4]),
    ],
)
def test_inputs_become_a_layer(text: str, shapes: list[list[int]]) -> None:
    net = load_net(parse(text + ' layer { name: "x" }'))
    layer = net.layer[0]
    assert (layer.name, layer.type) == ("input", "Input")
    assert [list(shape.dim) for shape in layer.input_param.shape] == shapes
    assert len(layer.top) == len(shapes)
    assert net.layer[1].name == "x"
    assert not net.input
    assert not net.input_dim
    assert not net.input_shape


def test_inputs_without_shapes_vanish_as_in_caffe() -> None:
    assert load_net(parse('input: "data" name: "n"')) == NetParameter(name="n")


@pytest.mark.parametrize("dims", [1, 3, 5, 7])
def test_too_few_input_dims(dims: int) -> None:
    with pytest.raises(UpgradeError, match=f"2 input, but {dims} input_dim"):
        load_net(parse('input: "a" input: "b" ' + "input_dim: 1 " * dims))


def test_too_few_input_shapes() -> None:
    with pytest.raises(UpgradeError, match="2 input, but 1 input_shape"):
        load_net(parse('input: "a" input: "b" input_shape { dim: 1 }'))


def test_batch_norm_statistics_do_not_learn() -> None:
    net = load_net(
        parse('layer { type: "BatchNorm" param { lr_mult: 1 name: "m" } param { } param { decay_mult: 2 } }')
    )
    assert [(param.lr_mult, param.decay_mult) for param in net.layer[0].param] == [(0, 0)] * 3
    assert net.layer[0].param[0].name == "m"
    two = load_net(parse('layer { type: "BatchNorm" param { lr_mult: 1 } param { } }'))
    assert two.layer[0].param[0].lr_mult == 1


def test_v1_params_in_parallel_lists() -> None:
    net = load_net(parse("layers { type: CONVOLUTION param: 'w' blobs_lr: 1 blobs_lr: 2 weight_decay: 0 }"))
    first, second = net.layer[0].param
    assert (first.name, first.lr_mult, first.decay_mult) == ("w", 1, 0)
    assert second.lr_mult == 2
    assert not second.HasField("decay_mult")


def test_padding_layers_fold_into_what_is_behind_them() -> None:
    text = """input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
    layers { layer { name: "p" type: "padding" pad: 2 } bottom: "data" top: "padded" }
    layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 5 } bottom: "padded" top: "c" }"""
    net = load_net(parse(text, "n"))
    assert [layer.name for layer in net.layer] == ["input", "c"]
    assert list(net.layer[1].convolution_param.pad) == [2]
    assert list(net.layer[1].bottom) == ["data"]
    assert str(place_of(net.layer[1])) == "n:3:5"


def test_padding_before_anything_else_is_an_error() -> None:
    text = """layers { layer { name: "p" type: "padding" pad: 2 } bottom: "data" top: "padded" }
    layers { layer { name: "r" type: "relu" } bottom: "padded" top: "r" }"""
    with pytest.raises(UpgradeError, match="n:2:5: layer 'r' takes its input from padding layer 'p'"):
        load_net(parse(text, "n"))


def test_an_unknown_v0_type() -> None:
    text = 'layers { layer { name: "c" type: "convv" } }\nlayers { layer { name: "d" type: "CONVOLUTION" } }'
    with pytest.raises(UpgradeError) as caught:
        load_net(parse(text, "n"))
    assert str(caught.value).splitlines()[:2] == [
        "n:1:1: layer 'c': unknown V0 type 'convv'",
        "  hint: did you mean 'conv'?",
    ]
    assert len(caught.value.errors) == 2


def test_what_has_no_place_today_is_listed() -> None:
    text = """layers { layer { name: "r" type: "relu" kernelsize: 3 } blobs_lr: 1 }
    layer { name: "new" }"""
    with pytest.warns(UpgradeWarning) as caught:
        net = load_net(parse(text, "n"))
    assert [layer.name for layer in net.layer] == ["r"]
    report = str(caught[0].message)
    assert "1 blocks 'layer'" in report
    assert "n:1:1: 'kernelsize' of layer 'r', which type 'relu' does not have" in report
    assert "n:1:1: 'blobs_lr' beside the V0 block of layer 'r'" in report


def test_transforms_move_out_of_the_data_parameters_of_v1_only() -> None:
    old = load_net(parse("layers { type: DATA data_param { scale: 0.5 mirror: true } }"))
    assert old.layer[0].transform_param.scale == 0.5
    assert not old.layer[0].data_param.HasField("scale")
    new = load_net(parse('layer { type: "Data" data_param { scale: 0.5 } }'))
    assert new.layer[0].data_param.scale == 0.5


@pytest.mark.parametrize(
    ("old", "new"),
    [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("ADAGRAD", "AdaGrad"), ("RMSPROP", "RMSProp"), ("ADAM", "Adam")],
)
def test_solver_types(old: str, new: str) -> None:
    assert load_solver(parse(f"solver_type: {old}")) == SolverParameter(type=new)


def test_both_solver_types() -> None:
    with pytest.raises(UpgradeError, match="both solver_type and type"):
        upgrade_solver(SolverParameter(type="SGD", solver_type="ADAM"))


def test_inline_nets_of_a_solver() -> None:
    text = """net_param { layers { name: "a" type: RELU } }
    test_net_param { layer { name: "t" } } test_net_param { layers { type: TANH } }"""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solver = load_solver(parse(text, "s"))
    assert list(solver.net_param.layer) == [LayerParameter(name="a", type="ReLU")]
    assert [net.layer[0].type for net in solver.test_net_param] == ["", "TanH"]
    assert str(place_of(solver.test_net_param[0].layer[0])) == "s:2:22"
