"""Precision and recall by nearest neighbours, which need the features themselves."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrans.config import DistanceArithmetic

BLOCK = 2500
NEIGHBOURS = 3


def squared_distances(
    a_MD: Tensor, b_ND: Tensor, arithmetic: DistanceArithmetic = "fp32"
) -> Tensor:
    """Squared Euclidean distances, (M, N), in float32; ``adm``: in half where that is finite."""
    if arithmetic == "adm":
        halves = squared_distances(a_MD.half(), b_ND.half())
        if bool(torch.isfinite(halves).all()):
            return halves.float()
    norms_M, norms_N = a_MD.square().sum(dim=1), b_ND.square().sum(dim=1)
    products = a_MD @ b_ND.T
    return (norms_M[:, None] - 2 * products + norms_N[None]).clamp(min=0)


def _blocks(features_ND: NDArray[np.float32], device: torch.device) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(features_ND), BLOCK):
        yield start, torch.from_numpy(np.array(features_ND[start : start + BLOCK])).to(device)


def neighbour_radii(
    features_ND: NDArray[np.float32], arithmetic: DistanceArithmetic, device: torch.device
) -> Tensor:
    """Squared distance of each image to its third nearest neighbour in the same set, (N,)."""
    radii = []
    for _, rows in _blocks(features_ND, device):
        nearest = torch.full((len(rows), NEIGHBOURS + 1), torch.inf, device=device)
        for _, others in _blocks(features_ND, device):
            near = torch.cat([nearest, squared_distances(rows, others, arithmetic)], dim=1)
            nearest = near.topk(NEIGHBOURS + 1, dim=1, largest=False).values
        radii.append(nearest[:, -1])  # the nearest of all is the image itself
    return torch.cat(radii)


def precision_recall(
    samples_ND: NDArray[np.float32],
    reference_MD: NDArray[np.float32],
    arithmetic: DistanceArithmetic = "fp32",
    device: torch.device | None = None,
) -> tuple[float, float]:
    """Improved precision and recall with k = 3 (Kynkäänniemi et al. 2019), as in ADM's evaluator.

    Precision is the share of samples within the radius of at least one reference image, recall the
    share of reference images within the radius of at least one sample. Only blocks of distances
    are ever in memory.
    """
    device = device or torch.device("cpu")
    sample_radii = neighbour_radii(samples_ND, arithmetic, device)
    reference_radii = neighbour_radii(reference_MD, arithmetic, device)
    precise = torch.zeros(len(samples_ND), dtype=torch.bool, device=device)
    recalled = torch.zeros(len(reference_MD), dtype=torch.bool, device=device)
    for row, samples in _blocks(samples_ND, device):
        rows = slice(row, row + len(samples))
        for column, references in _blocks(reference_MD, device):
            columns = slice(column, column + len(references))
            distances = squared_distances(samples, references, arithmetic)
            precise[rows] |= (distances <= reference_radii[None, columns]).any(dim=1)
            recalled[columns] |= (distances <= sample_radii[rows, None]).any(dim=0)
    return float(precise.double().mean()), float(recalled.double().mean())
