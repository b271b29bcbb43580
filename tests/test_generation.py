"""Generation: sample i is a function of (seed, i), for any batch size and interruptions."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from selftrans.config import GuidanceConfig, SamplerConfig
from selftrans.models import autoencoder as autoencoders
from selftrans.models.metadata import LatentScaling, WeightsMetadata
from selftrans.models.sit import SiT
from selftrans.runtime.errors import Unavailable, UserError
from selftrans.runtime.workers import Shard
from selftrans.sampling import generate as generation
from selftrans.sampling.conditions import sample_labels
from selftrans.sampling.generate import Generation, ImageSampler
from selftrans.sampling.latents import SampleNoise
from selftrans.sampling.partial_images import PartialImages
from tests.support.events import pictures
from tests.support.programs import last_line, run_command
from tests.support.random_models import randomise
from tests.support.stores import SCALE, SHIFT
from tests.support.warm import start_forked

CPU = torch.device("cpu")


@pytest.fixture
def weights(tmp_path, shape):
    path = tmp_path / "ema.safetensors"
    metadata = WeightsMetadata(
        run="sit",
        seed=0,
        step=4,
        fingerprint="f",
        shape=shape,
        interpolant="linear",
        latents=LatentScaling(digest="d", scale=SCALE, shift=SHIFT),
        version="0",
        weights="ema",
    )
    metadata.save(path, randomise(SiT(shape)).state_dict())
    return path


def settings(**changes):
    guidance = GuidanceConfig(scale=1.5, low=0.2, high=0.8)
    return SamplerConfig(
        **{"sampler": "euler", "num_steps": 4, "num_samples": 11, "guidance": guidance, **changes}
    )


def make(one, weights, autoencoder, output, batch_size=256, events=None):
    """What the command line does."""
    work = Generation(one, ImageSampler(weights, autoencoder, CPU), output, batch_size, events)
    work.run(Shard.all())
    work.finish()
    work.remove_shares()


def images(path):
    with np.load(path) as archive:
        return archive["arr_0"]


@pytest.mark.parametrize(
    "sampler",
    ["euler", *(pytest.param(name, marks=pytest.mark.slow) for name in ("heun", "euler-maruyama"))],
)
def test_images_do_not_depend_on_the_batch_size(tmp_path, weights, autoencoder, sampler):
    for batch_size in (1, 4, 11, 100):
        make(
            settings(sampler=sampler),
            weights,
            autoencoder,
            tmp_path / f"{batch_size}.npz",
            batch_size,
        )
    whole = images(tmp_path / "100.npz")
    assert whole.shape == (11, 32, 32, 3)
    assert whole.dtype == np.uint8
    assert whole.std() > 5
    for batch_size in (1, 4, 11):
        difference = images(tmp_path / f"{batch_size}.npz").astype(int) - whole.astype(int)
        assert np.abs(difference).max() <= 1


def test_noise_and_labels_are_bit_equal_in_any_cut():
    whole = SampleNoise(3, range(10), (4, 2, 2), CPU)
    parts = [SampleNoise(3, range(4), (4, 2, 2), CPU), SampleNoise(3, range(4, 10), (4, 2, 2), CPU)]
    for _ in range(3):
        assert torch.equal(torch.cat([part() for part in parts]), whole())
    for labels in ("balanced", "random"):
        one = settings(labels=labels)
        parts = [sample_labels(one, cut, 10) for cut in (range(37), range(37, 1000))]
        np.testing.assert_array_equal(np.concatenate(parts), sample_labels(one, range(1000), 10))


def test_the_first_images_are_shown_at_the_checkpoints_step(tmp_path, weights, autoencoder):
    for _ in range(2):  # a set that is made again replaces its picture
        output = tmp_path / "ode-n11/samples.npz"
        make(settings(), weights, autoencoder, output, events=tmp_path / "events")
    ((step, picture),) = pictures(tmp_path / "events", "ode-n11/samples").items()
    assert step == 4
    assert picture.shape == (2 * 32, 8 * 32, 3)
    np.testing.assert_array_equal(picture[:32, 32:64], images(output)[1])
    np.testing.assert_array_equal(picture[32:, 64:96], images(output)[10])
    assert (picture[32:, 96:] == 255).all()
    assert len(list((tmp_path / "events").iterdir())) == 1


def test_balanced_labels_are_balanced_and_random_ones_uniform():
    assert (np.bincount(sample_labels(settings(labels="balanced"), range(1000), 10)) == 100).all()
    counts = np.bincount(sample_labels(settings(labels="random"), range(5000), 10))
    assert (
        (counts - 500) ** 2 / 500
    ).sum() < 28  # chi-squared with 9 degrees of freedom, p = 0.001


@pytest.mark.slow
def test_an_interrupted_generation_resumes(tmp_path, weights, autoencoder, monkeypatch):
    make(settings(), weights, autoencoder, tmp_path / "whole.npz", 3)
    sampled = []
    draw = generation.sample_latents

    def breaking(model, one, labels, *rest):
        sampled.append(len(labels))
        if len(sampled) == 3:
            raise KeyboardInterrupt
        return draw(model, one, labels, *rest)

    monkeypatch.setattr(generation, "sample_latents", breaking)
    with pytest.raises(KeyboardInterrupt):
        make(settings(), weights, autoencoder, tmp_path / "parts.npz", 3)
    assert not (tmp_path / "parts.npz").exists()
    make(settings(), weights, autoencoder, tmp_path / "parts.npz", 3)
    assert sampled == [3, 3, 3, 3, 2]
    np.testing.assert_array_equal(images(tmp_path / "parts.npz"), images(tmp_path / "whole.npz"))
    assert not list(tmp_path.glob("*.partial"))


def sampling(one, weights, autoencoder, output, *options):
    words = [
        "--settings",
        one.model_dump_json(),
        "--autoencoder",
        autoencoder,
        "--output",
        output,
        *options,
    ]
    return start_forked("generate", weights, *words)


@pytest.mark.slow
def test_two_processes_draw_the_images_of_one(tmp_path, weights, autoencoder):
    """By the sampler that draws at every step."""
    one = settings(sampler="euler-maruyama", num_samples=23, labels="random")
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
    make(one, weights, autoencoder, tmp_path / "1/samples.npz", 5)
    options = ("--batch-size", 5, "--processes", 2)
    child = sampling(one, weights, autoencoder, tmp_path / "2/samples.npz", *options)
    _, messages = child.communicate(timeout=120)
    assert child.returncode == 0, messages
    found, expected = (images(tmp_path / f"{processes}/samples.npz") for processes in (2, 1))
    assert found.shape == (23, 32, 32, 3)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    with np.load(tmp_path / "1/samples.npz") as a, np.load(tmp_path / "2/samples.npz") as b:
        np.testing.assert_array_equal(a["arr_1"], b["arr_1"])
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == [
        "first.npz",
        "samples.json",
        "samples.npz",
    ]


@pytest.mark.slow
def test_killed_workers_are_gone_on_with_by_any_number_of_processes(tmp_path, weights, autoencoder):
    one = settings(num_samples=400, num_steps=10)
    whole, parts = tmp_path / "whole.npz", tmp_path / "parts/samples.npz"
    make(one, weights, autoencoder, whole)
    child = sampling(one, weights, autoencoder, parts, "--batch-size", 3, "--processes", 2)
    while len(list(parts.with_suffix(".partial").glob("*.npy"))) < 20:
        time.sleep(0.01)
        assert child.poll() is None, child.stderr.read()
    child.send_signal(signal.SIGTERM)
    _, messages = child.communicate(timeout=60)
    assert child.returncode == 75, messages
    assert "SIGTERM: what is done is kept" in messages
    assert not parts.exists()
    done = {path: path.stat().st_mtime_ns for path in parts.with_suffix(".partial").glob("*.npy")}
    assert 20 <= len(done) < 134
    make(one, weights, autoencoder, parts, 50)
    assert np.abs(images(parts).astype(int) - images(whole).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("sampled", "batch_size", "missing"),
    [
        ([], 4, [range(3, 7), range(7, 11), range(11, 12)]),
        ([(0, 5), (7, 9)], 4, [range(5, 7), range(9, 12)]),
        ([(3, 12)], 1, []),
        ([(4, 6), (6, 8), (12, 20)], 10, [range(3, 4), range(8, 12)]),
    ],
)
def test_what_is_missing_is_cut_into_batches(tmp_path, sampled, batch_size, missing):
    partial = PartialImages(tmp_path / "p", {})
    for start, stop in sampled:
        partial.add(range(start, stop), np.zeros((stop - start, 1, 1, 3), np.uint8))
    assert partial.missing(range(3, 12), batch_size) == missing


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def become_a_directory(path):
    path.unlink()
    path.mkdir()


def become_another_sets(path):
    """Its content is whole: a process that drew another set wrote it."""
    other = PartialImages(path.parent / "other", {"seed": 7})
    other.add(range(4, 8), np.ones((4, 2, 2, 3), np.uint8))
    (written,) = (path.parent / "other").iterdir()
    path.unlink()
    written.rename(path.parent / written.name)


@pytest.mark.parametrize(
    "damage",
    [truncate, flip, become_a_directory, become_another_sets, lambda path: path.write_bytes(b"")],
)
def test_a_damaged_batch_is_drawn_again(tmp_path, damage):
    partial = PartialImages(tmp_path / "p", {"seed": 0})
    for start in (0, 4, 8):
        partial.add(range(start, start + 4), np.full((4, 2, 2, 3), start, np.uint8))
    assert partial.missing(range(12), 4) == []
    (second,) = (tmp_path / "p").glob("00000004-*")
    damage(second)
    with pytest.raises(Unavailable, match="image 4 is missing or damaged"):
        list(partial.batches(12))
    assert partial.missing(range(12), 4) == [range(4, 8)]
    partial.add(range(4, 8), np.full((4, 2, 2, 3), 4, np.uint8))
    whole = np.concatenate(list(partial.batches(12)))
    np.testing.assert_array_equal(whole[:, 0, 0, 0], np.repeat([0, 4, 8], 4))


@pytest.mark.slow
def test_latents_are_decoded_some_at_a_time(tmp_path, weights, autoencoder, monkeypatch):
    seen = []
    decode = autoencoders.decode

    def watched(decoder, latents, conversion):
        seen.append((len(latents), next(decoder.parameters()).dtype))
        return decode(decoder, latents, conversion)

    monkeypatch.setattr(autoencoders, "decode", watched)
    monkeypatch.setattr(autoencoders, "DECODED_ELEMENTS", 4 * 4 * 8 * 8)
    make(
        settings(decoder_precision="bf16", num_samples=10), weights, autoencoder, tmp_path / "a.npz"
    )
    assert seen == [(4, torch.bfloat16), (4, torch.bfloat16), (2, torch.bfloat16)]


@pytest.mark.slow
def test_the_first_images_stand_beside_the_set(tmp_path, weights, autoencoder):
    make(settings(num_samples=120), weights, autoencoder, tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz") as whole, np.load(tmp_path / "first.npz") as first:
        np.testing.assert_array_equal(first["arr_0"], whole["arr_0"][:100])
        np.testing.assert_array_equal(first["arr_1"], whole["arr_1"][:100])


@pytest.mark.slow
def test_the_remains_of_other_settings_are_not_used(tmp_path, weights, autoencoder, monkeypatch):
    def breaking(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(generation, "write_image_archive", breaking)
        with pytest.raises(KeyboardInterrupt):
            make(settings(seed=1), weights, autoencoder, tmp_path / "a.npz")
    make(settings(seed=2), weights, autoencoder, tmp_path / "a.npz")
    make(settings(seed=2), weights, autoencoder, tmp_path / "b.npz")
    np.testing.assert_array_equal(images(tmp_path / "a.npz"), images(tmp_path / "b.npz"))


def test_guidance_and_labels_change_the_images(tmp_path, weights, autoencoder):
    make(settings(), weights, autoencoder, tmp_path / "a.npz")
    make(settings(guidance=GuidanceConfig()), weights, autoencoder, tmp_path / "b.npz")
    assert not np.array_equal(images(tmp_path / "a.npz"), images(tmp_path / "b.npz"))


def test_truncated_images_are_darker_by_a_level_or_none(tmp_path, weights, autoencoder):
    """The generation scripts of REPA and its successors: (255 * x).to(uint8) of x in [0, 1]."""
    for conversion in ("round", "truncate"):
        one = settings(uint8=conversion)
        make(one, weights, autoencoder, tmp_path / f"{conversion}.npz")
    rounded, cut = (images(tmp_path / f"{name}.npz").astype(int) for name in ("round", "truncate"))
    assert set(np.unique(rounded - cut)) == {0, 1}
    inside = (rounded > 0) & (rounded < 255)
    assert (rounded - cut)[inside].mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scaling_factor": 0.13}, ("its latents' scale is 0.13, that of the "
         "checkpoint's latents is 0.5")),
        ({"shift_factor": 0.2}, "its latents' shift is 0.2, .* is 0.1"),
        ({"latent_channels": 16}, "has 16 latent channels, the checkpoint's latents have 4"),
    ],
)  # fmt: skip
def test_a_decoder_of_other_latents_is_refused(tmp_path, weights, autoencoder, change, message):
    other = shutil.copytree(autoencoder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | change))
    if "latent_channels" in change:
        from diffusers import AutoencoderKL

        AutoencoderKL.from_config(config | change).save_pretrained(other)
    with pytest.raises(UserError, match=rf"other': {message}"):
        ImageSampler(weights, str(other), CPU)


def test_pixels_that_are_not_finite_are_no_image(weights, autoencoder):
    """As a decoder in fp16 gives them where it overflows, and a network of NaN anywhere."""
    sampler = ImageSampler(weights, autoencoder, CPU)
    latents = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    with pytest.raises(UserError, match="latents to decode are not finite"):
        sampler.decode(latents.clone().fill_(float("nan")))
    with torch.no_grad():
        sampler.autoencoder.decoder.conv_out.weight.fill_(1e4)
    sampler.decode(latents)
    with pytest.raises(UserError, match="the decoder's pixels are not finite in float16"):
        sampler.decode(latents, "fp16")


def test_the_description_says_all_that_the_images_depend_on(tmp_path, weights, autoencoder):
    make(settings(), weights, autoencoder, tmp_path / "a.npz")
    described = json.loads((tmp_path / "a.json").read_text())
    assert {
        "sampler",
        "num_steps",
        "num_samples",
        "guidance",
        "seed",
        "weights",
        "labels",
        "precision",
    } <= described.keys()
    assert described["checkpoint"]["step"] == 4
    assert len(described["checkpoint"]["digest"]) == len(described["autoencoder_digest"]) == 64
    assert torch.__version__.startswith(described["versions"]["torch"])


def test_an_autoencoder_that_is_none_is_refused_in_one_line(tmp_path, weights):
    with pytest.raises(UserError, match="cannot be loaded from this directory") as caught:
        make(settings(), weights, str(tmp_path), tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_wrong_settings_on_the_command_line_are_one_line(tmp_path):
    words = [
        "x.safetensors",
        "--autoencoder",
        "a",
        "--output",
        str(tmp_path / "o.npz"),
        "--settings",
    ]
    for given, message in (
        ("{", "--settings: not JSON"),
        ('{"sampler": "rk4"}', "--settings: sampler: input should be"),
    ):
        ended = run_command("generate", *words, given)
        assert message in last_line(ended)


def sample(*options):
    return run_command("sample", *options)


def test_a_picture_of_chosen_classes_has_the_same_noise_in_a_column(tmp_path, weights, autoencoder):
    picture = tmp_path / "grid.png"
    options = (
        weights,
        "--autoencoder",
        autoencoder,
        "--steps",
        4,
        "--seed",
        3,
        "--columns",
        2,
    )
    ended = sample(*options, "--classes", "7,1,7", "--output", picture)
    assert ended.returncode == 0, ended.stderr
    grid = np.asarray(Image.open(picture))
    assert grid.shape == (3 * (32 + 12), 2 * 32, 3)
    rows = [grid[row * 44 + 12 : row * 44 + 44] for row in range(3)]
    np.testing.assert_array_equal(rows[0], rows[2])
    assert not np.array_equal(rows[0], rows[1])
    sampler = ImageSampler(weights, autoencoder, CPU)
    one = SamplerConfig(sampler="euler", num_steps=4, num_samples=2, seed=3)
    expected = sampler.images(one, range(2), np.array([1, 1]))
    np.testing.assert_array_equal(np.concatenate(list(expected), axis=1), rows[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--classes", "3,10"), "--classes: '10' is not a class of the model (allowed: 0 to 9)"),
        (("--classes", "-1"), "--classes: '-1' is not a class"),
        (("--classes", "cat"), "--classes: 'cat' is not a class"),
        (("--classes", "1", "--output", "grid.txt"), "--output: grid.txt is not a picture's name"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_one_line(
    tmp_path, weights, autoencoder, options, message
):
    ended = sample(
        weights, "--autoencoder", autoencoder, "--output", tmp_path / "grid.png",
        f"{options[0]}={options[1]}", *options[2:],
    )  # fmt: skip
    assert message in last_line(ended)
    assert not list(tmp_path.glob("*grid*"))
