"""Building nets: names, program, copies, sharing, losses, errors."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prototxt
from fusion.errors import BuildError, FusionError
from fusion.nets import build as nets, graph
from fusion.nets.graph import Net, submodule_paths

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } } '
LENET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 1 dim: 12 dim: 12 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "odd/conv1" type: "Convolution" bottom: "data" top: "odd/conv1"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "odd/relu1" type: "ReLU" bottom: "odd/conv1" top: "odd/conv1" }
layer { name: "odd/pool1" type: "Pooling" bottom: "odd/conv1" top: "odd/pool1"
  pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "odd/pool1" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
"""


def build(text: str, phase: str = "TEST", **options: object) -> Net:
    return nets.build(prototxt.parse(text, "net.prototxt"), phase, **{"seed": 0, **options})  # type: ignore[arg-type]


def lenet_inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"data": torch.randn(2, 1, 12, 12, generator=generator), "label": torch.tensor([1.0, 3.0])}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key])


def test_layers_are_submodules_and_the_program_reads_like_the_prototxt() -> None:
    net = build(LENET, "TRAIN")
    assert isinstance(net.odd.conv1, nn.Module)  # type: ignore[union-attr]
    lines = [line.split(";")[0].strip() for line in net.code.strip().splitlines() if " = self." in line]
    assert lines == [
        "odd_conv1 = self.odd.conv1(data)",
        "odd_relu1 = self.odd.relu1(odd_conv1)",
        "odd_pool1 = self.odd.pool1(odd_relu1)",
        "ip = self.ip(odd_pool1)",
        "loss = self.loss(ip, label)",
    ]
    assert "odd_pool1 = None" in net.code, "blobs are freed after their last use"


def test_outputs_are_the_tops_that_nobody_takes() -> None:
    assert set(build(LENET, "TEST")(lenet_inputs())) == {"loss", "accuracy"}
    assert set(build(LENET, "TRAIN")(lenet_inputs())) == {"loss"}


def test_blobs_bear_caffes_names_and_hold_final_values() -> None:
    blobs = nets.blobs(build(LENET), lenet_inputs())
    assert set(blobs) == {"data", "label", "odd/conv1", "odd/pool1", "ip", "loss", "accuracy"}
    assert float(blobs["odd/conv1"].detach().min()) == 0, "the value behind the in-place ReLU"


def test_blobs_needs_only_the_inputs_of_what_it_gives() -> None:
    net = nets.restrict_to_blobs(build(LENET), ["ip"])
    assert [call.name for call in net.plan.calls] == ["odd/conv1", "odd/relu1", "odd/pool1", "ip"]
    assert set(net({"data": lenet_inputs()["data"]})) == {"ip"}


def test_outputs_of_an_unknown_blob_suggests() -> None:
    with pytest.raises(FusionError, match="did you mean 'odd/pool1'"):
        nets.restrict_to_blobs(build(LENET), ["odd/pol1"])


def test_missing_inputs_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FusionError, match="needs the inputs 'label'"):
        build(LENET)({"data": lenet_inputs()["data"]})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"data": torch.zeros(2, 3, 12, 12), "label": torch.zeros(2)}, r"layer 'odd/conv1' \(Convolution\).*'data'"),
        (
            {"data": torch.zeros(2, 1, 12, 12), "label": torch.tensor([1, 7])},
            r"layer 'loss'.*Target 7 is out of bounds",
        ),
    ],
)
def test_what_does_not_fit_names_the_layer(
    inputs: dict[str, Tensor], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FusionError, match=message):
        build(LENET)(inputs)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "save"])
def test_copies_are_nets_that_share_nothing(way: str) -> None:
    net = build(LENET, "TRAIN")
    if way == "deepcopy":
        twin = copy.deepcopy(net)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(net))
    else:
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert isinstance(twin, Net)
    assert twin.plan == net.plan
    assert twin.code == net.code
    before = {key: value.clone() for key, value in net(lenet_inputs()).items()}
    assert_same(twin(lenet_inputs()), before)
    with torch.no_grad():
        twin.ip.weight.zero_()  # type: ignore[union-attr, operator]
    assert_same(net(lenet_inputs()), before)
    assert_same(nets.restrict_to_blobs(twin, ["ip"])(lenet_inputs()), {"ip": nets.blobs(twin, lenet_inputs())["ip"]})


def test_state_dict_loads_into_a_twin() -> None:
    net, twin = build(LENET, seed=1), build(LENET, seed=2)
    assert "odd.conv1.weight" in net.state_dict()
    twin.load_state_dict(net.state_dict())
    assert_same(net(lenet_inputs()), twin(lenet_inputs()))


def test_the_seed_decides_the_weights_in_either_phase() -> None:
    train, test, other = build(LENET, "TRAIN"), build(LENET, "TEST"), build(LENET, seed=3)
    for name, tensors in nets.params(train).items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, nets.params(test)[name], strict=True))
    assert not torch.equal(nets.params(train)["ip"][0], nets.params(other)["ip"][0])


def test_any_layer_name_finds_a_submodule() -> None:
    names = ["a", "a/b", "a_", "res2a.branch 1", "1x1", "class", "forward", "type", "", "", "x", "x", "plan", "a//c"]
    names += ["graph", "training", "_modules", "parameters", "self", "inputs", "é", "code", "/lead", "trail/"]
    paths = submodule_paths([(name, "Power") for name in names])
    assert len(set(paths)) == len(paths)
    text = INPUT.replace('"x"', '"d"')
    text += "".join(
        f'layer {{ name: "{name}" type: "Power" bottom: "d" top: "t{index}" power_param {{ shift: {index} }} }} '
        for index, name in enumerate(names)
    )
    net = build(text)
    assert [call.path for call in net.plan.calls] == paths
    out = net({"d": torch.zeros(2, 3)})
    for index, name in enumerate(names):
        assert torch.equal(out[f"t{index}"], torch.full((2, 3), float(index))), name
    twin = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    assert_same(out, twin({"d": torch.zeros(2, 3)}))
    net.eval().requires_grad_(False).to(torch.float64)


def test_params_lists_second_layers_of_a_name_apart() -> None:
    one = 'layer { name: "s" type: "Scale" bottom: "x" top: "%s" }'
    net = build(INPUT + one % "a" + one % "b")
    assert list(nets.params(net)) == ["s", "s (2)"]


def test_frozen_parameters_get_no_gradient() -> None:
    text = LENET.replace('top: "odd/conv1"\n', 'top: "odd/conv1" param { lr_mult: 0 } param { lr_mult: 0 }\n')
    net = build(text, "TRAIN")
    nets.total_loss(net, net(lenet_inputs())).backward()
    assert [p.requires_grad for p in nets.params(net)["odd/conv1"]] == [False, False]
    assert all(p.grad is not None for p in nets.params(net)["ip"])


def test_propagate_down_false_stops_gradients_unless_forced() -> None:
    text = LENET.replace('bottom: "odd/pool1" top: "ip"', 'bottom: "odd/pool1" propagate_down: false top: "ip"')
    net = build(text, "TRAIN")
    nets.total_loss(net, net(lenet_inputs())).backward()
    assert nets.params(net)["odd/conv1"][0].grad is None  # type: ignore[comparison-overlap]
    forced = build("force_backward: true " + text, "TRAIN")
    nets.total_loss(forced, forced(lenet_inputs())).backward()
    assert nets.params(forced)["odd/conv1"][0].grad is not None


def test_shared_names_are_one_parameter() -> None:
    text = INPUT + (
        'layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" lr_mult: 2 } '
        "inner_product_param { num_output: 3 bias_term: false } }"
        'layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" } '
        "inner_product_param { num_output: 3 bias_term: false } }"
    )
    net = build(text)
    assert nets.params(net)["a"][0] is nets.params(net)["b"][0]
    assert [(item.layer, item.lr_mult) for item in nets.learnable(net)] == [("a", 2.0)]
    twin = copy.deepcopy(net)
    assert nets.params(twin)["a"][0] is nets.params(twin)["b"][0]


def test_permissive_sharing_sees_one_tensor_in_two_shapes() -> None:
    text = INPUT + (
        'layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } '
        "inner_product_param { num_output: 6 bias_term: false weight_filler { type: 'xavier' } } }"
        'layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" share_mode: PERMISSIVE } '
        "inner_product_param { num_output: 3 bias_term: false } }"
    )
    net = build(text)
    weight = nets.params(net)["a"][0]
    assert nets.params(net)["b"][0] is weight
    x = torch.randn(2, 3)
    out = net({"x": x})["b"]
    torch.testing.assert_close(out, x @ weight.T @ weight.reshape(3, 6).T)
    out.sum().backward()
    assert weight.grad is not None
    assert_same(pickle.loads(pickle.dumps(net))({"x": x}), {"b": out})


def test_sharing_with_contradicting_rates_is_refused() -> None:
    one = 'layer { name: "%s" type: "Scale" bottom: "x" top: "%s" param { name: "w" lr_mult: %d } }'
    with pytest.raises(prototxt.ShapeError, match="lr_mult"):
        build(INPUT + one % ("a", "a", 1) + one % ("b", "b", 2))


def test_in_place_layers_on_an_input_leave_the_caller_s_tensor_alone() -> None:
    net = build(
        INPUT
        + 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" } layer { name: "p" type: "Power" bottom: "x" top: "y" }'
    )
    x = -torch.ones(2, 3)
    assert float(net({"x": x})["y"].sum()) == 0
    assert float(x.sum()) == -6


def test_loss_weights_anywhere() -> None:
    text = LENET.replace('bottom: "data" top: "odd/conv1"', 'bottom: "data" top: "odd/conv1" loss_weight: 0.5')
    net = build(text, "TRAIN")
    out = net(lenet_inputs())
    assert nets.loss_weights(net) == {"odd/conv1@odd/conv1": 0.5, "loss": 1.0}
    expected = 0.5 * out["odd/conv1@odd/conv1"].sum() + out["loss"]
    torch.testing.assert_close(nets.total_loss(net, out), expected)


def test_a_loss_layer_without_a_top_counts() -> None:
    net = build(LENET.replace('bottom: "label" top: "loss"', 'bottom: "label"'), "TRAIN")
    assert float(nets.total_loss(net, net(lenet_inputs())).detach()) > 0


def test_a_net_without_a_loss_says_so() -> None:
    net = build(INPUT + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')
    with pytest.raises(FusionError, match="has no loss"):
        nets.total_loss(net, net({"x": torch.zeros(2, 3)}))


def test_unknown_types_are_all_reported_with_place_and_suggestion() -> None:
    text = INPUT + '\nlayer { name: "a" type: "InerProduct" bottom: "x" top: "a" }'
    text += '\n  layer { type: "Relu" bottom: "a" top: "b" }'
    with pytest.raises(BuildError, match="InerProduct") as caught:
        build(text)
    message = str(caught.value)
    assert "net.prototxt:2:1" in message
    assert "did you mean 'InnerProduct'?" in message
    assert "did you mean 'ReLU'?" in message


def test_too_many_param_blocks_are_refused() -> None:
    with pytest.raises(prototxt.ShapeError, match="param"):
        build(INPUT + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" param { lr_mult: 0 } }')


def test_learnable_batch_norm_statistics_are_refused() -> None:
    with pytest.raises(prototxt.ShapeError, match="not learned"):
        build(INPUT + 'layer { name: "b" type: "BatchNorm" bottom: "x" top: "y" param { lr_mult: 1 } }')


def test_an_unknown_input_size_asks_for_shapes() -> None:
    text = (
        'layer { name: "d" type: "ImageData" top: "data" top: "label" '
        'image_data_param { source: "none.txt" batch_size: 4 } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }'
    )
    with pytest.raises(BuildError, match="shapes="):
        build(text)
    net = build(text, shapes={"data": (4, 3, 8, 8)})
    assert net({"data": torch.zeros(7, 3, 8, 8)})["ip"].shape == (7, 2), "the batch size is free"


def test_batch_and_image_size_change_at_run_time() -> None:
    net = nets.restrict_to_blobs(build(LENET), ["odd/pool1"])
    assert net({"data": torch.zeros(5, 1, 20, 17)})["odd/pool1"].shape == (5, 4, 9, 8)


def test_build_on_the_meta_device_allocates_nothing() -> None:
    with torch.device("meta"):
        net = build(LENET)
    assert all(p.is_meta for p in net.parameters())


def test_float64_and_bfloat16_autocast() -> None:
    inputs = lenet_inputs()
    net = build(LENET, "TRAIN")
    single = nets.total_loss(net, net(inputs)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nets.total_loss(net, net(inputs))
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.detach(), single, rtol=2e-2, atol=2e-2)
    double = net.double()
    out = double({key: value.double() for key, value in inputs.items()})
    torch.testing.assert_close(out["loss"].detach().float(), single)


def test_run_and_the_program_agree() -> None:
    net = build(LENET)
    values = graph.run(net, lenet_inputs())
    assert_same(net(lenet_inputs()), {key: values[value] for key, value in net.plan.outputs})


def test_build_reads_a_file(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(LENET)
    assert_same(nets.build(tmp_path / "net.prototxt", seed=0)(lenet_inputs()), build(LENET)(lenet_inputs()))


def test_recurrent_layers_on_blobs_of_unknown_shape_are_refused() -> None:
    python = 'layer { name: "p" type: "Python" top: "x" top: "cont" python_param { module: "m" layer: "L" } }\n'
    for kind in ("LSTM", "RNN"):
        text = f'layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "cont" top: "l" '
        with pytest.raises(FusionError, match="layer 'l': the shapes of its bottoms are not known"):
            build(python + text + "recurrent_param { num_output: 4 } }")
