"""Training of the embedded autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from selftrans.config import DatasetConfig, TrainedAutoencoderConfig
from selftrans.data.sources import read_all
from selftrans.models.autoencoder import to_signed
from selftrans.runtime.errors import UserError
from selftrans.runtime.random import Stream, generator, torch_seed
from selftrans.training.auxiliary.fit import fit, shuffled

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def train_autoencoder(data: DatasetConfig, device: torch.device) -> AutoencoderKL:
    """A small ``AutoencoderKL`` fitted to the images of ``data``: squared error and a little KL.

    It has no scaling factor: the latent store measures one.

    Raises:
        UserError: the data file names an autoencoder that exists.
    """
    from diffusers import AutoencoderKL

    settings = data.autoencoder
    if not isinstance(settings, TrainedAutoencoderConfig):
        raise UserError(
            f"data {data.name!r}: autoencoder.kind is {settings.kind!r},"
            " only 'trained' is trained here"
        )
    torch.manual_seed(torch_seed(settings.seed, Stream.AUTOENCODER))
    levels = len(settings.block_channels)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings.block_channels,
        layers_per_block=1,
        latent_channels=settings.latent_channels,
        norm_num_groups=settings.norm_groups,
        sample_size=data.image_size,
        mid_block_add_attention=False,
    ).to(device)
    autoencoder.register_to_config(scaling_factor=None)
    images = torch.from_numpy(read_all(data)[0])
    order = shuffled(
        generator(settings.seed, Stream.AUTOENCODER, 1), len(images), settings.batch_size
    )

    def loss_of_step(_: int) -> Tensor:
        pixels = to_signed(images[torch.from_numpy(next(order))].to(device))
        posterior = autoencoder.encode(pixels).latent_dist
        error = (autoencoder.decode(posterior.sample()).sample - pixels).square().mean()
        divergence = posterior.kl().sum() / posterior.mean.numel()
        return error + settings.kl_weight * divergence

    fit(autoencoder, loss_of_step, settings.steps, settings.learning_rate, "autoencoder")
    return autoencoder
