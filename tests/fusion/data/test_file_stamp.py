"""A hash that follows settings and files."""

from __future__ import annotations

from pathlib import Path

from fusion.data.file_stamp import stamp_files


def test_it_follows_settings_files_and_what_is_missing(tmp_path: Path) -> None:
    folder = f"{tmp_path}/"
    (tmp_path / "a").write_bytes(b"one")
    seen = [
        stamp_files(b"s", ["a", "b"], folder),
        stamp_files(b"t", ["a", "b"], folder),
        stamp_files(b"s", ["b", "a"], folder),
    ]
    assert stamp_files(b"s", ["a", "b"], folder) == seen[0]
    (tmp_path / "b").write_bytes(b"")
    seen.append(stamp_files(b"s", ["a", "b"], folder))
    (tmp_path / "a").write_bytes(b"longer")
    seen.append(stamp_files(b"s", ["a", "b"], folder))
    assert len(set(seen)) == len(seen)
