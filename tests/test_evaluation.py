"""Statistics and metrics against published formulas and closed forms."""

import numpy as np
import pytest
import scipy.linalg

from selftrans.data.images import read_image_archive, write_image_archive
from selftrans.evaluation.metrics import compute_metrics, frechet_distance, inception_score
from selftrans.evaluation.statistics import Statistics
from selftrans.runtime.errors import UserError

RNG = np.random.default_rng(0)


def statistics_of(features, logits, batch=64, digest="d"):
    statistics = Statistics("classifier", digest)
    for start in range(0, len(features), batch):
        statistics.add(features[start : start + batch], logits[start : start + batch])
    return statistics


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
    assert frechet_distance(mean1, np.diag(s1**2), mean2, np.diag(s2**2)) == pytest.approx(expected, rel=1e-12)


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


def test_streamed_moments_are_those_of_numpy_at_any_batch_size():
    features, logits = RNG.standard_normal((301, 12)).astype(np.float32) + 50, RNG.standard_normal((301, 5))
    for batch in (1, 7, 301):
        moments = statistics_of(features, logits, batch).moments
        np.testing.assert_allclose(moments.mean(), features.astype(np.float64).mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance(), np.cov(features.astype(np.float64).T), atol=1e-9)


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
    score = inception_score(statistics_of(np.zeros((11000, 2)), logits, batch))
    assert score == pytest.approx(slow_inception_score(logits), rel=1e-10)


def test_inception_score_survives_underflow():
    logits = np.full((100, 10), -2000.0)
    logits[np.arange(100), np.arange(100) % 10] = 0
    assert inception_score(statistics_of(np.zeros((100, 2)), logits)) == pytest.approx(10)


def test_statistics_come_back_from_disk(tmp_path):
    features, logits = RNG.standard_normal((100, 6)), RNG.standard_normal((100, 3))
    written = statistics_of(features, logits)
    written.save(tmp_path / "s.npz")
    read = Statistics.load(tmp_path / "s.npz")
    assert compute_metrics(("fid", "is"), read, written) == compute_metrics(("fid", "is"), written, written)


def test_another_extractor_is_refused():
    features, logits = RNG.standard_normal((100, 6)), RNG.standard_normal((100, 3))
    with pytest.raises(UserError, match="their features cannot be compared"):
        compute_metrics(("fid",), statistics_of(features, logits), statistics_of(features, logits, digest="e"))


def test_features_that_are_not_finite_are_refused():
    features = np.zeros((10, 3))
    features[4, 1] = np.nan
    with pytest.raises(UserError, match="images 0 to 9 are not finite"):
        statistics_of(features, np.zeros((10, 2)))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_leave_no_file(tmp_path, count):
    with pytest.raises(UserError, match=f"at least 2 images, found {count}"):
        statistics_of(np.zeros((count, 3)), np.zeros((count, 2))).save(tmp_path / "s.npz")
    assert not list(tmp_path.iterdir())


def test_image_archive_is_numpys_and_streams(tmp_path):
    images = RNG.integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)
    write_image_archive(tmp_path / "a.npz", images, np.arange(23))
    with np.load(tmp_path / "a.npz") as archive:
        np.testing.assert_array_equal(archive["arr_0"], images)
        np.testing.assert_array_equal(archive["arr_1"], np.arange(23))
    np.savez(tmp_path / "b.npz", images)
    np.savez_compressed(tmp_path / "c.npz", images)
    for name in "abc":
        batches = list(read_image_archive(tmp_path / f"{name}.npz", 10))
        assert [len(batch) for batch in batches] == [10, 10, 3]
        np.testing.assert_array_equal(np.concatenate(batches), images)


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
            list(read_image_archive(tmp_path / f"{name}.npz", 10))
        assert "\n" not in str(caught.value)
