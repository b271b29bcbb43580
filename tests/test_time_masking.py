"""The two masks of a range of times, and the arithmetic of the teacher."""

import dataclasses

import numpy as np
import pytest
import torch

from selftrans.alignment.vae_alignment import VaeAlignment
from selftrans.config import (
    ConfigError,
    TeacherConfig,
    TimeRangeConfig,
    TrainingConfig,
    load_experiment,
)
from selftrans.data.store import LatentStore
from selftrans.training.batches import BatchSource
from tests.support.terms import RANGE, TIMES, build, make_batch, only_term, stage_2

DEPTH = 2


def model_of(shape, stage, t_masking, **keys):
    if stage == 2:
        return stage_2(shape, t_masking=t_masking, **keys)[0]
    settings = VaeAlignment(
        method="vae-alignment", depth=DEPTH, t_range=RANGE, projector_width=16,
        t_masking=t_masking, **keys,
    )  # fmt: skip
    return build(shape, settings)


def tokens_after(model, batch):
    """The student's tokens, which a gradient with regard to them can be taken of."""
    tokens = model.backbone.features(batch.x_BCHW, batch.t_B, batch.dropped_condition_B, (DEPTH,))[
        DEPTH
    ]
    return tokens.detach().requires_grad_()


def errors_of(model, batch, stage):
    """Mean squared error of each sample, whatever its time, (B,)."""
    term, tokens = only_term(model), tokens_after(model, batch)
    if stage == 2:
        prediction = term.heads["projector"](tokens)
        target = term.guiding_features(batch, {DEPTH: tokens})
    else:
        prediction, target = term.heads["latent"](tokens), batch.velocity_BCHW
    return (prediction - target).square().flatten(1).mean(1)


def part_of(batch, rows):
    """Some rows of a batch: what one process, or one micro-batch, sees."""
    sliced = {
        field.name: value[rows]
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), torch.Tensor | np.ndarray)
        and field.name != "global_times"
    }
    return dataclasses.replace(batch, **sliced)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_released_term_is_that_of_the_released_lines(shape, stage):
    """The published loss of shape (B) times a mask of shape (B, 1, 1, 1), and the mean of that."""
    model, batch = model_of(shape, stage, "released"), make_batch()
    mask = ((batch.t_B >= 0.4) & (batch.t_B <= 0.7)).view(-1, 1, 1, 1)
    product = errors_of(model, batch, stage) * mask
    assert product.shape == (len(TIMES), 1, 1, len(TIMES))
    found = 2 * model(batch)[1].double()  # lambda is 0.5
    torch.testing.assert_close(found, product.mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("t_masking", ["per-sample", "released"])
def test_the_gradient_reaches_the_samples_that_count(shape, stage, t_masking):
    model, batch = model_of(shape, stage, t_masking), make_batch()
    tokens = tokens_after(model, batch)
    only_term(model)(batch, {DEPTH: tokens}).loss.backward()
    reached = tokens.grad.flatten(1).any(dim=1).tolist()
    in_range = [0.4 <= t <= 0.7 for t in TIMES]
    assert reached == ([True] * len(TIMES) if t_masking == "released" else in_range)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("t_masking", ["per-sample", "released"])
def test_the_term_is_the_mean_over_the_parts_of_a_batch(shape, stage, t_masking):
    """Three micro-batches or processes, one of them with no sample in range, against one."""
    model, batch = model_of(shape, stage, t_masking), make_batch((0.1, 0.5, 0.6, 0.9, 0.2, 0.8))
    parts = [part_of(batch, slice(start, start + 2)) for start in (0, 2, 4)]
    whole, *split = (
        torch.autograd.grad(loss, tuple(model.alignment.parameters()))
        for loss in (model(batch)[1], sum(model(part)[1] for part in parts) / 3)
    )
    torch.testing.assert_close(split[0], whole, rtol=1e-5, atol=1e-9)
    assert any(gradient.abs().max() > 1e-6 for gradient in whole)


@pytest.mark.parametrize("stage", [1, 2])
def test_over_all_times_both_masks_are_one(shape, stage):
    everywhere = TimeRangeConfig(low=0.0, high=1.0)
    losses = []
    for t_masking in ("per-sample", "released"):
        model = model_of(shape, stage, t_masking)
        only_term(model).method = only_term(model).method.model_copy(update={"t_range": everywhere})
        losses.append(model(make_batch())[1])
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_batch_out_of_range_moves_nothing(shape, stage):
    model = model_of(shape, stage, "released")
    _, term, _ = model(make_batch(times=(0.1, 0.2, 0.9)))
    assert term.item() == 0
    term.backward()
    assert not any(head.grad.any() for head in model.alignment.parameters())


def test_every_process_knows_the_times_of_the_global_batch(manifest):
    store, training = LatentStore(manifest), TrainingConfig(checkpoints=(100,), batch_size=24)
    source = BatchSource(store, training, seed=3, with_global_times=True)
    whole = source.draw(5, range(24))
    for positions in (range(24), range(8), range(16, 24)):
        np.testing.assert_array_equal(source.draw(5, positions).global_times, whole.times)
    assert BatchSource(store, training, seed=3).draw(5, range(8)).global_times is None


@pytest.mark.parametrize("precision", ["training", "fp32"])
def test_the_teacher_computes_as_it_is_told(shape, precision):
    """Under autocast: in fp32 its features are those without, else they are rounded."""
    teacher = TeacherConfig(run="t", step=1, precision=precision)
    model = stage_2(shape)[0].float()
    term, batch = only_term(model), make_batch()
    term.method = term.method.model_copy(update={"teacher": teacher})
    term.teacher.float()
    inputs = batch.x_BCHW.float(), batch.t_B.float(), batch.condition_B
    exact = term.method.guided_features(term, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = term.method.guided_features(term, *inputs)
    assert torch.equal(found, exact) is (precision == "fp32")


@pytest.mark.parametrize("stage", [1, 2])
def test_features_of_norm_10000_stay_finite_in_fp16(shape, stage):
    """Their squares do not fit into fp16: losses are computed in fp32."""
    model, batch = model_of(shape, stage, "released").float(), make_batch()
    tensors = {
        field.name: value.float()
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), torch.Tensor)
        and value.is_floating_point()
    }
    batch, term = dataclasses.replace(batch, **tensors), only_term(model)
    if stage == 2:
        term.teacher.float()
    tokens = tokens_after(model, batch)
    tokens = (1e4 * tokens / tokens.norm(dim=-1, keepdim=True)).detach().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        loss = term(batch, {DEPTH: tokens}).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(tokens.grad).all()


@pytest.mark.parametrize("run", ["vae-align", "self-transcendence"])
def test_an_unknown_mask_is_refused(tiny, run):
    path = tiny(**{f"runs.{run}.alignment.t_masking": "mean"})
    with pytest.raises(ConfigError, match=rf"runs\.{run}\.alignment\.t_masking: .*'mean'"):
        load_experiment(path)
