"""Each branch of a fused net is fed what its source was trained on, from its own files, or composing refuses."""

from __future__ import annotations

import itertools
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

import prototxt
from fusion import ComposeError
from fusion.composition import Source, compose
from fusion.composition.prepared_source import prepare_source
from fusion.composition.preprocessing import PARAMS
from prototxt.schema.messages import NetParameter

sys.path.insert(0, str(Path(__file__).parent))
from own_data import fed, local, make_files, source_of

CORPUS = Path(__file__).parents[4] / "shared" / "reference" / "corpus"
SIZE = 12


def image(name: str, source: str, transform: str = "", param: str = "", label: str = "label") -> str:
    return "".join(
        f'layer {{ name: "{name}" type: "ImageData" top: "{name}" top: "{label}" include {{ phase: {phase} }}\n'
        f"  transform_param {{ {transform} }}\n"
        f'  image_data_param {{ source: "{short}_{source}" batch_size: 3 {param} }}\n}}\n'
        for phase, short in (("TRAIN", "tr"), ("TEST", "va"))
    )


def lmdb(source: str, transform: str = "") -> str:
    return image("data", source, transform, "backend: LMDB").replace("ImageData", "Data").replace("image_data", "data")


def hdf5(top: str, source: str) -> str:
    text = image(top, source).replace("ImageData", "HDF5Data").replace("image_data", "hdf5_data")
    return re.sub(r"transform_param \{ +\}", "", text)


CONV = """layer {{ name: "conv" type: "Convolution" bottom: "{}" top: "conv"
  convolution_param {{ num_output: 2 kernel_size: 2 }} }}
"""
REST = """layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
MEAN = 'mean_file: "mean" scale: 0.5'
CAT = 'layer { name: "cat" type: "Concat" bottom: "data" bottom: "dep" top: "cat" }\n'
TWIN = image("data", "rgb") + image("dep", "dep", label="label2") + CAT
ONE = """layer { name: "data" type: "ImageData" top: "data" top: "label"
  image_data_param { source: "tr_rgb" batch_size: 3 } }
"""
NETS = {
    "plain": image("data", "rgb") + CONV.format("data"),
    "alike": image("data", "rgb", "scale: 1 mirror: false", "is_color: true") + CONV.format("data"),
    "scaled": image("data", "rgb", "scale: 0.017 mean_value: 104 mean_value: 117 mean_value: 123")
    + CONV.format("data"),
    "named": image("pixels", "rgb", "scale: 0.017") + CONV.format("pixels"),
    "gray": image("data", "rgb", "", "is_color: false") + CONV.format("data"),
    "cropped": image("data", "rgb", "crop_size: 8") + CONV.format("data"),
    "resized": image("data", "rgb", "mean_value: 3", "new_height: 9 new_width: 9") + CONV.format("data"),
    "mean": image("data", "rgb", MEAN) + CONV.format("data"),
    "mean scaled": image("data", "rgb", MEAN.replace("0.5", "2")) + CONV.format("data"),
    "depth": image("data", "dep", "scale: 0.1") + CONV.format("data"),
    "other labels": image("data", "odd") + CONV.format("data"),
    "folder": image("data", "rgb", "", 'root_folder: "./"') + CONV.format("data"),
    "database": lmdb("db") + CONV.format("data"),
    "database scaled": lmdb("db", "scale: 4 crop_size: 0") + CONV.format("data"),
    "other database": lmdb("more") + CONV.format("data"),
    "left": hdf5("left", "h5") + CONV.format("left"),
    "right": hdf5("right", "h5") + CONV.format("right"),
    "other left": hdf5("left", "more_h5") + CONV.format("left"),
    "other label name": image("data", "rgb", label="class") + CONV.format("data"),
    "one layer": ONE + CONV.format("data"),
    "shuffled": image("data", "rgb", "scale: 2", "shuffle: true new_height: 10 new_width: 10") + CONV.format("data"),
    "odd database": lmdb("odd_db") + CONV.format("data"),
    "odd left": hdf5("left", "odd_h5") + CONV.format("left"),
    "twin": TWIN + CONV.format("cat"),
    "twin scaled": TWIN.replace("transform_param {  }", "transform_param { scale: 0.0039 }") + CONV.format("cat"),
}
LABELS = {f"{phase}_{name}": (2, 1, 0) for phase in ("tr", "va") for name in ("odd", "odd_db", "odd_h5")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for number, text in enumerate(NETS.values()):
            label = "class" if 'top: "class"' in text else "label"
            (path / f"{number}.prototxt").write_text(text + REST.replace("label", label))
            make_files(prototxt.load_net(path / f"{number}.prototxt"), SIZE, LABELS)
    return path


def own_lists(path: Path, prefix: str) -> dict[str, dict[str, str]]:
    """Each layer's own list, as if the user named it."""
    part = prepare_source(Source(prefix, path, at=None), reference=False)
    found: dict[str, dict[str, str]] = {"train_list": {}, "val_list": {}}
    for layer in part.data_layers:
        for block in layer.message.messages(PARAMS.get(layer.type, "")):
            for phase in layer.phases:
                key = "train_list" if phase == "TRAIN" else "val_list"
                found[key].update({layer.name: block.string("source") or ""})
    return found


def crops(net: NetParameter) -> bool:
    """Whether places of crops are drawn, by the leading layer alone."""
    return any(layer.transform_param.crop_size for layer in net.layer)


def check(sources: Mapping[str, Path], how: str) -> bool:
    """Compose the sources and compare what each branch is fed; False if composing refuses.

    how  "own": nothing is said about lists; "named": each layer's own list is; "first": all read the first's
    """
    named = {p: own_lists(path, p) if how == "named" else {} for p, path in sources.items()}
    given = [Source(p, path, **named[p]) for p, path in sources.items()]  # type: ignore[arg-type]
    options = {"data_from": next(iter(sources))} if how == "first" else {}
    try:
        composed = compose(given, num_output=3, **options)  # type: ignore[arg-type]
    except ComposeError:
        return False
    nets = {p: prototxt.load_net(path, strict=False) for p, path in sources.items()}
    for phase in ("TEST",) if any(crops(net) for net in nets.values()) else ("TEST", "TRAIN"):
        first = prototxt.filter_net(next(iter(nets.values())), phase=phase)
        every = {layer.name: source_of(layer) or "" for layer in first.layer if not layer.bottom}
        lists = {**every, "": next(iter(every.values()))} if how == "first" else {}
        for prefix, net in nets.items():
            found = fed(composed.train_val, prefix, net, phase, lists)
            assert found, prefix
            for item in found:
                torch.testing.assert_close(item.fused, item.own, rtol=1e-4, atol=1e-3, msg=f"{prefix}/{item.layer}")
    return True


COMPOSED = {
    "own": {("plain", "alike"), ("plain", "scaled"), ("plain", "cropped"), ("plain", "depth"), ("twin", "depth"),
            ("left", "right"), ("database", "database scaled"), ("twin", "twin scaled"), ("mean", "scaled"),
            ("mean", "mean scaled"), ("named", "gray"), ("plain", "folder"), ("plain", "database"),
            ("database", "other database"), ("plain", "other left"), ("left", "depth")},
    "named": {("plain", "database"), ("database", "other database"), ("left", "plain")},
    "first": {("plain", "other labels"), ("database", "other database"), ("left", "other left")},
}  # fmt: skip
REFUSED = {
    "own": {
        ("plain", "other labels"),
        ("left", "other left"),
        ("database", "odd database"),
        ("plain", "odd database"),
        ("plain", "odd left"),
        ("left", "other labels"),
    },
    "named": {("plain", "other labels"), ("left", "other left"), ("database", "odd database"), ("plain", "odd left")},
    "first": {("plain", "database"), ("plain", "left")},
}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])  # every pair takes 40 s
@pytest.mark.parametrize("how", ["own", "named", "first"])
@pytest.mark.parametrize("first", NETS)
def test_branches_are_fed_their_sources_own_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch, first: str, how: str, every: bool
) -> None:
    monkeypatch.chdir(folder)
    names = list(NETS)
    known = {other for pair in COMPOSED[how] | REFUSED[how] if first == pair[0] for other in pair}
    for second in names if every else sorted({first, *known, *names[names.index(first) % 9 :: 9]}):
        paths = {p: folder / f"{names.index(name)}.prototxt" for p, name in (("a", first), ("b", second))}
        done = check(paths, how)
        assert done or (first, second) not in COMPOSED[how], second
        assert not done or (first, second) not in REFUSED[how], second
        assert done or first != second


def test_three_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for three in itertools.permutations(("scaled", "cropped", "depth", "named")):
        paths = {name[0]: folder / f"{list(NETS).index(name)}.prototxt" for name in three[:3]}
        assert check(paths, "own")


# Nets of the corpus that have data layers which this project reads and a classifier; the rest is refused by composing
# alone (detection, several losses, no classifier), or has no data of its own to be fed (deploy files).
PUBLIC = {
    "SqueezeNet__train_val": 256,
    "caffe__cifar10_full_sigmoid_train_test_bn": 32,
    "caffe__models_bvlc_reference_caffenet_train_val": 256,
    "caffe__train_val": 256,
    "cnn-models__train": 256,
    "net-archive__train_CIFAR10_48": 256,
    "net-archive__train_val": 256,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not CORPUS.is_dir():
        pytest.skip("the public nets are not here")
    path = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(path)
        for name, size in PUBLIC.items():
            text = local((CORPUS / f"{name}.prototxt").read_text())
            (path / f"{name}.prototxt").write_text(text)
            make_files(prototxt.load_net(path / f"{name}.prototxt", strict=False), size, {})
        yield path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fusion.errors.ComposeWarning")
@pytest.mark.filterwarnings(
    "ignore::prototxt.schema.decode.UnknownFieldWarning", "ignore::prototxt.schema.upgrade.UpgradeWarning"
)
@pytest.mark.parametrize("how", ["own", "named"])
@pytest.mark.parametrize("pair", [*itertools.combinations_with_replacement(PUBLIC, 2)], ids="+".join)
def test_public_nets_are_fed_their_own_data(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str], how: str
) -> None:
    monkeypatch.chdir(corpus)
    done = check({p: corpus / f"{name}.prototxt" for p, name in zip("ab", pair, strict=True)}, how)
    assert done or pair[0] != pair[1]
