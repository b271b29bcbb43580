"""Work and memory of jobs: what must hold for any numbers."""

import pytest

from selftrans.config import load_dataset, load_experiment
from selftrans.flops import forward_flop
from selftrans.training.work import segment_work, training_arithmetic
from tests.support.experiments import OTHER_METHODS
from workflow.lib.memory import (
    extraction_memory,
    megabytes,
    sampling_memory,
    small_memory,
    statistics_memory,
    training_memory,
)
from workflow.lib.work import (
    count_classes,
    count_images,
    count_reference,
    count_rows,
    encoding_work,
    features_work,
    gpu_hours,
    sampling_work,
    statistics_work,
)


@pytest.fixture
def experiment(tiny):
    return load_experiment(tiny())


def test_segments_add_up_to_the_training(tiny):
    stopping = {**OTHER_METHODS["both"]["alignment"][0], "stop_after": 5}
    experiment = load_experiment(tiny(runs={"sit": {}, "stopping": {"alignment": [stopping]}}))
    run = experiment.runs["stopping"]
    (first,), (second,), (whole,) = (
        segment_work(experiment, run, *steps).values() for steps in ((0, 4), (4, 8), (0, 8))
    )
    assert first + second == pytest.approx(whole)
    plain = segment_work(experiment, experiment.runs["sit"], 0, 8)
    forward = forward_flop(run.model, experiment.data.latent_shape)
    assert sum(plain.values()) == pytest.approx(3 * 8 * 8 * forward)  # three passes, steps, batch


@pytest.mark.parametrize(("tf32", "apart"), [(False, "fp32"), (True, "tf32")])
def test_a_teacher_in_fp32_is_counted_apart(tiny, tf32, apart):
    works = []
    for precision in ("training", "fp32"):
        key = "runs.self-transcendence.alignment.teacher.precision"
        loaded = load_experiment(tiny(**{key: precision, "training.tf32": tf32}))
        works.append(segment_work(loaded, loaded.runs["self-transcendence"], 0, 8))
    assert works[0].keys() == {"bf16"}
    assert works[1].keys() == {"bf16", apart}
    assert sum(works[1].values()) == pytest.approx(works[0]["bf16"])


def test_the_released_mask_costs_the_whole_batch(tiny):
    share, works = 0.7 - 0.4, []
    for masking in (None, "per-sample", "released"):
        run = {"alignment": {"method": "none"}}
        if masking:
            run = {"alignment": {"method": "vae-alignment", "depth": 1, "t_masking": masking}}
        loaded = load_experiment(tiny(runs={"sit": run}))
        works.append(segment_work(loaded, loaded.runs["sit"], 0, 8)["bf16"])
    plain, masked, whole = works
    assert masked - plain == pytest.approx(share * (whole - plain))


def test_recomputed_activations_cost_a_pass(tiny):
    works = [
        segment_work(loaded, loaded.runs["sit"], 0, 4)["bf16"]
        for loaded in (
            load_experiment(tiny(**{"training.activation_checkpointing": value}))
            for value in (False, True)
        )
    ]
    assert works[1] / works[0] == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("changes", "arithmetic"),
    [
        ({"precision": "auto"}, "bf16"),
        ({"precision": "fp16"}, "bf16"),
        ({"precision": "fp32"}, "fp32"),
        ({"precision": "fp32", "tf32": True}, "tf32"),
    ],
)
def test_a_training_runs_at_the_rate_of_its_arithmetic(experiment, changes, arithmetic):
    training = experiment.training.model_copy(update=changes)
    assert training_arithmetic(training) == arithmetic


def test_hours_follow_from_the_rates():
    rates = {"bf16": 100.0, "tf32": 50.0, "fp32": 10.0}
    assert gpu_hours({"bf16": 3600 * 100e12}, rates) == 1
    assert gpu_hours({"fp16": 3600 * 100e12, "fp32": 3600 * 10e12}, rates) == 2
    assert gpu_hours({}, rates) == 0


def test_guidance_doubles_the_passes_and_decoding_is_added():
    experiment = load_experiment("imagenet256-b2")
    run = experiment.runs["sit"]
    sampler = next(iter(experiment.evaluation.samplers.values()))
    values = {"precision": "bf16", "decoder_precision": "fp32"}
    plain = sampler.model_copy(update=values)
    scaled = sampler.guidance.model_copy(update={"scale": 2.0, "low": 0.0, "high": 1.0})
    guided = plain.model_copy(update={"guidance": scaled})
    works = [sampling_work(experiment, run, one) for one in (plain, guided)]
    assert works[1]["bf16"] == 2 * works[0]["bf16"]
    assert works[1]["fp32"] == works[0]["fp32"] > 0


def test_small_networks_count_nothing(experiment):
    assert encoding_work(experiment.data) == {}
    assert statistics_work("classifier", 1000) == {"fp32": 0}
    sampler = experiment.evaluation.samplers["ode"]
    assert sampling_work(experiment, experiment.runs["sit"], sampler).keys() == {"fp32"}


def test_images_classes_and_rows_of_data_that_do_not_exist_yet():
    digits, imagenet = load_dataset("digits"), load_dataset("imagenet256")
    assert (count_images(digits), count_classes(digits)) == (1797, 10)
    assert (count_images(imagenet), count_classes(imagenet)) == (1281167, 1000)
    flipped = imagenet.model_copy(
        update={"latents": imagenet.latents.model_copy(update={"flip": True})}
    )
    assert count_rows(flipped) == 2 * 1281167
    assert encoding_work(flipped)["fp32"] == 2 * encoding_work(
        imagenet.model_copy(update={"latents": flipped.latents.model_copy(update={"flip": False})})
    )["fp32"]  # fmt: skip
    own = imagenet.model_copy(update={"reference": None})
    named = imagenet.model_copy(update={"reference": "batch.npz"})
    assert (count_reference(own), count_reference(named)) == (1281167, 50_000)
    assert features_work(digits, "stand-in")["fp32"] > 0


def test_memory_is_whole_hundreds_with_headroom():
    assert megabytes(1, False, 0) == 1000  # 800 and a quarter
    assert megabytes(2, False, 1e9) == 4500
    assert megabytes(1, True, 0, on_cpu=1e12) == 5000  # activations lie on the GPU
    assert small_memory(True) > small_memory(False) == 3000


def test_memory_of_a_training(experiment):
    run = experiment.runs["sit"]
    large = load_experiment("imagenet256-b2")
    arm, student = large.runs["sit"], large.runs["self-transcendence"]
    assert training_memory(large, arm, 4, 2, True) == training_memory(large, arm, 2, 1, True)
    assert training_memory(large, student, 1, 1, True) > training_memory(large, arm, 1, 1, True)
    assert training_memory(large, arm, 1, 1, False) > training_memory(large, arm, 1, 1, True)
    assert training_memory(experiment, run, 1, 1, False) < 1500


def test_memory_grows_with_what_is_held():
    experiment = load_experiment("imagenet256-b2")
    run, data = experiment.runs["sit"], experiment.data
    sampling = [sampling_memory(experiment, run, 1, False, size) for size in (1, 1024)]
    assert sampling[0] < sampling[1]
    assert extraction_memory(data, 2, True) > extraction_memory(data, 1, True)
    assert statistics_memory("inception", 1, False, 256) > statistics_memory(
        "inception", 1, False, 1
    )
    assert statistics_memory("classifier", 1, False, 256) == statistics_memory(
        "classifier", 1, False, 1
    )
