"""The analysis of features: which runs, which images, and what it depends on."""

import pytest

from tests.support.studies import SharingStudy
from workflow.lib.analysis import Analysis

TINY = {"experiment": "tiny"}
JOB = {**TINY, "run": "sit", "seed": 0}
SETTINGS = {"encoder": "stand-in", "times": [0.3, 0.5], "neighbours": 7}


@pytest.fixture
def analysis(make_study):
    vary = {"alignment.guidance_scale": [2, 5]}
    grids = {"w": {"run": "self-transcendence", "vary": vary}}
    return Analysis(make_study({"analysis": SETTINGS, "seeds": [2, 0], "grids": grids}))


def test_features_do_not_depend_on_what_reads_them(analysis):
    definition = analysis.definition(JOB)
    assert {"encoder", "neighbours"}.isdisjoint(definition)
    assert definition["times"] == [0.3, 0.5]
    assert (analysis.neighbours(JOB), analysis.shown_time(JOB)) == (7, 0.5)


def test_main_runs_are_analysed(analysis):
    first = analysis.features_of_first_seed(TINY)
    assert [path.split("/")[3] for path in first] == ["sit", "vae-align", "self-transcendence"]
    assert first[0] == "results/tiny/runs/sit/seed2/features/features.npz"
    assert analysis.features_of_first_run(TINY) == first[0]
    assert analysis.features_of_aligned_runs(TINY) == first[1:]
    assert analysis.probed_runs(TINY)[:3] == [("sit", 2), ("sit", 0), ("vae-align", 2)]
    assert len(analysis.all_probes(TINY)) == len(analysis.probed_runs(TINY)) == 6
    checkpoints = analysis.checkpoints(JOB)
    assert [path.split("/")[-2:] for path in checkpoints] == [
        ["4", "ema.safetensors"], ["8", "ema.safetensors"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "encoder", "title", "probes"),
    [
        ("digits", None, None, []),
        ("digits", "stand-in", "stand-in encoder", ["results/tiny/encoders/stand-in/probes.csv"]),
        (
            "imagenet256",
            "dinov2-b",
            "vit_base_patch14_dinov2",
            ["results/tiny/encoders/dinov2-b/probes.csv"],
        ),
    ],
)
def test_the_encoder_is_called_what_it_is(make_study, data, encoder, title, probes):
    settings = {"analysis": {"encoder": encoder} if encoder else {}, "data": data}
    analysis = Analysis(make_study(settings))
    assert analysis.encoder_title(TINY) == title
    assert analysis.encoder_probe(TINY) == probes


def test_a_shared_run_is_analysed_where_it_lies(make_study):
    study = make_study({}, {"name": "child", "analysis": SETTINGS}, kind=SharingStudy)
    study.owners = {"sit": "tiny"}
    analysis, job = Analysis(study), {**JOB, "experiment": "child"}
    assert all(path.startswith("results/tiny/runs/sit/") for path in analysis.checkpoints(job))
    assert analysis.features(job).startswith("results/child/runs/sit/")
