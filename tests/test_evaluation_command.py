"""From files of images to metrics: every kind of input, one or more processes, errors."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import check_adm
from selftrans.config import ClassifierConfig
from selftrans.evaluation import inception
from selftrans.evaluation.compute_statistics import reuse_statistics
from selftrans.evaluation.evaluate import extractors_of, statistics_of
from selftrans.evaluation.extractors import load_classifier
from selftrans.evaluation.inception import InceptionExtractor, inception_network
from selftrans.evaluation.metrics import compute_metrics
from selftrans.evaluation.references import REFERENCE_BATCHES, check_published
from selftrans.evaluation.statistics import ImageStatistics, features_path
from selftrans.evaluation.weights import INCEPTION, PublishedFile
from selftrans.models.classifier import ClassifierMetadata, ClassifierNetwork
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import sha256_of
from tests.support.programs import last_line, run_command, run_program
from tests.support.random_models import randomise
from tests.support.warm import start_forked

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    settings = ClassifierConfig(width=8, features=6)
    network = randomise(ClassifierNetwork(settings, 10), std=0.3)
    metadata = ClassifierMetadata(settings=settings, num_classes=10, held_out_accuracy=0.1)
    metadata.save(path, network.state_dict())
    return path


@pytest.fixture
def inputs(tmp_path, images):
    """The same images as an archive, a compressed one, and a folder; a data file of the digits."""
    np.savez(tmp_path / "samples.npz", images)
    np.savez_compressed(tmp_path / "compressed.npz", images)
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"folder/{number:05}.png")
    (tmp_path / "own.yaml").write_text(
        "source: {kind: digits}\nimage_size: 32\nautoencoder: {kind: pretrained, path: nowhere}\n"
    )
    return tmp_path


def evaluate(*words):
    return run_command("evaluate", *words)


@pytest.mark.slow
def test_the_command_line_takes_any_images_and_any_reference(inputs, classifier):
    output = inputs / "result.json"
    names = "fid,is,precision,recall,kid"
    ended = evaluate(
        inputs / "samples.npz", "--reference", inputs / "own.yaml", "--metrics", names,
        "--extractor", "classifier", "--weights", classifier, "--output", output,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    result = json.loads(output.read_text())
    assert list(result["metrics"]) == names.split(",")
    assert result["extractors"]["classifier"]["num_samples"] == 60
    assert result["extractors"]["classifier"]["num_reference"] == 1797
    assert len(result["extractors"]["classifier"]["digest"]) == 64
    assert [line.split()[0] for line in ended.stdout.splitlines()] == [
        "FID",
        "IS",
        "precision",
        "recall",
        "KID",
    ]
    kid = ended.stdout.splitlines()[-1].split()
    assert kid[1:] == [f"{result['metrics']['kid']:.4f}", "±", f"{result['spreads']['kid']:.4f}"]
    assert result["cautions"] == [
        line.removeprefix("not to be trusted: ")
        for line in ended.stderr.splitlines()
        if line.startswith("not to be trusted: ")
    ]
    assert any(text.startswith("the classifier is weak") for text in result["cautions"])


@pytest.mark.slow
def test_a_set_of_images_against_itself_is_perfect(inputs, classifier):
    """An FID of 0 to the digits that are printed, and precision and recall of 1."""
    ended = evaluate(
        inputs / "samples.npz", "--reference", inputs / "samples.npz", "--metrics",
        "fid,precision,recall", "--extractor", "classifier", "--weights", classifier,
    )  # fmt: skip
    printed = [line.split() for line in ended.stdout.splitlines()]
    assert printed == [["FID", "0.0000"], ["precision", "1.0000"], ["recall", "1.0000"]]


@pytest.mark.slow
def test_the_same_images_in_any_form_give_the_same_numbers(inputs, classifier, tmp_path):
    extractor = load_classifier(classifier, CPU)
    reference = statistics_of(inputs / "own.yaml", extractor, tmp_path, 100)
    metrics = ("fid", "is", "precision", "recall", "kid")
    found = [
        compute_metrics(
            metrics, statistics_of(inputs / name, extractor, tmp_path, batch_size), reference
        )
        for name, batch_size in (("samples.npz", 60), ("compressed.npz", 7), ("folder", 13))
    ]
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)
    reference.save(tmp_path / "saved.npz")
    saved = statistics_of(tmp_path / "saved.npz", extractor, tmp_path, 1)
    assert compute_metrics(("fid",), saved, reference)["fid"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_two_processes_collect_what_one_does(inputs, classifier):
    words = (inputs / "folder", "--extractor", "classifier", "--weights", classifier)
    for processes in (1, 2):
        options = ("--processes", processes, "--output", inputs / f"{processes}/statistics.npz")
        ended = run_command("statistics", *words, "--batch-size", 8, *options)
        assert ended.returncode == 0, ended.stderr
    one, two = (
        ImageStatistics.load(inputs / f"{processes}/statistics.npz") for processes in (1, 2)
    )
    np.testing.assert_allclose(two.features, one.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        two.gaussians["features"].covariance, one.gaussians["features"].covariance, rtol=1e-4
    )
    assert [chunk.count for chunk in two.scores] == [60]
    assert sorted(path.name for path in (inputs / "2").iterdir()) == [
        "statistics-features.npy",
        "statistics.npz",
    ]


@pytest.mark.slow
def test_a_worker_that_fails_ends_the_others(inputs, classifier):
    (inputs / "folder/00055.png").write_bytes(b"no image")
    words = ("--extractor", "classifier", "--weights", classifier, "--processes", 2)
    ended = start_forked(
        "statistics", inputs / "folder", *words, "--output", inputs / "statistics.npz"
    )
    _, said = ended.communicate(timeout=120)
    assert ended.returncode == 1
    assert "00055.png: not an image, or damaged" in said
    assert not (inputs / "statistics.npz").exists()


# ---------------------------------------------------------------------------------- wrong inputs


def wrong_inputs(directory, images):
    np.savez(directory / "float.npz", images.astype(np.float32))
    np.savez(directory / "alpha.npz", np.zeros((5, 8, 8, 4), np.uint8))
    np.savez(directory / "one.npz", images[:1])
    np.savez(directory / "none.npz", images[:0])
    np.savez(directory / "named.npz", pictures=images)
    (directory / "empty.npz").write_bytes(b"")
    (directory / "truncated.npz").write_bytes((directory / "samples.npz").read_bytes()[:9000])
    for name in ("nothing", "mixed", "grey"):
        (directory / name).mkdir()
    for number, size in enumerate((32, 32, 16)):
        Image.fromarray(images[0, :size, :size]).save(directory / f"mixed/{number}.png")
    for number in range(3):
        Image.fromarray(images[0, ..., 0]).save(directory / f"grey/{number}.png")
    return {
        "float.npz": (
            r"arr_0 is float32 of shape \(60, 32, 32, 3\), "
            r"allowed is uint8 of shape \(N, H, W, 3\)"
        ),
        "alpha.npz": r"arr_0 is uint8 of shape \(5, 8, 8, 4\)",
        "one.npz": "at least 2 images, found 1",
        "none.npz": "at least 2 images, found 0",
        "named.npz": "not an .npz with arr_0",
        "empty.npz": "not an .npz with arr_0, or truncated",
        "truncated.npz": "not an .npz with arr_0, or truncated",
        "absent.npz": "no such file",
        "nothing": "holds no image",
        "mixed": r"2\.png: is 16x16, 0\.png is 32x32",
        "grey": r"0\.png: is L, allowed is RGB in 8 bits",
    }


def test_wrong_images_are_one_line(inputs, classifier, images, tmp_path):
    extractor = load_classifier(classifier, CPU)
    for name, message in wrong_inputs(inputs, images).items():
        with pytest.raises(UserError, match=message) as caught:
            statistics_of(inputs / name, extractor, tmp_path / "out", 10)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--metrics", "fid,nonsense"],
            "--metrics: 'nonsense' is unknown (allowed: fid, sfid, is, precision",
        ),
        (["--metrics", "fid"], "needed is pt_inception-2015-12-05-6726825d.pth"),
        (
            ["--extractor", "classifier", "--weights", "{samples}"],
            "truncated or not a safetensors file",
        ),
        (
            ["--extractor", "classifier", "--weights", "{classifier}", "--reference", "{float}"],
            "arr_0 is float32",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_no_number(inputs, classifier, images, words, message):
    np.savez(inputs / "float.npz", images.astype(np.float32))
    places = {
        "samples": inputs / "samples.npz",
        "classifier": classifier,
        "float": inputs / "float.npz",
    }
    words = [word.format(**places) for word in words]
    output = inputs / "result.json"
    ended = evaluate(
        inputs / "samples.npz", "--reference", inputs / "samples.npz", *words, "--output", output
    )
    assert message in last_line(ended)
    assert ended.stdout == ""
    assert not output.exists()


def test_a_reference_of_another_extractor_is_refused(inputs, classifier, tmp_path):
    own = load_classifier(classifier, CPU)
    statistics = statistics_of(inputs / "samples.npz", own, tmp_path, 10)
    settings = ClassifierConfig(width=8, features=6)
    other = ClassifierNetwork(settings, 10)
    metadata = ClassifierMetadata(settings=settings, num_classes=10, held_out_accuracy=0.1)
    metadata.save(tmp_path / "o.safetensors", other.state_dict())
    elsewhere = statistics_of(
        inputs / "folder", load_classifier(tmp_path / "o.safetensors", CPU), tmp_path, 10
    )
    with pytest.raises(UserError, match="their features cannot be compared"):
        compute_metrics(("fid",), statistics, elsewhere)


def test_each_metric_finds_its_extractor():
    assert extractors_of(("fid", "fd-dinov2", "is"), "inception") == {
        "inception": ("fid", "is"),
        "dinov2": ("fd-dinov2",),
    }
    assert extractors_of(("fid", "sfid"), "classifier") == {
        "classifier": ("fid",),
        "inception": ("sfid",),
    }


# ------------------------------------------------------------------------ Inception, ADM, others


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """Inception with random weights in a file, and a record that names it as the published one."""
    generator = torch.Generator().manual_seed(0)
    state = inception_network().state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_var", "bn.weight")):
            tensor.uniform_(0.8, 1.6, generator=generator)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(state, path)
    file = PublishedFile(
        url=f"https://nowhere/{path.name}", bytes=path.stat().st_size, sha256=sha256_of(path)
    )
    return path, file


@pytest.fixture
def extractor(random_inception, monkeypatch) -> InceptionExtractor:
    path, file = random_inception
    monkeypatch.setattr(inception, "INCEPTION", file)
    return inception.load_inception(path, CPU)


@pytest.mark.slow
def test_numbers_are_torch_fidelitys_where_definitions_agree(
    tmp_path, extractor, random_inception, images
):
    """FID, IS in one chunk in file order, KID of the whole sets, precision and recall at k = 3."""
    from torch_fidelity import calculate_metrics

    half = (images // 2 + 60).astype(np.uint8)
    folders = {"samples": half[:20], "reference": images[:12]}
    for name, pictures in folders.items():
        (tmp_path / name).mkdir()
        for number, image in enumerate(pictures):
            Image.fromarray(image).save(tmp_path / name / f"{number:03}.png")
    samples, reference = (
        statistics_of(tmp_path / name, extractor, tmp_path / f"{name}-out", 20) for name in folders
    )
    found = compute_metrics(("fid", "is", "precision", "recall"), samples, reference)
    expected = calculate_metrics(
        input1=str(tmp_path / "samples"), input2=str(tmp_path / "reference"), cuda=False, fid=True,
        isc=True, prc=True, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(random_inception[0]), isc_splits=1,
        samples_shuffle=False, prc_neighborhood=3, cache=False, verbose=False, batch_size=20,
        save_cpu_ram=True,
    )  # fmt: skip
    assert found["fid"] == pytest.approx(
        expected["frechet_inception_distance"], rel=1e-3
    )  # sqrtm of rank-deficient ones
    assert found["is"] == pytest.approx(expected["inception_score_mean"], rel=1e-5)
    assert found["precision"] == pytest.approx(expected["precision"])
    assert found["recall"] == pytest.approx(expected["recall"])


def test_kid_is_torch_fidelitys():
    from torch_fidelity.metric_kid import kid_features_to_metric

    from selftrans.evaluation.metrics import kernel_distances

    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((50, 16)).astype(np.float32) + shift for shift in (0, 0.3))
    expected = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=1, kid_subset_size=50, verbose=False
    )["kernel_inception_distance_mean"]
    assert kernel_distances(x, y, subsets=1, size=50) == pytest.approx([expected], rel=1e-5)


@pytest.mark.slow
def test_an_adm_reference_brings_its_own_moments(tmp_path, extractor, images):
    rng = np.random.default_rng(0)
    mu, mu_s = rng.standard_normal(2048), rng.standard_normal(2023)
    np.savez(
        tmp_path / "reference.npz",
        images[:6],
        mu=mu,
        sigma=np.eye(2048),
        mu_s=mu_s,
        sigma_s=2 * np.eye(2023),
    )
    reference = statistics_of(tmp_path / "reference.npz", extractor, tmp_path / "out", 6)
    np.testing.assert_array_equal(reference.gaussians["features"].mean, mu)
    np.testing.assert_array_equal(reference.gaussians["spatial"].covariance, 2 * np.eye(2023))
    assert reference.features.shape == (6, 2048)  # of its images, for precision and recall
    np.savez(tmp_path / "damaged.npz", images[:6], mu=mu, sigma=np.eye(3))
    with pytest.raises(UserError, match=r"damaged\.npz: sigma is \(3, 3\), mu has 2048 elements"):
        statistics_of(tmp_path / "damaged.npz", extractor, tmp_path / "out2", 6)


def test_a_file_with_a_published_name_is_checked(tmp_path):
    name, *_ = REFERENCE_BATCHES
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(
        UserError, match=r"has 14 bytes, VIRTUAL_imagenet256_labeled\.npz has 2,037,122,530"
    ):
        check_published(tmp_path / name)
    check_published(tmp_path / "of my own.npz")


@pytest.mark.slow
def test_the_check_against_published_numbers_says_what_it_needs(inputs, monkeypatch):
    monkeypatch.setenv("SELFTRANS_CACHE", str(inputs / "cache"))
    ended = run_program(check_adm.main, "benchmarks.check_adm", inputs / "samples.npz")
    expected = f"error: {inputs}/cache/{INCEPTION.name}: no such file"
    assert last_line(ended).startswith(expected)


@pytest.mark.slow
def test_the_check_against_published_numbers_compares(
    inputs, random_inception, extractor, monkeypatch, capsys
):
    """With random weights every metric differs from the published row, and the check says so.

    With their own values as the published ones none differs.
    """

    words = [
        "check_adm",
        "samples.npz",
        "--reference",
        "reference.npz",
        "--weights",
        random_inception[0],
    ]
    np.savez(inputs / "reference.npz", np.load(inputs / "samples.npz")["arr_0"][:8] // 2)
    np.savez(inputs / "samples.npz", np.load(inputs / "samples.npz")["arr_0"][:10])
    monkeypatch.chdir(inputs)
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    with pytest.raises(SystemExit, match=r"error: fid, sfid, is.* differ from the published row"):
        check_adm.main()
    found = [float(line.split()[-3]) for line in capsys.readouterr().out.splitlines()[1:]]
    own = dict(zip(check_adm.PUBLISHED, ((value, 0.001) for value in found), strict=True))
    monkeypatch.setattr(check_adm, "PUBLISHED", own)
    check_adm.main()


def test_statistics_of_ours_are_a_reference_of_the_workflow_too(inputs, classifier, tmp_path):
    extractor = load_classifier(classifier, CPU)
    saved = statistics_of(inputs / "samples.npz", extractor, tmp_path / "out", 10)
    reuse_statistics(
        tmp_path / "out/samples.npz", "classifier", tmp_path / "reference/classifier.npz"
    )
    again = ImageStatistics.load(tmp_path / "reference/classifier.npz")
    np.testing.assert_array_equal(again.features, saved.features)
    assert compute_metrics(("fid", "kid"), again, saved) == compute_metrics(
        ("fid", "kid"), saved, saved
    )
    with pytest.raises(UserError, match="are of classifier features, requested are inception"):
        reuse_statistics(tmp_path / "out/samples.npz", "inception", tmp_path / "b.npz")
    features_path(tmp_path / "out/samples.npz").unlink()
    with pytest.raises(UserError, match=r"samples-features\.npy: no such file"):
        reuse_statistics(tmp_path / "out/samples.npz", "classifier", tmp_path / "b.npz")


def test_samples_of_another_size_are_refused(inputs, classifier, images, tmp_path):
    extractor = load_classifier(classifier, CPU)
    np.savez(inputs / "small.npz", images[:, ::2, ::2])
    small, whole = (
        statistics_of(inputs / f"{name}.npz", extractor, tmp_path, 10)
        for name in ("small", "samples")
    )
    with pytest.raises(
        UserError, match="samples are 16x16 pixels, reference images 32x32: they cannot be compared"
    ):
        compute_metrics(("fid",), small, whole)
