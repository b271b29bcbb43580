"""Scores of pictures by their captions: CLIP score, and what a network reads off drawn scenes.

A metrics file of them has the form of those of features (``selftrans.evaluation.metrics``), so that
tables and figures hold both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import METRIC_SCORERS, Combinations, Metric
from selftrans.data.caption_store import CaptionStore
from selftrans.data.images import ImageArchive
from selftrans.evaluation.clip_score import Clip, clip_score
from selftrans.evaluation.scene_accuracy import WHOLE, scene_accuracy
from selftrans.models.reader import load_reader
from selftrans.runtime.arrays import read_arrays
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_fields
from selftrans.runtime.logs import LOG


class CaptionedImages:
    """A set of samples with the caption that each was made of.

    Args:
        samples: the ``.npz`` of a generation.
        prompts: manifest of the captions that it was made of.

    Raises:
        UserError: a file is absent or damaged, or the samples are of other captions.
    """

    def __init__(self, samples: Path, prompts: Path) -> None:
        self.archive, self.store = ImageArchive(samples), CaptionStore(prompts)
        self.description = read_fields(samples.with_suffix(".json"), checkpoint=dict)
        found, expected = self.description.get("prompts"), self.store.manifest.digest
        if found != expected:
            raise UserError(
                f"{samples}: was made of other captions than {prompts}"
                f" ({str(found)[:12]}, expected {expected[:12]})"
            )
        labels = read_arrays(samples, "arr_1").get("arr_1")
        count, images = len(self.archive), len(self.store)
        if labels is None or labels.shape != (count,) or not np.isin(labels, range(images)).all():
            raise UserError(f"{samples}: arr_1: names no caption for each of its {count} images")
        self.captions = [self.store.texts[int(label)][0] for label in labels]
        if not all(self.captions):
            raise UserError(
                f"{prompts}: holds features of captions, and their texts are not known (allowed:"
                " captions with texts)"
            )

    def __len__(self) -> int:
        return len(self.archive)

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.uint8], Sequence[str]]]:
        """Images (B, H, W, 3) and their captions."""
        start = 0
        for images in self.archive.batches(range(len(self)), size):
            yield images, self.captions[start : start + len(images)]
            start += len(images)


def scored_by_clip(
    captioned: CaptionedImages, path: str, batch_size: int, device: torch.device
) -> dict[str, Any]:
    """The CLIP score as a part of a metrics file."""
    clip = Clip(path, device)
    score = clip_score(clip, captioned.batches(batch_size))
    if score.truncated:
        LOG.warning(
            "%d of %d captions have more than %d tokens: CLIP reads no further",
            score.truncated,
            score.images,
            clip.length,
        )
    return {
        "metrics": {"clip-score": score.mean},
        "extractor": {
            "name": "clip",
            "digest": clip.digest,
            "model": clip.name,
            "transformers": version("transformers"),  # whose preprocessing may change
        },
        "truncated": score.truncated,
    }


def scored_by_reader(
    captioned: CaptionedImages, path: Path, batch_size: int, device: torch.device
) -> dict[str, Any]:
    """What the reader of drawn scenes finds, as a part of a metrics file."""
    reader = load_reader(path, device)
    source = captioned.store.manifest.origin.get("data", {}).get("source")
    kind: Any = source.get("combinations", "training") if isinstance(source, dict) else None
    if kind not in (known := get_args(Combinations)):
        raise UserError(
            f"{captioned.store.path}: origin.data.source.combinations: {kind!r}"
            f" (allowed: {', '.join(known)})"
        )
    combinations: Combinations = kind
    images = np.concatenate([images for images, _ in captioned.batches(batch_size)])
    accuracy = scene_accuracy(images, captioned.captions, reader, combinations)
    metrics: dict[Metric, float] = {"caption-accuracy": 100 * accuracy.all[WHOLE].share}
    if accuracy.held_out:
        metrics["held-out-accuracy"] = 100 * accuracy.held_out[WHOLE].share
    return {
        "metrics": metrics,
        "extractor": {
            "name": "reader",
            "digest": accuracy.reader_digest,
            "held_out_accuracy": accuracy.reader_accuracy,
        },
        "accuracy": accuracy.as_json(),
    }


def metrics_file(
    captioned: CaptionedImages, scored: dict[str, Any], metrics: Sequence[Metric]
) -> dict[str, Any]:
    """The content of a metrics file.

    Args:
        captioned: the samples.
        scored: what was found.
        metrics: those that are wanted.

    Raises:
        UserError: one of them was not found.
    """
    found = scored["metrics"]
    if absent := [metric for metric in metrics if metric not in found]:
        raise UserError(
            f"{absent[0]}: the captions do not allow it (allowed: {', '.join(found) or 'none'})"
        )
    manifest = captioned.store.manifest
    return {
        **scored,
        "metrics": {metric: found[metric] for metric in metrics},
        "num_samples": len(captioned),
        "num_reference": len(set(captioned.captions)),
        "reference": {"name": "captions", "digest": manifest.digest},
        "distances": "fp32",
        "samples": captioned.description,
        "versions": {name: version(name) for name in ("selftrans", "numpy", "torch")},
    }


def all_metrics_of(scorer: str) -> list[Metric]:
    """The metrics that a scorer computes."""
    return [metric for metric, name in METRIC_SCORERS.items() if name == scorer]
