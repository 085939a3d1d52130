"""What is done with each hostile input; whatever escapes but our own errors, OSError and warnings is a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prototxt import filter_net, infer, load_net, load_solver, parse, rename, to_text
from prototxt.conversion.convert import convert
from prototxt.conversion.file_content import TEXT as PLAIN_TEXT, contents_of
from prototxt.edit.upgrade_text import upgrade_text
from prototxt.errors import PrototxtError
from prototxt.formats.datum import read_datum, read_mean
from prototxt.formats.solverstate import read_solverstate
from prototxt.formats.weights import read_weights
from prototxt.schema.decode import decode
from prototxt.summary.weights_summary import take_inventory
from prototxt.text.tree import Document


def _tree(text: str) -> Document:
    document = parse(text, "input", tolerant=True)
    assert str(document) == text
    for error in document.errors:
        str(error)
    return document


def parse_strictly(text: str) -> None:
    """Strict and tolerant agree on what is broken; every node lies inside the text."""
    document = _tree(text)
    try:
        parse(text, "input")
    except PrototxtError:
        assert document.errors
    else:
        assert not document.errors
    todo = [document.root]
    while todo:
        message = todo.pop()
        for field in message:
            assert 0 <= field.start <= field.end <= len(text)
            todo.extend(value for value in field.values if not hasattr(value, "raw"))


def renaming(text: str) -> None:
    """What comes out can be read, and freezing it again changes nothing."""
    document = _tree(text)
    renamed = rename(document, "p", freeze=False)
    assert len(parse(str(renamed), tolerant=True).errors) <= len(document.errors)
    frozen = rename(document, "p", propagate_down=len(text) % 2 == 0)
    again = rename(parse(str(frozen), tolerant=True), "p", again=True)
    if not document.errors:  # in a broken field a rate may have been set where the next reading finds none
        assert str(again).count("lr_mult") == str(frozen).count("lr_mult")


def decoding(text: str) -> None:
    """As a net and as a solver, with and without unknown fields; what was read is written and read again, equal."""
    document = _tree(text)
    _each(
        lambda: decode(document, "SolverParameter"),
        lambda: decode(document, "NetParameter"),
        lambda: _written(decode(document, "NetParameter", strict=False)),
    )


def _written(message: Any) -> None:
    text = to_text(message)
    assert to_text(decode(parse(text), "NetParameter", strict=False)) == text


def upgrading(text: str) -> None:
    """The upgraded text is up to date."""
    document = upgrade_text(_tree(text), strict=len(text) % 2 == 0)
    assert str(upgrade_text(document, strict=False)) == str(document)


def loading(text: str) -> None:
    """A net with its shapes in both phases, and a solver."""
    document = _tree(text)

    def shapes(phase: str) -> None:
        infer(filter_net(load_net(document, strict=False), phase=phase))

    _each(lambda: shapes("TRAIN"), lambda: shapes("TEST"), lambda: load_solver(document, strict=False))


def _each(*actions: Callable[[], object]) -> None:
    for action in actions:
        try:
            action()
        except PrototxtError as error:
            str(error)


def weights(path: Path) -> None:
    """Every value of a weights file."""
    found = read_weights(path)
    _read(blob for name in found for blob in found[name])


def state(path: Path) -> None:
    """Every value of a solver state."""
    _read(read_solverstate(path).history)


def mean(path: Path) -> None:
    """A mean image."""
    _read([read_mean(path)])


def datum(path: Path) -> None:
    """A record of a database."""
    record = read_datum(path.read_bytes(), "record")
    _read([record.array()])


def conversion(path: Path) -> None:
    """Any file of Caffe's: what it is, its listing with statistics, and itself as text and as HDF5."""
    content = contents_of(path)
    if content.form != PLAIN_TEXT:
        _each(lambda: take_inventory(path, content, statistics=True))
    _each(
        lambda: convert(path, path.with_name("out.prototxt")),
        lambda: convert(path, path.with_name("out.h5")),
        lambda: convert(path, path.with_name("out.npy")),
    )


def _read(arrays: Iterable[Any]) -> None:
    for array in arrays:
        array.max(initial=0)


TEXT: dict[str, Callable[[str], None]] = {
    "parse": parse_strictly,
    "rename": renaming,
    "decode": decoding,
    "upgrade": upgrading,
    "load": loading,
}
BINARY: dict[str, Callable[[Path], None]] = {
    "caffemodel": weights,
    "hdf5": weights,
    "safetensors": weights,
    "state": state,
    "mean": mean,
    "datum": datum,
    "convert": conversion,
}
