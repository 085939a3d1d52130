"""Which layers survive, for every state that Caffe was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prototxt.errors import DecodeError
from prototxt.schema.filter import filter_net, filter_whole, rule_matches, stages_of, unmet_stages
from prototxt.schema.load import load_net
from prototxt.schema.messages import TRAIN, NetState, NetStateRule
from prototxt.text.parser import parse


def test_the_layers_that_caffe_keeps(golden: Path) -> None:
    folder = golden / "formats" / "netstate"
    net = load_net(folder / "rules.prototxt")
    cases = json.loads((folder / "rules.json").read_text())
    assert len(cases) > 10
    for case in cases:
        kept = filter_net(net, phase=case["phase"], level=case["level"], stages=case["stages"])
        expected = [name for name in case["layers"] if not name.endswith("_split")]
        assert [layer.name for layer in kept.layer] == expected, case


def test_include_and_exclude_together(golden: Path) -> None:
    path = golden / "errors" / "include_and_exclude.prototxt"
    with pytest.raises(DecodeError, match=rf"{path}:\d+:1: layer '\w+' has both include and exclude rules"):
        filter_net(load_net(path))


def test_unknown_types_are_not_judged(golden: Path) -> None:
    assert filter_net(load_net(golden / "errors" / "unknown_type.prototxt")).layer


def test_the_state_is_written_and_the_nets_own_stages_count() -> None:
    net = load_net(parse("state { stage: 'own' level: 3 } layer { name: 'a' include { stage: 'own' stage: 'given' } }"))
    kept = filter_net(net, "TRAIN", level=2, stages=["given", "own"])
    assert kept.state == NetState(phase=TRAIN, level=2, stage=["own", "given"])
    assert [layer.name for layer in kept.layer] == ["a"]
    assert list(net.state.stage) == ["own"], "the original is left alone"


def test_an_unknown_phase() -> None:
    with pytest.raises(ValueError, match="unknown phase 'TRIAN': did you mean 'TRAIN'"):
        filter_net(load_net(parse("")), "TRIAN")


@pytest.mark.parametrize(
    ("rule", "state", "expected"),
    [
        (NetStateRule(), NetState(), True),
        (NetStateRule(phase=TRAIN), NetState(), False),
        (NetStateRule(min_level=1), NetState(level=1), True),
        (NetStateRule(min_level=1), NetState(), False),
        (NetStateRule(max_level=-1), NetState(), False),
        (NetStateRule(max_level=0), NetState(), True),
        (NetStateRule(stage=["a", "b"]), NetState(stage=["a"]), False),
        (NetStateRule(stage=["a", "b"]), NetState(stage=["b", "c", "a"]), True),
        (NetStateRule(not_stage=["a"]), NetState(stage=["a"]), False),
        (NetStateRule(stage=["a"], not_stage=["b"]), NetState(stage=["a"]), True),
    ],
)
def test_rules(rule: NetStateRule, state: NetState, expected: bool) -> None:
    assert rule_matches(rule, state) is expected


def test_a_blob_that_only_other_stages_make() -> None:
    net = load_net(parse(
        'layer { name: "d" type: "Input" top: "data" include { stage: "use" } }'
        'layer { name: "e" type: "Input" top: "data" include { phase: TRAIN } }'
        'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }'
    ))  # fmt: skip
    assert stages_of(net) == ("use",)
    assert unmet_stages(net, filter_net(net, "TRAIN")) is None
    assert unmet_stages(net, filter_net(net, "TEST", stages=["use"])) is None
    with pytest.raises(DecodeError, match="'r' reads 'data', which in phase TEST only"):
        filter_whole(net, "TEST")
