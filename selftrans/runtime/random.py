"""Random numbers that are a function of what they are for, and of nothing else.

Every draw comes from Philox, a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"): the key is (seed, stream), the counter's upper half says which block of draws is meant, for instance
(step, position in the global batch). So a draw does not depend on the number of processes, on the batch size, on
what was drawn before, or on whether the run was interrupted, and numbers for one process's share cost only that share.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a random number is for. Numbers of different streams are independent; a value is never reused."""

    WEIGHTS = 1
    ORDER = 2
    BATCH = 3
    SAMPLE = 4
    AUTOENCODER = 5
    CLASSIFIER = 6
    ENCODER = 7
    ANALYSIS = 8


def generator(seed: int, stream: Stream, major: int = 0, minor: int = 0) -> np.random.Generator:
    """The generator of one block of draws.

    Args:
        seed: the experiment's seed, 0 to 2**64 - 1.
        stream: what the numbers are for.
        major, minor: which block, for instance (step, position) or (sample, 0).
    """
    # Philox counts up from the lowest word, so blocks that differ in the upper words never meet.
    return np.random.Generator(
        np.random.Philox(key=[seed, int(stream)], counter=[0, 0, minor, major])
    )


def torch_seed(seed: int, stream: Stream) -> int:
    """A seed for torch's own generators, which use only the low 32 bits of what they are given."""
    return int(generator(seed, stream).integers(2**32))
