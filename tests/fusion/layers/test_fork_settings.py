"""The settings of the forks' layers one by one, each with numbers that it alone changes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import prototxt
from fusion.errors import BuildError
from fusion.layers.forks.boxes import area, corners, offsets, overlap, suppress
from fusion.layers.forks.detection import Detection, DetectionOutput
from fusion.layers.forks.margins import chebyshev
from fusion.layers.forks.multibox import MultiBox, MultiBoxLoss, match_boxes
from fusion.layers.forks.proposals import Proposal, make_anchors
from fusion.layers.forks.regions import half_away
from fusion.layers.forks.sequences import CTCLoss, LabelsequenceAccuracy
from fusion.nets import build as nets
from fusion.nets.graph import Net

pytestmark = pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")


def tensor(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def own(layer: str, *shapes: tuple[int, ...], tops: int = 1, phase: Any = "TEST") -> Net:
    """A layer on inputs of these shapes."""
    text = "".join(
        f'layer {{ name: "b{i}" type: "Input" top: "b{i}" input_param {{ shape {{ '
        + " ".join(f"dim: {dim}" for dim in shape)
        + " } } }\n"
        for i, shape in enumerate(shapes)
    )
    bottoms = " ".join(f'bottom: "b{i}"' for i in range(len(shapes)))
    names = " ".join(f'top: "t{i}"' for i in range(tops))
    return nets.build(prototxt.parse(f'{text}layer {{ name: "own" {bottoms} {names} {layer} }}'), phase, seed=0)


BOXES = tensor([0, 0, 4, 2], [2, 1, 6, 3], [5, 5, 5, 9], [4, 0, 0, 2])


def test_areas_and_overlaps_of_boxes() -> None:
    assert area(BOXES).tolist() == [8, 8, 0, 0]
    assert area(BOXES, pixels=1).tolist() == [15, 15, 5, 0]
    first = overlap(BOXES, BOXES)
    assert first[0].tolist() == [1, 2 / 14, 0, 0]
    assert first[2].tolist() == [0, 0, 0, 0], "no area, no overlap"
    assert overlap(BOXES, BOXES, pixels=1)[0, 1] == 6 / 24
    assert overlap(BOXES[:1], BOXES[1:]).shape == (1, 3)
    assert overlap(tensor([0, 0, 1, 1]), tensor([1, 0, 2, 1])).item() == 0
    assert overlap(tensor([0, 0, 1, 1]), tensor([1, 0, 2, 1]), pixels=1).item() == 2 / 6


ROW = tensor([0, 0, 4, 1], [1, 0, 5, 1], [2, 0, 6, 1], [9, 0, 13, 1])  # overlaps 3/5, 2/6, 3/5


@pytest.mark.parametrize(
    ("settings", "retained"),
    [
        ({"threshold": 0.5, "limit": -1}, [0, 2, 3]),
        ({"threshold": 0.6, "limit": -1}, [0, 1, 2, 3]),
        ({"threshold": 0.59, "limit": -1}, [0, 2, 3]),
        ({"threshold": 0.3, "limit": -1}, [0, 3]),
        ({"threshold": 0.5, "limit": 2}, [0, 2]),
        ({"threshold": 0.5, "limit": 0}, []),
        ({"threshold": 0.7, "limit": -1, "eta": 0.8}, [0, 2, 3]),  # 0.7, then 0.56, which 3/5 exceeds
        ({"threshold": 0.7, "limit": -1, "eta": 0.9}, [0, 1, 3]),  # 0.7, 0.63, then 0.567
        ({"threshold": 0.5, "limit": -1, "eta": 0.1}, [0, 2, 3]),  # not above 0.5: it stays
    ],
)
def test_boxes_that_survive(settings: dict[str, Any], retained: list[int]) -> None:
    assert suppress(ROW, **settings) == retained


def test_pixels_widen_overlaps() -> None:
    assert suppress(ROW[:2], 0.61, -1) == [0, 1]
    assert suppress(ROW[:2], 0.61, -1, pixels=1) == [0]  # 8 of 12 pixels


PRIOR, TRUE = tensor([1, 2, 3, 6], [0, 0, 2, 2]), tensor([2, 2, 6, 4], [0.5, 0, 1.5, 4])
VARIANCE = tensor([0.1, 0.1, 0.2, 0.2], [1, 2, 4, 8])


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        ("CORNER", [[1, 0, 3, -2], [0.5, 0, -0.5, 2]]),
        ("CORNER_SIZE", [[0.5, 0, 1.5, -0.5], [0.25, 0, -0.25, 1]]),
        ("CENTER_SIZE", [[1, -0.25, math.log(2), math.log(0.5)], [0, 0.5, math.log(0.5), math.log(2)]]),
    ],
)
def test_codes_of_boxes(kind: str, plain: list[list[float]]) -> None:
    one = torch.ones_like(VARIANCE)
    torch.testing.assert_close(offsets(TRUE, PRIOR, one, kind), torch.tensor(plain, dtype=torch.float64))
    torch.testing.assert_close(offsets(TRUE, PRIOR, VARIANCE, kind), torch.tensor(plain).double() / VARIANCE)
    torch.testing.assert_close(corners(offsets(TRUE, PRIOR, VARIANCE, kind), PRIOR, VARIANCE, kind), TRUE)


SPREAD = tensor([0.1, 0.1, 0.3, 0.3], [0.12, 0.1, 0.32, 0.3], [0.5, 0.5, 0.9, 0.8])
RULE = Detection(
    classes=3, shared=True, background=0, kind="CORNER", encoded=True, threshold=0.25, nms=0.45, eta=1.0,
    per_class=-1, in_all=-1,
)  # fmt: skip
SCORES = tensor([0.9, 0.3, 0.5], [0.9, 0.6, 0.1], [0.9, 0.25, 0.7])


def detected(rule: Detection, code: Tensor | None = None) -> list[tuple[int, float, float]]:
    """Class, score and left edge of each detection."""
    prior = torch.stack([SPREAD, torch.full_like(SPREAD, 0.5)]).reshape(1, 2, -1)
    code = torch.zeros(1, SPREAD.numel(), dtype=torch.float64) if code is None else code
    rows = DetectionOutput(rule)(code, SCORES.reshape(1, -1), prior)[0, 0]
    assert not rows[:, 0].any()
    return [(int(row[1]), round(float(row[2]), 6), round(float(row[3]), 6)) for row in rows]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [(1, 0.6, 0.12), (2, 0.7, 0.5), (2, 0.5, 0.1)]),
        ({"nms": 0.95}, [(1, 0.6, 0.12), (1, 0.3, 0.1), (2, 0.7, 0.5), (2, 0.5, 0.1)]),
        ({"threshold": 0.24}, [(1, 0.6, 0.12), (1, 0.25, 0.5), (2, 0.7, 0.5), (2, 0.5, 0.1)]),
        ({"background": 1}, [(0, 0.9, 0.1), (0, 0.9, 0.5), (2, 0.7, 0.5), (2, 0.5, 0.1)]),
        ({"background": -1, "per_class": 1}, [(0, 0.9, 0.1), (1, 0.6, 0.12), (2, 0.7, 0.5)]),
        ({"per_class": 1}, [(1, 0.6, 0.12), (2, 0.7, 0.5)]),
        ({"in_all": 2}, [(1, 0.6, 0.12), (2, 0.7, 0.5)]),
        ({"in_all": 1}, [(2, 0.7, 0.5)]),
        ({"in_all": 3}, [(1, 0.6, 0.12), (2, 0.7, 0.5), (2, 0.5, 0.1)]),
    ],
    ids=str,
)
def test_settings_of_detections(changes: dict[str, Any], expected: list[tuple[int, float, float]]) -> None:
    assert detected(replace(RULE, **changes)) == expected


def test_codes_with_and_without_the_variance() -> None:
    code = torch.full((1, SPREAD.numel()), 0.2, dtype=torch.float64)
    assert detected(RULE, code)[0] == (1, 0.6, 0.32)
    assert detected(replace(RULE, encoded=False), code)[0] == (1, 0.6, 0.22)


def test_each_class_may_have_its_own_boxes() -> None:
    code = torch.zeros(1, 3, 3, 4, dtype=torch.float64)
    code[:, :, 2] = 0.5
    found = detected(replace(RULE, shared=False), code.reshape(1, -1))
    assert found == [(1, 0.6, 0.12), (2, 0.7, 1.0), (2, 0.5, 0.6)]


def test_of_many_equal_detections_the_first_ones_stay() -> None:
    left = torch.arange(40, dtype=torch.float64) / 50
    boxes = torch.stack([left, torch.zeros(40), left + 0.01, torch.ones(40)], 1).double()
    prior = torch.stack([boxes, torch.full_like(boxes, 0.5)]).reshape(1, 2, -1)
    scores = torch.full((1, 3 * 40), 0.5, dtype=torch.float64)
    for limits in ({"per_class": 3}, {"in_all": 3}):
        rule = replace(RULE, **limits)
        rows = DetectionOutput(rule)(torch.zeros(1, 160, dtype=torch.float64), scores, prior)[0, 0]
        kinds = [1] * 3 + [2] * 3 if "per_class" in limits else [1] * 3
        assert rows[:, 1].tolist() == kinds
        assert rows[:, 3].tolist() == [0.0, 0.02, 0.04] * (len(kinds) // 3)


def test_settings_of_detections_are_read() -> None:
    text = 'type: "DetectionOutput" detection_output_param { num_classes: 3 %s }'
    shapes = ((1, 12), (1, 9), (1, 2, 12))
    plain = own(text % "", *shapes).get_submodule("own").rule
    assert (plain.background, plain.kind, plain.encoded, plain.shared) == (0, "CORNER", False, True)
    assert (plain.threshold, plain.per_class, plain.in_all, plain.eta) == (-math.inf, -1, -1, 1.0)
    given = (
        "share_location: true background_label_id: 2 code_type: CORNER_SIZE variance_encoded_in_target: true "
        "confidence_threshold: 0.5 keep_top_k: 7 nms_param { nms_threshold: 0.25 eta: 0.5 top_k: 9 }"
    )
    found = own(text % given, *shapes).get_submodule("own").rule
    assert found == Detection(3, True, 2, "CORNER_SIZE", True, 0.5, 0.25, 0.5, 9, 7)
    with pytest.raises(BuildError, match="num_classes is missing"):
        own('type: "DetectionOutput"', *shapes)


LOSS = MultiBox(
    classes=3, background=0, square=False, logistic=False, location_weight=1.0, agnostic=False, per_prediction=True,
    threshold=0.5, by_prior=True, within=False, difficult=True, mining=False, ratio=1.0, negative=0.5, kind="CORNER",
    encoded=True, mode="NONE",
)  # fmt: skip
THINGS = tensor([0.1, 0.1, 0.3, 0.3], [0.7, 0.7, 1.1, 1.1])
PLACES = tensor([0.1, 0.1, 0.3, 0.3], [0.1, 0.1, 0.3, 0.25], [0.1, 0.1, 0.3, 0.2], [0.8, 0.8, 1.1, 1.1], [2, 2, 3, 3])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0, 0, 0, 1, -1]),
        ({"threshold": 0.51}, [0, 0, -1, 1, -1]),
        ({"per_prediction": False}, [0, -1, -1, 1, -1]),
        ({"within": True}, [0, 0, 0, -2, -2]),
        ({"threshold": 0.0}, [0, 0, 0, 1, -1]),
    ],
    ids=str,
)
def test_boxes_are_matched(changes: dict[str, Any], expected: list[int]) -> None:
    matched, best = match_boxes(THINGS, PLACES, replace(LOSS, **changes))
    assert matched.tolist() == expected
    inside = 0.0 if changes.get("within") else 0.5625
    assert best.tolist() == pytest.approx([1, 0.75, 0.5, inside, 0])


def test_the_greatest_overlap_goes_first_and_each_object_gets_one_box() -> None:
    things = tensor([0, 0, 1, 1], [0.3, 0, 1.3, 1])
    boxes = tensor([0.1, 0, 1.1, 1], [0.6, 0, 1.6, 1])
    rule = replace(LOSS, per_prediction=False)
    assert match_boxes(things, boxes, rule)[0].tolist() == [0, 1]
    assert match_boxes(things, boxes.flip(0), rule)[0].tolist() == [1, 0]
    assert match_boxes(things[:1], tensor([0, 0, 1e-7, 1]), rule)[0].tolist() == [-1], "an overlap of 1e-7 is none"


def loss(rule: MultiBox, code: Tensor | None = None, things: Tensor | None = None) -> float:
    """The loss of one image with two objects, of classes 1 and 2; scores are 0 but for one box."""
    prior = torch.stack([PLACES, torch.full_like(PLACES, 0.5)]).reshape(1, 2, -1)
    head = tensor([0, 1, 0], [0, 2, 1])
    truth = torch.cat([head, THINGS, tensor([0], [1])], 1) if things is None else things
    code = torch.zeros(1, PLACES.numel(), dtype=torch.float64) if code is None else code
    scores = torch.zeros(1, 5, 3, dtype=torch.float64)
    scores[0, 4, 1] = math.log(4)  # the background is then wrong by log 6
    return float(MultiBoxLoss(rule)(code, scores.reshape(1, -1), prior, truth.reshape(1, 1, -1, 8)))


L3, L6 = math.log(3), math.log(6)
EXACT = {"per_prediction": False, "location_weight": 0.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (EXACT, 4 * L3 + L6),
        ({**EXACT, "mining": True, "negative": 0.76}, 3 * L3 + L6),
        ({**EXACT, "mining": True, "negative": 0.76, "ratio": 0.5}, 2 * L3 + L6),
        ({**EXACT, "mining": True, "negative": 0.76, "ratio": 9.0}, 4 * L3 + L6),
        ({**EXACT, "mining": True, "negative": 0.75, "ratio": 9.0}, 3 * L3 + L6),
        ({**EXACT, "mining": True, "ratio": 9.0}, 2 * L3 + L6),
        ({**EXACT, "difficult": False, "mining": True, "ratio": 0.0}, L3),
        ({**EXACT, "mode": "VALID"}, (4 * L3 + L6) / 2),
        ({**EXACT, "logistic": True}, 14 * math.log(2) + math.log(5)),
        ({"per_prediction": True, "location_weight": 0.0}, 4 * L3 + L6),
    ],
    ids=str,
)
def test_settings_of_the_confidence_loss(changes: dict[str, Any], expected: float) -> None:
    """The scores are wrong by log 3 each, those of the last box by log 6; overlaps are 1, 3/4, 1/2, 0.56 and 0."""
    assert loss(replace(LOSS, **changes)) == pytest.approx(expected)


def test_one_class_for_all_objects() -> None:
    things = torch.cat([tensor([0, 2, 0]), THINGS[:1], tensor([0])], 1)
    scores = torch.zeros(1, 5, 3, dtype=torch.float64)
    scores[0, 0, 1] = math.log(4)
    prior = torch.stack([PLACES, torch.ones_like(PLACES)]).reshape(1, 2, -1)
    rule = replace(LOSS, **EXACT, mining=True, ratio=0.0)
    for agnostic, expected in ((True, math.log(6 / 4)), (False, math.log(6))):
        module = MultiBoxLoss(replace(rule, agnostic=agnostic))
        found = module(torch.zeros(1, 20).double(), scores.reshape(1, -1), prior, things.reshape(1, 1, 1, 8))
        assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [({}, 0.5 * 0.4**2), ({"square": True}, 0.4**2 / 2), ({"location_weight": 3.0}, 3 * 0.5 * 0.4**2),
     ({"encoded": False}, 0.5 * 0.2**2)],
    ids=str,
)  # fmt: skip
def test_settings_of_the_location_loss(changes: dict[str, Any], factor: float) -> None:
    """Only the first number of the first box is off, by 0.2."""
    exact = torch.zeros(1, 20, dtype=torch.float64)
    exact.reshape(5, 4)[3] = THINGS[1] - PLACES[3]
    if not changes.get("encoded", True):
        exact.reshape(5, 4)[3] /= 0.5
    moved = exact.clone()
    moved[0, 0] = 0.2
    rule = replace(LOSS, per_prediction=False, **changes)
    assert loss(rule, moved) - loss(rule, exact) == pytest.approx(factor)
    moved[0, 0] = 20.0
    large = {"square": 0.5 * 40**2, "encoded": 20 - 0.5}.get(next(iter(changes), ""), 40 - 0.5)
    scaled = large * changes.get("location_weight", 1.0)
    assert loss(rule, moved) - loss(rule, exact) == pytest.approx(scaled)


def test_decoded_boxes_may_be_matched_instead_of_the_default_ones() -> None:
    code = torch.zeros(1, 20, dtype=torch.float64)
    code.reshape(5, 4)[4] = THINGS[0] - PLACES[4]  # the last box is at the first object
    rule = replace(LOSS, **EXACT, mining=True, ratio=0.0)
    assert loss(rule, code) == pytest.approx(2 * L3)
    code.reshape(5, 4)[0] = 5.0
    code.reshape(5, 4)[3] = 5.0
    assert loss(replace(rule, by_prior=False), code) == pytest.approx(math.log(6 / 4))


MULTIBOX = 'type: "MultiBoxLoss" multibox_loss_param { %s }'
MULTIBOX_SHAPES = ((1, 20), (1, 15), (1, 2, 20), (1, 1, 2, 8))


def test_settings_of_the_multibox_loss_are_read() -> None:
    plain = own(MULTIBOX % "num_classes: 3", *MULTIBOX_SHAPES).get_submodule("own").rule
    assert plain == MultiBox(
        3, 0, False, False, 1.0, False, True, 0.5, True, False, True, True, 3.0, 0.5, "CORNER", False, "VALID"
    )
    given = (
        "num_classes: 3 background_label_id: 1 loc_loss_type: L2 conf_loss_type: LOGISTIC loc_weight: 2 "
        "map_object_to_agnostic: true match_type: BIPARTITE overlap_threshold: 0.25 use_prior_for_matching: false "
        "ignore_cross_boundary_bbox: true use_difficult_gt: false mining_type: NONE neg_pos_ratio: 5 neg_overlap: 0.75 "
        "code_type: CENTER_SIZE encode_variance_in_target: true"
    )
    found = own(f"{MULTIBOX % given} loss_param {{ normalization: FULL }}", *MULTIBOX_SHAPES).get_submodule("own").rule
    assert found == MultiBox(
        3, 1, True, True, 2.0, True, False, 0.25, False, True, False, False, 5.0, 0.75, "CENTER_SIZE", True, "FULL"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("", "num_classes is missing"),
        ("num_classes: 3 share_location: false", "share_location: false is not supported"),
        ("num_classes: 3 nms_param { nms_threshold: 0.5 }", "nms_param is not supported"),
        ("num_classes: 3 bp_inside: true", "bp_inside is not supported"),
        ("num_classes: 3 do_neg_mining: false", "do_neg_mining contradicts mining_type"),
    ],
)
def test_settings_of_the_multibox_loss_that_are_refused(setting: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        own(MULTIBOX % setting, *MULTIBOX_SHAPES)


def priors(setting: str, *, image: tuple[int, int] = (20, 40)) -> tuple[np.ndarray, np.ndarray]:
    net = own(f'type: "PriorBox" prior_box_param {{ {setting} }}', (1, 3, 1, 2), (1, 3, *image))
    boxes, variance = nets.blobs(net, {"b0": torch.zeros(1, 3, 1, 2), "b1": torch.zeros(1, 3, *image)})["t0"][0]
    return boxes.reshape(2, -1, 4).numpy() * np.array([*image[::-1]] * 2), variance.reshape(-1, 4).numpy()


def test_default_boxes_have_their_sizes_and_places() -> None:
    boxes, variance = priors("min_size: 8")
    np.testing.assert_allclose(boxes[:, 0], [[6, 6, 14, 14], [26, 6, 34, 14]], rtol=1e-5)
    np.testing.assert_allclose(variance, np.full((2, 4), 0.1), rtol=1e-6)
    assert priors("min_size: 8 variance: 0.5")[1].tolist() == [[0.5] * 4] * 2
    np.testing.assert_allclose(priors("min_size: 8 variance: [1, 2, 3, 4]")[1], [[1, 2, 3, 4]] * 2)
    sizes = boxes_of("min_size: 8 min_size: 4 max_size: 18 max_size: 9.9 aspect_ratio: 4 aspect_ratio: 1")
    np.testing.assert_allclose(sizes, [[8, 8], [12, 12], [16, 4], [4, 16], [4, 4], [6, 6], [8, 2], [2, 8]], rtol=1e-5)
    np.testing.assert_allclose(boxes_of("min_size: 8 aspect_ratio: 4 flip: false"), [[8, 8], [16, 4]], rtol=1e-5)
    np.testing.assert_allclose(
        boxes_of("min_size: 8 aspect_ratio: 4 aspect_ratio: 0.25"), [[8, 8], [16, 4], [4, 16]], rtol=1e-5
    )


def boxes_of(setting: str) -> np.ndarray:
    boxes, _ = priors(setting)
    return boxes[0, :, 2:] - boxes[0, :, :2]


@pytest.mark.parametrize(
    ("setting", "centres"),
    [
        ("offset: 0.25", [[5, 5], [25, 5]]),
        ("step: 10", [[5, 5], [15, 5]]),
        ("step_h: 8 step_w: 12", [[6, 4], [18, 4]]),
        ("step_h: 8", [[10, 10], [30, 10]]),
        ("img_size: 80", [[10, 10], [30, 10]]),
        ("img_h: 80 img_w: 20", [[10, 10], [30, 10]]),
    ],
)
def test_places_of_default_boxes(setting: str, centres: list[list[float]]) -> None:
    boxes, _ = priors(f"min_size: 4 {setting}")
    middle = (boxes[:, 0, :2] + boxes[:, 0, 2:]) / 2
    np.testing.assert_allclose(middle, centres, rtol=1e-5)
    image = {"img_size: 80": (80, 80), "img_h: 80 img_w: 20": (80, 20)}.get(setting, (20, 40))
    np.testing.assert_allclose((boxes[0, 0, 2:] - boxes[0, 0, :2]), [4 * 40 / image[1], 4 * 20 / image[0]], rtol=1e-5)


def test_default_boxes_may_be_clipped() -> None:
    for clip, expected in (("", [-10, -10, 30, 30]), ("clip: true", [0, 0, 30, 20])):
        np.testing.assert_allclose(priors(f"min_size: 40 {clip}")[0][0, 0], expected, atol=1e-4)
    with pytest.raises(BuildError, match="2 variances instead of 1 or 4"):
        priors("min_size: 4 variance: [1, 2]")


def test_anchors_are_in_whole_pixels() -> None:
    assert make_anchors(16, [1.0], [2.0]) == [[-8.0, -8.0, 23.0, 23.0]]
    assert make_anchors(16, [0.5], [8.0]) == [[-84.0, -40.0, 99.0, 55.0]]  # the first of py-faster-rcnn's
    assert make_anchors(16, [2.0], [8.0]) == [[-36.0, -80.0, 51.0, 95.0]]
    text = 'type: "Proposal" proposal_param { %s }'
    plain = own(text % "", (1, 18, 2, 2), (1, 36, 2, 2), (1, 4)).get_submodule("own")
    assert plain.anchors.shape == (9, 4)
    assert plain.anchors[0].tolist() == [-84.0, -40.0, 99.0, 55.0]
    assert (plain.stride, plain.least, plain.before, plain.after) == (16, 16, 6000, 300)
    assert plain.threshold == pytest.approx(0.7)
    assert not plain.scores


def proposed(score: list[float], info: list[float], **changes: Any) -> list[list[float]]:
    """Boxes and scores of one anchor of 8 pixels at three cells in a row."""
    settings = {"stride": 8, "least": 1, "before": 10, "after": 10, "threshold": 0.5, "scores": True, **changes}
    module = Proposal(torch.tensor([[0.0, 0, 7, 7]]), **settings)
    scores = torch.tensor([[9.0] * 3, score]).reshape(1, 2, 1, 3)
    boxes, values = module(scores, torch.zeros(1, 4, 1, 3), torch.tensor([info]))
    assert not boxes[:, 0].any()
    return torch.cat([boxes[:, 1:], values], 1).tolist()


@pytest.mark.parametrize(
    ("info", "changes", "expected"),
    [
        ([9.0, 33.0, 1.0], {}, [[8, 0, 16, 8, 0.75], [16, 0, 24, 8, 0.5], [0, 0, 8, 8, 0.25]]),
        ([9.0, 33.0, 1.0], {"before": 2}, [[8, 0, 16, 8, 0.75], [16, 0, 24, 8, 0.5]]),
        ([9.0, 33.0, 1.0], {"after": 1}, [[8, 0, 16, 8, 0.75]]),
        ([9.0, 33.0, 1.0], {"threshold": 0.05}, [[8, 0, 16, 8, 0.75]]),
        ([5.0, 21.0, 1.0], {}, [[8, 0, 16, 4, 0.75], [16, 0, 20, 4, 0.5], [0, 0, 8, 4, 0.25]]),
        ([9.0, 33.0, 1.0], {"least": 9}, [[8, 0, 16, 8, 0.75], [16, 0, 24, 8, 0.5], [0, 0, 8, 8, 0.25]]),
        ([9.0, 33.0, 1.0], {"least": 10, "after": 1}, [[0, 0, 8, 8, 0.0]]),
        ([9.0, 33.0, 2.0], {"least": 5, "after": 1}, [[0, 0, 8, 8, 0.0]]),
        ([9.0, 33.0, 1.0, 2.0], {"least": 5, "after": 1}, [[0, 0, 8, 8, 0.0]]),
        ([9.0, 33.0, 2.0, 1.0], {"least": 5, "after": 1}, [[0, 0, 8, 8, 0.0]]),
        ([9.0, 33.0, 1.0, 1.0], {"least": 5, "after": 1}, [[8, 0, 16, 8, 0.75]]),
    ],
    ids=str,
)
def test_settings_of_proposals(info: list[float], changes: dict[str, Any], expected: list[list[float]]) -> None:
    assert proposed([0.25, 0.75, 0.5], info, **changes) == expected


def test_each_image_has_its_own_size_or_the_same() -> None:
    module = Proposal(torch.tensor([[0.0, 0, 7, 7]]), 8, 1, 10, 1, 0.5, False)
    scores, moves = torch.ones(2, 2, 1, 1), torch.zeros(2, 4, 1, 1)
    for info, right in (([[9.0, 9, 1], [4.0, 6, 1]], [8, 5]), ([[4.0, 6, 1]], [5, 5])):
        boxes = module(scores, moves, torch.tensor(info))
        assert boxes[:, 0].tolist() == [0, 1]
        assert boxes[:, 3].tolist() == right


def test_halves_are_rounded_away_from_zero() -> None:
    assert half_away(torch.tensor([0.5, 1.5, -0.5, -1.5, 1.4, -1.4])).tolist() == [1, 2, -1, -2, 1, -1]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ('type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 pad_ratio: 0.5 }', "supports pooled_h"),
        ('type: "Unpooling" unpooling_param { kernel_size: 2 pad: 1 }', "without padding"),
        ('type: "Upsample" upsample_param { scale: 2 mode: "BILINEAR" }', "mode 'BILINEAR' is not supported"),
        ('type: "Upsample" upsample_param { scale: 2 pad_out_h: true }', "need a pooling mask"),
        ('type: "Upsample" upsample_param { upsample_h: 9 upsample_w: 9 }', "need a pooling mask"),
    ],
)
def test_settings_that_are_refused(layer: str, message: str) -> None:
    shapes = [(2, 3, 4, 4), (1, 5)][: 2 if "ROI" in layer else 1]
    with pytest.raises(BuildError, match=message):
        own(layer, *shapes)


def test_upsampling_by_factors_of_each_axis() -> None:
    x = torch.arange(4.0).reshape(1, 1, 2, 2)
    wide = own('type: "Upsample" upsample_param { scale_h: 1 scale_w: 2 }', (1, 1, 2, 2))({"b0": x})["t0"]
    assert wide.tolist() == [[[[0, 0, 1, 1], [2, 2, 3, 3]]]]
    tall = own('type: "Upsample" upsample_param { scale: 1 scale_h: 3 }', (1, 1, 2, 2))({"b0": x})["t0"]
    assert tall.shape == (1, 1, 6, 2)
    stride = own('type: "Upsample" upsample_param { stride: 3 }', (1, 1, 2, 2))({"b0": x})["t0"]
    assert stride.shape == (1, 1, 6, 6)
    mask = 'type: "Upsample" upsample_param { scale: 2 pad_out_h: true pad_out_w: false }'
    cut = own(mask, (1, 1, 2, 2), (1, 1, 2, 2))({"b0": x, "b1": torch.tensor([[[[0.0, 3], [5, 11]]]])})["t0"]
    assert cut.tolist() == [[[[0, 0, 0, 1], [0, 2, 0, 0], [0, 0, 0, 3]]]]


@pytest.mark.parametrize("blank", [-1, 0, 2])
def test_the_blank_is_counted_from_either_end(blank: int) -> None:
    scores = torch.randn(3, 1, 3, generator=torch.Generator().manual_seed(1)).double()
    label = torch.tensor([[1.0, blank % 3, blank % 3]])
    p = scores[:, 0].softmax(1)
    b = blank % 3
    paths = [(1, b, b), (1, 1, b), (1, 1, 1), (b, 1, b), (b, b, 1), (b, 1, 1)]
    expected = -math.log(sum(float(p[0, i] * p[1, j] * p[2, k]) for i, j, k in paths))
    assert float(CTCLoss(blank, per_sum=False)(scores, label)) == pytest.approx(expected)


def test_lengths_may_be_given() -> None:
    scores = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(2)).double()
    padded = torch.tensor([[0.0, 1], [1, 2]])
    whole = CTCLoss(2, per_sum=False)(scores, padded)
    given = CTCLoss(2, per_sum=False)(
        scores, torch.tensor([4.0, 4]), torch.tensor([2.0, 1]), torch.tensor([[0.0, 1], [1, 0]])
    )
    assert float(given) == pytest.approx(float(whole))
    short = CTCLoss(2, per_sum=False)(
        scores, torch.tensor([4.0, 1]), torch.tensor([2.0, 1]), torch.tensor([[0.0, 1], [1, 0]])
    )
    one = -float(scores[0, 1].log_softmax(0)[1])
    first = float(CTCLoss(2, per_sum=False)(scores[:, :1], padded[:1]))
    assert float(short) == pytest.approx((first + one) / 2)
    assert float(CTCLoss(2, per_sum=False)(scores[:1], padded)) == pytest.approx(one / 2), "too long counts 0"


def test_paths_are_merged_before_they_are_compared() -> None:
    best = torch.eye(3)[torch.tensor([[0, 0, 2, 0], [1, 1, 1, 1], [2, 2, 2, 2]])]
    right = LabelsequenceAccuracy(2)
    assert right(best, torch.tensor([[0.0, 0], [1, 2], [2, 2]])).item() == 1
    assert right(best, torch.tensor([[0.0, 2], [1, 1], [2, 2]])).item() == pytest.approx(1 / 3)
    longer = torch.tensor([[0.0, 0, 1, 1, 1], [1, 2, 2, 2, 2], [2, 2, 2, 2, 0]])
    assert right(best, longer).item() == pytest.approx(1 / 3)


def test_gradients_of_gates_are_clipped() -> None:
    text = 'type: "Lstm" lstm_param { num_output: 2 %s weight_filler { type: "uniform" min: -1 max: 1 } }'
    grads = []
    for clip in ("", "clipping_threshold: 0.01"):
        net = own(text % clip, (2, 1, 3))
        x = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(3))
        (100 * net({"b0": x})["t0"].sum()).backward()
        bias = nets.params(net)["own"][2].grad
        assert bias is not None
        grads.append(float(bias.abs().max()))
    assert grads[0] > 1
    assert grads[1] <= 0.02 + 1e-6, "0.01 of each of two steps"


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_slope_of_an_angular_margin_is_its_derivative(m: int) -> None:
    c = torch.tensor([-0.95, -0.6, -0.2, 0.15, 0.55, 0.9], dtype=torch.float64, requires_grad=True)
    value, slope = chebyshev(c, m)
    angle = torch.acos(c)
    turn = torch.floor(m * angle / torch.pi)
    torch.testing.assert_close(value, (-1) ** turn * torch.cos(m * angle) - 2 * turn)
    (derivative,) = torch.autograd.grad(value.sum(), c)
    torch.testing.assert_close(slope, derivative)
    assert chebyshev(torch.tensor([-1.0]), m)[0].item() == pytest.approx(1 - 2 * m)
    assert chebyshev(torch.tensor([1.0]), m)[0].item() == 1


def bn(setting: str, phase: str, tops: int = 1) -> Any:
    return own(f'type: "BN" bn_param {{ {setting} }}', (4, 3, 2, 2), tops=tops, phase=phase).get_submodule("own")


@pytest.mark.parametrize(
    ("setting", "phase", "expected"),
    [
        ("momentum: 0.75 eps: 0.5", "TRAIN", ("batch", 0.5, 0.75)),
        ("momentum: 0.75 eps: 0.5", "TEST", ("stored", 0.5, None)),
        ("frozen: true", "TRAIN", ("stored", 1e-5, 0.9)),
        ("frozen: true", "TEST", ("stored", 1e-5, None)),
        ("moving_average: true", "TRAIN", ("batch", 1e-10, 0.05)),
        ("moving_average: true", "TEST", ("stored", 1e-10, None)),
        ("moving_average: false var_eps: 0.5", "TEST", ("batch", 0.5, None)),
        ("moving_average: true decay: 0.25", "TRAIN", ("batch", 1e-10, 0.75)),
        ("", "TRAIN", ("batch", 1e-9, None)),
        ("", "TEST", ("batch", 1e-9, None)),
        ("bn_mode: INFERENCE", "TRAIN", ("none", 1e-9, None)),
    ],
)
def test_three_layers_of_one_name(setting: str, phase: str, expected: tuple[str, float, float | None]) -> None:
    module = bn(setting, phase)
    assert (module.source, module.momentum) == (expected[0], pytest.approx(expected[2]))
    assert module.eps == pytest.approx(expected[1])


def test_either_name_of_a_filler_is_read() -> None:
    for setting, slope, bias in (
        ("", 1, 0),
        ("slope_filler { value: 2 } bias_filler { value: 3 }", 2, 3),
        ("scale_filler { value: 4 } shift_filler { value: 5 }", 4, 5),
        (
            "slope_filler { value: 2 } scale_filler { value: 4 } bias_filler { value: 3 } shift_filler { value: 5 }",
            2,
            3,
        ),
    ):
        module = bn(setting, "TRAIN")
        assert (module.slope.unique().tolist(), module.bias.unique().tolist()) == ([slope], [bias])


def test_zeros_have_no_direction_but_stay_zero() -> None:
    x = torch.zeros(1, 2, 1, 2)
    x[0, 0, 0, 1] = 3
    for kind in ("L2Normalization", "L2Norm"):
        assert own(f'type: "{kind}"', (1, 2, 1, 2))({"b0": x})["t0"].tolist() == [[[[0, 1]], [[0, 0]]]]


def test_a_frozen_batch_norm_uses_its_stored_statistics() -> None:
    text = 'type: "BatchNorm" batch_norm_param { %s }'
    for setting, uses in (("frozen: true", True), ("scale_bias: true", False), ("frozen: true scale_bias: true", True)):
        assert own(text % setting, (2, 3, 2, 2), phase="TRAIN").get_submodule("own").use_global is uses
    assert own(text % "frozen: true", (2, 3, 2, 2), phase="TEST").get_submodule("own").use_global


def test_rows_of_length_1_however_they_are_stored() -> None:
    text = 'type: "InnerProduct" inner_product_param { num_output: 2 normalize: true transpose: %s }'
    weight = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    for transpose, stored in (("false", weight), ("true", weight.T)):
        net = own(text % transpose, (1, 3))
        with torch.no_grad():
            nets.params(net)["own"][0].copy_(stored)
        assert net({"b0": torch.tensor([[1.0, 1, 5]])})["t0"].tolist() == [[pytest.approx(1.4), 5]]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("weight_by_label_freqs: true class_weighting: 1 class_weighting: 2", "2 class_weighting for 3 classes"),
        ('weight_source: "file"', "loss_param.weight_source is a fork's field that SoftmaxWithLoss does not support"),
        ("focal_gamma: 2", "loss_param.focal_gamma is a fork's field"),
    ],
)
def test_weights_of_classes_are_complete_or_refused(setting: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        own(f'type: "SoftmaxWithLoss" loss_param {{ {setting} }}', (4, 3), (4,))


def test_weights_of_classes_count_where_they_are_asked_for() -> None:
    text = 'type: "SoftmaxWithLoss" loss_param { class_weighting: 2 class_weighting: 4 %s }'
    given = {"b0": torch.zeros(2, 2), "b1": torch.tensor([0, 1])}
    for asked, factor in (("", 1), ("weight_by_label_freqs: true", 3)):
        assert own(text % asked, (2, 2), (2,))(given)["t0"].item() == pytest.approx(factor * math.log(2))


@pytest.mark.parametrize(
    ("setting", "phase", "values", "mean"),
    [
        ("", "TEST", [1.0], 1.0),
        ("scale_train: false", "TEST", [0.75], 0.75),
        ("scale_train: false", "TRAIN", [0.0, 1.0], 0.75),
        ("sample_weights_test: true", "TEST", [0.0, 4 / 3], 1.0),
    ],
)
def test_dropout_scales_in_one_of_the_phases(setting: str, phase: str, values: list[float], mean: float) -> None:
    net = own(f'type: "Dropout" dropout_param {{ dropout_ratio: 0.25 {setting} }}', (2000,), phase=phase)
    y = net({"b0": torch.ones(2000)})["t0"]
    assert y.unique().tolist() == pytest.approx(values)
    assert float(y.mean()) == pytest.approx(mean, abs=0.06)


def test_spatial_dropout_of_nothing_is_nothing() -> None:
    x = torch.randn(4, 5, 2, 2)
    for ratio, phase in ((0, "TRAIN"), (0.5, "TEST")):
        net = own(
            f'type: "SpatialDropout" spatial_dropout_param {{ dropout_ratio: {ratio} }}', (4, 5, 2, 2), phase=phase
        )
        assert torch.equal(net({"b0": x})["t0"], x)
    quarter = own('type: "SpatialDropout" spatial_dropout_param { dropout_ratio: 0.75 }', (64, 64, 1), phase="TRAIN")
    y = quarter({"b0": torch.ones(64, 64, 1)})["t0"]
    assert y.unique().tolist() == [0, 4]
    assert float(y.mean()) == pytest.approx(1, abs=0.15)


def test_a_mask_of_a_size_is_used_where_both_sides_are_given() -> None:
    text = 'type: "Upsample" upsample_param { scale: 2 %s }'
    x, mask = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    for setting, size in (("", (2, 2)), ("upsample_h: 3 upsample_w: 4", (3, 4))):
        y = own(text % setting, (1, 1, 1, 1), (1, 1, 1, 1))({"b0": x, "b1": mask})["t0"]
        assert y.shape[2:] == size
