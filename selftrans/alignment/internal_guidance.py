"""Internal Guidance (Zhou et al. 2025, arXiv 2512.24176; CVL-UESTC/Internal-Guidance).

A second output layer, like the last one with adaptive layer norm, predicts the velocity v behind
block ``depth``, at every t (SiT/loss.py, SiT/models/sit.py):

    L = mean over samples and elements of |v_mid - v|^2,    lambda 0.5.

It is a part of the model: averaged, exported and sampled with it. The earlier block's prediction is
the worse one, and sampling goes away from it, v_mid + s (v - v_mid), in an interval of time: the
sampler's ``internal_guidance`` (``selftrans.flow.sampler``). Block 8 of XL/2, as in its script;
that of B/2 is not stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from selftrans.alignment.method import AlignmentMethod, Costs
from selftrans.config import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

    from selftrans.alignment.base import AlignmentLoss, Batch, LossOutput
    from selftrans.models.backbone import BlockFeatures


class InternalGuidance(AlignmentMethod):
    """Internal Guidance (Zhou et al. 2025): an earlier block predicts the velocity, too."""

    conditional: ClassVar[bool] = False

    method: Literal["internal-guidance"]
    depth: PositiveInt
    """Student block, counted from 1 (8 for XL/2)."""
    weight: PositiveFloat = 0.5
    """Factor lambda of the term in the loss (its code's)."""

    @model_validator(mode="after")
    def _never_stops(self) -> Self:
        if self.stop_after is not None:
            raise ValueError(
                f"stop_after: {self.stop_after} would leave the output layer behind the model that"
                " it guides (allowed: none)"
            )
        return self

    @property
    def student_blocks(self) -> dict[str, int]:
        """The block that the output layer reads."""
        return {"depth": self.depth}

    @property
    def depths(self) -> tuple[int, ...]:
        """The block that the output layer reads."""
        return (self.depth,)

    @property
    def intermediate_depth(self) -> int:
        """The block that the output layer reads."""
        return self.depth

    def target_name(self, term: AlignmentLoss) -> str:
        """The velocity."""
        return "velocity"

    def flop(self, costs: Costs) -> float:
        """The output layer, which has as many operations as the embedders."""
        return 3 * costs.student_flop(0)

    def compute_loss(
        self, term: AlignmentLoss, batch: Batch, features: BlockFeatures
    ) -> LossOutput:
        """The mean squared error of the second velocity."""
        from selftrans.alignment.base import LossOutput, detached_cosines

        prediction, target = features.intermediate_velocity().float(), batch.velocity_BCHW
        vectors = (tensor.flatten(1)[:, None] for tensor in (prediction, target))
        return LossOutput((prediction - target).square().mean(), detached_cosines(*vectors))

    def guiding_features(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> Tensor:
        """The velocity's patches, (B, T, p p C)."""
        from selftrans.models.sit import patchify

        return patchify(batch.velocity_BCHW, term.shape)
