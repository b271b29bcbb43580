"""The backbone: names and sizes of the public family, features, the frozen teacher."""

import numpy as np
import pytest
import timm.layers
import torch
from torch import nn

from selftrans.config import PRESETS, BackboneConfig
from selftrans.models import layers
from selftrans.models.metadata import LatentScaling, WeightsMetadata
from selftrans.models.shape import SiTShape
from selftrans.models.sit import SiT, sincos_table, unpatchify
from selftrans.models.weights import load_teacher
from selftrans.runtime.errors import UserError
from selftrans.training.freeze import freeze_teacher
from tests.support.random_models import randomise

# Millions of parameters in the DiT and SiT papers (S/2, B/2, L/2, XL/2), which have no qk-norm.
PUBLISHED_MILLIONS = {"SiT-S/2": 33, "SiT-B/2": 130, "SiT-L/2": 458, "SiT-XL/2": 675}


def save_weights(path, model):
    metadata = WeightsMetadata(
        run="r",
        seed=0,
        step=4,
        fingerprint="f",
        shape=model.shape,
        interpolant="linear",
        latents=LatentScaling(digest="d", scale=1.0, shift=0.0),
        version="0",
        weights="raw",
    )
    metadata.save(path, model.state_dict())


def inputs(batch=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 4, 8, 8, generator=rng, dtype=torch.float64)
    return (
        x,
        torch.rand(batch, generator=rng, dtype=torch.float64),
        torch.tensor([0, 5, 10][:batch]),
    )


@pytest.mark.parametrize(("preset", "millions"), PUBLISHED_MILLIONS.items())
def test_sizes_are_the_published_ones(preset, millions):
    with torch.device("meta"):
        model = SiT(
            SiTShape.of(BackboneConfig.from_preset(preset, qk_norm=False), (4, 32, 32), 1000)
        )
    count = sum(parameter.numel() for parameter in model.parameters())
    assert abs(count / 1e6 - millions) < 1


@pytest.mark.parametrize("qk_norm", [True, False])
def test_the_layers_compute_what_timms_do(qk_norm):
    """With its parameter names, to the bit."""
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 16, 24, generator=rng)
    pairs = [
        (
            layers.Attention(24, 4, qk_norm),
            timm.layers.Attention(24, 4, qkv_bias=True, qk_norm=qk_norm, norm_layer=nn.LayerNorm),
            tokens,
        ),
        (
            layers.Mlp(24, 96),
            timm.layers.Mlp(24, 96, act_layer=lambda: nn.GELU(approximate="tanh")),
            tokens,
        ),
        (
            layers.PatchEmbed(8, 2, 4, 24),
            timm.layers.PatchEmbed(8, 2, 4, 24),
            torch.randn(3, 4, 8, 8, generator=rng),
        ),
    ]
    for ours, theirs, x in pairs:
        theirs.load_state_dict(randomise(ours).state_dict())
        assert torch.equal(ours(x), theirs(x))


def test_tokens_lie_in_one_piece():
    """Of others every norm makes a copy."""
    assert layers.PatchEmbed(8, 2, 4, 24)(torch.randn(3, 4, 8, 8)).is_contiguous()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(preset):
    with torch.device("meta"):
        model = SiT(SiTShape.of(BackboneConfig.from_preset(preset), (4, 32, 32), 1000))
    assert len(model.blocks) == PRESETS[preset]["depth"]


def test_parameter_names_are_those_of_public_checkpoints(shape):
    names = set(SiT(shape).state_dict())
    expected = {
        "pos_embed", "x_embedder.proj.weight", "x_embedder.proj.bias", "t_embedder.mlp.0.weight",
        "t_embedder.mlp.2.bias", "y_embedder.embedding_table.weight", "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.bias", "blocks.3.mlp.fc1.weight", "blocks.3.mlp.fc2.bias",
        "blocks.2.adaLN_modulation.1.weight", "blocks.1.attn.q_norm.weight",
        "final_layer.linear.weight", "final_layer.adaLN_modulation.1.bias",
    }  # fmt: skip
    assert expected <= names
    assert not any("frequencies" in name for name in names)


def test_a_fresh_model_is_zero_and_every_block_the_identity(shape):
    model = SiT(shape).double()
    x, t, y = inputs()
    velocity, features = model.with_features(x, t, y, (1, 4))
    assert not velocity.any()
    torch.testing.assert_close(features[1], features[4])


def test_position_table_is_that_of_mae():
    """The published construction, transcribed.

    A meshgrid with the column first, then sin and cos per axis.
    """

    def one_axis(dim, pos):
        omega = 1.0 / 10000 ** (np.arange(dim // 2, dtype=np.float64) / (dim / 2.0))
        out = np.einsum("m,d->md", pos.reshape(-1), omega)
        return np.concatenate([np.sin(out), np.cos(out)], axis=1)

    grid = np.stack(
        np.meshgrid(np.arange(5, dtype=np.float32), np.arange(5, dtype=np.float32)), axis=0
    )
    expected = np.concatenate([one_axis(16, grid[0]), one_axis(16, grid[1])], axis=1)
    np.testing.assert_allclose(sincos_table(32, 5).numpy(), expected, atol=1e-6)


def test_unpatchify_inverts_the_patches_of_the_embedder(shape):
    image = torch.randn(2, 4, 8, 8)
    patches = image.reshape(2, 4, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, 16)
    assert torch.equal(unpatchify(patches, shape), image)


def test_features_are_the_output_of_the_block_counted_from_one(shape):
    model = randomise(SiT(shape).double())
    x, t, y = inputs()
    seen = []
    model.blocks[1].register_forward_hook(lambda module, args, output: seen.append(output))
    velocity, features = model.with_features(x, t, y, (2,))
    torch.testing.assert_close(features[2], seen[0])
    torch.testing.assert_close(velocity, model(x, t, y))


def test_labels_and_null_class_matter(shape):
    model = randomise(SiT(shape).double())
    x, t, _ = inputs()
    outputs = [
        model(x, t, torch.full((3,), label)) for label in (0, 9, int(model.null_condition(1)))
    ]
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2])


def test_activation_checkpointing_changes_no_gradient(shape):
    gradients = []
    for checkpointing in (False, True):
        model = randomise(SiT(shape).double())
        model.activation_checkpointing = checkpointing
        model.train()(*inputs()).square().sum().backward()
        gradients.append(model.blocks[0].mlp.fc1.weight.grad)
    assert torch.equal(*gradients)


def test_frozen_teacher_equals_the_full_models_block_output(shape, tmp_path):
    model = randomise(SiT(shape))
    save_weights(tmp_path / "raw.safetensors", model)
    freeze_teacher(tmp_path / "raw.safetensors", 3, tmp_path / "teacher.safetensors")
    teacher, metadata = load_teacher(tmp_path / "teacher.safetensors", torch.device("cpu"))
    assert metadata.source.step == 4
    assert len(teacher.blocks) == 3
    assert not hasattr(teacher, "final_layer")
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    x, t, y = (value.float() if value.is_floating_point() else value for value in inputs())
    _, features = model.eval().with_features(x, t, y, (2, 3))
    assert torch.equal(teacher.tokens(x, t, y), features[3])
    assert not torch.allclose(features[2], features[3])


def test_teacher_beyond_the_model_is_refused(shape, tmp_path):
    save_weights(tmp_path / "raw.safetensors", SiT(shape))
    with pytest.raises(UserError, match="teacher depth 5 is beyond its 4 blocks"):
        freeze_teacher(tmp_path / "raw.safetensors", 5, tmp_path / "teacher.safetensors")
    assert not (tmp_path / "teacher.safetensors").exists()


def test_latents_that_patches_do_not_tile_are_refused():
    with pytest.raises(UserError, match=r"model\.patch_size: 3 does not divide the 8x8 latents"):
        SiTShape(
            latent_shape=(4, 8, 8),
            num_classes=10,
            depth=1,
            hidden_size=32,
            num_heads=2,
            patch_size=3,
        )
