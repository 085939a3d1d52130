"""Names of the fused net's classes, and the classes of its sources, kept in what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fusion import ComposeError
from fusion.composition import Source, compose
from prototxt.schema.load import load_net
from prototxt.text.class_names import ClassNames, class_names_of

Make = Callable[..., Path]
NAMES = ("zero", "one", "two", "three", "four")


def sources(make: Make, *classes: tuple[int, ...]) -> list[Source]:
    return [
        Source(p, make(p, outputs=2), at="fc", classes=known) for p, known in zip(("odd", "even"), classes, strict=True)
    ]


def test_names_and_numbers_are_kept_in_both_nets(make: Make, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    expected = ClassNames(NAMES, {"odd": (1, 3), "even": (0, 2)})
    for labels in (NAMES, tmp_path / "names.txt"):
        composed = compose(sources(make, (1, 3), (0, 2)), num_output=5, labels=labels)
        assert composed.deploy is not None
        assert class_names_of(composed.train_val) == class_names_of(composed.deploy) == expected
        assert load_net(composed.deploy).name == "odd+even"


def test_numbers_alone(make: Make) -> None:
    composed = compose(sources(make, (1, 3), ()), num_output=5)
    assert class_names_of(composed.train_val) == ClassNames((), {"odd": (1, 3)})
    assert str(compose(sources(make, (), ()), num_output=5).train_val).startswith("name:")


def test_what_does_not_fit(make: Make) -> None:
    with pytest.raises(ComposeError, match="4 names for the fused net's 5 classes"):
        compose(sources(make, (), ()), num_output=5, labels=NAMES[:4])
    with pytest.raises(ComposeError, match="class 5 is not among"):
        compose(sources(make, (1, 5), ()), num_output=5)


def test_names_where_there_are_no_classes(make: Make) -> None:
    with pytest.raises(ComposeError, match="EuclideanLoss, which takes no classes"):
        compose(sources(make, (), ()), num_output=1, labels=NAMES[:1], loss="EuclideanLoss,label=label")
