"""REPA, representation alignment (Yu et al. 2025, arXiv 2410.06940, equation 8): a block follows an external encoder.

With the encoder's patch tokens f of the clean image and an MLP h over the student's tokens after block ``depth``,

    L = -mean over samples and tokens of cos(h(student), f).

Every sample counts, whatever its t. Settings as in the authors' code: lambda 0.5, block 8 of XL/2 and 4 of B/2, a three-layer
MLP with SiLU of hidden width 2048, DINOv2 ViT-B. Where the encoder's grid of tokens is not the student's, its tokens
are resized bilinearly (with antialias where there are more of them).

What need not be computed: the encoder is frozen and sees no noise, so its tokens are read from a store that was made once,
already in half precision; with ``features: images`` it runs at every step, without gradient.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from selftrans.alignment.base import (
    AlignmentInputs,
    AlignmentLoss,
    Batch,
    LossOutput,
    token_cosines,
)
from selftrans.config import RepaConfig
from selftrans.models.encoder import PatchEncoder
from selftrans.models.heads import projector


class RepaLoss(AlignmentLoss):
    """The signal of REPA.

    Args:
        settings: encoder, depth, weight, projector width.
        inputs: the student's shape, and the encoder or its stored features.
    """

    def __init__(self, settings: RepaConfig, inputs: AlignmentInputs) -> None:
        super().__init__(settings)
        assert inputs.encoder is not None
        self.settings, self.grid_size = settings, inputs.shape.grid_size
        self.depths = (settings.depth,)
        stand_in = (
            " (stand-in)" if inputs.encoder.stand_in and "stand-in" not in settings.encoder else ""
        )
        self.target_name, self.label_conditioned = f"REPA: {settings.encoder}{stand_in}", False
        self.projector = projector(
            inputs.shape.hidden_size, settings.projector_width, inputs.encoder.hidden_size
        )
        # In a tuple, so that it is no submodule: not trained, not saved, never switched to training mode.
        self._encoder = (inputs.encoder,)

    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> LossOutput:
        """-cos, averaged over tokens and samples."""
        target = self.guiding_features(batch, features)
        cosines = token_cosines(self.projector(features[self.settings.depth]), target)
        return LossOutput(-cosines.mean(), cosines)

    def guiding_features(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """The encoder's tokens on the student's grid, (B, T, D')."""
        (encoder,) = self._encoder
        if isinstance(encoder, PatchEncoder):
            assert batch.images_BHWC is not None
            tokens = encoder(batch.images_BHWC)
        else:
            tokens = batch.encoder_features[self.settings.encoder]
        return resized_tokens(tokens.float(), self.grid_size)


def resized_tokens(tokens_BTD: Tensor, grid_size: int) -> Tensor:
    """A square grid of tokens resized to ``grid_size`` per side; the same tokens where it is that already."""
    side = round(tokens_BTD.shape[1] ** 0.5)
    if side == grid_size:
        return tokens_BTD
    grid = tokens_BTD.transpose(1, 2).reshape(len(tokens_BTD), -1, side, side)
    resized = functional.interpolate(
        grid, (grid_size, grid_size), mode="bilinear", antialias=side > grid_size
    )
    return resized.flatten(2).transpose(1, 2)
