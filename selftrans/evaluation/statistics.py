"""Streaming statistics: what the metrics need of any number of images, in constant memory.

Moments and score sums are accumulated in float64 and add up over processes. Features themselves,
which precision, recall and KID need, are written to a file as they come.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from selftrans.evaluation.activations import Activations
from selftrans.runtime.arrays import map_array, read_arrays
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path, sha256_of

_MOMENTS = ("mean", "covariance")
SCORE_CHUNK = 5000
"""Images per chunk of the Inception score, in file order, as the ADM evaluator has it."""


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance (ddof 1) of the features of ``count`` images."""

    count: int
    mean: NDArray[np.float64]
    """(d,)"""
    covariance: NDArray[np.float64]
    """(d, d)"""


@dataclass
class Moments:
    """Sums for mean and covariance of features, in float64; sums of parts add up."""

    count: int
    total: NDArray[np.float64]
    """(d,)"""
    outer: NDArray[np.float64]
    """(d, d)"""

    @classmethod
    def of_width(cls, width: int) -> Moments:
        """No image yet."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    def add(self, features_BD: NDArray[np.floating[Any]]) -> None:
        """Count a batch of features."""
        features = features_BD.astype(np.float64)
        self.count += len(features)
        self.total += features.sum(axis=0)
        self.outer += features.T @ features

    def merge(self, other: Moments) -> None:
        """Count what another process has counted."""
        self.count += other.count
        self.total += other.total
        self.outer += other.outer

    def gaussian(self) -> Gaussian:
        """Mean and covariance."""
        mean = self.total / self.count
        covariance = (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)
        return Gaussian(self.count, mean, covariance)


@dataclass
class ScoreSums:
    """Sums for the Inception score over the images of a chunk: of p and of sum_k p_k log p_k."""

    count: int
    probabilities: NDArray[np.float64]
    """(K,)"""
    negative_entropy: float


@dataclass
class ClassOrder:
    """How often neighbours in file order are taken for the same class, against chance."""

    pairs: int
    equal: int
    classes: NDArray[np.int64]
    """Images by recognised class, (K,)."""

    @property
    def is_sorted(self) -> bool:
        """Whether the images look sorted by class; images that are all alike do not."""
        chance = float(((self.classes / max(1, self.classes.sum())) ** 2).sum())
        return self.pairs > 0 and self.equal / self.pairs > 5 * chance + 0.05


@dataclass
class Statistics:
    """Statistics in the making of one set of images under one extractor.

    Args:
        extractor: name of the feature network.
        digest: digest of its weights.
    """

    extractor: str
    digest: str
    image_size: tuple[int, int] = (0, 0)
    """Height and width of the images."""
    moments: dict[str, Moments] = field(default_factory=dict)
    """Of the ``features`` and, where the network has them, of the ``spatial`` ones."""
    scores: dict[int, ScoreSums] = field(default_factory=dict)
    """By number of the chunk in the whole set."""
    order: ClassOrder | None = None

    def add(self, first: int, activations: Activations) -> NDArray[np.float32]:
        """Count a batch, and return its features.

        Args:
            first: index of its first image in the whole set.
            activations: of the extractor.

        Raises:
            UserError: an activation is not finite.
        """
        arrays = {
            name: tensor.cpu().numpy()
            for name, tensor in vars(activations).items()
            if tensor is not None
        }
        if not all(np.isfinite(array).all() for array in arrays.values()):
            last = first + len(arrays["features"]) - 1
            raise UserError(f"features of images {first} to {last} are not finite")
        for name in arrays.keys() & {"features", "spatial"}:
            self.moments.setdefault(name, Moments.of_width(arrays[name].shape[1])).add(arrays[name])
        if "logits" in arrays:
            self._add_scores(first, arrays["logits"])
            self._add_order(arrays["logits"].argmax(axis=1), arrays["logits"].shape[1])
        return arrays["features"].astype(np.float32, copy=False)

    def merge(self, other: Statistics) -> None:
        """Count what another process has counted of the same set."""
        for name, moments in other.moments.items():
            self.moments.setdefault(name, Moments.of_width(len(moments.total))).merge(moments)
        for number, part in other.scores.items():
            chunk = self.scores.setdefault(
                number, ScoreSums(0, np.zeros_like(part.probabilities), 0.0)
            )
            chunk.count += part.count
            chunk.probabilities += part.probabilities
            chunk.negative_entropy += part.negative_entropy
        if other.order is not None:
            mine = self.order or ClassOrder(0, 0, np.zeros_like(other.order.classes))
            classes = mine.classes + other.order.classes
            self.order = ClassOrder(
                mine.pairs + other.order.pairs, mine.equal + other.order.equal, classes
            )

    def _add_scores(self, first: int, logits_BK: NDArray[np.floating[Any]]) -> None:
        while len(logits_BK):
            number, offset = divmod(first, SCORE_CHUNK)
            part, logits_BK = np.split(logits_BK, [SCORE_CHUNK - offset])
            chunk = self.scores.setdefault(number, ScoreSums(0, np.zeros(part.shape[1]), 0.0))
            log_p = log_softmax(part.astype(np.float64), axis=1)
            p = np.exp(log_p)
            chunk.count += len(part)
            chunk.probabilities += p.sum(axis=0)
            chunk.negative_entropy += float((p * log_p).sum())
            first += len(part)

    def _add_order(self, recognised_B: NDArray[np.int64], num_classes: int) -> None:
        before = self.order or ClassOrder(0, 0, np.zeros(num_classes, np.int64))
        equal = int((recognised_B[1:] == recognised_B[:-1]).sum())
        classes = before.classes + np.bincount(recognised_B, minlength=num_classes)
        self.order = ClassOrder(before.pairs + len(recognised_B) - 1, before.equal + equal, classes)

    def finished(self) -> ImageStatistics:
        """What the metrics read, without the features.

        Raises:
            UserError: there are fewer than two images.
        """
        count = self.moments["features"].count if self.moments else 0
        if count < 2:
            raise UserError(f"statistics need at least 2 images, found {count}")
        return ImageStatistics(
            extractor=self.extractor,
            digest=self.digest,
            image_size=self.image_size,
            count=count,
            gaussians={name: moments.gaussian() for name, moments in self.moments.items()},
            scores=[self.scores[number] for number in sorted(self.scores)],
            sorted_by_class=self.order is not None and self.order.is_sorted,
            moments="images",
        )


@dataclass(frozen=True, kw_only=True)
class ImageStatistics:
    """Finished statistics of one set of images under one extractor."""

    extractor: str
    digest: str
    image_size: tuple[int, int]
    count: int
    gaussians: dict[str, Gaussian]
    """Of the ``features`` and, where the network has them, of the ``spatial`` ones."""
    scores: list[ScoreSums]
    sorted_by_class: bool
    features: NDArray[np.float32] | None = None
    """All features in order, (N, d), memory-mapped; None where only moments are known."""
    features_sha256: str = ""
    """Of the features' file; empty where there is none, and of files of earlier versions."""
    source: str = ""
    """What they were computed from, by which a finished set is known; empty in earlier versions."""
    moments: str = ""
    """Whose they are: of the ``images``, or ``published`` ones of a larger set that the images were
    taken of; empty in earlier versions."""

    @property
    def moments_digest(self) -> str:
        """SHA-256 of the features' moments, by which a reference is known."""
        gaussian = self.gaussians["features"]
        content = gaussian.mean.tobytes() + gaussian.covariance.tobytes()
        return hashlib.sha256(content).hexdigest()

    @property
    def num_features(self) -> int:
        """Length d of a feature vector."""
        return len(self.gaussians["features"].mean)

    def save(self, path: Path) -> None:
        """Write all but the features to an ``.npz``, atomically."""
        arrays: dict[str, Any] = {
            "extractor": self.extractor,
            "digest": self.digest,
            "image_size": self.image_size,
            "count": self.count,
            "sorted_by_class": self.sorted_by_class,
            "features_sha256": self.features_sha256,
            "source": self.source,
            "moments": self.moments,
            "score_counts": np.array([chunk.count for chunk in self.scores], np.int64),
            "score_probabilities": np.array([chunk.probabilities for chunk in self.scores]),
            "score_entropies": np.array([chunk.negative_entropy for chunk in self.scores]),
        }
        for name, gaussian in self.gaussians.items():
            arrays |= {
                f"{name}_count": gaussian.count,
                f"{name}_mean": gaussian.mean,
                f"{name}_covariance": gaussian.covariance,
            }
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)

    @classmethod
    def load(cls, path: Path) -> ImageStatistics:
        """Read what ``save`` wrote, and map the features beside it, if there are any.

        Raises:
            UserError: a file is absent, damaged or of another kind.
        """
        arrays = read_arrays(path)
        try:
            gaussians = {
                name: Gaussian(
                    int(arrays[f"{name}_count"]),
                    arrays[f"{name}_mean"].astype(np.float64),
                    arrays[f"{name}_covariance"].astype(np.float64),
                )
                for name in ("features", "spatial")
                if f"{name}_mean" in arrays
            }
            columns = (arrays[f"score_{key}"] for key in ("counts", "probabilities", "entropies"))
            scores = [
                ScoreSums(int(n), p.astype(np.float64), float(entropy))
                for n, p, entropy in zip(*columns, strict=True)
            ]
            height, width = map(int, arrays["image_size"])
            statistics = cls(
                extractor=str(arrays["extractor"]),
                digest=str(arrays["digest"]),
                image_size=(height, width),
                count=int(arrays["count"]),
                gaussians=gaussians,
                scores=scores,
                sorted_by_class=bool(arrays["sorted_by_class"]),
                features_sha256=str(arrays.get("features_sha256", "")),
                source=str(arrays.get("source", "")),
                moments=str(arrays.get("moments", "")),
            )
            dimension = len(gaussians["features"].mean)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: not a statistics file ({type(error).__name__}: {error})"
            ) from None
        numbers = [getattr(gaussian, name) for gaussian in gaussians.values() for name in _MOMENTS]
        numbers += [chunk.probabilities for chunk in scores]
        numbers += [np.array([chunk.negative_entropy for chunk in scores])]
        if not all(np.isfinite(array).all() for array in numbers):
            raise UserError(f"{path}: its numbers are not finite")
        if not (
            statistics.count >= 2
            and all(map(_is_gaussian, gaussians.values()))
            and all(map(_is_chunk, scores))
        ):
            raise UserError(f"{path}: damaged, its numbers are not those of any images")
        return dataclasses.replace(
            statistics,
            features=_load_features(features_path(path), dimension, statistics.features_sha256),
        )


def _is_gaussian(gaussian: Gaussian) -> bool:
    """Whether the moments may be those of some features."""
    mean, covariance = gaussian.mean, gaussian.covariance
    shaped = mean.ndim == 1 and covariance.shape == (len(mean), len(mean)) and gaussian.count >= 2
    if not shaped:
        return False
    largest = np.abs(covariance).max(initial=0.0)
    symmetric = np.abs(covariance - covariance.T).max(initial=0.0) <= 1e-6 * largest
    return bool(symmetric and np.diag(covariance).min(initial=0.0) >= -1e-9 * largest)


def _is_chunk(chunk: ScoreSums) -> bool:
    """Whether the sums may be those of some images' class probabilities."""
    total = float(chunk.probabilities.sum())
    return chunk.count > 0 and abs(total - chunk.count) < 1e-3 * chunk.count


def features_path(statistics: Path) -> Path:
    """The file of the features that belong to a statistics file."""
    return statistics.with_name(f"{statistics.stem}-features.npy")


def _load_features(path: Path, width: int, digest: str) -> NDArray[np.float32] | None:
    if not path.exists():
        return None
    features = map_array(path)
    if digest and sha256_of(path) != digest:
        raise UserError(f"{path}: damaged, or of another set than the statistics beside it")
    if features.ndim != 2 or features.shape[1] != width or features.dtype != np.float32:
        raise UserError(
            f"{path}: {features.dtype} of shape {features.shape}, expected float32 (N, {width})"
        )
    return features
