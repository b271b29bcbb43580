"""Data sets: what their rules read and depend on."""

import pytest

from selftrans.config import run_definition
from workflow.lib.datasets import Datasets

DIGITS, IMAGENET = {"dataset": "digits"}, {"dataset": "imagenet256"}
AUTOENCODER = "results/data/digits/autoencoder"


@pytest.fixture
def datasets(make_study):
    return Datasets(make_study({}, {"name": "b", "data": "imagenet256"}))


def test_an_autoencoder_is_trained_or_published(datasets):
    assert datasets.autoencoder_files(DIGITS) == [
        f"{AUTOENCODER}/config.json",
        f"{AUTOENCODER}/diffusion_pytorch_model.safetensors",
    ]
    assert datasets.autoencoder_path(DIGITS) == AUTOENCODER
    assert datasets.autoencoder_files(IMAGENET) == []
    assert datasets.autoencoder_path(IMAGENET) == "stabilityai/sd-vae-ft-mse"


def test_an_experiment_uses_that_of_its_data(datasets):
    job = {"experiment": "tiny", "run": "sit", "encoder": "stand-in"}
    assert datasets.decoder_option_of_experiment(job) == f"--autoencoder {AUTOENCODER}"
    assert datasets.autoencoder_files_of_experiment({**job, "experiment": "b"}) == []
    assert datasets.latents(job) == "results/data/digits/latents/manifest.json"
    encoder = datasets.path("results/data/{dataset}/encoders/{encoder}.safetensors")
    assert encoder(job) == "results/data/digits/encoders/stand-in.safetensors"


def test_a_decoder_makes_the_images_and_nothing_else(make_study):
    """Another one changes no latents and no run."""
    study = make_study({"data": "imagenet256"})
    other = {"imagenet256": {"autoencoder": {"decoder": "mine"}}}
    changed = make_study({"data": "imagenet256"}, data=other)
    job, dataset = {"experiment": "tiny", "run": "sit"}, {"dataset": "imagenet256"}
    ours, theirs = Datasets(study), Datasets(changed)
    assert ours.decoder_option_of_experiment(job) == "--decoder stabilityai/sd-vae-ft-ema"
    assert theirs.decoder_option_of_experiment(job) == "--decoder mine"
    for parts in (("autoencoder", "latents"), ("reference",)):
        assert ours.definition(*parts)(dataset) == theirs.definition(*parts)(dataset)
    first, second = (run_definition(one.known["tiny"], "sit", 0) for one in (study, changed))
    assert first == second


def test_latents_depend_on_images_autoencoder_and_storage_alone(make_study):
    changes = {"digits": {"latents": {"flip": True}}}
    datasets = Datasets(make_study({}, data=changes))
    definition = datasets.definition("autoencoder", "latents")(DIGITS)
    assert definition.keys() == {"defaults", "source", "image_size", "autoencoder", "latents"}
    assert definition["latents"] == {"flip": True}
    assert datasets.definition()(DIGITS).keys() == {"defaults", "source", "image_size"}


def test_a_reader_depends_on_its_settings_and_the_world_alone(make_study):
    job = {"dataset": "scenes-tiny"}

    def definition(**changes):
        data = {"scenes-tiny": changes} if changes else {}
        return Datasets(make_study({"data": "scenes-tiny"}, data=data)).reader_definition(job)

    ours = definition()
    assert ours["reader"]["steps"] == 60
    assert definition(source={"count": 9, "combinations": "all"}) == ours
    for other in ({"source": {"seed": 1}}, {"reader": {"steps": 61}}, {"image_size": 64}):
        assert definition(**other) != ours


def test_only_a_trained_encoder_depends_on_the_images(datasets):
    trained = datasets.encoder_definition({**DIGITS, "encoder": "stand-in"})
    assert trained["images"] == datasets.definition()(DIGITS)
    published = datasets.encoder_definition({**IMAGENET, "encoder": "dinov2-b"})
    assert published["images"] is None
    assert published["encoder"]["kind"] == "pretrained"


def test_weights_of_an_encoder_are_an_input_if_they_are_a_file(make_study):
    encoder = {**IMAGENET, "encoder": "dinov2-b"}
    changes = {"imagenet256": {"encoders": {"dinov2-b": {"weights": "dinov2.pth"}}}}
    assert Datasets(make_study({"data": "imagenet256"})).encoder_weights(encoder) == []
    changed = Datasets(make_study({"data": "imagenet256"}, data=changes))
    assert changed.encoder_weights(encoder) == "dinov2.pth"


@pytest.mark.parametrize(
    ("on_error", "reference", "images", "skipped"),
    [
        ("stop", None, "results/data/imagenet256/data.yaml", []),
        ("stop", "batch.npz", "batch.npz", []),
        ("skip", "batch.npz", "batch.npz", []),
        (
            "skip",
            None,
            "results/data/imagenet256/data.yaml",
            "results/data/imagenet256/latents/manifest.json",
        ),
    ],
)
def test_a_reference_waits_for_the_list_of_skipped_images(
    make_study, on_error, reference, images, skipped
):
    changes = {"source": {"on_error": on_error}, "reference": reference}
    datasets = Datasets(make_study({"data": "imagenet256"}, data={"imagenet256": changes}))
    assert datasets.reference_images(IMAGENET) == images
    assert datasets.list_of_skipped(IMAGENET) == skipped


def test_the_target_is_the_latents_of_every_data_set(datasets):
    assert datasets.targets() == [
        "results/data/digits/latents/manifest.json",
        "results/data/imagenet256/latents/manifest.json",
    ]
