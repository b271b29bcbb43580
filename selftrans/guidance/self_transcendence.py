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

from selftrans.config import SelfTranscendence
from selftrans.guidance.base import Batch, Guidance, mean_squared_error_over_batch
from selftrans.models.heads import projector
from selftrans.models.sit import SiTShape, SiTTrunk


class SelfTranscendenceGuidance(Guidance):
    """The signal of stage 2.

    Args:
        settings: depths, guidance scale, weight, time range, projector width, last step.
        shape: the student's shape.
        teacher: the frozen trunk, cut at ``teacher_depth``, on the student's device.
    """

    def __init__(self, settings: SelfTranscendence, shape: SiTShape, teacher: SiTTrunk) -> None:
        super().__init__()
        self.settings = settings
        self.weight = settings.weight
        self.depths = (settings.student_depth,)
        self.projector = projector(shape.width, settings.projector_width, teacher.shape.width)
        # In a tuple, so that it is no submodule: not trained, not saved, never switched to training mode.
        self._teacher = (teacher,)

    def is_active(self, step: int) -> bool:
        """Up to ``stop_after`` steps."""
        return self.settings.stop_after is None or step < self.settings.stop_after

    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """L_self; teacher and projector run only for the samples that count."""
        rows = batch.rows_within(self.settings.t_range)
        prediction = self.projector(features[self.settings.student_depth][rows])
        if not len(rows):
            return prediction.float().sum()  # zero, and a zero gradient for every parameter of the projector
        target = self.guided_features(batch.x_BCHW[rows], batch.t_B[rows], batch.labels_B[rows])
        return mean_squared_error_over_batch(prediction, target, len(batch.t_B))

    @torch.no_grad()
    def guided_features(self, x_BCHW: Tensor, t_B: Tensor, labels_B: Tensor) -> Tensor:
        """f_g of the teacher, (B, T, D): both passes in one batch."""
        (teacher,) = self._teacher
        labels = torch.cat([labels_B, torch.full_like(labels_B, teacher.null_class)])
        tokens = teacher.tokens(torch.cat([x_BCHW, x_BCHW]), torch.cat([t_B, t_B]), labels)
        conditional, unconditional = tokens.float().chunk(2)
        return torch.lerp(unconditional, conditional, self.settings.guidance_scale)
