"""The fused loss is the sources' own, with its parameters; where that cannot be known or served, one error says why."""

from __future__ import annotations

from pathlib import Path

import pytest

import prototxt
from fusion import ComposeError
from fusion.composition import Loss, SolverSettings, Source, compose
from fusion.composition.losses import comparison_key, parse_loss
from prototxt.schema.messages import LayerParameter, NetParameter

NET = """
name: "{name}"
layer {{ name: "data" type: "HDF5Data" top: "data" top: "{label}" {more} include {{ phase: TRAIN }}
  hdf5_data_param {{ source: "tr.txt" batch_size: 8 }} }}
layer {{ name: "data" type: "HDF5Data" top: "data" top: "{label}" {more} include {{ phase: TEST }}
  hdf5_data_param {{ source: "te.txt" batch_size: 8 }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
{rest}
"""
DENSE = """
layer {{ name: "fc1" type: "InnerProduct" bottom: "conv1" top: "fc1" inner_product_param {{ num_output: 6 }} }}
layer {{ name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2" inner_product_param {{ num_output: {width} }} }}
{judges}
"""


def write(tmp_path: Path, rest: str, *, name: str = "one", label: str = "label", more: str = "") -> Path:
    path = tmp_path / f"{name}.prototxt"
    path.write_text(NET.format(name=name, label=label, more=more, rest=rest))
    return path


def dense(
    tmp_path: Path, judges: str, *, width: int = 4, name: str = "one", label: str = "label", more: str = ""
) -> Path:
    return write(tmp_path, DENSE.format(width=width, judges=judges), name=name, label=label, more=more)


def loss_of(kind: str, body: str = "", label: str = "label", scores: str = "fc2", further: str = "") -> str:
    return (
        f'layer {{ name: "loss" type: "{kind}" bottom: "{scores}" bottom: "{label}" {further} top: "loss" {body} }}\n'
    )


def fused(*paths: Path, num_output: int | None = 4, **options: object) -> tuple[NetParameter, NetParameter]:
    """The nets to train and to deploy."""
    sources = [Source(f"s{index}", path) for index, path in enumerate(paths)]
    composed = compose(sources, num_output=num_output, input_shape=(3, 8, 8), **options)  # type: ignore[arg-type]
    assert composed.deploy is not None
    return prototxt.load_net(composed.train_val), prototxt.load_net(composed.deploy)


def ends(net: NetParameter) -> list[LayerParameter]:
    """The layers that no source has."""
    return [layer for layer in net.layer if layer.bottom and "/" not in layer.name and "_fused" not in layer.top[0]]


def kinds(net: NetParameter) -> list[str]:
    return [layer.type for layer in ends(net) if layer.type != "Concat"]


def test_regression_stays_regression(tmp_path: Path) -> None:
    train, deploy = fused(
        *[dense(tmp_path, loss_of("EuclideanLoss", label="age"), width=1, label="age")] * 2, num_output=1
    )
    assert kinds(train) == ["InnerProduct", "EuclideanLoss"]
    assert list(ends(train)[-1].bottom) == ["fc2", "age"]
    assert kinds(deploy) == ["InnerProduct"]


def test_many_labels_stay_many(tmp_path: Path) -> None:
    path = dense(tmp_path, loss_of("SigmoidCrossEntropyLoss", "loss_param { normalization: VALID ignore_label: -1 }"))
    train, deploy = fused(path)
    loss = ends(train)[-1]
    assert kinds(train) == ["InnerProduct", "SigmoidCrossEntropyLoss"]
    assert (loss.loss_param.normalization, loss.loss_param.ignore_label) == (loss.loss_param.VALID, -1)
    assert kinds(deploy) == ["InnerProduct", "Sigmoid"]


def test_parameters_of_the_loss_and_the_measures_go_along(tmp_path: Path) -> None:
    judges = """
    layer { name: "a" type: "Accuracy" bottom: "fc2" bottom: "label" top: "a" accuracy_param { ignore_label: 2 } }
    layer { name: "a3" type: "Accuracy" bottom: "fc2" bottom: "label" top: "a3" accuracy_param { top_k: 3 } }
    layer { name: "a5" type: "Accuracy" bottom: "fc2" bottom: "label" top: "a5" accuracy_param { top_k: 5 } }
    """
    body = "loss_weight: 3 loss_param { ignore_label: 2 normalization: BATCH_SIZE }"
    train, deploy = fused(dense(tmp_path, judges + loss_of("SoftmaxWithLoss", body)))
    found = {layer.name: layer for layer in ends(train)}
    assert list(found["loss"].loss_weight) == [3]
    assert found["loss"].loss_param.ignore_label == 2
    assert found["loss"].loss_param.normalization == found["loss"].loss_param.BATCH_SIZE
    assert found["accuracy"].accuracy_param.ignore_label == 2
    assert found["accuracy"].accuracy_param.top_k == 1
    assert found["accuracy_top3"].accuracy_param.top_k == 3
    assert not found["accuracy_top3"].accuracy_param.HasField("ignore_label")
    assert "accuracy_top5" not in found  # of four classes five are always right
    assert all(
        layer.include[0].phase == prototxt.schema.messages.TEST for layer in ends(train) if layer.type == "Accuracy"
    )
    assert kinds(deploy) == ["InnerProduct", "Softmax"]


def test_hinge_and_logistic_losses(tmp_path: Path) -> None:
    train, deploy = fused(dense(tmp_path, loss_of("HingeLoss", "hinge_loss_param { norm: L2 }")))
    assert kinds(train) == ["InnerProduct", "Accuracy", "HingeLoss"]
    assert ends(train)[-1].hinge_loss_param.norm == ends(train)[-1].hinge_loss_param.L2
    assert kinds(deploy) == ["InnerProduct"]
    softmax = 'layer { name: "p" type: "Softmax" bottom: "fc2" top: "p" }\n'
    path = dense(tmp_path, softmax + loss_of("MultinomialLogisticLoss", scores="p"))
    train, deploy = fused(path)
    assert kinds(train) == ["InnerProduct", "Accuracy", "Softmax", "MultinomialLogisticLoss"]
    assert ends(train)[-1].bottom[0] == ends(train)[-2].top[0] == "prob"
    assert kinds(deploy) == ["InnerProduct", "Softmax"]


def test_gains_from_a_file_and_from_the_data(tmp_path: Path) -> None:
    train, _ = fused(dense(tmp_path, loss_of("InfogainLoss", 'infogain_loss_param { source: "H.binaryproto" }')))
    assert ends(train)[-1].infogain_loss_param.source == "H.binaryproto"
    matrix = loss_of("InfogainLoss", further='bottom: "H"')
    train, _ = fused(dense(tmp_path, matrix, more='top: "H"'))
    assert list(ends(train)[-1].bottom) == ["fc2", "label", "H"]
    computed = 'layer { name: "H" type: "Power" bottom: "label" top: "H" }\n' + matrix
    with pytest.raises(ComposeError, match="which the data does not give"):
        fused(dense(tmp_path, computed))


def test_a_gain_matrix_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("H.binaryproto").write_bytes(prototxt.schema.messages.BlobProto(data=[1.0] * 16).SerializeToString())
    path = dense(tmp_path, loss_of("InfogainLoss", 'infogain_loss_param { source: "H.binaryproto" }'))
    assert kinds(fused(path)[0])[-1] == "InfogainLoss"
    with pytest.raises(ComposeError, match="has 16 gains, and 5 classes need 5 x 5"):
        fused(path, num_output=5)


def test_an_output_activation_before_a_loss_on_values_is_kept(tmp_path: Path) -> None:
    sigmoid = 'layer { name: "squash" type: "Sigmoid" bottom: "fc2" top: "squashed" }\n'
    train, deploy = fused(dense(tmp_path, sigmoid + loss_of("EuclideanLoss", scores="squashed")))
    assert kinds(train) == ["InnerProduct", "Sigmoid", "EuclideanLoss"]
    assert ends(train)[-1].bottom[0] == "squashed"
    assert kinds(deploy) == ["InnerProduct", "Sigmoid"]
    plain = dense(tmp_path, loss_of("EuclideanLoss"), name="two")
    with pytest.raises(ComposeError, match="have different layers between their classifiers and their losses"):
        fused(dense(tmp_path, sigmoid + loss_of("EuclideanLoss", scores="squashed")), plain)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("", "loss_param { normalization: VALID }", True),
        ("loss_param { normalize: false }", "loss_param { normalization: BATCH_SIZE }", True),
        ("loss_param { normalize: false }", "", False),
        ("loss_weight: 1", "softmax_param { axis: 1 engine: CAFFE }", True),
        ("loss_weight: [2, 0]", "loss_weight: 2", True),
        ("loss_weight: 2", "", False),
        ("loss_param { ignore_label: 0 }", "", False),
        ("loss_param { ignore_label: 0xff }", "loss_param { ignore_label: 255 }", True),
    ],
)
def test_losses_agree_by_what_they_compute(tmp_path: Path, first: str, second: str, same: bool) -> None:
    one = dense(tmp_path, loss_of("SoftmaxWithLoss", first))
    two = dense(tmp_path, loss_of("SoftmaxWithLoss", second), name="two")
    if same:
        assert kinds(fused(one, two)[0]) == ["InnerProduct", "Accuracy", "SoftmaxWithLoss"]
        return
    with pytest.raises(ComposeError, match="the sources have different losses") as error:
        fused(one, two)
    assert "--loss SoftmaxWithLoss,ignore_label=255" in str(error.value)
    sources = [Source("a", one), Source("b", two)]
    for kind, origin in (("SoftmaxWithLoss", "as requested"), ("HingeLoss", "as requested")):
        notes = compose(sources, num_output=4, input_shape=(3, 8, 8), loss=kind).notes
        assert [note.partition("(")[2] for note in notes if note.startswith("loss: ")] == [
            f"{origin}); 'label' holds class numbers"
        ]
    train, _ = fused(one, two, loss="SoftmaxWithLoss,ignore_label=9,normalize=false")
    assert ends(train)[-1].loss_param.ignore_label == 9
    assert ends(train)[-1].loss_param.normalize is False


def test_what_no_head_can_serve_is_refused_with_its_reason(tmp_path: Path) -> None:
    pair = 'layer { name: "c" type: "ContrastiveLoss" bottom: "fc1" bottom: "fc2" bottom: "label" top: "c" }\n'
    with pytest.raises(ComposeError, match="trained on pairs: 'label' says whether the two are alike"):
        fused(dense(tmp_path, pair))
    with pytest.raises(ComposeError, match="how it compares scores with labels is not known"):
        fused(dense(tmp_path, loss_of("TripletLoss")))
    with pytest.raises(ComposeError, match="how it compares scores with labels is not known"):
        fused(dense(tmp_path, loss_of("Python", 'loss_weight: 1 python_param { module: "m" layer: "L" }')))


def test_a_loss_under_the_cut_says_nothing(tmp_path: Path) -> None:
    auxiliary = """
    layer { name: "aux" type: "InnerProduct" bottom: "conv1" top: "aux" inner_product_param { num_output: 1 } }
    layer { name: "l" type: "EuclideanLoss" bottom: "aux" bottom: "label" top: "l" }
    """
    train, _ = fused(dense(tmp_path, auxiliary + loss_of("SoftmaxWithLoss")))
    assert kinds(train)[-1] == "SoftmaxWithLoss"


def test_labels_that_cannot_be_known_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ComposeError, match="'label' by EuclideanLoss, so it may be no label for SoftmaxWithLoss"
    ) as error:
        fused(dense(tmp_path, loss_of("EuclideanLoss")), loss="SoftmaxWithLoss")
    assert "--loss SoftmaxWithLoss,label=label" in str(error.value)
    train, _ = fused(dense(tmp_path, loss_of("EuclideanLoss")), loss="SoftmaxWithLoss,label=label")
    assert kinds(train) == ["InnerProduct", "Accuracy", "SoftmaxWithLoss"]
    with pytest.raises(ComposeError, match="blob of source 's0' with the labels is not known; it may be label, other"):
        fused(dense(tmp_path, "", more='top: "other"'))


def test_outputs_are_as_many_as_the_label_has_values(tmp_path: Path) -> None:
    path = dense(tmp_path, loss_of("EuclideanLoss"), width=3)
    with pytest.raises(ComposeError, match="needs one output per value of its label, 3, not 4"):
        fused(path)
    train, _ = fused(path, num_output=None)
    assert ends(train)[0].inner_product_param.num_output == 3
    with pytest.raises(ComposeError, match="the number of classes is not given"):
        fused(dense(tmp_path, loss_of("SoftmaxWithLoss")), num_output=None)
    with pytest.raises(ComposeError, match="over 1 class learns nothing"):
        fused(dense(tmp_path, loss_of("SoftmaxWithLoss")), num_output=1)


def test_class_scores_are_not_compared_where_there_are_none(tmp_path: Path) -> None:
    path = dense(tmp_path, loss_of("SigmoidCrossEntropyLoss"))
    for options in ({"pct": "kd"}, {"references": True}, {"head": "logits"}):
        with pytest.raises(ComposeError, match="SigmoidCrossEntropyLoss gives a yes or no per output"):
            fused(path, **options)
    assert kinds(fused(path, head="zero-init")[0])[-1] == "SigmoidCrossEntropyLoss"


def test_an_ignored_label_of_a_source_with_its_own_classes_is_asked_for(tmp_path: Path) -> None:
    path = dense(tmp_path, loss_of("SoftmaxWithLoss", "loss_param { ignore_label: 2 }"))
    with pytest.raises(ComposeError, match="ignores label 2, which is one of its own classes"):
        compose([Source("a", path, classes=(4, 5, 6, 7))], num_output=8)
    far = dense(tmp_path, loss_of("SoftmaxWithLoss", "loss_param { ignore_label: 255 }"))
    assert compose([Source("a", far, classes=(4, 5, 6, 7))], num_output=8)


def test_losses_as_text_and_in_python() -> None:
    text = parse_loss("SoftmaxWithLoss,ignore_label=255,loss_weight=2,label=seg")
    assert text.label == "seg"
    given = Loss("SoftmaxWithLoss", {"loss_param.ignore_label": ("255",), "loss_weight": ("2.0",)})
    assert comparison_key(text) == comparison_key(given)
    for wrong, message in (
        ("SoftmaxWithLoss,ignore_label", "has no value"),
        ("SoftmaxWithLoss,sigma=1", "has no parameter 'sigma'"),
        ("SoftmaxWithLoss,ignore_label=x", "expected an integer"),
        ("HingeLoss,norm=L3", "has no value 'L3'"),
        ("HingeLoss,norm={", "is no value"),
        ("SoftmaxWithLoss,ignore_label=1 2", "is no value"),
        ("ContrastiveLoss", "pairs of samples"),
        ("SoftmaxLoss2", "is not known here"),
    ):
        with pytest.raises(ComposeError, match=message):
            parse_loss(wrong)


def test_the_solver_is_as_ever(tmp_path: Path) -> None:
    path = dense(tmp_path, loss_of("EuclideanLoss"))
    composed = compose([Source("a", path)], num_output=4, schedule=SolverSettings(max_iter=7))
    assert prototxt.load_solver(composed.solver).max_iter == 7


def test_a_loss_on_features_beside_is_left_out_and_said(tmp_path: Path) -> None:
    centre = 'layer { name: "c" type: "CenterLoss" bottom: "fc1" bottom: "label" top: "c" loss_weight: 2 }\n'
    path = dense(tmp_path, loss_of("SoftmaxWithLoss") + centre)
    composed = compose([Source("a", path, at="fc1")], num_output=4)
    assert [layer.type for layer in prototxt.load_net(composed.train_val).layer][-1] == "SoftmaxWithLoss"
    assert "loss: these losses of source 'a' are left out: 'c' (CenterLoss of 'fc1' against 'label')" in composed.notes


def test_gains_of_own_classes_are_asked_for(tmp_path: Path) -> None:
    path = dense(tmp_path, loss_of("InfogainLoss", 'infogain_loss_param { source: "H" }'))
    with pytest.raises(ComposeError, match="weighs its own classes by a matrix"):
        compose([Source("a", path, classes=(4, 5, 6, 7))], num_output=8)


def labelled(tmp_path: Path, name: str, label: str, tops: str = "", layers: str = "") -> Source:
    path = tmp_path / f"{name}.prototxt"
    path.write_text(
        f"""layer {{ name: "data" type: "HDF5Data" top: "data" top: "{tops or label}"
  hdf5_data_param {{ source: "h5" batch_size: 2 }} }}
{layers}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param {{ num_output: 5 }} }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param {{ num_output: 3 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "{label}" top: "loss" }}
"""
    )
    return Source(name, path)


SLICE = """layer { name: "slice" type: "Slice" bottom: "labels" top: "age" top: "gender"
  slice_param { slice_point: 1 } }
layer { name: "unread" type: "Silence" bottom: "%s" }"""
SHIFT = 'layer { name: "less" type: "Power" bottom: "age" top: "age" power_param { shift: -1 } }'
FLAT = 'layer { name: "flat" type: "Flatten" bottom: "age" top: "flat_age" }'


def test_other_labels_of_the_same_records_are_asked_about(tmp_path: Path) -> None:
    age, gender = labelled(tmp_path, "a", "age"), labelled(tmp_path, "b", "gender")
    first, second = (labelled(tmp_path, name, name, "labels", SLICE % other)
                     for name, other in (("age", "gender"), ("gender", "age")))  # fmt: skip
    for pair in ([age, gender], [first, second], [age, first]):
        with pytest.raises(ComposeError, match=r"learn different labels of the same records: '(a|age)' learns 'age'"):
            compose(pair, num_output=3, input_shape=(4,))
    with pytest.raises(ComposeError) as caught:
        compose([age, gender], num_output=3, input_shape=(4,))
    with pytest.raises(ComposeError, match="'a' learns 'age', and 'c' learns 'age' as 'less' computes it"):
        compose([age, labelled(tmp_path, "c", "age", "age", SHIFT)], num_output=3, input_shape=(4,))
    for choice in ("--loss SoftmaxWithLoss,label=age", "--data-from b --loss SoftmaxWithLoss,label=gender"):
        assert choice in str(caught.value)
    for label, prefix in (("age", "a"), ("gender", "b")):
        composed = compose([age, gender], num_output=3, data_from=prefix, input_shape=(4,),
                           loss=f"SoftmaxWithLoss,label={label}")  # fmt: skip
        assert f'bottom: "{label}"' in str(composed.train_val)


def test_the_same_label_in_another_form_is_the_same(tmp_path: Path) -> None:
    age = labelled(tmp_path, "a", "age")
    compose([age, labelled(tmp_path, "b", "flat_age", "age", FLAT)], num_output=3, input_shape=(4,))
    slices = [labelled(tmp_path, name, "age", "labels", SLICE % "gender") for name in ("d", "e")]
    compose(slices, num_output=3, input_shape=(4,))


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        ("SoftmaxWithLoss", {"loss_weight": "1"}, {}, True),
        ("SoftmaxWithLoss", {"loss_weight": "2"}, {}, False),
        ("SoftmaxWithLoss", {"loss_weight": ("1", "1")}, {}, False),
        ("SoftmaxWithLoss", {"loss_param.normalize": "true"}, {}, True),
        ("SoftmaxWithLoss", {"loss_param.normalize": "false"}, {}, False),
        ("SoftmaxWithLoss", {"loss_param.normalize": "false"}, {"loss_param.normalization": "BATCH_SIZE"}, True),
        ("SoftmaxWithLoss", {"loss_param.normalize": "false", "loss_param.normalization": "VALID"}, {}, True),
        ("SoftmaxWithLoss", {"loss_param.normalization": "1"}, {}, True),
        ("SoftmaxWithLoss", {"loss_param.normalization": "NONE"}, {}, False),
        ("SigmoidCrossEntropyLoss", {"loss_param.normalization": "BATCH_SIZE"}, {}, True),
        ("SigmoidCrossEntropyLoss", {"loss_param.normalization": "VALID"}, {}, False),
        ("SoftmaxWithLoss", {"loss_param.ignore_label": "0"}, {}, False),
        ("SoftmaxWithLoss", {"softmax_param.engine": "CUDNN"}, {}, True),
        ("SoftmaxWithLoss", {"softmax_param.axis": "1"}, {}, True),
        ("SoftmaxWithLoss", {"softmax_param.axis": "2"}, {}, False),
        ("HingeLoss", {"hinge_loss_param.norm": "L1"}, {}, True),
        ("HingeLoss", {"hinge_loss_param.norm": "2"}, {"hinge_loss_param.norm": "L2"}, True),
        ("OwnLoss", {"own_param.alpha": "1"}, {}, False),
        ("OwnLoss", {"own_param.alpha": "1"}, {"own_param.alpha": "1"}, True),
        ("OwnLoss", {"own_param.engine": "A"}, {"own_param.engine": "B"}, False),
    ],
)
def test_which_losses_compute_the_same(kind: str, one: dict[str, object], other: dict[str, object], same: bool) -> None:
    assert (comparison_key(Loss(kind, one)) == comparison_key(Loss(kind, other))) is same


def test_losses_of_other_types_or_further_bottoms_differ() -> None:
    assert comparison_key(Loss("HingeLoss")) != comparison_key(Loss("SoftmaxWithLoss"))
    assert comparison_key(Loss("InfogainLoss", bottoms=("h",))) != comparison_key(Loss("InfogainLoss"))
    assert comparison_key(Loss("InfogainLoss", bottoms=("h",), label="a")) == comparison_key(
        Loss("InfogainLoss", bottoms=("g",))
    )
