"""Stage 1, VAE-based alignment: tokens of a shallow block predict the diffusion target in latent space.

L_vae is the mean squared error between the head's prediction and the velocity (the authors' code) or the clean latent
(the letter of the text), counted only where t is in range, averaged over the whole batch.
"""

from collections.abc import Mapping

from torch import Tensor

from selftrans.config import VaeAlignment
from selftrans.guidance.base import Batch, Guidance, mean_squared_error_over_batch
from selftrans.models.heads import LatentHead
from selftrans.models.sit import SiTShape


class VaeAlignmentGuidance(Guidance):
    """The signal of stage 1.

    Args:
        settings: depth, weight, target, time range, projector width.
        shape: the student's shape.
    """

    def __init__(self, settings: VaeAlignment, shape: SiTShape) -> None:
        super().__init__()
        self.settings = settings
        self.weight = settings.weight
        self.depths = (settings.depth,)
        self.head = LatentHead(shape, settings.projector_width)

    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """L_vae; the head runs only for the samples that count."""
        rows = batch.rows_within(self.settings.t_range)
        target = batch.velocity_BCHW if self.settings.target == "velocity" else batch.z_BCHW
        prediction = self.head(features[self.settings.depth][rows])
        return mean_squared_error_over_batch(prediction, target[rows], len(batch.t_B))
