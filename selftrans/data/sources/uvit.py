"""What U-ViT's preparation of captioned images makes, and REPA and Self-Transcendence train on.

Read in baofff/U-ViT (scripts/extract_mscoco_feature.py, scripts/extract_empty_feature.py,
datasets.py), sihyun-yu/REPA (dataset.py, train_t2i.py) and csslc/Self-Transcendence (dataset.py,
preprocessing/extract_mscoco_feature.py, train_t2i_vaeloss.py):

- ``{i}.npy``: moments of image i, counted from 0, (2C, H, W); REPA's loader also takes
  (1, 2C, H, W). U-ViT and REPA read means and log variances, Self-Transcendence means and
  deviations.
- ``{i}_{k}.npy``: features of its k-th caption, (L, D): CLIP's 77 tokens of 768.
- ``{i}.png``: the image, which U-ViT does not write and the others read.
- ``{i}.txt``: a caption in each line, which Self-Transcendence alone writes.
- ``empty_context.npy``: features of the empty caption, in the folder above the splits.
"""

import re
from collections.abc import Collection
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftrans.config import UvitSource
from selftrans.data.captions import ALL, CAPTIONS_SUFFIX
from selftrans.data.image_paths import read_image_file
from selftrans.data.sources.base import Listing
from selftrans.data.sources.folder import lines_beside
from selftrans.data.sources.repa import PreparedMoments, absent_images, halves_of
from selftrans.runtime.arrays import read_array
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG

EMPTY = "empty_context.npy"
LOG_VARIANCES = (-30.0, 20.0)
"""Bounds that U-ViT and REPA clamp them to."""
_ARRAY = re.compile(r"(0|[1-9]\d{0,8})(?:_(0|[1-9]\d{0,3}))?\.npy")

Features = NDArray[np.floating]


class PreparedText(PreparedMoments):
    """Moments of images, and text features of their captions.

    Args:
        settings: path of a split, and what its moments are.
        image_size: side of the squares.
        listing: names, classes and content of the images.
        moments: a file for each image.
        counts: number of captions of each image.
        has_images: else reading an image is an error.
    """

    def __init__(
        self,
        settings: UvitSource,
        image_size: int,
        listing: Listing,
        moments: list[Path],
        counts: list[int],
        *,
        has_images: bool,
    ) -> None:
        super().__init__(settings, image_size, listing, moments, (), has_images=has_images)
        self._root, self._spread, self.counts = Path(settings.path), settings.moments, counts

    def text_features(self, index: int) -> list[Features]:
        """Features of every caption of an image, (L, D) each.

        Raises:
            UserError: a file is absent, damaged, or of another shape than those of the empty
                caption.
        """
        return [
            self._text(self._root / f"{self.names[index]}_{number}.npy")
            for number in range(self.counts[index])
        ]

    def empty_text_features(self) -> Features:
        """Features of the empty caption, (L, D).

        Raises:
            UserError: the file is absent or damaged.
        """
        path = self._root / EMPTY
        return _read_text(path if path.exists() else self._root.absolute().parent / EMPTY)

    def _text(self, path: Path) -> Features:
        features = _read_text(path)
        if features.shape != self._shape:
            raise UserError(
                f"{path}: text features of shape {features.shape}, those of the empty caption have"
                f" {self._shape}"
            )
        return features

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return self.empty_text_features().shape

    def _read(self, path: Path) -> NDArray[np.float32]:
        stored = read_array(path)
        halves = halves_of(stored[0] if stored.ndim == 4 and len(stored) == 1 else stored, path)
        if self._spread == "log_variance":
            halves[1] = np.exp(0.5 * halves[1].clip(*LOG_VARIANCES))
        return halves


def _read_text(path: Path) -> Features:
    features = read_array(path)
    if features.ndim != 2 or features.dtype.kind != "f" or not np.isfinite(features).all():
        raise UserError(
            f"{path}: {features.dtype} of shape {features.shape},"
            " allowed are finite text features (L, D)"
        )
    return features


def open_uvit(settings: UvitSource, image_size: int) -> PreparedText:
    """A split of the preparation, in the order of its numbers.

    Raises:
        UserError: there is no such folder, no array in it, a number is missing, an image has no
            text features, or some images have a picture and others have none.
    """
    root = Path(settings.path)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    entries = {path.name for path in root.iterdir()}
    found = [match for name in entries if (match := _ARRAY.fullmatch(name))]
    numbers = sorted(int(match[1]) for match in found if match[2] is None)
    if not numbers:
        raise UserError(f"{root}: holds no prepared data (looked for: 0.npy, 0_0.npy and so on)")
    texts_of = _captions_by_image(found)
    for index, number in enumerate(numbers):
        if index != number:
            raise UserError(f"{root}: {index}.npy is missing, {number}.npy is there")
        if not (texts := texts_of.get(number)):
            raise UserError(f"{root}: {number}.npy has no text features beside it, {number}_0.npy")
        if max(texts) + 1 != len(texts):
            raise UserError(f"{root}: {number}_{max(texts)}.npy is there, one before it is missing")
    with_images = [index for index in numbers if f"{index}.png" in entries]
    if with_images and len(with_images) < len(numbers):
        missing = min(set(numbers) - set(with_images))
        raise UserError(f"{root}: {missing}.png is missing, {with_images[0]}.png is there")
    counts, names = [len(texts_of[number]) for number in numbers], list(map(str, numbers))
    labels, captions = np.zeros(len(names), np.int64), _captions(root, entries, counts)
    content = partial(_image, root) if with_images else absent_images(root)
    listing = Listing(names, labels, [ALL], content, captions)
    moments, has_images = [root / f"{number}.npy" for number in numbers], bool(with_images)
    return PreparedText(settings, image_size, listing, moments, counts, has_images=has_images)


def _image(root: Path, index: int) -> bytes:
    return read_image_file(root / f"{index}.png")


def _captions_by_image(found: Collection[re.Match[str]]) -> dict[int, list[int]]:
    """Numbers of the captions of each image that has any."""
    captions: dict[int, list[int]] = {}
    for match in found:
        if match[2] is not None:
            captions.setdefault(int(match[1]), []).append(int(match[2]))
    return captions


def _captions(root: Path, entries: set[str], counts: list[int]) -> list[tuple[str, ...]] | None:
    """The captions of every image, if all of them have text files that fit their features."""
    if not all(f"{index}{CAPTIONS_SUFFIX}" in entries for index in range(len(counts))):
        return None
    captions = []
    for index, count in enumerate(counts):
        lines = tuple(" ".join(line.split()) for line in lines_beside(root / f"{index}.png"))
        if len(lines) != count:  # a caption of MS-COCO may have a line break of its own
            LOG.warning(
                "%s: %d%s has %d lines for %d captions: no text of captions is used, only features",
                root, index, CAPTIONS_SUFFIX, len(lines), count,
            )  # fmt: skip
            return None
        captions.append(lines)
    return captions
