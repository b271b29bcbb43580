"""Planned comparisons: which there are, and what their table reads."""

import pytest

from selftrans.config import ConfigError
from tests.support.experiments import OTHER_METHODS
from workflow.lib.evaluation import Evaluation
from workflow.lib.figures import Figures, figure_names
from workflow.lib.plan import Plan
from workflow.lib.significance import Significance
from workflow.lib.training import Training

TINY = {"experiment": "tiny"}
RUNS = ("sit", "vae-align", "self-transcendence")
GRID = {"w": {"run": "self-transcendence", "vary": {"alignment.guidance_scale": [2, 5, 9]}}}


@pytest.fixture
def make(make_study):
    def make(**changes):
        study = make_study({"seeds": [0, 1], **changes})
        evaluation = Evaluation(study)
        return Significance(study, Figures(study, Training(study, str), evaluation), evaluation)

    return make


def test_by_default_every_main_run_is_tested_against_the_baseline(make):
    found = make(grids=GRID, **{"figures.baseline": "vae-align"})
    assert found.planned(TINY) == [("sit", "vae-align"), ("self-transcendence", "vae-align")]
    assert list(found.labels(TINY)) == [*RUNS]
    assert "significance" in figure_names(found.study.experiments["tiny"])
    alone = make(seeds=[0])
    assert alone.planned(TINY) == []
    assert "significance" not in figure_names(alone.study.experiments["tiny"])


def test_a_family_names_runs_and_pairs(make):
    pair = {"run": "w-9", "against": "self-transcendence"}
    found = make(
        grids=GRID, significance={"against_baseline": ["self-transcendence"], "pairs": [pair]}
    )
    assert found.planned(TINY) == [("self-transcendence", "sit"), ("w-9", "self-transcendence")]
    assert list(found.labels(TINY)) == [*RUNS, "w-9"]  # a cell of a grid that is tested


@pytest.mark.parametrize(
    ("family", "problem"),
    [
        ({"against_baseline": ["absent"]}, "'absent' is not a run that is trained here"),
        ({"against_baseline": ["sit"]}, "'sit' is compared with itself"),
        (
            {"pairs": [{"run": "sit", "against": "vae-align"}]},
            "'sit' is compared with 'vae-align' twice",
        ),
    ],
)
def test_a_family_that_cannot_be_tested_is_refused(make, family, problem):
    with pytest.raises(ConfigError, match=f"significance.*: {problem}"):
        make(significance=family)


def test_the_last_images_of_each_run_and_seed_are_resampled(make):
    assert make().resampled(TINY) == []
    found = make(significance={"resamples": 50})
    assert found.resampled_runs(TINY) == [(run, seed) for run in RUNS for seed in (0, 1)]
    assert found.resampled(TINY)[0] == (
        "results/tiny/runs/sit/seed0/samples/8/ode-n20/classifier-50-resamples.json"
    )
    assert Plan(found.study).costs["fid_resamples"].jobs == 6


def test_an_encoders_time_counts_for_the_runs_that_follow_it_and_for_their_students(make):
    student = {
        "method": "self-transcendence", "teacher": {"run": "repa", "step": 8}, "student_depth": 2,
        "teacher_depth": 3,
    }  # fmt: skip
    found = make(runs={"sit": {}, "repa": OTHER_METHODS["repa"], "student": {"alignment": student}})
    benchmarks = found.encoder_benchmarks(TINY)
    assert benchmarks["sit"] == []
    assert [path.rpartition("/")[2] for path in benchmarks["repa"]] == [
        "encoder-stand-in.tsv", "features-stand-in.tsv"
    ]  # fmt: skip
    assert benchmarks["student"] == benchmarks["repa"]
    assert found.encoders_in_words(TINY)["stand-in"].startswith("trained here on the labels of")
