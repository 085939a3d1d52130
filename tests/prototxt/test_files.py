"""Files are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from prototxt.files import atomic_write


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match=r"net\.caffemodel") as found, atomic_write(path, least=5_000_000):
        pytest.fail("written")
    assert "5.0 MB are needed" in str(found.value)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_that_takes_no_room_beforehand_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unable, raising=False)
    with atomic_write(tmp_path / "file", least=10) as file:
        file.write(b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"
