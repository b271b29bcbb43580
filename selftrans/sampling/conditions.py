"""What samples show: sample i has a class or a caption, as a function of (seed, i)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrans.config import (
    PreparedTextConfig,
    PretrainedTextEncoderConfig,
    SamplerConfig,
    validated,
)
from selftrans.data.caption_store import CaptionStore
from selftrans.data.captions import cleaned
from selftrans.data.conditions import same_null
from selftrans.models.metadata import TextEncoderRecord, WeightsMetadata
from selftrans.models.text_encoder import load_text_encoder
from selftrans.runtime.errors import UserError, shortened
from selftrans.runtime.logs import LOG
from selftrans.runtime.random import Stream, generator


def sample_labels(settings: SamplerConfig, indices: range, num_classes: int) -> NDArray[np.int64]:
    """Class of each sample: i modulo K, or drawn from (seed, i)."""
    if settings.labels == "balanced":
        return np.asarray(indices, dtype=np.int64) % num_classes
    draws = [
        generator(settings.seed, Stream.SAMPLE, index, 1).integers(num_classes) for index in indices
    ]
    return np.asarray(draws, dtype=np.int64)


def encoded_prompts(
    metadata: WeightsMetadata, prompts: Sequence[str], text_encoder: str | None = None
) -> NDArray[Any]:
    """Prompts as a checkpoint takes them, (B, L, K).

    Args:
        metadata: of the checkpoint.
        prompts: one or several lines of text.
        text_encoder: where the text encoder lies, if not where the training found it; of an
            imported checkpoint nobody knows which it was.

    Raises:
        UserError: the checkpoint takes no captions, a prompt is no caption, or the text encoder is
            absent or another one.
    """
    record, shape = metadata.text_encoder, metadata.shape.condition_size
    if isinstance(shape, int):
        raise UserError("--prompt: the checkpoint is conditioned on classes (allowed: --classes)")
    if not prompts:
        raise UserError("--prompt: none is given (allowed: one or several)")
    texts = [cleaned(prompt, "--prompt") for prompt in prompts]
    if text_encoder is not None:
        values = {"kind": "pretrained", "path": text_encoder, "length": shape[0], "size": shape[1]}
        encoder = load_text_encoder(
            validated(PretrainedTextEncoderConfig, values, "--text-encoder")
        )
    elif record is not None:
        encoder = load_text_encoder(record.settings)
    else:
        raise UserError(
            "--text-encoder: is needed, the checkpoint was imported and does not say which it was"
            " trained on"
        )
    known = None if record is None or isinstance(record.settings, PreparedTextConfig) else record
    if known is not None and encoder.digest != known.digest:
        raise UserError(
            f"text encoder {encoder.name!r}: is not the one that the checkpoint was trained on"
            f" ({encoder.digest[:12]}, expected {known.digest[:12]})"
        )
    if cut := [text for text in texts if encoder.count_truncated([text])]:
        LOG.warning(
            "prompt %r has more than %d tokens: the rest is cut off",
            shortened(cut[0]),
            encoder.length,
        )
    # Rounded as stored captions are, so that a prompt and the same caption give the same image.
    return np.asarray(encoder(texts).half().numpy())


class SampleConditions(ABC):
    """The conditions of the samples of one checkpoint."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """K.

        Raises:
            UserError: the model is conditioned on captions.
        """

    @property
    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What a set of samples depends on, beside its sampler's settings."""

    @abstractmethod
    def labels(self, settings: SamplerConfig, indices: range) -> NDArray[np.int64]:
        """What identifies the condition of each sample: its class, or an image of the prompts."""

    @abstractmethod
    def of_labels(self, labels_B: NDArray[np.int64]) -> NDArray[Any]:
        """The conditions that these identify: classes (B,), or captions (B, L, K)."""

    @abstractmethod
    def check(self, condition_B: NDArray[Any]) -> None:
        """Refuse what the model does not know.

        Raises:
            UserError: a class is none of its classes, or captions have another shape.
        """

    @abstractmethod
    def check_null(self, null: NDArray[Any]) -> None:
        """Refuse conditions of a model with another null condition.

        Raises:
            UserError: captions are of another text encoder, which an imported checkpoint does not
                name.
        """

    def of_samples(self, settings: SamplerConfig, indices: range) -> NDArray[Any]:
        """The condition of each sample."""
        return self.of_labels(self.labels(settings, indices))


def sample_conditions(metadata: WeightsMetadata, prompts: Path | None = None) -> SampleConditions:
    """The conditions of the samples of a checkpoint.

    Args:
        metadata: of the checkpoint.
        prompts: manifest of a caption store; sample i shows the first caption of image i modulo
            the number of its images.

    Raises:
        UserError: a model of classes is given captions, or the captions are of another text
            encoder or of another shape than those that it was trained on.
    """
    size = metadata.shape.condition_size
    if not isinstance(size, int):
        return CaptionSamples(size, metadata.text_encoder, prompts)
    if prompts is not None:
        raise UserError(f"{prompts}: holds captions, the checkpoint is conditioned on classes")
    return ClassSamples(size)


class ClassSamples(SampleConditions):
    """Samples of classes.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes

    @property
    def num_classes(self) -> int:
        """K."""
        return self._num_classes

    @property
    def description(self) -> dict[str, Any]:
        """Nothing: the settings say how labels are chosen."""
        return {}

    def labels(self, settings: SamplerConfig, indices: range) -> NDArray[np.int64]:
        """The class of each sample."""
        return sample_labels(settings, indices, self.num_classes)

    def of_labels(self, labels_B: NDArray[np.int64]) -> NDArray[Any]:
        """The classes themselves."""
        return labels_B

    def check(self, condition_B: NDArray[Any]) -> None:
        """Refuse a class that is none of the model's."""
        if wrong := [label for label in condition_B if not 0 <= label < self.num_classes]:
            raise UserError(
                f"class {wrong[0]} is not one of the model (allowed: 0 to {self.num_classes - 1})"
            )

    def check_null(self, null: NDArray[Any]) -> None:
        """All models of classes have the same."""


class CaptionSamples(SampleConditions):
    """Samples of captions.

    Args:
        shape: (L, K) of a caption's features.
        trained: the text encoder that the checkpoint was trained on, where it is known.
        prompts: manifest of a caption store; needed where samples are made of stored captions.

    Raises:
        UserError: its captions are of another text encoder or of another shape.
    """

    def __init__(
        self, shape: tuple[int, int], trained: TextEncoderRecord | None, prompts: Path | None
    ) -> None:
        self.shape = shape
        self._store = None if prompts is None else CaptionStore(prompts)
        if self._store is None:
            return
        manifest = self._store.manifest
        if manifest.shape != shape:
            raise UserError(
                f"{prompts}: captions of shape {manifest.shape}, the checkpoint takes {shape}"
            )
        if trained is not None and trained.digest != manifest.encoder_digest:
            raise UserError(
                f"{prompts}: captions of another text encoder than the checkpoint was trained on"
                f" ({manifest.encoder_digest[:12]}, expected {trained.digest[:12]})"
            )

    @property
    def num_classes(self) -> int:
        """There are none."""
        raise UserError(
            "classes: the checkpoint is conditioned on captions (allowed: prompts, --prompt)"
        )

    @property
    def description(self) -> dict[str, Any]:
        """The captions, where samples are made of stored ones."""
        if self._store is None:
            return {}
        return {"labels": "prompts", "prompts": self._store.manifest.digest}

    def labels(self, settings: SamplerConfig, indices: range) -> NDArray[np.int64]:
        """The image whose first caption each sample shows."""
        return np.asarray(indices, dtype=np.int64) % self._prompts.manifest.images

    def of_labels(self, labels_B: NDArray[np.int64]) -> NDArray[Any]:
        """The features of these captions."""
        return self._prompts.first_of(labels_B)

    def check(self, condition_B: NDArray[Any]) -> None:
        """Refuse captions of another shape."""
        if condition_B.shape[1:] != self.shape:
            raise UserError(
                f"captions: of shape {condition_B.shape[1:]}, the checkpoint takes {self.shape}"
            )

    def check_null(self, null: NDArray[Any]) -> None:
        """Refuse captions of another text encoder."""
        if self._store is not None and not same_null(null, self._store.null):
            raise UserError(
                f"{self._store.path}: captions of another text encoder than the checkpoint was"
                " trained on: its null condition is another one"
            )

    @property
    def _prompts(self) -> CaptionStore:
        if self._store is None:
            raise UserError(
                "--prompts: is needed, the checkpoint is conditioned on captions"
                " (allowed: the manifest of a caption store)"
            )
        return self._store
