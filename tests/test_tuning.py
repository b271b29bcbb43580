"""Tuning: every arm alike, on seeds that are not reported on."""

from math import log

import pytest
import yaml

from selftrans.config import ConfigError, load_experiment, run_definition
from selftrans.config.expand import merged
from selftrans.config.tuning import Tuned, TuningConfig
from selftrans.evaluation.tuning import best_trials
from selftrans.runtime.errors import UserError
from selftrans.runtime.seal import sealed
from tests.support.experiments import tiny_values
from workflow.lib.settings import WorkflowConfig
from workflow.lib.study import Study
from workflow.lib.tuning import Tuning

RATES = {"low": 1e-4, "high": 1e-2}
RANGES = {"training.learning_rate": RATES, "alignment.weight": [0.25, 0.5, 1.0]}
TUNING = {"tuning": {"trials": 4, "ranges": RANGES}, "seeds": [100]}
ARMS = ("sit", "vae-align", "self-transcendence")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project of which experiments are written by their changes."""
    data = load_experiment("digits").data  # read before the folder changes
    (tmp_path / "experiments/tuned").mkdir(parents=True)
    (tmp_path / "experiments/data").mkdir()
    (tmp_path / "experiments/data/digits.yaml").write_text(
        yaml.safe_dump(data.model_dump(mode="json"))
    )
    monkeypatch.chdir(tmp_path)

    def write(name="tiny", **changes):
        path = tmp_path / f"experiments/{name}.yaml"
        path.write_text(yaml.safe_dump(merged(tiny_values(name=name), changes), sort_keys=False))
        return path

    return write


def tuned_file(path, **changes):
    arm = {"trial": 2, "fid": 3.5, "values": {"training.learning_rate": 5e-3}}
    aligned = {**arm, "values": {**arm["values"], "alignment.weight": 0.25}}
    values = {
        "experiment": "tuning", "seeds": (100,), "trials": 4, "steps": dict.fromkeys(ARMS, 8),
        "runs": {"sit": arm, "vae-align": aligned, "self-transcendence": aligned}, **changes,
    }  # fmt: skip
    content = sealed(Tuned(**values).model_dump(mode="json"))
    path.write_text(yaml.safe_dump(content))
    return content


# -- trials


def test_random_values_are_spread_over_their_range_and_are_the_same_each_time():
    tuning = TuningConfig(trials=9, ranges=RANGES)
    cells = tuning.sampled()
    assert cells == TuningConfig(trials=9, ranges=RANGES).sampled()
    assert cells != TuningConfig(trials=9, ranges=RANGES, seed=1).sampled()
    rates = [cell["training.learning_rate"] for cell in cells]
    parts = sorted(int(8 * log(rate / 1e-4) / log(100)) for rate in rates)
    assert parts == list(range(8))  # one in each eighth
    assert rates != sorted(rates)
    assert {cell["alignment.weight"] for cell in cells} == {0.25, 0.5, 1.0}


def test_a_grid_has_every_combination():
    lists = {"training.learning_rate": [1e-3, 2e-3], "training.batch_size": [8, 16]}
    tuning = TuningConfig(trials=5, search="grid", ranges=lists)
    assert [tuple(cell.values()) for cell in tuning.sampled()] == [
        (1e-3, 8), (1e-3, 16), (2e-3, 8), (2e-3, 16)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tuning", "problem"),
    [
        ({"trials": 5, "search": "grid", "ranges": {"a": [1, 2]}}, "has 2 cells and the arm"),
        ({"trials": 5, "search": "grid", "ranges": {"a": RATES}}, "'a' has no list of values"),
        ({"trials": 5, "ranges": {"a": {"low": 2, "high": 1}}}, "1.0 is not beyond low, 2.0"),
        ({"trials": 4, "ranges": {"training.rate": [1]}}, "rate"),
        ({"trials": 4, "ranges": {"absent.key": [1]}}, "absent"),
    ],
)
def test_what_cannot_be_tuned_in_is_refused(place, tuning, problem):
    with pytest.raises(ConfigError, match=problem):
        load_experiment(place(tuning=tuning))


def test_every_arm_has_the_same_trials_and_its_teacher_is_of_the_same_number(place):
    experiment = load_experiment(place(**TUNING))
    cells = TuningConfig(**TUNING["tuning"]).sampled()
    assert set(experiment.main_runs) == set(ARMS)
    for arm in ARMS:
        runs = [experiment.runs[name] for name in experiment.grids[arm].runs]
        assert len(runs) == 4
        rates = [run.training.learning_rate for run in runs]
        assert rates == [1e-3, *(cell["training.learning_rate"] for cell in cells)]
        weights = [term.weight for run in runs[1:] for term in run.alignments.values()]
        assert weights == ([] if arm == "sit" else [cell["alignment.weight"] for cell in cells])
    student = experiment.runs["self-transcendence-trial3"]
    assert student.teachers["self-transcendence"].choice.run == "vae-align-trial3"
    assert experiment.planned_comparisons == ()


def test_a_tuning_that_is_written_out_comes_back_as_itself(place, tmp_path):
    experiment = load_experiment(place(**TUNING))
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    assert load_experiment(path) == experiment


# -- what is best


def test_the_best_trial_has_the_least_mean_at_the_last_checkpoint():
    fids = {
        "sit": {4: {7: 1.0, 8: 1.0}, 8: {7: 5.0, 8: 3.0}},
        "sit-trial1": {8: {7: 6.0, 8: 1.0}},
        "sit-trial2": {8: {7: 1.0, 8: 6.0}},
    }
    values = {"sit": [{}, {"a": 1}, {"a": 2}]}
    found = best_trials(fids, {"sit": list(fids)}, [7, 8], values)["sit"]
    assert (found.trial, found.fid, found.values) == (1, 3.5, {"a": 1})
    with pytest.raises(UserError, match="'sit-trial2': has no FID of seed 9"):
        best_trials({**fids, "sit": fids["sit"]}, {"sit": ["sit-trial2"]}, [9], values)


def test_what_is_written_is_asked_of_the_trials(place):
    study = Study(WorkflowConfig(experiments=(str(place(**TUNING)),)))
    tuning, tiny = Tuning(study), {"experiment": "tiny"}
    assert tuning.targets() == ["experiments/tuned/tiny.yaml"]
    assert tuning.arms(tiny)["sit"] == ["sit", "sit-trial1", "sit-trial2", "sit-trial3"]
    values = tuning.values(tiny)
    assert values["vae-align"][0] == {}
    assert set(values["sit"][1]) == {"training.learning_rate"}
    assert set(values["vae-align"][1]) == set(RANGES)
    assert tuning.steps(tiny) == dict.fromkeys(ARMS, 8)


# -- the report


def test_the_arms_follow_what_was_found(place, tmp_path):
    tuned_file(tmp_path / "experiments/tuned/tuning.yaml")
    experiment = load_experiment(place(tuned="tuning", seeds=[0, 1]))
    assert {run.training.learning_rate for run in experiment.runs.values()} == {5e-3}
    assert experiment.runs["vae-align"].alignments["vae-alignment"].weight == 0.25
    alike = place(seeds=[0, 1], training={"learning_rate": 5e-3})
    assert run_definition(load_experiment(alike), "sit", 0) == run_definition(experiment, "sit", 0)


def test_a_tuning_that_is_absent_edited_or_of_other_arms_is_refused(place, tmp_path):
    path = tmp_path / "experiments/tuned/tuning.yaml"
    report = place(tuned="tuning", seeds=[0])
    with pytest.raises(
        ConfigError, match=r"'tuning' is neither .* nor a name in experiments/tuned"
    ):
        load_experiment(report)
    content = tuned_file(path)
    content["runs"]["sit"]["values"]["training.learning_rate"] = 4e-3
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"tuning\.yaml: damaged, its description is not what"):
        load_experiment(report)
    content = tuned_file(path, runs={"sit": {"trial": 0, "fid": 1.0}})
    with pytest.raises(ConfigError, match="'tuning' has not tuned run 'vae-align'"):
        load_experiment(report)
    path.write_text(yaml.safe_dump({key: content[key] for key in content if key != "seal"}))
    with pytest.raises(UserError, match=r"tuning\.yaml"):
        load_experiment(report)


def test_seeds_that_were_tuned_on_are_not_reported_on(place, tmp_path):
    tuned_file(tmp_path / "experiments/tuned/tuning.yaml")
    with pytest.raises(ConfigError, match="seeds: 100 was tuned on by 'tuning'"):
        load_experiment(place(tuned="tuning", seeds=[0, 100]))


def test_the_tuning_on_scenes_is_of_every_arm_that_is_reported():
    tuning = load_experiment("scenes-methods-tuning")
    reported = [load_experiment(name) for name in ("scenes-methods", "scenes-methods-more")]
    assert {run for one in reported for run in one.runs} == set(tuning.main_runs)
    assert not {seed for one in reported for seed in one.seeds} & set(tuning.seeds)
    for arm in tuning.main_runs:
        trials = [tuning.runs[name].training for name in tuning.grids[arm].runs]
        assert trials == [tuning.runs[name].training for name in tuning.grids["sit"].runs]
    whole = reported[0].runs["sit"].training.checkpoints[-1]
    assert {run.training.checkpoints for run in tuning.runs.values()} == {(whole // 2,)}
