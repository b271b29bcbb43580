"""Stage 1, VAE-based alignment (Sun et al. 2026, arXiv 2601.07773, section "VAE-based alignment").

Tokens of a shallow block go through a head h and predict the diffusion target in latent space:

    L_vae = mean over the batch of 1[t in range] mean |h(student) - target|^2

The target is the velocity (the authors' code) or the clean latent (the letter of the text).
What need not be computed: a sample out of range contributes exactly zero, so h never sees it.
The released code computes another mean, ``t_masking: released``:

    L_vae = (share of the batch in range) (mean over the batch of mean |h(student) - target|^2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from selftrans.alignment.method import AlignmentMethod, Costs
from selftrans.config import PositiveInt, TimeMasking, TimeRangeConfig
from selftrans.flops import share_computed

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


class VaeAlignment(AlignmentMethod):
    """Stage 1: tokens of a shallow block predict the diffusion target in VAE latent space."""

    conditional: ClassVar[bool] = False

    method: Literal["vae-alignment"]
    depth: PositiveInt
    """Student block, counted from 1."""
    target: Literal["velocity", "latent"] = "velocity"
    """What is predicted: the velocity (the authors' code) or the clean latent (the letter of the
    text)."""
    t_range: TimeRangeConfig = TimeRangeConfig()
    """Times at which the term counts."""
    t_masking: TimeMasking = "per-sample"
    """A sample out of range contributes zero (`per-sample`, the text), or every sample counts and
    the mean is multiplied by the share of the global batch in range (`released`, the authors'
    code)."""
    projector_width: PositiveInt = 2048
    """Hidden width of the three-layer projector."""

    @property
    def student_blocks(self) -> dict[str, int]:
        """The block that is aligned."""
        return {"depth": self.depth}

    @property
    def time_masking(self) -> TimeMasking:
        """The mask of the t range."""
        return self.t_masking

    @property
    def depths(self) -> tuple[int, ...]:
        """The block that is aligned."""
        return (self.depth,)

    def target_name(self, term: AlignmentLoss) -> str:
        """VAE velocity, or VAE latent."""
        return f"VAE {self.target}"

    def build_heads(self, inputs: AlignmentInputs) -> Mapping[str, nn.Module]:
        """Projector, layer norm, linear map to the patch."""
        from selftrans.models.heads import LatentHead

        return {"latent": LatentHead(inputs.shape, self.projector_width)}

    def flop(self, costs: Costs) -> float:
        """The projector, for the samples that count."""
        head = costs.projector_flop(self.projector_width)
        return share_computed(self.t_range, self.t_masking, costs.training) * head

    def compute_loss(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> LossOutput:
        """L_vae."""
        from selftrans.alignment.base import (
            LossOutput,
            detached_cosines,
            mean_squared_error_over_batch,
        )

        rows, factor = batch.time_mask(self.t_range, self.t_masking)
        prediction = term.heads["latent"](features[self.depth][rows])
        target = self._target(batch)[rows]
        loss = factor * mean_squared_error_over_batch(prediction, target, len(batch.t_B))
        vectors = (tensor.flatten(1)[:, None] for tensor in (prediction, target))
        return LossOutput(loss, detached_cosines(*vectors))

    def guiding_features(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> Tensor:
        """The target's patches, (B, T, p p C)."""
        from selftrans.models.sit import patchify

        return patchify(self._target(batch), term.shape)

    def analysed_features(
        self, term: AlignmentLoss, model: Backbone, batch: Batch, scales: Sequence[float]
    ) -> GuidingFeatures:
        """The clean latents."""
        from selftrans.alignment.base import GuidingFeatures
        from selftrans.models.sit import patchify

        return GuidingFeatures({}, {"VAE latents": patchify(batch.z_BCHW, term.shape)})

    def _target(self, batch: Batch) -> Tensor:
        return batch.velocity_BCHW if self.target == "velocity" else batch.z_BCHW
