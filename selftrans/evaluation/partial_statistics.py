"""One worker's statistics on disk, as sums that add up with those of the others."""

from pathlib import Path
from typing import Any

import numpy as np

from selftrans.evaluation.statistics import ClassOrder, Moments, ScoreSums, Statistics
from selftrans.runtime.files import atomic_path


def save_partial_statistics(statistics: Statistics, path: Path) -> None:
    """Write a worker's sums."""
    numbers = sorted(statistics.scores)
    arrays: dict[str, Any] = {
        "extractor": statistics.extractor,
        "digest": statistics.digest,
        "numbers": numbers,
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


def load_partial_statistics(path: Path) -> Statistics:
    """Read what ``save_partial_statistics`` wrote."""
    with np.load(path, allow_pickle=False) as file:

        def fields(prefix: str) -> dict[str, Any]:
            values = {
                key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)
            }
            return {key: value if value.ndim else value.item() for key, value in values.items()}

        kinds = [kind for kind in ("features", "spatial") if f"{kind}.total" in file.files]
        return Statistics(
            extractor=str(file["extractor"]),
            digest=str(file["digest"]),
            image_size=(int(file["image_size"][0]), int(file["image_size"][1])),
            moments={kind: Moments(**fields(f"{kind}.")) for kind in kinds},
            scores={
                int(number): ScoreSums(**fields(f"score{number}.")) for number in file["numbers"]
            },
            order=ClassOrder(**order) if (order := fields("order.")) else None,
        )
