"""The record of a job's steps in its folder: which are done, and with which files."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from fusion.data.file_stamp import stamp_files
from fusion.data.layer_sources import open_source
from fusion.data.replaced_list import with_list
from fusion.job.steps import Data, JobStep
from fusion.onnx.sidecar import sidecar_path
from fusion.pct.provenance import file_hash
from prototxt.errors import PlacedError
from prototxt.files import write_text
from prototxt.schema.filter import filter_net
from prototxt.schema.load import load_net
from prototxt.schema.params import DATA_TYPES

Action = Literal["skip", "run", "resume"]
_NAME = "steps.json"


@dataclass
class Done:
    """A step that was begun.

    key      a hash of all that its result depends on
    outputs  path -> hash, once it is complete
    seconds  that it took, all attempts together
    """

    key: str
    outputs: dict[str, str] | None = None
    seconds: float = 0.0


@dataclass
class Record:
    """The steps of a job that were begun, as `steps.json` in its folder holds them.

    hashes  of files by path, with the size and time at which they were taken: a file is read again when these change
    """

    folder: str
    steps: dict[str, Done] = field(default_factory=dict)
    hashes: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str) -> Record:
        """Read the record of a folder; a missing or damaged one is empty, so that all steps run."""
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            found = json.loads(Path(folder, _NAME).read_text(encoding="utf-8"))
            steps = {name: _done(**step) for name, step in found["steps"].items()}
            hashes = {path: (int(size), int(time), str(value)) for path, (size, time, value) in found["hashes"].items()}
            return cls(folder, steps, hashes)
        return cls(folder)

    def action(self, step: JobStep) -> Action:
        """Return whether a step is done, was interrupted where it can be resumed, or has to run."""
        done = self.steps.get(step.name)
        if done is None or done.key != self._key(step):
            return "run"
        if done.outputs is None:
            return "resume" if step.snapshots else "run"
        return "skip" if done.outputs == {path: self._hash(path) for path in step.outputs} else "run"

    def begin(self, step: JobStep, *, resume: bool) -> None:
        """Note that a step begins; the snapshots of an earlier training are removed unless it is resumed."""
        if not resume:
            for end in ("_iter_*", "_best.*", "_pct/*"):
                for path in glob.glob(glob.escape(step.snapshots) + end) if step.snapshots else ():
                    os.unlink(path)
        seconds = self.steps[step.name].seconds if resume else 0.0
        self.steps[step.name] = Done(self._key(step), seconds=seconds)
        self._write()

    def end(self, step: JobStep, seconds: float) -> None:
        """Note that a step is complete."""
        done = self.steps[step.name]
        done.outputs = {path: self._hash(path) for path in step.outputs}
        done.seconds += seconds
        self._write()

    def _write(self) -> None:
        content = {"steps": {name: asdict(done) for name, done in self.steps.items()}, "hashes": self.hashes}
        write_text(os.path.join(self.folder, _NAME), json.dumps(content, indent=1))

    def _key(self, step: JobStep) -> str:
        parts = [step.command, *step.words, step.depends, *(f"{path} {self._hash(path)}" for path in step.inputs)]
        parts += map(_stamp_of, step.data)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()

    def _hash(self, path: str) -> str:
        """Return a hash of a file's content and of its companions; of a folder, of its files' sizes and times."""
        if os.path.isdir(path):
            return stamp_files(b"", sorted(glob.glob(os.path.join(glob.escape(path), "**"), recursive=True)))
        try:
            status = os.stat(path)
        except OSError:
            return "missing"
        known = self.hashes.get(path)
        if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
            known = (status.st_size, status.st_mtime_ns, file_hash(path))
            self.hashes[path] = known
        return " ".join([known[2], *(self._hash(name) for name in _companions(path))])


def _done(key: str, outputs: dict[str, str] | None, seconds: float) -> Done:
    """Return a step as it stands in the file. Raises: TypeError, ValueError, AttributeError for other values."""
    hashes = None if outputs is None else {path: str(value) for path, value in outputs.items()}
    return Done(str(key), hashes, float(seconds))


def _companions(path: str) -> list[str]:
    """Return the files that hold weights for this one: an ONNX file's external data, a caffemodel's ONNX weights."""
    names = [f"{path}.data", sidecar_path(path) if path.endswith((".caffemodel", ".h5")) else None]
    return [name for name in names if name is not None and os.path.isfile(name)]


def _stamp_of(data: Data) -> str:
    """Return a hash of the records that a net reads; where they cannot be read, the reason."""
    try:
        net = filter_net(load_net(data.net, strict=False), data.phase)
        if data.list_path is not None:
            net = with_list(net, data.list_path)
        layers = [layer for layer in net.layer if layer.type in DATA_TYPES - {"Input"} and not layer.bottom]
        return " ".join(open_source(layer, data.phase).fingerprint() for layer in layers)
    except (PlacedError, OSError) as error:
        return str(error)
