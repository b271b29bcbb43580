"""What a method is: its keys, its formula, its loss, in one class.

Files of methods import torch only where they compute, since reading an experiment imports them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from selftrans.config import AlignmentConfig, TrainingConfig
from selftrans.flops import mlp_training_flop

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selftrans.alignment.base import (
        AlignmentInputs,
        AlignmentLoss,
        Batch,
        GuidingFeatures,
        LossOutput,
    )
    from selftrans.models.backbone import Backbone, BlockFeatures


class Costs(NamedTuple):
    """What the cost of a term follows from."""

    hidden_size: int
    """The student's."""
    tokens: int
    """Tokens T of a latent."""
    training: TrainingConfig
    """The recipe, with the distribution of t."""
    student_flop: Callable[[int], float]
    """Operations of a forward pass through the student's first blocks, for one sample."""
    teacher_flop: Callable[[int], float]
    """The same of the frozen teacher's backbone."""

    def projector_flop(self, width: int) -> float:
        """Operations of a training step of the three-layer projector, for one sample."""
        return mlp_training_flop(self.tokens, self.hidden_size, width, width, self.hidden_size)


class AlignmentMethod(AlignmentConfig):
    """A method of alignment: a term of the loss over the tokens of some of the student's blocks.

    Its keys are those of ``AlignmentConfig`` and its own. What it computes with besides (heads, a
    frozen teacher, an encoder, the EMA model) comes as ``term``, the module that runs it.
    """

    conditional: ClassVar[bool] = True
    """Whether the guiding features are a function of the sample's condition, so that they may give
    it away."""

    @property
    @abstractmethod
    def depths(self) -> tuple[int, ...]:
        """Student blocks, counted from 1, whose tokens the loss is computed from.

        0 is what the first block reads.
        """

    @property
    def needs_global_times(self) -> bool:
        """Whether the loss needs the times of the whole global batch, ``batch.global_times``."""
        return self.time_masking == "released"

    def is_active(self, step: int) -> bool:
        """Whether the term counts in optimizer step ``step``, counted from 0."""
        return self.stop_after is None or step < self.stop_after

    def weight_at(self, step: int) -> float:
        """Factor of the term in the loss."""
        return self.weight

    def target_name(self, term: AlignmentLoss) -> str:
        """What the guiding features are called in figures."""
        return "guiding features"

    def build_heads(self, inputs: AlignmentInputs) -> Mapping[str, nn.Module]:
        """Fresh heads that only training needs, by name: they are trained, saved and resumed.

        Every parameter takes part in the loss whatever the batch holds, so that distributed
        training never meets a parameter without a gradient.
        """
        return {}

    def flop(self, costs: Costs) -> float:
        """Operations of the term for one sample: heads, and passes through what it follows."""
        return 0.0

    def fp32_flop(self, costs: Costs) -> float:
        """Operations beside these that stay in fp32, whatever the training's precision."""
        return 0.0

    @abstractmethod
    def guiding_features(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> Tensor:
        """What the student's tokens follow, for every sample, (B, T, D'), without gradient."""

    def analysed_features(
        self, term: AlignmentLoss, model: Backbone, batch: Batch, scales: Sequence[float]
    ) -> GuidingFeatures:
        """What the analysis of features shows of the term.

        Args:
            term: the term.
            model: the trained backbone.
            batch: images at one time, with their true conditions.
            scales: guidance scales to show, where there are any.
        """
        from selftrans.alignment.base import GuidingFeatures

        def followed(batch: Batch) -> dict[str, Tensor]:
            depths = self.depths or (1,)
            features = model.features(batch.x_BCHW, batch.t_B, batch.dropped_condition_B, depths)
            return {self.target_name(term): self.guiding_features(term, batch, features)}

        unconditional = followed(batch.unconditional(model))
        return GuidingFeatures(followed(batch) if self.conditional else {}, unconditional)

    @abstractmethod
    def compute_loss(
        self, term: AlignmentLoss, batch: Batch, features: BlockFeatures
    ) -> LossOutput:
        """The term; ``features[d]`` are the student's tokens (B, T, D) after block d."""
