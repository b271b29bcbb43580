"""What an extractor says about images."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Activations of B images; what a network does not have is None."""

    features: Tensor
    """(B, d), for Frechet and kernel distances, precision and recall."""
    spatial: Tensor | None = None
    """(B, s), for sFID."""
    logits: Tensor | None = None
    """(B, K), for the Inception score."""
