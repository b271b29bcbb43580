"""Activations of an extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what computes numbers from saved statistics needs no torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Activations of B images; what a network does not have is None."""

    features: Tensor
    """(B, d), for Fréchet and kernel distances, precision and recall."""
    spatial: Tensor | None = None
    """(B, s), for sFID."""
    logits: Tensor | None = None
    """(B, K), for the Inception score."""
