"""Captions of scenes: three phrasings that say the same, and the way back to the scene."""

import re
from itertools import chain

from selftrans.data.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    FRONT,
    LAYOUTS,
    MIDDLE,
    PLACES,
    QUARTERS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
)
from selftrans.runtime.errors import UserError, shortened

_OBJECT = rf"a (?:{'|'.join(SIZES)}) (?:striped )?(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})"
_PLACE = rf"at (?:{'|'.join(QUARTERS)})|in the {MIDDLE}"
_GROUND = re.compile(
    rf"(?:a (?P<first>{'|'.join(BACKGROUNDS)}) background with (?P<of_first>.+)"
    rf"|(?P<of_last>.+) on a (?P<last>{'|'.join(BACKGROUNDS)}) background)"
)
_AFTER = re.compile(rf"(?P<object>{_OBJECT}) (?P<place>{_PLACE})")
_BEFORE = re.compile(rf"(?P<place>{_PLACE}) (?P<object>{_OBJECT})")
_TWO = re.compile(
    rf"(?P<one>{_OBJECT}) (?P<relation>left of|above|in front of|behind|partly covering)"
    rf" (?P<other>{_OBJECT})(?: at the (?P<side>top|bottom|left|right))?"
)
_SIDES = {"left of": ("top", "bottom"), "above": ("left", "right")}
"""Which side two objects in one row, or in one column, may lie at."""
VOCABULARY = tuple(sorted({
    *BACKGROUNDS, *COLOURS, *SHAPES, *SIZES, "striped", *" ".join(QUARTERS).split(), MIDDLE,
    "a", "above", "and", "at", "background", "behind", "covering", "front", "in", "of", "on",
    "partly", "the", "with",
}))  # fmt: skip
"""Every word of every caption."""
MOST_WORDS = 30
"""Of a caption."""


def captions_of(scene: Scene) -> tuple[str, str, str]:
    """A scene in three phrasings, in small letters and without punctuation."""
    ground, words = scene.background, [_words(thing) for thing in scene.things]
    if scene.things[-1].place == FRONT:
        back, front = words
        return (
            f"{front} in front of {back} on a {ground} background",
            f"a {ground} background with {back} behind {front}",
            f"{front} partly covering {back} on a {ground} background",
        )
    places = [_place(thing.place) for thing in scene.things]
    after = [f"{word} {place}" for word, place in zip(words, places, strict=True)]
    before = [f"{place} {word}" for word, place in zip(words, places, strict=True)]
    return (
        f"{' and '.join(after)} on a {ground} background",
        f"a {ground} background with {' and '.join(reversed(after))}",
        f"{_related(scene, words) or ' and '.join(before)} on a {ground} background",
    )


def parse(caption: str) -> Scene:
    """The scene that a caption says, in any of its phrasings, its objects in any order.

    Raises:
        UserError: it is not such a caption, or its objects lie where no scene has them.
    """
    found = _GROUND.fullmatch(caption)
    things = _things(found["of_first"] or found["of_last"]) if found else None
    ordered = sorted(things or (), key=lambda thing: PLACES.index(thing.place))
    if not found or tuple(thing.place for thing in ordered) not in chain(*LAYOUTS):
        raise UserError(f"{shortened(repr(caption), 300)} is not the caption of a drawn scene")
    return Scene(found["first"] or found["last"], tuple(ordered))


def _words(thing: Thing) -> str:
    texture = "striped " if thing.texture == "striped" else ""
    return f"a {thing.size} {texture}{thing.colour} {thing.shape}"


def _place(place: str) -> str:
    return f"in the {MIDDLE}" if place == MIDDLE else f"at {place}"


def _related(scene: Scene, words: list[str]) -> str | None:
    """How two objects in one row or column lie; None for others."""
    if len(words) != 2:
        return None
    (row, column), (other_row, other_column) = (thing.place.split() for thing in scene.things)
    if row == other_row:
        return f"{words[0]} left of {words[1]} at the {row}"
    if column == other_column:
        return f"{words[0]} above {words[1]} at the {column}"
    return None


def _things(text: str) -> list[Thing] | None:
    if related := _TWO.fullmatch(text):
        return _two(related)
    found = [_AFTER.fullmatch(part) or _BEFORE.fullmatch(part) for part in text.split(" and ")]
    things = [_thing(one["object"], one["place"].split(maxsplit=1)[1]) for one in found if one]
    return things if len(things) == len(found) else None


def _two(found: re.Match[str]) -> list[Thing] | None:
    relation, side = found["relation"], found["side"]
    if side is None:
        if relation in _SIDES:
            return None
        one, other = found["one"], found["other"]
        front, back = (other, one) if relation == "behind" else (one, other)
        return [_thing(back, MIDDLE), _thing(front, FRONT)]
    if side not in _SIDES.get(relation, ()):
        return None
    places = (
        (f"{side} left", f"{side} right")
        if relation == "left of"
        else (f"top {side}", f"bottom {side}")
    )
    return [_thing(found[key], place) for key, place in zip(("one", "other"), places, strict=True)]


def _thing(words: str, place: str) -> Thing:
    _, size, *texture, colour, shape = words.split()
    return Thing(
        place.removeprefix("the "), shape, colour, size, texture[0] if texture else "plain"
    )
