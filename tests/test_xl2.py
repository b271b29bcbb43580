"""The largest backbone, as its preset trains it.

One forward pass and one optimizer step run within a machine of 24 GiB.
"""

from pathlib import Path

import numpy as np
import pytest

from selftrans.config import load_experiment
from selftrans.data.writer import StoreWriter
from tests.support.programs import peak_of
from workflow.lib.memory import training_memory

pytestmark = pytest.mark.slow

STEP = """
import sys, torch
from accelerate import Accelerator
from selftrans.config import load_experiment
from selftrans.data.store import LatentStore
from selftrans.training.batches import BatchSource
from selftrans.training.ema import MovingAverage
from selftrans.training.precision import MixedPrecision
from selftrans.training.model import accumulate, build_model, build_optimizer

experiment, store = load_experiment("imagenet256-xl2"), LatentStore(sys.argv[1])
cpu = torch.device("cpu")
training = experiment.runs["vae-align"].training
model = build_model(experiment, "vae-align", store, seed=0)
count = sum(parameter.numel() for parameter in model.backbone.parameters())
average = MovingAverage(model.backbone, training.ema_decay)
optimizer = build_optimizer(
    [parameter for parameter in model.parameters() if parameter.requires_grad], training
)
before = model.backbone.final_layer.linear.weight.clone()
source = BatchSource(
    store, training, seed=0, with_global_times=model.alignment.need_global_times
)
batch = source.draw(0, range(1))
losses = accumulate(model, [batch], MixedPrecision("fp32", cpu), Accelerator(cpu=True))
optimizer.step()
average.update()
print(
    count,
    losses.loss.item(),
    losses.denoising.item(),
    losses.alignment.item(),
    (model.backbone.final_layer.linear.weight - before).abs().max().item(),
)
"""


def test_xl_2_trains_within_this_machines_memory(tmp_path: Path):
    writer = StoreWriter(tmp_path, {}, 4, shard_size=4)
    writer.write(0, np.random.default_rng(0).uniform(0.1, 1, (4, 2, 4, 32, 32)).astype(np.float16))
    writer.finish(
        np.array([0, 1, 998, 999]), class_names=tuple(map(str, range(1000))),
        latent_shape=(4, 32, 32), image_size=256, dtype="float16", scale=0.18215, shift=0.0,
        scale_origin="autoencoder",
    )  # fmt: skip
    peak, said = peak_of(STEP, tmp_path / "manifest.json")
    count, loss, denoising, alignment, moved = map(float, said.split())
    assert 675e6 < count < 677e6  # 675 million in the paper, and qk-norm
    assert abs(loss - denoising - alignment) < 1e-5
    assert 0.5 < denoising < 3  # a fresh model says zero: the mean square of the velocity
    assert 0.9e-4 < moved < 1.1e-4  # Adam's first step is the learning rate
    assert (
        4 * 5 * count < peak < 24 * 2**30
    )  # weights, gradient, average, two moments; and the machine's memory
    experiment = load_experiment("imagenet256-xl2")
    run = experiment.runs["vae-align"]
    alone = run.model_copy(update={"training": run.training.model_copy(update={"batch_size": 1})})
    assert 0.6 < peak / 1e6 / training_memory(experiment, alone, workers=1, nodes=1, gpu=False) < 1
