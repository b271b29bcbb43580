"""Stage 2, self-guided representation: a shallow block follows the frozen teacher's deeper, guided features.

For the same x_t and t, with the teacher's tokens after block ``teacher_depth``,

    f_c = teacher(x_t, t, y)      f_u = teacher(x_t, t, null)      f_g = f_u + w (f_c - f_u)

and the student's tokens after block ``student_depth`` go through an MLP h: L_self = mean |h(student) - f_g|^2, counted
only where t is in range, averaged over the whole batch. The teacher sees the true label even where the student's was
dropped.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from selftrans.alignment.base import (
    AlignmentInputs,
    AlignmentLoss,
    Batch,
    LossOutput,
    detached_cosines,
    mean_squared_error_over_batch,
)
from selftrans.config import SelfTranscendenceConfig
from selftrans.models.heads import projector


class SelfTranscendenceLoss(AlignmentLoss):
    """The signal of stage 2.

    Args:
        settings: depths, guidance scale, weight, time range, projector width, last step.
        inputs: the student's shape, and the frozen trunk, cut at ``teacher_depth``, on the student's device.
    """

    def __init__(self, settings: SelfTranscendenceConfig, inputs: AlignmentInputs) -> None:
        super().__init__(settings)
        assert inputs.teacher is not None
        self.settings = settings
        self.depths = (settings.student_depth,)
        self.projector = projector(
            inputs.shape.hidden_size, settings.projector_width, inputs.teacher.shape.hidden_size
        )
        # In a tuple, so that it is no submodule: not trained, not saved, never switched to training mode.
        self._teacher = (inputs.teacher,)

    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> LossOutput:
        """L_self; teacher and projector run only for the samples that count."""
        rows = batch.rows_within(self.settings.t_range)
        prediction = self.projector(features[self.settings.student_depth][rows])
        if not len(rows):  # zero, and a zero gradient for every parameter of the projector
            return LossOutput(prediction.float().sum(), batch.t_B.new_zeros(0))
        target = self.guided_features(batch.x_BCHW[rows], batch.t_B[rows], batch.labels_B[rows])
        term = mean_squared_error_over_batch(prediction, target, len(batch.t_B))
        return LossOutput(term, detached_cosines(prediction, target))

    def guiding_features(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """f_g, (B, T, D)."""
        return self.guided_features(batch.x_BCHW, batch.t_B, batch.labels_B)

    def guided_features(self, x_BCHW: Tensor, t_B: Tensor, labels_B: Tensor) -> Tensor:
        """f_g = f_u + w (f_c - f_u), (B, T, D)."""
        unconditional, conditional = self.teacher_features(x_BCHW, t_B, labels_B)
        return torch.lerp(unconditional, conditional, self.settings.guidance_scale)

    @torch.no_grad()
    def teacher_features(
        self, x_BCHW: Tensor, t_B: Tensor, labels_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f_u and f_c, (B, T, D) each, in float32: both passes in one batch."""
        (teacher,) = self._teacher
        labels = torch.cat([torch.full_like(labels_B, teacher.null_class), labels_B])
        tokens = teacher.tokens(torch.cat([x_BCHW, x_BCHW]), torch.cat([t_B, t_B]), labels)
        unconditional, conditional = tokens.float().chunk(2)
        return unconditional, conditional
