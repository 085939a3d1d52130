"""The figures of a run for TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from fusion.errors import TrainingError
from fusion.solver.callbacks.callback import Callback
from prototxt.files import NamedFile

if TYPE_CHECKING:
    from fusion.solver.metrics import MeanOutputs, Outputs, TrainMetrics


class TensorBoard(Callback):
    """Writes scalars to a folder of event files: train/loss, train/lr, train/OUTPUT, testN/OUTPUT, choose/OUTPUT.

    Raises: TrainingError when the tensorboard package is missing.
    """

    def __init__(self, folder: str) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            hint = "pip install caffe-fusion[tensorboard]"
            raise TrainingError(f"--tensorboard needs the package tensorboard: {error}", hint=hint) from error
        self._event, self._session, self._summary = event_pb2.Event, event_pb2.SessionLog, summary_pb2.Summary
        self._open = RecordWriter
        self._folder = folder
        self._writer: Any = None

    def on_start(self) -> None:
        """Open a file in the folder; points of an earlier run after this iteration are hidden."""
        os.makedirs(self._folder, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        # Not through torch's SummaryWriter: a thread of its own writes, and reports a full disk by a traceback.
        self._writer = self._open(NamedFile(os.path.join(self._folder, name), "w"))
        self._write_event(file_version="brain.Event:2")
        if self.run.iter:
            self._write_event(step=self.run.iter, session_log=self._session(status=self._session.START))

    def on_display(self, metrics: TrainMetrics) -> None:
        """Write loss, learning rate, speed and outputs."""
        self._write("train", metrics.iteration, metrics.outputs)
        scalars = {"loss (smoothed)": metrics.loss, "lr": metrics.rate, "it/s": metrics.speed or None}
        for name, value in scalars.items():
            if value is not None:
                self._write_scalar(f"train/{name}", value, metrics.iteration)

    def on_test_end(self, iteration: int, index: int, result: MeanOutputs) -> None:
        """Write the outputs of a test net."""
        self._write(f"test{index}", iteration, result.outputs)

    def on_validation(self, iteration: int, result: MeanOutputs) -> None:
        """Write the outputs on the validation records."""
        self._write("choose", iteration, result.outputs)

    def on_end(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, group: str, iteration: int, outputs: Outputs) -> None:
        for name, values, _ in outputs:
            for index, value in enumerate(values):
                tag = f"{group}/{name}" if len(values) == 1 else f"{group}/{name}/{index}"
                self._write_scalar(tag, value, iteration)

    def _write_scalar(self, tag: str, value: float, iteration: int) -> None:
        values = [self._summary.Value(tag=tag, simple_value=value)]
        self._write_event(step=iteration, summary=self._summary(value=values))

    def _write_event(self, **fields: Any) -> None:
        self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())
