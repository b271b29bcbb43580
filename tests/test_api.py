"""From Python: a trained run in one call, and arrays measured."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from selftrans import api
from selftrans.evaluation.activations import Activations
from selftrans.evaluation.metrics import compute_metrics
from selftrans.runs import read_runs
from selftrans.runtime.errors import ConfigError, UserError
from selftrans.runtime.files import read_json, write_json
from selftrans.runtime.tensors import load_tensors
from selftrans.sampling.generate import ImageSampler
from tests.support import HEAVY, REPOSITORY
from tests.support.hostile import VALUES, changed, leaves, refused_or
from tests.support.programs import run_command
from tests.support.projects import TAUGHT, make_project
from tests.support.results import result
from tests.support.trainings import run as train_run

STEP = 4


@pytest.fixture(scope="module")
def project(tmp_path_factory, manifest, autoencoder, encoder, features):
    return make_project(
        tmp_path_factory.mktemp("project"), manifest, autoencoder, encoder, features
    )


@pytest.fixture
def inside(project, monkeypatch):
    """A folder somewhere in the project, as a notebook's, is the working directory."""
    folder = project / "notebooks/deep"
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def run(project):
    return api.load_run("tiny", TAUGHT, project=project, device="cpu")


# -- experiments


def test_an_experiment_is_loaded_from_any_folder(project, inside):
    loaded = api.load_experiment("tiny")
    assert loaded.name == "tiny"
    assert TAUGHT in loaded.runs
    assert api.load_experiment(project / "experiments/tiny.yaml") == loaded
    assert api.load_experiment("tiny", project=project) == loaded
    assert api.load_experiment(project / "results/tiny/experiment.yaml") == loaded
    with pytest.raises(ConfigError, match=r"'tine' is neither .* \(allowed: tiny\)"):
        api.load_experiment("tine")


def test_what_an_experiment_extends_and_reads_is_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "experiments/data").mkdir(parents=True)
    (tmp_path / "images/cat").mkdir(parents=True)
    for name in ("digits.yaml", "data/digits.yaml"):
        shutil.copy(REPOSITORY / "experiments" / name, tmp_path / "experiments" / name)
    files = {
        "data/pets.yaml": "extends: digits\nsource: {kind: folder, path: images}\n",
        "my.yaml": "extends: digits\ndata: pets\nmodel: {kind: 'own.py:Own'}\n",
        "own.py": "from selftrans.config import BackboneConfig\n\n\n"
        "class Own(BackboneConfig):\n    pass\n",
    }
    for name, content in files.items():
        (tmp_path / "experiments" / name).write_text(content)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = api.load_experiment("my", project=tmp_path)
    assert loaded.data.name == "pets"
    assert loaded.data.source.path == str(tmp_path / "images")
    assert loaded.model.kind == f"{tmp_path / 'experiments/own.py'}:Own"


# -- runs


def test_a_run_is_loaded_in_one_call_from_within_its_project(project, inside):
    run = api.load_run("tiny", "sit", step=STEP, seed=0, weights="raw", device="cpu")
    assert (run.name, run.seed, run.step, run.weights) == ("sit", 0, STEP, "raw")
    assert run.path == project / "results/tiny/runs/sit/seed0/checkpoints/4/raw.safetensors"
    stored = load_file(run.path)
    assert all(torch.equal(stored[name], value) for name, value in run.model.state_dict().items())
    assert run.experiment.runs.keys() >= {"sit", TAUGHT}
    assert run.class_names == tuple("0123456789")
    assert repr(run) == ("TrainedRun('tiny', 'sit', step=4, seed=0, weights='raw', device='cpu')")
    assert api.load_run("tiny", "sit", device="cpu").step == STEP  # the last one there is


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("tiny", "sti"), {}, r"'sti' is not a run of 'tiny' \(known: sit, vae-align"),
        (("tinny", "sit"), {}, r"'tinny': no results of that experiment in .* known: tiny\)"),
        (("../tiny", "sit"), {}, "no results of that experiment"),
        (("tiny", "sit"), {"seed": 3}, r"run 'sit' has no seed 3 \(known: 0\)"),
        (("tiny", "sit"), {"step": 8}, r"has no ema weights of step 8 \(known: 4\)"),
        (("tiny", "repa"), {}, r"has no ema weights \(known: none yet\)"),
        (("tiny", "sit"), {"weights": "emma"}, r"weights 'emma' are unknown \(known: ema, raw\)"),
        (("tiny", "sit"), {"class_names": "ab"}, "class_names: 2 names are given for 10 classes"),
    ],
)
def test_unknown_names_are_refused_with_the_known(inside, names, options, message):
    with pytest.raises(UserError, match=message) as caught:
        api.load_run(*names, device="cpu", **options)
    assert "\n" not in str(caught.value)


def test_without_results_it_says_what_it_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"no such file"):
        api.load_run("tiny", "sit", project=tmp_path)


def test_a_list_of_an_earlier_version_is_read_and_damage_is_named(project, tmp_path):
    content = read_json(project / "results/tiny/runs.json")
    older = {key: content[key] for key in ("format", "experiment", "sampler")}
    kept = ("run", "label", "seed", "folder", "imported", "checkpoints", "batch_size", "metrics")
    older["runs"] = [
        {**{key: one[key] for key in kept}, "teachers": [{"run": "vae-align", "step": 4}]}
        for one in content["runs"]
    ]
    path = tmp_path / "results/tiny/runs.json"
    write_json(path, older)
    assert read_runs(path).run("sit").folder == "results/tiny/runs/sit/seed0"
    with pytest.raises(UserError, match="was written by an earlier version"):
        api.load_run("tiny", "sit", project=tmp_path)
    for key, value, message in (
        ("format", 2, "damaged, format is 2"),
        ("runs", [{"run": 3}], r"damaged, runs\.0\.run is 3"),
        ("runs", None, "damaged, runs is None"),
    ):
        write_json(path, {**content, key: value})
        with pytest.raises(UserError, match=message) as caught:
            read_runs(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_any_list_is_read_or_refused_in_a_line(project, tmp_path):
    content = read_json(project / "results/tiny/runs.json")
    content["runs"] = content["runs"][3:4]
    path = tmp_path / "runs.json"
    for keys in leaves(content):
        for value in VALUES.values():
            path.write_text(json.dumps(changed(content, keys, value), skipkeys=True))
            refused_or(lambda: read_runs(path), path)


# -- samples


def test_samples_are_those_of_seed_index_and_class(run, project, autoencoder):
    labels = [3, 1, 4, 1, 5]
    images = run.sample(labels, seed=2, num_steps=3)
    sampler = ImageSampler(run.path, autoencoder)
    settings = api.SamplerConfig(sampler="euler", num_steps=3, seed=2)
    np.testing.assert_array_equal(images, sampler.images(settings, range(5), np.array(labels)))
    for classes in (torch.tensor(labels), np.array(labels), tuple(map(str, labels))):
        np.testing.assert_array_equal(run.sample(classes, seed=2, num_steps=3), images)
    parts = run.sample(labels, seed=2, num_steps=3, batch_size=2)
    assert np.abs(parts.astype(int) - images).max() <= 1
    one = run.sample(4, seed=2, num_steps=3, first=2)
    assert np.abs(one[0].astype(int) - images[2]).max() <= 1
    assert not np.array_equal(run.sample(labels, seed=3, num_steps=3), images)


def test_without_classes_samples_are_those_that_a_set_has(run):
    count = run.sample(count=4)
    np.testing.assert_array_equal(count, run.sample([0, 1, 2, 3]))
    np.testing.assert_array_equal(run.sample("7", count=2), run.sample([7, 7]))


def test_names_of_ones_own_are_accepted(project):
    names = ("cat", *(f"class {number}" for number in range(1, 10)))
    run = api.load_run("tiny", "sit", project=project, device="cpu", class_names=names)
    np.testing.assert_array_equal(run.sample(["cat", "class 2"]), run.sample([0, 2]))


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (("cat",), {}, r"'cat' is not a class of the model \(allowed: 0 to 9\)"),
        ((10,), {}, r"class 10 is not one of the model \(allowed: 0 to 9\)"),
        ((1,), {"sampler": "sde"}, r"sampler 'sde' is unknown \(known: ode\)"),
        ((1,), {"num_step": 3}, r"sampler 'ode': num_step: .*num_steps"),
        ((1,), {"num_steps": "3"}, "num_steps: "),
        (([1, 2],), {"count": 3}, "count: 3, but 2 conditions are given"),
        ((), {}, "count: None images"),
        (([],), {}, "count: 0 images"),
    ],
)
def test_wrong_samples_are_refused(run, words, options, message):
    with pytest.raises(UserError, match=message):
        run.sample(*words, **options)


def test_decoding_knows_the_latent_scale(run):
    moments = run.store.moments(np.arange(3))[:, 0].astype(np.float32)
    scaled = run.store.latents(np.arange(3), np.zeros_like(moments))
    with torch.no_grad():
        pixels = run.autoencoder.decode(torch.from_numpy(moments)).sample
    expected = (pixels.permute(0, 2, 3, 1) * 127.5 + 127.5).round().clamp(0, 255)
    images = run.decode(torch.from_numpy(scaled))
    assert np.abs(images.astype(int) - expected.numpy()).max() <= 1
    assert images.std() > 10


# -- features


def test_features_are_those_of_a_block_at_a_time(run):
    tokens = run.features(2, 0.25, [5, 7])
    assert tokens.shape == (2, 16, 32)
    z = torch.from_numpy(run.store.latents(np.array([5, 7]), np.zeros((2, 4, 8, 8), np.float32)))
    clean = run.features(2, 0.0, [5, 7])
    labels = torch.from_numpy(run.store.labels[[5, 7]])
    with torch.no_grad():
        expected = run.model.features(z, torch.zeros(2), labels, (2,))[2]
        blank = run.model.features(z, torch.zeros(2), torch.full((2,), 10), (2,))[2]
    torch.testing.assert_close(clean, expected)
    torch.testing.assert_close(run.features(2, 0, [5, 7], with_condition=False), blank)
    pooled = run.features(2, 0.25, [5, 7], pool=True)
    torch.testing.assert_close(pooled, tokens.mean(dim=1))
    torch.testing.assert_close(run.features(2, 0.25, 8)[5:6], tokens[:1])  # whatever the batch


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((0, 0.5), r"block 0 is unknown \(known: 1 to 4\)"),
        ((5, 0.5), r"block 5 is unknown"),
        ((1, 1.5), r"t: 1\.5 is no time"),
        ((1, 0.5, [200]), r"image 200 is unknown \(known: 0 to 199\)"),
    ],
)
def test_wrong_features_are_refused(run, words, message):
    with pytest.raises(UserError, match=message):
        run.features(*words)


# -- training


def state_of(training):
    model, ema = training.model.state_dict(), training.ema.state_dict()
    return {f"model.{k}": v for k, v in model.items()} | {f"ema.{k}": v for k, v in ema.items()}


def assert_is_state(training, directory, step):
    stored, _ = load_tensors(directory / f"state/step-{step:08}.safetensors", "state")
    for name, value in state_of(training).items():
        assert torch.equal(value, stored[name]), name


@pytest.mark.slow
def test_steps_of_every_method_are_the_trainings_to_the_bit(project, run, tmp_path):
    """Fresh, and from a saved state; with teacher, stored features, average and heads."""
    fresh = run.training(step=0)
    terms = [term.method.method for term in fresh.model.alignment.values()]
    assert set(terms) == {"vae-alignment", "self-transcendence", "repa", "sra", "layersync"}
    losses = [fresh.step() for _ in range(STEP)]
    assert fresh.number == STEP
    directory = project / f"results/tiny/runs/{TAUGHT}/seed0"
    assert_is_state(fresh, directory, STEP)
    assert all(0 < float(one.alignment) < float(one.loss) for one in losses)
    shutil.copytree(directory, tmp_path / "run")
    inputs = {
        "teacher": project / "results/tiny/runs/vae-align/seed0/teachers/4-raw-depth3.safetensors",
        "features": project / "results/data/digits/features/stand-in/manifest.json",
        "encoder": project / "results/data/digits/encoders/stand-in.safetensors",
    }
    manifest = project / "results/data/digits/latents/manifest.json"
    file = project / "experiments/tiny.yaml"
    train_run(file, TAUGHT, tmp_path / "run", manifest, until=8, **inputs)
    resumed = run.training()
    assert resumed.number == STEP
    for _ in range(4):
        resumed.step()
    assert_is_state(resumed, tmp_path / "run", 8)


@pytest.mark.slow
def test_a_run_that_is_not_trained_yet_takes_its_steps(project, inside, tmp_path):
    """Its encoder runs on the images of the batch."""
    training = api.load_training("tiny", "repa", device="cpu")
    for _ in range(STEP):
        assert float(training.step().alignment) != 0
    manifest = project / "results/data/digits/latents/manifest.json"
    encoder = project / "results/data/digits/encoders/stand-in.safetensors"
    file = project / "results/tiny/experiment.yaml"
    train_run(file, "repa", tmp_path, manifest, until=STEP, encoder=encoder)
    assert_is_state(training, tmp_path, STEP)
    with pytest.raises(UserError, match="'sti' is not a run of 'tiny'"):
        api.load_training("tiny", "sti")


@pytest.mark.slow
def test_an_experiment_without_file_and_results_takes_its_steps(
    project, inside, tmp_path, monkeypatch
):
    """Those of the same run in a file; nothing is written."""
    changes = {"name": "fresh", "extends": "tiny", "training": {"learning_rate": 0.01}}
    experiment = api.define_experiment(changes)
    assert experiment.runs["sit"].training.learning_rate == 0.01
    manifest = project / "results/data/digits/latents/manifest.json"
    teacher = project / "results/tiny/runs/vae-align/seed0/teachers/4-raw-depth3.safetensors"
    (term,) = experiment.runs["self-transcendence"].teachers
    training = api.new_training(
        experiment, "self-transcendence", latents=manifest, teachers={term: teacher}, device="cpu"
    )
    losses = [training.step() for _ in range(STEP)]
    assert all(float(one.alignment) > 0 for one in losses)
    assert list(inside.iterdir()) == []
    file = project / "experiments/fresh.yaml"
    write_json(file, changes)  # which is YAML, too
    monkeypatch.chdir(project)
    train_run(file, "self-transcendence", tmp_path, manifest, until=STEP, teacher=teacher)
    file.unlink()
    assert_is_state(training, tmp_path, STEP)
    with pytest.raises(UserError, match=r"'sti' is not a run of 'fresh' \(known: .*sit"):
        api.new_training(experiment, "sti", latents=manifest)


def test_mistakes_in_settings_are_named_as_in_a_file(project, inside):
    with pytest.raises(
        ConfigError, match=r"^settings: training\.batch: unknown key \(nearest: batch_"
    ):
        api.define_experiment({"extends": "tiny", "training": {"batch": 3}})
    with pytest.raises(ConfigError, match=r"^'tinny' is neither .*tiny\)$"):
        api.define_experiment({"extends": "tinny"})
    with pytest.raises(ConfigError, match=r"^settings: hold what no file can \(.*represent"):
        api.define_experiment({"extends": "tiny", "seeds": [np.int64(3)]})


def test_a_state_that_is_not_there_is_named(run):
    with pytest.raises(UserError, match=r"has no state of step 3 \(known: 4\)"):
        run.training(step=3)


# -- measures


class MeanColour:
    """An extractor whose features anyone can compute."""

    name, digest = "classifier", "mean colour"

    def __call__(self, images_BHWC):
        features = images_BHWC.double().mean(dim=(1, 2))
        return Activations(features=features, logits=features / 64)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(low, 256, (30, 4, 4, 3), dtype=np.uint8) for low in (0, 60)]


def test_metrics_of_images_are_those_of_their_features(pictures):
    samples, reference = (api.image_statistics(one, MeanColour(), 7) for one in pictures)
    means = [one.astype(float).mean(axis=(1, 2)) for one in pictures]
    given = [api.feature_statistics(one, one / 64, digest="mean colour") for one in means]
    names = ("fid", "is", "kid", "precision")
    first, second = api.metrics(names, samples, reference), api.metrics(names, *given)
    assert first.keys() == second.keys() == set(names)
    for name in names:
        assert first[name] == pytest.approx(second[name], rel=1e-6), name
    # The Fréchet distance of Gaussians in its closed form, by an eigenvalue of S1 S2.
    covariances = [np.cov(one, rowvar=False) for one in means]
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1])).real.sum()
    expected = np.square(means[0].mean(0) - means[1].mean(0)).sum()
    expected += np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root
    assert first["fid"] == pytest.approx(expected, rel=1e-9)
    assert api.metrics("fid", *given) == {"fid": second["fid"]}
    tensors = [api.feature_statistics(torch.from_numpy(one), digest="mean colour") for one in means]
    assert api.metrics("fid", *tensors)["fid"] == second["fid"]


def test_wrong_arrays_and_metrics_are_refused(pictures):
    statistics = api.feature_statistics(np.random.default_rng(0).standard_normal((5, 3)))
    for wrong, message in (
        (lambda: api.metrics("fod", statistics, statistics), r"'fod' is unknown \(known: fid, sf"),
        (lambda: api.metrics("is", statistics, statistics), "is: needs logits"),
        (lambda: api.metrics("sfid", statistics, statistics), "sfid: cannot be computed from cl"),
        (
            lambda: api.image_statistics(pictures[0] / 255, MeanColour()),
            r"images: are float64 of shape \(30, 4, 4, 3\) \(allowed: uint8",
        ),
        (lambda: api.image_statistics(pictures[0][:1], MeanColour()), "at least 2 images, found 1"),
        (lambda: api.image_statistics(pictures[0][:0], MeanColour()), "at least 2 images, found 0"),
        (lambda: api.feature_statistics(np.zeros((3, 2), int)), "features: are int64"),
        (lambda: api.feature_statistics(np.zeros(3)), "features: are float64 of shape"),
        (lambda: api.feature_statistics(np.full((3, 2), np.nan)), "are not finite"),
        (lambda: api.feature_statistics(np.zeros((3, 2)), np.zeros((2, 2))), "logits: are"),
    ):
        with pytest.raises(UserError, match=message):
            wrong()


def test_a_runs_metrics_are_against_the_experiments_reference(project, run, monkeypatch, pictures):
    monkeypatch.setattr(run, "extractor", MeanColour)
    reference = api.image_statistics(pictures[1], MeanColour())
    reference.save(project / "results/data/digits/reference/classifier.npz")
    samples = api.image_statistics(pictures[0], MeanColour())
    expected = compute_metrics(("fid", "is"), samples, reference)
    assert run.metrics(pictures[0]) == expected  # the metrics of the experiment
    assert run.metrics(torch.from_numpy(pictures[0]), "fid") == {"fid": expected["fid"]}
    with pytest.raises(UserError, match=r"extractor 'dinov2': no reference \(known: classifier\)"):
        run.reference("dinov2")


# -- for diffusers, and the interface itself


def test_a_run_is_exported_with_what_its_results_say(project, run, tmp_path):
    metrics = project / f"results/tiny/runs/{TAUGHT}/seed0/samples/4/ode-n20/classifier.json"
    content = result(run=TAUGHT, step=STEP, fid=12.5)
    content["samples"]["checkpoint"]["digest"] = run.metadata.digest
    write_json(metrics, content)
    run.export_pipeline(tmp_path / "pipeline", sampler="ode")
    pipeline = api.SiTPipeline.from_pretrained(tmp_path / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    ours = run.sample([3, 1], seed=5).astype(int)
    latents = pipeline.initial_latents(5, range(2))
    theirs = pipeline(["3", 1], latents=latents, output_type="np").images
    assert np.abs(np.rint(theirs * 255) - ours).max() <= 1
    card = ModelCard.load(tmp_path / "pipeline/README.md")
    assert "| data | digits |" in card.text
    assert card.data.eval_results[0].metric_value == 12.5
    words = ("export", run.path, "--to", "diffusers", "--output", tmp_path / "by-command")
    ended = run_command(*words)
    assert ended.returncode == 0, ended.stderr
    assert ModelCard.load(tmp_path / "by-command/README.md").content == card.content


@pytest.mark.slow
def test_the_interface_is_light_and_says_what_it_has():
    code = "import sys\nfrom selftrans import api\nprint(*{n.split('.')[0] for n in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not (HEAVY | {"numpy", "pydantic"}) & set(loaded)
    assert all(getattr(api, name) is not None for name in api.__all__)
    assert dir(api) == api.__all__
    with pytest.raises(AttributeError, match=r"selftrans\.api has no 'load_runs' .* load_run"):
        _ = api.load_runs
