"""Terms of the loss on small random models, and what a slow transcription of them needs."""

import copy

import numpy as np
import torch
from torch.nn import functional

from selftrans.alignment.base import Batch
from selftrans.alignment.registry import build_alignment_losses
from selftrans.alignment.self_transcendence import SelfTranscendence
from selftrans.config import TeacherConfig, TimeRangeConfig
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.models.sit import SiT, SiTTrunk
from selftrans.training.model import TrainingModel
from tests.support.random_models import randomise

RANGE = TimeRangeConfig(low=0.4, high=0.7)
TIMES = (0.05, 0.41, 0.55, 0.69, 0.71, 0.98)


def make_batch(times=TIMES, seed=0, interpolant="linear", step=0, **more):
    rng = torch.Generator().manual_seed(seed)
    size = len(times)
    z = torch.randn(size, 4, 8, 8, generator=rng, dtype=torch.float64)
    eps = torch.randn(size, 4, 8, 8, generator=rng, dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float64)
    way, t_B111 = INTERPOLANTS[interpolant], t.reshape(-1, 1, 1, 1)
    labels = torch.arange(size) % 10
    dropped = torch.where(torch.arange(size) % 3 == 1, 10, labels)
    return Batch(
        step=step, interpolant=way, z_BCHW=z, eps_BCHW=eps, x_BCHW=way.noised(z, eps, t_B111),
        velocity_BCHW=way.velocity(z, eps, t_B111), t_B=t, times=np.asarray(times, np.float32),
        condition_B=labels, dropped_condition_B=dropped,
        uniform_B=torch.rand(size, generator=rng, dtype=torch.float64),
        global_times=np.asarray(times, np.float32), **more,
    )  # fmt: skip


def build(shape, *methods, **inputs):
    """A randomised model with these terms, each named by its method."""
    terms = build_alignment_losses({method.method: method for method in methods}, shape, **inputs)
    backbone = SiT(shape)
    for method in methods:
        if method.intermediate_depth is not None:
            backbone.add_intermediate_layer(method.intermediate_depth)
    return randomise(TrainingModel(backbone, terms).double())


def only_term(model):
    (term,) = model.alignment.values()
    return term


def silu_mlp(layers, x):
    for position, layer in enumerate(layers):
        x = (
            functional.linear(x, layer.weight, layer.bias)
            if position % 2 == 0
            else x * torch.sigmoid(x)
        )
    return x


def tokens_of(model, batch, i, depth):
    """The student's tokens of sample i after a block, computed alone."""
    one = slice(i, i + 1)
    return model.with_features(
        batch.x_BCHW[one], batch.t_B[one], batch.dropped_condition_B[one], (depth,)
    )[1][depth][0]


def cosine(a, b):
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def mean_cosine(tokens, others):
    assert tokens.shape == others.shape
    return sum(cosine(a, b) for a, b in zip(tokens, others, strict=True)) / len(tokens)


def stage_2(shape, w=5.0, **keys):
    settings = SelfTranscendence(
        method="self-transcendence", teacher=TeacherConfig(run="t", step=1), student_depth=2,
        teacher_depth=3, guidance_scale=w, t_range=RANGE, projector_width=16, **keys,
    )  # fmt: skip
    full_teacher = randomise(SiT(shape).double(), seed=7).requires_grad_(False).eval()
    cut = copy.deepcopy(full_teacher)
    teacher = SiTTrunk.__new__(SiTTrunk)
    teacher.__dict__.update(cut.__dict__)
    teacher.blocks = cut.blocks[:3]
    return build(shape, settings, teachers={"self-transcendence": teacher}), full_teacher
