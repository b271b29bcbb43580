"""What classes are called in figures, tables and commands; no part of any identity."""

import difflib
import re
from collections.abc import Sequence

from selftrans.runtime.errors import UserError, shortened

SYNSET = re.compile(r"n\d{8}")
IMAGENET_CLASSES = 1000


def named_classes(
    found: Sequence[str], given: Sequence[str] | None, where: str = "class_names"
) -> tuple[str, ...]:
    """The name of each class.

    Args:
        found: the source's names: of folders, of a column, or numbers.
        given: the data file's names, which come first; None without them.
        where: what gives them, for messages.

    Raises:
        UserError: not a name for each class is given.
    """
    check_count(len(found), given, where)
    return readable_names(found) if given is None else tuple(given)


def check_count(num_classes: int, given: Sequence[str] | None, where: str) -> None:
    """Refuse names that are not one for each class.

    Raises:
        UserError: naming ``where``.
    """
    if given is not None and len(given) != num_classes:
        raise UserError(f"{where}: {len(given)} names for {num_classes} classes")


def readable_names(found: Sequence[str]) -> tuple[str, ...]:
    """A source's names; ImageNet's folders, or the numbers of 1,000 classes, in words."""
    synsets = list(found) if all(map(SYNSET.fullmatch, found)) else None
    if synsets is None and list(found) != [str(label) for label in range(IMAGENET_CLASSES)]:
        return tuple(found)
    from timm.data import ImageNetInfo  # imports torch

    info = ImageNetInfo()
    words = info.label_descriptions(as_dict=True)
    synsets = info.label_names() if synsets is None else synsets
    return tuple(str(words.get(name, name)).split(",")[0] for name in synsets)


def parse_classes(text: str, names: Sequence[str]) -> list[int]:
    """``207,otter`` as class numbers.

    Args:
        text: numbers and names, separated by commas.
        names: the name of each class.

    Raises:
        UserError: one of them is not a class, or a name is that of several.
    """
    try:
        return [class_of(part.strip(), names) for part in text.split(",")]
    except UserError as error:
        raise UserError(f"--classes: {error}") from None


def class_of(word: str, names: Sequence[str]) -> int:
    """The class that a number, or a name in any case of its letters, means.

    Raises:
        UserError: it is not a class, or the name of several.
    """
    if word.isdecimal():
        found = [int(word)] if len(word) <= 9 and int(word) < len(names) else []
    else:
        folded = word.casefold()
        exact = [label for label, name in enumerate(names) if name == word]
        alike = [label for label, name in enumerate(names) if name.casefold() == folded]
        found = exact or alike
    if not found:
        raise _unknown(word, names)
    if len(found) > 1:
        numbers = ", ".join(map(str, found))
        raise UserError(
            f"{shortened(repr(word))} is the name of several classes (allowed: {numbers})"
        )
    return found[0]


def _unknown(word: str, names: Sequence[str]) -> UserError:
    words = [name for name in dict.fromkeys(names) if not name.isdecimal()]
    folded = {name.casefold(): name for name in words}
    near = [folded[name] for name in difflib.get_close_matches(word.casefold(), folded, 3)]
    shown = near or words[:3]
    named = shortened(f", or a name as {', '.join(shown)}") if shown else ""
    return UserError(
        f"{shortened(repr(word))} is not a class of the model"
        f" (allowed: 0 to {len(names) - 1}{named})"
    )
