"""The cost of sampling, against the plain arithmetic of the published samplers and models."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from benchmarks.timing import Result, interleaved
from benchmarks.training import LATENT, randomised
from selftrans.config import BackboneConfig, GuidanceConfig, SamplerConfig
from selftrans.models.shape import SiTShape
from selftrans.models.sit import Block, SiT, unpatchify
from selftrans.runtime.tensors import DTYPES
from selftrans.sampling.latents import SampleNoise, sample_latents

IMAGES, STEPS, SCALE = 16, 2, 1.8
CPU = torch.device("cpu")


def plain_block(block: Block, x_BTD: Tensor, embedding_BD: Tensor) -> Tensor:
    """A block as DiT's code has it: a product and a sum for every modulation and gate."""
    shift1, scale1, gate1, shift2, scale2, gate2 = (
        part[:, None] for part in block.adaLN_modulation(embedding_BD).chunk(6, dim=1)
    )
    x_BTD = x_BTD + gate1 * block.attn(block.norm1(x_BTD) * (1 + scale1) + shift1)
    return x_BTD + gate2 * block.mlp(block.norm2(x_BTD) * (1 + scale2) + shift2)


def plain_velocity(model: SiT, x_BCHW: Tensor, t_B: Tensor, labels_B: Tensor) -> Tensor:
    """The network as DiT's code has it, on the whole batch."""
    embedding = model.t_embedder(t_B) + model.y_embedder(labels_B)
    x_BTD = model.x_embedder.proj(x_BCHW).flatten(2).transpose(1, 2) + model.pos_embed
    for block in model.blocks:
        assert isinstance(block, Block)
        x_BTD = plain_block(block, x_BTD, embedding)
    layer = model.final_layer
    shift, scale = (part[:, None] for part in layer.adaLN_modulation(embedding).chunk(2, dim=1))
    patches = layer.linear(layer.norm_final(x_BTD) * (1 + scale) + shift)
    return unpatchify(patches, model.shape)


@torch.no_grad()
def plain_euler(model: SiT, x: Tensor, labels_B: Tensor) -> Tensor:
    """Guided Euler steps as REPA's sampler has them: one batch of both passes, a float64 state."""
    null = model.null_condition(len(x))
    times = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    for now, after in pairwise(times):
        t_B = torch.ones(2 * len(x), dtype=torch.float64) * now
        labels = torch.cat([labels_B, null])
        both = plain_velocity(model, torch.cat([x, x]).float(), t_B.float(), labels).double()
        conditional, unconditional = both.chunk(2)
        x = x + (after - now) * (unconditional + SCALE * (conditional - unconditional))
    return x


def sides(
    backbone: BackboneConfig, images: int = IMAGES
) -> tuple[dict[str, Callable[[], Tensor]], Callable[[], Tensor]]:
    """Ours by precision, and the plain arithmetic in fp32; all of the same noise."""
    model = randomised(SiT(SiTShape.of(backbone, LATENT, 1000)))
    assert isinstance(model, SiT)
    model.eval()
    labels = torch.arange(images)
    noise = partial(SampleNoise, 0, range(images), LATENT, CPU)

    def ours(precision: Literal["fp32", "bf16"]) -> Callable[[], Tensor]:
        settings = SamplerConfig(
            sampler="euler",
            num_steps=STEPS,
            num_samples=images,
            guidance=GuidanceConfig(scale=SCALE),
            precision=precision,
        )
        network = SiT(model.shape).eval()
        network.load_state_dict(model.state_dict())
        network.to(DTYPES[precision])
        return lambda: sample_latents(network, settings, labels, noise(), network.null_condition(1))

    plain = partial(plain_euler, model, noise()(), labels)
    return {"fp32": ours("fp32"), "bf16": ours("bf16")}, plain


def sampling() -> Iterator[Result]:
    """Guided samples of S/2 in fp32 and bf16, against the plain arithmetic in fp32."""
    ours, plain = sides(BackboneConfig.from_preset("SiT-S/2"))
    expected = plain()
    for precision, side in ours.items():
        own, other = interleaved(side, plain)
        error = float((side() - expected).abs().max() / expected.abs().max())
        yield Result(
            name=f"sampling_{precision}", ours=own, baseline=other, ratio=other / own, unit="s",
            sides=(own, other),
            note=f"S/2, {IMAGES} samples, both passes of guidance; relative difference {error:.0e}",
        )  # fmt: skip
