"""Dispersive loss (Wang and He 2025, arXiv 2506.09027, InfoNCE variant with l2 distances).

The samples of a batch are driven apart in one block's features: there is nothing to follow. With
the tokens of sample i after block ``depth`` flattened to z_i, of T D elements, for a group of
samples

    L = log mean over all i, j of exp(-|z_i - z_j|^2 / (T D temperature)),

i = j included, and averaged over the groups. In the published code a group is what one device
computes. Here it is ``group_size`` samples at consecutive positions of the global batch, so the
value does not depend on the number of processes. Settings as in the authors' JAX experiments (the
table in DispLoss, README): groups of 16, lambda 0.5, temperature 0.5, a quarter of the depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from selftrans.alignment.method import AlignmentMethod, Costs
from selftrans.config import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

    from selftrans.alignment.base import AlignmentLoss, Batch, GuidingFeatures, LossOutput
    from selftrans.models.backbone import Backbone


class Dispersive(AlignmentMethod):
    """Dispersive loss (Wang and He 2025): features of a batch's samples are driven apart."""

    conditional: ClassVar[bool] = False

    method: Literal["dispersive"]
    depth: PositiveInt
    """Student block, counted from 1 (a quarter of the depth in JAX: 3 for B/2, 7 for XL/2; the last
    one in PyTorch)."""
    weight: PositiveFloat = 0.5
    """Factor lambda of the term in the loss (0.25 in PyTorch)."""
    temperature: PositiveFloat = 0.5
    """Temperature tau (1 in PyTorch)."""
    group_size: Annotated[int, Field(ge=2)] = 16
    """Samples at consecutive positions of the global batch whose distances are compared (32 in
    PyTorch); divides what a process computes at a time."""

    @property
    def student_blocks(self) -> dict[str, int]:
        """The block whose features are dispersed."""
        return {"depth": self.depth}

    @property
    def depths(self) -> tuple[int, ...]:
        """The block whose features are dispersed."""
        return (self.depth,)

    @property
    def batch_group(self) -> int:
        """Micro-batches hold whole groups."""
        return self.group_size

    def flop(self, costs: Costs) -> float:
        """A difference, a square and a sum for each pair and element, and twice that backward."""
        return 3 * 3 * self.group_size * costs.tokens * costs.hidden_size

    def compute_loss(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> LossOutput:
        """The mean over groups."""
        import torch

        from selftrans.alignment.base import LossOutput

        z_BTD = features[self.depth].float()
        z_KTGD = z_BTD.unflatten(0, (-1, self.group_size)).transpose(1, 2)
        # By differences: products would lose what near samples differ by, above all in TF32. Of
        # each token: a CPU adds up a distance's terms one by one, and all tokens' are too many.
        distances_KTGG = torch.cdist(z_KTGD, z_KTGD, compute_mode="donot_use_mm_for_euclid_dist")
        scaled_KGG = distances_KTGG.square().mean(1) / (z_BTD.shape[2] * self.temperature)
        similarity = torch.logsumexp(-scaled_KGG.flatten(1), dim=1) - 2 * math.log(self.group_size)
        return LossOutput(similarity.mean(), z_BTD.new_zeros(0))

    def guiding_features(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> Tensor:
        """None: features without an element, (B, T, 0)."""
        return batch.t_B.new_zeros(len(batch.t_B), term.shape.grid_size**2, 0)

    def analysed_features(
        self, term: AlignmentLoss, model: Backbone, batch: Batch, scales: Sequence[float]
    ) -> GuidingFeatures:
        """None."""
        from selftrans.alignment.base import GuidingFeatures

        return GuidingFeatures({}, {})
