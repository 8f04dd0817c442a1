"""Figures for TensorBoard, in its file format: records of Event, each with its checksums.

Its own writer hands them to a thread, which a full disk ends; this one can be waited for.
"""

import io
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.full_disk import append_whole, when_there_is_room

_FILE_VERSION = "brain.Event:2"  # as TensorBoard asks for


class TensorboardFile:
    """A new event file in a folder.

    Args:
        step: that the run goes on from; TensorBoard forgets figures of later ones in older files.
        is_over: whether to wait for a full disk no longer.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(
        self, folder: Path, step: int, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        from tensorboard.compat.proto import (  # type: ignore[import-untyped]
            event_pb2,
            summary_pb2,
        )
        from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
            RecordWriter,
        )

        self._event = event_pb2.Event
        self._value = summary_pb2.Summary
        self._record_writer = RecordWriter
        self._is_over = is_over
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._path = folder / name
        self._file = when_there_is_room(lambda: _create(self._path), folder, is_over)
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._append(
            event_pb2.Event(wall_time=time.time(), file_version=_FILE_VERSION),
            event_pb2.Event(wall_time=time.time(), step=step + 1, session_log=start),
        )

    def write(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Add one point to the curve of each figure; None is left out."""
        values = [
            self._value.Value(tag=name, simple_value=figure)
            for name, figure in figures.items()
            if figure is not None
        ]
        summary = self._value(value=values)
        self._append(self._event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        self._file.close()

    def _append(self, *events: Any) -> None:
        records = io.BytesIO()
        writer = self._record_writer(records)
        for event in events:
            writer.write(event.SerializeToString())
        content = records.getvalue()
        when_there_is_room(lambda: append_whole(self._file, content), self._path, self._is_over)


def _create(path: Path) -> io.FileIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return io.FileIO(path, "w")
