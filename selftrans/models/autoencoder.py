"""The autoencoder between images and latents: diffusers' `AutoencoderKL`, with uint8 images on this side of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selftrans.runtime.errors import UserError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def load_autoencoder(path: str, device: torch.device) -> AutoencoderKL:
    """Load a directory written by ``save_pretrained`` or a name on the Hugging Face hub, ready to encode and decode.

    Raises:
        UserError: there is no autoencoder under that name.
    """
    from diffusers import AutoencoderKL  # seconds that a training does not spend

    try:
        autoencoder = AutoencoderKL.from_pretrained(path, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        kind = "directory" if Path(path).is_dir() else "Hugging Face hub name"
        raise UserError(f"autoencoder {path!r}: cannot be loaded from this {kind} ({reason})") from None
    autoencoder.requires_grad_(False)
    return autoencoder.eval().to(device)


def to_signed(images_BHWC: Tensor) -> Tensor:
    """uint8 images (B, H, W, 3) as floats in [-1, 1], (B, 3, H, W)."""
    return images_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images_BCHW: Tensor) -> Tensor:
    """Floats in [-1, 1], (B, 3, H, W), rounded to uint8 images (B, H, W, 3)."""
    return (images_BCHW.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


@torch.inference_mode()
def encode_moments(autoencoder: AutoencoderKL, images_BHWC: Tensor) -> Tensor:
    """Mean and standard deviation of the posterior of uint8 images (B, H, W, 3): (B, 2, C, h, w)."""
    posterior: Any = autoencoder.encode(to_signed(images_BHWC)).latent_dist
    return torch.stack([posterior.mean, posterior.std], dim=1)


@torch.inference_mode()
def decode(autoencoder: AutoencoderKL, latents_BCHW: Tensor) -> Tensor:
    """Images (B, H, W, 3) in uint8 of unscaled latents (B, C, h, w)."""
    dtype = next(autoencoder.parameters()).dtype
    decoded: Any = autoencoder.decode(latents_BCHW.to(dtype))
    return to_uint8(decoded.sample)
