"""TensorBoard's event files, written without torch and TensorFlow.

A training adds to a file while it runs. What another job has to show goes into a whole file whose
name follows from what it shows, so that a job that is made again replaces its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

Value: TypeAlias = Any
"""A value of a ``Summary``: TensorBoard's messages have no types."""
FILE_VERSION = "brain.Event:2"
PICTURE_COLUMNS = 8
"""Images side by side in a picture."""


def scalars(values: Mapping[str, float]) -> list[Value]:
    """Numbers by their tags; a tag is ``GROUP/NAME``. Those that are not finite are left out."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return [
        Summary.Value(tag=tag, simple_value=value)
        for tag, value in values.items()
        if math.isfinite(value)
    ]


def picture(tag: str, image_HWC: NDArray[np.uint8]) -> Value:
    """An image under its tag."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    png = BytesIO()
    Image.fromarray(image_HWC).save(png, format="png")
    height, width, channels = image_HWC.shape
    encoded = Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue()
    )
    return Summary.Value(tag=tag, image=encoded)


def tiled(images_BHWC: NDArray[np.uint8], columns: int = PICTURE_COLUMNS) -> NDArray[np.uint8]:
    """Images side by side, row by row, (rows H, columns W, 3); empty cells are white."""
    count, height, width, channels = images_BHWC.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height, width, channels), 255, np.uint8)
    cells[:count] = images_BHWC
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def write_event_file(directory: Path, name: str, step: int, values: Sequence[Value]) -> None:
    """Write values of one step as a file of their own, in place of a former one of that name."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    now = time.time()
    events = [
        Event(wall_time=now, file_version=FILE_VERSION),
        Event(wall_time=now, step=step, summary=Summary(value=values)),
    ]
    # TensorBoard reads the files of a directory in the order of their names.
    with (
        atomic_path(directory / f"events.out.tfevents.{step:010}.{name}") as temporary,
        temporary.open("wb") as file,
    ):
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


def read_event_file(path: Path) -> tuple[int, dict[str, float], dict[str, bytes]]:
    """The step, numbers and pictures (PNG), by tag, of a file of ``write_event_file``.

    Raises:
        UserError: it is damaged.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    events = [Event.FromString(raw) for raw in RawEventFileLoader(str(path)).Load()]
    if len(events) != 2:
        raise UserError(f"{path}: damaged, holds {len(events)} events (expected: 2)")
    values = events[1].summary.value
    numbers = {one.tag: one.simple_value for one in values if one.HasField("simple_value")}
    pictures = {one.tag: one.image.encoded_image_string for one in values if one.HasField("image")}
    return events[1].step, numbers, pictures


class EventStream:
    """An event file that grows with a training; made with its first values.

    Args:
        directory: of the files.
        step: the step that the training resumes from: later ones of an earlier attempt are hidden.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self._directory, self._step = directory, step
        self._writer: EventFileWriter | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of a step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(Event(step=step, summary=Summary(value=scalars(values))))

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, event: Event) -> None:
        if self._writer is None:
            self._writer = self._open()
        event.wall_time = time.time()
        self._writer.add_event(event)

    def _open(self) -> EventFileWriter:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        writer = EventFileWriter(str(self._directory))
        session = SessionLog(status=SessionLog.START)
        writer.add_event(Event(wall_time=time.time(), step=self._step + 1, session_log=session))
        return writer
