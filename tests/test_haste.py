"""HASTE: its loss against a slow transcription, attention logits of both networks, its early stop.

The models have random weights in float64.
"""

import numpy as np
import pytest
import torch

from selftrans.alignment.haste import Haste
from selftrans.config import ConfigError, TrainedEncoderConfig, load_experiment
from selftrans.models.encoder import (
    EncoderMetadata,
    PatchEncoder,
    build_network,
    stand_in_architecture,
)
from selftrans.models.layers import Attention
from selftrans.models.sit import SiT
from selftrans.runtime.errors import UserError
from tests.support.experiments import FURTHER_METHODS
from tests.support.random_models import randomise
from tests.support.terms import (
    TIMES,
    build,
    make_batch,
    mean_cosine,
    only_term,
    silu_mlp,
    tokens_of,
)

HASTE = Haste(
    method="haste", encoder="encoder", depth=2, projector_width=16, weight=0.4,
    attention_weight=0.7, attention_depths=(1, 3), stop_after=100,
)  # fmt: skip


def encoder_of(network, input_size=32):
    metadata = EncoderMetadata(
        name="encoder",
        stand_in=True,
        input_size=input_size,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        architecture={},
    )
    return PatchEncoder(network.eval(), metadata)


@pytest.fixture(scope="module")
def encoder():
    """Three blocks of three heads; the student has two."""
    settings = TrainedEncoderConfig(kind="trained", hidden_size=24, depth=3, num_heads=3)
    return encoder_of(randomise(build_network(stand_in_architecture(settings, 32)), std=0.3))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (len(TIMES), 32, 32, 3), dtype=np.uint8))


def attention_maps(qkv, x, heads):
    """Softmax of the products of queries and keys, head by head, (H, T, T)."""
    queries, keys, _ = qkv(x).chunk(3, dim=-1)
    size, maps = x.shape[-1] // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        products = queries[:, part] @ keys[:, part].T / size**0.5
        exponentials = torch.exp(products)
        maps.append(exponentials / exponentials.sum(1, keepdim=True))
    return torch.stack(maps)


def students_maps(backbone, batch, i, depth):
    """Attention in a block, of the tokens before it, normalised and modulated by hand."""
    block, one = backbone.blocks[depth - 1], slice(i, i + 1)
    condition = backbone.embedding(batch.t_B[one], batch.dropped_condition_B[one])
    if depth == 1:
        tokens = (backbone.x_embedder(batch.x_BCHW[one]) + backbone.pos_embed)[0]
    else:
        tokens = tokens_of(backbone, batch, i, depth - 1)
    shift, scale = block.adaLN_modulation(condition)[0].chunk(6)[:2]
    normal = (tokens - tokens.mean(1, keepdim=True)) / (
        tokens.var(1, unbiased=False, keepdim=True) + 1e-6
    ).sqrt()
    return attention_maps(block.attn.qkv, normal * (1 + scale) + shift, 2)


def test_haste_is_its_formula(shape, encoder, images):
    """The last two of the encoder's blocks are followed, and the first two of its heads."""
    plain = type(shape)(**{**shape.to_json(), "qk_norm": False})
    model = build(plain, HASTE, encoders={"encoder": encoder})
    batch = make_batch(images_BHWC=images)
    _, term, cosines = model(batch)
    inputs = {}
    for depth in (2, 3):
        attention = encoder.network.blocks[depth - 1].attn
        attention.register_forward_hook(
            lambda _, given, __, depth=depth: inputs.__setitem__(depth, given[0])
        )
    tokens = encoder(images)
    similar, entropies = [], []
    for i in range(len(TIMES)):
        student = tokens_of(model.backbone, batch, i, 2)
        prediction = silu_mlp(only_term(model).heads["projector"], student)
        similar.append(mean_cosine(prediction, tokens[i].double()))
        for depth, followed in ((1, 2), (3, 3)):
            ours = students_maps(model.backbone, batch, i, depth)
            theirs = encoder.network.blocks[followed - 1].attn.qkv
            maps = attention_maps(theirs, inputs[followed][i], 3)[:2].double()
            entropies.append(-(maps * ours.log()).sum() / (2 * 16))
    expected = -0.4 * sum(similar) / len(TIMES) + 0.7 * sum(entropies) / len(entropies)
    torch.testing.assert_close(term.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(cosines.double(), torch.stack(similar), rtol=1e-5, atol=1e-6)
    assert abs(sum(entropies) / len(entropies) - np.log(16)) > 1e-3  # the maps are not uniform


@pytest.mark.parametrize("qk_norm", [True, False])
def test_logits_are_those_that_fused_attention_has(qk_norm):
    attention = randomise(Attention(32, 4, qk_norm).double(), std=0.5)
    x = torch.randn(3, 16, 32, dtype=torch.float64)
    values = attention.qkv(x)[..., 64:].unflatten(2, (4, 8)).transpose(1, 2)
    mixed = attention.logits(x).softmax(-1) @ values
    torch.testing.assert_close(attention.proj(mixed.transpose(1, 2).flatten(2)), attention(x))


def test_an_encoders_logits_are_those_of_its_patches():
    """In DINOv2's shape, without class and register tokens; its tokens are those of a plain pass.

    timm's own attention is the reference: with fused attention off it takes its softmax of them.
    """
    network = build_network(
        {"model_name": "vit_small_patch14_reg4_dinov2", "img_size": 56, "depth": 2}
    )
    encoder = encoder_of(randomise(network, std=0.1), 56)
    images = torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8)
    tokens, logits = encoder.with_attention(images, (1, 2))
    torch.testing.assert_close(tokens, encoder(images), rtol=0, atol=0)
    attention, seen = network.blocks[1].attn, []
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    encoder(images)
    whole = seen[0][:, :, 5:, 5:]
    expected = whole / whole.sum(-1, keepdim=True)
    torch.testing.assert_close(logits[2].softmax(-1), expected, rtol=1e-4, atol=1e-6)
    assert logits[1].shape == (2, 6, 16, 16)


def test_both_parts_end_early(shape, encoder, images):
    """After that nothing of them is computed: no encoder, no logits, no block for them."""
    model = build(shape, HASTE, encoders={"encoder": encoder})
    assert [model.alignment.depths(step) for step in (99, 100)] == [(0, 2), ()]
    before = model(make_batch(step=99, images_BHWC=images))[1]
    assert before != 0
    _, after, cosines = model(make_batch(step=100))  # without images it could not run
    assert after == 0
    assert not len(cosines)
    assert Haste.model_fields["stop_after"].default == 250_000


def test_the_attention_pulls_the_block_that_has_it(shape, encoder, images):
    """Queries and keys of its blocks get a gradient, and those of the last block none."""
    model = build(shape, HASTE.model_copy(update={"weight": 1e-9}), encoders={"encoder": encoder})
    model(make_batch(images_BHWC=images))[1].backward()
    moved = [block.attn.qkv.weight.grad for block in model.backbone.blocks]
    assert moved[2][:64].any()
    assert not moved[2][64:].any()  # its values come after the logits
    assert moved[3] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_depths": (1, 2, 3, 4)}, "encoder 'encoder': block 0 is none of its 3 blocks"),
        ({"encoder_depths": (3, 4)}, "encoder 'encoder': block 4 is none of its 3 blocks"),
    ],
)
def test_blocks_that_the_encoder_lacks_are_one_line(shape, encoder, changes, message):
    with pytest.raises(UserError, match=message):
        build(shape, HASTE.model_copy(update=changes), encoders={"encoder": encoder})


def test_an_encoder_of_another_grid_is_one_line(shape):
    settings = TrainedEncoderConfig(kind="trained", hidden_size=24, depth=3, num_heads=3)
    other = encoder_of(build_network(stand_in_architecture(settings, 64)), 64)
    with pytest.raises(UserError, match="has 8x8 tokens, the model 4x4: attention maps of two"):
        build(shape, HASTE, encoders={"encoder": other})


def test_an_encoder_without_logits_is_one_line(shape):
    network = build_network({"model_name": "eva02_tiny_patch14_224", "img_size": 56, "depth": 2})
    message = "gives no attention logits, block 1 has EvaAttention"
    with pytest.raises(UserError, match=message) as refused:
        build(shape, HASTE, encoders={"encoder": encoder_of(network, 56)})
    assert "\n" not in str(refused.value)


def test_pairs_of_blocks_are_checked(tiny):
    runs = {"sit": {}, "haste": FURTHER_METHODS["haste"]}
    for key, value, message in (
        ("encoder_depths", [2], r"encoder_depths: \[2\] are 1 blocks, attention_depths are 2"),
        ("attention_depths", [1, 5], "attention_depths: 5 is beyond the model's 4 blocks"),
        ("attention_depths", [], "attention_depths"),
    ):
        with pytest.raises(ConfigError, match=rf"runs\.haste\.alignment\.{message}"):
            load_experiment(tiny(runs=runs, **{f"runs.haste.alignment.{key}": value}))


def test_a_block_without_logits_is_one_line(shape):
    """In a backbone of the user's own."""

    class Other(torch.nn.Module):
        def forward(self, x, condition):
            return x

    model, batch = SiT(shape).double(), make_batch()
    model.blocks[1] = Other()
    features = model.features(batch.x_BCHW, batch.t_B, batch.condition_B, (1, 2))
    with pytest.raises(UserError, match="block 2 has type Other and gives no attention logits"):
        features.attention_logits(2)


def test_tokens_before_the_first_block_are_kept(shape):
    model, batch = randomise(SiT(shape).double()), make_batch()
    features = model.features(batch.x_BCHW, batch.t_B, batch.condition_B, (0, 2))
    embedded = model.x_embedder(batch.x_BCHW) + model.pos_embed
    assert torch.equal(features[0], embedded)
    assert set(features) == {0, 2}
