"""Requests are checked before any file is read: all errors at once, and nothing that is right is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fusion import ComposeError
from fusion.composition import Source
from fusion.composition.options import ComposeOptions
from fusion.composition.stages import check_stages
from fusion.composition.tasks import check_tasks, parse_task
from fusion.composition.validate import check_request

A, B = Source("a", "a.prototxt"), Source("b", "b.prototxt")


@pytest.mark.parametrize(
    ("sources", "options", "says"),
    [
        ([], {}, "there is nothing to fuse"),
        ([A, A, B], {}, "two sources have the prefix 'a'"),
        ([Source("", "n")], {}, "'' is no prefix"),
        ([Source("/a", "n")], {}, "'/a' is no prefix"),
        ([Source("a/", "n")], {}, "'a/' is no prefix"),
        ([Source("a\t", "n")], {}, r"'a\t' is no prefix"),
        ([Source('a"', "n")], {}, "is no prefix"),
        ([Source("a\\", "n")], {}, "is no prefix"),
        ([A, Source("a/b", "n")], {}, "the prefix 'a' begins another source's prefix"),
        ([A, B], {"head": "concat"}, "there is no head 'concat'"),
        ([A, B], {"num_output": 0}, "num_output is the number of classes, not 0"),
        ([A, B], {"hidden": 0}, "hidden is a width, not 0"),
        ([A, B], {"project": 0}, "project is a width, not 0"),
        ([A, B], {"input_shape": (3, 8)}, "input_shape is channels, height and width, not 3,8"),
        ([A, B], {"input_shape": (3, 8, 0)}, "input_shape is channels, height and width, not 3,8,0"),
        ([A, B], {"resize": (8,)}, "resize is a height and a width, not 8"),
        ([A, B], {"resize": (0, 8)}, "resize is a height and a width, not 0,8"),
        ([A, B], {"maps": "crop"}, "maps cannot be joined by 'crop'"),
        ([Source("a", "n", share=0.0), B], {"head": "probs"}, "the share 0.0 is not above 0"),
        ([Source("a", "n", share=math.inf), B], {"head": "probs"}, "the share inf is not above 0"),
        ([Source("a", "n", share=math.nan), B], {"head": "probs"}, "the share nan is not above 0"),
        ([Source("a", "n", share=2.0), B], {"head": "sum"}, "source 'a' has a share, and head 'sum' takes none"),
        ([A, Source("b", "n", reads="z")], {}, "'z'"),
    ],
)
def test_what_is_wrong_from_the_start(sources: list[Source], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ComposeError) as caught:
        check_request(sources, ComposeOptions(**options), ())
    assert says in caught.value.errors[0].message
    assert len(caught.value.errors) == 1


@pytest.mark.parametrize(
    ("sources", "options"),
    [
        ([A], {}),
        ([A, Source("ab", "n"), Source("b/c", "n"), Source("é x", "n")], {"num_output": 1, "hidden": 1, "project": 1}),
        ([A, B], {"input_shape": (1,)}),
        ([A, B], {"input_shape": (1, 1, 1), "resize": (1, 1)}),
        ([Source("a", "n", share=0.5), B], {"head": "probs"}),
        ([Source("a", "n", share=2.0), B], {"head": "logits"}),
    ],
)
def test_what_is_right(sources: list[Source], options: dict[str, Any]) -> None:
    check_request(sources, ComposeOptions(**options), ())


def test_all_errors_come_at_once() -> None:
    with pytest.raises(ComposeError) as caught:
        check_request([A, A], ComposeOptions(head="x", num_output=0), (), [ComposeError("further")])
    assert [error.message for error in caught.value.errors] == [
        "further",
        "two sources have the prefix 'a'",
        "there is no head 'x'",
        "num_output is the number of classes, not 0",
    ]


def test_stages_that_sources_name() -> None:
    check_stages(["a"], ["train", "TEST=val"], ["train", "val", "deploy"])
    check_stages(["a"], [], [])
    with pytest.raises(ComposeError, match=r"no source \(a, b\) names the stage x, y\n  hint: they name train, val"):
        check_stages(["a", "b"], ["y", "train", "x"], ["train", "val", "train"])
    with pytest.raises(ComposeError, match=r"no source \(a\) names the stage x\n  hint: none of them names any"):
        check_stages(["a"], ["x"], [])


@pytest.mark.parametrize(
    "text", ["age", "age=EuclideanLoss", "=EuclideanLoss:age", "age=:age", "age=EuclideanLoss:", " =EuclideanLoss:age"]
)
def test_what_is_no_task(text: str) -> None:
    with pytest.raises(ComposeError, match="is not NAME=LOSS:LABEL_BLOB"):
        parse_task(text)


def test_a_task_as_text() -> None:
    task = parse_task(" sex = SoftmaxWithLoss : gender , num_output = 3, loss_weight=0.5,, num_output=2 ")
    assert (task.name, task.num_output, task.loss.type, task.loss.label) == ("sex", 2, "SoftmaxWithLoss", "gender")
    assert check_tasks(None, [task]) == []
    with pytest.raises(ComposeError, match="task 'sex': num_output is a number, not '-2'"):
        parse_task("sex=SoftmaxWithLoss:gender,num_output=-2")
