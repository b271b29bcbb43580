"""The losses of stage 1 and stage 2 against slow transcriptions of their formulas, on randomised models in float64."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.training import plain_loss
from selftrans.config import SelfTranscendence, TeacherChoice, TimeRange, VaeAlignment
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.guidance.base import Batch
from selftrans.guidance.registry import build_guidance
from selftrans.models.sit import SiT, SiTTrunk
from selftrans.runtime.errors import UserError
from selftrans.training.trainer import TrainingModel
from tests.conftest import randomise

RANGE = TimeRange(low=0.4, high=0.7)
TIMES = (0.05, 0.41, 0.55, 0.69, 0.71, 0.98)


def make_batch(times=TIMES, seed=0):
    rng = torch.Generator().manual_seed(seed)
    size = len(times)
    z = torch.randn(size, 4, 8, 8, generator=rng, dtype=torch.float64)
    eps = torch.randn(size, 4, 8, 8, generator=rng, dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float64)
    path, t_B111 = INTERPOLANTS["linear"], t.reshape(-1, 1, 1, 1)
    labels = torch.arange(size) % 10
    dropped = torch.where(torch.arange(size) % 3 == 1, 10, labels)
    return Batch(
        z_BCHW=z, x_BCHW=path.noised(z, eps, t_B111), velocity_BCHW=path.velocity(z, eps, t_B111), t_B=t,
        times=np.asarray(times, np.float32), labels_B=labels, dropped_labels_B=dropped,
    )  # fmt: skip


def silu_mlp(layers, x):
    for position, layer in enumerate(layers):
        x = functional.linear(x, layer.weight, layer.bias) if position % 2 == 0 else x * torch.sigmoid(x)
    return x


@pytest.mark.parametrize("target", ["velocity", "latent"])
def test_stage_1_is_its_formula(shape, target):
    settings = VaeAlignment(method="vae-alignment", depth=2, target=target, t_range=RANGE, projector_width=16)
    model = randomise(TrainingModel(SiT(shape), build_guidance(settings, shape)).double())
    batch = make_batch()
    _, term = model(batch, True)

    expected = 0.0
    for i, t in enumerate(TIMES):
        mask = 1.0 if 0.4 <= t <= 0.7 else 0.0
        one = slice(i, i + 1)
        _, features = model.backbone.with_features(batch.x_BCHW[one], batch.t_B[one], batch.dropped_labels_B[one], (2,))
        tokens = silu_mlp(model.guidance.head.projector, features[2][0])
        normal = (tokens - tokens.mean(1, keepdim=True)) / (tokens.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        patches = functional.linear(normal, model.guidance.head.linear.weight, model.guidance.head.linear.bias)
        prediction = torch.zeros(4, 8, 8, dtype=torch.float64)
        for token in range(16):
            row, column = divmod(token, 4)
            square = patches[token].reshape(2, 2, 4).permute(2, 0, 1)
            prediction[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = square
        wanted = batch.velocity_BCHW[i] if target == "velocity" else batch.z_BCHW[i]
        expected += mask * (prediction - wanted).square().mean()
    torch.testing.assert_close(term.double(), expected / len(TIMES), rtol=1e-6, atol=0)


def stage_2(shape, w=5.0, stop_after=None):
    settings = SelfTranscendence(
        method="self-transcendence", teacher=TeacherChoice(run="t", step=1), student_depth=2, teacher_depth=3,
        guidance_scale=w, t_range=RANGE, projector_width=16, stop_after=stop_after,
    )  # fmt: skip
    full_teacher = randomise(SiT(shape).double(), seed=7).requires_grad_(False).eval()
    cut = copy.deepcopy(full_teacher)
    teacher = SiTTrunk.__new__(SiTTrunk)
    teacher.__dict__.update(cut.__dict__)
    teacher.blocks = cut.blocks[:3]
    return randomise(TrainingModel(SiT(shape), build_guidance(settings, shape, teacher)).double()), full_teacher


@pytest.mark.parametrize("w", [0.0, 1.0, 5.0, 30.0])
def test_stage_2_is_its_formula(shape, w):
    model, teacher = stage_2(shape, w)
    batch = make_batch()
    _, term = model(batch, True)

    expected = 0.0
    for i, t in enumerate(TIMES):
        mask = 1.0 if 0.4 <= t <= 0.7 else 0.0
        one = slice(i, i + 1)
        x, time = batch.x_BCHW[one], batch.t_B[one]
        f_c = teacher.with_features(x, time, batch.labels_B[one], (3,))[1][3]  # the true label, dropped or not
        f_u = teacher.with_features(x, time, torch.tensor([10]), (3,))[1][3]
        assert not torch.allclose(f_c, f_u)
        f_g = f_u + w * (f_c - f_u)
        student = model.backbone.with_features(x, time, batch.dropped_labels_B[one], (2,))[1][2]
        expected += mask * (silu_mlp(model.guidance.projector, student) - f_g).square().mean()
    torch.testing.assert_close(term.double(), expected / len(TIMES), rtol=1e-5, atol=0)


def test_the_saving_changes_no_gradient(shape):
    """Ours against the plain arithmetic of the benchmark: everything on the whole batch, then a mask."""
    model, _ = stage_2(shape)
    (cut,) = model.guidance._teacher
    batch = make_batch()
    gradients = []
    for saving in (True, False):
        model.zero_grad()
        denoising, term = model(batch, True)
        loss = denoising + model.guidance.weight * term if saving else plain_loss(model, cut, batch)
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-5, atol=1e-9, msg=name)
    assert gradients[0]["backbone.blocks.0.mlp.fc1.weight"].abs().max() > 1e-6


@pytest.mark.parametrize("stage", [1, 2])
def test_an_empty_range_gives_zero_and_zero_gradients(shape, stage):
    if stage == 1:
        settings = VaeAlignment(method="vae-alignment", depth=2, t_range=RANGE, projector_width=16)
        model = randomise(TrainingModel(SiT(shape), build_guidance(settings, shape)).double())
    else:
        model, _ = stage_2(shape)
    _, term = model(make_batch(times=(0.1, 0.2, 0.9)), True)
    assert term.item() == 0
    term.backward()
    for head in model.guidance.parameters():
        assert head.grad is not None
        assert not head.grad.any()


def test_the_teacher_is_no_part_of_the_model(shape):
    model, _ = stage_2(shape)
    assert not any("teacher" in name for name in model.state_dict())
    assert sum(p.numel() for p in model.guidance.parameters()) == 32 * 16 + 16 + 16 * 16 + 16 + 16 * 32 + 32


def test_stop_after_switches_the_term_off(shape):
    model, _ = stage_2(shape, stop_after=100)
    assert [model.guidance.is_active(step) for step in (0, 99, 100, 101)] == [True, True, False, False]


def test_a_signal_without_its_teacher_is_refused(shape):
    settings = SelfTranscendence(
        method="self-transcendence", teacher=TeacherChoice(run="t", step=1), student_depth=2, teacher_depth=3
    )
    with pytest.raises(UserError, match="needs a frozen teacher"):
        build_guidance(settings, shape)
