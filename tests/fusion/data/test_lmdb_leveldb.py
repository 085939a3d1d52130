"""LevelDB folders: read with all checksums, and never changed."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import pytest

from fusion.data.lmdb_leveldb import open_database
from fusion.errors import DataError

plyvel = pytest.importorskip("plyvel")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Sixty records in a table, and sixty in the log."""
    for start in (0, 60):
        with plyvel.DB(str(tmp_path / "db"), create_if_missing=True) as written:
            for number in range(start, start + 60):
                written.put(b"%08d" % number, bytes([number]) * 300)
    return tmp_path / "db"


def test_records(database: Path) -> None:
    before = {path.name: path.read_bytes() for path in database.iterdir()}
    found = open_database(str(database), lmdb=False)
    assert found.keys == [b"%08d" % number for number in range(120)]
    assert list(found.values()) == [bytes([number]) * 300 for number in range(120)]
    assert found.get(77) == bytes([77]) * 300
    assert {path.name: path.read_bytes() for path in database.iterdir()} == before


def test_the_folder_of_links_goes_with_its_database(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (database.parent / "links").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(database.parent / "links"))
    found = open_database(str(database), lmdb=False)
    assert len(list((database.parent / "links").iterdir())) == 1
    del found
    gc.collect()
    (database / "CURRENT").write_text("nothing")
    with pytest.raises(DataError, match="cannot open the database"):
        open_database(str(database), lmdb=False)
    assert list((database.parent / "links").iterdir()) == []


@pytest.mark.parametrize("pattern", ["*.ldb", "*.log", "MANIFEST-*", "CURRENT"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6])
def test_a_changed_bit_is_an_error(database: Path, pattern: str, share: float) -> None:
    """Without checks, records of the log would be missing, and those of the table wrong."""
    (path,) = database.glob(pattern)
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 16
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot open the database: \w") as error:
        open_database(str(database), lmdb=False)
    assert "b'" not in str(error.value)
    assert pattern == "CURRENT" or "the database is damaged: copy it again" in str(error.value)
