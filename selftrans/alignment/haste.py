"""HASTE, holistic alignment with an early stop (Wang et al. 2025, arXiv 2505.16792).

REPA's term, and the encoder's attention maps beside its tokens (NUS-HPC-AI-Lab/HASTE, loss.py). For
pairs (s, e) of a student's and an encoder's block, with their attention logits A of the noisy
latents and of the clean image,

    L = -mean cos(h(student), f) + (attention_weight / weight) L_attention,
    L_attention = mean over pairs, samples, heads and queries of
                  the cross-entropy of softmax A_s relative to softmax A_e.

Both end early, by default after 250,000 steps. Settings as in the authors' code, for XL/2: weights
0.5 and 0.5, block 8 for the tokens, blocks 5 to 8 and DINOv2 ViT-B's last four for the attention.
Logits of the encoder's class token are left out. Where one network has more heads, its first ones
are compared.

What it costs: the encoder runs on the images at every step, since attention maps are too large to
store, and the student's queries and keys are computed twice in the blocks that are compared, since
fused attention keeps no logits. After the end nothing of it is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from selftrans.alignment.method import Costs
from selftrans.alignment.repa import EncoderAlignment
from selftrans.config import PositiveFloat, PositiveInt
from selftrans.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selftrans.alignment.base import AlignmentInputs, AlignmentLoss, Batch, LossOutput
    from selftrans.models.backbone import BlockFeatures
    from selftrans.models.encoder import PatchEncoder

Blocks = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class Haste(EncoderAlignment):
    """HASTE (Wang et al. 2025): REPA and the encoder's attention maps, until an early stop."""

    method: Literal["haste"]
    weight: PositiveFloat = 0.5
    """Factor of the cosine (its code's)."""
    attention_weight: PositiveFloat = 0.5
    """Factor of the cross-entropy of the attention maps (its code's)."""
    attention_depths: Blocks
    """Student blocks whose attention follows the encoder's, counted from 1 (5 to 8 of XL/2)."""
    encoder_depths: Blocks | None = None
    """The encoder's block that each of them follows; its last ones, if they are not given (9 to 12
    of DINOv2 ViT-B, as in its code)."""
    stop_after: PositiveInt | None = 250_000
    """Optimizer step after which both parts are switched off (its code's, of 400,000 and more)."""

    @model_validator(mode="after")
    def _blocks_are_pairs(self) -> Self:
        blocks, count = self.encoder_depths, len(self.attention_depths)
        if blocks is not None and len(blocks) != count:
            raise ValueError(
                f"encoder_depths: {list(blocks)} are {len(blocks)} blocks,"
                f" attention_depths are {count}"
            )
        return self

    @property
    def needs_sit(self) -> bool:
        """It reads attention maps."""
        return True

    @property
    def student_blocks(self) -> dict[str, int]:
        """All blocks that are aligned."""
        return {"depth": self.depth, "attention_depths": max(self.attention_depths)}

    @property
    def depths(self) -> tuple[int, ...]:
        """The block that follows the tokens, and what those read that follow the attention."""
        return (self.depth, *(depth - 1 for depth in self.attention_depths))

    def target_name(self, term: AlignmentLoss) -> str:
        """The encoder; a stand-in is called one."""
        return f"HASTE: {self.encoder_name(term)}"

    def build_heads(self, inputs: AlignmentInputs) -> Mapping[str, nn.Module]:
        """The projector h.

        Raises:
            UserError: the encoder gives no attention logits, or those of another grid.
        """
        from selftrans.models.encoder import PatchEncoder

        encoder, side = inputs.encoder, inputs.shape.grid_size
        assert isinstance(encoder, PatchEncoder)
        encoder.check_attention(self.followed_blocks(encoder))
        if encoder.grid_size != side:
            raise UserError(
                f"encoder {encoder.name!r}: has {encoder.grid_size}x{encoder.grid_size} tokens, the"
                f" model {side}x{side}: attention maps of two grids are not compared"
            )
        return super().build_heads(inputs)

    def followed_blocks(self, encoder: PatchEncoder) -> tuple[int, ...]:
        """The encoder's block for each of ``attention_depths``."""
        first = encoder.depth - len(self.attention_depths) + 1
        return self.encoder_depths or tuple(range(first, encoder.depth + 1))

    def flop(self, costs: Costs) -> float:
        """The projector, and the student's logits; the encoder is counted with the encoders."""
        linear = 4 * costs.tokens * costs.hidden_size**2
        products = 2 * costs.tokens**2 * costs.hidden_size
        return super().flop(costs) + 3 * len(self.attention_depths) * (linear + products)

    def compute_loss(
        self, term: AlignmentLoss, batch: Batch, features: BlockFeatures
    ) -> LossOutput:
        """-cos, and the cross-entropy in proportion to it."""
        import torch

        from selftrans.alignment.base import LossOutput, token_cosines
        from selftrans.models.encoder import PatchEncoder

        encoder = term.encoder
        assert isinstance(encoder, PatchEncoder)
        assert batch.images_BHWC is not None
        followed = self.followed_blocks(encoder)
        tokens, followed_logits = encoder.with_attention(batch.images_BHWC, followed)
        prediction = term.heads["projector"](features[self.depth])
        cosines = token_cosines(prediction, self.target(tokens, term.shape.grid_size))
        entropies = [
            attention_cross_entropy(features.attention_logits(depth), followed_logits[other])
            for depth, other in zip(self.attention_depths, followed, strict=True)
        ]
        ratio = self.attention_weight / self.weight
        return LossOutput(-cosines.mean() + ratio * torch.stack(entropies).mean(), cosines)


def attention_cross_entropy(logits_BHTT: Tensor, followed_BHTT: Tensor) -> Tensor:
    """Cross-entropy of attention maps relative to those they follow, over the heads of both."""
    heads = min(logits_BHTT.shape[1], followed_BHTT.shape[1])
    predicted = logits_BHTT[:, :heads].float().log_softmax(dim=-1)
    target = followed_BHTT[:, :heads].float().softmax(dim=-1)
    return -(target * predicted).sum(dim=-1).mean()
