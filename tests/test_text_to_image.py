"""Captions as a condition: their store, a training on them, samples of them, scores by them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

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
from selftrans.data.conditions import CaptionConditions, ClassConditions
from selftrans.data.sources import open_source
from selftrans.data.store import LatentStore
from selftrans.data.writer import StoreWriter
from selftrans.extraction.captions import CaptionExtraction
from selftrans.extraction.shards import store_origin
from selftrans.models.text_encoder import load_text_encoder, word_vector, words_of
from selftrans.models.weights import load_backbone
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.runtime.files import read_json, sha256_of, write_json
from selftrans.runtime.seal import sealed, unsealed
from selftrans.runtime.workers import Shard
from selftrans.sampling.conditions import SampleConditions, encoded_prompts
from selftrans.sampling.generate import ImageSampler
from selftrans.training.batches import BatchSource
from selftrans.training.freeze import freeze_teacher
from selftrans.training.input_paths import InputPaths
from selftrans.training.precision import make_accelerator
from selftrans.training.trainer import Segment, train
from tests.support.trainings import StopAt, assert_equal, everything

CPU = torch.device("cpu")
COUNT, LENGTH, SIZE = 60, 24, 16
ALIGNMENTS = {
    "mmdit": None,
    "vae-align": {"method": "vae-alignment", "depth": 1, "projector_width": 16},
    "stage-2": {
        "method": "self-transcendence",
        "teacher": {"run": "vae-align", "step": 4, "weights": "ema"},
        "student_depth": 2, "teacher_depth": 2, "guidance_scale": 5, "projector_width": 16,
    },
    "sra": {"method": "sra", "student_depth": 1, "teacher_depth": 2},
    "layersync": {"method": "layersync", "student_depth": 1, "teacher_depth": 2},
}  # fmt: skip

SIT = {"kind": "sit", "depth": 3, "hidden_size": 32, "num_heads": 2, "patch_size": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def data_file(place) -> Path:
    """Few scenes, whose captions are longer than what is kept of some of them."""
    path = place / "few.yaml"
    values = {
        "source": {"kind": "scenes", "count": COUNT}, "image_size": 32,
        "autoencoder": {"kind": "trained"}, "latents": {"shard_size": 50},
        "text_encoder": {"kind": "words", "length": LENGTH, "size": SIZE},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def data(data_file):
    return load_dataset(str(data_file))


@pytest.fixture(scope="module")
def captions(place, data) -> Path:
    extraction = CaptionExtraction(data, place / "captions", CPU)
    extraction.run(Shard.all())
    extraction.finish()
    return place / "captions/manifest.json"


@pytest.fixture(scope="module")
def latents(place, data) -> Path:
    """Random latents of these scenes."""
    source, directory = open_source(data), place / "latents"
    origin = store_origin(directory, data, source, {"autoencoder_digest": "a"}, "latents")
    writer, rng = StoreWriter(directory, origin, COUNT, 50), np.random.default_rng(0)
    for number, start, stop in writer.ranges():
        moments = rng.standard_normal((stop - start, 2, 4, 8, 8))
        moments[:, 1] = np.abs(moments[:, 1]) * 0.1
        writer.write(number, moments.astype(np.float16))
    writer.finish(
        source.labels, class_names=source.class_names, latent_shape=(4, 8, 8), image_size=32,
        dtype="float16", scale=0.5, shift=0.1, scale_origin="measured",
    )  # fmt: skip
    return directory / "manifest.json"


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
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return path


def segment(experiment, arm, directory, latents, captions, until=8, teacher=None):
    teachers = {"self-transcendence": teacher} if arm == "stage-2" else {}
    return Segment(
        experiment=load_experiment(experiment), run=arm, seed=0, until=until, latents=latents,
        inputs=InputPaths(captions=captions, teachers=teachers), directory=directory,
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


# -- the stand-in for a text encoder


def test_a_word_is_a_vector_and_its_place():
    encode = load_text_encoder(WordsEncoderConfig(kind="words", length=6, size=32))
    one, other = encode(["a red ring", "ring red a"]).double()
    ring, a = word_vector("ring", 32), word_vector("a", 32)
    torch.testing.assert_close(one[3] - other[1], other[3] - one[1], atol=1e-6, rtol=0)
    torch.testing.assert_close((one[3] - other[3]) * 2**0.5, ring - a, atol=1e-5, rtol=0)
    assert abs(float(word_vector("green", 4096).std()) - 1) < 0.05


def test_captions_are_cut_off_and_counted():
    encode = load_text_encoder(WordsEncoderConfig(kind="words", length=5, size=8))
    assert words_of("A red, round Ring!") == ["a", "red", ",", "round", "ring", "!"]
    assert encode.count_truncated(["one two three", "one two three four"]) == 1
    long, short = encode(["one two three four five", "one two three"])
    torch.testing.assert_close(long[:4], short[:4])


# -- the store


def test_the_store_holds_every_caption_and_the_empty_one(captions, data):
    store, source = CaptionStore(captions), open_source(data)
    encode = load_text_encoder(data.text_encoder)
    assert [tuple(texts) for texts in store.texts] == list(source.captions)
    np.testing.assert_array_equal(store.null, encode([""]).half().numpy())
    start, stop = store.span(7)
    expected = encode(list(source.captions[7])).half().numpy()
    np.testing.assert_array_equal(store.rows[np.arange(start, stop)], expected)
    np.testing.assert_array_equal(store.first_of(np.array([7])), expected[:1])
    assert store.manifest.truncated > 0
    store.verify()


def test_the_bytes_do_not_depend_on_the_number_of_processes(place, data, captions):
    again = CaptionExtraction(data, place / "again", CPU)
    for rank in (1, 0):
        again.run(Shard(rank, 2))
    assert again.finish().digest == CaptionStore(captions).manifest.digest


def test_a_damaged_store_is_refused(tmp_path, captions):
    for name in ("manifest.json", "offsets.npy", "captions.json"):
        (tmp_path / name).write_bytes(captions.with_name(name).read_bytes())
    for shard in captions.parent.glob("*-*.npy"):
        (tmp_path / shard.name).write_bytes(shard.read_bytes())
    store = CaptionStore(tmp_path / "manifest.json")
    (tmp_path / "captions.json").write_text("[]")
    with pytest.raises(UserError, match=r"captions\.json: damaged"):
        _ = store.texts
    np.save(tmp_path / "offsets.npy", np.arange(COUNT + 1))
    with pytest.raises(UserError, match=r"offsets\.npy: damaged"):
        CaptionStore(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    "change",
    [lambda texts: {"0": texts}, lambda texts: texts[:-1], lambda texts: ["text", *texts[1:]],
     lambda texts: [texts[0][:2], *texts[1:]], lambda texts: [[1, 2, 3], *texts[1:]]],
)  # fmt: skip
def test_texts_that_fit_no_images_are_refused(tmp_path, captions, change):
    """Though they are what the manifest says."""
    folder = shutil.copytree(captions.parent, tmp_path / "store")
    write_json(folder / "captions.json", change(read_json(folder / "captions.json")))
    content = unsealed(read_json(captions), captions)
    content["texts_sha256"] = sha256_of(folder / "captions.json")
    write_json(folder / "manifest.json", sealed(content))
    with pytest.raises(UserError, match=f"captions.json: not the captions of {COUNT} images"):
        _ = CaptionStore(folder / "manifest.json").texts


def test_captions_of_other_images_are_refused(captions, manifest):
    with pytest.raises(UserError, match="captions of other images than"):
        CaptionStore(captions).check_fits(LatentStore(manifest))


def test_another_number_of_captions_than_the_data_file_says_is_refused(tmp_path, data):
    with pytest.raises(UserError, match=f"captions: the source has {3 * COUNT}, .* says 7"):
        CaptionExtraction(data.model_copy(update={"captions": 7}), tmp_path, CPU)


# -- batches


def test_one_of_an_images_captions_is_drawn_at_every_visit(latents, captions):
    store, texts = LatentStore(latents), CaptionStore(captions)
    training = TrainingConfig(checkpoints=(100,), batch_size=60, label_dropout=0.25)
    source = BatchSource(store, training, 3, conditions=CaptionConditions(texts))
    counts, dropped = np.zeros(3), 0
    for step in range(20):
        batch = source.draw(step, range(60))
        whole = torch.cat(
            [source.draw(step, part).condition_B for part in (range(9), range(9, 60))]
        )
        assert torch.equal(whole, batch.condition_B)
        for row, image in enumerate(source.indices(step, range(60)).tolist()):
            start, stop = texts.span(image)
            same = (texts.rows[np.arange(start, stop)] == batch.condition_B[row].numpy()).all(
                (1, 2)
            )
            assert same.sum() >= 1
            counts[int(np.argmax(same))] += 1
            is_null = torch.equal(batch.dropped_condition_B[row], torch.from_numpy(texts.null[0]))
            assert is_null or torch.equal(batch.dropped_condition_B[row], batch.condition_B[row])
            dropped += is_null
    assert (np.abs(counts / 1200 - 1 / 3) < 0.06).all()
    assert abs(dropped / 1200 - 0.25) < 0.05


def test_what_captions_draw_changes_nothing_else(latents, captions):
    store, training = LatentStore(latents), TrainingConfig(checkpoints=(100,), batch_size=16)
    first = BatchSource(store, training, 3).draw(2, range(16))
    second = BatchSource(
        store, training, 3, conditions=CaptionConditions(CaptionStore(captions))
    ).draw(2, range(16))
    for name in ("x_BCHW", "t_B", "velocity_BCHW", "uniform_B"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    null = first.dropped_condition_B != first.condition_B
    moved = (second.dropped_condition_B != second.condition_B).flatten(1).any(1)
    assert torch.equal(null, moved)


def test_classes_draw_nothing():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert ClassConditions(np.arange(4), 4).choose(2, rng) == 2
    assert rng.bit_generator.state == before


# -- training


@pytest.mark.parametrize("arm", ALIGNMENTS)
def test_stopped_anywhere_equals_undisturbed_bit_for_bit(
    tmp_path, experiment, latents, captions, teacher, arm
):
    words = latents, captions
    run(experiment, arm, tmp_path / "whole", *words, teacher=teacher)
    for polls in (2, 1):
        with pytest.raises(Interrupted):
            run(experiment, arm, tmp_path / "cut", *words, teacher=teacher, stop=StopAt(polls))
    run(experiment, arm, tmp_path / "cut", *words, teacher=teacher)
    assert_equal(everything(tmp_path / "whole", 8), everything(tmp_path / "cut", 8))


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
    assert method.condition_of_teacher(batch) is batch.condition_B


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
    assert ImageSampler(weights, autoencoder, prompts=captions, **words).conditions.store
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


# -- samples


def test_sample_i_shows_the_caption_of_image_i(weights, captions):
    conditions = SampleConditions(load_backbone(weights, CPU)[1], captions)
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
        SampleConditions(load_backbone(weights, CPU)[1], tmp_path / "manifest.json")


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
