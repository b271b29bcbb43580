"""Tests of planned comparisons: against brute force, scipy, known examples and invariances."""

from itertools import combinations, pairwise, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from selftrans.evaluation import significance as module
from selftrans.evaluation.bootstrap import interval_around, resampled_fids
from selftrans.evaluation.comparison import speed_ups
from selftrans.evaluation.metrics import frechet_distance
from selftrans.evaluation.significance import (
    Costs,
    holm,
    least_p,
    log_area,
    reached_level,
    sign_flip_p,
)
from selftrans.evaluation.significance_table import (
    family_sentences,
    fid_cautions,
    significance_markdown,
    significance_page,
    significance_table,
)
from selftrans.evaluation.statistics import Gaussian
from selftrans.plotting.significance import significance
from selftrans.plotting.style import GREY
from selftrans.runtime.errors import UserError
from selftrans.runtime.random import Stream, generator

RNG = np.random.default_rng(5)
SEEDS = range(6)
LABELS = {"sit": "SiT", "ours": "+ ours", "worse": "+ worse"}


# -- the number that is tested


def test_the_area_of_a_curve_whose_logarithm_is_a_line_is_its_middle():
    curve = {step: np.exp(3 - step / 100) for step in (100, 150, 400)}
    assert log_area(curve) == pytest.approx((2 - 1) / 2)
    assert log_area(dict(reversed(curve.items()))) == log_area(curve)
    assert log_area({7: 5.0}) == pytest.approx(np.log(5))
    doubled = {step: 2 * fid for step, fid in curve.items()}
    assert log_area(doubled) - log_area(curve) == pytest.approx(np.log(2))
    longer = {10 * step: fid for step, fid in curve.items()}
    assert log_area(longer) == pytest.approx(log_area(curve))
    assert np.isnan(log_area({100: 1.0, 200: 0.0}))


# -- tests


@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_the_sign_flip_test_is_scipys_permutation_test(count):
    values = RNG.normal(0.4, 1, count)
    expected = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert sign_flip_p(values) == pytest.approx(expected.pvalue)


def test_ties_count_as_far_as_the_observed_sum():
    values = [0.1, 0.2, 0.3, -0.6, 0.1]  # sums that are equal, but for rounding
    exact = [1, 2, 3, -6, 1]
    sums = [abs(sum(s * v for s, v in zip(signs, exact, strict=True)))
            for signs in product((1, -1), repeat=5)]  # fmt: skip
    assert sign_flip_p(values) == np.mean([total >= abs(sum(exact)) for total in sums])


def test_a_p_value_depends_neither_on_order_nor_on_sign_nor_on_units():
    values = RNG.normal(0.3, 1, 9)
    expected = sign_flip_p(values)
    for changed in (values[::-1], -values, 1e-3 * values, 1e6 * values):
        assert sign_flip_p(changed) == expected
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1
    assert np.isnan([sign_flip_p(some) for some in ([], [np.inf, 1, 1], [np.nan, 1])]).all()


@pytest.mark.parametrize("count", [1, 3, 8, 10, 20])
def test_the_least_p_is_that_of_differences_of_one_sign(count):
    assert sign_flip_p(RNG.uniform(1, 2, count)) == least_p(count) == 2 / 2**count


def test_eight_seeds_cannot_pass_a_correction_for_seven_and_ten_can():
    assert 7 * least_p(8) > 0.05 > 7 * least_p(10)


def test_beyond_the_exact_range_random_signs_estimate_the_same(monkeypatch):
    values = RNG.normal(0.35, 1, 21)
    monkeypatch.setattr(module, "EXACT", 21)
    exact = sign_flip_p(values)
    monkeypatch.setattr(module, "EXACT", 20)
    monkeypatch.setattr(module, "RANDOM_SIGNS", 20_000)
    error = np.sqrt(exact * (1 - exact) / 20_000)
    assert sign_flip_p(values) == pytest.approx(exact, abs=4 * error)
    assert sign_flip_p(values) == sign_flip_p(values)
    assert sign_flip_p(np.ones(40)) == least_p(40) == 1 / 20_001


def test_without_a_difference_p_falls_below_a_level_as_often_as_it_says():
    p_values = np.array([sign_flip_p(RNG.standard_t(3, 8)) for _ in range(1500)])
    for level in (0.05, 0.2):
        rate = np.floor(level * 2**7) / 2**7  # the p-values are multiples of 2 / 2^8
        error = np.sqrt(rate * (1 - rate) / len(p_values))
        assert np.mean(p_values <= level) == pytest.approx(rate, abs=4 * error)


def test_holms_correction_of_a_known_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]


def test_holm_is_the_closure_of_bonferronis_test():
    """A hypothesis is rejected if every intersection with others is (Marcus et al. 1976)."""
    p = RNG.uniform(0, 0.4, 5)
    subsets = [some for size in range(1, 6) for some in combinations(range(5), size)]
    expected = [
        max(min(1, len(some) * min(p[list(some)])) for some in subsets if i in some)
        for i in range(5)
    ]
    assert holm(p) == pytest.approx(expected)


def test_a_comparison_that_could_not_be_made_counts_in_the_family():
    found = holm([0.01, np.nan, 0.04])
    assert found[0] == pytest.approx(0.03)
    assert found[2] == pytest.approx(0.08)
    assert np.isnan(found[1])


# -- how soon a level is reached


def curves(**factors):
    """FIDs that fall by half every 100 steps, for each run times a factor, and noise by seed."""
    noise = np.random.default_rng(0).normal(0, 0.1, (len(SEEDS), 5))
    return {
        run: {
            step: {seed: factor * 2 ** (-step / 100) * np.exp(noise[seed, i]) for seed in SEEDS}
            for i, step in enumerate(range(100, 600, 100))
        }
        for run, factor in factors.items()
    }


def seconds(fids, rates):
    return {
        run: {step: dict.fromkeys(SEEDS, step * rates[run]) for step in fids[run]} for run in fids
    }


def test_a_level_is_reached_where_the_mean_curves_say():
    fids = curves(sit=40.0, ours=20.0)
    spent = seconds(fids, {"sit": 1.0, "ours": 2.0})
    costs = Costs.of(spent, {"ours": [("sit", 300)]}, {"ours": 50.0})
    found = reached_level(fids, costs, ("ours", "sit"), SEEDS, resamples=200)
    assert found["steps_to_level"] == speed_ups(fids, "sit")["ours"].steps
    assert found["steps_to_level"] == pytest.approx(400, abs=15)  # half the FID is 100 steps
    assert found["seconds_to_level"] == pytest.approx(300 + 50 + 2 * found["steps_to_level"])
    assert found["time_ratio"] == pytest.approx(500 / found["seconds_to_level"])
    for name in ("steps_to_level", "speed_up", "seconds_to_level", "time_ratio"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_resampled_seeds_stay_pairs():
    """A run that is its opponent is equally soon in every resample, whatever the seeds' noise."""
    fids = curves(sit=40.0, same=40.0)
    costs = Costs.of(seconds(fids, {"sit": 1.0, "same": 1.0}), {}, {})
    found = reached_level(fids, costs, ("same", "sit"), SEEDS, resamples=200)
    assert (found["speed_up"], found["speed_up_low"], found["speed_up_high"]) == (1, 1, 1)


def test_a_level_that_is_not_reached_and_a_cost_that_is_not_known():
    fids = curves(sit=40.0, worse=90.0)
    costs = Costs.of(seconds(fids, {"sit": 1.0, "worse": 1.0}), {}, {"worse": np.nan})
    found = reached_level(fids, costs, ("worse", "sit"), SEEDS, resamples=50)
    assert (found["steps_to_level"], found["speed_up"]) == (np.inf, 0)
    found = reached_level(fids, costs, ("sit", "worse"), SEEDS[:1], resamples=50)
    assert found["speed_up"] > 1
    assert np.isnan([found["speed_up_low"], found["time_ratio"]]).all()


# -- resampled images


def features(count, mean=0.0):
    return RNG.normal(mean, 1, (count, 3)) @ np.diag([1.0, 2.0, 0.5])


REFERENCE = Gaussian(10**6, np.zeros(3), np.diag([1.0, 4.0, 0.25]))


def fid(samples):
    covariance = np.cov(samples, rowvar=False)
    return frechet_distance(REFERENCE.mean, REFERENCE.covariance, samples.mean(axis=0), covariance)


def test_a_resample_is_a_set_with_repeated_images_in_blocks_of_any_size():
    samples = features(50).astype(np.float32)
    found = resampled_fids(samples, REFERENCE, 4, block=7)
    assert found == pytest.approx(resampled_fids(samples, REFERENCE, 4), rel=1e-9)
    assert resampled_fids(samples, REFERENCE, 2, block=7).tolist() == found[:2].tolist()
    chosen = generator(0, Stream.BOOTSTRAP, 3).integers(50, size=50)
    assert found[3] == pytest.approx(fid(samples[chosen].astype(np.float64)), rel=1e-6)


def test_resamples_spread_as_fresh_sets_do():
    spread = np.std([fid(features(400, 0.4)) for _ in range(300)])
    found = [resampled_fids(features(400, 0.4), REFERENCE, 200).std() for _ in range(3)]
    assert np.mean(found) == pytest.approx(spread, rel=0.25)


def test_classes_with_their_share_by_construction_are_resampled_within():
    """Their means differ, which a set of images has no part in: every set has all, equally."""
    means = 3 * np.random.default_rng(1).normal(size=(5, 3))

    def balanced():
        return features(100) + means[np.arange(100) % 5]

    spread = np.std([fid(balanced()) for _ in range(300)])
    within = [resampled_fids(balanced(), REFERENCE, 200, classes=5).std() for _ in range(3)]
    assert np.mean(within) == pytest.approx(spread, rel=0.3)
    assert resampled_fids(balanced(), REFERENCE, 200).std() > 1.4 * spread
    one_each = features(5)
    alone = resampled_fids(one_each, REFERENCE, 3, classes=5)
    assert alone == pytest.approx(np.full(3, fid(one_each)))


def test_an_interval_lies_around_the_value_although_resamples_have_larger_fids():
    samples = features(100)
    value, resampled = fid(samples), resampled_fids(samples, REFERENCE, 200)
    assert resampled.mean() > value
    low, high = interval_around(value, resampled)
    assert low < value < high
    assert high - low == pytest.approx(np.diff(np.quantile(resampled, (0.025, 0.975)))[0])


# -- table, page, figure


@pytest.fixture(scope="module")
def table():
    fids = curves(sit=40.0, ours=20.0, worse=90.0)
    costs = Costs.of(seconds(fids, {"sit": 1.0, "ours": 2.0, "worse": 1.0}), {}, {})
    noise = np.random.default_rng(1).normal(0, 0.05, 100)
    resampled = {run: dict.fromkeys(SEEDS, 1 + noise) for run in ("sit", "ours")}
    return significance_table(fids, costs, [("ours", "sit")], "sit", resampled)


def test_the_table_has_the_family_and_describes_the_rest(table):
    assert table["run"].tolist() == ["sit", "ours", "worse"]
    assert table["tested"].tolist() == [False, True, False]
    ours, worse = table.iloc[1], table.iloc[2]
    assert ours["area_difference"] == pytest.approx(np.log(0.5))
    assert worse["area_difference"] == pytest.approx(np.log(90 / 40))
    assert ours["p"] == ours["p_holm"] == ours["least_p"] == 2 / 2**6
    assert np.isnan([worse["p"], worse["p_holm"], worse["fid_low"]]).all()
    assert ours["fid_low"] < ours["fid"] < ours["fid_high"]
    assert ours["seconds"] == 1000


def test_seeds_that_one_run_lacks_make_no_pair_and_end_a_test():
    """A run that diverged for a seed would otherwise be tested on those that are left."""
    fids = curves(sit=40.0, ours=20.0)
    del fids["ours"][300][0]
    costs = Costs.of(seconds(fids, {"sit": 1.0, "ours": 1.0}), {}, {})
    assert significance_table(fids, costs, [], "sit")["seeds"].tolist() == [6, 5]
    with pytest.raises(UserError, match="run 'ours': has no FID of seed 0 at step 300"):
        significance_table(fids, costs, [("ours", "sit")], "sit")
    with pytest.raises(UserError, match="the baseline, run 'absent', has no FID"):
        significance_table(fids, costs, [], "absent")


def test_a_run_without_a_number_counts_in_the_family():
    fids = curves(sit=40.0, ours=20.0)
    costs = Costs.of(seconds(fids, {"sit": 1.0, "ours": 1.0}), {}, {})
    found = significance_table(fids, costs, [("ours", "sit"), ("absent", "sit")], "sit")
    assert found["seeds"].tolist() == [6, 6, 0]
    assert found["p_holm"].iloc[1] == 2 * found["p"].iloc[1] == 2 * least_p(6)
    assert np.isnan(found["p"].iloc[2])


def test_the_sentence_on_the_family_is_of_its_best_comparison(table):
    few = table.assign(tested=True, seeds=[5, 10, 10], least_p=[least_p(5), *[least_p(10)] * 2])
    said = family_sentences(few)
    assert "3 comparisons planned, 5 to 10 pairs each" in said
    assert f"{3 * least_p(10):.3g} after Holm's" in said
    assert "can fall below 0.05" in said


def test_cells_say_what_was_not_reached_and_what_was_at_once(table):
    start = {"area_difference": 0.0, "area_difference_low": 0.0, "area_difference_high": 0.0}
    at_once = {**start, "steps_to_level": 100, "first_step": 100, "speed_up": 5.0,
               "speed_up_low": 1.0, "speed_up_high": 5.0}  # fmt: skip
    line = significance_markdown(table.iloc[[1]].assign(**at_once), LABELS)
    assert "+0.0% [+0.0%, +0.0%]" in line
    assert "at least 5.00x [1.00x, 5.00x]" in line
    never = {"steps_to_level": np.inf, "speed_up": 0.0, "speed_up_low": 0.0, "speed_up_high": 1.02}
    line = significance_markdown(table.iloc[[1]].assign(**never), LABELS)
    assert "not reached [not reached, 1.02x]" in line


def test_the_page_says_what_the_family_can_show(table):
    page = significance_page(
        table, LABELS, "tiny", "f.png", 100, {"stand-in": "labels"}, "rates 0123"
    )
    assert "| + ours  | SiT" in page
    assert "-50.0% [-50.0%, -50.0%]" in page
    assert "the values that `rates 0123` found best" in page
    assert "not reached" in page
    assert "nan" not in page
    assert "1 comparison planned, 6 pairs each. The least attainable p is 0.0312" in page
    assert "this family can fall below 0.05" in page
    few = table.assign(least_p=table["least_p"] * 2)
    assert "**cannot**" in significance_page(few, LABELS, "tiny", "f.png", 0, {}, "")


def few_samples(**columns):
    """Rows of metrics.csv with fewer samples than features."""
    measured = {"fid": 9.5, "num_samples": 1000, "num_features": 2048, **columns}
    return pd.DataFrame({"run": ["sit", "ours", "worse"], **measured})


REASON = "1,000 samples are fewer than the 2,048 features: their covariance is singular"


def test_reasons_not_to_trust_a_fid_are_those_of_a_run_or_its_opponent():
    reasons = fid_cautions(few_samples(fid=[9.5, None, 9.5], num_samples=[1000, 1000, 5000]))
    assert reasons == {"sit": [REASON], "worse": []}
    fids = curves(sit=40.0, ours=20.0, worse=90.0)
    costs = Costs.of(seconds(fids, dict.fromkeys(fids, 1.0)), {}, {})
    pairs = [("ours", "worse"), ("worse", "sit")]
    found = significance_table(fids, costs, pairs, "sit", None, reasons)
    assert found["cautions"].tolist() == [REASON, "", REASON]


def test_table_and_figure_say_which_fids_cannot_be_trusted(table):
    doubtful = table.assign(cautions=REASON)
    doubtful.loc[2, ["fid", "area_difference"]] = np.nan
    text = significance_markdown(doubtful, LABELS)
    assert text.count(f"ᵃ Not to be trusted: {REASON}.") == 1
    sit, ours, worse = (line.split(" | ") for line in text.splitlines()[2:5])
    assert [cell.strip().endswith("ᵃ") for cell in sit[3:6]] == [True, False, False]
    assert [cell.strip().endswith("ᵃ") for cell in ours[3:6]] == [True, True, False]
    assert not any("ᵃ" in cell for cell in worse)
    assert significance(doubtful, LABELS, "sit", 5.5).get_supxlabel().count(REASON) == 1
    assert "trusted" not in significance_markdown(table, LABELS)
    assert "Caution" not in significance(table, LABELS, "sit", 5.5).get_supxlabel()


@pytest.mark.parametrize("ratios", [(1, 1), (0.9, 1.5), (0.3, 1), (0.3, 3), (0.01, 100)])
def test_the_names_of_costs_never_touch(table, ratios):
    figure = significance(
        table.assign(speed_up=ratios[0], time_ratio=ratios[1]), LABELS, "sit", 5.5
    )
    figure.draw_without_rendering()
    axis = figure.axes[1]
    names = [name for name in axis.get_xticklabels() if name.get_text()]
    boxes = [name.get_window_extent() for name in names]
    assert "1x" in [name.get_text() for name in names]
    assert len(boxes) > 1
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_the_figure_fills_the_markers_of_significant_comparisons(table):
    figure = significance(table, LABELS, "sit", 5.5)
    quality, cost = figure.axes
    markers = [line for line in quality.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in markers] == pytest.approx([0.5, 2.25])
    assert markers[0].get_markerfacecolor() == markers[0].get_color()
    assert markers[1].get_color() == GREY
    assert [text.get_text() for text in quality.texts] == ["0.031", "not tested", "Holm p"]
    assert [text.get_text() for text in cost.texts] == ["not reached"] * 2
