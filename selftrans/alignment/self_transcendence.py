"""Stage 2, self-guided representation (Sun et al. 2026, arXiv 2601.07773).

A shallow block follows the frozen teacher's deeper features, sharpened by classifier-free guidance
in feature space. For the same x_t and t, with the teacher's tokens after block ``teacher_depth``,

    f_c = teacher(x_t, t, y)      f_u = teacher(x_t, t, null)      f_g = f_u + w (f_c - f_u)

and the student's tokens after block ``student_depth`` go through an MLP h:

    L_self = mean over the batch of 1[t in range] mean |h(student) - f_g|^2

A teacher of classes sees the true one even where the student's was dropped; one of captions sees
what the student sees, ``teacher_condition``.
What need not be computed: a sample out of range contributes exactly zero, so neither the teacher
nor h sees it. The released code computes another mean, ``t_masking: released``:

    L_self = (share of the batch in range) (mean over the batch of mean |h(student) - f_g|^2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

from selftrans.alignment.method import AlignmentMethod, Costs
from selftrans.config import (
    FrozenTeacher,
    PositiveInt,
    TeacherConfig,
    TimeMasking,
    TimeRangeConfig,
)
from selftrans.flops import share_computed
from selftrans.runtime.logs import LOG

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selftrans.alignment.base import (
        AlignmentInputs,
        AlignmentLoss,
        Batch,
        GuidingFeatures,
        LossOutput,
    )
    from selftrans.models.backbone import Backbone


class SelfTranscendence(AlignmentMethod):
    """Stage 2: a shallow block follows the frozen teacher's deeper features, guided."""

    method: Literal["self-transcendence"]
    teacher: TeacherConfig
    """The model whose features are followed."""
    student_depth: PositiveInt
    """Student block, counted from 1."""
    teacher_depth: PositiveInt
    """Teacher block, counted from 1."""
    guidance_scale: float = 5.0
    """Scale w of f_u + w (f_c - f_u)."""
    t_range: TimeRangeConfig = TimeRangeConfig()
    """Times at which the term counts."""
    t_masking: TimeMasking = "per-sample"
    """A sample out of range contributes zero (`per-sample`, the text), or every sample counts and
    the mean is multiplied by the share of the global batch in range (`released`, the authors'
    code)."""
    teacher_condition: Literal["given", "student"] | None = None
    """What the teacher is shown: the image's condition as it is `given`, or what the `student`
    sees, which may be dropped. Of classes it is `given`, of captions `student`, as in the authors'
    code, if it is not said."""
    projector_width: PositiveInt = 2048
    """Hidden width of the three-layer projector."""

    @property
    def student_blocks(self) -> dict[str, int]:
        """The block that learns."""
        return {"student_depth": self.student_depth}

    @property
    def frozen_teacher(self) -> FrozenTeacher:
        """The teacher, cut at the block that is followed."""
        return FrozenTeacher(self.teacher, self.teacher_depth)

    @property
    def time_masking(self) -> TimeMasking:
        """The mask of the t range."""
        return self.t_masking

    @property
    def depths(self) -> tuple[int, ...]:
        """The block that learns."""
        return (self.student_depth,)

    def build_heads(self, inputs: AlignmentInputs) -> Mapping[str, nn.Module]:
        """The projector h."""
        from selftrans.models.heads import projector

        assert inputs.teacher is not None
        if inputs.shape.condition_size == 1 and self.guidance_scale != 1:
            LOG.warning(
                "self-transcendence: with one class f_c - f_u carries nothing about what is seen:"
                " guidance_scale %g magnifies noise (1 is without guidance)",
                self.guidance_scale,
            )
        output_size = inputs.teacher.shape.hidden_size
        width = self.projector_width
        return {"projector": projector(inputs.shape.hidden_size, width, output_size)}

    def flop(self, costs: Costs) -> float:
        """The projector and, in the training's precision, the teacher, for what counts."""
        share = share_computed(self.t_range, self.t_masking, costs.training)
        teacher = 0.0 if self.teacher.precision == "fp32" else self._teacher_flop(costs)
        return share * costs.projector_flop(self.projector_width) + teacher

    def fp32_flop(self, costs: Costs) -> float:
        """The teacher, where it computes in fp32."""
        return self._teacher_flop(costs) if self.teacher.precision == "fp32" else 0.0

    def _teacher_flop(self, costs: Costs) -> float:
        """Two passes through the teacher, for the samples that count."""
        share = share_computed(self.t_range, self.t_masking, costs.training)
        return share * 2 * costs.teacher_flop(self.teacher_depth)

    def compute_loss(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> LossOutput:
        """L_self."""
        from selftrans.alignment.base import (
            LossOutput,
            detached_cosines,
            mean_squared_error_over_batch,
        )

        rows, factor = batch.time_mask(self.t_range, self.t_masking)
        prediction = term.heads["projector"](features[self.student_depth][rows])
        if not len(prediction):  # zero, and a zero gradient for every parameter of the projector
            return LossOutput(prediction.float().sum(), batch.t_B.new_zeros(0))
        shown = self.condition_of_teacher(term, batch)
        target = self.guided_features(term, batch.x_BCHW[rows], batch.t_B[rows], shown[rows])
        loss = factor * mean_squared_error_over_batch(prediction, target, len(batch.t_B))
        return LossOutput(loss, detached_cosines(prediction, target))

    def guiding_features(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> Tensor:
        """f_g, (B, T, D)."""
        shown = self.condition_of_teacher(term, batch)
        return self.guided_features(term, batch.x_BCHW, batch.t_B, shown)

    def condition_of_teacher(self, term: AlignmentLoss, batch: Batch) -> Tensor:
        """What the teacher is shown, a row for each sample."""
        of_task = "given" if isinstance(term.shape.condition_size, int) else "student"
        given = (self.teacher_condition or of_task) == "given"
        return batch.condition_B if given else batch.dropped_condition_B

    def analysed_features(
        self, term: AlignmentLoss, model: Backbone, batch: Batch, scales: Sequence[float]
    ) -> GuidingFeatures:
        """f_c and f_g at every scale with the label, and f_u without, from one pass."""
        from selftrans.alignment.base import GuidingFeatures

        f_u, f_c = self.teacher_features(term, batch.x_BCHW, batch.t_B, batch.condition_B)
        guided = {f"f_g, w = {scale:g}": f_u.lerp(f_c, scale) for scale in scales}
        return GuidingFeatures({"f_c": f_c, **guided}, {"f_u": f_u})

    def guided_features(
        self, term: AlignmentLoss, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor
    ) -> Tensor:
        """f_g = f_u + w (f_c - f_u), (B, T, D)."""
        unconditional, conditional = self.teacher_features(term, x_BCHW, t_B, condition_B)
        return unconditional.lerp(conditional, self.guidance_scale)

    def teacher_features(
        self, term: AlignmentLoss, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f_u and f_c, (B, T, D) each, in float32, without gradient: both passes in one batch."""
        import torch

        with torch.no_grad():
            null = term.teacher.null_condition(len(t_B))
            conditions = torch.cat([null, condition_B])
            x, t = torch.cat([x_BCHW, x_BCHW]), torch.cat([t_B, t_B])
            depth = self.teacher_depth
            exact = self.teacher.precision == "fp32"
            with torch.autocast(x.device.type, enabled=False) if exact else nullcontext():
                tokens = term.teacher.features(x, t, conditions, (depth,))[depth]
            unconditional, conditional = tokens.float().chunk(2)
        return unconditional, conditional
