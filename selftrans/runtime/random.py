"""Random numbers that are a function of their purpose, and of nothing else.

Every draw comes from Philox, a counter-based generator (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"): the key is (seed, stream), the counter's upper half is the block of
draws, for instance (step, position in the global batch). So a draw does not depend on the number
of processes, on the batch size, on earlier draws, or on interruptions, and the draws for one
process's share cost only that share.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The purpose of a random number. Streams are independent; a value is never reused."""

    WEIGHTS = 1
    ORDER = 2
    BATCH = 3
    SAMPLE = 4
    AUTOENCODER = 5
    CLASSIFIER = 6
    ENCODER = 7
    ANALYSIS = 8
    HELD_OUT = 9
    BOOTSTRAP = 10
    SIGNS = 11
    SCENE = 16
    READER = 17


def generator(seed: int, stream: Stream, major: int = 0, minor: int = 0) -> np.random.Generator:
    """The generator of one block of draws.

    Args:
        seed: the experiment's seed, 0 to 2**63 - 1; beyond, numpy would round the key to float64.
        stream: the purpose.
        major, minor: which block, for instance (step, position) or (sample, 0).
    """
    # Philox counts up from the lowest word, so blocks with different upper words never overlap.
    return np.random.Generator(
        np.random.Philox(key=[seed, int(stream)], counter=[0, 0, minor, major])
    )


def torch_seed(seed: int, stream: Stream) -> int:
    """A seed for torch's generators, which use only the low 32 bits of a seed."""
    return int(generator(seed, stream).integers(2**32))
