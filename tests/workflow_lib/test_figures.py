"""Figures: which there are, and what each of them shows."""

import re

import pytest

from selftrans.config import ConfigError
from tests.support import REPOSITORY
from tests.support.experiments import OTHER_METHODS
from tests.support.studies import IMPORTED, SharingStudy
from workflow.lib.evaluation import Evaluation
from workflow.lib.figures import Figures, figure_names
from workflow.lib.study import Study
from workflow.lib.training import Training

TINY = {"experiment": "tiny"}
ODE = {"sampler": "euler", "num_steps": 2, "num_samples": 20}
GRID = {"w": {"run": "self-transcendence", "vary": {"alignment.guidance_scale": [2, 5, 9]}}}
PUBLIC = {"runs.public": {"imported": IMPORTED, "label": "Public"}}


@pytest.fixture
def make_figures(make_study):
    def make(*changes, **options):
        study = make_study(*changes, **options)
        return Figures(study, Training(study, str), Evaluation(study))

    return make


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"runs": {"sit": {}}}, {"convergence", "samples", "losses", "comparison"}),
        (
            {"runs": {"public": {"imported": IMPORTED}}, "figures.sample_checkpoints": [5]},
            {"convergence", "samples"},
        ),
        (
            {"runs": {"sit": {}}, "analysis": {}},
            {
                "convergence",
                "samples",
                "losses",
                "comparison",
                "discriminability",
                "feature-maps",
                "similarity",
            },
        ),
        (
            {"grids": GRID, "analysis": {}},
            {
                "convergence",
                "samples",
                "losses",
                "comparison",
                "discriminability",
                "feature-maps",
                "similarity",
                "guiding-features",
                "grid-w",
                "dynamics-vae-align",
                "dynamics-self-transcendence",
            },
        ),
    ],
)
def test_an_experiment_has_the_figures_of_what_it_does(make_figures, changes, names):
    figures = make_figures(changes)
    found = figure_names(figures.study.experiments["tiny"])
    assert set(found) == names
    assert len(figures.targets()) == 2 * len(found)
    assert "results/tiny/figures/convergence.pdf" in figures.targets()


def test_a_sweep_has_a_figure_by_ascending_scale(make_figures):
    samplers = {"ode": ODE, "cfg": {**ODE, "guidance": {"scale": [10.0, 1.5, 2.0]}}}
    figures = make_figures({"evaluation.samplers": samplers})
    assert "sweep-cfg" in figure_names(figures.study.experiments["tiny"])
    sets = figures.sweep_sets({**TINY, "sweep": "cfg"})
    assert sets == ["cfg-scale1.5", "cfg-scale2.0", "cfg-scale10.0"]


def test_names_in_figures(make_figures):
    figures = make_figures({"grids": GRID, "runs.sit.label": "SiT", **PUBLIC})
    main = {
        "sit": "SiT",
        "vae-align": "vae-align",
        "self-transcendence": "self-transcendence",
        "public": "Public",
    }
    assert figures.main_labels(TINY) == main
    assert figures.run_labels(TINY) == {**main, "w-5": "w = 5", "w-9": "w = 9"}
    del main["public"]
    assert figures.compared_labels(TINY) == main
    labels = figures.grid_labels({**TINY, "grid": "w"})
    assert list(labels.items()) == [
        ("self-transcendence", "self-transcendence"), ("w-5", "w = 5"), ("w-9", "w = 9")
    ]  # fmt: skip
    assert figures.imported_runs(TINY) == ["public"]
    assert figures.main_runs(TINY) == ["sit", "vae-align", "self-transcendence", "public"]
    assert figures.aligned_runs(TINY) == ("vae-align", "self-transcendence")
    assert figures.baseline(TINY) == "sit"


def test_published_curves_are_drawn_where_the_experiment_names_them(make_figures, tmp_path):
    assert make_figures().published(TINY) is None
    path = tmp_path / "published.yaml"
    path.write_text("{source: A paper., metric: fid, curves: {sit: [[4, 9.5]]}}")
    published = make_figures({"figures.published": str(path)}).published(TINY)
    assert published == {"source": "A paper.", "metric": "fid", "curves": {"sit": ((4, 9.5),)}}


def test_settings_of_figures(make_figures):
    figures = make_figures({"figures.dpi": 90})
    assert figures.style(TINY) == {"width_inches": 5.5, "dpi": 90}
    assert figures.sampler(TINY) == "ode"
    assert figures.columns(TINY) == 5


def test_histories_are_those_of_whole_trainings(make_figures):
    figures = make_figures(
        {"seeds": [0, 1], "grids": GRID, "runs.sit.training": {"checkpoints": [4, 8, 9]}}
    )
    histories = figures.last_histories(TINY)
    assert len(histories) == len(figures.last_history_runs(TINY)) == 3 * 2  # no run of the grid
    assert histories[0] == "results/tiny/runs/sit/seed0/checkpoints/9/history.csv"
    assert figures.last_history_runs(TINY)[:3] == ["sit", "sit", "vae-align"]
    of_run = figures.histories_of_run({**TINY, "run": "vae-align"})
    assert [path.split("/")[4:7:2] for path in of_run] == [["seed0", "8"], ["seed1", "8"]]


def test_costs_are_compared_of_what_is_trained(make_figures):
    teacher = {"run": "public", "step": 5, "weights": "ema"}
    changes = {"runs.self-transcendence.alignment.teacher": teacher}
    figures = make_figures({**PUBLIC, **changes})
    records, checkpoints = figures.checkpoint_records(TINY), figures.compared_checkpoints(TINY)
    assert len(records) == len(checkpoints) == 3 * 2
    assert checkpoints[0] == ("sit", 0, 4)
    assert records[0] == "results/tiny/runs/sit/seed0/checkpoints/4/checkpoint.json"
    assert figures.teachers_of_runs(TINY)["self-transcendence"] == []
    trained = make_figures().teachers_of_runs(TINY)
    assert trained["self-transcendence"] == [("vae-align", 4)]


def test_samples_are_shown_by_step_then_by_run_of_the_first_seed(make_figures):
    figures = make_figures(
        {"seeds": [3, 1], "grids": GRID, "runs.sit.training": {"checkpoints": [8]}}
    )
    rows = figures.shown_rows(TINY)
    assert rows == [
        (4, "vae-align"), (4, "self-transcendence"), (8, "sit"), (8, "vae-align"),
        (8, "self-transcendence"),
    ]  # fmt: skip
    shown = figures.shown_samples(TINY)
    assert len(shown) == len(rows)
    assert shown[0] == "results/tiny/runs/vae-align/seed3/samples/4/ode-n20/first.npz"


def test_figures_read_shared_runs_where_they_lie(make_figures):
    figures = make_figures({}, {"name": "child"}, kind=SharingStudy)
    figures.study.owners = {"sit": "tiny", "samples of sit": "tiny"}
    child = {"experiment": "child"}
    inputs = [
        *figures.last_histories(child), *figures.checkpoint_records(child),
        *figures.shown_samples(child), *figures.histories_of_run({**child, "run": "sit"}),
    ]  # fmt: skip
    for path in inputs:
        assert path.startswith("results/tiny/runs/sit/" if "/sit/" in path else "results/child/")
    assert figures.targets()[-1].startswith("results/child/figures/")


def test_any_samplers_images_can_be_shown(make_figures):
    """At the figure's steps that it samples, else at its last one."""
    samplers = {"ode": ODE, "sde": {**ODE, "checkpoints": [8]}}
    figures = make_figures(
        {"evaluation.samplers": samplers, "figures.sample_checkpoints": [4], "seeds": [3, 1]}
    )
    named = {**TINY, "sampler": "sde"}
    assert figures.shown_sampler(TINY) == "ode"
    assert {step for step, _ in figures.shown_rows(TINY)} == {4}
    assert figures.shown_rows(named) == [
        (8, "sit"), (8, "vae-align"), (8, "self-transcendence"),
    ]  # fmt: skip
    assert figures.shown_samples(named)[0].endswith("seed3/samples/8/sde-n20/first.npz")
    both = make_figures({"evaluation.samplers": samplers, "figures.also_samples_of": ["sde"]})
    assert "results/tiny/figures/samples-sde.png" in both.targets()
    with pytest.raises(ConfigError, match=r"also_samples_of: 'ddim' is not another sampler"):
        make_figures({"figures.also_samples_of": ["ddim"]})


def test_examples_serve_every_sampler(make_figures):
    random = {**ODE, "labels": "random", "seed": 7}
    figures = make_figures(
        {"evaluation.samplers": {"ode": {**ODE, "seed": 5}, "sde": random, "other": ODE}}
    )
    assert figures.label_sequences(TINY) == [("balanced", 0), ("random", 7)]
    assert figures.class_names(TINY) is None


def test_samples_of_captions_are_not_called_by_names_of_classes():
    """A data file may name its classes: the columns of the figure are captions all the same."""
    data = {"scenes-tiny": {"class_names": [f"class {number}" for number in range(24)]}}
    study = Study.load({"experiments": ("scenes-tiny",), "data": data})
    figures = Figures(study, Training(study, str), Evaluation(study))
    assert study.experiments["scenes-tiny"].data.class_names is not None
    assert figures.class_names({"experiment": "scenes-tiny"}) is None


def test_a_stand_in_is_named_below_tables_with_what_it_was_trained_on(make_figures):
    runs = {"runs": {"sit": {}, "repa": OTHER_METHODS["repa"]}}
    line = "\nEncoder stand-in: a stand-in, trained here on the labels of digits.\n"
    assert make_figures(runs).stand_ins(TINY) == line
    assert make_figures({"runs": {"sit": {}}}).stand_ins(TINY) == ""


def test_every_entry_of_the_report_has_labels_that_tell_it_from_the_others():
    """Without labels, Snakemake's report lists a file by its path."""
    rules = "".join(path.read_text() for path in (REPOSITORY / "workflow/rules").glob("*.smk"))
    entries = re.findall(r"\breport\(\n(.*?)\n {8}\),", rules, re.DOTALL)
    assert len(entries) == len(re.findall(r"\breport\(", rules)) > 10
    for entry in entries:
        (labels,) = re.findall(r"^ +labels=(.+),$", entry, re.MULTILINE)
        wildcards = set(re.findall(r"\{\{(\w+)\}\}", entry))
        assert set(re.findall(r"\{(\w+)\}", labels)) == wildcards, entry
