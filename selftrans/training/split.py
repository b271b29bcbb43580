"""Which images a run is trained on, and which ones are held out of its training."""

import numpy as np
from numpy.typing import NDArray

from selftrans.config import TrainingConfig
from selftrans.runtime.errors import UserError
from selftrans.runtime.random import Stream, generator

SEED = 0
"""Of all that is random about held-out images, whatever the run's seed: curves of runs compare."""


def held_out_indices(labels_N: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indices of ``count`` images, ascending: a random sample that is stratified by class.

    The images are sorted by class, in random order within each, and every N / count-th one is
    taken. So a class of n images has n count / N of them, rounded up or down. A function of the
    labels alone: the same in every run and seed.
    """
    total = len(labels_N)
    shuffled = generator(SEED, Stream.HELD_OUT).permutation(total)
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    chosen = (2 * np.arange(count) + 1) * total // max(2 * count, 1)
    return np.sort(by_class[chosen])


def trained_indices(labels_N: NDArray[np.int64], training: TrainingConfig) -> NDArray[np.int64]:
    """Indices of the other images, ascending.

    Raises:
        UserError: fewer than a batch are left.
    """
    if problem := training.split_problem(len(labels_N)):
        raise UserError(f"training.held_out: {problem}")
    held_out = held_out_indices(labels_N, training.held_out)
    return np.setdiff1d(np.arange(len(labels_N)), held_out)
