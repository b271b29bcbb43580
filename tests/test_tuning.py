"""Tuning: every arm alike, on seeds that are not reported on."""

from math import log

import pytest
import yaml

from selftrans.config import ConfigError, load_experiment, run_definition
from selftrans.config.expand import merged
from selftrans.config.identity import tuned_definition
from selftrans.config.tuning import Tuned, TunedArm, TuningConfig
from selftrans.evaluation.tuning import at_an_edge, best_trials
from selftrans.runtime.errors import UserError
from selftrans.runtime.seal import sealed
from tests.support import REPOSITORY
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


def tuned_file(path, tiny, rate=5e-3, **changes):
    """What a tuning of the arms of an experiment found."""
    values = {"training.learning_rate": rate}
    aligned = {**values, "alignment.weight": 0.25}
    experiment = load_experiment(tiny)
    arms = {"sit": values, "vae-align": aligned, "self-transcendence": aligned}
    runs = {
        arm: {
            "trial": 2, "fids": (5.0, 4.0, 3.5, 6.0), "values": found,
            "definition": tuned_definition(experiment, arm, found),
        }
        for arm, found in arms.items()
    }  # fmt: skip
    values = {
        "experiment": "tuning", "seeds": (100,), "trials": 4, "steps": dict.fromkeys(ARMS, 8),
        "runs": runs, **changes,
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
        (
            {"trials": 3, "ranges": {"training.learning_rate": [2e-3]}},
            "trials 1 and 2 of run 'sit'",
        ),
        (
            {"trials": 3, "search": "grid", "ranges": {"training.learning_rate": [1e-3, 2e-3]}},
            "trials 0 and 1 of run 'sit' are the same",
        ),
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


def test_a_key_that_an_arm_of_several_terms_lacks_is_named(place):
    """A list of terms has numbers for keys."""
    runs = {"vae-align": {"alignment": [{"method": "vae-alignment", "depth": 1}]}}
    weights = {"trials": 3, "ranges": {"alignment.weight": [0.1, 0.2]}}
    with pytest.raises(ConfigError, match=r"alignment\.weight: 'weight' is not a key of what run"):
        load_experiment(place(tuning=weights, runs=runs))


def test_another_grid_or_run_by_the_name_of_trials_is_refused(place):
    """It would be tuned in other trials than the others."""
    vary = {"training.learning_rate": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]}
    with pytest.raises(ConfigError, match=r"grids\.sit: is the grid of an arm's trials"):
        load_experiment(place(**TUNING, grids={"sit": {"run": "sit", "vary": vary}}))
    with pytest.raises(ConfigError, match=r"runs\.sit-trial1: is the name of a trial"):
        load_experiment(place(**TUNING, runs={"sit-trial1": {"training": {"batch_size": 4}}}))


def test_arms_of_another_budget_are_refused(place):
    longer = {"sit": {"training": {"checkpoints": [8, 16]}}}
    with pytest.raises(ConfigError, match="'vae-align' has 8, the first arm 16"):
        load_experiment(place(**TUNING, runs=longer))
    smaller = {"vae-align": {"training": {"batch_size": 4}}}
    with pytest.raises(ConfigError, match="'vae-align' has 4, the first arm 8"):
        load_experiment(place(**TUNING, runs=smaller))


def test_an_experiment_tunes_or_follows_a_tuning(place, tmp_path):
    tuned_file(tmp_path / "experiments/tuned/tuning.yaml", place())
    with pytest.raises(ConfigError, match="tuned: is set beside tuning"):
        load_experiment(place(**{**TUNING, "seeds": [3]}, tuned="tuning"))


def test_what_extends_a_tuned_experiment_may_tune(place, tmp_path):
    """As the tuning of an experiment does, which follows it: its file need not be there."""
    base = place(name="base", tuned="tuning", seeds=[0])
    path = tmp_path / "experiments/tuning.yaml"
    path.write_text(yaml.safe_dump({"extends": str(base), **TUNING}))
    tuning = load_experiment(path)
    assert tuning.tuned is None
    assert len(tuning.runs) == 12
    path.write_text(yaml.safe_dump({"extends": str(path.with_name("other.yaml")), "seeds": [3],
                                    "tuned": "tuning"}))  # fmt: skip
    path.with_name("other.yaml").write_text(yaml.safe_dump({"extends": str(base), **TUNING}))
    tuned_file(tmp_path / "experiments/tuned/tuning.yaml", place())
    reported = load_experiment(path)
    assert reported.tuning is None
    assert len(reported.runs) == 3


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
    values = {"sit": [{"a": 0}, {"a": 1}, {"a": 2}]}
    words = {"values": values, "definitions": {"sit": "d"}}
    found = best_trials(fids, {"sit": list(fids)}, [7, 8], {"sit": 8}, **words)["sit"]
    assert (found.trial, found.values, found.definition) == (1, {"a": 1}, "d")
    assert found.fids == (4.0, 3.5, 3.5)
    with pytest.raises(UserError, match="'sit-trial2': has no FID of seed 9 at 8"):
        best_trials(fids, {"sit": ["sit-trial2"]}, [9], {"sit": 8}, **words)
    with pytest.raises(UserError, match="'sit-trial1': has no FID of seed 7 at 4"):
        best_trials(fids, {"sit": list(fids)}, [7], {"sit": 4}, **words)


def test_a_best_number_beyond_which_nothing_was_tried_is_named():
    def arm(trial, **values):
        return TunedArm(trial=trial, fids=(1.0, 1.0, 1.0), values=values, definition="d")

    best = {"a": arm(0, rate=3, kind="x"), "b": arm(1, rate=1, kind="y"), "c": arm(2, rate=2)}
    tried = [{"rate": rate, "kind": kind} for rate, kind in ((1, "x"), (2, "y"), (3, "x"))]
    assert at_an_edge(best, {"a": tried, "b": tried, "c": tried}) == [
        "a: rate: the best, 3, is the largest that was tried",
        "b: rate: the best, 1, is the least that was tried",
    ]
    assert at_an_edge({"c": best["c"]}, {"c": [{"rate": 2}]}) == []  # it was not tuned


def test_what_is_written_is_asked_of_the_trials(place):
    study = Study(WorkflowConfig(experiments=(str(place(**TUNING)),)))
    tuning, tiny = Tuning(study), {"experiment": "tiny"}
    assert tuning.targets() == ["experiments/tuned/tiny.yaml"]
    assert tuning.arms(tiny)["sit"] == ["sit", "sit-trial1", "sit-trial2", "sit-trial3"]
    values = tuning.values(tiny)
    assert values["vae-align"][0] == {"training.learning_rate": 1e-3, "alignment.weight": 0.5}
    cells = TuningConfig(**TUNING["tuning"]).sampled()
    assert values["vae-align"][1:] == cells
    assert set(values["sit"][1]) == {"training.learning_rate"}
    assert tuning.steps(tiny) == dict.fromkeys(ARMS, 8)


# -- the report


def test_the_arms_follow_what_was_found(place, tmp_path):
    tuned_file(tmp_path / "experiments/tuned/tuning.yaml", place())
    experiment = load_experiment(place(tuned="tuning", seeds=[0, 1]))
    assert {run.training.learning_rate for run in experiment.runs.values()} == {5e-3}
    assert experiment.runs["vae-align"].alignments["vae-alignment"].weight == 0.25
    alike = place(seeds=[0, 1], training={"learning_rate": 5e-3})
    assert run_definition(load_experiment(alike), "sit", 0) == run_definition(experiment, "sit", 0)


def test_what_is_written_out_keeps_the_values_that_it_has(place, tmp_path):
    """Jobs read it, while a new tuning may be written; and so may who has the results alone."""
    path = tmp_path / "experiments/tuned/tuning.yaml"
    seal = tuned_file(path, place())["seal"]
    experiment = load_experiment(place(tuned="tuning", seeds=[0]))
    assert (experiment.tuned.experiment, experiment.tuned.digest) == ("tuning", seal)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    tuned_file(path, place(), rate=7e-3)
    assert load_experiment(resolved) == experiment
    path.unlink()
    assert load_experiment(resolved) == experiment


def test_a_tuning_that_is_absent_edited_or_of_other_arms_is_refused(place, tmp_path):
    path, plain = tmp_path / "experiments/tuned/tuning.yaml", place(name="plain")
    report = place(tuned="tuning", seeds=[0])
    with pytest.raises(
        ConfigError, match=r"'tuning' is neither .* nor a name in experiments/tuned"
    ):
        load_experiment(report)
    content = tuned_file(path, plain)
    content["runs"]["sit"]["values"]["training.learning_rate"] = 4e-3
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"tuning\.yaml: damaged, its description is not what"):
        load_experiment(report)
    content = tuned_file(path, plain)
    content = tuned_file(path, plain, runs={"sit": content["runs"]["sit"]})
    with pytest.raises(ConfigError, match="'tuning' has not tuned run 'vae-align'"):
        load_experiment(report)
    path.write_text(yaml.safe_dump({key: content[key] for key in content if key != "seal"}))
    with pytest.raises(UserError, match=r"tuning\.yaml"):
        load_experiment(report)
    tuned_file(path, plain, experiment="other")
    with pytest.raises(ConfigError, match=r"tuning\.yaml: is what 'other' found, not 'tuning'"):
        load_experiment(report)


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"training": {"checkpoints": [4, 8, 16]}}, True),
        ({"training": {"learning_rate": 9e-3}}, True),  # the tuned one stands over it
        ({"training": {"batch_size": 4}}, False),
        ({"model": {"depth": 3}}, False),
        ({"runs": {"sit": {"training": {"weight_decay": 0.1}}}}, False),
        ({"runs": {"vae-align": {"alignment": {"weight": 9.0}}}}, True),
        ({"runs": {"vae-align": {"alignment": {"stop_after": 6}}}}, True),
        ({"runs": {"vae-align": {"alignment": {"depth": 2}}}}, False),
    ],
)
def test_arms_are_reported_as_they_were_tuned(place, tmp_path, changes, allowed):
    tuned_file(tmp_path / "experiments/tuned/tuning.yaml", place(name="plain"))
    path = place(**merged({"tuned": "tuning", "seeds": [0]}, changes))
    if allowed:
        assert load_experiment(path).runs["sit"].training.learning_rate == 5e-3
        return
    with pytest.raises(ConfigError, match=r"is not as 'tuning' tuned it"):
        load_experiment(path)


def test_seeds_that_were_tuned_on_are_not_reported_on(place, tmp_path):
    tuned_file(tmp_path / "experiments/tuned/tuning.yaml", place())
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
    (steps,) = {run.training.checkpoints for run in tuning.runs.values()}
    assert steps == (1000,)  # of every arm alike, and of the file that they wrote
    assert steps[-1] >= reported[0].runs["sit"].training.checkpoints[-1] // 2


@pytest.mark.parametrize("name", ["scenes-methods", "scenes-methods-more"])
def test_every_arm_on_scenes_has_the_rate_that_was_best_for_it(name):
    file = REPOSITORY / "experiments/tuned/scenes-methods-tuning.yaml"
    found, reported = yaml.safe_load(file.read_text()), load_experiment(name)
    tuning = load_experiment("scenes-methods-tuning").tuning
    rates = [2e-3, *tuning.ranges["training.learning_rate"]]
    assert set(reported.runs) <= set(found["runs"])
    for arm, run in reported.runs.items():
        fids = found["runs"][arm]["fids"]
        assert run.training.learning_rate == rates[fids.index(min(fids))]
        assert min(fids) not in (fids[0], fids[-1])  # the least and the largest rate
