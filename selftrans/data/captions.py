"""Captions of images: cleaned, checked, and what identifies them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from selftrans.runtime.errors import UserError, shortened

ALL = "all"
"""The class of every image of a source that has captions and no classes."""
CAPTIONS_SUFFIX = ".txt"
"""Of the file of captions beside an image."""
MOST_CHARACTERS = 10_000
"""Of a caption: a longer one is no caption, and a text encoder reads 77 tokens."""


def cleaned(text: Any, where: str) -> str:
    """A caption without white space around it, and with single spaces within.

    Args:
        text: as it was found.
        where: what it is a caption of, for messages.

    Raises:
        UserError: it is not text, has nothing but white space, or is too long.
    """
    if not isinstance(text, str):
        raise UserError(
            f"{where}: a caption is {shortened(repr(text), 60)} (allowed: text, and more than white"
            " space)"
        )
    if len(text) > MOST_CHARACTERS:
        raise UserError(
            f"{where}: a caption has {len(text):,} characters (allowed: {MOST_CHARACTERS:,})"
        )
    words = " ".join(text.split())
    if not words:
        raise UserError(f"{where}: a caption is empty (allowed: text, and more than white space)")
    try:
        words.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: a caption is not UTF-8: {words[:60]!a}") from None
    return words


def captions_of_images(
    names: Sequence[str], texts: Callable[[int], Iterable[Any]], root: str, *, skip: bool
) -> list[tuple[str, ...]]:
    """The captions of every image of a source.

    Args:
        names: of the images.
        texts: the captions of an image by its index, as they were found.
        root: of the source, for messages.
        skip: leave out captions that cannot be used, and give images without any an empty tuple.

    Raises:
        UserError: a caption cannot be used, or an image has none, and ``skip`` is not set.
    """
    found: list[tuple[str, ...]] = []
    for index, name in enumerate(names):
        captions: list[str] = []
        for text in texts(index):
            try:
                captions.append(cleaned(text, f"{root}: {name}"))
            except UserError:
                if not skip:
                    raise
        if not captions and not skip:
            raise UserError(no_caption(root, name))
        found.append(tuple(captions))
    return found


def no_caption(root: str, name: str) -> str:
    """What is said of an image without a caption."""
    return f"{root}: {name} has no caption; `source.on_error: skip` leaves it out"


def lines_of(content: bytes, where: str) -> list[str]:
    """The lines of a text file that hold more than white space: a caption each.

    Raises:
        UserError: it is not text in UTF-8; names ``where``.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not text in UTF-8 ({error.reason})") from None
    return [line for line in lines if line.strip()]


def captions_digest(captions: Sequence[tuple[str, ...]]) -> str:
    """SHA-256 of the captions of every image, in order."""
    digest = hashlib.sha256()
    for texts in captions:
        digest.update(json.dumps(texts).encode() + b"\n")
    return digest.hexdigest()
