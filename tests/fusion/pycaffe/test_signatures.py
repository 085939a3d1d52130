"""Optional arguments have the defaults of BVLC Caffe's Python module, on which scripts rely."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import fusion.pycaffe as caffe
from fusion.pycaffe import draw

PREPARED = "mean=None input_scale=None raw_scale=None channel_swap=None"


@pytest.mark.parametrize(
    ("function", "defaults"),
    [
        (caffe.Net.forward, "blobs=None start=None end=None"),
        (caffe.Net.backward, "diffs=None start=None end=None"),
        (caffe.Net.forward_all, "blobs=None"),
        (caffe.Net.forward_backward_all, "blobs=None diffs=None"),
        (caffe.Net.__init__, "phase=None level=0 stages=None weights=None"),
        (caffe.Classifier.__init__, f"image_dims=None {PREPARED}"),
        (caffe.Classifier.predict, "oversample=True"),
        (caffe.Detector.__init__, f"{PREPARED} context_pad=None"),
        (caffe.SGDSolver.solve, "resume_file=None"),
        (caffe.init_log, "level=0 stderr=True"),
        (caffe.io.blobproto_to_array, "return_diff=False"),
        (caffe.io.array_to_blobproto, "diff=None"),
        (caffe.io.array_to_datum, "label=None"),
        (caffe.io.load_image, "color=True"),
        (caffe.io.resize_image, "interp_order=1"),
        (caffe.io.oversample, ""),
        (draw.get_layer_label, "display_lrm=False"),
        (draw.get_pydot_graph, "label_edges=True phase=None display_lrm=False"),
        (draw.draw_net, "ext='png' phase=None display_lrm=False"),
        (draw.draw_net_to_file, "rankdir='LR' phase=None display_lrm=False"),
    ],
)
def test_defaults_are_caffe_s(function: Callable[..., Any], defaults: str) -> None:
    parameters = inspect.signature(function).parameters.values()
    found = [f"{one.name}={one.default!r}" for one in parameters if one.default is not inspect.Parameter.empty]
    assert " ".join(found) == defaults
