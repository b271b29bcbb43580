"""LayerSync (Haghighi et al. 2025, arXiv 2510.12581): a block follows a deeper block of the same forward pass.

    L = -mean over samples and tokens of cos(student's tokens after block ``student_depth``,
                                             stop-gradient of those after block ``teacher_depth``)

Neither a projector nor another pass: what it costs are the cosines. Weight 0.2, blocks 8 and 16 of XL/2.
"""

from collections.abc import Mapping

from torch import Tensor

from selftrans.alignment.base import (
    AlignmentInputs,
    AlignmentLoss,
    Batch,
    LossOutput,
    token_cosines,
)
from selftrans.config import LayerSyncConfig


class LayerSyncLoss(AlignmentLoss):
    """The signal of LayerSync.

    Args:
        settings: depths and weight.
        inputs: nothing of them is needed.
    """

    def __init__(self, settings: LayerSyncConfig, inputs: AlignmentInputs) -> None:
        super().__init__(settings)
        self.settings = settings
        self.depths = (settings.student_depth, settings.teacher_depth)
        self.target_name = f"LayerSync: block {settings.teacher_depth}"

    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> LossOutput:
        """-cos, averaged over tokens and samples."""
        target = self.guiding_features(batch, features)
        cosines = token_cosines(features[self.settings.student_depth], target)
        return LossOutput(-cosines.mean(), cosines)

    def guiding_features(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """The deeper block's tokens, (B, T, D)."""
        return features[self.settings.teacher_depth].detach()
