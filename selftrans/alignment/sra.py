"""SRA, self-representation alignment (Jiang et al. 2025, arXiv 2505.02831): a block follows the model's average at less noise.

With the moving average's tokens after block ``teacher_depth``, for the same latents, noise and (dropped) label at

    t' = max(t - u less_noise, 0),    u ~ U(0, 1),

and a two-layer MLP h over the student's tokens after block ``student_depth``: L is the smooth L1 distance of h(student) from
them with beta 0.05 (the paper's runs), or their mean negative cosine (what the authors' code advises now). Weights as in that
code: 0.5 for the cosine; for the distance 2 times 0.1^(1 + max(step - after, 0)/steps), which falls late in training.

What need not be computed: no block of the average behind ``teacher_depth`` and no output layer is run, and nothing of it with
gradient.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from selftrans.alignment.base import (
    AlignmentInputs,
    AlignmentLoss,
    Batch,
    LossOutput,
    detached_cosines,
    token_cosines,
)
from selftrans.config import SraConfig
from selftrans.models.heads import two_layer_head
from selftrans.models.sit import SiT

BETA = 0.05


class SraLoss(AlignmentLoss):
    """The signal of SRA.

    Args:
        settings: depths, loss, weight and its decay, noise taken away, projector width.
        inputs: the student's shape.
    """

    def __init__(self, settings: SraConfig, inputs: AlignmentInputs) -> None:
        super().__init__(settings)
        self.settings = settings
        self.depths = (settings.student_depth,)
        self.target_name = f"SRA: average, block {settings.teacher_depth}"
        hidden_size = inputs.shape.hidden_size
        self.projector = two_layer_head(hidden_size, settings.projector_width or 2 * hidden_size)
        self._ema_model: tuple[SiT, ...] = ()  # in a tuple, so that it is no submodule

    def set_ema_model(self, ema_model: SiT) -> None:
        """The teacher is the moving average."""
        self._ema_model = (ema_model,)

    def weight_at(self, step: int) -> float:
        """The weight, falling late in training."""
        if (decay := self.settings.decay) is None:
            return self.weight
        return self.weight * 0.1 ** (1 + max(step - decay.after, 0) / decay.steps)

    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> LossOutput:
        """Smooth L1 or -cos, averaged over numbers and samples."""
        prediction = self.projector(features[self.settings.student_depth]).float()
        target = self.guiding_features(batch, features)
        if self.settings.loss == "smooth-l1":
            term = functional.smooth_l1_loss(prediction, target, beta=BETA)
            return LossOutput(term, detached_cosines(prediction, target))
        cosines = token_cosines(prediction, target)
        return LossOutput(-cosines.mean(), cosines)

    @torch.no_grad()
    def guiding_features(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """The average's tokens at less noise, (B, T, D), in float32."""
        (ema_model,) = self._ema_model
        depth = self.settings.teacher_depth
        t_B = (batch.t_B - self.settings.less_noise * batch.uniform_B).clamp_min(0)
        return ema_model.features(batch.noised(t_B), t_B, batch.dropped_labels_B, (depth,))[
            depth
        ].float()
