"""Probes, similarity, colours and the paired comparison, on data whose answers are known."""

from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from selftrans.config import AnalysisConfig, load_experiment
from selftrans.config.identity import fingerprint
from selftrans.data.store import LatentStore
from selftrans.evaluation.comparison import (
    comparison_markdown,
    comparison_table,
    curves_of,
    paired_difference,
    paired_differences,
    steps_to_reach,
    total_seconds,
)
from selftrans.evaluation.features import chosen_images, features_of_run, shown_images
from selftrans.evaluation.probes import (
    ProbeCase,
    cka_matrix,
    discriminability_markdown,
    knn_probe,
    linear_probe,
    probe_cases,
    probe_rows,
)
from selftrans.evaluation.run_features import RunFeatures
from selftrans.models.weights import load_backbone
from selftrans.plotting.features import discriminability, principal_colours
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import write_json
from selftrans.training.input_paths import InputPaths
from selftrans.training.inputs import Inputs
from tests.support.experiments import OTHER_METHODS, TINY
from tests.support.trainings import run

RNG = np.random.default_rng(0)


def clusters(count=400, classes=4, width=8, spread=0.1):
    labels = np.arange(count) % classes
    centres = np.eye(classes, width)
    return (
        centres[labels] + spread * RNG.standard_normal((count, width)),
        labels,
        np.arange(count) // classes % 5 == 0,
    )


@pytest.mark.slow
def test_probes_read_off_what_is_there_and_nothing_else():
    features, labels, test = clusters()
    for probe in (linear_probe, knn_probe):
        assert probe(features, labels, test) == 1.0
        noise = probe(RNG.standard_normal(features.shape), labels, test)
        assert noise < 0.5  # chance is 0.25, on 80 images


def test_a_linear_probe_does_not_see_what_is_not_linear_and_neighbours_do():
    """Opposite quadrants of a circle share a class: no line separates them, neighbours do."""
    angle = RNG.uniform(0, 2 * np.pi, 600)
    labels = (np.floor(angle / (np.pi / 2)).astype(int)) % 2  # opposite quadrants share a class
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    test = np.arange(600) % 5 == 0
    assert linear_probe(features, labels, test) < 0.7
    assert knn_probe(features, labels, test) > 0.9


def test_probes_are_judged_on_held_out_images_only():
    """Labels of the fitted images are wrong: an honest probe is wrong on all held-out ones."""
    features, labels, test = clusters(classes=2)
    wrong = np.where(test, labels, 1 - labels)
    assert linear_probe(features, wrong, test) == knn_probe(features, wrong, test) == 0.0


def linear_cka(one, other):
    matrix = cka_matrix([one, other])
    assert matrix[0, 1] == matrix[1, 0]
    return matrix[0, 1]


def test_cka_is_one_up_to_rotation_and_scale_and_falls_to_nothing():
    x = RNG.standard_normal((5000, 6))
    rotation = np.linalg.qr(RNG.standard_normal((6, 6)))[0]
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, RNG.standard_normal((5000, 6))) < 0.01
    few = [RNG.standard_normal((300, 100)) for _ in range(2)]
    assert linear_cka(*few) == pytest.approx(
        1 / (1 + 300 / 100), abs=0.02
    )  # the bias that the caption states
    half = np.concatenate(
        [x[:, :3], RNG.standard_normal((5000, 3))], axis=1
    )  # shares half of its variance
    assert linear_cka(x, half) == pytest.approx(0.5, abs=0.03)
    gram_x, gram_y = (
        a @ a.T - (a @ a.T).mean(0)
        for a in (x[:200] - x[:200].mean(0), half[:200] - half[:200].mean(0))
    )
    by_grams = (gram_x * gram_y).sum() / np.sqrt((gram_x**2).sum() * (gram_y**2).sum())
    assert linear_cka(x[:200], half[:200]) == pytest.approx(by_grams, rel=1e-9)


def test_equal_tokens_have_equal_colours_whatever_surrounds_them():
    tokens = RNG.standard_normal((2, 3, 16, 10))
    tokens[1, 2, 5] = tokens[0, 0, 9]
    colours = principal_colours(tokens)
    assert colours.shape == (2, 3, 4, 4, 3)
    assert colours.min() == 0
    assert colours.max() == 1
    np.testing.assert_array_equal(colours[1, 2, 1, 1], colours[0, 0, 2, 1])


def test_colours_follow_the_strongest_direction():
    """Tokens along any line: red runs from 0 to 1 in their order, or the reverse."""
    position = np.linspace(0, 1, 16)
    direction = RNG.standard_normal(7)
    red = principal_colours(position[None, :, None] * direction)[0, ..., 0].ravel()
    assert abs(np.corrcoef(red, position)[0, 1]) > 0.99


def test_two_components_leave_blue_undecided():
    assert (principal_colours(RNG.standard_normal((3, 4, 2)))[..., 2] == 0.5).all()


# -- comparison


def metrics(values):
    """Rows of a metrics.csv from {run: {step: [fid of seeds 0, 1, ...]}}."""
    return pd.DataFrame(
        [
            {"run": run, "step": step, "seed": seed, "fid": fid, "is": 10 / fid}
            for run, steps in values.items()
            for step, fids in steps.items()
            for seed, fid in enumerate(fids)
        ]
    )


FIDS = {
    "sit": {100: [20.0, 24.0, 22.0], 200: [10.0, 13.0, 11.5]},
    "ours": {100: [16.0, 19.0, 18.5], 200: [8.0, 10.5, 10.0]},
}


def test_the_paired_difference_is_scipys_t_test():
    found = {
        (one.run, one.step): one
        for one in paired_differences(curves_of(metrics(FIDS), "fid"), "fid", "sit")
    }
    ours, sit = (np.array(FIDS[run][200]) for run in ("ours", "sit"))
    expected = stats.ttest_rel(ours, sit).confidence_interval(0.95)
    one = found["ours", 200]
    assert one.difference == pytest.approx((ours - sit).mean())
    assert (one.low, one.high) == pytest.approx(tuple(expected))
    assert (one.mean, one.std, one.seeds) == pytest.approx((ours.mean(), ours.std(ddof=1), 3))
    assert one.high < 0  # although the values of the two runs overlap: that is what pairing is for
    assert ours.max() > sit.min()
    assert found["sit", 200].difference == 0


def test_seeds_that_only_one_side_has_make_no_pair_and_one_seed_gives_no_interval():
    table = metrics({"sit": {100: [20.0]}, "ours": {100: [16.0, 99.0]}})
    one = paired_differences(curves_of(table, "fid"), "fid", "sit")[1]
    assert (one.difference, one.seeds) == (-4.0, 1)
    assert np.isnan(one.low)
    table = metrics({"sit": {100: [20.0]}, "ours": {100: [16.0], 200: [9.0]}})
    assert [one.step for one in paired_differences(curves_of(table, "fid"), "fid", "sit")] == [
        100,
        100,
    ]


def test_steps_to_reach_a_level_are_read_along_the_logarithm():
    curve = {100: 16.0, 200: 4.0, 300: 1.0}
    assert steps_to_reach(curve, 8.0) == pytest.approx(150)
    assert steps_to_reach(curve, 20.0) == 100
    assert steps_to_reach(curve, 1.0) == 300
    assert np.isnan(steps_to_reach(curve, 0.5))


def test_a_run_that_goes_beyond_the_baseline_keeps_its_own_numbers():
    table = metrics({"sit": {100: [20.0]}, "ours": {100: [16.0], 200: [9.0]}})
    seconds = {run: {100: {0: 1.0}, 200: {0: 2.0}} for run in ("sit", "ours")}
    found = comparison_table(table, seconds, {}, "sit")
    assert found.set_index("run").loc["ours", "fid_mean"] == 9
    text = comparison_markdown(found, {"sit": "SiT", "ours": "+ ours"}, "sit")
    assert "nan" not in text
    assert "9.00" in text


def test_a_teacher_and_its_own_teacher_count_once():
    seconds = {run: {10: {0: 1.0}, 20: {0: 2.0}} for run in ("first", "second", "third")}
    teachers = {"second": [("first", 10)], "third": [("second", 20), ("first", 10)]}
    total = total_seconds(seconds, teachers)
    assert total["first"][20][0] == 2
    assert total["second"][10][0] == 1 + 1
    assert total["third"][20][0] == 2 + 2 + 1
    twice = total_seconds(seconds, {"third": [("first", 10), ("first", 20)]})
    assert twice["third"][10][0] == 1 + 2  # one training, up to the later of its two uses


def test_the_comparison_says_what_a_paper_would():
    seconds = {
        "sit": {100: dict.fromkeys(range(3), 10.0), 200: dict.fromkeys(range(3), 20.0)},
        "ours": {100: dict.fromkeys(range(3), 12.0), 200: dict.fromkeys(range(3), 24.0)},
    }
    table = comparison_table(metrics(FIDS), seconds, {"ours": [("sit", 100)]}, "sit").set_index(
        "run"
    )
    assert table.loc["ours", "cost_per_step"] == pytest.approx(1.2)
    assert table.loc["ours", "hours"] == pytest.approx((24 + 10) / 3600)
    level, before, after = 34.5 / 3, 53.5 / 3, 28.5 / 3
    assert table.loc["ours", "steps_to_baseline"] == pytest.approx(
        100 + 100 * np.log(before / level) / np.log(before / after)
    )
    text = comparison_markdown(table.reset_index(), {"sit": "SiT", "ours": "+ ours"}, "sit")
    sit, ours = (line for line in text.splitlines() if line.startswith(("| SiT", "| + ours")))
    assert "11.50 ± 1.50" in sit
    assert "-2.00 [" in ours
    assert "1.20x" in ours


# -- features of trained runs


@pytest.mark.slow
def test_features_of_a_run_are_those_of_its_blocks_without_the_label(
    tiny, tmp_path, manifest, teacher, features
):
    analysis = {
        "num_images": 50,
        "times": [0.3, 0.5],
        "shown_classes": 2,
        "guidance_scales": [1.5, 4.0],
    }
    path = tiny(analysis=analysis, runs={**TINY["runs"], **OTHER_METHODS})
    experiment, store = load_experiment(path), LatentStore(manifest)
    run(path, "self-transcendence", tmp_path / "run", manifest, until=4, teacher=teacher)
    checkpoint = tmp_path / "run/checkpoints/4/ema.safetensors"
    device = torch.device("cpu")
    paths = InputPaths(teachers={"self-transcendence": teacher})
    inputs = Inputs.open(experiment, "self-transcendence", 0, store, paths, device)
    found = features_of_run(
        experiment, "self-transcendence", 0, [checkpoint], store, inputs, 16, device
    )
    assert found.pooled.shape == (2, 4, 50, 32)
    assert found.maps.shape == (1, 2, 4, 16, 32)
    assert found.steps.tolist() == [4]
    assert list(found.guiding) == list(found.shown_guiding) == ["f_c", "f_g, w = 1.5", "f_g, w = 4"]
    assert list(found.unconditional) == ["f_u"]

    backbone, _ = load_backbone(checkpoint, device)
    image, index = found.images[7], 7
    moments = store.moments(np.array([image])).astype(np.float32)
    z = torch.from_numpy((moments[:, 0] - store.manifest.shift) * store.manifest.scale)
    from selftrans.runtime.random import Stream, generator

    eps = torch.from_numpy(
        generator(0, Stream.ANALYSIS, 1, int(image)).standard_normal((1, 4, 8, 8), dtype=np.float32)
    )
    x, t = 0.7 * z + 0.3 * eps, torch.full((1,), 0.3)
    own = backbone.features(x, t, torch.tensor([10]), (3,))[3].mean(dim=1)[0]
    torch.testing.assert_close(
        torch.from_numpy(found.pooled[0, 2, index]).float(), own, rtol=2e-3, atol=2e-3
    )

    trunk = inputs.teachers["self-transcendence"]
    f_u = trunk.tokens(x, t, torch.tensor([10])).mean(dim=1)[0]
    f_c = trunk.tokens(x, t, torch.from_numpy(store.labels[[image]])).mean(dim=1)[0]
    assert not torch.allclose(f_u, f_c)
    expected = {"f_c": f_c, "f_g, w = 4": f_u + 4 * (f_c - f_u), "f_u": f_u}
    for name, value in expected.items():
        means = (found.guiding | found.unconditional)[name][0, index]
        torch.testing.assert_close(torch.from_numpy(means).float(), value, rtol=5e-3, atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "names"),
    [
        ("repa", ["REPA: stand-in"]),
        ("sra", ["SRA: average, block 3"]),
        ("both", ["layersync: LayerSync: block 3", "vae-alignment: VAE latents"]),
        ("sit", []),
    ],
)
def test_every_arm_has_features(tiny, tmp_path, manifest, features, arm, names):
    path = tiny(analysis={"num_images": 20, "times": [0.5]}, runs={**TINY["runs"], **OTHER_METHODS})
    experiment, store, device = load_experiment(path), LatentStore(manifest), torch.device("cpu")
    run(path, arm, tmp_path / "run", manifest, until=4, features=features)
    paths = InputPaths(features=(features,) if arm == "repa" else ())
    inputs = Inputs.open(experiment, arm, 0, store, paths, device)
    checkpoints = [tmp_path / "run/checkpoints/4/ema.safetensors"]
    found = features_of_run(experiment, arm, 0, checkpoints, store, inputs, 16, device)
    assert list(found.shown_guiding) == list(found.unconditional) == names
    for name in names:
        assert found.shown_guiding[name].shape[:2] == (6, 16)
        assert np.isfinite(found.unconditional[name]).all()
    assert list(found.guiding) == [name for name in names if "SRA" in name or "LayerSync" in name]
    found.save(tmp_path / "features.npz")
    again = RunFeatures.load(tmp_path / "features.npz")
    np.testing.assert_equal(asdict(again), asdict(found))
    assert list(again.unconditional) == names


def test_images_are_chosen_once_for_all_runs():
    analysis = AnalysisConfig(num_images=30, shown_classes=3)
    chosen = chosen_images(analysis, 100)
    assert len(set(chosen.tolist())) == 30
    np.testing.assert_array_equal(chosen, chosen_images(analysis, 100))
    np.testing.assert_array_equal(chosen_images(analysis, 20), np.arange(20))
    labels = np.array([3, 3, 0, 1, 2, 0, 4, 2, 2])
    assert shown_images(analysis, labels).tolist() == [
        2,
        5,
        4,
        7,
        6,
        6,
    ]  # of class 4 there is only one


def test_the_table_names_the_best_block_and_whether_a_label_was_given():
    features, labels, test = clusters()
    noise = RNG.standard_normal(features.shape)
    rows = probe_rows(
        [
            ProbeCase("block", "", 1, 0.5, False, noise),
            ProbeCase("block", "", 2, 0.5, False, features),
            ProbeCase("guiding", "f_c", 0, 0.5, True, features),
        ],
        labels,
        test,
        20,
    )
    case = ProbeCase("encoder", "stand-in", 0, 0.0, False, features)
    encoder = probe_rows([case], labels, test, 20)
    table = pd.concat(
        [rows.assign(run="ours", seed=0), encoder.assign(run="stand-in encoder", seed=0)]
    )
    text = discriminability_markdown(table)
    assert "100.0 (2)" in text
    assert "ours: f_c, label given" in text
    assert "stand-in encoder" in text


def run_features(names=("f_c", "a/b: c, w = 1.5")):
    means = {name: RNG.standard_normal((2, 5, 3)) for name in names}
    return RunFeatures(
        images=np.arange(5),
        labels=np.array([0, 1, 0, 1, 0]),
        held_out=np.arange(5) == 0,
        times=np.array([0.3, 0.5]),
        pooled=RNG.standard_normal((2, 4, 5, 3)).astype(np.float32),
        guiding=means,
        unconditional={},
        shown=np.array([1, 3]),
        steps=np.array([4]),
        shown_blocks=np.array([2]),
        maps=RNG.standard_normal((1, 1, 2, 4, 3)),
        noisy=RNG.standard_normal((2, 64, 4)),
        shown_guiding=dict(reversed(means.items())),
    )


def test_run_features_survive_a_file_with_any_names_in_order(tmp_path):
    features = run_features()
    features.save(tmp_path / "features.npz")
    loaded = RunFeatures.load(tmp_path / "features.npz")
    np.testing.assert_equal(asdict(loaded), asdict(features))
    assert list(loaded.guiding) == ["f_c", "a/b: c, w = 1.5"]
    assert list(loaded.shown_guiding) == ["a/b: c, w = 1.5", "f_c"]
    np.testing.assert_array_equal(loaded.at_time(0.5), features.pooled[1])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"run": "sra"}, "run sra, expected run sit"),
        ({"seed": 2}, "seed2, expected seed0"),
        ({"fingerprint": "another"}, "another, expected"),
    ],
)
def test_features_of_another_training_are_refused(tmp_path, other, message):
    folder, definition = tmp_path / "runs/sit/seed0", {"seed": 0}
    own = replace(run_features(), run="sit", seed=0, fingerprint=fingerprint(definition))
    write_json(folder / "definition.json", definition)
    own.save(folder / "features/features.npz")
    assert RunFeatures.load(folder / "features/features.npz").run == "sit"
    replace(own, **other).save(folder / "features/features.npz")
    with pytest.raises(UserError, match=f"belongs to another training, {message}"):
        RunFeatures.load(folder / "features/features.npz")


def test_other_files_are_not_run_features(tmp_path):
    path = tmp_path / "features.npz"
    with pytest.raises(UserError, match="no such file"):
        RunFeatures.load(path)
    np.savez(path, images=np.arange(3))
    with pytest.raises(UserError, match="not a run's features"):
        RunFeatures.load(path)
    run_features().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"not an \.npz of arrays"):
        RunFeatures.load(path)


def test_every_feature_of_a_run_is_a_case():
    features = run_features()
    features = replace(features, unconditional={"f_u": features.guiding["f_c"]})
    cases = probe_cases(features)
    assert [(case.block, case.t) for case in cases[:8]] == [
        (block, t) for t in (0.3, 0.5) for block in (1, 2, 3, 4)
    ]
    assert [(case.name, case.t, case.label_given) for case in cases[8:]] == [
        ("f_c", 0.3, True),
        ("f_c", 0.5, True),
        ("a/b: c, w = 1.5", 0.3, True),
        ("a/b: c, w = 1.5", 0.5, True),
        ("f_u", 0.3, False),
        ("f_u", 0.5, False),
    ]
    np.testing.assert_array_equal(cases[1].features, features.pooled[0, 1])


def test_a_run_beyond_the_baseline_has_a_mean_and_no_difference():
    curves = curves_of(metrics({"sit": {100: [20.0]}, "ours": {200: [9.0, 11.0]}}), "fid")
    beyond = paired_difference(curves, "fid", "sit", "ours", 200)
    assert (beyond.seeds, beyond.mean) == (0, 10)
    assert beyond.std == pytest.approx(2**0.5)
    assert np.isnan([beyond.difference, beyond.low, beyond.high]).all()


@pytest.mark.parametrize("runs", [1, 6, 14])
def test_the_names_of_both_probes_fit_beside_their_panels(runs):
    rows = [
        ("block", f"run{run}", seed, block, t, 0.1, 0.2)
        for run, seed, block, t in product(range(runs), (0, 1), (1, 2, 3), (0.1, 0.5))
    ]
    columns = ["kind", "run", "seed", "block", "t", "linear", "knn"]
    labels = {
        f"run{run}": f"+ a method with a name that takes half a line {run}" for run in range(runs)
    }
    figure = discriminability(pd.DataFrame(rows, columns=columns), labels, None, 5.5)
    figure.draw_without_rendering()
    upper, lower = (figure.axes[first].yaxis.label.get_window_extent() for first in (0, 2))
    assert lower.y1 < upper.y0
