"""The losses of every method against slow transcriptions of their formulas.

The models have random weights in float64.
"""

import pytest
import torch
from torch.nn import functional

from selftrans.alignment.layersync import LayerSync
from selftrans.alignment.registry import build_alignment_losses
from selftrans.alignment.repa import Repa, resized_tokens
from selftrans.alignment.self_transcendence import SelfTranscendence
from selftrans.alignment.sra import DecayConfig, Sra
from selftrans.alignment.vae_alignment import VaeAlignment
from selftrans.config import (
    TeacherConfig,
    TrainedEncoderConfig,
)
from selftrans.gpu_check.stage_2 import plain_loss
from selftrans.models.encoder import (
    EncoderMetadata,
    PatchEncoder,
    build_network,
    stand_in_architecture,
)
from selftrans.models.sit import SiT, patchify, unpatchify
from selftrans.runtime.errors import UserError
from selftrans.training.gradients import alignment_gradient, gradient_norms
from selftrans.training.model import accumulate
from selftrans.training.precision import MixedPrecision, make_accelerator
from tests.support.random_models import randomise
from tests.support.terms import (
    RANGE,
    TIMES,
    build,
    cosine,
    make_batch,
    mean_cosine,
    only_term,
    silu_mlp,
    stage_2,
    tokens_of,
)


def counted(masking, t):
    """Factor of a sample's error in the sum over the batch: half of TIMES lies in range."""
    return 0.5 if masking == "released" else float(0.4 <= t <= 0.7)


@pytest.mark.parametrize("masking", ["per-sample", "released"])
@pytest.mark.parametrize("target", ["velocity", "latent"])
def test_stage_1_is_its_formula(shape, target, masking):
    settings = VaeAlignment(
        method="vae-alignment", depth=2, target=target, t_range=RANGE, projector_width=16,
        t_masking=masking,
    )  # fmt: skip
    model = build(shape, settings)
    batch = make_batch()
    _, term, cosines = model(batch)

    expected, similar = 0.0, []
    head = only_term(model).heads["latent"]
    for i, t in enumerate(TIMES):
        tokens = silu_mlp(head.projector, tokens_of(model.backbone, batch, i, 2))
        normal = (tokens - tokens.mean(1, keepdim=True)) / (
            tokens.var(1, unbiased=False, keepdim=True) + 1e-6
        ).sqrt()
        patches = functional.linear(normal, head.linear.weight, head.linear.bias)
        prediction = torch.zeros(4, 8, 8, dtype=torch.float64)
        for token in range(16):
            row, column = divmod(token, 4)
            square = patches[token].reshape(2, 2, 4).permute(2, 0, 1)
            prediction[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = square
        wanted = batch.velocity_BCHW[i] if target == "velocity" else batch.z_BCHW[i]
        if factor := counted(masking, t):
            expected += factor * (prediction - wanted).square().mean()
            similar.append(cosine(prediction, wanted))
    torch.testing.assert_close(term.double(), 0.5 * expected / len(TIMES), rtol=1e-6, atol=0)
    torch.testing.assert_close(cosines.double(), torch.stack(similar), rtol=1e-5, atol=1e-7)


def test_patches_are_put_together_as_they_were_cut(shape):
    latents = torch.randn(3, 4, 8, 8)
    assert torch.equal(unpatchify(patchify(latents, shape), shape), latents)


@pytest.mark.parametrize(
    ("w", "masking"), [*((w, "per-sample") for w in (0.0, 1.0, 5.0, 30.0)), (5.0, "released")]
)
def test_stage_2_is_its_formula(shape, w, masking):
    model, teacher = stage_2(shape, w, t_masking=masking)
    batch = make_batch()
    _, term, cosines = model(batch)

    expected, similar = 0.0, []
    for i, t in enumerate(TIMES):
        one = slice(i, i + 1)
        x, time = batch.x_BCHW[one], batch.t_B[one]
        f_c = teacher.with_features(x, time, batch.condition_B[one], (3,))[1][
            3
        ]  # the true label, dropped or not
        f_u = teacher.with_features(x, time, torch.tensor([10]), (3,))[1][3]
        assert not torch.allclose(f_c, f_u)
        f_g = (f_u + w * (f_c - f_u))[0]
        prediction = silu_mlp(
            only_term(model).heads["projector"], tokens_of(model.backbone, batch, i, 2)
        )
        if factor := counted(masking, t):
            expected += factor * (prediction - f_g).square().mean()
            similar.append(mean_cosine(prediction, f_g))
    torch.testing.assert_close(term.double(), 0.5 * expected / len(TIMES), rtol=1e-5, atol=0)
    torch.testing.assert_close(cosines.double(), torch.stack(similar), rtol=1e-5, atol=1e-7)


class Stored:
    """A stand-in for the feature store by which REPA's head is built."""

    grid_size, hidden_size, name, stand_in = 4, 24, "encoder", False


REPA = Repa(method="repa", encoder="encoder", depth=2, projector_width=16)


def test_repa_is_its_formula(shape):
    model = build(shape, REPA, encoders={"encoder": Stored()})
    tokens = torch.randn(len(TIMES), 16, 24, dtype=torch.float64)
    batch = make_batch(encoder_features={"encoder": tokens})
    _, term, cosines = model(batch)
    similar = [
        mean_cosine(
            silu_mlp(only_term(model).heads["projector"], tokens_of(model.backbone, batch, i, 2)),
            tokens[i],
        )
        for i in range(len(TIMES))
    ]
    torch.testing.assert_close(cosines.double(), torch.stack(similar), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        term.double(), -0.5 * sum(similar) / len(TIMES), rtol=1e-5, atol=1e-7
    )


def test_repa_on_images_is_repa_on_their_stored_features(shape):
    """The encoder run at every step, against its own stored tokens.

    Its weights are neither trained nor saved.
    """
    settings = TrainedEncoderConfig(kind="trained", hidden_size=24, depth=2, num_heads=2)
    torch.manual_seed(0)
    network = randomise(build_network(stand_in_architecture(settings, 32))).eval()
    metadata = EncoderMetadata(
        name="encoder",
        stand_in=True,
        input_size=32,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        architecture={},
        digest="digest",
    )
    encoder = PatchEncoder(network, metadata)
    images = torch.randint(0, 256, (len(TIMES), 32, 32, 3), dtype=torch.uint8)
    stored = build(shape, REPA, encoders={"encoder": Stored()})
    live = build(
        shape, REPA.model_copy(update={"features": "images"}), encoders={"encoder": encoder}
    )
    assert stored.state_dict().keys() == live.state_dict().keys()
    expected = stored(make_batch(encoder_features={"encoder": encoder(images)}))[1]
    torch.testing.assert_close(live(make_batch(images_BHWC=images))[1], expected, rtol=1e-6, atol=0)


def test_tokens_of_another_grid_are_matched():
    """Linear ramps survive a bilinear resize, up and down, away from the border.

    A grid of equal size is left as it is.
    """
    side = torch.arange(8, dtype=torch.float64)
    ramp = torch.stack([side.repeat(8), side.repeat_interleave(8)], dim=1)[
        None
    ]  # column and row of each token
    assert resized_tokens(ramp, 8) is ramp
    down = resized_tokens(ramp, 4).reshape(4, 4, 2)
    torch.testing.assert_close(
        down[1:3, 1:3, 0], torch.tensor([[2.5, 4.5], [2.5, 4.5]], dtype=torch.float64)
    )
    up = resized_tokens(ramp, 16).reshape(16, 16, 2)
    torch.testing.assert_close(up[4, 5], torch.tensor([2.25, 1.75], dtype=torch.float64))


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("loss", ["smooth-l1", "cosine", "cosine-over-tokens"])
def test_sra_is_its_formula(shape, path, loss):
    settings = Sra(method="sra", student_depth=2, teacher_depth=3, loss=loss, projector_width=16)
    model = build(shape, settings)
    average = randomise(SiT(shape).double(), seed=7).requires_grad_(False).eval()
    model.alignment.set_ema_model(average)
    batch = make_batch(interpolant=path)
    _, term, cosines = model(batch)

    expected, similar = 0.0, []
    for i, t in enumerate(TIMES):
        less = torch.tensor(max(t - 0.2 * batch.uniform_B[i].item(), 0.0), dtype=torch.float64)
        alpha = 1 - less if path == "linear" else torch.cos(torch.pi * less / 2)
        sigma = less if path == "linear" else torch.sin(torch.pi * less / 2)
        x = (alpha * batch.z_BCHW[i] + sigma * batch.eps_BCHW[i])[None]
        target = average.with_features(x, less[None], batch.dropped_condition_B[i : i + 1], (3,))[
            1
        ][3][0]
        prediction = silu_mlp(
            only_term(model).heads["projector"], tokens_of(model.backbone, batch, i, 2)
        )
        similar.append(mean_cosine(prediction, target))
        if loss == "cosine":
            expected += 0.5 * -similar[-1]
        elif loss == "cosine-over-tokens":
            expected += 0.5 * -mean_cosine(prediction.T, target.T)
        else:
            away = (prediction - target).abs()
            huber = torch.where(away < 0.05, away.square() / (2 * 0.05), away - 0.05 / 2)
            expected += 2 * 0.1 * huber.mean()
    torch.testing.assert_close(term.double(), expected / len(TIMES), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(cosines.double(), torch.stack(similar), rtol=1e-5, atol=1e-7)


def test_sra_sees_no_less_noise_than_none(shape):
    """Near t = 0 the teacher's time is clipped, and it sees the clean latent."""
    model = build(shape, Sra(method="sra", student_depth=2, teacher_depth=3, less_noise=1.0))
    average = randomise(SiT(shape).double(), seed=7).requires_grad_(False).eval()
    model.alignment.set_ema_model(average)
    batch = make_batch(times=(1e-6,))
    found = only_term(model).guiding_features(batch, {})
    clean = average.features(
        batch.z_BCHW, torch.zeros(1, dtype=torch.float64), batch.dropped_condition_B, (3,)
    )[3]
    torch.testing.assert_close(found, clean.float())


def test_sras_weight_falls_late_in_training(shape):
    """The authors' code: 2 * 0.1 ** ((epoch - 149) / 1000 + 1) beyond epoch 149, 2 * 0.1 before."""
    decay = DecayConfig(after=149, steps=1000)
    (term,) = build(
        shape, Sra(method="sra", student_depth=1, teacher_depth=2, decay=decay)
    ).alignment.values()
    for epoch in (0, 149, 150, 649, 1149):
        expected = 2 * (0.1 ** (((epoch - 149) / 1000 + 1) if epoch > 149 else 1))
        assert term.method.weight_at(epoch) == pytest.approx(expected, rel=1e-12)
    (cosine_term,) = build(
        shape, Sra(method="sra", student_depth=1, teacher_depth=2, loss="cosine")
    ).alignment.values()
    assert cosine_term.method.weight_at(0) == cosine_term.method.weight_at(10**9) == 0.5


LAYERSYNC = LayerSync(method="layersync", student_depth=1, teacher_depth=3)


def test_layersync_is_its_formula(shape):
    model = build(shape, LAYERSYNC)
    assert not list(model.alignment.parameters())
    batch = make_batch()
    _, term, cosines = model(batch)
    similar = [
        mean_cosine(tokens_of(model.backbone, batch, i, 1), tokens_of(model.backbone, batch, i, 3))
        for i in range(len(TIMES))
    ]
    torch.testing.assert_close(cosines.double(), torch.stack(similar), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        term.double(), -0.2 * sum(similar) / len(TIMES), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("method", ["layersync", "sra", "repa"])
def test_no_gradient_goes_through_what_is_followed(shape, method):
    """The term moves no block behind the student's, and no output layer.

    For LayerSync that is the stop-gradient.
    """
    term_config = {
        "layersync": LAYERSYNC,
        "repa": REPA,
        "sra": Sra(method="sra", student_depth=2, teacher_depth=3),
    }[method]
    model = build(shape, term_config, encoders={"encoder": Stored()})
    average = randomise(SiT(shape).double(), seed=7)
    model.alignment.set_ema_model(average)
    model(make_batch(encoder_features={"encoder": torch.randn(6, 16, 24)}))[1].backward()
    last = max(term_config.student_blocks["student_depth" if method != "repa" else "depth"], 1)
    for depth, block in enumerate(model.backbone.blocks, start=1):
        moved = [p.grad is not None and bool(p.grad.any()) for p in block.parameters()]
        assert any(moved) is (depth <= last)
    assert all(parameter.grad is None for parameter in average.parameters())


def test_the_average_runs_no_block_behind_the_one_that_is_followed(shape):
    model = build(shape, Sra(method="sra", student_depth=2, teacher_depth=3))
    average = randomise(SiT(shape).double(), seed=7)
    model.alignment.set_ema_model(average)
    average.blocks[3] = torch.nn.Identity()  # would refuse its two arguments
    average.final_layer = None
    assert torch.isfinite(model(make_batch())[1])


def test_a_list_of_terms_is_their_weighted_sum(shape):
    term_configs = [
        VaeAlignment(
            method="vae-alignment", depth=1, t_range=RANGE, projector_width=16, weight=0.3
        ),
        LAYERSYNC,
        Repa(method="repa", encoder="encoder", depth=3, projector_width=8, weight=2.0),
    ]
    tokens = {"encoder": torch.randn(len(TIMES), 16, 24)}
    model = build(shape, *term_configs, encoders={"encoder": Stored()})
    batch = make_batch(encoder_features=tokens)
    assert model.alignment.depths(0) == (1, 3)
    features = model.backbone.features(batch.x_BCHW, batch.t_B, batch.dropped_condition_B, (1, 3))
    terms = [term(batch, features).loss for term in model.alignment.values()]
    expected = 0.3 * terms[0] + 0.2 * terms[1] + 2.0 * terms[2]
    torch.testing.assert_close(model(batch)[1], expected, rtol=1e-6, atol=0)


def test_each_term_of_a_list_stops_for_itself(shape):
    """The stopped term's head gets zeros, then no gradient at all; the other term continues."""
    stopped = VaeAlignment(
        method="vae-alignment", depth=1, t_range=RANGE, projector_width=16, stop_after=100
    )
    model = build(shape, stopped, REPA, encoders={"encoder": Stored()})
    assert [model.alignment.depths(step) for step in (99, 100)] == [(1, 2), (2,)]
    _, term, _ = model(make_batch(step=100, encoder_features={"encoder": torch.randn(6, 16, 24)}))
    term.backward()
    stopped_head, continued = model.alignment.values()
    assert all(head.grad is not None and not head.grad.any() for head in stopped_head.parameters())
    model.alignment.drop_idle_gradients(100)
    assert all(head.grad is None for head in stopped_head.parameters())
    assert any(head.grad.any() for head in continued.parameters())


@pytest.mark.parametrize("masking", ["per-sample", "released"])
def test_the_saving_changes_no_gradient(shape, masking):
    """Ours against the benchmark's plain arithmetic: all on the whole batch, then a mask."""
    model, _ = stage_2(shape, t_masking=masking)
    cut = only_term(model).teacher
    batch = make_batch()
    gradients = []
    for saving in (True, False):
        model.zero_grad()
        loss = sum(model(batch)[:2]) if saving else plain_loss(model, cut, batch)
        loss.backward()
        gradients.append(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        )
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-5, atol=1e-9, msg=name)
    assert gradients[0]["backbone.blocks.0.mlp.fc1.weight"].abs().max() > 1e-6


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_parts_of_the_gradient_add_up(shape, micro_batches):
    """Norms of the two parts against two backward passes of their own."""
    model, _ = stage_2(shape, weight=40.0)  # so that neither part is lost beside the other
    batches = [make_batch(seed=seed) for seed in range(micro_batches)]
    accelerator, arithmetic = (
        make_accelerator(on_gpu=False),
        MixedPrecision("fp32", torch.device("cpu")),
    )
    aligned = alignment_gradient(model, batches, arithmetic, accelerator)
    accumulate(model, batches, arithmetic, accelerator)
    found = gradient_norms(model.backbone, aligned)
    expected = []
    for part in range(2):
        loss = sum(model(batch)[part] for batch in batches) / micro_batches
        trained = [
            parameter for parameter in model.backbone.parameters() if parameter.requires_grad
        ]
        gradient = torch.autograd.grad(loss, trained, allow_unused=True)
        expected.append(sum(g.square().sum() for g in gradient if g is not None).sqrt().item())
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected[1] > 0.1 * expected[0]


@pytest.mark.parametrize("stage", [1, 2])
def test_an_empty_range_gives_zero_and_zero_gradients(shape, stage):
    if stage == 1:
        model = build(
            shape,
            VaeAlignment(method="vae-alignment", depth=2, t_range=RANGE, projector_width=16),
        )
    else:
        model, _ = stage_2(shape)
    _, term, cosines = model(make_batch(times=(0.1, 0.2, 0.9)))
    assert term.item() == 0
    assert len(cosines) == 0
    term.backward()
    for head in model.alignment.parameters():
        assert head.grad is not None
        assert not head.grad.any()


def test_the_teacher_is_no_part_of_the_model(shape):
    model, _ = stage_2(shape)
    assert not any("teacher" in name for name in model.state_dict())
    assert (
        sum(p.numel() for p in model.alignment.parameters())
        == 32 * 16 + 16 + 16 * 16 + 16 + 16 * 32 + 32
    )


def test_the_average_is_no_part_of_the_model(shape):
    model = build(shape, Sra(method="sra", student_depth=2, teacher_depth=3))
    model.alignment.set_ema_model(SiT(shape))
    heads = [name for name in model.state_dict() if not name.startswith("backbone")]
    assert heads == [
        f"alignment.terms.sra.heads.projector.{layer}.{part}"
        for layer in (0, 2)
        for part in ("weight", "bias")
    ]
    assert only_term(model).heads["projector"][0].out_features == 64  # twice the width


def test_stop_after_switches_the_term_off(shape):
    model, _ = stage_2(shape, stop_after=100)
    depths = [model.alignment.depths(step) for step in (0, 99, 100, 101)]
    assert depths == [(2,), (2,), (), ()]
    _, term, _ = model(make_batch(step=100))
    assert term.item() == 0


@pytest.mark.parametrize(
    ("term_config", "message"),
    [
        (
            SelfTranscendence(
                method="self-transcendence",
                teacher=TeacherConfig(run="t", step=1),
                student_depth=2,
                teacher_depth=3,
            ),
            "alignment 'term': needs a frozen teacher",
        ),
        (REPA, "neither features nor weights of 'encoder' were given"),
    ],
)
def test_a_term_without_what_it_follows_is_refused(shape, term_config, message):
    with pytest.raises(UserError, match=message):
        build_alignment_losses({"term": term_config}, shape)
