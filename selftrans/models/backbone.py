"""What a backbone is to everything that trains, follows, samples or analyses one.

A *condition* is a tensor with a row for each sample: classes are integers, (B,), captions are the
features of their tokens, (B, L, K). Only a backbone knows which kind it takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable

from torch import Tensor, nn

from selftrans.models.shape import BackboneShape


class BlockFeatures(dict[int, Tensor]):
    """Tokens after blocks, (B, T, D) by depth, 0 for those before the first block.

    Also what else can be had of them in the same pass, where the backbone offers it.
    """

    def attention_logits(self, depth: int) -> Tensor:
        """Attention in block ``depth`` before its softmax, (B, H, T, T)."""
        raise NotImplementedError

    def intermediate_velocity(self) -> Tensor:
        """Velocity of a second output layer, (B, C, H, W)."""
        raise NotImplementedError


class Trunk(nn.Module, ABC):
    """Embedders and blocks: all of a backbone but the output layer; what a frozen teacher has.

    Attributes:
        shape: sizes of the network.
        pos_embed: fixed positions of the image's tokens, (1, T, D).
        activation_checkpointing: recompute activations block by block in the backward pass.
    """

    shape: BackboneShape
    pos_embed: nn.Parameter
    activation_checkpointing = False

    @property
    @abstractmethod
    def each_block(self) -> Iterable[nn.Module]:
        """The blocks, in order."""

    @abstractmethod
    def null_condition(self, count: int) -> Tensor:
        """The condition that means "nothing is said", for so many samples."""

    def set_null_condition(self, null: Tensor) -> None:
        """Take the data's null condition, one row of it, where the network has none of its own."""
        del null

    @abstractmethod
    def features(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        condition_B: Tensor,
        depths: Collection[int],
        pool: bool = False,
    ) -> BlockFeatures:
        """Image tokens (B, T, D) after each block of ``depths``, or their means (B, D).

        Blocks are counted from 1; no deeper one is run.
        """


class Backbone(Trunk):
    """A network that gives the velocity of noisy latents."""

    def forward(self, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor) -> Tensor:
        """Velocity at (x, t) under the condition, (B, C, H, W)."""
        return self.with_features(x_BCHW, t_B, condition_B, ())[0]

    @abstractmethod
    def with_features(
        self, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor, depths: Collection[int]
    ) -> tuple[Tensor, BlockFeatures]:
        """The velocity, and the image tokens after each block of ``depths``, counted from 1."""
