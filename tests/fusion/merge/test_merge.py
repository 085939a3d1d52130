"""Merging trained nets: what comes from where, all misfits at once, the same bytes for the same inputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusion.errors import MergeError
from fusion.merge.merge import apply_merge, plan_merge
from fusion.merge.plan import FromFiller, FromOnnx, FromSource
from fusion.merge.targets import TargetLayer
from prototxt.errors import WeightsError
from prototxt.formats.caffemodel import CaffemodelWriter, scan_caffemodel
from prototxt.formats.hdf5_writer import SlashWarning
from prototxt.formats.weights import read_weights, write_weights
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, NetParameter, ParamSpec
from prototxt.text.parser import parse

DATA = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
"""
BODY = """
layer { name: "P/conv" type: "Convolution" bottom: "data" top: "P/conv" param { lr_mult: 0 } param { lr_mult: 0 }
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "P/bn" type: "BatchNorm" bottom: "P/conv" top: "P/conv" batch_norm_param { use_global_stats: true } }
layer { name: "P/relu" type: "ReLU" bottom: "P/conv" top: "P/conv" }
layer { name: "P/ip" type: "InnerProduct" bottom: "P/conv" top: "P/ip" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 5 } }
"""
HEAD = """
layer { name: "concat" type: "Concat" bottom: "odd/ip" bottom: "even/ip" top: "both" }
layer { name: "fc" type: "InnerProduct" bottom: "both" top: "fc"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.5 } } }
"""
FUSED = DATA + BODY.replace("P/", "odd/") + BODY.replace("P/", "even/") + HEAD
SHAPES = {"conv": [(4, 3, 3, 3), (4,)], "bn": [(4,), (4,), (1,)], "ip": [(5, 144), (5,)], "unused": [(7,)]}


def net(text: str = FUSED) -> NetParameter:
    return load_net(parse(text, "fused.prototxt"))


def arrays(seed: int, **changed: list[tuple[int, ...]]) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    shapes = {**SHAPES, **changed}
    return {name: [rng.standard_normal(s).astype(np.float32) for s in sizes] for name, sizes in shapes.items()}


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    for seed, name in enumerate(("odd", "even")):
        write_weights(tmp_path / f"{name}.caffemodel", arrays(seed))
    return {name: tmp_path / f"{name}.caffemodel" for name in ("odd", "even")}


def message(call: object) -> str:
    with pytest.raises(MergeError) as caught:
        call()  # type: ignore[operator]
    return str(caught.value)


@pytest.mark.parametrize("ending", ["caffemodel", "safetensors"])
def test_every_blob_arrives_bit_by_bit(sources: dict[str, Path], tmp_path: Path, ending: str) -> None:
    plan = plan_merge(net(), sources)
    apply_merge(plan, tmp_path / f"out.{ending}")
    merged = read_weights(tmp_path / f"out.{ending}")
    assert set(merged) == {f"{p}/{n}" for p in ("odd", "even") for n in ("conv", "bn", "ip")} | {"fc"}
    for seed, prefix in enumerate(("odd", "even")):
        for name, blobs in arrays(seed).items():
            if name != "unused":
                for got, want in zip(merged[f"{prefix}/{name}"], blobs, strict=True):
                    np.testing.assert_array_equal(got, want)
    assert (merged["fc"][0].shape, merged["fc"][1].tolist()) == ((10, 10), [0.5] * 10)
    assert plan.unused == {"even": ("unused",), "odd": ("unused",)}
    assert plan.filled == ("fc",)


def test_hdf5_nests_names_with_slashes_and_warns(sources: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    with pytest.warns(SlashWarning, match="Caffe does not load layers with '/' in their name from HDF5"):
        apply_merge(plan_merge(net(), sources), tmp_path / "out.caffemodel.h5")
    merged = read_weights(tmp_path / "out.caffemodel.h5")
    np.testing.assert_array_equal(merged["odd/ip"][0], arrays(0)["ip"][0])
    with pytest.warns(SlashWarning, match="odd/conv"):
        apply_merge(plan_merge(net(), sources), tmp_path / "again.caffemodel.h5")
    assert (tmp_path / "out.caffemodel.h5").read_bytes() == (tmp_path / "again.caffemodel.h5").read_bytes()
    # and an HDF5 file is a source like any other
    again = plan_merge(net(), {"odd": tmp_path / "out.caffemodel.h5", "even": tmp_path / "out.caffemodel.h5"})
    assert again.layers[1].origins[0] == FromSource("odd", "odd/conv", 0)


def test_the_same_inputs_give_the_same_bytes_and_another_seed_another_head(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        apply_merge(plan_merge(net(), sources, seed=seed), tmp_path / f"{name}.caffemodel")
    assert (tmp_path / "a.caffemodel").read_bytes() == (tmp_path / "b.caffemodel").read_bytes()
    a, c = read_weights(tmp_path / "a.caffemodel"), read_weights(tmp_path / "c.caffemodel")
    assert not np.array_equal(a["fc"][0], c["fc"][0])
    np.testing.assert_array_equal(a["odd/ip"][0], c["odd/ip"][0])


def test_arrays_files_and_prototxt_pairs_are_sources(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "odd.prototxt").write_text(DATA + BODY.replace("P/", ""))
    from_files = plan_merge(net(), sources)
    mixed = plan_merge(net(), {"odd": (tmp_path / "odd.prototxt", sources["odd"]), "even": arrays(1)})
    apply_merge(from_files, tmp_path / "a.caffemodel")
    apply_merge(mixed, tmp_path / "b.caffemodel")
    assert (tmp_path / "a.caffemodel").read_bytes() == (tmp_path / "b.caffemodel").read_bytes()


def test_one_file_serves_two_branches(sources: dict[str, Path], tmp_path: Path) -> None:
    apply_merge(plan_merge(net(), {"odd": sources["odd"], "even": sources["odd"]}), tmp_path / "out.caffemodel")
    merged = read_weights(tmp_path / "out.caffemodel")
    np.testing.assert_array_equal(merged["odd/ip"][0], merged["even/ip"][0])


def test_a_source_that_bears_its_prefix_already(tmp_path: Path) -> None:
    renamed = {f"odd/{name}": blobs for name, blobs in arrays(0).items()}
    plan = plan_merge(net(), {"odd": renamed, "even": arrays(1)})
    assert plan.layers[1].origins == (FromSource("odd", "odd/conv", 0), FromSource("odd", "odd/conv", 1))


def test_old_dims_and_doubles_are_brought_into_form(golden: Path, tmp_path: Path) -> None:
    small = golden / "formats" / "small"
    fused = load_net(small / "net.prototxt")
    results = set()
    for name in ("net_legacy_dims", "net_double", "net"):
        apply_merge(plan_merge(fused, {"": small / f"{name}.caffemodel"}), tmp_path / "out.caffemodel")
        results.add((tmp_path / "out.caffemodel").read_bytes())
    assert len(results) == 1
    assert [blob.shape for blob in scan_caffemodel(tmp_path / "out.caffemodel").with_blobs()["h0"].blobs] == [
        (12, 36),
        (12,),
    ]


def test_shared_parameters_come_from_their_owner_in_hdf5(golden: Path, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    small = golden / "formats" / "small"
    plan = plan_merge(load_net(small / "net.prototxt"), {"": small / "net.caffemodel.h5"})
    origins = {layer.name: layer.origins for layer in plan.layers}
    assert origins["h2"] == origins["h1"]


def test_branches_that_share_by_one_name_are_refused() -> None:
    shared = FUSED.replace("param { lr_mult: 0 }", 'param { name: "w" lr_mult: 0 share_mode: PERMISSIVE }', 1)
    tail = shared.index('"even/conv"')
    shared = shared[:tail] + shared[tail:].replace("param { lr_mult: 0 }", 'param { name: "w" lr_mult: 0 }', 1)
    text = message(lambda: plan_merge(net(shared), {"odd": arrays(0), "even": arrays(1)}))
    assert (
        "layer 'even/conv' shares parameter 'w' with layer 'odd/conv', but the two would get different weights" in text
    )
    assert "rename the sources with fusion-rename" in text
    plan_merge(net(shared), {"odd": arrays(0), "even": arrays(0)})


def test_all_misfits_are_reported_together_with_shapes_and_remedy() -> None:
    odd = arrays(0, ip=[(5, 100), (5,)])
    del odd["conv"]
    even = arrays(1, bn=[(4,), (4,)])
    text = message(lambda: plan_merge(net(), {"odd": odd, "even": even}))
    assert (
        "fused.prototxt:4:1: layer 'odd/conv' needs weights of shape 4x3x3x3, 4 from source 'odd', "
        "but arrays of 'odd' has no layer 'conv'" in text
    )
    assert "layer 'odd/ip' needs blobs of shape 5x144, 5, but 'ip' in arrays of 'odd' has 5x100, 5" in text
    assert "layer 'even/bn' needs blobs of shape 4, 4, 1, but 'bn' in arrays of 'even' has 4, 4" in text
    assert "--allow-missing odd/conv" in text
    assert len(text.split("hint:")) == 4


def test_what_is_allowed_by_name_starts_from_its_filler() -> None:
    odd = arrays(0)
    del odd["conv"]
    plan = plan_merge(net(), {"odd": odd, "even": arrays(1)}, allow_missing=["odd/c*"])
    assert plan.allowed == ("odd/conv",)
    assert plan.layers[1].origins == (FromFiller("odd/conv", 0, "constant 0"), FromFiller("odd/conv", 1, "constant 0"))


def test_a_forgotten_source_is_one_error() -> None:
    text = message(lambda: plan_merge(net(), {"odd": arrays(0)}))
    assert (
        "layer 'even/conv' and 2 more of 'even/' are frozen, and no source has the prefix 'even' (given: 'odd')\n"
        "  hint: add even=WEIGHTS, or allow them to start from their fillers: --allow-missing 'even/*'" in text
    )


def test_a_source_that_nothing_takes_from_and_a_misspelt_permission() -> None:
    sources = {"odd": arrays(0), "even": arrays(1), "third": arrays(2)}
    text = message(lambda: plan_merge(net(), sources, allow_missing=["odd/conf"]))
    assert (
        "source 'third': no layer of the fused net begins with 'third/'\n  hint: the prefixes in it are even, odd"
        in text
    )
    assert "--allow-missing odd/conf: the fused net has no such layer\n  hint: did you mean 'odd/conv'?" in text


def test_a_layer_of_another_type_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    with CaffemodelWriter(tmp_path / "typed.caffemodel") as writer:
        for name, blobs in arrays(0).items():
            writer.add_layer(name, "Deconvolution" if name == "conv" else "", (), (), blobs)
    text = message(lambda: plan_merge(net(), {**sources, "odd": tmp_path / "typed.caffemodel"}))
    assert "layer 'odd/conv' is of type Convolution in the fused net, but 'conv' in " in text
    assert "is of type Deconvolution" in text


def test_broken_sources_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "empty.caffemodel").touch()
    (tmp_path / "text.caffemodel").write_text(FUSED)
    text = message(
        lambda: plan_merge(
            net(),
            {
                "odd": tmp_path / "empty.caffemodel",
                "even": tmp_path / "text.caffemodel",
                "x": (tmp_path / "none.prototxt", tmp_path / "none.caffemodel"),
            },
        )
    )
    assert "empty.caffemodel: the file is empty" in text
    assert "text.caffemodel: this is a text file; weights are binary" in text
    assert "none.prototxt: No such file or directory" in text


def test_sizes_that_only_pictures_tell_come_from_the_sources_and_a_head_may_ask_for_them() -> None:
    images = 'layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { source: "absent.txt" } }'
    text = FUSED.replace(DATA, images)
    plan = plan_merge(net(text), {"odd": arrays(0), "even": arrays(1)})
    assert plan.layers[4].shapes == ((5, 144), (5,))
    wide = text.replace('bottom: "odd/ip" bottom: "even/ip"', 'bottom: "odd/conv" bottom: "even/conv"')
    asked = message(lambda: plan_merge(net(wide), {"odd": arrays(0), "even": arrays(1)}))
    assert "layer 'fc' is new, but the shape of its blob 0 is not known: 10x?, 10" in asked
    assert "--input-shape data=1,3,224,224" in asked
    plan = plan_merge(net(wide), {"odd": arrays(0), "even": arrays(1)}, inputs={"data": (1, 3, 8, 8)})
    assert plan.layers[-1].shapes == ((10, 288), (10,))


def test_the_plan_as_table_and_json(sources: dict[str, Path]) -> None:
    plan = plan_merge(net(), sources, seed=3)
    lines = plan.table().splitlines()
    assert lines[0].split() == ["layer", "type", "blobs", "from"]
    assert lines[2] == "odd/conv   Convolution   4x3x3x3, 4  odd: conv"
    assert lines[8] == "fc         InnerProduct  10x10, 10   filled: xavier, constant 0.5"
    assert lines[-2] == f"not used of odd ({sources['odd']}): unused"
    assert lines[-1].startswith("7 layers with 1,802 values (0.0 MB): 6 from 2 sources, 1 filled with seed 3")
    content = json.loads(plan.to_json())
    assert content["layers"][0]["blobs"][0] == {"shape": [4, 3, 3, 3], "source": "odd", "layer": "conv", "index": 0}
    assert content["layers"][-1]["blobs"][1] == {"shape": [10], "filled": "constant 0.5", "layer": "fc"}


def test_a_source_that_changes_after_planning_stops_the_merge(sources: dict[str, Path], tmp_path: Path) -> None:
    plan = plan_merge(net(), sources)
    write_weights(sources["odd"], arrays(5))
    with pytest.raises(WeightsError, match="the file has changed since it was read"):
        apply_merge(plan, tmp_path / "out.caffemodel")
    assert not list(tmp_path.glob("*out*"))


def test_merging_onto_a_source_keeps_it_whole(sources: dict[str, Path]) -> None:
    apply_merge(plan_merge(net(), sources), sources["odd"])
    np.testing.assert_array_equal(read_weights(sources["odd"])["odd/ip"][0], arrays(0)["ip"][0])


def test_the_published_lenets_merge_where_no_picture_is(reference: Path, tmp_path: Path) -> None:
    folder = reference / "tutorial"
    fused = load_net(folder / "lenet_fusion_train_val.prototxt")
    files = {
        name: (folder / f"lenet_{name}_train_val.prototxt", folder / f"mnist_lenet_{name}_iter_30000.caffemodel")
        for name in ("odd", "even")
    }
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        plan = plan_merge(fused, files)
        apply_merge(plan, "init.caffemodel")
    finally:
        os.chdir(before)
    merged = read_weights(tmp_path / "init.caffemodel")
    assert merged["ip2"][0].shape == (10, 1000)
    odd = read_weights(files["odd"][1])
    np.testing.assert_array_equal(merged["odd/ip1"][0], odd["ip1"][0])
    message = NetParameter.FromString((tmp_path / "init.caffemodel").read_bytes())
    assert message.SerializeToString(deterministic=True) == (tmp_path / "init.caffemodel").read_bytes()


def test_memory_stays_flat_and_torch_stays_out(tmp_path: Path) -> None:
    wide = {**SHAPES, "ip": [(200000, 144), (200000,)]}  # 115 MB each
    text = FUSED.replace("num_output: 5", "num_output: 200000")
    text = text[: text.index('layer { name: "fc"')]
    (tmp_path / "fused.prototxt").write_text(text)
    with CaffemodelWriter(tmp_path / "big.caffemodel") as writer:
        for name, shapes in wide.items():
            writer.add_layer(name, "", (), (), [np.zeros(shape, np.float32) for shape in shapes])
    code = """
import sys
from fusion.merge.merge import plan_merge, apply_merge
from prototxt.schema.load import load_net
fused, source, out = sys.argv[1:]
apply_merge(plan_merge(load_net(fused), {"odd": source, "even": source}), out)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak // 1024, "torch" in sys.modules)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of memory is read from /proc")
    files = [str(tmp_path / name) for name in ("fused.prototxt", "big.caffemodel", "o.caffemodel")]
    run = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    peak, torch = run.stdout.split()
    assert int(peak) < 120
    assert torch == "False"
    assert (tmp_path / "o.caffemodel").stat().st_size > 230e6


def test_a_branch_without_a_source_starts_from_its_fillers_where_that_is_allowed() -> None:
    """By the pattern that the error for a forgotten source names."""
    plan = plan_merge(net(), {"odd": arrays(0)}, allow_missing=["even/*"])
    assert plan.filled == ("even/conv", "even/bn", "even/ip", "fc")
    origins = {layer.name: layer.origins for layer in plan.layers}
    assert origins["odd/conv"] == (FromSource("odd", "conv", 0), FromSource("odd", "conv", 1))
    assert origins["even/bn"] == tuple(FromFiller("even/bn", index, "constant 0") for index in range(3))


@pytest.mark.parametrize(("position", "found"), [(0, True), (4095, True), (4096, False), (11999, True), (7904, True)])
def test_both_ends_of_a_copied_blob_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int, found: bool
) -> None:
    """3,000 values are 12,000 bytes, of which the first and the last 4,096 are compared with the source's."""
    text = 'layer { name: "b" type: "Bias" bottom: "x" top: "y" }'
    blob = np.arange(3000, dtype=np.float32)
    write_weights(tmp_path / "source.caffemodel", {"b": [blob]})
    input_text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3000 } } }'
    plan = plan_merge(net(input_text + text), {"": tmp_path / "source.caffemodel"})
    start = scan_caffemodel(tmp_path / "source.caffemodel").entries[0].blobs[0].offset
    plain = CaffemodelWriter.read

    def damaged(self: CaffemodelWriter, offset: int, count: int) -> bytes:
        (entry,) = [entry for entry in self.written().entries if entry.blobs]
        at = entry.blobs[0].offset + position - offset
        data = bytearray(plain(self, offset, count))
        if 0 <= at < count:
            data[at] ^= 1
        return bytes(data)

    assert start > 0
    monkeypatch.setattr(CaffemodelWriter, "read", damaged)
    if found:
        with pytest.raises(MergeError, match="after writing, blob 0 of layer 'b' differs from that in '"):
            apply_merge(plan, tmp_path / "out.caffemodel")
        assert not (tmp_path / "out.caffemodel").exists()
    else:
        apply_merge(plan, tmp_path / "out.caffemodel")


def test_warnings_of_one_kind_are_one_line(tmp_path: Path) -> None:
    sources = tmp_path / "odd.prototxt"
    pool = 'layer {{ name: "{}" type: "Pooling" bottom: "data" top: "{}" pooling_param {{ kernel_size: 2 {} }} }}'
    names = [f"p{index}" for index in range(6)]
    sources.write_text(DATA + "".join(pool.format(name, name, "pool: AVE") for name in names) + BODY.replace("P/", ""))
    fused = DATA + "".join(pool.format(f"odd/{name}", name, "") for name in names) + BODY.replace("P/", "odd/")
    write_weights(tmp_path / "odd.caffemodel", arrays(0))
    table = plan_merge(net(fused), {"odd": (sources, tmp_path / "odd.caffemodel")}).table()
    assert [line for line in table.splitlines() if line.startswith("warning")] == [
        "warning: layer 'odd/p0', 'odd/p1', 'odd/p2', 'odd/p3' and 2 more: pool is MAX, and AVE in the source"
    ]


@pytest.mark.parametrize(
    ("kind", "rates", "frozen"),
    [
        ("BatchNorm", (), True), ("BatchNorm", (1, 1, 1, 0, 0), True), ("BatchNorm", (0, 0, 0, 1, 0), False),
        ("BatchNorm", (0, 0, 0, 0, 1), False), ("Scale", (0, 0, 0, 0, 0), True), ("Scale", (1, 0, 0, 0, 0), False),
        ("Scale", (0, 0, 0, 0), False),
    ],
)  # fmt: skip
def test_what_is_frozen(kind: str, rates: tuple[int, ...], frozen: bool) -> None:
    """The three statistics of BatchNorm are never learned; forks keep a scale and a bias after them."""
    layer = LayerParameter(name="n", type=kind, param=[ParamSpec(lr_mult=rate) for rate in rates])
    assert TargetLayer(layer, ((4,),) * (3 if not rates else 5)).frozen is frozen


def test_origins_in_json() -> None:
    plan = plan_merge(net(), {"odd": arrays(0), "even": arrays(1)})
    origins = (FromOnnx("net.onnx", "odd/conv", 0, "w"), FromFiller("odd/conv", 1, "constant 0"))
    layers = tuple(replace(one, origins=origins) if one.name == "odd/conv" else one for one in plan.layers)
    text = json.dumps(json.loads(replace(plan, layers=layers).to_json())["layers"])
    assert '{"shape": [4, 3, 3, 3], "onnx": "net.onnx", "weight": "w"}' in text
    assert '{"shape": [4], "filled": "constant 0", "layer": "odd/conv"}' in text
    assert '{"shape": [5, 144], "source": "odd", "layer": "ip", "index": 0}' in text


def test_a_layer_that_shares_a_part_of_its_blobs_needs_the_others_from_its_source() -> None:
    """Its weights are those of another layer, which the source has; its bias is nowhere."""
    layer = (
        'layer { name: "odd/%s" type: "InnerProduct" bottom: "data" top: "odd/%s" '
        'param { name: "w" lr_mult: 0 } param { name: "%s_bias" lr_mult: 0 } inner_product_param { num_output: 2 } }'
    )
    fused = net(DATA + layer % ("one", "one", "one") + layer % ("two", "two", "two"))
    one = {"one": [np.ones((2, 192), np.float32), np.ones(2, np.float32)]}
    text = message(lambda: plan_merge(fused, {"odd": one}))
    assert "layer 'odd/two' needs weights of shape 2x192, 2 from source 'odd'" in text
    own = [np.ones((2, 192), np.float32), np.zeros(2, np.float32)]
    found = {layer.name: layer.origins for layer in plan_merge(fused, {"odd": {**one, "two": own}}).layers}
    assert found["odd/two"] == (FromSource("odd", "two", 0), FromSource("odd", "two", 1))
