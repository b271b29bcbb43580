"""Event files as TensorBoard reads them."""

import io

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def _read(directory):
    accumulator = EventAccumulator(str(directory), {"images": 0, "scalars": 0})  # 0: all of them
    accumulator.Reload()
    return accumulator


def values(directory, tag):
    """Steps and values of a curve; empty without one."""
    accumulator = _read(directory)
    if tag not in accumulator.Tags()["scalars"]:
        return {}
    return {event.step: event.value for event in accumulator.Scalars(tag)}


def pictures(directory, tag):
    """Steps and pixels, (H, W, 3)."""
    return {
        event.step: np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        for event in _read(directory).Images(tag)
    }
