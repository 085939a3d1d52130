"""Every recorded data case of Caffe is checked by a test: this table says by which."""

from __future__ import annotations

from pathlib import Path

GOLDEN = Path(__file__).parents[2] / "golden"

SOURCES = "fusion/data/test_golden_sources.py"
WRITING = "fusion/data/test_convert_imageset.py"
CHECKED_BY = {
    **{f"formats/data/{name}": WRITING for name in ("encoded", "gray", "resized", "rgb", "mean")},
    "formats/data/case": SOURCES,
    "misc/hdf5data": SOURCES,
    "misc/dummydata": SOURCES,
    "misc/memorydata": SOURCES,
    "misc/windowdata": "fusion/data/test_window_data.py",
    "misc/hdf5output": "fusion/layers/test_output.py",
}
INPUTS = ("img", "list", "transform_cases", "io_transformer")  # read by the cases; io_transformer is pycaffe's own


def test_nothing_is_left_out() -> None:
    found = {
        f"formats/data/{path.name.partition('.')[0].partition('_')[0]}" for path in (GOLDEN / "formats/data").iterdir()
    }
    found -= {f"formats/data/{name.partition('_')[0]}" for name in INPUTS} | {"formats/data/list6"}
    found |= {
        f"misc/{path.name}" for path in (GOLDEN / "misc").iterdir() if "data" in path.name or "output" in path.name
    }
    assert found == set(CHECKED_BY)
    for test in set(CHECKED_BY.values()):
        assert (GOLDEN.parent / test).is_file()
