"""What a drawn scene shows, and how scenes are drawn from (seed, index).

A scene has a background and one to three objects, each with a shape, a colour, a size and a
texture. Objects lie apart, each in a quarter of the picture; or one lies in the middle, alone or
partly covered by a smaller one. All is integer arithmetic on raw words of Philox, so that a scene
is the same to the bit on any machine and with any version of numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations as subsets
from math import prod
from typing import NamedTuple

from selftrans.config import Combinations
from selftrans.runtime.random import Stream, generator

UNITS = 1024
"""Side of the canvas in the units of positions and radii, at any number of pixels."""
BACKGROUNDS = {"black": 24, "grey": 136, "white": 236}
"""Grey levels."""
COLOURS = {
    "red": (214, 40, 40), "green": (36, 156, 66), "blue": (44, 88, 222),
    "yellow": (238, 198, 36), "purple": (152, 56, 182), "cyan": (54, 196, 214),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped")
QUARTERS = ("top left", "top right", "bottom left", "bottom right")
MIDDLE, FRONT = "middle", "front"
PLACES = (*QUARTERS, MIDDLE, FRONT)
"""Where an object may be, in the order in which a scene lists its objects. What is in front covers
a part of what is in the middle."""

Pair = tuple[str, str]
"""A shape and a colour."""
HELD_OUT_PAIRS: tuple[Pair, ...] = (
    ("circle", "green"), ("square", "purple"), ("triangle", "red"),
    ("cross", "yellow"), ("ring", "cyan"), ("diamond", "blue"),
)  # fmt: skip
"""What training never shows: each shape and each colour once, which both occur with five others."""
ALL_PAIRS: tuple[Pair, ...] = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
TRAINING_PAIRS = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT_PAIRS)

LAYOUTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    tuple((place,) for place in (*QUARTERS, MIDDLE)),
    tuple(subsets(QUARTERS, 2)),
    ((MIDDLE, FRONT),),
    tuple(subsets(QUARTERS, 3)),
)
"""The places that objects may have, by arrangement: alone, two apart, one in front of another,
three apart. Arrangements are equally frequent, and so are the layouts of each."""
CLASS_NAMES = tuple(f"{size} {texture} {shape}" for size in SIZES for texture in TEXTURES
                    for shape in SHAPES)  # fmt: skip
"""Classes of the class-conditional view: size, texture and shape of a scene's main object. No
combination of them is held out."""

CENTRES = {"top left": (256, 256), "top right": (768, 256), "bottom left": (256, 768),
           "bottom right": (768, 768), MIDDLE: (512, 512)}  # fmt: skip
RADII = {"small": (132, 149), "large": (192, 217)}
"""Half the extent, from and below."""
BACK_RADII, FRONT_RADII = (288, 321), (156, 173)
SHIFT = {"small": 64, "large": 24}
"""How far an object may lie off the centre of its quarter, along each axis."""
SHIFT_IN_MIDDLE = 96
COVERING = (136, 169)
"""How far what is in front lies off the centre of what it covers, along each axis."""
SHADE = 10
"""How much a channel of a colour varies."""


@dataclass(frozen=True)
class Thing:
    """An object of a scene."""

    place: str
    shape: str
    colour: str
    size: str
    texture: str


@dataclass(frozen=True)
class Scene:
    """What a caption says, and a picture shows."""

    background: str
    things: tuple[Thing, ...]
    """In the order of ``PLACES``."""

    @property
    def held_out(self) -> bool:
        """Whether training never shows one of its combinations of shape and colour."""
        return any((thing.shape, thing.colour) in HELD_OUT_PAIRS for thing in self.things)

    @property
    def label(self) -> int:
        """Class of its main object: the one in front, or the first in reading order."""
        covered = self.things[-1].place == FRONT
        main = self.things[-1] if covered else self.things[0]
        return CLASS_NAMES.index(f"{main.size} {main.texture} {main.shape}")


class Painted(NamedTuple):
    """An object as it is painted, in units."""

    shape: str
    striped: bool
    rgb: tuple[int, int, int]
    x: int
    y: int
    radius: int


class Drawing(NamedTuple):
    """A scene and all that its picture has beside it."""

    scene: Scene
    grey: int
    """Of the background."""
    painted: tuple[Painted, ...]
    """What is painted, in this order."""


class _Draws:
    """Whole numbers of one scene."""

    def __init__(self, seed: int, index: int) -> None:
        bits = generator(seed, Stream.SCENE, index).bit_generator
        self._words = iter(bits.random_raw(48).tolist())

    def below(self, count: int) -> int:
        """0 to ``count`` - 1."""
        return ((next(self._words) >> 32) * count) >> 32

    def between(self, start: int, stop: int) -> int:
        """``start`` to ``stop`` - 1."""
        return start + self.below(stop - start)

    def around(self, centre: int, most: int) -> int:
        """``centre``, give or take ``most``."""
        return self.between(centre - most, centre + most + 1)


def draw(seed: int, index: int, combinations: Combinations) -> Drawing:
    """The scene of an index, a function of these arguments alone.

    Args:
        seed: of the world.
        index: of the scene, 0 to 2**63 - 1.
        combinations: ``training`` has no held-out pair of shape and colour, ``held_out`` has one in
            every scene, ``all`` draws from all pairs alike.
    """
    draws = _Draws(seed, index)
    arrangement = LAYOUTS[draws.below(len(LAYOUTS))]
    places = arrangement[draws.below(len(arrangement))]
    background = tuple(BACKGROUNDS)[draws.below(len(BACKGROUNDS))]
    grey = draws.around(BACKGROUNDS[background], SHADE)
    held = draws.below(len(places)) if combinations == "held_out" else None
    things: list[Thing] = []
    for number, place in enumerate(places):
        pairs = _pairs(combinations, number == held)
        if place == FRONT:
            pairs = _of_other_colour(pairs, things[0].colour)
        shape, colour = pairs[draws.below(len(pairs))]
        size, texture = SIZES[draws.below(len(SIZES))], TEXTURES[draws.below(len(TEXTURES))]
        if FRONT in places:
            size = "small" if place == FRONT else "large"
        things.append(Thing(place, shape, colour, size, texture))
    painted: list[Painted] = []
    for thing in things:
        painted.append(_placed(thing, painted, draws, FRONT in places))
    return Drawing(Scene(background, tuple(things)), grey, tuple(painted))


def _pairs(combinations: Combinations, held_out: bool) -> tuple[Pair, ...]:
    if held_out:
        return HELD_OUT_PAIRS
    return ALL_PAIRS if combinations == "all" else TRAINING_PAIRS


def _of_other_colour(pairs: Sequence[Pair], colour: str) -> tuple[Pair, ...]:
    """What can be told from a thing of this colour that it covers."""
    return tuple(pair for pair in pairs if pair[1] != colour)


def _placed(thing: Thing, before: Sequence[Painted], draws: _Draws, stacked: bool) -> Painted:
    red, green, blue = (draws.around(level, SHADE) for level in COLOURS[thing.colour])
    rgb = red, green, blue
    if thing.place == FRONT:
        radius = draws.between(*FRONT_RADII)
        signs = [1 if draws.below(2) else -1 for _ in range(2)]
        x = before[0].x + signs[0] * draws.between(*COVERING)
        y = before[0].y + signs[1] * draws.between(*COVERING)
    else:
        alone = thing.place == MIDDLE and not stacked
        radius = draws.between(*(RADII[thing.size] if not stacked else BACK_RADII))
        most = SHIFT_IN_MIDDLE if alone else SHIFT[thing.size]
        x, y = (draws.around(centre, most) for centre in CENTRES[thing.place])
    return Painted(thing.shape, thing.texture == "striped", rgb, x, y, radius)


def chance(combinations: Combinations) -> float:
    """Probability that two independent scenes say the same: what a picture has of any caption.

    The sum of squared probabilities over all scenes, from the grammar of ``draw``.
    """
    same = sum(
        _same_pairs(len(layouts[0]), FRONT in layouts[0], combinations)
        / len(layouts)
        / len(TEXTURES) ** len(layouts[0])
        / (1 if FRONT in layouts[0] else len(SIZES) ** len(layouts[0]))
        for layouts in LAYOUTS
    )
    return float(same / len(LAYOUTS) ** 2 / len(BACKGROUNDS))


def _same_pairs(number: int, stacked: bool, combinations: Combinations) -> Fraction:
    """The same for the shapes and colours of ``number`` objects."""
    chosen = range(number) if combinations == "held_out" else (None,)
    total = Fraction(0)
    for held in chosen:  # these are disjoint: the others are pairs of training
        lists = [_pairs(combinations, index == held) for index in range(number)]
        if stacked:
            back, front = lists
            total += sum(
                Fraction(1, len(back) ** 2 * len(_of_other_colour(front, colour)))
                for _, colour in back
            )
        else:
            total += Fraction(1, prod(map(len, lists)))
    return total / len(chosen) ** 2
