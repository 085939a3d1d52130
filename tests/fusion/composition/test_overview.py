"""The fused net at a glance: the table of its branches and their picture, character by character."""

from __future__ import annotations

from fusion.composition.overview import BranchView, Overview, ShapedBlob

SCORES = ShapedBlob("ip2", (None, 10))


def branch(prefix: str, start: str, layers: int, cut: str = "fc", scores: ShapedBlob | None = None) -> BranchView:
    inputs = (ShapedBlob(start, (None, 3)),)
    return BranchView(
        prefix, f"{prefix}.prototxt", inputs, layers, (ShapedBlob(cut, None),), scores, (0, 1, 2) if scores else ()
    )


def test_the_table() -> None:
    own = ShapedBlob("a/ip", (None, 3))
    branches = branch("a", "data", 12, scores=own), branch("long", "x", 1)
    view = Overview("t", branches, "sum", ("s (Eltwise)", "fc (InnerProduct)"), (SCORES,), ("one", "two"))
    assert view.table().splitlines() == [
        "source  net            reads       frozen layers  cut at  own scores",
        "-" * 81,
        "a       a.prototxt     data [?x3]  12             fc      a/ip [?x3], classes 0-2",
        "long    long.prototxt  x [?x3]     1              fc      -",
        "head sum: s (Eltwise), fc (InnerProduct) to ip2 [?x10]",
        "loss one",
        "loss two",
    ]
    wide = Overview("t", (branch("a", "data" * 30, 12),), "sum", (), (SCORES,))
    assert wide.table().splitlines()[1] == "-" * 120


def test_the_picture() -> None:
    def drawn(*branches: BranchView) -> list[str]:
        return Overview("t", branches, "sum", (), (SCORES,)).picture().splitlines()

    assert drawn(branch("a", "d", 1)) == ["d [?x3] ─── a (1 layer) ─▶ fc ───▶ sum ─▶ ip2 [?x10]"]
    assert drawn(branch("a", "d", 2), branch("b", "d", 1, "f"), branch("c", "d", 1)) == [
        "d [?x3] ─┬─ a (2 layers) ─▶ fc ─┬─▶ sum ─▶ ip2 [?x10]",
        "         ├─ b (1 layer) ──▶ f ──┤",
        "         └─ c (1 layer) ──▶ fc ─┘",
    ]
    own = ShapedBlob("a/ip", None)
    assert drawn(branch("a", "d", 2, scores=own), branch("b", "e", 1, scores=own), branch("c", "e", 1, scores=own)) == [
        "d [?x3] ─── a (2 layers) ─▶ fc ─┬─▶ sum ─▶ ip2 [?x10]",
        "            └▶ a/ip             │",
        "e [?x3] ─┬─ b (1 layer) ──▶ fc ─┤",
        "         │  └▶ a/ip             │",
        "         └─ c (1 layer) ──▶ fc ─┘",
        "            └▶ a/ip",
    ]
