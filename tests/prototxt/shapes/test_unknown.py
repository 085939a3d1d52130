"""Dimensions that are not known pass through every layer: the result says less, but never anything else."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path

import pytest

import prototxt
from prototxt.schema.messages import NetParameter
from prototxt.shapes import UNKNOWN, NetShapes, Shape, infer
from prototxt.shapes.dimensions import count, merge_shapes, shapes_agree, text

CASES = sorted(path.parent.name for path in (Path(__file__).parents[2] / "golden").glob("layers/*/net.prototxt"))

TAKEN_FOR_IMAGES = {"conv_1d", "conv_3d", "deconv_3d", "im2col_3d", "conv_axis0", "conv_axis2"}


def weakened(net: NetParameter, known: NetShapes, keep: str) -> dict[str, Shape]:
    """Shapes for the net's inputs with unknown batch, unknown all but channels, unknown everything, or unknown rank."""
    forms = {
        "all but batch": lambda shape: (None, *shape[1:]) if shape else shape,
        "channels": lambda shape: tuple(dim if axis == 1 else None for axis, dim in enumerate(shape)),
        "rank": lambda shape: (None,) * len(shape),
        "nothing": lambda shape: UNKNOWN,
    }
    return {top: forms[keep](known.blobs[top]) for layer in net.layer if not layer.bottom for top in layer.top}


@pytest.mark.parametrize("case", CASES)
def test_less_known_inputs_give_less_known_but_agreeing_shapes(case: str, golden: Path) -> None:
    net = prototxt.load_net(golden / "layers" / case / "net.prototxt")
    known = infer(net)
    if any(layer.type == "Parameter" for layer in net.layer):
        pytest.skip("its input is a parameter")
    for keep in ("all but batch", "channels", "rank", "nothing"):
        if keep == "nothing" and case in TAKEN_FOR_IMAGES:
            continue
        weak = infer(net, weakened(net, known, keep))
        assert all(shapes_agree(shape, known.blobs[name]) for name, shape in weak.blobs.items()), keep
        for exact, vague in zip(known.params, weak.params, strict=True):
            if keep != "nothing":
                assert len(exact) == len(vague)
                assert all(itertools.starmap(shapes_agree, zip(exact, vague, strict=True))), keep


def test_fully_convolutional_nets_need_no_image_size(golden: Path) -> None:
    layers = (
        'layer { name: "d" type: "Input" top: "x" }'
        'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3 }}'
        'layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { pool: AVE global_pooling: true } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "p" top: "ip" inner_product_param { num_output: 2 } }'
        'layer { name: "ip2" type: "InnerProduct" bottom: "c" top: "ip2" inner_product_param { num_output: 2 } }'
    )
    shapes = infer(prototxt.load_net(prototxt.parse(layers)), {"x": (1, 3, None, None)})
    assert shapes.blobs == {
        "x": (1, 3, None, None),
        "c": (1, 4, None, None),
        "p": (1, 4, 1, 1),
        "ip": (1, 2),
        "ip2": (1, 2),
    }
    assert shapes.params == [[], [(4, 3, 3, 3), (4,)], [], [(2, 4), (2,)], [(2, None), (2,)]]


def test_a_blob_of_unknown_rank() -> None:
    layers = (
        'layer { name: "d" type: "Input" top: "x" }'
        'layer { name: "r" type: "ReLU" bottom: "x" top: "r" }'
        'layer { name: "c" type: "Convolution" bottom: "r" top: "c" convolution_param { num_output: 4 kernel_size: 3 }}'
        'layer { name: "s" type: "Scale" bottom: "x" top: "s" scale_param { bias_term: true } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "s" top: "ip" inner_product_param { num_output: 2 } }'
    )
    shapes = infer(prototxt.load_net(prototxt.parse(layers)))
    assert shapes.blobs["x"] is shapes.blobs["r"] is shapes.blobs["s"] is UNKNOWN
    assert shapes.blobs["c"] == (None, 4, None, None)
    assert shapes.blobs["ip"] == (None, 2)
    assert shapes.params == [[], [], [(4, None, 3, 3), (4,)], [(None,), (None,)], [(2, None), (2,)]]


def test_the_unknown_shape_equals_no_other() -> None:
    scalar: Shape = ()
    assert UNKNOWN == copy.deepcopy(UNKNOWN) == pickle.loads(pickle.dumps(UNKNOWN))
    assert scalar != UNKNOWN
    assert scalar not in [UNKNOWN]
    assert UNKNOWN[5] is None
    assert UNKNOWN[1:] is UNKNOWN
    assert count(UNKNOWN) is None
    assert merge_shapes([UNKNOWN, (1, None), (None, 2)]) == (1, 2)
    assert [text(UNKNOWN), text(()), text((2, None))] == ["unknown shape", "scalar", "2x?"]
