"""LayerSync (Haghighi et al. 2025, arXiv 2510.12581): a block follows a deeper one.

    L = -mean over samples and tokens of cos(student's tokens after block ``student_depth``,
                                             stop-gradient of those after block ``teacher_depth``)

Neither a projector nor another pass: what it costs are the cosines. Weight 0.2, blocks 8 and 16 of
XL/2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from selftrans.alignment.method import AlignmentMethod
from selftrans.config import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

    from selftrans.alignment.base import AlignmentLoss, Batch, LossOutput


class LayerSync(AlignmentMethod):
    """LayerSync (Haghighi et al. 2025): a block follows a deeper block, without a projector."""

    method: Literal["layersync"]
    student_depth: PositiveInt
    """Block that learns, counted from 1 (8 for XL/2)."""
    teacher_depth: PositiveInt
    """Deeper block that it follows, through which no gradient goes (16 for XL/2)."""
    weight: PositiveFloat = 0.2
    """Factor lambda of the term in the loss."""

    @model_validator(mode="after")
    def _teacher_is_deeper(self) -> Self:
        if self.teacher_depth <= self.student_depth:
            raise ValueError(
                f"teacher_depth: {self.teacher_depth} is not deeper than"
                f" student_depth {self.student_depth}"
            )
        return self

    @property
    def student_blocks(self) -> dict[str, int]:
        """Both blocks are the model's."""
        return {"student_depth": self.student_depth, "teacher_depth": self.teacher_depth}

    @property
    def depths(self) -> tuple[int, ...]:
        """The block that learns, and the one that it follows."""
        return (self.student_depth, self.teacher_depth)

    def target_name(self, term: AlignmentLoss) -> str:
        """The block that is followed."""
        return f"LayerSync: block {self.teacher_depth}"

    def compute_loss(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> LossOutput:
        """-cos, averaged over tokens and samples."""
        from selftrans.alignment.base import LossOutput, token_cosines

        target = self.guiding_features(term, batch, features)
        cosines = token_cosines(features[self.student_depth], target)
        return LossOutput(-cosines.mean(), cosines)

    def guiding_features(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> Tensor:
        """The deeper block's tokens, (B, T, D)."""
        return features[self.teacher_depth].detach()
