"""Statistics and metrics against published formulas and closed forms."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import torch

from selftrans.config import METRIC_EXTRACTORS
from selftrans.data.images import ImageArchive, write_image_archive
from selftrans.evaluation.activations import Activations
from selftrans.evaluation.manifold import precision_recall, squared_distances
from selftrans.evaluation.metrics import (
    compute_metrics,
    frechet_distance,
    inception_score,
    kernel_distances,
)
from selftrans.evaluation.partial_statistics import load_partial_statistics, save_partial_statistics
from selftrans.evaluation.statistics import ImageStatistics, Statistics, features_path
from selftrans.runtime.errors import UserError
from selftrans.runtime.workers import Shard

RNG = np.random.default_rng(0)


def streamed(
    features, logits=None, spatial=None, batch=64, digest="d", extractor="inception", first=0
):
    statistics = Statistics(extractor, digest)
    for start in range(0, len(features), batch):
        parts = {"features": features, "logits": logits, "spatial": spatial}
        given = {
            name: torch.as_tensor(x[start : start + batch])
            for name, x in parts.items()
            if x is not None
        }
        statistics.add(first + start, Activations(**given))
    return statistics


def statistics_of(features, logits=None, **options):
    return dataclasses.replace(
        streamed(features, logits, **options).finished(), features=np.asarray(features, np.float32)
    )


def random_covariance(d, rank=None):
    factor = RNG.standard_normal((d, rank or d + 5))
    return factor @ factor.T


def test_frechet_distance_is_that_of_sqrtm():
    mean1, mean2 = RNG.standard_normal((2, 30))
    cov1, cov2 = random_covariance(30), random_covariance(30)
    product = scipy.linalg.sqrtm(cov1 @ cov2).real
    expected = ((mean1 - mean2) ** 2).sum() + np.trace(cov1 + cov2 - 2 * product)
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_commuting_covariances_is_closed_form():
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    s1, s2 = RNG.uniform(0.1, 3, (2, 20))
    mean1, mean2 = RNG.standard_normal((2, 20))
    expected = ((mean1 - mean2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet_distance(mean1, np.diag(s1**2), mean2, np.diag(s2**2)) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("d", [1, 2, 5, 17, 64])
def test_frechet_distance_is_a_squared_distance(d):
    """Zero for equal Gaussians, symmetric, and the same in any basis.

    Of scaled Gaussians it has a closed form.
    """
    rng = np.random.default_rng(d)
    mean1, mean2 = rng.standard_normal((2, d))
    factors = rng.standard_normal((2, d, d + 5))
    cov1, cov2 = (factor @ factor.T for factor in factors)
    distance = frechet_distance(mean1, cov1, mean2, cov2)
    scale = np.trace(cov1) + np.trace(cov2)
    assert frechet_distance(mean1, cov1, mean1, cov1) == pytest.approx(0, abs=1e-9 * scale)
    assert frechet_distance(mean2, cov2, mean1, cov1) == pytest.approx(distance, rel=1e-8)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    turned = (basis @ mean1, basis @ cov1 @ basis.T, basis @ mean2, basis @ cov2 @ basis.T)
    assert frechet_distance(*turned) == pytest.approx(distance, rel=1e-8)
    # sqrt of (c^2 S) is c sqrt(S): (c - 1)^2 tr S.
    scaled = frechet_distance(mean1, cov1, mean1, 9 * cov1)
    assert scaled == pytest.approx(4 * np.trace(cov1), rel=1e-8)


def test_frechet_distance_of_rank_deficient_covariances():
    """Rank 3 in 20 dimensions, within one subspace where the closed form holds."""
    basis = np.linalg.qr(RNG.standard_normal((20, 20)))[0]
    s1, s2 = np.zeros(20), np.zeros(20)
    s1[:3], s2[:3] = (1, 2, 3), (2, 2, 5)
    cov1, cov2 = (basis * s1**2) @ basis.T, (basis * s2**2) @ basis.T
    zero = np.zeros(20)
    assert frechet_distance(zero, cov1, zero, cov2) == pytest.approx(1 + 0 + 4, abs=1e-9)
    assert frechet_distance(zero, cov1, zero, cov1) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(zero, np.zeros((20, 20)), zero, cov1) == pytest.approx(14, abs=1e-9)


@pytest.mark.parametrize("batch", [1, 7, 301])
def test_streamed_moments_are_those_of_numpy_at_any_batch_size(batch):
    features, spatial = (
        RNG.standard_normal((301, 12)).astype(np.float32) + 50,
        RNG.standard_normal((301, 5)),
    )
    gaussians = streamed(features, spatial=spatial, batch=batch).finished().gaussians
    for name, expected in (("features", features.astype(np.float64)), ("spatial", spatial)):
        assert gaussians[name].count == 301
        np.testing.assert_allclose(gaussians[name].mean, expected.mean(0), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(gaussians[name].covariance, np.cov(expected.T), atol=1e-9)


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_shards_add_up_to_the_whole(tmp_path, shards):
    """Also where a chunk of the Inception score is cut, and on the way over disk."""
    features, spatial = RNG.standard_normal((12001, 6)), RNG.standard_normal((12001, 4))
    logits = RNG.standard_normal((12001, 5)) * 2
    whole = streamed(features, logits, spatial).finished()
    parts = []
    for number in range(shards):
        span = Shard(number, shards).span(12001)
        rows = slice(span.start, span.stop)
        part = streamed(features[rows], logits[rows], spatial[rows], batch=100, first=span.start)
        np.save(tmp_path / f"{number}.npy", features[rows])
        save_partial_statistics(part, tmp_path / f"{number}.npz", "these images")
        parts.append(load_partial_statistics(tmp_path / f"{number}.npz", "these images"))
    for part in parts[1:]:
        parts[0].merge(part)
    merged = parts[0].finished()
    for name in ("features", "spatial"):
        np.testing.assert_allclose(
            merged.gaussians[name].mean, whole.gaussians[name].mean, rtol=0, atol=1e-13
        )
        np.testing.assert_allclose(
            merged.gaussians[name].covariance, whole.gaussians[name].covariance, atol=1e-12
        )
    assert [chunk.count for chunk in merged.scores] == [5000, 5000, 2001]
    assert inception_score(merged) == pytest.approx(inception_score(whole), rel=1e-12)


def slow_inception_score(logits, split=5000):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = []
    for start in range(0, len(p), split):
        part = p[start : start + split]
        kl = part * (np.log(part) - np.log(part.mean(0, keepdims=True)))
        scores.append(np.exp(kl.sum(1).mean()))
    return np.mean(scores)


@pytest.mark.parametrize("batch", [64, 4999, 12000])
def test_inception_score_is_its_formula_in_chunks_of_file_order(batch):
    logits = RNG.standard_normal((11000, 10)) * 2
    logits[:5000, 0] += 3  # the chunks differ
    score = inception_score(statistics_of(np.zeros((11000, 2)), logits, batch=batch))
    assert score == pytest.approx(slow_inception_score(logits), rel=1e-10)


def test_inception_score_survives_underflow():
    logits = np.full((100, 10), -2000.0)
    logits[np.arange(100), np.arange(100) % 10] = 0
    assert inception_score(statistics_of(np.zeros((100, 2)), logits)) == pytest.approx(10)


def test_samples_sorted_by_class_are_noticed_before_the_inception_score():
    labels = np.arange(12000) % 10
    logits = np.eye(10)[labels] * 4 + RNG.standard_normal(
        (12000, 10)
    )  # a network that is right most of the time
    features = np.zeros((12000, 2))
    shuffled = statistics_of(features, logits)
    assert inception_score(shuffled) > 3
    order = np.argsort(labels, kind="stable")
    with pytest.raises(UserError, match="is: the samples are sorted by class"):
        inception_score(statistics_of(features, logits[order]))
    assert (
        inception_score(statistics_of(features[:4000], logits[order][:4000])) > 1
    )  # one chunk: the order says nothing
    collapsed = statistics_of(
        features, np.tile(logits[:1], (12000, 1))
    )  # one repeated image is not a sorted set
    assert inception_score(collapsed) == pytest.approx(1)


def test_a_collapsed_set_is_precise_and_recalls_next_to_nothing():
    """Which of the two is which: all samples beside one reference image, and far from the rest."""
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((400, 16)).astype(np.float32)
    collapsed = reference[7] + 1e-3 * rng.standard_normal((300, 16)).astype(np.float32)
    precision, recall = precision_recall(collapsed, reference)
    assert precision == 1
    assert recall < 0.01


def slow_precision_recall(samples, reference, k=3):
    """Kynkäänniemi et al. 2019, equations 1 and 2, with full matrices in float64."""

    def distances(a, b):
        return ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1)

    def covered(points, centres):
        radii = np.sort(distances(centres, centres), axis=1)[:, k]  # column 0 is the point itself
        return (distances(points, centres) <= radii[None]).any(axis=1).mean()

    return covered(samples, reference), covered(reference, samples)


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_precision_and_recall_are_their_formulas_in_blocks_of_any_size(monkeypatch, block):
    from selftrans.evaluation import manifold

    monkeypatch.setattr(manifold, "BLOCK", block)
    samples = (RNG.standard_normal((150, 6)) * 1.2 + 0.8).astype(np.float32)
    reference = RNG.standard_normal((110, 6)).astype(np.float32)
    found, expected = (
        precision_recall(samples, reference),
        slow_precision_recall(samples, reference),
    )
    assert found == pytest.approx(expected)
    assert 0.2 < min(found) <= max(found) < 1


def test_the_distances_of_adm_are_half_precision_where_that_is_finite():
    a, b = torch.randn(30, 64), torch.randn(20, 64)
    exact = torch.cdist(a.double(), b.double()) ** 2
    torch.testing.assert_close(squared_distances(a, b).double(), exact, rtol=1e-5, atol=1e-4)
    halves = squared_distances(a, b, "adm")
    assert torch.equal(halves, squared_distances(a.half(), b.half()).float())
    assert (halves.double() - exact).abs().max() > 0.01
    torch.testing.assert_close(
        squared_distances(a * 100, b, "adm"), squared_distances(a * 100, b)
    )  # would be infinite


def test_kid_is_the_unbiased_estimate_of_its_formula():
    """All pairs at once, as published, where a subset is the whole set.

    For equal distributions it is zero on average.
    """
    x, y = RNG.standard_normal((40, 5)), RNG.standard_normal((40, 5)) + 0.5

    def kernel(a, b):
        return (a @ b / 5 + 1) ** 3

    unpaired = sum(
        sum(kernel(z[i], z[j]) for i in range(40) for j in range(40) if i != j) / (40 * 39)
        for z in (x, y)
    )
    expected = unpaired - 2 * np.mean([kernel(a, b) for a in x for b in y])
    found = kernel_distances(x.astype(np.float32), y.astype(np.float32), subsets=3, size=40)
    assert found == pytest.approx([expected] * 3, rel=1e-5)
    draws = [RNG.standard_normal((2, 60, 5)).astype(np.float32) for _ in range(300)]
    estimates = [kernel_distances(*pair, subsets=1, size=60).item() for pair in draws]
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / np.sqrt(300)
    assert np.mean(estimates) < expected / 10


def full_statistics(**options):
    features, spatial = RNG.standard_normal((100, 6)), RNG.standard_normal((100, 4))
    return statistics_of(features, RNG.standard_normal((100, 3)), spatial=spatial, **options)


METRICS = ("fid", "sfid", "is", "precision", "recall", "kid")


def test_statistics_come_back_from_disk(tmp_path):
    written, reference = full_statistics(), full_statistics()
    written.save(tmp_path / "s.npz")
    without = ImageStatistics.load(tmp_path / "s.npz")
    assert without.features is None
    np.save(features_path(tmp_path / "s.npz"), written.features)
    read = ImageStatistics.load(tmp_path / "s.npz")
    assert compute_metrics(METRICS, read, reference) == compute_metrics(METRICS, written, reference)
    assert list(compute_metrics(("recall", "fid"), read, reference)) == ["recall", "fid"]
    for metric in ("precision", "kid"):
        with pytest.raises(
            UserError, match="need the features of the samples, only their moments exist"
        ):
            compute_metrics((metric,), without, reference)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an .npz of arrays"),
        (b"PK\x03\x04", "not an .npz of arrays"),
        (None, "no such file"),
    ],
)
def test_damaged_statistics_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        ImageStatistics.load(tmp_path / "s.npz")
    full_statistics().save(tmp_path / "t.npz")
    features_path(tmp_path / "t.npz").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"t-features\.npy: not an array"):
        ImageStatistics.load(tmp_path / "t.npz")


def test_another_extractor_is_refused():
    with pytest.raises(UserError, match="their features cannot be compared"):
        compute_metrics(("fid",), full_statistics(), full_statistics(digest="e"))
    with pytest.raises(UserError, match="their features cannot be compared"):
        compute_metrics(("fid",), full_statistics(), full_statistics(extractor="classifier"))
    with pytest.raises(
        UserError,
        match=r"fd-dinov2: cannot be computed from inception features \(allowed: dinov2\)",
    ):
        compute_metrics(("fd-dinov2",), full_statistics(), full_statistics())


def test_every_metric_says_which_extractors_it_is_defined_for():
    assert all(METRIC_EXTRACTORS.values())


def test_a_biased_fid_is_said_to_be(caplog):
    few = statistics_of(RNG.standard_normal((5, 6)))
    compute_metrics(("fid",), few, full_statistics())
    assert "fid of 5 samples with 6 features is strongly biased" in caplog.text


@pytest.mark.parametrize("name", ["features", "spatial", "logits"])
def test_activations_that_are_not_finite_are_refused(name):
    arrays = {
        "features": np.zeros((10, 3)),
        "spatial": np.zeros((10, 4)),
        "logits": np.zeros((10, 2)),
    }
    arrays[name][4, 1] = np.nan
    with pytest.raises(UserError, match="images 0 to 9 are not finite"):
        streamed(**arrays)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_refused(count):
    with pytest.raises(UserError, match=f"at least 2 images, found {count}"):
        streamed(np.zeros((count, 3))).finished()


def test_image_archive_is_numpys_and_streams(tmp_path):
    images = RNG.integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)
    write_image_archive(tmp_path / "a.npz", [images[:9], images[9:]], np.arange(23))
    with np.load(tmp_path / "a.npz") as archive:
        np.testing.assert_array_equal(archive["arr_0"], images)
        np.testing.assert_array_equal(archive["arr_1"], np.arange(23))
    np.savez(tmp_path / "b.npz", images)
    np.savez_compressed(tmp_path / "c.npz", images)
    for name in "abc":
        archive = ImageArchive(tmp_path / f"{name}.npz")
        assert len(archive) == 23
        batches = list(archive.batches(range(23), 10))
        assert [len(batch) for batch in batches] == [10, 10, 3]
        np.testing.assert_array_equal(np.concatenate(batches), images)
        np.testing.assert_array_equal(
            np.concatenate(list(archive.batches(range(7, 19), 5))), images[7:19]
        )


def test_archives_that_are_none_are_refused_in_one_line(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez(whole, RNG.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8))
    (tmp_path / "truncated.npz").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "float.npz", np.zeros((5, 8, 8, 3), np.float32))
    np.savez(tmp_path / "alpha.npz", np.zeros((5, 8, 8, 4), np.uint8))
    np.savez(tmp_path / "other.npz", images=np.zeros((5, 8, 8, 3), np.uint8))
    for name in ("truncated", "empty", "float", "alpha", "other", "absent"):
        with pytest.raises(UserError, match=rf"{name}\.npz: ") as caught:
            list(ImageArchive(tmp_path / f"{name}.npz").batches(range(50), 10))
        assert "\n" not in str(caught.value)
