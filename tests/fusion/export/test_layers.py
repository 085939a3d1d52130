"""Every converter against BVLC Caffe's own numbers, as ONNX Runtime computes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fusion.errors import ExportError
from fusion.export import to_onnx
from fusion.export.graph_builder import EXPORTERS
from fusion.export.verify import inference_session

LAYERS = Path(__file__).parents[2] / "golden" / "layers"

# What ONNX cannot say as Caffe does, and a word of the reason that is given.
REFUSED = {
    "argmax_axis2_val": "top_k",
    "argmax_ties": "top_k",
    "argmax_top3": "top_k",
    "argmax_val_top2": "top_k",
    "bn_test_not_global": "use_global_stats",
    "conv_axis0": "axis 1",
    "conv_axis2": "axis 1",
    "pool_max_two_tops_mask": "mask",
}
CHANGED = ("argmax", "bn_test", "clip", "lrn", "mvn", "pool_ave", "reduction", "slice", "softmax")  # between opsets


def cases() -> list[str]:
    """Recorded cases of phase TEST, of one step, whose layers all have converters."""
    import fusion.export.model  # noqa: F401 - registers the exporters

    found = []
    for folder in sorted(LAYERS.iterdir()):
        meta = json.loads((folder / "meta.json").read_text())
        types = set(re.findall(r'type: "([A-Z]\w*)"', (folder / "net.prototxt").read_text())) - {"Input"}
        if meta["phase"] == "TEST" and types and types <= set(EXPORTERS):
            with np.load(folder / "io.npz") as file:
                found += [folder.name] if any(key.startswith("in:") for key in file.files) else []
    return found


def check(name: str, opset: int) -> None:
    folder = LAYERS / name
    with np.load(folder / "io.npz") as file:
        arrays = dict(file)
    inputs = {key[3:]: array for key, array in arrays.items() if key.startswith("in:")}
    expected = {key[4:]: array for key, array in arrays.items() if key.startswith("out:") and key[4:] not in inputs}
    weights = folder / "weights.caffemodel"
    trained = weights if weights.exists() else {}
    if name in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[name]):
            to_onnx(folder / "net.prototxt", trained, opset=opset, outputs=list(expected))
        return
    exported = to_onnx(folder / "net.prototxt", trained, opset=opset, outputs=list(expected))
    runtime = inference_session(exported.model.SerializeToString())
    names = [item.name for item in runtime.get_outputs()]
    found = runtime.run(names, {item.name: inputs[item.name] for item in runtime.get_inputs()})
    assert names == list(expected)
    for blob, array in zip(names, found, strict=True):
        scale = float(np.abs(expected[blob][np.isfinite(expected[blob])]).max(initial=0.0))
        np.testing.assert_allclose(array, expected[blob], rtol=1e-4, atol=1e-5 * scale, err_msg=blob)


@pytest.mark.parametrize("name", cases())
def test_converters_give_caffes_numbers(name: str) -> None:
    check(name, 17)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("name", [name for name in cases() if name.startswith(CHANGED)])
def test_other_opsets_give_the_same(name: str, opset: int) -> None:
    check(name, opset)
