"""DINOv2 ViT-L/14 for FD-DINOv2 (Stein et al. 2023): class token of 224-pixel images.

Computed as the model of torch hub does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional

from selftrans.evaluation.activations import Activations
from selftrans.evaluation.weights import DINOV2, find_weights, load_state_dict
from selftrans.runtime.devices import tf32_allowed

ARCHITECTURE = "vit_large_patch14_dinov2"
INPUT_SIZE, PATCH = 224, 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resampled_positions(table_1TD: Tensor, side: int) -> Tensor:
    """The table of class token and square grid, resampled to ``side`` x ``side`` patches.

    As the hub's model does: bicubic without antialias, by the factor (side + 0.1) / grid, which is
    not side / grid; timm's resampling differs.
    """
    token, grid = table_1TD[:, :1], table_1TD[:, 1:]
    old = round(grid.shape[1] ** 0.5)
    if old == side:
        return table_1TD
    image = grid.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    factor = (side + 0.1) / old
    image = functional.interpolate(
        image, scale_factor=(factor, factor), mode="bicubic", antialias=False
    )
    assert image.shape[-2:] == (side, side)
    return torch.cat([token, image.permute(0, 2, 3, 1).flatten(1, 2).to(token.dtype)], dim=1)


def dinov2_network(state: dict[str, Tensor], architecture: str = ARCHITECTURE) -> Any:
    """A timm model of 224-pixel input with the hub's weights."""
    network: Any = timm.create_model(architecture, img_size=INPUT_SIZE, num_classes=0)
    # The mask token is only used in training.
    kept = {name: tensor for name, tensor in state.items() if name != "mask_token"}
    kept["pos_embed"] = resampled_positions(state["pos_embed"], INPUT_SIZE // PATCH)
    network.load_state_dict(kept)
    return network.requires_grad_(False).eval()


@dataclass(frozen=True)
class Dinov2Extractor:
    """uint8 images of any size -> normalised class token."""

    network: Any
    digest: str
    device: torch.device
    name: str = "dinov2"

    @tf32_allowed(False)
    @torch.inference_mode()
    def __call__(self, images_BHWC: Tensor) -> Activations:
        """Activations of uint8 images (B, H, W, 3)."""
        pixels = images_BHWC.to(self.device).permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-1] != INPUT_SIZE:
            pixels = functional.interpolate(
                pixels, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True
            ).clamp(0, 1)
        mean, std = (pixels.new_tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
        return Activations(features=self.network.forward_features((pixels - mean) / std)[:, 0])


def load_dinov2(path: Path | None, device: torch.device) -> Dinov2Extractor:
    """The extractor with the published weights, from ``path`` or the cache.

    Raises:
        UserError: the weights are absent, or not the published ones.
    """
    network = dinov2_network(load_state_dict(find_weights(DINOV2, path)))
    return Dinov2Extractor(network.to(device), DINOV2.sha256, device)
