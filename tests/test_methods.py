"""Trainings by REPA, SRA, LayerSync and lists of terms are as exact as those of stage 1 and 2.

Also the encoders that they follow.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

from selftrans.config import PretrainedEncoderConfig, load_dataset
from selftrans.data.sources import held_out, open_source
from selftrans.data.store import FeatureStore, LatentStore
from selftrans.data.writer import StoreWriter
from selftrans.extraction.features import extract_features, feature_bytes
from selftrans.models.encoder import (
    EncoderMetadata,
    PatchEncoder,
    build_network,
    load_encoder,
    load_published,
)
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.runtime.files import read_json, write_json
from selftrans.runtime.headers import read_metadata
from selftrans.training.auxiliary.encoder import make_encoder
from selftrans.training.progress import HISTORY_COLUMNS
from tests.support.experiments import OTHER_METHODS, TINY
from tests.support.programs import last_line, run_command
from tests.support.random_models import randomise
from tests.support.trainings import StopAt, assert_equal, everything, run

CPU = torch.device("cpu")


@pytest.fixture
def methods(tiny):
    """A tiny experiment with all methods."""

    def write(**changes):
        return tiny(**{"runs": {**TINY["runs"], **OTHER_METHODS}, **changes})

    return write


@pytest.mark.slow
@pytest.mark.parametrize("arm", OTHER_METHODS)
def test_stopped_at_every_step_equals_undisturbed_bit_for_bit(
    methods, tmp_path, manifest, features, encoder, arm
):
    path, follows = methods(), {"features": features, "encoder": encoder}
    run(path, arm, tmp_path / "whole", manifest, until=8, **follows)
    for _ in range(7):
        with pytest.raises(Interrupted):
            run(path, arm, tmp_path / "parts", manifest, until=8, stop=StopAt(0), **follows)
    run(path, arm, tmp_path / "parts", manifest, until=8, **follows)
    assert_equal(everything(tmp_path / "parts", 8), everything(tmp_path / "whole", 8))


@pytest.mark.slow
def test_repa_on_images_trains_as_on_stored_features(
    methods, tmp_path, manifest, features, encoder
):
    """But for the half precision that the features are stored in."""
    for arm in ("repa", "repa-on-images"):
        run(methods(), arm, tmp_path / arm, manifest, until=8, features=features, encoder=encoder)
    stored, live = (
        everything(tmp_path / arm, 8)[0]["history"] for arm in ("repa", "repa-on-images")
    )
    assert not torch.equal(stored, live)
    torch.testing.assert_close(stored, live, rtol=2e-3, atol=1e-5)


@pytest.mark.slow
def test_the_cosine_of_the_history_is_that_of_the_term(methods, tmp_path, manifest, features):
    """REPA's part of the loss is -0.5 times the cosine that is logged beside it."""
    run(methods(), "repa", tmp_path / "run", manifest, until=8, features=features)
    history = everything(tmp_path / "run", 8)[0]["history"]
    columns = [
        history[:, HISTORY_COLUMNS.index(name)]
        for name in ("alignment", "cosine", "loss", "denoising")
    ]
    torch.testing.assert_close(columns[0], -0.5 * columns[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(columns[2], columns[3] + columns[0], rtol=1e-6, atol=0)


@pytest.mark.slow
def test_a_run_without_a_term_pulls_by_denoising_alone(methods, tmp_path, manifest):
    run(methods(), "sit", tmp_path / "run", manifest, until=8)
    history = everything(tmp_path / "run", 8)[0]["history"]
    norms = {name: history[:, HISTORY_COLUMNS.index(name)] for name in HISTORY_COLUMNS}
    assert not norms["alignment_gradient"].any()
    assert norms["cosine"].isnan().all()
    assert (norms["denoising_gradient"] > 0).all()


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (
            "self-transcendence",
            "--teacher: given for none, run 'self-transcendence' needs one for self-transcendence",
        ),
        ("repa", "neither features nor weights of 'stand-in' were given"),
    ],
)
def test_what_a_term_follows_must_be_given(methods, tmp_path, manifest, arm, message):
    words = ("--run", arm, "--seed", 0, "--until", 4, "--latents", manifest)
    ended = run_command("train", methods(), *words, "--directory", tmp_path / "run")
    assert message in last_line(ended)


def test_features_of_other_images_are_refused(tmp_path, manifest, features):
    shutil.copytree(Path(features).parent, tmp_path / "features")
    path = tmp_path / "features/manifest.json"
    written = {key: value for key, value in read_json(path).items() if key != "seal"}
    write_json(path, {**written, "origin": {"data": {"image_size": 64}}})  # as before there was one
    with pytest.raises(UserError, match="features of other images than"):
        FeatureStore(path).check_fits(LatentStore(manifest))
    write_json(path, {**read_json(path), "seal": "0" * 64})
    with pytest.raises(UserError, match="damaged, its description is not what was written"):
        FeatureStore(path)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """The stand-in of the digits, trained for a few steps."""
    path = tmp_path_factory.mktemp("stand-in") / "encoder.safetensors"
    data = load_dataset("digits")
    settings = data.encoders["stand-in"].model_copy(update={"steps": 60})
    make_encoder(
        data.model_copy(update={"encoders": {"stand-in": settings}}), "stand-in", path, CPU
    )
    return path


@pytest.mark.slow
def test_the_stand_in_says_so_and_learns_what_it_is_not_shown(stand_in):
    metadata = read_metadata(stand_in, "encoder")
    assert metadata["stand_in"]
    assert metadata["held_out_accuracy"] > 0.3  # ten classes, sixty steps
    loaded = load_encoder(stand_in, CPU)
    assert (loaded.name, loaded.grid_size, loaded.hidden_size) == ("stand-in", 4, 96)


@pytest.mark.slow
def test_a_stand_in_that_has_not_learnt_is_said_to_know_little(tmp_path, caplog):
    data = load_dataset("digits")
    settings = data.encoders["stand-in"].model_copy(update={"steps": 1})
    data = data.model_copy(update={"encoders": {"stand-in": settings}})
    make_encoder(data, "stand-in", tmp_path / "encoder.safetensors", CPU)
    assert "encoders.stand-in: knows the classes of" in caplog.text


def test_every_tenth_image_is_held_out():
    assert np.flatnonzero(held_out(25)).tolist() == [0, 10, 20]


@pytest.mark.slow
def test_extraction_stores_the_encoders_tokens_and_resumes(stand_in, tmp_path):
    data = load_dataset("digits")
    data = data.model_copy(update={"latents": data.latents.model_copy(update={"shard_size": 700})})
    extract_features(data, stand_in, tmp_path / "whole", CPU)
    store, images = FeatureStore(tmp_path / "whole/manifest.json"), open_source(data)
    chosen = np.array([1796, 0, 699, 700])
    tokens = load_encoder(stand_in, CPU)(torch.from_numpy(images.read(chosen)))
    torch.testing.assert_close(
        torch.from_numpy(store.rows[chosen]).float(), tokens, rtol=1e-3, atol=1e-3
    )
    assert (
        sum(shard.bytes for shard in store.manifest.shards) == feature_bytes(1797, 4, 96) + 3 * 128
    )
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    kept = (tmp_path / "parts/features-00000.npy").stat().st_mtime_ns
    (tmp_path / "parts/features-00001.npy").unlink()
    (tmp_path / "parts/manifest.json").unlink()
    assert extract_features(data, stand_in, tmp_path / "parts", CPU).digest == store.manifest.digest
    assert (tmp_path / "parts/features-00000.npy").stat().st_mtime_ns == kept
    store.rows.verify()


def test_a_shard_that_was_cut_otherwise_is_not_kept(tmp_path):
    """Shards of an interrupted extraction with another size would be taken for other images."""
    rows = np.arange(100, dtype=np.float16)[:, None]
    for size in (30, 60):
        writer = StoreWriter(tmp_path, {"of": "these"}, 100, shard_size=size, content="features")
        for number, start, stop in writer.ranges():
            if not writer.has(number):
                writer.write(number, rows[start:stop])
    assert [np.load(tmp_path / f"features-{number:05}.npy").shape[0] for number in range(2)] == [
        60,
        40,
    ]


def test_imagenets_features_are_half_a_terabyte():
    assert feature_bytes(1_281_167, 16, 768) == pytest.approx(0.504e12, rel=1e-3)


@pytest.mark.slow
def test_features_that_the_disk_has_no_room_for_are_refused_before_any_is_written(
    stand_in, tmp_path, monkeypatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(
        UserError, match=r"the features need 0\.0 GB, the disk has 0\.0 GB free; `features: images`"
    ):
        extract_features(load_dataset("digits"), stand_in, tmp_path / "store", CPU)
    assert not list((tmp_path / "store").iterdir())


MODEL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as timm publishes one: random weights of a real architecture at its own size."""
    network = randomise(timm.create_model(MODEL, num_classes=0), std=0.05)
    path = tmp_path_factory.mktemp("published") / "model.safetensors"
    save_file(network.state_dict(), path)
    return path, network.eval()


@pytest.mark.slow
def test_a_published_encoder_is_timms_with_repas_preprocessing(published, tmp_path):
    """Patch tokens of the file we write, against timm's own model on images prepared by hand."""
    path, network = published
    data = load_dataset("digits").model_copy(
        update={
            "encoders": {
                "vit": PretrainedEncoderConfig(kind="pretrained", model=MODEL, weights=str(path))
            }
        }
    )
    make_encoder(data, "vit", tmp_path / "vit.safetensors", CPU)
    encoder = load_encoder(tmp_path / "vit.safetensors", CPU)
    assert (encoder.grid_size, encoder.hidden_size, encoder.stand_in) == (14, 192, False)
    images = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    pixels = (
        images.permute(0, 3, 1, 2) / 255 - 0.5
    ) / 0.5  # mean and deviation that this model was trained with
    pixels = functional.interpolate(pixels, (224, 224), mode="bicubic")
    with torch.no_grad():
        expected = network.forward_features(pixels)[:, 1:]
    torch.testing.assert_close(encoder(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_published_encoder_at_another_size_has_timms_resampled_positions(published):
    from timm.layers import resample_abs_pos_embed

    path, network = published
    settings = PretrainedEncoderConfig(
        kind="pretrained", model=MODEL, weights=str(path), input_size=128
    )
    found, architecture = load_published(settings)
    assert architecture["img_size"] == 128
    assert found.patch_embed.grid_size == (8, 8)
    expected = resample_abs_pos_embed(network.pos_embed, [8, 8], num_prefix_tokens=1)
    torch.testing.assert_close(found.pos_embed, expected)


def test_tokens_of_a_model_that_pools_are_normalised_too():
    """timm puts their last layer norm behind the pooling, so the features of REPA would miss it."""
    network = build_network(
        {"model_name": "vit_medium_patch16_reg4_gap_256", "img_size": 64, "depth": 1}
    ).eval()
    metadata = EncoderMetadata(
        name="gap",
        stand_in=False,
        input_size=64,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        architecture={},
    )
    tokens = PatchEncoder(network, metadata)(
        torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    )
    torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        tokens.std(dim=-1, correction=0), torch.ones(2, 16), atol=1e-2, rtol=0
    )


def test_dinov2_has_no_class_or_register_token_among_its_patches():
    """REPA's encoder in its real shape except for the depth.

    It gives 16x16 tokens from 224 pixels, for any number of tokens before them.
    """
    for model, prefix in (("vit_base_patch14_dinov2", 1), ("vit_small_patch14_reg4_dinov2", 5)):
        network = build_network({"model_name": model, "img_size": 224, "depth": 1}).eval()
        metadata = EncoderMetadata(
            name="dinov2",
            stand_in=False,
            input_size=224,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            architecture={},
        )
        encoder = PatchEncoder(network, metadata)
        assert network.num_prefix_tokens == prefix
        assert encoder.grid_size == 16
        assert encoder(torch.zeros(1, 256, 256, 3, dtype=torch.uint8)).shape == (
            1,
            256,
            network.embed_dim,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet18"}, "encoder 'resnet18': is not a vision transformer of timm"),
        ({"model": "vit_none"}, "encoder 'vit_none': is not a vision transformer of timm"),
        ({"input_size": 8}, "its patches are larger than the images"),
        ({"weights": "/nowhere.pth"}, "weights: /nowhere.pth: no such file"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        load_published(PretrainedEncoderConfig(kind="pretrained", **{"model": MODEL, **changes}))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_weights_of_another_model_are_one_line(tmp_path):
    """timm itself would let them pass, and leave the network random."""
    save_file({"a": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    settings = PretrainedEncoderConfig(
        kind="pretrained", model=MODEL, weights=str(tmp_path / "wrong.safetensors")
    )
    expected = (
        f"encoder '{MODEL}': no weights from .*wrong.safetensors: 'cls_token' is not among them"
    )
    with pytest.raises(UserError, match=expected) as caught:
        load_published(settings)
    assert "\n" not in str(caught.value)
