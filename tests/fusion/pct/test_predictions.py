"""Predictions: files that come back the same or are refused, averages of nets of any classes, alignment by key."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fusion import pct
from fusion.errors import ReportError


def net(
    name: str = "net", count: int = 6, classes: list[int] | None = None, seed: int = 0, **rest: object
) -> pct.Predictions:
    generator = np.random.default_rng(seed)
    space = classes or [0, 1, 2]
    labels = np.array(space)[np.arange(count) % len(space)]
    logits = generator.normal(size=(count, len(space))).astype(np.float32)
    return pct.Predictions([f"val/{i}.png" for i in range(count)], labels, logits, space, meta={"name": name}, **rest)


def same(a: pct.Predictions, b: pct.Predictions) -> bool:
    arrays = ("keys", "labels", "logits", "classes", "variants", "features")
    pairs = [(getattr(a, name), getattr(b, name)) for name in arrays]
    return all((x is y is None) or (x.dtype == y.dtype and np.array_equal(x, y)) for x, y in pairs)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", ["p.npz", "p.csv", "p"])
def test_round_trip(tmp_path: Path, name: str, dtype: type) -> None:
    written = net(variants=["", "noise"] * 3, weight=2.0)
    written = pct.Predictions(
        written.keys,
        written.labels,
        written.logits.astype(dtype),
        written.classes,
        written.variants,
        None if name == "p.csv" else np.ones((6, 4)),
        {"name": "a", "net": "12"},
        2.0,
    )
    written.save(tmp_path / name)
    read = pct.Predictions.load(tmp_path / name)
    if name == "p.csv":
        written = pct.Predictions(
            written.keys, written.labels, written.logits.astype(np.float32), written.classes, written.variants
        )
    assert same(written, read)
    assert (read.meta, read.weight) == ({"name": "a", "net": "12"}, 2.0)
    first = (tmp_path / name).read_bytes()
    read.save(tmp_path / name)
    if name != "p.csv":
        assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_parquet(tmp_path: Path, dtype: type) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    plain = net(variants=["", "noise"] * 3)
    written = pct.Predictions(
        plain.keys, plain.labels, plain.logits.astype(dtype), plain.classes, plain.variants,
        np.arange(24, dtype=np.float32).reshape(6, 4), {"name": "a"}, 2.0,
    )  # fmt: skip
    path = tmp_path / "p.parquet"
    written.save(path)
    read = pct.Predictions.load(path)
    assert same(written, read)
    assert (read.meta, read.weight) == ({"name": "a"}, 2.0)
    theirs = pyarrow.table({"label": [1, 0], "key": ["x", "y"], "logit_0": [1.0, 0.5], "logit_1": [2.0, 0.0]})
    parquet.write_table(theirs, path)
    read = pct.Predictions.load(path)
    assert (read.name, read.right.tolist(), read.logits.dtype) == ("p", [True, True], np.float32)
    parquet.write_table(pyarrow.table({"key": ["x"]}), path)
    with pytest.raises(ReportError, match="neither an npz"):
        pct.Predictions.load(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ReportError, match="not a readable Parquet"):
        pct.Predictions.load(path)


def test_parquet_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ReportError, match=r"need pyarrow.*\n.*caffe-fusion\[parquet\]"):
        net().save(tmp_path / "p.parquet")
    assert not list(tmp_path.iterdir())


@given(
    keys=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), unique=True, max_size=5),
    values=st.lists(st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False), min_size=5, max_size=5),
)
def test_any_key_and_number_survives(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], values: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    logits = np.array([[v, 0.0] for v in values[: len(keys)]], np.float32).reshape(-1, 2)
    written = pct.Predictions(np.array(keys, np.str_), np.zeros(len(keys)), logits)
    for name in ("p.npz", "p.csv"):
        written.save(folder / name)
        read = pct.Predictions.load(folder / name)
        assert read.keys.tolist() == keys
        assert np.array_equal(read.logits, logits)


def test_a_csv_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text('\ufeffkey,label,logit_1,logit_3\r\na.png,1,0.5,-inf\r\n\r\n"b,c.png",3,0,1e3\r\n', "utf-8")
    read = pct.Predictions.load(path)
    assert read.name == "theirs"
    assert read.keys.tolist() == ["a.png", "b,c.png"]
    assert read.classes.tolist() == [1, 3]
    assert read.answers.tolist() == [1, 3]
    assert read.right.all()


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, keys=np.array([object()]), labels=[0], logits=[[1.0]], classes=[0])
    with pytest.raises(ReportError, match="not a readable predictions file"):
        pct.Predictions.load(path)


def test_broken_files_say_which_and_why(tmp_path: Path) -> None:
    whole = tmp_path / "p.npz"
    net().save(whole)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:-40])
    nolabels = tmp_path / "nolabels.npz"
    np.savez(nolabels, keys=["a"], logits=[[1.0]], classes=[0])
    listed = tmp_path / "listed.npz"
    np.savez(listed, keys=["a"], labels=[0], logits=[[1.0]], classes=[0], meta=np.array(json.dumps([1])))
    words = tmp_path / "words.npz"
    np.savez(words, keys=["a"], labels=["x"], logits=[[1.0]], classes=[0])
    texts = {
        "short.csv": "key,label,logit:0\na,1\n",
        "text.csv": "key,label,logit:0\na,b,1\n",
        "bare.csv": "hello\n",
        "void.csv": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, "utf-8")
    messages = {
        "cut.npz": "not a readable",
        "nolabels.npz": "no array 'labels'",
        "listed.npz": "not a JSON object",
        "words.npz": "wrong kind",
        "short.csv": "has 2 columns",
        "text.csv": "a number was expected",
        "bare.csv": "neither an npz",
        "void.csv": "the file is empty",
    }
    for name, message in messages.items():
        with pytest.raises(ReportError, match=f"{name}: .*{message}"):
            pct.Predictions.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        pct.Predictions.load(tmp_path / "absent.npz")


def full_disk(*_: object, **__: object) -> None:
    raise OSError("disk full")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.npz"
    net().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(np.lib.format, "write_array", full_disk)
    with pytest.raises(OSError, match="disk full"):
        net(seed=1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": ["a", "b", "a"]}, "are duplicates, the first is 'a'"),
        ({"keys": ["a", "b"]}, r"keys of shape \(2,\)"),
        ({"labels": [0, 1]}, "labels of shape"),
        ({"logits": np.zeros(3)}, r"\[N, C\] and \[N\]"),
        ({"logits": [[np.nan, 0], [0, 0], [0, 0]]}, "1 samples have NaN or infinite logits, the first is 'a'"),
        ({"logits": [[0, np.inf], [0, 0], [0, 0]]}, "NaN or infinite"),
        ({"logits": [[0, 0], [-np.inf, -np.inf], [0, 0]]}, "all logits are -inf"),
        ({"classes": [1, 1]}, "a class occurs twice"),
        ({"classes": [1, 2, 3]}, "classes of shape"),
        ({"variants": ["x"]}, "variants of shape"),
        ({"features": np.zeros((2, 4))}, "features of shape"),
        ({"weight": 0.0}, "weight of 0"),
    ],
)
def test_arrays_that_do_not_fit(change: dict[str, object], message: str) -> None:
    fields = {"keys": ["a", "b", "c"], "labels": [0, 1, 0], "logits": np.zeros((3, 2)), **change}
    with pytest.raises(ReportError, match=message):
        pct.Predictions(**fields)


def test_all_faults_at_once() -> None:
    with pytest.raises(ReportError) as caught:
        pct.Predictions(["a"], [0, 1], np.zeros((1, 2)), [0, 0], weight=-1)
    assert len(caught.value.errors) == 3


def test_sums_average_logits_by_weight() -> None:
    a, b, c = net(seed=0), net(seed=1).weighted(3.0), net(seed=2)
    np.testing.assert_allclose((a + b).logits, (a.logits + 3 * b.logits) / 4, rtol=1e-6)
    np.testing.assert_allclose(sum([a, b, c]).logits, (a.logits + 3 * b.logits + c.logits) / 5, rtol=1e-6)
    assert sum([a, b, c]).weight == 5
    assert (a + b).name == "net + net"
    assert sum([a]) is a
    shuffled = b.take([3, 1, 0, 2, 5, 4])
    assert np.array_equal((a + shuffled).logits, (a + b).logits)
    with pytest.raises(TypeError):
        a + 1


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize(
    ("first", "second"), [([0, 1], [2, 3]), ([0, 1, 2], [1, 2, 3]), ([1, 2], [0, 1, 2, 3]), ([2, 0, 1], [0, 1, 2])]
)
def test_different_label_sets(first: list[int], second: list[int]) -> None:
    generator = np.random.default_rng(0)
    labels, keys = [0, 1, 2], ["a", "b", "c"]
    a = pct.Predictions(keys, labels, generator.normal(size=(3, len(first))), first)
    b = pct.Predictions(keys, labels, generator.normal(size=(3, len(second))), second, weight=2.0)
    mixed = a + b
    same_set = set(first) == set(second)
    for column, c in enumerate(mixed.classes.tolist()):
        parts = [
            (w, (p.logits if same_set else log_softmax(p.logits))[:, p.classes.tolist().index(c)])
            for w, p in ((1, a), (2, b))
            if c in p.classes
        ]
        expected = sum(w * x for w, x in parts) / sum(w for w, _ in parts)
        np.testing.assert_allclose(mixed.logits[:, column], expected, rtol=1e-5)
    wide = pct.ensemble([a, b], classes=[0, 1, 2, 3, 7])
    assert (wide.logits[:, 4] == -np.inf).all()
    assert np.isfinite(wide.probabilities).all()
    c = net(count=3, classes=[0, 3], seed=4).take([0, 1, 2])
    c = pct.Predictions(keys, labels, c.logits, [0, 3])
    one, other = (a + b) + c, a + (b + c)
    np.testing.assert_allclose(one.logits, other.logits, rtol=1e-6)


def test_an_ensemble_needs_the_same_samples() -> None:
    with pytest.raises(ReportError, match="at least one"):
        pct.ensemble([])
    with pytest.raises(ReportError, match=r"1 only in a \(first 'val/5.png'\)"):
        net("a") + net("b").take(range(5))
    with pytest.raises(ReportError, match=r"different labels; the first is 'val/0\.png': 0 and 1"):
        net("a") + pct.Predictions(net().keys, net().labels + 1, net().logits)


def test_the_union_of_the_odd_and_the_even_net() -> None:
    odd = net("odd", 5).relabelled([1, 3, 5])
    even = pct.Predictions([f"even/{i}" for i in range(4)], [0, 2, 0, 4], np.eye(4, 2), [0, 2])
    both = pct.union([odd, even])
    assert len(both) == 5 + 3
    assert both.classes.tolist() == [0, 1, 2, 3, 5]
    assert both.right[:5].tolist() == odd.right.tolist()
    assert both.logits[0, 0] == -np.inf
    new = pct.Predictions(
        np.concatenate([odd.keys, even.keys]), np.concatenate([odd.labels, even.labels]), np.zeros((9, 6))
    )
    assert len(pct.align(old=both, new=new).new) == 8
    twice = pct.union([odd, odd])
    assert np.array_equal(twice.answers, odd.answers)
    with pytest.raises(ReportError, match="at least one"):
        pct.union([])


def test_repetitions_stay_repetitions_in_a_union() -> None:
    one = pct.Predictions(["a", "a", "b"], [0, 0, 1], np.eye(3, 2), None, ["", "2", ""])
    other = pct.Predictions(["c"], [1], np.eye(1, 2), None)
    for nets in ([one, other], [other, one]):
        both = pct.union(nets)
        assert both.variants is not None
        assert sorted(zip(both.keys.tolist(), both.variants.tolist(), strict=True)) == [
            ("a", ""), ("a", "2"), ("b", ""), ("c", ""),
        ]  # fmt: skip
    assert pct.union([other, pct.Predictions(["d"], [1], np.eye(1, 2))]).variants is None


def test_relabelling_is_refused_where_it_cannot_be() -> None:
    for classes in ([1, 3], [1, 3, 5, 7]):
        with pytest.raises(ReportError, match="cannot become"):
            net().relabelled(classes)


def test_alignment_says_what_differs() -> None:
    new = net("new")
    with pytest.raises(ReportError, match=r"1 only in the new \('val/5.png'\)"):
        pct.align(old=net("old").take(range(5)), new=new)
    with pytest.raises(ReportError, match=r"3 only in the old \('val/3.png', 'val/4.png', 'val/5.png'\)"):
        pct.align(old=net("old"), new=new.take(range(3)))
    with pytest.raises(ReportError, match=r"old knows the classes \[3\]"):
        pct.align(old=net("old", classes=[1, 2, 3]), new=new)
    part = net("old", classes=[1, 2])
    with pytest.raises(ReportError, match="different labels"):
        pct.align(old=part, new=new)
    shuffled = net("old").take([5, 4, 3, 2, 1, 0])
    pair = pct.align(old=shuffled, new=new)
    assert np.array_equal(pair.old.logits, net().logits)
    known = new.take(np.flatnonzero(new.labels > 0))
    subset = pct.Predictions(known.keys, known.labels, known.logits[:, 1:], [1, 2])
    assert len(pct.align(old=subset, new=new).old) == 4


def test_derived_arrays() -> None:
    p = pct.Predictions(["a", "b"], [3, 9], np.log([[0.25, 0.75], [0.5, 0.5]]), [3, 5])
    assert p.answers.tolist() == [5, 3]
    np.testing.assert_allclose(p.confidence, [0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(p.probability_of_label, [0.25, 0], rtol=1e-6)
    assert p.covered.tolist() == [True, False]
    assert (len(p), p.name, p.named("x", net="h").meta) == (2, "unnamed", {"name": "x", "net": "h"})
    assert "2 samples" in repr(p)


def test_stale_predictions_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "w"
    weights.write_bytes(b"1")
    made = net().named("a", weights=pct.file_hash(weights), net="n")
    pct.check_fresh(made, weights=pct.file_hash(weights), net="n")
    weights.write_bytes(b"2")
    with pytest.raises(ReportError, match="another weights and preprocessing"):
        pct.check_fresh(made, weights=pct.file_hash(weights), net="n", preprocessing="p")


def test_measuring_needs_no_torch() -> None:
    names = "pct.Predictions, pct.union, pct.bootstrap, pct.flips, pct.FlipRates"
    code = f"import sys; from fusion import pct; {names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
