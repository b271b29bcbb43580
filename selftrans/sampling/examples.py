"""The first images of the classes that a figure of samples shows, and their reconstructions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import DECODED_ELEMENTS, SamplerConfig
from selftrans.data.class_names import readable_names
from selftrans.data.examples import Examples
from selftrans.data.sources import ImageSource
from selftrans.data.store import LatentStore
from selftrans.models.autoencoder import decode
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
    size = max(1, DECODED_ELEMENTS // prod(means.shape[1:]))
    decoded = [decode(autoencoder, part.to(device)).cpu().numpy() for part in means.split(size)]
    try:
        real = open_images().read(indices)
    except UserError as error:
        LOG.warning("no real images beside the samples: %s", error)
        real = None
    return Examples(
        classes=store.labels[indices],
        reconstructed=np.concatenate(decoded),
        real=real,
        class_names=readable_names(store.manifest.class_names),
    )
