"""Drawn scenes for tests."""

from typing import Any

from selftrans.config import ScenesSource
from selftrans.data.sources.scenes import Scenes


def of(count: int = 40, size: int = 32, **source: Any) -> Scenes:
    """The first scenes of a world, whose settings may be changed."""
    return Scenes(ScenesSource(kind="scenes", count=count, **source), size)
