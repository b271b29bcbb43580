"""CLIP score: how well pictures fit their captions, by CLIP (Hessel et al. 2021).

The mean over the pictures of 100 max(cos(image, caption), 0), of CLIP's projected features, with
CLIP's own preprocessing. Scores of different CLIP models do not compare; most publications use
ViT-L/14 or ViT-B/32. (Hessel et al. multiply by 2.5 in place of 100.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from selftrans.models.pretrained import LOCAL, check_tokenizer, read_network, reading
from selftrans.runtime.errors import UserError
from selftrans.runtime.tensors import digest_of

CPU = torch.device("cpu")


class ClipScore(NamedTuple):
    """The score of a set of pictures."""

    mean: float
    std: float
    """Of the pictures, not of the mean."""
    images: int
    truncated: int
    """Captions that have more tokens than CLIP reads."""


class Clip:
    """A CLIP model of transformers, from a directory or the hub's cache.

    Args:
        path: directory, or name on the hub.
        device: where to compute.

    Raises:
        UserError: transformers or the weights are absent, or it is no CLIP model.
    """

    def __init__(self, path: str, device: torch.device = CPU) -> None:
        with reading("CLIP", path) as transformers:
            kind = transformers.AutoConfig.from_pretrained(path, **LOCAL).model_type
            if kind != "clip":
                raise ValueError(f"is a {kind!r} model")
            self._processor: Any = transformers.CLIPProcessor.from_pretrained(path, **LOCAL)
            check_tokenizer(self._processor.tokenizer)
            self._network: Any = read_network(transformers.CLIPModel, path).to(device)
        self.name, self.device = Path(path).name, device

    @property
    def digest(self) -> str:
        """SHA-256 of its weights."""
        return digest_of(self._network.state_dict())

    @property
    def length(self) -> int:
        """Tokens of a caption that it reads."""
        return int(self._network.config.text_config.max_position_embeddings)

    def preprocessed(self, images_BHWC: NDArray[np.uint8]) -> torch.Tensor:
        """What the network sees of pictures, (B, 3, H', W')."""
        pixels: torch.Tensor = self._processor(images=list(images_BHWC), return_tensors="pt")[
            "pixel_values"
        ]
        return pixels

    @torch.inference_mode()
    def similarities(
        self, images_BHWC: NDArray[np.uint8], captions: Sequence[str]
    ) -> tuple[NDArray[np.float64], int]:
        """Cosine of each picture and its caption, (B,), and how many captions were cut off."""
        tokens = self._processor.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        whole = self._processor.tokenizer(list(captions), verbose=False)["input_ids"]
        output = self._network(
            pixel_values=self.preprocessed(images_BHWC).to(self.device),
            input_ids=tokens["input_ids"].to(self.device),
            attention_mask=tokens["attention_mask"].to(self.device),
        )
        cosines = functional.cosine_similarity(output.image_embeds, output.text_embeds, dim=-1)
        return cosines.double().cpu().numpy(), sum(len(one) > self.length for one in whole)


def clip_score(clip: Clip, batches: Iterable[tuple[NDArray[np.uint8], Sequence[str]]]) -> ClipScore:
    """The score of pictures (B, H, W, 3), which come in batches with a caption for each.

    Raises:
        UserError: there are none.
    """
    scores: list[NDArray[np.float64]] = []
    truncated = 0
    for images, captions in batches:
        cosines, cut = clip.similarities(images, captions)
        scores.append(100 * np.maximum(cosines, 0))
        truncated += cut
    if not scores:
        raise UserError("CLIP score: there is no picture")
    every = np.concatenate(scores)
    return ClipScore(float(every.mean()), float(every.std()), len(every), truncated)
