"""Files are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from prototxt.files import atomic_write, write_at


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


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, bytes(data[:3]), offset))
    with open(tmp_path / "file", "w+b") as file:
        write_at(file.fileno(), b"0123456789", 4, "file")
    assert (tmp_path / "file").read_bytes() == bytes(4) + b"0123456789"


def test_bytes_that_did_not_arrive_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, bytes(len(data)), offset))
    with open(tmp_path / "file", "w+b") as file, pytest.raises(OSError, match="bytes read back differ"):
        write_at(file.fileno(), b"0123456789", 0, "file")
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with open(tmp_path / "file", "w+b") as file, pytest.raises(OSError, match="No space left"):
        write_at(file.fileno(), b"0123456789", 0, "file")


def test_a_pipe_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for target in (pipe, link):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        with atomic_write(target, least=3) as file:
            file.write(b"one")
            file.seek(0)
            file.write(b"O")
        assert os.read(reader, 10) == b"One"
        os.close(reader)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


def test_a_device_is_written_into_and_stays(tmp_path: Path) -> None:
    null = tmp_path / "null"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # one of our own like /dev/null
        null.write_bytes(b"")
    except OSError:
        pytest.skip("only root may make device nodes")
    with atomic_write(null) as file:
        file.write(b"gone")
    assert null.is_char_device()
    assert list(tmp_path.iterdir()) == [null]


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
