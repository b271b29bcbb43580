"""Captions of images: cleaned, checked, and what identifies them."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any
from unicodedata import category

from selftrans.data.image_paths import is_passed_over
from selftrans.runtime.errors import UserError, shortened
from selftrans.runtime.logs import LOG

ALL = "all"
"""The class of every image of a source that has captions and no classes."""
CAPTIONS_SUFFIX = ".txt"
"""Of the file of captions beside an image."""
MOST_CHARACTERS = 10_000
"""Of a caption: a longer one is no caption, and a text encoder reads 77 tokens."""


def cleaned(text: Any, where: str) -> str:
    """A caption with single spaces for white space and control characters, and none around it.

    Args:
        text: as it was found.
        where: what it is a caption of, for messages.

    Raises:
        UserError: it is not text, has nothing that can be seen, or is too long.
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
    if not text.isprintable():  # most are, and this is slow
        text = "".join(" " if category(letter) == "Cc" else letter for letter in text)
    words = " ".join(text.split())
    if all(category(letter)[0] in "CZ" and category(letter) != "Cs" for letter in words):
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
    left_out: list[str] = []
    for index, name in enumerate(names):
        captions: list[str] = []
        with _noted(left_out, skip):  # the file that holds them
            for text in texts(index):
                with _noted(left_out, skip):
                    captions.append(cleaned(text, f"{root}: {name}"))
        if not captions and not skip:
            raise UserError(no_caption(root, name))
        found.append(tuple(captions))
    if left_out:
        LOG.warning("captions that were left out: %d, the first: %s", len(left_out), left_out[0])
    return found


@contextmanager
def _noted(left_out: list[str], skip: bool) -> Iterator[None]:
    """With ``skip``, what cannot be used is noted in place of raised."""
    try:
        yield
    except UserError as error:
        if not skip:
            raise
        left_out.append(str(error))


def is_text(name: str) -> bool:
    """Whether a path below a source's root is that of a text file of captions."""
    return name.endswith(CAPTIONS_SUFFIX) and not is_passed_over(name)


def check_text_files(root: str, images: Iterable[str], texts: Collection[str]) -> None:
    """Refuse two images that share a text file, and say which text files are of no image.

    Raises:
        UserError: naming both.
    """
    owners: dict[str, str] = {}
    for name in images:
        text = str(PurePosixPath(name).with_suffix(CAPTIONS_SUFFIX))
        if text in owners and text in texts:
            raise UserError(
                f"{root}: {owners[text]} and {name} share {text} (allowed: one for each image)"
            )
        owners[text] = name
    if alone := sorted(set(texts) - owners.keys()):
        LOG.warning(
            "%s: text files that belong to no image, passed over: %d, the first: %s",
            root,
            len(alone),
            alone[0],
        )


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
