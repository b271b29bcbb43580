"""One worker's statistics on disk, as sums that add up with those of the others."""

from pathlib import Path
from typing import Any

import numpy as np

from selftrans.evaluation.statistics import ClassOrder, Moments, ScoreSums, Statistics
from selftrans.runtime.arrays import read_arrays
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path, sha256_of


def save_partial_statistics(statistics: Statistics, path: Path, source: str) -> None:
    """Write a worker's sums; its features lie beside them already.

    Args:
        statistics: the sums.
        path: the file (``.npz``).
        source: what they were computed from.
    """
    numbers = sorted(statistics.scores)
    arrays: dict[str, Any] = {
        "extractor": statistics.extractor,
        "digest": statistics.digest,
        "numbers": numbers,
        "source": source,
        "features_sha256": sha256_of(path.with_suffix(".npy")),
    }
    arrays["image_size"] = statistics.image_size
    for kind, moments in statistics.moments.items():
        arrays |= {f"{kind}.{name}": value for name, value in vars(moments).items()}
    for number in numbers:
        arrays |= {
            f"score{number}.{name}": value
            for name, value in vars(statistics.scores[number]).items()
        }
    if statistics.order is not None:
        arrays |= {f"order.{name}": value for name, value in vars(statistics.order).items()}
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def load_partial_statistics(path: Path, source: str) -> Statistics:
    """Read what ``save_partial_statistics`` wrote.

    Raises:
        UserError: a file is missing or damaged, or the sums were computed from something else.
    """
    arrays = read_arrays(path)

    def fields(prefix: str) -> dict[str, Any]:
        values = {
            key.removeprefix(prefix): array
            for key, array in arrays.items()
            if key.startswith(prefix)
        }
        return {key: value if value.ndim else value.item() for key, value in values.items()}

    try:
        if str(arrays["source"]) != source:
            raise UserError(f"{path}: was computed from something else")
        if str(arrays["features_sha256"]) != sha256_of(path.with_suffix(".npy")):
            raise UserError(f"{path.with_suffix('.npy')}: damaged")
        kinds = [kind for kind in ("features", "spatial") if f"{kind}.total" in arrays]
        height, width = map(int, arrays["image_size"])
        return Statistics(
            extractor=str(arrays["extractor"]),
            digest=str(arrays["digest"]),
            image_size=(height, width),
            moments={kind: Moments(**fields(f"{kind}.")) for kind in kinds},
            scores={
                int(number): ScoreSums(**fields(f"score{number}.")) for number in arrays["numbers"]
            },
            order=ClassOrder(**order) if (order := fields("order.")) else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error})") from None
