"""Statistics per channel of an autoencoder are applied on both ways; without them, one scale."""

import json

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
)

from selftrans.config import SamplerConfig, TrainedAutoencoderConfig, load_dataset
from selftrans.data.manifests import Manifest, read_manifest
from selftrans.data.store import LatentStore
from selftrans.extraction.latents import extract
from selftrans.models.autoencoder import decode, encode_moments, latent_scaling, load_autoencoder
from selftrans.models.metadata import LatentScaling, WeightsMetadata
from selftrans.models.sit import SiT
from selftrans.runtime.errors import UserError
from selftrans.sampling.generate import ImageSampler
from selftrans.sampling.latents import SampleNoise
from tests.support.random_models import randomise, save_autoencoder
from tests.support.stores import SCALE, SHIFT

CPU = torch.device("cpu")
MEAN, STD = (0.5, -0.25, 0.0, 2.0), (0.5, 1.0, 2.0, 4.0)
FACTOR = 0.5
STATISTICS = {"latents_mean": MEAN, "latents_std": STD, "scaling_factor": FACTOR}
IMAGES = torch.randint(
    0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
VIDEO = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}


def as_pipelines(latents, direction):
    """What diffusers' pipelines (StableDiffusionXLPipeline) make of latents, by channel."""
    result = torch.empty_like(latents)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        z = latents[:, channel]
        result[:, channel] = (
            (z - mean) * FACTOR / std if direction == "encode" else z * std / FACTOR + mean
        )
    return result


def weights_file(path, shape, latents, **metadata):
    model = randomise(SiT(shape))
    WeightsMetadata(
        run="a", seed=0, step=1, fingerprint="f", shape=shape, interpolant="linear",
        latents=latents, version="0", weights="ema", **metadata,
    ).save(path, model.state_dict())  # fmt: skip
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The digits' latents by an autoencoder with statistics."""
    directory = tmp_path_factory.mktemp("statistics")
    save_autoencoder(directory / "autoencoder", **STATISTICS)
    digits = load_dataset("experiments/data/digits.yaml")
    shape = TrainedAutoencoderConfig(kind="trained", block_channels=(8, 16), norm_groups=4)
    latents = digits.latents.model_copy(update={"dtype": "float32"})
    data = digits.model_copy(update={"autoencoder": shape, "latents": latents})
    extract(data, str(directory / "autoencoder"), directory / "latents", CPU)
    return directory


@pytest.mark.slow
def test_training_sees_latents_as_diffusers_pipelines_make_them(store):
    latents = LatentStore(store / "latents/manifest.json")
    assert latents.manifest.scale == tuple(FACTOR / std for std in STD)
    assert latents.manifest.shift == MEAN
    assert latents.manifest.scale_origin == "autoencoder"
    chosen = np.arange(5)
    noise = np.random.default_rng(0).standard_normal((5, 4, 16, 16)).astype(np.float32)
    mean, std = torch.from_numpy(latents.moments(chosen)).double().unbind(1)
    expected = as_pipelines(mean + std * torch.from_numpy(noise), "encode")
    seen = torch.from_numpy(latents.latents(chosen, noise))
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen.double(), expected, rtol=1e-6, atol=1e-6)
    assert read_manifest(store / "latents/manifest.json", Manifest) == latents.manifest


@pytest.mark.slow
def test_a_sample_is_decoded_as_diffusers_pipelines_do(store, shape, tmp_path):
    manifest = LatentStore(store / "latents/manifest.json").manifest
    scaling = LatentScaling(digest=manifest.digest, scale=manifest.scale, shift=manifest.shift)
    path = weights_file(tmp_path / "a.safetensors", shape, scaling)
    sampler = ImageSampler(path, str(store / "autoencoder"), CPU)
    assert sampler.metadata.latents == scaling
    decoded = []
    sampler.decode = lambda z, *_: decoded.append(z) or np.zeros(0)
    sampler.images(SamplerConfig(sampler="euler", num_steps=2, num_samples=3), range(3))
    sampler.metadata = sampler.metadata.model_copy(
        update={"latents": LatentScaling(digest=None, scale=1.0, shift=0.0)}
    )
    sampler.images(SamplerConfig(sampler="euler", num_steps=2, num_samples=3), range(3))
    torch.testing.assert_close(decoded[0], as_pipelines(decoded[1], "decode"), rtol=1e-12, atol=0)
    assert decoded[0].shape == SampleNoise(0, range(3), shape.latent_shape, CPU)().shape


@pytest.mark.slow
def test_an_imported_backbone_has_one_scale_and_says_so(store, shape, tmp_path):
    one = LatentScaling(digest=None, scale=0.5, shift=0.0)
    imported = {"imported": {"file": "a.pt", "convention": "noise-at-1"}}
    path = weights_file(tmp_path / "a.safetensors", shape, one, **imported)
    with pytest.raises(UserError, match="latents_mean and latents_std hold a number for") as raised:
        ImageSampler(path, str(store / "autoencoder"), CPU)
    assert "\n" not in str(raised.value)


def test_one_number_for_each_channel_means_the_same_as_one_for_all():
    z = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = LatentScaling(digest=None, scale=0.18215, shift=0.1)
    each = LatentScaling(digest=None, scale=(0.18215,) * 4, shift=(0.1,) * 4)
    assert torch.equal(one.unscaled(z), z / 0.18215 + 0.1)
    assert torch.equal(one.unscaled(z), each.unscaled(z))
    for scaling in (one, each):
        written = json.loads(scaling.model_dump_json())
        assert LatentScaling.model_validate(written) == scaling
    written = one.model_dump(mode="json", exclude_none=True)
    assert written == {"scale": 0.18215, "shift": 0.1}


def test_an_autoencoder_without_statistics_is_scaled_as_ever(autoencoder):
    loaded = load_autoencoder(autoencoder, CPU)
    assert latent_scaling(loaded, autoencoder, 4) == (SCALE, SHIFT)
    loaded.register_to_config(scaling_factor=None, shift_factor=0.1)
    assert latent_scaling(loaded, autoencoder, 4) == (None, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents_std": None}, "latents_std: 0 numbers, allowed are 4 positive ones"),
        ({"latents_mean": (1.0, 2.0)}, "latents_mean: 2 numbers, allowed are 4 finite ones"),
        ({"latents_std": (1.0, 0.0, 1.0, 1.0)}, "latents_std: 4 numbers, allowed are 4 positive"),
        ({"latents_mean": [[0.0] * 3] * 4}, "latents_mean: 4x3 numbers, allowed are 4 finite ones"),
    ],
)
def test_statistics_that_do_not_fit_are_one_line(autoencoder, changes, message):
    loaded = load_autoencoder(autoencoder, CPU)
    loaded.register_to_config(**{**STATISTICS, **changes})
    with pytest.raises(UserError, match=message) as raised:
        latent_scaling(loaded, "somebody/vae", 4)
    assert str(raised.value).startswith("autoencoder 'somebody/vae': ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [AutoencoderKLWan, AutoencoderKLQwenImage])
def test_an_autoencoder_of_videos_takes_an_image_as_one_frame(kind):
    torch.manual_seed(0)
    made = kind(**VIDEO, latents_mean=MEAN, latents_std=STD).eval()
    assert latent_scaling(made, "a", 4) == (tuple(1 / std for std in STD), MEAN)
    moments = encode_moments(made, IMAGES)
    assert moments.shape == (3, 2, 4, 4, 4)
    frames = IMAGES.permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
    with torch.inference_mode():
        posterior = made.encode(frames).latent_dist
        pixels = made.decode(posterior.mean).sample
    assert torch.equal(moments[:, 0], posterior.mean[:, :, 0])
    expected = (pixels[:, :, 0].permute(0, 2, 3, 1) * 127.5 + 127.5).round().clamp(0, 255)
    assert torch.equal(decode(made, moments[:, 0]), expected.to(torch.uint8))


def test_ltx_has_its_statistics_in_buffers():
    blocks = {"block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    layers = {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5}
    made = AutoencoderKLLTXVideo(latent_channels=4, **blocks, **layers).eval()
    made.latents_mean.copy_(torch.tensor(MEAN))
    made.latents_std.copy_(torch.tensor(STD))
    assert latent_scaling(made, "a", 4) == (tuple(1 / std for std in STD), MEAN)
    moments = encode_moments(made, IMAGES)
    assert moments.shape == (3, 2, 4, 1, 1)
    assert decode(made, moments[:, 0]).shape == IMAGES.shape


def test_diffusers_keeps_the_statistics_in_the_configuration(tmp_path):
    save_autoencoder(tmp_path, **STATISTICS)
    assert json.loads((tmp_path / "config.json").read_text())["latents_std"] == list(STD)
    assert tuple(AutoencoderKL.load_config(tmp_path)["latents_mean"]) == MEAN
