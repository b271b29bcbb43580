"""REPA, representation alignment (Yu et al. 2025, arXiv 2410.06940, equation 8).

With an external encoder's patch tokens f of the clean image and an MLP h over the student's tokens
after block ``depth``,

    L = -mean over samples and tokens of cos(h(student), f).

Every sample counts, whatever its t. Settings as in the authors' code: lambda 0.5, block 8 of XL/2
and 4 of B/2, a three-layer MLP with SiLU of hidden width 2048, DINOv2 ViT-B. Where the encoder's
grid of tokens is not the student's, its tokens are resized bilinearly (with antialias where there
are more of them).

Two options are those of iREPA (Singh et al. 2025, arXiv 2512.10794; End2End-Diffusion/iREPA,
ldm/train.py), which accentuate the spatial structure of f: h is a 3x3 convolution over the grid of
tokens, and each feature of f is normalised over the tokens of its image, with the mean and the
(unbiased) standard deviation over them,

    f' = (f - a mean) / (std + 1e-6),    a = 0.6.

Its runs have lambda 1.

What need not be computed: the encoder is frozen and sees no noise, so its tokens are read from a
store that was made once. With ``features: images`` it runs at every step, without gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from selftrans.alignment.method import AlignmentMethod, Costs
from selftrans.config import EncoderUse, Name, PositiveInt, UnitFloat
from selftrans.flops import mlp_training_flop

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selftrans.alignment.base import AlignmentInputs, AlignmentLoss, Batch, LossOutput

EPSILON = 1e-6  # added to a standard deviation


class EncoderAlignment(AlignmentMethod):
    """A block follows an external encoder's tokens: what REPA and its extensions share."""

    conditional: ClassVar[bool] = False

    encoder: Name
    """One of the data file's `encoders`."""
    depth: PositiveInt
    """Student block, counted from 1 (8 for XL/2, 4 for B/2)."""
    projector: Literal["mlp", "convolution"] = "mlp"
    """A three-layer MLP on each token, or iREPA's 3x3 convolution over their grid."""
    projector_width: PositiveInt = 2048
    """Hidden width of the MLP (REPA's code)."""
    target_normalization: Literal["none", "over-tokens"] = "none"
    """The encoder's features as they are, or each one less a share of its mean over the tokens of
    the image, over its standard deviation there (iREPA)."""
    subtracted_mean: UnitFloat = 0.6
    """Share a of that mean (the default of iREPA's code)."""

    @property
    def student_blocks(self) -> dict[str, int]:
        """The block that is aligned."""
        return {"depth": self.depth}

    @property
    def encoder_use(self) -> EncoderUse:
        """The encoder, on the images."""
        return EncoderUse(self.encoder, "images")

    @property
    def depths(self) -> tuple[int, ...]:
        """The block that is aligned."""
        return (self.depth,)

    def build_heads(self, inputs: AlignmentInputs) -> Mapping[str, nn.Module]:
        """The projector h."""
        from selftrans.models.heads import ConvolutionProjector, projector

        assert inputs.encoder is not None
        hidden_size, output_size = inputs.shape.hidden_size, inputs.encoder.hidden_size
        if self.projector == "convolution":
            grid_size = inputs.shape.grid_size
            return {"projector": ConvolutionProjector(hidden_size, output_size, grid_size)}
        return {"projector": projector(hidden_size, self.projector_width, output_size)}

    def flop(self, costs: Costs) -> float:
        """The projector; an encoder that runs on images is counted with the encoders."""
        if self.projector == "convolution":
            return mlp_training_flop(costs.tokens, 9 * costs.hidden_size, costs.hidden_size)
        return costs.projector_flop(self.projector_width)

    def encoder_name(self, term: AlignmentLoss) -> str:
        """The encoder; a stand-in is called one."""
        unnamed = term.encoder.stand_in and "stand-in" not in self.encoder
        return f"{self.encoder}{' (stand-in)' if unnamed else ''}"

    def guiding_features(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> Tensor:
        """The encoder's tokens on the student's grid, (B, T, D')."""
        from selftrans.models.encoder import PatchEncoder

        if isinstance(term.encoder, PatchEncoder):
            assert batch.images_BHWC is not None
            tokens = term.encoder(batch.images_BHWC)
        else:
            tokens = batch.encoder_features[self.encoder]
        return self.target(tokens, term.shape.grid_size)

    def target(self, tokens_BTD: Tensor, grid_size: int) -> Tensor:
        """The encoder's tokens as they are followed, (B, T, D')."""
        tokens = tokens_BTD.float()
        if self.target_normalization == "over-tokens":
            mean, deviation = tokens.mean(1, keepdim=True), tokens.std(1, keepdim=True)
            tokens = (tokens - self.subtracted_mean * mean) / (deviation + EPSILON)
        return resized_tokens(tokens, grid_size)


class Repa(EncoderAlignment):
    """REPA (Yu et al. 2025): a block follows an external encoder's tokens of the clean image."""

    method: Literal["repa"]
    features: Literal["store", "images"] = "store"
    """Read the features from a store that a rule of its own makes beside the latents, or compute
    them from the images at every step. That saves the disk (half a terabyte for ImageNet at ViT-B)
    and costs the encoder's forward pass."""

    @property
    def encoder_use(self) -> EncoderUse:
        """The encoder whose tokens are followed."""
        return EncoderUse(self.encoder, self.features)

    def target_name(self, term: AlignmentLoss) -> str:
        """The encoder; a stand-in is called one."""
        return f"REPA: {self.encoder_name(term)}"

    def compute_loss(
        self, term: AlignmentLoss, batch: Batch, features: Mapping[int, Tensor]
    ) -> LossOutput:
        """-cos, averaged over tokens and samples."""
        from selftrans.alignment.base import LossOutput, token_cosines

        target = self.guiding_features(term, batch, features)
        cosines = token_cosines(term.heads["projector"](features[self.depth]), target)
        return LossOutput(-cosines.mean(), cosines)


def resized_tokens(tokens_BTD: Tensor, grid_size: int) -> Tensor:
    """A square grid of tokens resized to ``grid_size`` per side, or as it is if it fits."""
    from torch.nn import functional

    side = round(tokens_BTD.shape[1] ** 0.5)
    if side == grid_size:
        return tokens_BTD
    grid = tokens_BTD.transpose(1, 2).reshape(len(tokens_BTD), -1, side, side)
    size, antialias = (grid_size, grid_size), side > grid_size
    resized = functional.interpolate(grid, size, mode="bilinear", antialias=antialias)
    return resized.flatten(2).transpose(1, 2)
