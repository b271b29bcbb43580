"""Drawn scenes."""

from selftrans.config import ScenesSource
from selftrans.data.sources.scenes import Scenes


def drawn(count=40, size=32, **source):
    return Scenes(ScenesSource(kind="scenes", count=count, **source), size)
