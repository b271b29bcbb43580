"""What the golden numbers are: each is computed here, from the package as it is used.

Every file is a table of keys, and every key has a function that computes its value. Weights and
data come from numpy's generators, and series in float64 are good to their tolerance on any
processor. Nothing here needs pytest.
"""

import atexit
import csv
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from selftrans.alignment.base import Batch
from selftrans.config import ExperimentConfig, load_experiment
from selftrans.data.manifests import FeatureManifest
from selftrans.data.store import FeatureStore, LatentStore
from selftrans.data.writer import StoreWriter
from selftrans.evaluation.activations import Activations
from selftrans.evaluation.metrics import compute_metrics, gaussian_distance
from selftrans.evaluation.statistics import ImageStatistics, Statistics
from selftrans.extraction.shards import one_thread
from selftrans.models.sit import SiT, SiTTrunk
from selftrans.runtime.random import Stream, generator, torch_seed
from selftrans.runtime.tensors import load_tensors
from selftrans.sampling.conditions import sample_labels
from selftrans.sampling.latents import SampleNoise, sample_latents
from selftrans.training import trainer
from selftrans.training.batches import BatchSource, local_batch_slices
from selftrans.training.ema import MovingAverage
from selftrans.training.freeze import freeze_teacher
from selftrans.training.input_paths import InputPaths
from selftrans.training.inputs import Inputs
from selftrans.training.model import TrainingModel, accumulate, build_model, build_optimizer
from selftrans.training.precision import MixedPrecision, make_accelerator
from selftrans.training.trainer import Segment, train

Json = Any
M = TypeVar("M", bound=nn.Module)
CPU = torch.device("cpu")
HERE = Path(__file__).parent
SEED, STEPS, IMAGES = 3, 20, 200

VAE_ALIGNMENT = {"method": "vae-alignment", "depth": 1, "projector_width": 16}
LAYERSYNC = {"method": "layersync", "student_depth": 1, "teacher_depth": 3}
REPA = {"method": "repa", "encoder": "stand-in", "depth": 2, "projector_width": 16}
SRA = {"method": "sra", "student_depth": 1, "teacher_depth": 2}
STAGE_2 = {
    "method": "self-transcendence",
    "teacher": {"run": "vae-alignment", "step": STEPS},
    "student_depth": 1,
    "teacher_depth": 2,
    "guidance_scale": 2,
    "projector_width": 16,
}
ARMS: dict[str, Any] = {
    "sit": {},
    "sit-cosine-path": {"training": {"interpolant": "cosine", "time_sampling": "log-normal"}},
    "vae-alignment": {"alignment": VAE_ALIGNMENT},
    "self-transcendence": {"alignment": STAGE_2},
    "repa": {"alignment": REPA},
    "sra": {"alignment": SRA},
    "sra-cosine": {"alignment": {**SRA, "loss": "cosine"}},
    "layersync": {"alignment": LAYERSYNC},
    "two-signals": {
        "alignment": [
            {**LAYERSYNC, "stop_after": 10},
            {**VAE_ALIGNMENT, "target": "latent"},
        ],
        "training": {"accumulate": 2},
    },
}
INTERVAL = {"scale": 3.0, "low": 0.2 + 1e-6, "high": 0.7}
"""Its lower end was 0.2 when the values were stored, and the grid point 1 - 4/5, which is less in
floating point, was not guided. With the tolerance that came later it would be."""
SAMPLERS: dict[str, Any] = {
    "euler": {"sampler": "euler", "num_steps": 6},
    "euler-guided": {"sampler": "euler", "num_steps": 6, "guidance": {"scale": 3.0}},
    "heun-guided-in-interval": {"sampler": "heun", "num_steps": 5, "guidance": INTERVAL},
    "euler-maruyama-guided-in-interval": {
        "sampler": "euler-maruyama",
        "num_steps": 6,
        "guidance": INTERVAL,
    },
    "random-labels": {"sampler": "euler", "num_steps": 2, "labels": "random", "seed": 5},
}
EXPERIMENT: dict[str, Any] = {
    "name": "golden",
    "data": str(HERE.parents[1] / "experiments/data/digits.yaml"),
    "model": {"depth": 3, "hidden_size": 32, "num_heads": 2, "patch_size": 2},
    "training": {
        "checkpoints": [STEPS],
        "batch_size": 16,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "ema_decay": 0.9,
        "label_dropout": 0.3,
        "log_every": 1,
        "precision": "fp32",
    },
    "runs": ARMS,
    "evaluation": {"samplers": {name: {"num_samples": 4, **one} for name, one in SAMPLERS.items()}},
    "figures": {"sampler": "euler", "sample_checkpoints": [STEPS], "sample_columns": 2},
}


# What everything is computed from.


@cache
def scratch() -> Path:
    """A directory that lasts as long as this process."""
    directory = Path(tempfile.mkdtemp(prefix="golden-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@cache
def experiment() -> ExperimentConfig:
    """The tiny experiment, read from a file as any other."""
    path = scratch() / "golden.yaml"
    path.write_text(json.dumps(EXPERIMENT), encoding="utf-8")
    return load_experiment(path)


@cache
def latents() -> Path:
    """The manifest of a store of random moments in three shards."""
    rng = np.random.default_rng(0)
    writer = StoreWriter(scratch() / "latents", {"golden": 0}, IMAGES, IMAGES // 3 + 1)
    for number, start, stop in writer.ranges():
        moments = rng.standard_normal((stop - start, 2, 4, 8, 8))
        moments[:, 1] = np.abs(moments[:, 1]) * 0.1
        writer.write(number, moments.astype(np.float16))
    writer.finish(
        rng.integers(0, 10, IMAGES),
        class_names=tuple("0123456789"),
        latent_shape=(4, 8, 8),
        image_size=32,
        dtype="float16",
        scale=0.5,
        shift=0.1,
        scale_origin="measured",
    )
    return scratch() / "latents/manifest.json"


@cache
def encoded() -> Path:
    """The manifest of a store of random patch tokens, on a finer grid than the model's."""
    rng = np.random.default_rng(1)
    writer = StoreWriter(scratch() / "encoded", {"golden": 1}, IMAGES, IMAGES, "features")
    writer.write(0, rng.standard_normal((IMAGES, 36, 24)).astype(np.float16))
    metadata = {"encoder_digest": "golden", "stand_in": True, "grid_size": 6, "hidden_size": 24}
    writer.write_manifest(FeatureManifest, encoder="stand-in", **metadata)
    return scratch() / "encoded/manifest.json"


def randomised(module: M, seed: int) -> M:
    """The module with numpy's numbers for weights: a fresh adaLN-Zero model hides many faults."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            if parameter.requires_grad:
                rng = np.random.default_rng([seed, index])
                parameter.copy_(torch.from_numpy(0.2 * rng.standard_normal(tuple(parameter.shape))))
    return module


@contextmanager
def in_float64() -> Iterator[None]:
    """Let ``Tensor.float`` mean ``double``: what is computed in float32 for its precision."""
    before = torch.get_default_dtype()
    with mock.patch.object(torch.Tensor, "float", lambda tensor, **_: tensor.double()):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def doubled(value: Any) -> Any:
    """A tensor in float64, or all those of a mapping; what holds no real numbers stays as it is."""
    if isinstance(value, Mapping):
        return {key: doubled(one) for key, one in value.items()}
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def batch_in_float64(batch: Batch) -> Batch:
    """The batch with every tensor of real numbers in float64."""
    return replace(batch, **{one.name: doubled(getattr(batch, one.name)) for one in fields(batch)})


# generator.json

BLOCKS = [  # seed, stream, major (step), minor (position)
    (0, 1, 0, 0),
    (0, 2, 7, 0),
    (0, 3, 0, 0),
    (0, 3, 3, 5),
    (0, 3, 5, 3),
    (1, 3, 3, 5),
    (0, 4, 3, 5),
    (0, 4, 3, 1),
    (12345, 3, 399_999, 255),
    (2**32 + 1, 3, 1, 0),
    (2**53 + 1, 4, 49_999, 1),
    (2**63 - 1, 3, 2**40, 2**33),
]
SEEDS = [(0, 1), (0, 5), (1, 1), (2**32 + 1, 1), (2**63 - 1, 7)]


def random_block(seed: int, stream: int, major: int, minor: int) -> Json:
    """The first words of a block of draws, and what is made of them elsewhere."""
    words = generator(seed, Stream(stream), major, minor).bit_generator.random_raw(4)
    rng = generator(seed, Stream(stream), major, minor)
    return {
        "words": words.tolist(),
        "permutation": rng.permutation(12).tolist(),
        "integers": rng.integers(1000, size=4).tolist(),
    }


# first_batch.json


def source(arm: str, features: tuple[FeatureStore, ...] = ()) -> BatchSource:
    """The batches of an arm."""
    return BatchSource(LatentStore(latents()), experiment().runs[arm].training, SEED, features)


def batch_integers(arm: str, step: int) -> Json:
    """Which images a global batch has, their labels, and which of them are dropped."""
    whole = range(experiment().training.batch_size)
    batch = source(arm).draw(step, whole)
    arrays = {
        "indices": source(arm).indices(step, whole),
        "labels": batch.condition_B.numpy(),
        "dropped_labels": batch.dropped_condition_B.numpy(),
    }
    content = b"".join(array.astype("<i8").tobytes() for array in arrays.values())
    listed = {name: array.tolist() for name, array in arrays.items()}
    return {**listed, "sha256": hashlib.sha256(content).hexdigest()}


def batch_floats(arm: str, step: int) -> Json:
    """The times of a global batch, and some entries of each of its latents."""
    batch = source(arm).draw(step, range(experiment().training.batch_size))

    def corner(latents_BCHW: Tensor) -> list[float]:
        return latents_BCHW[::5, 1, 2, 3:5].flatten().tolist()

    return {
        "times": batch.t_B.tolist(),
        "uniform": batch.uniform_B.tolist(),
        "eps": corner(batch.eps_BCHW),
        "z": corner(batch.z_BCHW),
        "noisy": corner(batch.x_BCHW),
        "velocity": corner(batch.velocity_BCHW),
    }


# losses.json


def norm_of(tensors: list[Tensor]) -> float:
    """The Euclidean norm of all numbers together, in float64."""
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


def weight_norms(raw: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> Json:
    """Norms of weights, of their moving average, and of the difference, which sees most."""
    return {
        "weights": norm_of(list(raw.values())),
        "average": norm_of([average[name] for name in raw]),
        "distance": norm_of([average[name].double() - raw[name].double() for name in raw]),
    }


def random_model(arm: str, features: tuple[FeatureStore, ...] = ()) -> TrainingModel:
    """The arm's model with random weights; a teacher that it follows has random weights, too."""
    store, teachers = LatentStore(latents()), {}
    if arm == "self-transcendence":
        shape = build_model(experiment(), "sit", store, SEED).backbone.shape
        trunk = SiTTrunk(replace(shape, depth=STAGE_2["teacher_depth"]))
        teachers = {arm: randomised(trunk, 1).double().requires_grad_(False).eval()}
    inputs = Inputs(teachers=teachers, features={stored.name: stored for stored in features})
    return randomised(build_model(experiment(), arm, store, SEED, inputs), 2)


@cache
def training_in_float64(arm: str) -> Json:
    """Losses and gradients of a training in float64, step by step as the trainer does it."""
    training = experiment().runs[arm].training
    features = (FeatureStore(encoded()),) if arm == "repa" else ()
    model = random_model(arm, features).double()
    average = MovingAverage(model.backbone, training.ema_decay)
    model.alignment.set_ema_model(average.average)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(parameters, training)
    arithmetic, accelerator = MixedPrecision("fp32", CPU), make_accelerator(on_gpu=False)
    batches, parts = (
        source(arm, features),
        local_batch_slices(training.batch_size, 1, training.accumulate, 0),
    )
    columns = ("loss", "denoising", "alignment", "gradient_norm", "cosine_sum", "cosine_count")
    rows = []
    model.train()
    for step in range(STEPS):
        micro_batches = [batch_in_float64(batches.draw(step, part)) for part in parts]
        with in_float64():
            losses = accumulate(model, micro_batches, arithmetic, accelerator)
        norm = clip_grad_norm_(parameters, training.clip_norm or math.inf)
        model.alignment.drop_idle_gradients(step)
        arithmetic.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        average.update()
        rows.append([*map(float, losses[:3]), float(norm), *map(float, losses[3:])])
    series = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
    after = weight_norms(model.backbone.state_dict(), average.average.state_dict())
    return {"series": series, "after": {**after, "with heads": norm_of(parameters)}}


def losses_of(arm: str) -> Json:
    """What a training in float64 loses, step by step."""
    return training_in_float64(arm)["series"]


def weights_of(arm: str) -> Json:
    """What it has come to."""
    return training_in_float64(arm)["after"]


# losses_fp32.json


def random_weights(*given: Any, **named: Any) -> TrainingModel:
    """``build_model``, with random weights."""
    return randomised(build_model(*given, **named), 2)


@cache
def training_in_float32(arm: str) -> Path:
    """The directory of a training by the trainer itself; stage 2 follows the frozen stage 1."""
    teachers: dict[str, Path] = {}
    if arm == "self-transcendence":
        teachers = {arm: scratch() / "teacher.safetensors"}
        trained = training_in_float32("vae-alignment") / f"checkpoints/{STEPS}/raw.safetensors"
        freeze_teacher(trained, STAGE_2["teacher_depth"], teachers[arm])
    segment = Segment(
        experiment=experiment(),
        run=arm,
        seed=SEED,
        until=STEPS,
        latents=latents(),
        inputs=InputPaths(teachers=teachers),
        directory=scratch() / arm,
    )
    with mock.patch.object(trainer, build_model.__name__, random_weights):
        train(segment, make_accelerator(on_gpu=False), SimpleNamespace(reason=None))
    return segment.directory


def float32_losses_of(arm: str) -> Json:
    """The history that the trainer writes."""
    history = training_in_float32(arm) / f"checkpoints/{STEPS}/history.csv"
    with history.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "step"}


def float32_weights_of(arm: str) -> Json:
    """Norms of the checkpoint's two files of weights."""
    checkpoint = training_in_float32(arm) / f"checkpoints/{STEPS}"
    raw, _ = load_tensors(checkpoint / "raw.safetensors", "weights")
    average, _ = load_tensors(checkpoint / "ema.safetensors", "weights")
    return weight_norms(raw, average)


def initial_weights(seed: int) -> Json:
    """The first two numbers of every parameter of a fresh model that are not zero."""
    model = build_model(experiment(), "vae-alignment", LatentStore(latents()), seed)
    return [value for one in model.parameters() for value in one.flatten()[:2].tolist() if value]


# samples.json


def labels_of(sampler: str) -> Json:
    """Classes of the first samples."""
    settings = experiment().evaluation.samplers[sampler]
    return sample_labels(settings, range(16), 10).tolist()


def noise_of_samples() -> Json:
    """Some numbers of the first two draws of samples 0 to 3."""
    noise = SampleNoise(SEED, range(4), (4, 8, 8), CPU)
    return [noise()[:, 1, 2, 3:6].tolist() for _ in range(2)]


@cache
def sampling_model() -> SiT:
    """A random model in float64."""
    return random_model("sit").backbone.double().requires_grad_(False).eval()


def latents_of(sampler: str) -> Json:
    """Samples 0 to 3: their norms, and the whole latent of sample 2."""
    settings, model = experiment().evaluation.samplers[sampler], sampling_model()

    def velocity(x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor) -> Tensor:
        return model(x_BCHW.double(), t_B.double(), condition_B)

    labels = torch.from_numpy(sample_labels(settings, range(4), 10))
    noise = SampleNoise(settings.seed, range(4), (4, 8, 8), CPU)
    sampled = sample_latents(velocity, settings, labels, noise, torch.tensor([10]))
    assert sampled.dtype == torch.float64
    return {"norms": [norm_of([one]) for one in sampled], "sample 2": sampled[2].flatten().tolist()}


# fid.json

METRICS = ("fid", "sfid", "is", "kid", "precision", "recall")


def activations(seed: int, count: int) -> Activations:
    """Made-up activations, correlated and of unlike spread; another seed, another distribution."""
    rng = np.random.default_rng([9, seed])
    normal = rng.standard_normal((count, 16)) * np.linspace(0.5, 2, 16)
    features = normal + 0.5 * normal[:, ::-1] + 0.3 * seed

    def tensor(array: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(array.astype(np.float32))

    return Activations(
        features=tensor(features),
        spatial=tensor(features[:, ::3] ** 2),
        logits=tensor(2 * rng.standard_normal((count, 10))),
    )


@cache
def statistics_of(seed: int, count: int) -> ImageStatistics:
    """Their statistics, counted in two parts."""
    made = activations(seed, count)
    cut = count // 3
    parts = [slice(0, cut), slice(cut, count)]
    counted = [Statistics("inception", "golden", (32, 32)) for _ in parts]
    seen = []
    for statistics, part in zip(counted, parts, strict=True):
        cut_out = Activations(**{key: one[part] for key, one in vars(made).items()})
        seen.append(statistics.add(part.start, cut_out))
    counted[0].merge(counted[1])
    return replace(counted[0].finished(), features=np.concatenate(seen))


def metric_of(name: str) -> Json:
    """One metric of 64 images against 80."""
    return compute_metrics((name,), statistics_of(1, 64), statistics_of(0, 80))[name]


def distance_of_few() -> Json:
    """The Fréchet distance of fewer images than features."""
    few, many = (statistics_of(*which).gaussians["features"] for which in ((1, 12), (0, 80)))
    return gaussian_distance(few, many, "fid")


def means_of_features() -> Json:
    """Mean and variance of each feature, of both sets."""
    found = [statistics_of(*which).gaussians["features"] for which in ((1, 64), (0, 80))]
    return [[one.mean.tolist(), np.diag(one.covariance).tolist()] for one in found]


# All files, and how they are compared.

FILES: dict[str, dict[str, Callable[[], Json]]] = {
    "generator": {
        **{
            f"seed {seed}, stream {stream}, major {major}, minor {minor}": partial(
                random_block, seed, stream, major, minor
            )
            for seed, stream, major, minor in BLOCKS
        },
        **{
            f"torch_seed, seed {seed}, stream {stream}": partial(torch_seed, seed, Stream(stream))
            for seed, stream in SEEDS
        },
    },
    "first_batch": {
        **{
            f"{arm}, step {step}, {kind}": partial(function, arm, step)
            for arm in ("sit", "sit-cosine-path")
            for step in (0, 1)
            for kind, function in (("integers", batch_integers), ("floats", batch_floats))
        },
        "sit, step 12 (two epochs), integers": partial(batch_integers, "sit", 12),
    },
    "losses": {
        f"{arm}, {kind}": partial(function, arm)
        for arm in ARMS
        for kind, function in (("losses", losses_of), ("weights", weights_of))
    },
    "losses_fp32": {
        **{
            f"{arm}, {kind}": partial(function, arm)
            for arm in ("vae-alignment", "self-transcendence")
            for kind, function in (("losses", float32_losses_of), ("weights", float32_weights_of))
        },
        **{f"initial weights, seed {seed}": partial(initial_weights, seed) for seed in (0, 3)},
    },
    "samples": {
        "labels, balanced": partial(labels_of, "euler"),
        "labels, random": partial(labels_of, "random-labels"),
        "noise": noise_of_samples,
        **{f"latents, {name}": partial(latents_of, name) for name in SAMPLERS},
    },
    "fid": {
        **{name: partial(metric_of, name) for name in METRICS},
        "fid of fewer images than features": distance_of_few,
        "moments of the features": means_of_features,
    },
}
TOLERANCES = {
    "generator": 0.0,
    "first_batch": 1e-9,
    "losses": 1e-9,
    "losses_fp32": 1e-4,
    "samples": 1e-9,
    "fid": 1e-6,
}
"""Relative, for real numbers; integers and texts are equal."""


def computed(file: str, key: str) -> Json:
    """A value as the code has it now, in the types of JSON."""
    with one_thread():
        return json.loads(json.dumps(FILES[file][key](), allow_nan=False))


def stored(file: str) -> dict[str, Json]:
    """What a file says; nothing, if it is not there."""
    path = HERE / f"{file}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def differences(old: Json, new: Json, tolerance: float, where: str = "") -> Iterator[str]:
    """Every path at which two values differ by more than the tolerance, with both."""
    if type(old) is not type(new):
        yield f"{where or 'value'}: {old!r} -> {new!r}"
    elif isinstance(old, dict):
        for key in old | new:
            inner = f"{where}.{key}".lstrip(".")
            yield from differences(old.get(key), new.get(key), tolerance, inner)
    elif isinstance(old, list):
        if len(old) != len(new):
            yield f"{where}: {len(old)} values -> {len(new)}"
        for index, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from differences(one, other, tolerance, f"{where}[{index}]")
    elif isinstance(old, float):
        # Next to zero a relative error says nothing: a thousandth of it counts as an absolute one.
        if not math.isclose(old, new, rel_tol=tolerance, abs_tol=1e-3 * tolerance):
            yield f"{where or 'value'}: {old!r} -> {new!r}"
    elif old != new:
        yield f"{where or 'value'}: {old!r} -> {new!r}"
