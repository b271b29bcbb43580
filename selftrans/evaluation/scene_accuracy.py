"""Whether pictures show what their captions say, in the drawn world, where both are known.

As GenEval does with a detector (Ghosh et al. 2023), a network reads off every picture which objects
it shows, where, and on what background, and what it reads is compared with the caption. Attributes
are counted as captions: one is right where all objects that the caption names have it, each at its
place. What the reader itself gets wrong, and what a picture has by chance, stand beside it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrans.config import Combinations
from selftrans.data.scenes.captions import parse
from selftrans.data.scenes.world import Scene, chance
from selftrans.models.reader import ATTRIBUTES, Reader, by_place, encode
from selftrans.runtime.errors import UserError

WHOLE = "whole caption"
ASPECTS = (WHOLE, "number", "place", *ATTRIBUTES, "background")
"""What is counted. The number of objects may be right where their places are not."""
OTHER_CAPTIONS = 100
"""How many other captions each picture is compared with, for the chance of an attribute."""
QUANTILE = 1.959964
"""Of the normal distribution, for intervals of 95 %."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Proportion:
    """How many captions are met, of how many, with Wilson's interval of 95 %."""

    correct: int
    total: int
    share: float
    low: float
    high: float
    chance: float
    """Share of captions that pictures of other captions would meet, read without a mistake."""


@dataclass(frozen=True)
class SceneAccuracy:
    """Accuracies by aspect, ``whole caption`` first."""

    all: dict[str, Proportion]
    """Of all captions."""
    held_out: dict[str, Proportion]
    """Of captions with a combination that is held out of training; empty where there are none."""
    seen: dict[str, Proportion]
    """Of the others; empty where there are none."""
    reader_accuracy: float
    """Share of fresh real scenes that the reader reads without a mistake."""
    reader_held_out_accuracy: float
    """The same of scenes with a held-out combination."""
    reader_digest: str

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def scene_accuracy(
    images_BHWC: NDArray[np.uint8],
    captions: Sequence[str],
    reader: Reader,
    combinations: Combinations = "all",
) -> SceneAccuracy:
    """Compare what pictures show with what their captions say.

    Args:
        images_BHWC: the pictures.
        captions: one of each.
        reader: what reads the pictures.
        combinations: that the captions are drawn from, for the chance of a whole caption.

    Raises:
        UserError: a caption is not one of a drawn scene, there is not one for each picture, or the
            reader reads pictures of another size.
    """
    if len(images_BHWC) != len(captions) or not captions:
        raise UserError(f"{len(captions)} captions of {len(images_BHWC)} pictures")
    scenes = [parse(caption) for caption in captions]
    return compare(reader.read(images_BHWC), scenes, reader, combinations)


def compare(
    found: Numbers, scenes: Sequence[Scene], reader: Reader, combinations: Combinations
) -> SceneAccuracy:
    """The same of what was read already."""
    expected = encode(scenes)
    met, by_chance = meets(found, expected), _chances(expected)
    held_out = np.asarray([scene.held_out for scene in scenes])
    wholes = {
        "all": chance(combinations),
        "held_out": chance("held_out"),
        "seen": chance("training"),
    }
    columns = {
        name: _column(
            {aspect: values[rows] for aspect, values in met.items()},
            {aspect: float(values[rows].mean()) for aspect, values in by_chance.items()}
            | {WHOLE: wholes[name]},
        )
        if rows.any()
        else {}
        for name, rows in (
            ("all", np.ones_like(held_out)), ("held_out", held_out), ("seen", ~held_out),
        )
    }  # fmt: skip
    return SceneAccuracy(
        **columns,
        reader_accuracy=reader.metadata.accuracy,
        reader_held_out_accuracy=reader.metadata.held_out_accuracy,
        reader_digest=reader.metadata.digest,
    )


def meets(found: Numbers, expected: Numbers) -> dict[str, NDArray[np.bool_]]:
    """Whether each aspect of a caption is met, (N,) each; both are encoded as for the reader."""
    shown, said = by_place(found), by_place(expected)
    present = said[..., 0] > 0
    same = {
        name: ((shown[..., index] == said[..., index]) & (shown[..., 0] > 0) | ~present).all(axis=1)
        for index, name in enumerate(ATTRIBUTES)
    }
    return {
        WHOLE: (found == expected).all(axis=1),
        "number": (shown[..., 0] > 0).sum(axis=1) == present.sum(axis=1),
        "place": ((shown[..., 0] > 0) == present).all(axis=1),
        **same,
        "background": found[:, 0] == expected[:, 0],
    }


def _chances(expected: Numbers) -> dict[str, NDArray[np.float64]]:
    """How often pictures of other captions meet each caption, (N,) each."""
    shifts = range(1, min(len(expected), OTHER_CAPTIONS + 1))
    totals = {aspect: np.zeros(len(expected)) for aspect in ASPECTS}
    for shift in shifts:
        for aspect, met in meets(np.roll(expected, shift, axis=0), expected).items():
            totals[aspect] += met / len(shifts)
    return totals


def _column(met: dict[str, NDArray[np.bool_]], chances: dict[str, float]) -> dict[str, Proportion]:
    return {
        aspect: proportion(int(met[aspect].sum()), len(met[aspect]), chances[aspect])
        for aspect in ASPECTS
    }


def proportion(correct: int, total: int, by_chance: float) -> Proportion:
    """A share with Wilson's interval of 95 % (Wilson 1927), which holds near 0 and 1 as well."""
    share, square = correct / total, QUANTILE**2
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = (
        QUANTILE
        * sqrt(share * (1 - share) / total + square / (4 * total**2))
        / (1 + square / total)
    )
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Proportion(correct, total, share, low, high, by_chance)
