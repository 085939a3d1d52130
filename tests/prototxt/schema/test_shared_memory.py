"""Which blobs an in-place layer changes through another one."""

from __future__ import annotations

import pytest

from prototxt.schema.shared_memory import LayerEnds, OverwrittenBlob, find_overwritten

IP: LayerEnds = ("InnerProduct", ("x",), ("a",))
FLAT: LayerEnds = ("Flatten", ("a",), ("y",))
RELU: LayerEnds = ("ReLU", ("y",), ("y",))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([IP, FLAT, RELU], [OverwrittenBlob(2, "y", "a", seen=False)]),
        ([IP, FLAT, RELU, ("Power", ("a",), ("z",))], [OverwrittenBlob(2, "y", "a", seen=True)]),
        ([IP, FLAT, ("Power", ("a",), ("z",)), RELU], [OverwrittenBlob(3, "y", "a", seen=False)]),
        ([IP, FLAT, ("ReLU", ("y",), ("r",)), ("Power", ("a",), ("z",))], []),
        ([IP, FLAT, ("Power", ("x",), ("a",)), RELU], []),
        (
            [IP, ("Split", ("a",), ("y", "free")), RELU],
            [OverwrittenBlob(2, "y", "a", seen=False), OverwrittenBlob(2, "y", "free", seen=True)],
        ),
        ([IP, ("Slice", ("a",), ("y", "free")), RELU], []),
        ([IP, ("Concat", ("a", "x"), ("y",)), RELU], []),
        ([FLAT, RELU], [OverwrittenBlob(1, "y", "a", seen=False)]),
    ],
)  # fmt: skip
def test_what_is_overwritten(layers: list[LayerEnds], expected: list[OverwrittenBlob]) -> None:
    assert find_overwritten(layers) == expected
