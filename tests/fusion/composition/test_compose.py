from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import prototxt
from fusion import ComposeError
from fusion.composition import Pct, SolverSettings, Source, compose
from fusion.composition.net_text import read_net

Make = Callable[..., Path]
LISTS = {"train_list": "train_all.txt", "val_list": "val_all.txt", "train_batch": 50, "test_batch": 20}


def described(net_path: object, phase: str) -> list[tuple[object, ...]]:
    """Layers by what they are, with the shapes of all their blobs and parameters."""
    net = prototxt.filter_net(prototxt.load_net(net_path), phase=phase)
    shapes = prototxt.infer(net, {"data": (50, 1, 28, 28), "label": (50,)})
    found = []
    for index, layer in enumerate(net.layer):
        rates = [param.lr_mult for param in layer.param]
        wiring = (layer.name, layer.type, tuple(layer.bottom), tuple(layer.top), tuple(rates))
        found.append((*wiring, tuple(shapes.tops[index]), tuple(shapes.params[index])))
    return found


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_the_same_graph_as_the_published_fused_lenet(reference: Path, phase: str) -> None:
    folder = reference / "tutorial"
    sources = [Source(p, folder / f"lenet_{p}_train_val.prototxt", at="ip1") for p in ("odd", "even")]
    composed = compose(sources, num_output=10, **LISTS)
    assert described(composed.train_val, phase) == described(folder / "lenet_fusion_train_val.prototxt", phase)
    ours, theirs = prototxt.load_net(composed.train_val), prototxt.load_net(folder / "lenet_fusion_train_val.prototxt")
    for a, b in zip(ours.layer, theirs.layer, strict=True):
        assert a.transform_param == b.transform_param
        assert a.image_data_param == b.image_data_param
        assert a.include == b.include


def test_branches_keep_their_text_and_comments(make: Make) -> None:
    text = str(compose([Source("a", make("one"), at="fc"), Source("b", make("two"), at="fc")], num_output=5).train_val)
    assert text.count("# edges and corners") == 2
    assert text.count("# small on purpose") == 2
    assert 'name: "a/conv"' in text
    assert 'name: "b/fc"' in text


def test_in_place_layers_on_the_cut_blob_belong_to_the_branch(make: Make) -> None:
    names = [
        layer.name for layer in read_net(compose([Source("a", make("one"), at="conv")], num_output=5).train_val).layers
    ]
    assert names == ["images", "images", "a/conv", "a/relu", "concat", "fc", "accuracy", "loss"]


def test_everything_in_the_branches_is_frozen(make: Make) -> None:
    composed = compose([Source("a", make("one"), at="fc"), Source("b", make("two"), at="fc")], num_output=5)
    net = prototxt.load_net(composed.train_val)
    rates = {layer.name: [param.lr_mult for param in layer.param] for layer in net.layer if layer.param}
    assert rates == {"a/conv": [0, 0], "a/fc": [0, 0], "b/conv": [0, 0], "b/fc": [0, 0], "classes": [1, 2]}
    assert [layer.dropout_param.dropout_ratio for layer in net.layer if layer.type == "Dropout"] == [0, 0]


def test_a_renamed_source_is_recognised(make: Make, tmp_path: Path) -> None:
    path = make("one")
    renamed = tmp_path / "renamed.prototxt"
    renamed.write_text(str(prototxt.rename(prototxt.parse_file(path), "a")))
    raw = compose([Source("a", path, at="fc")], num_output=5)
    again = compose([Source("a", renamed, at="a/fc")], num_output=5)
    short = compose([Source("a", renamed, at="fc")], num_output=5)
    assert described_names(raw) == described_names(again) == described_names(short)
    assert any("already start with" in note for note in again.notes)
    assert not any("already start with" in note for note in raw.notes)
    text = str(prototxt.parse_file(renamed)).replace('name: "images"', 'name: "a/images"', 1)
    renamed.write_text(text.replace('name: "a/relu"', 'name: "relu"'))
    partly = compose([Source("a", renamed, at="a/fc")], num_output=5)
    assert not any("already start with" in note for note in partly.notes), "some names do not"


def described_names(composed: object) -> list[tuple[object, ...]]:
    layers = read_net(composed.train_val).layers  # type: ignore[attr-defined]
    return [(layer.name, layer.type, layer.bottoms, layer.tops) for layer in layers if not layer.is_data]


def test_without_a_blob_the_cut_is_before_the_classifier(make: Make) -> None:
    composed = compose([Source("a", make("one"))], num_output=5)
    assert "source 'a': cut at 'fc', which its classifier reads" in composed.notes
    assert 'bottom: "a/fc"' in str(composed.train_val)


def test_several_cut_blobs_of_one_source(make: Make) -> None:
    composed = compose([Source("a", make("one"), at=("conv", "fc"))], num_output=5)
    concat = next(layer for layer in read_net(composed.train_val).layers if layer.type == "Concat")
    assert concat.bottoms == ("a_conv_flat", "a/fc")


def test_the_same_file_twice_under_two_prefixes(make: Make) -> None:
    path = make("one")
    composed = compose([Source("a", path, at="fc"), Source("b", path, at="fc")], num_output=5)
    assert prototxt.infer_shapes(prototxt.filter_net(prototxt.load_net(composed.deploy)))["prob"] == (1, 5)


def test_old_syntax_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "old.prototxt"
    path.write_text(
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8\n'
        'layers { name: "fc" type: INNER_PRODUCT bottom: "data" top: "fc" inner_product_param { num_output: 4 } }\n'
        'layers { name: "fc2" type: INNER_PRODUCT bottom: "fc" top: "fc2" inner_product_param { num_output: 4 } }\n'
        'layers { name: "prob" type: SOFTMAX bottom: "fc2" top: "prob" }\n'
    )
    composed = compose([Source("a", path, at="fc")], num_output=2, train_list="t.txt", val_list="v.txt")
    assert any("old syntax" in note for note in composed.notes)
    data = read_net(composed.train_val).layers[0].message.messages("image_data_param")[0]
    assert (data.string("new_height"), data.string("source")) == ("8", "t.txt")
    assert prototxt.infer_shapes(prototxt.load_net(composed.deploy))["data"] == (1, 3, 8, 8)


def test_deploy_has_inputs_and_probabilities_and_no_side_outputs(make: Make) -> None:
    sources = [Source("a", make("one"), at="fc"), Source("b", make("two"), at="fc")]
    composed = compose(sources, num_output=3, references=True)
    layers = read_net(composed.deploy).layers
    assert (layers[0].type, layers[-1].type, layers[-1].tops) == ("Input", "Softmax", ("prob",))
    assert not {"ImageData", "SoftmaxWithLoss", "Accuracy"} & {layer.type for layer in layers}
    assert "a/classes" not in {layer.name for layer in layers}
    assert prototxt.infer_shapes(prototxt.load_net(composed.deploy))["data"] == (1, 1, 8, 8)


def test_deploy_is_left_out_with_a_note_where_the_input_is_unknown(make: Make, tmp_path: Path) -> None:
    path = make("one", image="is_color: false")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deploy.prototxt").write_text("stale")
    composed = compose([Source("a", path, at="fc")], num_output=3)
    assert composed.deploy is None
    assert any("--input-shape" in note for note in composed.notes)
    assert len(composed.write(tmp_path / "out")) == 2
    assert not (tmp_path / "out" / "deploy.prototxt").exists()
    assert compose([Source("a", path, at="fc")], num_output=3, input_shape=(1, 9, 9)).deploy is not None


def test_written_paths_are_relative_to_the_working_directory(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("val_all.txt").write_text("x.jpg 1\n" * 41)
    composed = compose(
        [Source("a", make("one"), at="fc")],
        num_output=3,
        **LISTS,
        schedule=SolverSettings(max_iter=7, further={"random_seed": 3}),
    )
    composed.write("fused")
    solver = prototxt.load_solver("fused/solver.prototxt")
    assert (solver.net, solver.snapshot_prefix) == ("fused/train_val.prototxt", "fused/fused")
    assert (list(solver.test_iter), solver.max_iter, solver.snapshot, solver.random_seed) == ([3], 7, 7, 3)
    assert str(prototxt.parse_file("fused/train_val.prototxt")) == str(composed.train_val)


def test_references_become_frozen_side_outputs_and_losses(make: Make) -> None:
    sources = [
        Source("a", make("one"), at="fc", classes=(1, 3, 5)),
        Source("b", make("two"), at="fc", classes=(0, 2, 4)),
    ]
    losses = [Pct("focal", 0.5, {"temperature": 1}), Pct("naive")]
    net = prototxt.load_net(compose(sources, num_output=6, pct=losses).train_val)
    layers = {layer.name: layer for layer in net.layer}
    assert [param.lr_mult for param in layers["a/classes"].param] == [0, 0]
    focal = layers["focal_b"]
    assert (focal.type, list(focal.bottom)) == ("FocalDistillationLoss", ["classes", "b/classes", "label"])
    assert (list(focal.pct_param.classes), focal.pct_param.temperature) == ([0, 2, 4], 1)
    assert (list(focal.loss_weight), [rule.phase for rule in focal.include]) == ([0.5], [0])
    assert {"focal_a", "focal_b", "naive_a", "naive_b"} < set(layers)


def test_elodi_takes_all_references_at_once(make: Make) -> None:
    sources = [Source("a", make("one"), at="fc"), Source("b", make("two"), at="fc")]
    net = prototxt.load_net(compose(sources, num_output=3, pct="elodi").train_val)
    loss = next(layer for layer in net.layer if layer.type == "ELODILoss")
    assert list(loss.bottom) == ["classes", "a/classes", "b/classes", "label"]


def test_composing_is_deterministic_and_its_result_can_be_a_source(make: Make, tmp_path: Path) -> None:
    sources = [Source("a", make("one"), at="fc"), Source("b", make("two"), at="fc")]
    first, second = compose(sources, num_output=3), compose(sources, num_output=3)
    assert str(first.train_val) == str(second.train_val)
    deeper = compose([Source("x", first.train_val, at="fc_fused"), Source("c", make("three"), at="fc")], num_output=4)
    assert "x/a/conv" in {layer.name for layer in read_net(deeper.train_val).layers}


def test_errors_are_collected(make: Make) -> None:
    with pytest.raises(ComposeError) as caught:
        compose([Source("a", make("one")), Source("a", make("two"))], "none", num_output=0, pct="nothing")
    text = str(caught.value)
    assert "two sources have the prefix 'a'" in text
    assert "no head 'none'" in text
    assert "num_output" in text
    assert "no loss 'nothing'" in text


BAD = [
    ({"at": "fcc"}, "no blob 'fcc'", "did you mean 'fc'"),
    ({"at": "data"}, "is an input", "classes, fc, conv"),
    ({"at": "loss"}, "a loss or a metric", "classes, fc, conv"),
    ({"prototxt": "nowhere.prototxt"}, "no file nowhere.prototxt", "working directory"),
    ({"prefix": "a b\n"}, "is no prefix", "use a word"),
    ({"classes": (0, 1)}, "given 2 classes, but scores 3", "name 3 classes"),
    ({"classes": (0, 1, 9)}, "class 9 is not among", "count from 0"),
    ({"classes": (0, 1, 1)}, "given twice", None),
    ({"classes": ()}, "scores 3 classes", "--classes a=1,3,5,7,9"),
    ({"logits": "nothing"}, "no blob 'nothing'", "one of"),
]


@pytest.mark.parametrize(("change", "message", "hint"), BAD, ids=[str(case[0]) for case in BAD])
def test_bad_sources(make: Make, change: dict[str, object], message: str, hint: str | None) -> None:
    settings = {"prefix": "a", "prototxt": make("one"), "at": "fc", "classes": (0, 1, 2), **change}
    with pytest.raises(ComposeError) as caught:
        compose([Source(**settings)], num_output=5, references=True)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert hint is None or hint in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pct": "cna"}, "compares features"),
        ({"pct": Pct("kd", 1, {"temprature": 1})}, "no option 'temprature'"),
        ({"pct": Pct("kd", 1, {"filter": "SOME"})}, "filter cannot be 'SOME'"),
        ({"pct": Pct("kd", 1, {"alpha": "much"})}, "alpha is a number"),
        ({"data_from": "z"}, "data_from names no source"),
        ({"schedule": SolverSettings(lr_policy="stairs")}, "no lr_policy 'stairs'"),
        ({"schedule": SolverSettings(max_iter=0)}, "max_iter must be at least 1"),
        ({"head": "zero-init", "num_output": 4}, "4"),
    ],
)
def test_bad_requests(make: Make, change: dict[str, object], message: str) -> None:
    with pytest.raises(ComposeError, match=message):
        compose([Source("a", make("one"), at="fc")], **{"num_output": 3, **change})  # type: ignore[arg-type]


def test_broken_text_is_reported_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "broken.prototxt"
    path.write_text('layer { name: "x"\n')
    with pytest.raises(ComposeError, match=r"broken\.prototxt:1:7"):
        compose([Source("a", path)], num_output=2)


def test_the_classifier_is_found_below_a_final_pooling(tmp_path: Path) -> None:
    path = tmp_path / "convolutional.prototxt"
    path.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'
        'layer { name: "a" type: "Convolution" bottom: "x" top: "a"\n'
        "  convolution_param { num_output: 4 kernel_size: 3 } }\n"
        'layer { name: "b" type: "Convolution" bottom: "a" top: "b"\n'
        "  convolution_param { num_output: 2 kernel_size: 1 } }\n"
        'layer { name: "p" type: "Pooling" bottom: "b" top: "p" pooling_param { pool: AVE global_pooling: true } }\n'
        'layer { name: "prob" type: "Softmax" bottom: "p" top: "prob" }\n'
    )
    composed = compose([Source("s", path)], num_output=2, train_list="t", val_list="v", references=True)
    assert "source 's': cut at 'a', which its classifier reads" in composed.notes
    assert {"s/b", "s/p"} < {layer.name for layer in read_net(composed.train_val).layers}


def test_a_layer_of_one_phase_stays_in_its_phase(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "phases.prototxt"
    extra = 'layer { name: "noise" type: "Power" bottom: "fc" top: "fc" include { phase: TRAIN } }\n'
    path.write_text(make("one").read_text().replace('layer { name: "drop"', f'{extra}layer {{ name: "drop"'))
    composed = compose([Source("a", path, at="fc")], num_output=2)
    assert "a/noise" in {layer.name for layer in read_net(composed.train_val).layers}
    assert "a/noise" not in {layer.name for layer in read_net(composed.deploy).layers}


def test_a_source_without_validation_data_is_refused(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "train_only.prototxt"
    path.write_text(
        make("one").read_text().replace("include { phase: TEST }\n  transform", "include { min_level: 1 }\n  transform")
    )
    with pytest.raises(ComposeError, match="no data layer that gives 'data' in phase TEST"):
        compose([Source("a", path, at="fc")], num_output=2)


def test_weights_tell_how_many_blobs_an_unknown_layer_has(make: Make, tmp_path: Path) -> None:
    path, weights = tmp_path / "strange.prototxt", tmp_path / "strange.caffemodel"
    path.write_text(make("one").read_text().replace('type: "ReLU"', 'type: "Strange"'))
    with pytest.raises(ComposeError, match="Strange"):
        compose([Source("a", path, at="fc")], num_output=2)
    prototxt.write_weights(weights, {"relu": [np.zeros(2, np.float32), np.zeros(3, np.float32)]})
    composed = compose([Source("a", path, at="fc", weights=weights)], num_output=2)
    relu = next(layer for layer in read_net(composed.train_val).layers if layer.name == "a/relu")
    assert [block.string("lr_mult") for block in relu.message.messages("param")] == ["0", "0"]
