"""Networks with random weights."""

import torch


def randomise(module: torch.nn.Module, seed: int = 0, std: float = 0.1) -> torch.nn.Module:
    """Random numbers for every weight: a fresh adaLN-Zero model makes most tests vacuous."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * std
                )
    return module


def save_autoencoder(path, seed=0, **changes):
    """Save a random autoencoder of images of 32 pixels, as diffusers does; returns ``path``."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    settings = {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "latent_channels": 4,
        "layers_per_block": 1,
    }
    levels = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    AutoencoderKL(**settings, **levels, sample_size=32, **changes).save_pretrained(path)
    return path
