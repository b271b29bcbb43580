"""The Inception network of FID, sFID and the Inception score, as in the ADM evaluator.

torchvision's layers with three differences in pooling compute the network of 2015 whose weights
were ported to PyTorch; its input is resized as TensorFlow 1 did it. Never under autocast, never in
TF32: published digits depend on it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models import inception

from selftrans.evaluation.activations import Activations
from selftrans.evaluation.weights import INCEPTION, find_weights, load_state_dict
from selftrans.runtime.devices import tf32_allowed

INPUT_SIZE = 299
SPATIAL_CHANNELS = 7
NUM_CLASSES = 1008
TRUNK = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1",
    "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2",
    "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip


def average_within(x_BCHW: Tensor) -> Tensor:
    """Mean over 3x3 neighbours; at the border over those that exist: torchvision counts zeros."""
    return functional.avg_pool2d(
        x_BCHW, kernel_size=3, stride=1, padding=1, count_include_pad=False
    )


class BlockA(inception.InceptionA):
    """35x35 block."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(average_within(x)),
        ]


class BlockC(inception.InceptionC):
    """17x17 block."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(average_within(x)),
        ]


class BlockE(inception.InceptionE):
    """8x8 block; the last one pools by the maximum, an oddity of the original."""

    pools_by_maximum = False

    def _forward(self, x: Tensor) -> list[Tensor]:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        by_maximum = self.pools_by_maximum
        pooled = (
            functional.max_pool2d(x, kernel_size=3, stride=1, padding=1)
            if by_maximum
            else average_within(x)
        )
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], dim=1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], dim=1),
            self.branch_pool(pooled),
        ]


def inception_network() -> Any:
    """The network without weights: 566 tensors under torchvision's names."""
    blocks = [
        inception.BasicConv2d,
        BlockA,
        inception.InceptionB,
        BlockC,
        inception.InceptionD,
        BlockE,
        inception.InceptionAux,
    ]
    network = inception.Inception3(
        num_classes=NUM_CLASSES,
        aux_logits=False,
        transform_input=False,
        inception_blocks=blocks,
        init_weights=False,
    )
    network.Mixed_7c.pools_by_maximum = True
    return network.requires_grad_(False).eval()


def resize_like_tensorflow_1(x_BCHW: Tensor, size: int) -> Tensor:
    """Bilinear, output pixel i at i * (input / output).

    Without half-pixel centres, aligned corners or antialias.
    """
    for dim in (3, 2):
        length = x_BCHW.shape[dim]
        if length == size:
            continue
        positions = torch.arange(size, dtype=torch.float32, device=x_BCHW.device) * (length / size)
        below = positions.floor().long().clamp(max=length - 1)
        above = (below + 1).clamp(max=length - 1)
        weight = (positions - below).to(x_BCHW.dtype)
        if dim == 2:
            weight = weight[:, None]
        first = x_BCHW.index_select(dim, below)
        x_BCHW = torch.addcmul(first, weight, x_BCHW.index_select(dim, above) - first)
    return x_BCHW


@dataclass(frozen=True)
class InceptionExtractor:
    """uint8 images -> pool_3 (2048), features of sFID (2023), logits without bias (1008)."""

    network: Any
    digest: str
    device: torch.device
    name: str = "inception"

    @tf32_allowed(False)
    def __call__(self, images_BHWC: Tensor) -> Activations:
        """Activations of uint8 images (B, H, W, 3)."""
        return self.compute(images_BHWC)

    @torch.inference_mode()
    def compute(self, images_BHWC: Tensor) -> Activations:
        """The same, with TF32 where it is allowed."""
        pixels = images_BHWC.to(self.device).permute(0, 3, 1, 2).float()
        x = (resize_like_tensorflow_1(pixels, INPUT_SIZE) - 128) / 128
        spatial = x
        for name in TRUNK:
            x = getattr(self.network, name)(x)
            if name == "Mixed_6d":  # begins with the channels of TensorFlow's mixed_6/conv; NHWC
                spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        features = x.mean(dim=(2, 3))
        return Activations(
            features=features, spatial=spatial, logits=features @ self.network.fc.weight.T
        )


def load_inception(path: Path | None, device: torch.device) -> InceptionExtractor:
    """The extractor with the TensorFlow-ported weights, from ``path`` or the cache.

    Raises:
        UserError: the weights are absent, or not the published ones.
    """
    network = inception_network()
    network.load_state_dict(load_state_dict(find_weights(INCEPTION, path)))
    return InceptionExtractor(network.to(device), INCEPTION.sha256, device)
