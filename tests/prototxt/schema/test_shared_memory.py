"""Which blobs an in-place layer changes through another one."""

from __future__ import annotations

import pytest

from prototxt.schema.shared_memory import Ends, Overwritten, overwritten

IP: Ends = ("InnerProduct", ("x",), ("a",))
FLAT: Ends = ("Flatten", ("a",), ("y",))
RELU: Ends = ("ReLU", ("y",), ("y",))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([IP, FLAT, RELU], [Overwritten(2, "y", "a", seen=False)]),
        ([IP, FLAT, RELU, ("Power", ("a",), ("z",))], [Overwritten(2, "y", "a", seen=True)]),
        ([IP, FLAT, ("Power", ("a",), ("z",)), RELU], [Overwritten(3, "y", "a", seen=False)]),
        ([IP, FLAT, ("ReLU", ("y",), ("r",)), ("Power", ("a",), ("z",))], []),
        ([IP, FLAT, ("Power", ("x",), ("a",)), RELU], []),
        (
            [IP, ("Split", ("a",), ("y", "free")), RELU],
            [Overwritten(2, "y", "a", seen=False), Overwritten(2, "y", "free", seen=True)],
        ),
        ([IP, ("Slice", ("a",), ("y", "free")), RELU], []),
        ([IP, ("Concat", ("a", "x"), ("y",)), RELU], []),
        ([FLAT, RELU], [Overwritten(1, "y", "a", seen=False)]),
    ],
)  # fmt: skip
def test_what_is_overwritten(layers: list[Ends], expected: list[Overwritten]) -> None:
    assert overwritten(layers) == expected
