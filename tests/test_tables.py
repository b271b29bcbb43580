"""What a row says of a number, what may share a curve, and what others published beside it."""

import re

import pandas as pd
import pytest

from selftrans.config import ConfigError, load_experiment
from selftrans.evaluation.comparison import curves_of, paired_table
from selftrans.evaluation.headline import headline_markdown
from selftrans.evaluation.markdown import markdown_table
from selftrans.evaluation.tables import (
    SETTINGS,
    metrics_table,
    read_metrics,
    require_comparable,
)
from selftrans.plotting.convergence import convergence
from selftrans.plotting.curves import sweep
from selftrans.runtime.errors import UserError
from tests.support.results import result

LABELS = {"sit": "SiT", "ours": "Ours"}


def table_of(*results, name="ode"):
    return metrics_table([(name, one) for one in results], {"ours": "released"})


def test_a_row_names_all_that_its_numbers_depend_on():
    sit, ours = table_of(result(), result(run="ours")).to_dict("records")
    assert {
        "classes": "random", "network_precision": "tf32", "decoder": "stabilityai/sd-vae-ft-ema",
        "decoder_digest": "a" * 12, "decoder_precision": "fp32", "uint8": "truncate",
        "distances": "adm", "reference": "VIRTUAL_imagenet256_labeled.npz",
        "reference_digest": "r" * 12, "num_reference": 50_000, "precision": 0.7,
        "versions": "diffusers 0.40, scipy 1.17, torch 2.14.1",
    }.items() <= sit.items()  # fmt: skip
    assert pd.isna(sit["t_masking"])
    assert ours["t_masking"] == "released"
    assert set(SETTINGS) <= sit.keys() | {"reference_digest"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampler": "euler-maruyama"}, r"sampler \(euler, euler-maruyama\)"),
        ({"labels": "balanced"}, r"classes \(random, balanced\)"),
        ({"uint8": "round"}, r"uint8 \(truncate, round\)"),
        ({"autoencoder_digest": "b" * 64}, "decoder_digest"),
        (
            {"num_steps": 250, "precision": "fp32"},
            r"num_steps \(50, 250\); network_precision \(tf32, fp32\)",
        ),
    ],
)
def test_what_was_sampled_otherwise_shares_no_curve(change, named):
    """ODE and SDE above all: the same weights have two FIDs."""
    table = table_of(result(), result(step=20), result(run="ours"), result(run="ours", **change))
    refused = pytest.raises(UserError, match=rf"^numbers that differ in {named}.* share a curve$")
    with refused:
        convergence(table, LABELS, 5.5)
    with refused:
        paired_table(table, "sit")


@pytest.mark.parametrize(
    "change",
    [
        {"num_samples": 10_000},
        {"num_reference": 1000},
        {"extractor": {"name": "classifier", "digest": "e" * 64}},
        {"reference": {"name": "mine", "digest": "s" * 64}},
    ],
)
def test_what_was_measured_otherwise_shares_no_curve(change):
    with pytest.raises(UserError, match="numbers that differ in"):
        convergence(table_of(result(), {**result(run="ours"), **change}), LABELS, 5.5)


def test_the_axis_of_a_sweep_may_differ_and_nothing_else():
    scales = [{"scale": scale, "low": 0.0, "high": 1.0} for scale in (1.0, 2.0)]
    table = table_of(*(result(guidance=guidance) for guidance in scales))
    sweep(table, LABELS, 5.5)
    with pytest.raises(UserError, match=r"guidance_scale \(1.0, 2.0\)"):
        convergence(table, LABELS, 5.5)
    other = {"scale": 2.0, "low": 0.0, "high": 0.5}
    with pytest.raises(UserError, match=r"in guidance_high \(1.0, 0.5\) cannot"):
        sweep(table_of(result(guidance=scales[0]), result(guidance=other)), LABELS, 5.5)


def test_precision_and_recall_need_the_same_distances():
    rows = result(), result(run="ours"), {**result(run="ours", step=20), "distances": "fp32"}
    convergence(table_of(*rows), LABELS, 5.5)
    with pytest.raises(UserError, match=r"differ in distances \(adm, fp32\)"):
        paired_table(table_of(*rows), "sit")


def test_metrics_of_two_extractors_share_a_table_and_no_curve(tmp_path):
    dinov2 = {**result(), "extractor": {"name": "dinov2", "digest": "2" * 64}}
    dinov2["metrics"] = {"fd-dinov2": 120.0}
    path = tmp_path / "metrics.csv"
    path.write_text(table_of(result(), dinov2).to_csv(index=False))
    table = read_metrics(str(path), ["ode"])
    assert len(table) == 2
    assert curves_of(table, "fid") == {"sit": {10: {0: 9.5}}}
    assert curves_of(table, "fd-dinov2") == {"sit": {10: {0: 120.0}}}
    assert len(convergence(table, LABELS, 5.5).axes) == 1


def test_what_an_earlier_version_did_not_say_is_no_difference():
    before = result(run="ours")
    del before["reference"], before["samples"]["decoder"]
    require_comparable(table_of(result(), before))


def test_published_numbers_stand_marked_beside_ours():
    rows = [
        {"system": "REPA", "training": "800 epochs", "setting": "guided", "fid": 1.42,
         "source": "REPA README", "second_hand": False},
        {"system": "SRA 2", "training": "800 epochs", "setting": "guided", "fid": 1.52,
         "source": "arXiv 2601.17830", "second_hand": True},
    ]  # fmt: skip
    results = [result(fid=9.0), result(step=20, fid=8.0), result(step=20, seed=1, fid=7.0)]
    text = headline_markdown(table_of(*results), LABELS, rows)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[:5]]
    header, _, ours, repa, sra = lines
    assert header == ["system", "training", "setting", "FID", "precision", "source"]
    assert ours == [
        "SiT", "20 steps",
        ("euler, 50 steps, no guidance, in tf32, random classes, pixels cut off, N = 50,000,"
         " inception"),
        "7.50", "0.7000", "this experiment, mean of 2 seeds",
    ]  # fmt: skip
    assert repa == ["REPA †", "800 epochs", "guided", "1.42", "", "REPA README"]
    assert sra[-1] == "arXiv 2601.17830 (second-hand)"
    assert "† published by others, not run here" in text
    assert "†" not in headline_markdown(table_of(*results), LABELS, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rows: [{system: X, training: t, setting: s, fid: 1.2}]", r"rows\.0\.source: is missing"),
        ("rows: [{system: X, training: t, setting: s, fid: 1.2, source: ''}]", r"rows\.0\.source:"),
        ("curves: {sit: [[4, 90.0]]}", "source: is missing, and there are curves"),
    ],
)
def test_a_published_number_without_source_is_refused(tiny, tmp_path, content, message):
    (tmp_path / "published.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(tiny(**{"figures.published": "published.yaml"}))
    assert "\n" not in str(caught.value)


def test_all_published_numbers_that_ship_have_a_source():
    for name in ("imagenet256-b2", "imagenet256-xl2"):
        published = load_experiment(name).figures.published
        assert published.rows
        assert all(row.source for row in published.rows)


def test_an_empty_table_has_no_headline():
    assert headline_markdown(pd.DataFrame({"run": []}), LABELS, []) == ""


def test_a_bar_in_a_name_ends_no_cell():
    table = pd.DataFrame({"a|b": ["x | y", "<script>"], "n": [1, 2]}, index=["r|1", "r2"])
    lines = markdown_table(table).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}
    assert "\\<script>" in lines[-1]
