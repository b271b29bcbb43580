"""SRA, self-representation alignment (Jiang et al. 2025, arXiv 2505.02831).

A block follows a deeper block of the model's own EMA at less noise. With the EMA model's tokens
after block ``teacher_depth``, for the same latents, noise and (dropped) label at

    t' = max(t - u less_noise, 0),    u ~ U(0, 1),

and a two-layer MLP h over the student's tokens after block ``student_depth``: L is the smooth L1
distance of h(student) from them with beta 0.05 (the paper's runs), or their mean negative cosine
(what the authors' code advises now; that code takes it over the tokens of each feature, where the
text takes it over the features of each token). Weights as in that code: 0.5 for the cosine; for
the distance 2 times 0.1^(1 + max(step - after, 0)/steps), which falls late in training.

What need not be computed: no block of the EMA model behind ``teacher_depth`` and no output layer
is run, and nothing of it with gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from selftrans.alignment.method import AlignmentMethod, Costs
from selftrans.config import ConfigModel, PositiveFloat, PositiveInt, UnitFloat
from selftrans.flops import mlp_training_flop

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selftrans.alignment.base import AlignmentInputs, AlignmentLoss, Batch, LossOutput

BETA = 0.05


class DecayConfig(ConfigModel):
    """A weight that falls late in training."""

    after: Annotated[int, Field(ge=0)] = 750_000
    """Optimizer step at which it starts to fall (SRA's code: epoch 149 of ImageNet at batch
    256)."""
    steps: PositiveInt = 5_000_000
    """Steps in which it falls to a tenth (SRA's code: 1,000 epochs)."""


class Sra(AlignmentMethod):
    """SRA (Jiang et al. 2025): a block follows a deeper block of the EMA model at less noise."""

    method: Literal["sra"]
    student_depth: PositiveInt
    """Student block, counted from 1 (8 for XL/2, 4 for B/2)."""
    teacher_depth: PositiveInt
    """Block of the EMA model, counted from 1 (20 for XL/2, 8 for B/2)."""
    loss: Literal["smooth-l1", "cosine", "cosine-over-tokens"] = "smooth-l1"
    """Smooth L1 with beta 0.05 (the paper's runs), or the negative cosine (what its authors advise
    now): over the features of each token, or over the tokens of each feature, as their code has
    it."""
    weight: PositiveFloat
    """Factor of the term in the loss; 2 for `smooth-l1` and 0.5 for a cosine, if it is not
    given."""
    decay: DecayConfig | None
    """A further factor 0.1^(1 + (step - after)/steps), 0.1 before; given for `smooth-l1`, none for
    a cosine, as in its code."""
    less_noise: UnitFloat = 0.2
    """The teacher sees t' = t - u less_noise, u ~ U(0, 1), not below 0."""
    projector_width: PositiveInt | None = None
    """Hidden width of the two-layer head; twice the hidden size, if it is not given."""

    @model_validator(mode="before")
    @classmethod
    def _fill_by_loss(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        cosine = values.get("loss", "smooth-l1") != "smooth-l1"
        return {"weight": 0.5 if cosine else 2.0, "decay": None if cosine else {}, **values}

    @property
    def student_blocks(self) -> dict[str, int]:
        """Both blocks are the model's."""
        return {"student_depth": self.student_depth, "teacher_depth": self.teacher_depth}

    @property
    def depths(self) -> tuple[int, ...]:
        """The block that learns."""
        return (self.student_depth,)

    def target_name(self, term: AlignmentLoss) -> str:
        """The block that is followed."""
        return f"SRA: average, block {self.teacher_depth}"

    def weight_at(self, step: int) -> float:
        """The weight, falling late in training."""
        if self.decay is None:
            return self.weight
        return self.weight * 0.1 ** (1 + max(step - self.decay.after, 0) / self.decay.steps)

    def build_heads(self, inputs: AlignmentInputs) -> Mapping[str, nn.Module]:
        """The head h."""
        from selftrans.models.heads import two_layer_head

        hidden_size = inputs.shape.hidden_size
        width = self.projector_width or 2 * hidden_size
        return {"projector": two_layer_head(hidden_size, width)}

    def flop(self, costs: Costs) -> float:
        """A pass through the EMA model, and the head."""
        width = self.projector_width or 2 * costs.hidden_size
        head = mlp_training_flop(costs.tokens, costs.hidden_size, width, costs.hidden_size)
        return costs.student_flop(self.teacher_depth) + head

    def compute_loss(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> LossOutput:
        """Smooth L1 or -cos, averaged over elements and samples."""
        from torch.nn import functional

        from selftrans.alignment.base import LossOutput, detached_cosines, token_cosines

        prediction = term.heads["projector"](features[self.student_depth]).float()
        target = self.guiding_features(term, batch, features)
        if self.loss == "smooth-l1":
            loss = functional.smooth_l1_loss(prediction, target, beta=BETA)
            return LossOutput(loss, detached_cosines(prediction, target))
        if self.loss == "cosine-over-tokens":
            similarity = functional.cosine_similarity(prediction, target, dim=1).mean()
            return LossOutput(-similarity, detached_cosines(prediction, target))
        cosines = token_cosines(prediction, target)
        return LossOutput(-cosines.mean(), cosines)

    def guiding_features(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> Tensor:
        """The EMA model's tokens at less noise, (B, T, D), in float32."""
        import torch

        depth = self.teacher_depth
        with torch.no_grad():
            t_B = (batch.t_B - self.less_noise * batch.uniform_B).clamp_min(0)
            x_BCHW, condition = batch.noised(t_B), batch.dropped_condition_B
            return term.ema_model.features(x_BCHW, t_B, condition, (depth,))[depth].float()
