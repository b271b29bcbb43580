"""The layouts of REPA's preparation: at 512 pixels as the authors have it, and without images.

Read in sihyun-yu/REPA, csslc/Self-Transcendence (``CustomDataset_512``) and vvvvvjdy/SRA (DiT-SRA
and SiT-SRA_DTS_AS; SiT-SRA/dataset.py itself was not to be had), dataset.py and
preprocessing/dataset_tools.py of each.
"""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from selftrans.config import SamplerConfig, load_dataset
from selftrans.data.sources import open_source, read_all
from selftrans.data.store import LatentStore
from selftrans.evaluation.compute_statistics import compute_statistics
from selftrans.evaluation.images import open_images
from selftrans.extraction.features import extract_features
from selftrans.extraction.latents import extract
from selftrans.models.autoencoder import encode_moments, load_autoencoder
from selftrans.runtime.errors import UserError
from selftrans.sampling.generate import ImageSampler
from tests.support.miniature import make_imagenet, make_repa
from tests.support.random_models import save_autoencoder
from tests.support.trainings import run

CPU = torch.device("cpu")
SIZE = 32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """REPA's preparation of a miniature ImageNet, and the autoencoder that it used."""
    directory = tmp_path_factory.mktemp("prepared")
    autoencoder = str(save_autoencoder(directory / "autoencoder"))
    folder = make_imagenet(directory / "imagenet", per_class=4, classes=3)
    source = open_source(data_of(directory, folder, autoencoder, kind="folder"))
    images = torch.from_numpy(source.read(range(12)))
    moments = encode_moments(load_autoencoder(autoencoder, CPU), images).numpy()
    return make_repa(directory / "repa", source, moments), autoencoder, moments


@pytest.fixture
def prepared(made, tmp_path):
    """Lay the same content out in these folders, and return the data file."""

    def lay_out(*folders):
        for folder in folders:
            shutil.copytree(made[0] / folder.removesuffix("-512"), tmp_path / "repa" / folder)
        return data_of(tmp_path, tmp_path / "repa", made[1])

    return lay_out


def data_of(directory, path, autoencoder, kind="repa", **changes):
    values = {
        "source": {"kind": kind, "path": str(path)},
        "image_size": SIZE,
        "autoencoder": {"kind": "pretrained", "path": autoencoder, "downsampling": 2},
        "latents": {"dtype": "float32"},
        **changes,
    }
    file = directory / "mini.yaml"
    file.write_text(yaml.safe_dump(values))
    return load_dataset(file)


@pytest.mark.parametrize(
    "folders", [("images", "vae-sd"), ("images-512", "vae-sd-512")], ids=["repa", "authors at 512"]
)
def test_images_and_moments_of_either_layout(made, prepared, folders, tmp_path):
    data = prepared(*folders)
    source = open_source(data)
    assert source.names == [f"00000/img{index:08}.png" for index in range(12)]
    assert source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    np.testing.assert_array_equal(source.moments(range(12)), made[2])
    assert source.read(range(2)).shape == (2, SIZE, SIZE, 3)
    manifest = extract(data, made[1], tmp_path / "latents")
    moments = LatentStore(tmp_path / "latents/manifest.json").moments(np.arange(12))
    np.testing.assert_array_equal(moments, made[2])
    assert manifest.count == 12


def test_where_both_sizes_are_there_the_image_size_chooses(made, prepared, tmp_path):
    data = prepared("images", "vae-sd", "images-512", "vae-sd-512")
    changed = tmp_path / "repa/vae-sd-512/00000/img-mean-std-00000000.npy"
    np.save(changed, np.load(changed) + 1)
    large = data_of(tmp_path, tmp_path / "repa", made[1], image_size=512)
    first = range(1)
    np.testing.assert_array_equal(open_source(data).moments(first), made[2][:1])
    np.testing.assert_array_equal(open_source(large).moments(first), made[2][:1] + 1)


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        ((), "no such folder"),
        (("images",), "holds images (allowed"),
        (("images", "vae-sd-512"), "holds images and vae-sd-512 (allowed"),
        (("vae-sd", "images-512"), "holds vae-sd and images-512 (allowed"),
        (("images", "vae-sd", "images-512"), "holds images and vae-sd and images-512 (allowed"),
    ],
)
def test_an_absent_or_mixed_layout_is_one_line(prepared, folders, found, tmp_path):
    data = prepared(*folders)
    with pytest.raises(UserError) as caught:
        open_source(data)
    assert str(caught.value).startswith(f"{tmp_path / 'repa'}: {found}")
    if folders:
        allowed = "vae-sd with or without images, vae-sd-512 with or without images-512)"
        assert str(caught.value).endswith(allowed)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_holds_no_prepared_data(prepared, tmp_path):
    data = prepared()
    (tmp_path / "repa").mkdir()
    with pytest.raises(UserError, match="repa: holds no prepared data"):
        open_source(data)
    (tmp_path / "repa/vae-sd").mkdir()
    with pytest.raises(UserError, match=r"vae-sd/dataset\.json: no such file"):
        open_source(data)
    (tmp_path / "repa/vae-sd/dataset.json").write_text('{"labels": []}')
    with pytest.raises(UserError, match=r"dataset\.json: names no array \(looked for: \.npy\)"):
        open_source(data)


@pytest.mark.parametrize("folder", ["vae-sd", "vae-sd-512"])
def test_moments_without_images_are_the_same_store(made, prepared, folder, tmp_path, caplog):
    data = prepared(folder)
    source = open_source(data)
    assert source.names[11] == "00000/img-mean-std-00000011.npy"
    assert source.class_names == ("0", "1", "2")
    extract(data, made[1], tmp_path / "latents")
    assert [message for message in caplog.messages if "cannot be checked" in message]
    store = LatentStore(tmp_path / "latents/manifest.json")
    np.testing.assert_array_equal(store.moments(np.arange(12)), made[2])
    assert store.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    digest = source.digest
    changed = tmp_path / "repa" / folder / "00000/img-mean-std-00000003.npy"
    np.save(changed, np.load(changed) + 1)
    assert open_source(data).digest != digest


def test_what_needs_the_images_says_that_there_are_none(prepared, encoder, tmp_path):
    data = prepared("vae-sd")
    extractor = SimpleNamespace(name="classifier", digest="")  # it has nothing to measure
    needs = {
        "a classifier": lambda: read_all(data),
        "an encoder": lambda: extract_features(data, encoder, tmp_path / "features"),
        "a reference that is not named": lambda: compute_statistics(
            open_images(tmp_path / "mini.yaml"), extractor, tmp_path / "features.npy"
        ),
    }
    for name, work in needs.items():
        with pytest.raises(UserError, match="the source has no images, only their moments in") as e:
            work()
        assert str(e.value).startswith(f"{tmp_path / 'repa'}: "), name
        assert "\n" not in str(e.value), name


@pytest.mark.slow
def test_training_and_sampling_need_no_images(made, prepared, tiny, tmp_path):
    extract(prepared("vae-sd"), made[1], tmp_path / "latents")
    run(tiny(), "sit", tmp_path / "run", tmp_path / "latents/manifest.json", until=4)
    sampler = ImageSampler(tmp_path / "run/checkpoints/4/ema.safetensors", made[1], CPU)
    settings = SamplerConfig(sampler="euler", num_steps=2, num_samples=4)
    assert sampler.images(settings, range(4)).shape == (4, SIZE, SIZE, 3)
