"""Notes about many layers are one line per kind."""

from __future__ import annotations

import pytest

from prototxt.text.fold_notes import fold_notes, some_names


def test_kinds_and_layers_keep_their_order() -> None:
    found = [("late", "b"), ("early", "a"), ("late", "c")]
    assert fold_notes(found) == ["layer 'b', 'c': late", "layer 'a': early"]
    assert fold_notes([]) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (1, "'0'"), (4, "'0', '1', '2', '3'"), (5, "'0', '1', '2', '3' and 1 more"),
     (9, "'0', '1', '2', '3' and 5 more")],
)  # fmt: skip
def test_four_names_are_shown(count: int, text: str) -> None:
    assert some_names([str(number) for number in range(count)]) == text
