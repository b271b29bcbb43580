"""The backbone for captions: its arithmetic, its streams, its files."""

from dataclasses import replace

import pytest
import torch

from selftrans.config import MMDiTConfig
from selftrans.models.metadata import LatentScaling, WeightsMetadata
from selftrans.models.mmdit import MMDiT, MMDiTTrunk
from selftrans.models.shape import MMDiTShape
from selftrans.models.weights import load_backbone, load_teacher
from selftrans.training.freeze import freeze_teacher
from tests.support.public_mmdit import PublicMMDiT
from tests.support.random_models import randomise

CPU = torch.device("cpu")
LENGTH, SIZE = 5, 12
NUMBERS = {"depth": 3, "hidden_size": 32, "num_heads": 2, "patch_size": 2}


def shape_of(**changes):
    return MMDiTShape(
        latent_shape=(4, 8, 8), context_length=LENGTH, context_size=SIZE, **{**NUMBERS, **changes}
    )


def random_mmdit(seed=0, dtype=torch.float64, **changes):
    return randomise(MMDiT(shape_of(**changes)), seed, std=0.15).to(dtype)


def inputs(dtype=torch.float64, batch=3):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 4, 8, 8, generator=rng, dtype=torch.float64)
    captions = torch.randn(batch, LENGTH, SIZE, generator=rng, dtype=torch.float64)
    return x.to(dtype), torch.linspace(0.1, 0.9, batch, dtype=dtype), captions.to(dtype)


def save_weights(path, model):
    WeightsMetadata(
        run="r", seed=0, step=4, fingerprint="f", shape=model.shape, interpolant="linear",
        latents=LatentScaling(digest="d", scale=1.0, shift=0.0), version="0", weights="raw",
    ).save(path, model.state_dict())  # fmt: skip
    return path


@torch.no_grad()
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_it_computes_what_the_public_model_does(qk_norm, dtype, tolerance):
    """Against the description, written out stream by stream and head by head."""
    theirs = randomise(PublicMMDiT(qk_norm=qk_norm), std=0.15).to(dtype)
    ours = MMDiT(shape_of(qk_norm=qk_norm)).to(dtype)
    ours.load_state_dict({**theirs.state_dict(), "null_context": ours.null_context})
    given = inputs(dtype)
    velocity, features = ours.with_features(*given, (1, 2, 3))
    pairs = [(velocity, theirs(*given))]
    pairs += [(features[depth], theirs.tokens(*given, depth)[0]) for depth in (1, 2, 3)]
    for found, expected in pairs:
        assert expected.std() > 0.5
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_parameter_names_are_those_of_public_files():
    ours, theirs = (model.state_dict() for model in (random_mmdit(qk_norm=True),
                                                     PublicMMDiT(qk_norm=True)))  # fmt: skip
    assert {name: tensor.shape for name, tensor in ours.items() if name != "null_context"} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    last = {name for name in ours if name.startswith("joint_blocks.2.context_block.")}
    parts = ("attn.qkv", "attn.ln_q", "attn.ln_k", "adaLN_modulation.1")
    assert {name.split("context_block.")[1].rpartition(".")[0] for name in last} == {*parts}
    assert ours["joint_blocks.2.context_block.adaLN_modulation.1.bias"].shape == (2 * 32,)
    assert not any(parameter.requires_grad for name, parameter in random_mmdit().named_parameters()
                   if name in ("pos_embed", "null_context"))  # fmt: skip


@torch.no_grad()
def test_text_is_a_set_of_tokens_and_each_counts():
    """The text encoder has put their order into them: here they have no positions."""
    model = random_mmdit()
    x, t, captions = inputs()
    velocity = model(x, t, captions)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(model(x, t, captions[:, order]), velocity, rtol=1e-12, atol=1e-12)
    for token in range(LENGTH):
        changed = captions.clone()
        changed[1, token] += 1
        moved = (model(x, t, changed) - velocity).abs().amax(dim=(1, 2, 3))
        assert moved[1] > 1e-3
        assert moved[0] == moved[2] == 0


@torch.no_grad()
def test_captions_in_half_precision_are_those_numbers():
    model = random_mmdit(dtype=torch.float32)
    x, t, captions = inputs(torch.float32)
    half = captions.half()
    assert torch.equal(model(x, t, half), model(x, t, half.float()))


@torch.no_grad()
def test_the_null_condition_is_the_empty_caption_and_stays_with_the_weights(tmp_path):
    model = random_mmdit(dtype=torch.float32)
    empty = torch.randn(LENGTH, SIZE)
    assert not model.null_condition(2).any()
    model.set_null_condition(empty.half()[None])
    save_weights(tmp_path / "a.safetensors", model)
    loaded, _ = load_backbone(tmp_path / "a.safetensors", CPU)
    assert torch.equal(loaded.null_condition(3), empty.half().float().expand(3, -1, -1))


def test_the_text_of_the_last_block_only_gives_keys_and_values():
    """So its queries have no effect on the velocity; its keys and values have."""
    model = random_mmdit(qk_norm=True)
    model(*inputs()).square().sum().backward()
    text = model.joint_blocks[-1].context_block
    queries, keys, values = text.attn.qkv.weight.grad.chunk(3)
    assert not queries.any()
    assert not text.attn.ln_q.weight.grad.any()
    assert keys.any()
    assert values.any()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)  # as data parallelism wants


def test_a_fresh_model_is_zero_and_every_block_the_identity():
    model = MMDiT(shape_of()).double()
    velocity, features = model.with_features(*inputs(), (1, 3))
    assert not velocity.any()
    assert torch.equal(features[1], features[3])
    assert model.context_embedder.weight.std() > 0.1


def test_pooled_features_are_means_over_the_image_tokens():
    model = random_mmdit()
    tokens = model.features(*inputs(), (1, 2))
    pooled = model.features(*inputs(), (1, 2), pool=True)
    assert tokens[1].shape == (3, 16, 32)
    for depth in (1, 2):
        torch.testing.assert_close(pooled[depth], tokens[depth].mean(dim=1))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_frozen_teacher_gives_the_full_models_image_tokens(tmp_path, depth):
    """It ends as any MMDiT does: without the text that no image token needs."""
    model = random_mmdit(dtype=torch.float32, qk_norm=True).eval()
    model.set_null_condition(torch.randn(1, LENGTH, SIZE))
    weights = save_weights(tmp_path / "raw.safetensors", model)
    freeze_teacher(weights, depth, tmp_path / "teacher.safetensors")
    teacher, metadata = load_teacher(tmp_path / "teacher.safetensors", CPU)
    assert metadata.shape == replace(model.shape, depth=depth)
    assert type(teacher) is MMDiTTrunk
    x, t, _ = inputs(torch.float32)
    for captions in (inputs(torch.float32)[2], model.null_condition(3)):
        _, features = model.with_features(x, t, captions, (depth,))
        assert torch.equal(teacher.tokens(x, t, captions), features[depth])
        assert torch.equal(teacher.features(x, t, captions, (depth,))[depth], features[depth])
    assert torch.equal(teacher.null_condition(1), model.null_condition(1))


def test_activation_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = random_mmdit(qk_norm=True).train()
        model.activation_checkpointing = checkpointing
        model(*inputs()).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert (plain is None and recomputed is None) or torch.equal(plain, recomputed)


@torch.no_grad()
@pytest.mark.filterwarnings("error")
def test_mixed_precision_is_near_full_precision():
    model, given = random_mmdit(dtype=torch.float32, qk_norm=True), inputs(torch.float32)
    expected = model(*given)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(*given)
    assert 0 < (found - expected).square().mean() < 1e-3 * expected.square().mean()


@pytest.mark.slow
@torch.no_grad()
def test_each_kind_of_block_is_one_graph():
    """Compiled block by block, as a training does it; the last block is another graph."""
    from torch._dynamo.testing import CompileCounter

    model, given = random_mmdit(dtype=torch.float32, qk_norm=True), inputs(torch.float32)
    counter = CompileCounter()
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(*given)
        for block in model.each_block:
            block.compile(backend=counter, fullgraph=True)
        found = model(*given)
    assert torch.equal(found, expected)
    assert counter.frame_count == 2


def test_the_preset_is_the_published_network():
    with torch.device("meta"):
        model = MMDiTConfig.from_preset("MMDiT-24x768/2").build((4, 32, 32), (77, 768))
    assert type(model) is MMDiT
    assert model.shape == MMDiTShape(
        latent_shape=(4, 32, 32), depth=24, hidden_size=768, num_heads=24, patch_size=2,
        mlp_ratio=4.0, qk_norm=False, context_length=77, context_size=768,
    )  # fmt: skip
    assert model.pos_embed.shape == (1, 256, 768)
