"""Real images of some classes and their reconstructions, for figures; read without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrans.data.class_names import check_count
from selftrans.runtime.arrays import read_arrays
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path

Images = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The first images of some classes, and what the autoencoder makes of them."""

    classes: NDArray[np.int64]
    """Class of each image, (N,)."""
    reconstructed: Images
    """The decoded means of their latents, (N, H, W, 3)."""
    real: Images | None
    """The images themselves, (N, H, W, 3); None where they are not at hand."""
    class_names: tuple[str, ...]
    """What the source calls each class of the data set, not only of these."""

    def names(self, given: Sequence[str] | None) -> Sequence[str]:
        """The name of each class: the data file's, or else the source's.

        Raises:
            UserError: not a name for each class is given.
        """
        check_count(len(self.class_names), given, "class_names")
        return self.class_names if given is None else given

    def in_columns(self, classes_C: Sequence[int]) -> list[int | None]:
        """An image for each column of a figure: the n-th of a class for its n-th column.

        None where the data set has fewer.
        """
        indices: dict[int, list[int]] = {}
        for index, label in enumerate(self.classes.tolist()):
            indices.setdefault(label, []).append(index)
        return [indices[label].pop(0) if indices.get(label) else None for label in classes_C]

    def save(self, path: Path) -> None:
        """Write an ``.npz``, atomically."""
        arrays: dict[str, Any] = {
            "classes": self.classes,
            "reconstructed": self.reconstructed,
            "class_names": np.array(self.class_names, dtype=np.str_),
        }
        if self.real is not None:
            arrays["real"] = self.real
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Examples":
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is absent, damaged or of another kind.
        """
        arrays = read_arrays(path)
        classes, names = arrays.get("classes"), arrays.get("class_names")
        real, reconstructed = arrays.get("real"), arrays.get("reconstructed")
        if (
            classes is None
            or classes.dtype != np.int64
            or names is None
            or names.dtype.kind != "U"
            or names.ndim != 1
            or reconstructed is None
            or not all(
                images.dtype == np.uint8
                and images.shape == (len(classes), *reconstructed.shape[1:3], 3)
                for images in (reconstructed, real)
                if images is not None
            )
        ):
            raise UserError(f"{path}: holds no examples of classes, or is damaged")
        return cls(
            classes=classes,
            reconstructed=reconstructed,
            real=real,
            class_names=tuple(map(str, names)),
        )
