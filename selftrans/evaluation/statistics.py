"""Streaming statistics: what FID and the Inception score need of any number of images, in constant memory."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path

SCORE_CHUNK = 5000
"""Images per chunk of the Inception score, in file order, as the ADM evaluator has it."""


@dataclass
class Moments:
    """Sums for mean and covariance of features, in float64; sums of parts add up."""

    count: int
    total: NDArray[np.float64]
    """(d,)"""
    outer: NDArray[np.float64]
    """(d, d)"""

    @classmethod
    def of_width(cls, width: int) -> "Moments":
        """No image yet."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    def add(self, features_BD: NDArray[np.floating[Any]]) -> None:
        """Count a batch of features."""
        features = features_BD.astype(np.float64)
        self.count += len(features)
        self.total += features.sum(axis=0)
        self.outer += features.T @ features

    def mean(self) -> NDArray[np.float64]:
        """Mean of the features, (d,)."""
        return self.total / self.count

    def covariance(self) -> NDArray[np.float64]:
        """Covariance with ddof 1, (d, d)."""
        mean = self.mean()
        return (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)


@dataclass
class ScoreSums:
    """Sums for the Inception score of one chunk: of p, and of sum_k p_k log p_k, over its images."""

    count: int
    probabilities: NDArray[np.float64]
    """(K,)"""
    negative_entropy: float


@dataclass
class Statistics:
    """Statistics of one set of images under one extractor.

    Args:
        extractor: name of the feature network.
        extractor_digest: digest of its weights.
    """

    extractor: str
    extractor_digest: str
    moments: Moments | None = None
    chunks: list[ScoreSums] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of images."""
        return self.moments.count if self.moments else 0

    def add(self, features_BD: NDArray[np.floating[Any]], logits_BK: NDArray[np.floating[Any]]) -> None:
        """Count a batch, which follows the earlier ones in file order.

        Raises:
            UserError: a feature or logit is not finite.
        """
        if not (np.isfinite(features_BD).all() and np.isfinite(logits_BK).all()):
            raise UserError(f"features of images {self.count} to {self.count + len(features_BD) - 1} are not finite")
        if self.moments is None:
            self.moments = Moments.of_width(features_BD.shape[1])
        self.moments.add(features_BD)
        while len(logits_BK):
            if not self.chunks or self.chunks[-1].count == SCORE_CHUNK:
                self.chunks.append(ScoreSums(0, np.zeros(logits_BK.shape[1]), 0.0))
            chunk = self.chunks[-1]
            part, logits_BK = np.split(logits_BK, [SCORE_CHUNK - chunk.count])
            log_p = log_softmax(part.astype(np.float64), axis=1)
            p = np.exp(log_p)
            chunk.count += len(part)
            chunk.probabilities += p.sum(axis=0)
            chunk.negative_entropy += float((p * log_p).sum())

    def save(self, path: Path) -> None:
        """Write to an ``.npz``, atomically.

        Raises:
            UserError: there are fewer than two images.
        """
        if self.moments is None or self.count < 2:
            raise UserError(f"{path}: statistics need at least 2 images, found {self.count}")
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                extractor=self.extractor,
                extractor_digest=self.extractor_digest,
                count=self.count,
                total=self.moments.total,
                outer=self.moments.outer,
                chunk_counts=[chunk.count for chunk in self.chunks],
                chunk_probabilities=np.stack([chunk.probabilities for chunk in self.chunks]),
                chunk_entropies=[chunk.negative_entropy for chunk in self.chunks],
            )

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is absent, damaged or something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                moments = Moments(int(file["count"]), file["total"], file["outer"])
                columns = zip(file["chunk_counts"], file["chunk_probabilities"], file["chunk_entropies"], strict=True)
                chunks = [ScoreSums(int(count), p, float(entropy)) for count, p, entropy in columns]
                return cls(str(file["extractor"]), str(file["extractor_digest"]), moments, chunks)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except Exception as error:  # zipfile and numpy raise half a dozen kinds for a damaged archive
            raise UserError(f"{path}: not a statistics file ({type(error).__name__}: {error})") from None
