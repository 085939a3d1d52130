from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import prototxt
from fusion import ComposeError
from fusion.composition import (
    ComposeConfig,
    ComposeOptions,
    Loss,
    Pct,
    SolverSettings,
    Source,
    Task,
    compose,
    compose_with,
    read_config,
    to_toml,
)
from fusion.composition.config import toml_literal
from fusion.data.parse_json_toml import parse_toml

Make = Callable[..., Path]
FULL = ComposeConfig(
    sources=(
        Source("odd", "odd.prototxt", ("ip1", "pool2"), "odd.caffemodel", (1, 3, 5)),
        Source("even", 'a "b"\\c.prototxt', "ip1", None, (0, 2), "ip2"),
    ),
    options=ComposeOptions(
        "gated", num_output=6, project=16, batch_norm=True, maps="levels", references=True, input_shape=(1, 28, 28),
        data_from="odd", train_batch=5, name="both", labels=("a", "b", "c", "d", "e", "f"),
        pct=(Pct("focal", 0.5, {"temperature": 1, "filter": "NEG_FLIP"}), Pct("naive")),
        schedule=SolverSettings(
            base_lr=0.02, lr_policy="multistep", max_iter=40,
            further={"random_seed": 7, "stepvalue": (10, 20), "iter_size": 2, "type": "Adam", "solver_mode": "CPU",
                     "debug_info": False},
        ),
    ),
    output="fused",
    job={"plain": False, "test_list": "test.txt", "export": False, "train": {"warmup": 5, "set": ["momentum=0.8"]},
         "gate": {"max_nfr": "1%", "classes": {"3": 0.1}}},
)  # fmt: skip


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "fusion.toml"
    path.write_text(to_toml(FULL))
    assert read_config(path) == FULL


def test_options_are_the_same_as_text_and_as_values() -> None:
    options = ComposeOptions(pct=("kd,weight=0.5", "focal,alpha=2"), tasks=["age=EuclideanLoss:age_label"])
    assert options.parsed_pct() == [Pct("kd", 0.5), Pct("focal", 1.0, {"alpha": "2"})]
    assert options.parsed_tasks() == [Task("age", Loss("EuclideanLoss", label="age_label"))]
    with pytest.raises(ComposeError, match="the weight 'much' is not a number"):
        ComposeOptions(pct="kd,weight=much").parsed_pct()
    with pytest.raises(TypeError, match="hiden"):
        compose([], hiden=5)  # type: ignore[call-arg]


def test_the_solver_takes_what_caffe_knows(make: Make) -> None:
    composed = compose([Source("a", make("one"))], num_output=3, schedule=FULL.options.schedule)
    solver = prototxt.load_solver(composed.solver)
    assert list(solver.stepvalue) == [10, 20]
    assert (solver.iter_size, solver.type, solver.solver_mode) == (2, "Adam", 0)


def test_a_file_and_the_flags_compose_the_same(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "fusion.toml"
    path.write_text(
        f'head = "sum"\nnum_output = 4\n[[source]]\nprefix = "a"\nnet = "{make("one")}"\n'
        f'[[source]]\nprefix = "b"\nnet = "{make("two")}"\nat = "fc"\n[data]\ntrain_list = "t.txt"\n'
    )
    recipe = read_config(path)
    ours = compose_with(recipe.sources, recipe.options)
    sources = [Source("a", make("one")), Source("b", make("two"), "fc")]
    assert str(ours.train_val) == str(compose(sources, "sum", num_output=4, train_list="t.txt").train_val)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("head = sum", "this is no TOML"),
        ('haed = "sum"', "there is no key 'haed'"),
        ('num_output = "10"', "'num_output' is '10', not a whole number"),
        ("num_output = true", "not a whole number"),
        ("[source]\nprefix = 1", "'source' is a list of tables"),
        ("source = [1]", "'source' is a list of tables"),
        ('source = [{ prefix = "a", net = "n" }, 1]', "'source' is a list of tables"),
        ('[[task]]\nname = "age"', "task 1 has no loss and no label"),
        ('[[source]]\nprefix = "a"\nnet = "n"\nclasses = [1, 1.5]', "is a list of whole numbers or texts"),
        (
            '[[source]]\nprefix = "a"\nnet = "n"\ntrain_list = { d = 1 }',
            "'source.train_list' has a text for each layer",
        ),
        ('[[source]]\nprefix = "a"\nnet = "n"\ntrain_list = 1', "'source.train_list' is 1, not a text or a table"),
        ("pct = 3", "'pct' is a list of tables"),
        ("data = 3", "'data' is a table"),
        ('[[source]]\nprefix = "a"', "source 1 has no net"),
        ('[[source]]\nprefix = "a"\nnet = "n"\nclasses = [1.5]', "is a list of whole numbers or texts"),
        ('[[source]]\nprefix = "a"\nnet = "n"\ncut = "x"', "there is no key 'source.cut'"),
        ("[[pct]]\nweight = 1", "pct 1 has no kind"),
        ('[[pct]]\nkind = "kd"\nweight = "much"', "'pct.weight' is 'much', not a number"),
        ("report = true", "'report' is a table"),
        ("plain = 1", "'plain' is 1, not true or false"),
        ("[solver]\nbase_rl = 1", "there is no key 'solver.base_rl'"),
        ('[solver]\nbase_lr = "fast"', "'solver.base_lr' is 'fast', not a number"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "fusion.toml").write_text(text)
    with pytest.raises(ComposeError, match=says) as caught:
        read_config(tmp_path / "fusion.toml")
    assert "fusion.toml" in str(caught.value)


def test_mistakes_are_found_by_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "fusion.toml"
    path.write_text('num_output = 3\n\n[[source]]\nprefix = "a"\nnet = "n"\ncut="x"\n[solver]\ncut = 1\n  prefix=2\n')
    with pytest.raises(ComposeError) as caught:
        read_config(path)
    assert [str(error.place) for error in caught.value.errors] == [f"{path}:{line}" for line in (6, 8, 9)]


@pytest.mark.parametrize(
    ("text", "hint"),
    [("haed = 1", "did you mean 'head'"), ("sourc = 1", "did you mean 'source'"),
     ("[data]\nzzz = 1", "one of data_from, train_list, val_list, train_batch, test_batch, val_share, test_list")],
)  # fmt: skip
def test_unknown_keys_are_answered_with_known_ones(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "fusion.toml").write_text(text)
    with pytest.raises(ComposeError) as caught:
        read_config(tmp_path / "fusion.toml")
    (error,) = caught.value.errors
    assert hint in str(error.hint)


def test_an_empty_file_has_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "fusion.toml").write_text("")
    assert read_config(tmp_path / "fusion.toml") == ComposeConfig()


@pytest.mark.parametrize(
    "value", ['a\n\t"b"', "C:\\new\\tab", True, False, 3, -0.5, [1, "x"], {"d.e": "f", "g": [True]}]
)
def test_literals_are_read_as_they_were(value: object) -> None:
    assert parse_toml(f"key = {toml_literal(value)}".encode(), "x", ComposeError) == {"key": value}


def test_losses_chosen_automatically_compare_with_the_sources(tmp_path: Path) -> None:
    path = tmp_path / "fusion.toml"
    path.write_text('pct = "auto"\n')
    config = read_config(path)
    assert (config.job, config.options.references, config.options.pct) == ({"pct": "auto"}, True, ())
    path.write_text(to_toml(config))
    assert read_config(path) == config
    path.write_text('pct = "focal"\n')
    with pytest.raises(ComposeError, match=r"write \[\[pct\]\]"):
        read_config(path)


def test_all_mistakes_are_told_at_once_and_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fusion.toml"
    path.write_text('haed = 1\n[data]\ntrian_list = "x"\n[solver]\nmax_iter = "x"\n')
    with pytest.raises(ComposeError) as caught:
        read_config(path)
    assert len(caught.value.errors) == 3
    path.write_bytes(random.Random(0).randbytes(200))
    with pytest.raises(ComposeError, match="no TOML"):
        read_config(path)


def test_every_error_has_its_line_in_a_long_file(tmp_path: Path) -> None:
    """The lines are found once: searched for each of 5,000 keys, this took minutes."""
    path = tmp_path / "long.toml"
    path.write_text("[data]\n" + "".join(f"'key{number}' = {number}\n" for number in range(5000)) + "val_share = 'a'\n")
    with pytest.raises(ComposeError) as raised:
        read_config(path)
    places = [str(error.place) for error in raised.value.errors]
    assert places == [f"{path}:{number}" for number in range(2, 5003)]
    path.write_text('data.train_list = 3\n[[source]]\nprefix = "a=b"\n"net" = 3\n')
    with pytest.raises(ComposeError) as raised:
        read_config(path)
    assert [str(error.place) for error in raised.value.errors] == [f"{path}:1", f"{path}:4"]
