"""The feature file of a run: what probes and figures read of a trained run's features."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrans.config.identity import fingerprint
from selftrans.runtime.arrays import read_arrays
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path, read_fields

Floats = NDArray[np.floating[Any]]
Named = dict[str, Floats]
"""Arrays by the name of the feature that they hold."""
PLAIN = ("run", "seed", "fingerprint", "source")
"""What is stored as an array of one element."""


@dataclass(frozen=True, kw_only=True)
class RunFeatures:
    """Features of a run's blocks, and of what its alignment losses follow, on real images.

    N probed images, I shown ones, T tokens of length D, S checkpoints.
    """

    images: NDArray[np.int64]
    """Indices of the probed images in the data set, (N,)."""
    labels: NDArray[np.int64]
    """Their classes, (N,)."""
    held_out: NDArray[np.bool_]
    """Whether probes are judged on them instead of fitted to them, (N,)."""
    times: NDArray[np.float64]
    """t that the probed images are noised to."""
    pooled: Floats
    """Token means of every block of the last checkpoint, without label, (times, blocks, N, D)."""
    guiding: Named
    """Token means of guiding features with the label, where they depend on it, (times, N, D')."""
    unconditional: Named
    """Token means of guiding features without the label, (times, N, D')."""
    shown: NDArray[np.int64]
    """Indices of the images in colour maps, (I,)."""
    steps: NDArray[np.int64]
    """Of the checkpoints, (S,)."""
    shown_blocks: NDArray[np.int64]
    """Blocks in colour maps, counted from 1."""
    maps: Floats
    """Labelled tokens of the shown images, less the positional mean, (S, blocks, I, T, D)."""
    noisy: Floats
    """The noisy latents of the shown images, (I, H W, C)."""
    shown_guiding: Named
    """Guiding features of the shown images, less the positional mean, (I, T, D')."""
    run: str = ""
    """The training's run; empty in files of earlier versions, as what follows."""
    seed: int = 0
    fingerprint: str = ""
    """Of the run's definition."""
    source: str = ""
    """What they were computed from, by which finished ones are known."""

    def at_time(self, t: float) -> Floats:
        """Token means after every block at time ``t``, (blocks, N, D)."""
        return self.pooled[self.times.tolist().index(t)]

    def save(self, path: Path) -> None:
        """Write an ``.npz``, atomically; named arrays are stored as ``field/name``."""
        arrays: dict[str, NDArray[Any]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                arrays |= {f"{field.name}/{name}": array for name, array in value.items()}
            else:
                arrays[field.name] = value
        with atomic_path(path) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> RunFeatures:
        """Read what ``save`` wrote; named arrays keep their order.

        In a run's ``features/``, the file has to be of this run, seed and definition.

        Raises:
            UserError: the file is absent, damaged or of another kind, or belongs somewhere else.
        """
        named: dict[str, Any] = {"guiding": {}, "unconditional": {}, "shown_guiding": {}}
        plain: dict[str, Any] = {}
        try:
            for key, array in read_arrays(path).items():
                field, separator, name = key.partition("/")
                if separator:
                    named[field][name] = array
                else:
                    plain[key] = array.item() if key in PLAIN else array
            features = cls(**plain, **named)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a run's features ({error})") from None
        features.check_place(path)
        return features

    def check_place(self, path: Path) -> None:
        """Refuse features of another training in a run's ``features/``.

        Raises:
            UserError: run, seed or the fingerprint of the run's definition is another one.
        """
        folder = path.absolute().parent
        if not self.run or folder.name != "features":
            return
        seed_folder, run_folder = folder.parent, folder.parents[1]
        place = [
            (f"run {self.run}", f"run {run_folder.name}"),
            (f"seed{self.seed}", seed_folder.name),
        ]
        if (definition := seed_folder / "definition.json").exists():
            place.append((self.fingerprint, fingerprint(read_fields(definition))))
        for found, expected in place:
            if found != expected:
                raise UserError(
                    f"{path}: belongs to another training, {found}, expected {expected}"
                )
