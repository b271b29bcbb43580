"""Captions as a condition: their store, a training on them, samples of them, scores by them."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from selftrans.api import new_training
from selftrans.config import (
    ConfigError,
    SamplerConfig,
    TrainingConfig,
    WordsEncoderConfig,
    load_dataset,
    load_experiment,
)
from selftrans.config.training import LearningRateDecayConfig
from selftrans.data.caption_store import CaptionStore
from selftrans.data.store import LatentStore
from selftrans.evaluation.features import features_of_run
from selftrans.extraction.captions import CaptionExtraction
from selftrans.models.weights import load_backbone
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.runtime.files import read_json, sha256_of, write_json
from selftrans.runtime.random import Stream, generator
from selftrans.runtime.seal import sealed, unsealed
from selftrans.runtime.workers import Shard
from selftrans.sampling.conditions import encoded_prompts, sample_conditions
from selftrans.sampling.generate import ImageSampler
from selftrans.sampling.sample_grid import labelled_grid, wrapped
from selftrans.training.freeze import freeze_teacher
from selftrans.training.input_paths import InputPaths
from selftrans.training.inputs import Inputs
from selftrans.training.precision import make_accelerator
from selftrans.training.trainer import Segment, train
from tests.support.captions import (
    CPU,
    LENGTH,
    SIZE,
)
from tests.support.programs import run_command
from tests.support.trainings import StopAt, assert_close, assert_equal, command, everything

ALIGNMENTS = {
    "mmdit": None,
    "vae-align": {"method": "vae-alignment", "depth": 1, "projector_width": 16},
    "stage-2": {
        "method": "self-transcendence",
        "teacher": {"run": "vae-align", "step": 4, "weights": "ema"},
        "student_depth": 2, "teacher_depth": 2, "guidance_scale": 5, "projector_width": 16,
    },
    "repa": {"method": "repa", "encoder": "stand-in", "depth": 1, "projector_width": 16},
    "sra": {"method": "sra", "student_depth": 1, "teacher_depth": 2},
    "layersync": {"method": "layersync", "student_depth": 1, "teacher_depth": 2},
}  # fmt: skip

SIT = {"kind": "sit", "depth": 3, "hidden_size": 32, "num_heads": 2, "patch_size": 2}


@pytest.fixture(scope="module")
def experiment(place, data_file):
    path = place / "text.yaml"
    values = {
        "name": "text", "data": str(data_file),
        "model": {"kind": "mmdit", "depth": 3, "hidden_size": 32, "num_heads": 2, "patch_size": 2},
        "training": {
            "checkpoints": [4, 8], "batch_size": 8, "learning_rate": 1e-3, "log_every": 3,
            "ema_decay": 0.9, "warmup": 5, "label_dropout": 0.5,
        },
        "runs": {
            name: {"alignment": alignment} if alignment else {}
            for name, alignment in ALIGNMENTS.items()
        },
        "evaluation": {
            "samplers": {"ode": {"sampler": "euler", "num_steps": 2, "num_samples": 20}}
        },
        "figures": {"sampler": "ode", "sample_checkpoints": [8]},
        "analysis": {"num_images": 50, "times": [0.3, 0.5], "guidance_scales": [4]},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return path


def segment(experiment, arm, directory, latents, captions, until=8, teacher=None, tokens=None):
    teachers = {"self-transcendence": teacher} if arm == "stage-2" else {}
    features = (tokens,) if arm == "repa" else ()
    return Segment(
        experiment=load_experiment(experiment), run=arm, seed=0, until=until, latents=latents,
        inputs=InputPaths(captions=captions, teachers=teachers, features=features),
        directory=directory,
    )  # fmt: skip


def run(*words, stop=None, **options):
    train(segment(*words, **options), make_accelerator(on_gpu=False), stop or StopAt())


@pytest.fixture(scope="module")
def teacher(place, experiment, latents, captions) -> Path:
    run(experiment, "vae-align", place / "vae-align", latents, captions, until=4)
    path = place / "teacher.safetensors"
    freeze_teacher(place / "vae-align/checkpoints/4/ema.safetensors", 2, path)
    return path


@pytest.fixture(scope="module")
def weights(place, experiment, latents, captions) -> Path:
    run(experiment, "mmdit", place / "mmdit", latents, captions, until=4)
    return place / "mmdit/checkpoints/4/ema.safetensors"


# -- training


@pytest.mark.parametrize("arm", ALIGNMENTS)
def test_stopped_anywhere_equals_undisturbed_bit_for_bit(
    tmp_path, experiment, latents, captions, teacher, tokens, arm
):
    words, inputs = (latents, captions), {"teacher": teacher, "tokens": tokens}
    run(experiment, arm, tmp_path / "whole", *words, **inputs)
    for polls in (2, 1):
        with pytest.raises(Interrupted):
            run(experiment, arm, tmp_path / "cut", *words, **inputs, stop=StopAt(polls))
    run(experiment, arm, tmp_path / "cut", *words, **inputs)
    assert_equal(everything(tmp_path / "whole", 8), everything(tmp_path / "cut", 8))


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, experiment, latents, captions, tokens):
    run(experiment, "repa", tmp_path / "one", latents, captions, tokens=tokens)
    options = ("--captions", captions, "--features", tokens, "--processes", 2)
    ended = command(experiment, "repa", tmp_path / "two", latents, 8, None, *options)
    assert ended.returncode == 0, ended.stderr
    assert_close(everything(tmp_path / "one", 8)[0], everything(tmp_path / "two", 8)[0])


def test_the_null_condition_is_kept_with_the_weights(weights, captions):
    model, metadata = load_backbone(weights, CPU)
    store = CaptionStore(captions)
    np.testing.assert_array_equal(model.null_condition(1).numpy(), store.null.astype(np.float32))
    assert metadata.text_encoder.digest == store.manifest.encoder_digest


@pytest.mark.parametrize(("said", "shown"), [(None, "student"), ("given", "given")])
def test_the_teacher_sees_what_the_student_sees_unless_it_is_said(
    tmp_path, experiment, latents, captions, teacher, said, shown
):
    from selftrans.training.steps import TrainingSteps

    steps = TrainingSteps(
        segment(experiment, "stage-2", tmp_path, latents, captions, until=0, teacher=teacher), CPU
    )
    ((_, term),) = steps.model.alignment.items()
    method = term.method.model_copy(update={"teacher_condition": said})
    (batch,) = steps.batches()
    condition = batch.dropped_condition_B if shown == "student" else batch.condition_B
    f_u, f_c = (
        term.teacher.features(batch.x_BCHW, batch.t_B, one, (2,))[2]
        for one in (term.teacher.null_condition(len(batch.t_B)), condition)
    )
    guided = method.guiding_features(term, batch, {})
    torch.testing.assert_close(guided, f_u + 5 * (f_c - f_u), rtol=1e-4, atol=1e-4)
    dropped = (batch.dropped_condition_B != batch.condition_B).flatten(1).any(1)
    assert 0 < dropped.sum() < len(dropped)
    same = (guided - f_u).flatten(1).abs().amax(1) < 1e-4
    assert torch.equal(same, dropped) == (shown == "student")


def test_a_class_conditional_teacher_sees_the_true_class():
    from selftrans.alignment.self_transcendence import SelfTranscendence

    settings = {**ALIGNMENTS["stage-2"], "teacher": {"run": "a", "step": 4}}
    method = SelfTranscendence.model_validate(settings, strict=True)
    batch = type("B", (), {"condition_B": torch.tensor([1]), "dropped_condition_B": "dropped"})
    for size, shown in ((10, batch.condition_B), ((24, 16), batch.dropped_condition_B)):
        term = SimpleNamespace(shape=SimpleNamespace(condition_size=size))
        assert method.condition_of_teacher(term, batch) is shown


def test_captions_are_part_of_what_defines_a_run(tmp_path, experiment, latents, captions, place):
    run(experiment, "mmdit", tmp_path, latents, captions, until=4)
    definition = json.loads((tmp_path / "definition.json").read_text())
    assert definition["inputs"]["captions"] == CaptionStore(captions).manifest.digest
    assert definition["data"]["text_encoder"]["length"] == LENGTH


def test_missing_and_unwanted_captions_are_refused(
    tmp_path, experiment, latents, captions, tiny, manifest
):
    with pytest.raises(UserError, match="--captions: none are given, run 'mmdit' needs some"):
        run(experiment, "mmdit", tmp_path, latents, None)
    with pytest.raises(UserError, match="run 'sit' is conditioned on classes"):
        run(tiny(), "sit", tmp_path, manifest, captions)


@pytest.fixture(scope="module")
def foreign(place, captions) -> Path:
    """The same captions, as another text encoder would have encoded them."""
    folder = shutil.copytree(captions.parent, place / "foreign")
    content = unsealed(read_json(captions), captions)
    for shard in content["shards"]:
        path = folder / shard["file"]
        np.save(path, -np.load(path))
        shard["sha256"] = sha256_of(path)
    write_json(folder / "manifest.json", sealed(content))
    return folder / "manifest.json"


def test_a_teacher_of_another_text_encoder_is_refused(
    tmp_path, experiment, latents, teacher, foreign
):
    """Captions may be encoded again between the stages."""
    with pytest.raises(UserError, match="was trained on captions of another text encoder than"):
        run(experiment, "stage-2", tmp_path, latents, foreign, teacher=teacher)


def test_prompts_of_another_text_encoder_than_an_imported_models_are_refused(
    weights, autoencoder, captions, foreign
):
    model, metadata = load_backbone(weights, CPU)
    imported = model, metadata.model_copy(update={"text_encoder": None})
    words = {"other_decoder": True, "backbone": imported}
    assert ImageSampler(weights, autoencoder, prompts=captions, **words).conditions.description
    with pytest.raises(UserError, match="captions of another text encoder than the checkpoint"):
        ImageSampler(weights, autoencoder, prompts=foreign, **words)


def test_a_fresh_training_from_python_is_given_its_captions(experiment, latents, captions):
    settings = load_experiment(experiment)
    steps = new_training(settings, "mmdit", latents=latents, captions=captions, device=CPU)
    assert steps.step().loss > 0
    with pytest.raises(UserError, match="--captions: none are given, run 'mmdit' needs some"):
        new_training(settings, "mmdit", latents=latents, device=CPU)


# -- the learning rate


def test_the_learning_rate_rises_and_falls():
    decay = LearningRateDecayConfig(shape="cosine", start=10, end=20, final=0.1)
    training = TrainingConfig(checkpoints=(100,), learning_rate=2.0, warmup=4, decay=decay)
    rates = [training.learning_rate_at(step) for step in range(40)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[10] == 2.0
    assert rates[15] == pytest.approx(2 * 0.55)
    assert rates[20:] == pytest.approx([0.2] * 20)
    linear = TrainingConfig(
        checkpoints=(100,), learning_rate=1.0, decay=LearningRateDecayConfig(shape="linear", end=10)
    )
    assert [linear.learning_rate_at(s) for s in (0, 5, 10)] == pytest.approx([1, 0.5, 0])


# -- features


def test_features_of_a_run_are_its_image_tokens_without_the_caption(
    tmp_path, experiment, latents, captions, teacher
):
    words = experiment, "stage-2", tmp_path, latents, captions
    run(*words, until=4, teacher=teacher)
    path = tmp_path / "checkpoints/4/ema.safetensors"
    settings, store = load_experiment(experiment), LatentStore(latents)
    paths = InputPaths(captions=captions, teachers={"self-transcendence": teacher})
    inputs = Inputs.open(settings, "stage-2", 0, store, paths, CPU)
    found = features_of_run(settings, "stage-2", 0, [path], store, inputs, 8, CPU)
    assert found.pooled.shape == (2, 3, 50, 32)
    assert found.maps.shape[-2:] == (16, 32)
    image = np.array([found.images[7]])
    z = torch.from_numpy(store.moments(image)[:, 0].astype(np.float32))
    rng = generator(0, Stream.ANALYSIS, 1, int(image[0]))
    eps = torch.from_numpy(rng.standard_normal((1, 4, 8, 8), dtype=np.float32))
    x = 0.7 * (z - store.manifest.shift) * store.manifest.scale + 0.3 * eps
    t, model = torch.full((1,), 0.3), load_backbone(path, CPU)[0]
    own = model.features(x, t, model.null_condition(1), (3,))[3].mean(dim=1)[0]
    pooled = torch.from_numpy(found.pooled[0, 2, 7]).float()
    torch.testing.assert_close(pooled, own, rtol=2e-3, atol=2e-3)
    trunk = inputs.teachers["self-transcendence"]
    shown = torch.from_numpy(CaptionStore(captions).first_of(image)).float()
    f_u, f_c = (trunk.tokens(x, t, one).mean(1)[0] for one in (trunk.null_condition(1), shown))
    for name, value in {"f_c": f_c, "f_g, w = 4": f_u + 4 * (f_c - f_u)}.items():
        means = torch.from_numpy(found.guiding[name][0, 7]).float()
        torch.testing.assert_close(means, value, rtol=5e-3, atol=5e-3)


# -- samples


def test_sample_i_shows_the_caption_of_image_i(weights, captions):
    conditions = sample_conditions(load_backbone(weights, CPU)[1], captions)
    settings = SamplerConfig(sampler="euler", num_samples=2)
    store = CaptionStore(captions)
    labels = conditions.labels(settings, range(58, 63))
    assert labels.tolist() == [58, 59, 0, 1, 2]
    values = conditions.of_samples(settings, range(58, 63))
    np.testing.assert_array_equal(values[2], store.first_of(np.array([0]))[0])
    assert conditions.description["prompts"] == store.manifest.digest


def test_a_prompt_gives_what_the_same_stored_caption_gives(weights, captions, autoencoder):
    sampler = ImageSampler(weights, autoencoder, prompts=captions, other_decoder=True)
    settings = SamplerConfig(sampler="euler", num_steps=2, guidance={"scale": 1.8})
    text = CaptionStore(captions).texts[5][0]
    prompt = encoded_prompts(sampler.metadata, [text])
    np.testing.assert_array_equal(
        sampler.images(settings, range(5, 6), prompt), sampler.images(settings, range(5, 6))
    )


def test_a_picture_of_prompts_has_all_of_their_words(weights, tmp_path, autoencoder):
    """Broken into lines; a script that the font lacks is named by its row."""
    picture = tmp_path / "grid.png"
    options = ("--decoder", autoencoder, "--steps", 2, "--columns", 4, "--output", picture)
    long = "a large red ring at top left\non a white background"
    ended = run_command("sample", weights, *options, "--prompt", long, "--prompt", "五つの輪")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{picture}: {' '.join(long.split())}, 五つの輪\n"
    with Image.open(picture) as image:
        lines, left = divmod(image.height - 2 * 32, 12)
        assert (image.width, left) == (4 * 32, 0)
    assert lines >= 3


def test_a_name_is_broken_between_words_and_within_one_that_is_too_long():
    assert wrapped("a large ring, extraordinarily red", 8, len) == [
        "a large", "ring,", "extraord", "inarily", "red",
    ]  # fmt: skip
    assert wrapped("ab", 0, len) == ["a", "b"]
    image = np.zeros((3, 32, 32, 3), np.uint8)
    same = [labelled_grid([image], [name]) for name in ("五", "row 1")]
    assert same[0].tobytes() == same[1].tobytes()
    assert labelled_grid([image], ["пять"]).tobytes() != same[1].tobytes()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "a caption is empty"),
        (" \n", "a caption is empty"),
        ("x" * 20_000, "20,000 characters"),
    ],
)
def test_prompts_that_are_no_captions_are_refused(weights, prompt, message):
    with pytest.raises(UserError, match=message):
        encoded_prompts(load_backbone(weights, CPU)[1], [prompt])


def test_a_prompt_in_another_script_is_text_like_any_other(weights):
    metadata = load_backbone(weights, CPU)[1]
    assert encoded_prompts(metadata, ["пять синих колец", "五"]).shape == (2, LENGTH, SIZE)


def test_a_prompt_that_is_cut_off_is_said(weights, caplog):
    encoded_prompts(load_backbone(weights, CPU)[1], ["a ring " * LENGTH])
    assert f"has more than {LENGTH} tokens: the rest is cut off" in caplog.text


def test_the_text_encoder_of_an_imported_checkpoint_has_to_be_said(weights, tmp_path):
    metadata = load_backbone(weights, CPU)[1]
    imported = metadata.model_copy(update={"text_encoder": None})
    with pytest.raises(UserError, match="--text-encoder: is needed, the checkpoint was imported"):
        encoded_prompts(imported, ["a ring"])
    for path, message in (("", "--text-encoder: path: "), (str(tmp_path), "cannot be loaded")):
        with pytest.raises(UserError, match=message):
            encoded_prompts(imported, ["a ring"], path)
    with pytest.raises(UserError, match="--prompt: none is given"):
        encoded_prompts(metadata, [])


def test_another_text_encoder_is_refused(weights, tmp_path, data):
    other = data.model_copy(
        update={"text_encoder": WordsEncoderConfig(kind="words", length=LENGTH, size=SIZE + 2)}
    )
    extraction = CaptionExtraction(other, tmp_path, CPU)
    extraction.run(Shard.all())
    extraction.finish()
    with pytest.raises(UserError, match="captions of shape"):
        sample_conditions(load_backbone(weights, CPU)[1], tmp_path / "manifest.json")


# -- what an experiment may say


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "digits"}, "'mmdit' is conditioned on a caption, data 'digits' has a class"),
        ({"data": "coco256", "model": SIT}, "'sit' is conditioned on a class"),
        ({"runs": {"other": {"model": SIT}}}, "one condition for all runs"),
        (
            {"runs": {"one": {"alignment": {"method": "internal-guidance", "depth": 1}}}},
            "'internal-guidance' needs a SiT",
        ),
    ],
)
def test_backbones_and_conditions_that_do_not_fit_are_refused(
    tmp_path, experiment, changes, message
):
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump({"extends": str(experiment), **changes}))
    with pytest.raises(ConfigError, match=message):
        load_experiment(path)


def test_a_text_encoder_without_captions_is_refused(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump({"extends": "digits", "text_encoder": {"kind": "words"}}))
    with pytest.raises(ConfigError, match="text_encoder: is set, but the source has no captions"):
        load_dataset(str(path))
