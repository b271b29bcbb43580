"""VAE-REPA, called SRA 2 later (Wang et al. 2026, arXiv 2601.17830, section 3.2).

A block predicts the clean latent, at every t. With an MLP h of five layers over the student's
tokens after block ``depth``, and the clean latent z cut into patches,

    L = mean over samples and elements of smooth L1 (beta 0.05) of h(student) - z.

What can be had is second-hand, since the authors published no code: weight 1, every t, block 2 of
B/2 and 8 of L/2 and XL/2. The widths of h are not stated: hidden layers of twice the hidden size
have the 18 million parameters and the 4 % of operations that the paper gives for XL/2.

It is the nearest rival of stage 1 with ``target: latent``, which it differs from in the loss, the
head, the weight and the range of t. Latents need a spread near one, as those of Stable Diffusion's
autoencoder have after scaling; ``target_normalization: per-sample`` sees to it for others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from selftrans.alignment.method import AlignmentMethod, Costs
from selftrans.alignment.sra import BETA
from selftrans.config import PositiveFloat, PositiveInt
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
    from selftrans.models.backbone import Backbone

HIDDEN_LAYERS = 4  # of the MLP of five layers
EPSILON = 1e-6  # added to a standard deviation


class VaeRepa(AlignmentMethod):
    """VAE-REPA, or SRA 2 (Wang et al. 2026): a block predicts the clean latent, at every t."""

    conditional: ClassVar[bool] = False

    method: Literal["vae-repa"]
    depth: PositiveInt
    """Student block, counted from 1 (2 for B/2, 8 for L/2 and XL/2)."""
    weight: PositiveFloat = 1.0
    """Factor lambda of the term in the loss (the paper's)."""
    target_normalization: Literal["none", "per-sample"] = "none"
    """The clean latent as the model sees it, or each sample's less its mean, over its standard
    deviation: for latents whose spread is far from one (our choice)."""
    projector_width: PositiveInt | None = None
    """Width of the four hidden layers; twice the hidden size, if it is not given (ours: the paper's
    number of parameters and operations)."""

    @property
    def student_blocks(self) -> dict[str, int]:
        """The block that is aligned."""
        return {"depth": self.depth}

    @property
    def depths(self) -> tuple[int, ...]:
        """The block that is aligned."""
        return (self.depth,)

    def target_name(self, term: AlignmentLoss) -> str:
        """The clean latents."""
        return "VAE latents"

    def build_heads(self, inputs: AlignmentInputs) -> Mapping[str, nn.Module]:
        """The projector h."""
        from selftrans.models.heads import mlp

        shape = inputs.shape
        patch = shape.patch_size**2 * shape.latent_shape[0]
        return {"projector": mlp(*self._sizes(shape.hidden_size), patch)}

    def flop(self, costs: Costs) -> float:
        """The projector, but for its last layer, which is a thousandth of it."""
        return mlp_training_flop(costs.tokens, *self._sizes(costs.hidden_size))

    def _sizes(self, hidden_size: int) -> tuple[int, ...]:
        width = self.projector_width or 2 * hidden_size
        return (hidden_size, *(width,) * HIDDEN_LAYERS)

    def compute_loss(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> LossOutput:
        """Smooth L1, averaged over elements and samples."""
        from torch.nn import functional

        from selftrans.alignment.base import LossOutput, detached_cosines

        prediction = term.heads["projector"](features[self.depth]).float()
        target = self.guiding_features(term, batch, features).float()
        loss = functional.smooth_l1_loss(prediction, target, beta=BETA)
        return LossOutput(loss, detached_cosines(prediction, target))

    def guiding_features(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> Tensor:
        """The clean latent's patches, (B, T, p p C)."""
        from selftrans.models.sit import patchify

        z_BCHW = batch.z_BCHW
        if self.target_normalization == "per-sample":
            elements = (1, 2, 3)
            z_BCHW = z_BCHW - z_BCHW.mean(elements, keepdim=True)
            z_BCHW = z_BCHW / (z_BCHW.std(elements, keepdim=True) + EPSILON)
        return patchify(z_BCHW, term.shape)

    def analysed_features(
        self, term: AlignmentLoss, model: Backbone, batch: Batch, scales: Sequence[float]
    ) -> GuidingFeatures:
        """The clean latents."""
        from selftrans.alignment.base import GuidingFeatures

        return GuidingFeatures({}, {self.target_name(term): self.guiding_features(term, batch, {})})
