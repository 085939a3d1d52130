"""A net with two data layers in step trains, tests and predicts as one with one layer, whatever is asked of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import fusion
from fusion.data import ReadOptions
from fusion.data.in_step_sources import UnpairedData
from fusion.data.replaced_list import with_list
from fusion.errors import DataError, TrainingError
from fusion.nets.build import params
from fusion.references import parse_reference
from fusion.solver.evaluate import open_evaluation
from fusion.solver.train_options import TrainOptions
from fusion.sweep import SweepOptions, sweep
from prototxt import load_net
from prototxt.formats.weights import write_weights
from prototxt.schema.filter import filter_net

Make = Callable[..., Path]
_STEP = 'in_step_with: "data"'


def doubled(text: str, step: str = _STEP) -> str:
    """The net with each data layer twice, and the mean of both pictures in place of the one, which is the same."""
    found = re.findall(
        r"layer \{ name: \"data\".*?\} \} *\n|layer \{ name: \"data\".*?scale: 0\.01[^}]*\} \}\n", text, re.S
    )
    assert len(found) == 2
    for layer in found:
        plain = layer.replace("shuffle: true", "").replace("mirror: true", "")
        again = plain.replace('name: "data"', 'name: "again"').replace('top: "data"', f'top: "again" {step}')
        text = text.replace(layer, layer + again.replace('top: "label"', 'top: "same"'))
    mean = 'layer { name: "mean" type: "Eltwise" bottom: "data" bottom: "again" top: "mean" ' + (
        "eltwise_param { coeff: 0.5 coeff: 0.5 } }\n"
    )
    silence = 'layer { name: "silence" type: "Silence" bottom: "same" }\n'
    trunk = 'layer { name: "trunk"'
    return text.replace(trunk, silence + mean + trunk).replace(
        'bottom: "data" top: "trunk"', 'bottom: "mean" top: "trunk"'
    )


def both(project: Make, *, mirror: bool = False, **settings: object) -> dict[str, Path]:
    """The solver of the net with one data layer, and that of the net with two."""
    solver = project(**settings)
    text = Path("net.prototxt").read_text()
    if mirror:
        text = text.replace("scale: 0.01", "scale: 0.01 mirror: true", 1)
    found = {}
    for name, net in (("one", text), ("two", doubled(text))):
        Path(f"{name}.prototxt").write_text(net)
        found[name] = Path(f"{name}.solver")
        found[name].write_text(
            solver.read_text().replace("net.prototxt", f"{name}.prototxt").replace('"small"', f'"{name}"')
        )
    return found


def trained(solver: Path, **options: object) -> dict[str, np.ndarray]:
    run = fusion.Solver(solver, device="cpu", **options)  # type: ignore[arg-type]
    run.train()
    return {name: torch.cat([t.flatten() for t in blobs]).detach().numpy() for name, blobs in params(run.net).items()}


OLD = """layer {{ name: "data" type: "Input" top: "{top}" input_param {{ shape {{ dim: 4 dim: 1 dim: 5 dim: 6 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "{top}" top: "ip" inner_product_param {{ num_output: 3 }} }}
"""


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"shuffle": True, "mirror": True}, {}),
        ({"frozen": True}, {}),
        ({"shuffle": True}, {"extras": TrainOptions(mixup=0.4)}),
        ({"shuffle": True, "mirror": True}, {"extras": TrainOptions(best_on=0.25)}),
        ({"shuffle": True, "mirror": True}, {"reading": ReadOptions(workers=2, budget=0)}),
        ({"shuffle": True}, {"cache_budget": 0}),
    ],
    ids=["mirrored", "trunk kept", "mixup", "best on", "workers", "trunk live"],
)
def test_the_weights_are_those_of_one_layer(
    project: Make, settings: dict[str, bool], options: dict[str, object]
) -> None:
    solvers = both(project, **settings)
    one, two = (trained(solver, **options) for solver in solvers.values())
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-6, atol=1e-7)
    if "extras" in options and options["extras"].best_on:  # type: ignore[attr-defined]
        assert Path("two_best.caffemodel").exists()


def test_the_trunk_is_kept(project: Make, capsys: pytest.CaptureFixture[str]) -> None:
    solver = both(project, shuffle=True)["two"]
    trained(solver)
    said = capsys.readouterr().err
    assert "TRAIN net: frozen trunk computed once" in said
    assert "TEST net: frozen trunk computed once" in said


def test_references_read_the_blob_that_they_are_told_to(project: Make) -> None:
    solver = both(project, shuffle=True)["two"]
    Path("old.prototxt").write_text(OLD.format(top="data"))
    weights = np.random.default_rng(1).normal(size=(3, 30)).astype(np.float32)
    write_weights("old.caffemodel", {"ip": [weights, np.zeros(3, np.float32)]})
    text = "old.prototxt:old.caffemodel@ip,pixels=blob"
    with pytest.raises(
        TrainingError, match=r"takes one image blob, and the data layers provide data, again(.|\n)*input=again"
    ):
        fusion.Solver(solver, device="cpu", references=[text], pct=["kd"])
    with pytest.raises(TrainingError, match="no data layer provides 'same'"):
        fusion.Solver(solver, device="cpu", references=[f"{text},input=same"], pct=["kd"])
    Path("two.prototxt").write_text(
        re.sub(r"(top: \"again\".*?)scale: 0\.01", r"\1scale: 0.03", Path("two.prototxt").read_text(), flags=re.S)
    )
    for blob in ("data", "again"):
        run = fusion.Solver(solver, device="cpu", references=[f"{text},input={blob}"], pct=["kd"])
        source = run.nets[0].sources[0]
        blobs = source.batch(np.array([4, 9]))
        expected = blobs[blob].flatten(1).numpy() @ weights.T
        np.testing.assert_allclose(blobs["reference/old"].numpy(), expected, rtol=1e-4)
    assert parse_reference(f"{text},input=again").input == "again"


def test_predictions_name_each_record_once(project: Make) -> None:
    solvers = both(project)
    trained(solvers["two"])
    found = [
        open_evaluation(f"{name}.prototxt", ["two_iter_20.caffemodel"], device="cpu").predict("ip")
        for name in ("one", "two")
    ]
    np.testing.assert_array_equal(found[0].keys, found[1].keys)
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
    np.testing.assert_allclose(found[0].logits, found[1].logits, rtol=1e-6)


def test_a_sweep_runs_on_the_kept_trunk(project: Make) -> None:
    solver = both(project, snapshot=0)["two"]
    options = SweepOptions(select_on=0.25, device="cpu", output="swept")
    result = sweep(solver, {"loss": ["none"], "lr": [0.01, 0.05]}, options)
    assert len(result.entries) == 2


def test_resuming_goes_on_exactly(project: Make) -> None:
    solver = both(project, shuffle=True, mirror=True)["two"]
    whole = trained(solver)
    run = fusion.Solver(solver, device="cpu")
    run.restore("two_iter_10.solverstate")
    run.train()
    for name, blobs in params(run.net).items():
        np.testing.assert_array_equal(torch.cat([t.flatten() for t in blobs]).detach().numpy(), whole[name])


def test_layers_apart_are_refused_with_the_remedy(project: Make) -> None:
    both(project, shuffle=True)
    text = Path("two.prototxt").read_text().replace(_STEP, "")
    Path("two.prototxt").write_text(text)
    for options in (
        {"extras": TrainOptions(mixup=0.4)},
        {"extras": TrainOptions(best_on=0.25)},
        {"references": ["@ip"], "pct": ["kd"]},
    ):
        with (
            pytest.raises(DataError, match=r"do not: 'data' gives(.|\n)*in_step_with: \"data\""),
            pytest.warns(UnpairedData),
        ):
            fusion.Solver("two.solver", device="cpu", **options)  # type: ignore[arg-type]


def test_one_list_does_not_stand_for_two(project: Make) -> None:
    both(project)
    net = filter_net(load_net("two.prototxt"), "TEST")
    assert [layer.image_data_param.source for layer in with_list(net, "x.txt").layer[:2]] == ["x.txt"] * 2, (
        "one list, twice"
    )
    net.layer[1].image_data_param.source = "other.txt"
    with pytest.raises(TrainingError, match=r"x\.txt cannot replace all(.|\n)*data=LIST,again=LIST"):
        with_list(net, "x.txt")
    with pytest.raises(TrainingError, match="cannot replace all"):
        with_list(net, "data=x.txt")
    changed = with_list(net, "again=y.txt,data=x.txt")
    assert [layer.image_data_param.source for layer in changed.layer[:2]] == ["x.txt", "y.txt"]
