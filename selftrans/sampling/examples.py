"""Real images beside the samples of a figure, and their reconstructions.

They are the first images of the classes that it shows, or those whose captions it shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import DECODED_ELEMENTS, FIRST_IMAGES, SamplerConfig
from selftrans.data.caption_store import CaptionStore
from selftrans.data.class_names import readable_names
from selftrans.data.examples import Examples
from selftrans.data.sources import ImageSource
from selftrans.data.sources.repa import PreparedMoments
from selftrans.data.store import LatentStore
from selftrans.models.autoencoder import decode, encode_moments
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG
from selftrans.sampling.conditions import sample_labels

if TYPE_CHECKING:
    from selftrans.models.autoencoder import Autoencoder


def examples_needed(
    samplers: Iterable[SamplerConfig], columns: int, num_classes: int
) -> Counter[int]:
    """How many images of each class the first samples of any of these sets stand beside."""
    needed: Counter[int] = Counter()
    for settings in samplers:
        needed |= Counter(sample_labels(settings, range(columns), num_classes).tolist())
    return needed


def first_of_classes(labels_N: NDArray[np.int64], needed: Counter[int]) -> NDArray[np.int64]:
    """Indices of the first images of each class, class by class."""
    parts = [np.flatnonzero(labels_N == label)[: needed[label]] for label in sorted(needed)]
    return np.concatenate(parts)


def make_examples(
    store: LatentStore,
    open_images: Callable[[], ImageSource],
    autoencoder: Autoencoder,
    needed: Counter[int],
    device: torch.device,
) -> Examples:
    """The examples; the real ones are left out, and it is logged, where they cannot be read.

    Args:
        store: the latents, whose posterior means are decoded.
        open_images: opens the source whose images the rows of the store are.
        autoencoder: what decodes samples, too.
        needed: number of images by class.
        device: where they are decoded.
    """
    indices = first_of_classes(store.labels, needed)
    means = torch.from_numpy(store.moments(indices)[:, 0].astype(np.float32))
    try:
        real = open_images().read(indices)
    except UserError as error:
        LOG.warning("no real images beside the samples: %s", error)
        real = None
    return Examples(
        classes=store.labels[indices],
        reconstructed=_decoded(autoencoder, means, device),
        real=real,
        class_names=readable_names(store.manifest.class_names),
    )


def make_caption_examples(
    captions: CaptionStore,
    images: ImageSource,
    autoencoder: Autoencoder,
    decoder: Autoencoder,
    columns: int,
    device: torch.device,
) -> Examples:
    """The images that the first samples have the captions of; a caption is called by its text.

    Of prepared data, which may have no images, the stored moments are decoded.

    Args:
        captions: those that samples are made of.
        images: that they are captions of.
        autoencoder: what encodes.
        decoder: what decodes samples, too.
        columns: how many images are shown.
        device: where they are encoded and decoded.
    """
    shown = range(min(columns, len(captions)))
    real: NDArray[np.uint8] | None = None
    if isinstance(images, PreparedMoments):
        means = torch.from_numpy(images.moments(shown)[:, 0].astype(np.float32))
        real = images.read(shown) if images.has_images else None
    else:
        real = images.read(shown)
        means = encode_moments(autoencoder, torch.from_numpy(real).to(device))[:, 0].float()
    return Examples(
        classes=np.array(shown, dtype=np.int64),
        reconstructed=_decoded(decoder, means, device),
        real=real,
        class_names=tuple(texts[0] for texts in captions.texts[:FIRST_IMAGES]),
    )


def _decoded(
    autoencoder: Autoencoder, means_BCHW: torch.Tensor, device: torch.device
) -> NDArray[np.uint8]:
    """Images (B, H, W, 3) of unscaled latents."""
    size = max(1, DECODED_ELEMENTS // prod(means_BCHW.shape[1:]))
    parts = [decode(autoencoder, part.to(device)).cpu().numpy() for part in means_BCHW.split(size)]
    return np.concatenate(parts)
