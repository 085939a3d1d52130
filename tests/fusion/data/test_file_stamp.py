"""A hash that follows settings and files."""

from __future__ import annotations

from pathlib import Path

from fusion.data.file_stamp import stamped


def test_it_follows_settings_files_and_what_is_missing(tmp_path: Path) -> None:
    folder = f"{tmp_path}/"
    (tmp_path / "a").write_bytes(b"one")
    seen = [stamped(b"s", ["a", "b"], folder), stamped(b"t", ["a", "b"], folder), stamped(b"s", ["b", "a"], folder)]
    assert stamped(b"s", ["a", "b"], folder) == seen[0]
    (tmp_path / "b").write_bytes(b"")
    seen.append(stamped(b"s", ["a", "b"], folder))
    (tmp_path / "a").write_bytes(b"longer")
    seen.append(stamped(b"s", ["a", "b"], folder))
    assert len(set(seen)) == len(seen)
