"""Extraction: the same bytes however the work is split.

Also images that are left out, mirrored views, and moments that exist already.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderDC

from selftrans.config import TrainingConfig, load_dataset
from selftrans.data.sources import open_extracted, open_source
from selftrans.data.store import LatentStore
from selftrans.extraction.latents import extract
from selftrans.models.autoencoder import decode, encode_moments, load_autoencoder
from selftrans.runtime.errors import UserError
from selftrans.training.batches import BatchSource, mirrored
from tests.support import REPOSITORY
from tests.support.events import pictures
from tests.support.miniature import make_imagenet, make_repa
from tests.support.random_models import save_autoencoder
from tests.support.warm import start_forked

CPU = torch.device("cpu")
SIZE = 32


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    return save_autoencoder(tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture
def data_file(tmp_path, autoencoder):
    """Write a data file of a miniature ImageNet and return its path."""

    def write(kind="folder", path=None, latents=None, **source):
        path = path or make_imagenet(
            tmp_path / "imagenet", per_class=10, classes=20, corrupt=source.pop("corrupt", 0)
        )
        values = {
            "source": {"kind": kind, "path": str(path), **source},
            "image_size": SIZE,
            "autoencoder": {"kind": "pretrained", "path": str(autoencoder), "downsampling": 2},
            "latents": {"shard_size": 48, **(latents or {})},
        }
        file = tmp_path / f"{kind}.yaml"
        file.write_text(yaml.safe_dump(values))
        return file

    return write


def words_of(data_file, autoencoder, output, *options):
    words = ["extract", "latents", data_file, "--autoencoder", autoencoder, "--output", output]
    return [*map(str, words), *options]


def start_alone(*given):
    """Not forked."""
    return subprocess.Popen(
        [sys.executable, "-m", "selftrans", *words_of(*given)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_processes_or_on_a_kill(tmp_path, data_file, autoencoder):
    data = data_file(on_error="skip", corrupt=2)
    extract(load_dataset(data), str(autoencoder), tmp_path / "1")
    process = start_forked(*words_of(data, autoencoder, tmp_path / "2", "--processes", "2"))
    assert process.wait() == 0, process.stderr.read()
    killed = tmp_path / "killed"
    process = start_alone(data, autoencoder, killed, "--processes", "2")
    while not list(killed.glob("moments-*.json")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while (
        subprocess.run(["pgrep", "-f", f"{killed}.*--worker"], capture_output=True).returncode == 0
    ):
        time.sleep(0.02)  # the workers end with who started them
    assert not (killed / "manifest.json").exists()
    first = {path.name: path.stat().st_mtime_ns for path in killed.glob("moments-*.npy")}
    assert first
    assert start_forked(*words_of(data, autoencoder, killed, "--processes", "2")).wait() == 0
    assert all((killed / name).stat().st_mtime_ns == time for name, time in first.items())
    expected = contents(tmp_path / "1")
    assert (
        len([name for name in expected if name.endswith(".npy")]) == 6
    )  # five shards and the labels
    for found in (contents(tmp_path / "2"), contents(killed)):
        assert found == expected


@pytest.mark.slow
def test_each_row_is_the_encoded_image_and_what_is_left_out_is_listed(
    tmp_path, data_file, autoencoder
):
    file = data_file(on_error="skip", corrupt=2)
    data = load_dataset(file)
    manifest = extract(data, str(autoencoder), tmp_path / "latents", events=tmp_path / "events")
    assert manifest.skipped == ("n00000000/n00000000_0.JPEG", "n00000001/n00000001_1.JPEG")
    assert (manifest.count, manifest.num_classes, manifest.latent_shape) == (198, 20, (4, 16, 16))
    store, source = (
        LatentStore(tmp_path / "latents/manifest.json"),
        open_source(data, manifest.skipped),
    )
    store.verify()
    np.testing.assert_array_equal(store.labels, source.labels)
    chosen = np.array([0, 47, 48, 60, 197])
    encoded = encode_moments(
        load_autoencoder(str(autoencoder), CPU), torch.from_numpy(source.read(chosen))
    )
    torch.testing.assert_close(
        torch.from_numpy(store.moments(chosen)).float(), encoded, rtol=2e-3, atol=2e-3
    )
    shown = np.linspace(0, 197, 8).astype(int)
    decoded = decode(
        load_autoencoder(str(autoencoder), CPU),
        torch.from_numpy(store.moments(shown)[:, 0]).float(),
    )
    (picture,) = pictures(tmp_path / "events", "autoencoder/reconstructions").values()
    np.testing.assert_array_equal(
        picture,
        np.concatenate([np.concatenate([*part], 1) for part in (source.read(shown), decoded)]),
    )
    file.rename(tmp_path / "data.yaml")
    assert open_extracted(tmp_path / "data.yaml").names == source.names


@pytest.mark.slow
def test_a_corrupt_image_ends_the_extraction_with_its_name(tmp_path, data_file, autoencoder):
    process = start_forked(
        *words_of(data_file(corrupt=2), autoencoder, tmp_path / "latents", "--processes", "2")
    )
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert "n00000000/n00000000_0.JPEG is not an image, or damaged" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "latents/manifest.json").exists()


@pytest.mark.slow
def test_what_was_encoded_stays_good_when_it_is_moved(tmp_path, data_file, autoencoder):
    data = data_file()
    first = extract(load_dataset(data), str(autoencoder), tmp_path / "latents")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").glob("moments*")}
    (tmp_path / "imagenet").rename(tmp_path / "moved")
    moved = data_file(path=tmp_path / "moved/train")
    assert extract(load_dataset(moved), str(autoencoder), tmp_path / "latents") == first
    assert times == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "latents").glob("moments*")
    }
    (tmp_path / "moved/train/n00000019/n00000019_9.JPEG").unlink()
    assert (
        extract(load_dataset(moved), str(autoencoder), tmp_path / "latents").count
        == first.count - 1
    )


@pytest.mark.slow
def test_mirrored_views(tmp_path, data_file, autoencoder):
    data = load_dataset(
        data_file(
            latents={"flip": True}, path=make_imagenet(tmp_path / "few", per_class=4, classes=20)
        )
    )
    manifest = extract(data, str(autoencoder), tmp_path / "latents")
    assert (manifest.count, manifest.views, sum(shard.count for shard in manifest.shards)) == (
        80,
        2,
        160,
    )
    store, source = LatentStore(tmp_path / "latents/manifest.json"), open_source(data)
    chosen, views = np.array([79, 0, 47, 48]), np.array([1, 0, 1, 1])
    images = mirrored(source.read(chosen), views)
    np.testing.assert_array_equal(images[0], source.read(chosen)[0][:, ::-1])
    encoded = encode_moments(load_autoencoder(str(autoencoder), CPU), torch.from_numpy(images))
    torch.testing.assert_close(
        torch.from_numpy(store.moments(chosen, views)).float(), encoded, rtol=2e-3, atol=2e-3
    )
    batches = BatchSource(store, TrainingConfig(checkpoints=(100,), batch_size=80), seed=0)
    noise = np.zeros((1, *manifest.latent_shape), np.float32)
    sampled, index = set(), batches.indices(0, range(1))
    for step in range(12):  # an image comes once in each pass, as itself or mirrored
        position = int(np.flatnonzero(batches.indices(step, range(80)) == index)[0])
        z = batches.sample_batch(step, range(position, position + 1)).z
        errors = [np.abs(z - store.latents(index, noise, view)).mean() for view in (0, 1)]
        sampled.add(int(np.argmin(errors)))
    assert sampled == {0, 1}


@pytest.mark.slow
def test_prepared_moments_are_taken_over(tmp_path, data_file, autoencoder):
    data = load_dataset(data_file(latents={"dtype": "float32"}))
    extract(data, str(autoencoder), tmp_path / "own")
    own = LatentStore(tmp_path / "own/manifest.json")
    everything = np.arange(len(own))
    prepared = make_repa(tmp_path / "repa", open_source(data), own.moments(everything))
    taken = extract(load_dataset(data_file("repa", prepared)), str(autoencoder), tmp_path / "taken")
    store = LatentStore(tmp_path / "taken/manifest.json")
    np.testing.assert_array_equal(store.labels, own.labels)
    np.testing.assert_allclose(
        store.moments(everything), own.moments(everything), rtol=1e-3, atol=1e-6
    )
    assert taken.scale == own.manifest.scale
    other = save_autoencoder(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="the prepared moments are not of autoencoder"):
        extract(load_dataset(data_file("repa", prepared)), str(other), tmp_path / "refused")
    assert not (tmp_path / "refused/manifest.json").exists()
    (prepared / "images/00000/img00000000.png").unlink()
    with pytest.raises(UserError, match="199 images, but 200 arrays"):
        open_source(load_dataset(data_file("repa", prepared)))


@pytest.mark.slow
def test_bf16_is_near_and_float16_is_rounded(tmp_path, data_file, autoencoder):
    few = make_imagenet(tmp_path / "few", per_class=3, classes=2)
    stored = {}
    for name, latents in (
        ("fp32", {"dtype": "float32"}),
        ("bf16", {"dtype": "float32", "precision": "bf16"}),
        ("half", {}),
    ):
        extract(
            load_dataset(data_file(path=few, latents=latents)), str(autoencoder), tmp_path / name
        )
        stored[name] = LatentStore(tmp_path / name / "manifest.json").moments(np.arange(6))
    np.testing.assert_array_equal(stored["half"], stored["fp32"].astype(np.float16))
    error = np.abs(stored["bf16"] - stored["fp32"]).mean() / stored["fp32"].std()
    assert 0 < error < 0.02


def test_an_autoencoder_of_another_class_and_channel_count(tmp_path, data_file):
    """Any of diffusers' autoencoders; one without a posterior has no spread."""
    torch.manual_seed(0)
    blocks = {
        "encoder_block_types": ("ResBlock", "ResBlock"),
        "decoder_block_types": ("ResBlock", "ResBlock"),
    }
    channels = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    layers = {"encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1)}
    scales = {"encoder_qkv_multiscales": ((), ()), "decoder_qkv_multiscales": ((), ())}
    AutoencoderDC(latent_channels=8, **blocks, **channels, **layers, **scales).save_pretrained(
        tmp_path / "dc"
    )
    few = make_imagenet(tmp_path / "few", per_class=3, classes=2)
    file = data_file(path=few)
    with pytest.raises(UserError, match=r"latents of shape \(8, 16, 16\).*make \(4, 16, 16\)"):
        extract(load_dataset(file), str(tmp_path / "dc"), tmp_path / "latents")
    values = yaml.safe_load(file.read_text())
    values["autoencoder"]["latent_channels"] = 8
    file.write_text(yaml.safe_dump(values))
    manifest = extract(load_dataset(file), str(tmp_path / "dc"), tmp_path / "latents")
    moments = LatentStore(tmp_path / "latents/manifest.json").moments(np.arange(6))
    assert manifest.latent_shape == (8, 16, 16)
    assert moments[:, 0].any()
    assert not moments[:, 1].any()


@pytest.mark.slow
def test_an_autoencoder_that_is_not_there_says_how_to_get_it(tmp_path, data_file, monkeypatch):
    data = data_file(path=make_imagenet(tmp_path / "few", per_class=2, classes=2))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    process = start_alone(data, "stabilityai/sd-vae-ft-mse", tmp_path / "latents")
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert (
        errors.strip()
        .splitlines()[-1]
        .endswith("fetch it once: hf download stabilityai/sd-vae-ft-mse")
    )


@pytest.mark.slow
def test_an_autoencoder_in_the_hubs_cache_is_found_offline(
    tmp_path, data_file, autoencoder, monkeypatch
):
    data = data_file(path=make_imagenet(tmp_path / "few", per_class=2, classes=2))
    repository = tmp_path / "cache/hub/models--somebody--some-vae"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in Path(autoencoder).iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    process = start_alone(data, "somebody/some-vae", tmp_path / "latents")
    assert process.wait() == 0, process.stderr.read()
    assert LatentStore(tmp_path / "latents/manifest.json").manifest.scale == 0.18215
