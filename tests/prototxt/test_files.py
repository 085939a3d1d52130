"""Files are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from prototxt.errors import PrototxtError
from prototxt.files import (
    atomic_write,
    open_log,
    read_text,
    take_room,
    temporary_beside,
    write_at,
    write_text,
)


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


def test_text_keeps_its_bytes(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbfa\r\nb\xff\n"
    (tmp_path / "a").write_bytes(data)
    write_text(tmp_path / "b", read_text(tmp_path / "a"))
    assert (tmp_path / "b").read_bytes() == data


def test_a_failing_block_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_inside_the_block_names_the_file_and_other_errors_stay(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with pytest.raises(OSError, match=rf"\[Errno {number}\] .*: '.*target'"), atomic_write(tmp_path / "target"):
            raise OSError(number, "full")
    with pytest.raises(OSError, match="'other'"), atomic_write(tmp_path / "target"):
        raise OSError(errno.ENOSPC, "full", "other")
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "target"):  # noqa: PT011
        raise OSError(errno.EIO, "broken")
    assert caught.value.filename is None
    assert not list(tmp_path.iterdir())


def test_the_mode_is_kept_or_that_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"")
    (tmp_path / "old").chmod(0o4604)
    before = os.umask(0o027)
    try:
        for name in ("old", "new"):
            with atomic_write(tmp_path / name) as file:
                file.write(b"x")
        assert os.umask(0o027) == 0o027, "reading it does not change it"
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("old", "new")]
    assert modes == [0o604, 0o640]


def test_the_room_that_a_file_needs_is_taken_before_the_block(tmp_path: Path) -> None:
    for least in (0, 5000):
        with atomic_write(tmp_path / "file", least=least) as file:
            assert os.fstat(file.fileno()).st_size == least
            file.write(b"x" * 6000)
        assert (tmp_path / "file").stat().st_size == 6000


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_only_a_lack_of_support_is_passed_over(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "posix_fallocate", fail, raising=False)
    if number == errno.EBADF:
        with pytest.raises(OSError, match=r"no \(at least 0\.0 kB are needed\): 'target'"):
            take_room(0, 1, "target")
    else:
        take_room(0, 1, "target")
    take_room(0, 0, "target")


def test_more_than_one_piece_is_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).integers(0, 256, (2 << 20) + 5).astype(np.uint8).tobytes()
    sizes: list[int] = []
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: sizes.append(count) or whole(fd, count, at))  # type: ignore[func-returns-value]
    with open(tmp_path / "file", "w+b") as file:
        write_at(file.fileno(), memoryview(np.frombuffer(data, "u1")), 3, "file")
    assert (tmp_path / "file").read_bytes()[3:] == data
    assert sum(sizes) == len(data)
    assert max(sizes) <= 1 << 20


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "file"):
        pytest.fail("opened")


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".net.0123456789ab.tmp").write_bytes(b"half")
    (tmp_path / ".db.0123456789ab.tmp").mkdir()
    (tmp_path / ".db.0123456789ab.tmp" / "data.mdb").write_bytes(b"half")
    kept = [".net.prototxt.0123456789ab.tmp", ".net.0123456789abc.tmp", ".net.tmp", "net.0123456789ab.tmp"]
    for name in kept:  # of another file, or no temporary file
        (tmp_path / name).write_bytes(b"")
    with temporary_beside(tmp_path / "net"), temporary_beside(tmp_path / "db", folder=True) as (folder, _):
        Path(folder, "data.mdb").write_bytes(b"")
        assert len(list(tmp_path.iterdir())) == len(kept) + 2
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_what_another_process_writes_is_left(tmp_path: Path) -> None:
    with temporary_beside(tmp_path / "net") as (first, handle):
        os.close(os.dup(handle))  # a descriptor less does not unlock it
        with temporary_beside(tmp_path / "net") as (second, _):
            assert {str(path) for path in tmp_path.iterdir()} == {first, second}
        assert [str(path) for path in tmp_path.iterdir()] == [first]


def test_names_of_the_greatest_length(tmp_path: Path) -> None:
    for name in ("n" * 255, "\u7f51" * 85):  # 255 bytes of UTF-8
        write_text(tmp_path / name, "net")
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


@pytest.mark.parametrize(("size", "text"), [(500, "0.5 kB"), (99_000, "99.0 kB"), (100_000, "0.1 MB")])
def test_a_full_disk_names_the_file_and_what_it_needs_at_least(size: int, text: str, tmp_path: Path) -> None:
    path = tmp_path / "net"

    def write() -> None:
        with atomic_write(path) as file:
            file.write(bytes(size))
            file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=rf"No space left on device \(at least {text} are needed\)") as found:
        write()
    assert found.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as found:
        write_text(tmp_path / "missing" / "net", "")
    assert (found.value.filename, found.value.strerror) == (
        str(tmp_path / "missing"),
        "No such file or directory: nothing can be written here",
    )


def test_a_log_is_written_line_by_line_and_named_in_errors(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "log"
    with open_log(path, append=False) as log:
        print("one \udcff", file=log)
        assert path.read_bytes() == b"one \xff\n"
    with open_log(path, append=True) as log:
        print("two", file=log)
        assert path.read_bytes() == b"one \xff\ntwo\n"
    log = open_log(path, append=False)
    print("x" * 299_990, file=log)
    with pytest.raises(OSError, match="File too large") as found:
        print("more than that", file=log)
    assert found.value.filename == path
    with pytest.raises(OSError, match="File too large"):
        log.close()


def test_text_with_zeros_is_binary_or_of_another_encoding(tmp_path: Path) -> None:
    for content, line in ((b"a 0\nb\0 1\n", 2), ("a 0\n".encode("utf-16-le"), 1)):
        (tmp_path / "list").write_bytes(content)
        with pytest.raises(PrototxtError, match=f"list:{line}: this is no text in UTF-8"):
            read_text(tmp_path / "list")
