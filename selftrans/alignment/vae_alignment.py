"""Stage 1, VAE-based alignment: tokens of a shallow block predict the diffusion target in latent space.

L_vae is the mean squared error between the head's prediction and the velocity (the authors' code) or the clean latent
(the letter of the text), counted only where t is in range, averaged over the whole batch.
"""

from collections.abc import Mapping

from torch import Tensor

from selftrans.alignment.base import (
    AlignmentInputs,
    AlignmentLoss,
    Batch,
    LossOutput,
    detached_cosines,
    mean_squared_error_over_batch,
)
from selftrans.config import VaeAlignmentConfig
from selftrans.models.heads import LatentHead
from selftrans.models.sit import patchify


class VaeAlignmentLoss(AlignmentLoss):
    """The signal of stage 1.

    Args:
        settings: depth, weight, target, time range, projector width.
        inputs: the student's shape.
    """

    def __init__(self, settings: VaeAlignmentConfig, inputs: AlignmentInputs) -> None:
        super().__init__(settings)
        self.settings, self.shape = settings, inputs.shape
        self.depths = (settings.depth,)
        self.target_name, self.label_conditioned = f"VAE {settings.target}", False
        self.head = LatentHead(inputs.shape, settings.projector_width)

    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> LossOutput:
        """L_vae; the head runs only for the samples that count."""
        rows = batch.rows_within(self.settings.t_range)
        prediction, target = (
            self.head(features[self.settings.depth][rows]),
            self._target(batch)[rows],
        )
        term = mean_squared_error_over_batch(prediction, target, len(batch.t_B))
        return LossOutput(
            term, detached_cosines(prediction.flatten(1)[:, None], target.flatten(1)[:, None])
        )

    def guiding_features(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """The target's patches, (B, T, p p C)."""
        return patchify(self._target(batch), self.shape)

    def _target(self, batch: Batch) -> Tensor:
        return batch.velocity_BCHW if self.settings.target == "velocity" else batch.z_BCHW
