"""What an experiment leaves as it is belongs to the experiment that it extends."""

import json
from pathlib import Path

import pytest
import yaml

from selftrans.config import run_definition
from selftrans.runtime.errors import ConfigError, UserError
from tests.support.experiments import tiny_values
from workflow.lib.evaluation import Evaluation
from workflow.lib.figures import Figures
from workflow.lib.study import Study
from workflow.lib.training import Training

RUNS = ("sit", "vae-align", "self-transcendence")
ODE = {"sampler": "euler", "num_steps": 2, "num_samples": 20}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of a parent and of a child that says something else, or of one of the two."""

    def make(child="", *, requested=("child",), parent=None, **settings):
        values = tiny_values(**{"name": "parent", **(parent or {})})
        (tmp_path / "parent.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        (tmp_path / "child.yaml").write_text(f"extends: parent.yaml\nname: child\n{child}\n")
        references = tuple(str(tmp_path / f"{name}.yaml") for name in requested)
        return Study.load({"experiments": references, **settings})

    experiments = Path("experiments").resolve()
    (tmp_path / "experiments").symlink_to(experiments)
    monkeypatch.chdir(tmp_path)
    return make


def owners(study, name="child"):
    return {run: study.run_owner(name, run) for run in study.known[name].runs}


def jobs(study):
    found = Training(study, str).jobs()
    return {(job["experiment"], job["run"], job["seed"], job["step"]) for job in found}


def test_what_is_not_changed_is_the_parents(study):
    assert owners(study("runs: {more: {}}")) == {**dict.fromkeys(RUNS, "parent"), "more": "child"}
    assert owners(study("", requested=("parent",)), "parent") == dict.fromkeys(RUNS, "parent")


def test_a_checkpoint_that_only_a_child_has_is_said_to_be_inserted(study):
    training = Training(study("runs: {sit: {training: {checkpoints: [4, 6, 8]}}}"), str)
    segments = [job for job in training.jobs() if job["run"] == "sit"]
    assert {job["step"]: training.inserted(job) for job in segments} == {
        4: "", 6: "--inserted", 8: "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "own"),
    [
        ("runs: {sit: {label: another name}}", ()),
        ("runs: {sit: {training: {checkpoints: [4, 6, 8]}}}", ()),
        ("runs: {sit: {training: {compile: true, log_every: 1, save_minutes: 3}}}", ()),
        ("seeds: [0, 1]\nevaluation: {metrics: [fid]}\nfigures: {dpi: 100}", ()),
        ("resources: {train: {threads: 2}}", ()),
        ("runs: {sit: {training: {learning_rate: 0.5}}}", ("sit",)),
        ("runs: {sit: {model: {depth: 5}}}", ("sit",)),
        ("runs: {self-transcendence: {alignment: {guidance_scale: 3}}}", RUNS[2:]),
        ("runs: {vae-align: {alignment: {depth: 2}}}", RUNS[1:]),  # its student follows it
        ("runs: {self-transcendence: {alignment: {teacher: {step: 8}}}}", RUNS[2:]),
        ("training: {batch_size: 16}", RUNS),
        ("model: {mlp_ratio: 2.0}", RUNS),
        ("data: other", RUNS),
    ],
)
def test_what_is_changed_is_the_childs(study, change, own, tmp_path):
    (tmp_path / "other.yaml").write_text("extends: digits\nlatents: {flip: true}\n")
    change = change.replace("data: other", "data: other.yaml")
    assert owners(study(change)) == {run: "child" if run in own else "parent" for run in RUNS}


def test_another_method_is_the_childs_and_keeps_no_key_of_the_former(study):
    layersync = "{method: layersync, student_depth: 1, teacher_depth: 2}"
    found = study(f"runs: {{vae-align: {{alignment: {layersync}}}}}")
    assert owners(found) == dict(zip(RUNS, ("parent", "child", "child"), strict=True))


def test_a_child_trains_only_what_it_adds_or_changes(study):
    first = jobs(study(requested=("parent",)))
    assert jobs(study("runs: {more: {}}")) - first == {
        ("child", "more", 0, step) for step in (4, 8)
    }
    assert jobs(study("runs: {sit: null}")) == {job for job in first if job[1] != "sit"}
    both = jobs(study("runs: {more: {}}", requested=("parent", "child")))
    assert both == first | {("child", "more", 0, step) for step in (4, 8)}


def test_seeds_and_checkpoints_are_those_of_all_that_are_requested(study):
    child = "seeds: [0, 3]\ntraining: {checkpoints: [4, 6, 8]}"
    found = study(child, requested=("parent", "child"))
    assert found.checkpoints_of("parent", "sit") == (4, 6, 8)
    assert found.seeds_of("parent", "sit") == (0, 3)
    alone = study(child)
    assert alone.checkpoints_of("parent", "sit") == (4, 6, 8)
    missing = jobs(alone) - jobs(study(requested=("parent",)))
    assert missing == {("parent", run, 0, 6) for run in RUNS} | {
        ("parent", run, 3, step) for run in RUNS for step in (4, 6, 8)
    }


def test_a_grandchild_shares_with_whoever_has_it_unchanged(study, tmp_path):
    study("runs: {more: {}}")
    (tmp_path / "grandchild.yaml").write_text(
        "extends: child.yaml\nname: grandchild\nruns: {sit: {training: {betas: [0.5, 0.5]}}}\n"
    )
    found = Study.load({"experiments": (str(tmp_path / "grandchild.yaml"),)})
    assert owners(found, "grandchild") == {
        "sit": "grandchild", "vae-align": "parent", "self-transcendence": "parent", "more": "child",
    }  # fmt: skip
    assert list(found.experiments) == ["grandchild"]
    assert set(found.known) == {"parent", "child", "grandchild"}
    assert set(found.wildcard_constraints()["experiment"].split("|")) == set(found.known)


def test_jobs_request_what_the_owners_file_says(study):
    found = study("resources: {train: {threads: 7}}\nruns: {more: {}}")
    threads = {name: found.resources_of({"experiment": name}).train.threads for name in found.known}
    assert threads == {"parent": 1, "child": 7}


def test_what_was_trained_under_the_childs_own_path_stays_in_use(study):
    own = Path("results/child/runs/sit/seed0/checkpoints/4")
    own.mkdir(parents=True)
    assert owners(study())["sit"] == "child"
    assert owners(study())["vae-align"] == "parent"
    Path("results/parent/runs/sit/seed0/checkpoints/4").mkdir(parents=True)
    assert owners(study())["sit"] == "parent"


def test_the_message_that_protects_a_run_names_those_that_share_it(study):
    found = study(requested=("parent", "child"))
    definition = run_definition(found.known["parent"], "sit", 0)
    definition["training"]["learning_rate"] = 0.5
    definition |= {"inputs": {}, "precision": "fp32"}
    directory = Path("results/parent/runs/sit/seed0")
    directory.mkdir(parents=True)
    (directory / "definition.json").write_text(json.dumps(definition))
    with pytest.raises(UserError) as caught:
        found.check_trained_runs()
    assert "training.learning_rate (trained: 0.5, now: 0.001)" in str(caught.value)
    assert "It is shared by parent, child." in str(caught.value)
    assert str(caught.value).startswith("results/parent/runs/sit/seed0: ")


@pytest.mark.parametrize(
    ("change", "samples", "metrics"),
    [
        ("", "parent", "parent"),
        (
            (
                "evaluation: {samplers: {ode: {checkpoints: last}}}\n"
                "figures: {sample_checkpoints: [8]}"
            ),
            "parent",
            "parent",
        ),
        ("evaluation: {metrics: [fid]}", "parent", "child"),
        ("evaluation: {metrics: [fid, precision], distances: adm}", "parent", "child"),
        ("evaluation: {samplers: {ode: {num_steps: 3}}}", "child", "child"),
        ("evaluation: {samplers: {ode: {guidance: {scale: 2.0}}}}", "child", "child"),
    ],
)
def test_samples_and_metrics_are_shared_while_their_definitions_are_equal(
    study, change, samples, metrics
):
    found = study(change)
    assert found.samples_owner("child", "sit", "ode") == samples
    assert found.metrics_owner("child", "sit", "ode", "classifier") == metrics
    evaluation = Evaluation(found)
    (first, *_) = evaluation.sample_sets("child", "ode", (8,))
    assert evaluation.owned_samples(first)["experiment"] == samples
    owned = evaluation.owned_metrics(first, "classifier")
    assert owned["experiment"] == metrics
    # The job that makes the metrics finds the samples where their owner has them.
    assert evaluation.statistics(owned).startswith(f"results/{samples}/runs/sit/seed0/samples/")
    weights = evaluation.weights_to_sample({**first, "experiment": samples})
    assert weights == "results/parent/runs/sit/seed0/checkpoints/8/ema.safetensors"


def test_a_sampler_that_is_added_samples_the_parents_weights(study):
    found = study("evaluation: {samplers: {more: {sampler: heun, num_steps: 2, num_samples: 5}}}")
    assert found.samples_owner("child", "sit", "more") == "child"
    assert found.samples_owner("child", "sit", "ode") == "parent"


@pytest.mark.parametrize(
    ("change", "features", "probes"),
    [
        ("analysis: {neighbours: 20}", "parent", "parent"),
        ("analysis: {neighbours: 5}", "parent", "child"),
        ("analysis: {num_images: 7}", "child", "child"),
        ("training: {checkpoints: [4, 6, 8]}", "child", "child"),
    ],
)
def test_features_and_probes_are_shared_alike(study, change, features, probes):
    found = study(change, parent={"analysis": {"num_images": 50}})
    assert found.features_owner("child", "sit") == features
    assert found.probes_owner("child", "sit") == probes


@pytest.mark.parametrize(
    ("change", "owner"),
    [
        ("runs: {sit: {label: SiT}}", "parent"),
        ("evaluation: {samplers: {sde: {sampler: euler-maruyama, seed: 4}}}", "parent"),
        ("evaluation: {samplers: {sde: {sampler: euler, labels: random}}}", "child"),
        ("figures: {sample_columns: 4}", "child"),
    ],
)
def test_real_images_beside_samples_are_shared_while_the_same_classes_are_shown(
    study, change, owner
):
    shared = study(change)
    assert shared.examples_owner("child") == owner
    figures = Figures(shared, Training(shared, str), Evaluation(shared))
    assert figures.examples({"experiment": "child"}) == f"results/{owner}/examples.npz"
    assert figures.columns({"experiment": owner})  # of a parent that was not requested


def test_features_are_the_childs_where_the_parent_has_none(study):
    found = study("analysis: {num_images: 50}")
    assert found.features_owner("child", "sit") == "child"


def test_two_files_of_one_name_are_refused(study, tmp_path):
    study()
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\nname: parent\n")
    with pytest.raises(
        ConfigError, match=r"child\.yaml: name: 'parent' is the name of what it extends"
    ):
        Study.load({"experiments": (str(tmp_path / "child.yaml"),)})


def test_an_imported_run_is_shared_while_it_is_the_same_file(study):
    imported = {"file": "public.pt", "convention": "noise-at-1", "step": 5}
    parent = {"runs.public": {"imported": imported}, "seeds": [0]}
    assert study("", parent=parent).run_owner("child", "public") == "parent"
    found = study("runs: {public: {imported: {scale: 0.5}}}", parent=parent)
    assert found.run_owner("child", "public") == "child"


def test_results_keep_the_defaults_that_they_were_made_with(study, monkeypatch):
    """A child without results of its own has those of its parent."""
    from selftrans.config import TrainingConfig, defaults

    monkeypatch.setitem(defaults.FORMER, "TrainingConfig.eps", {1: 1e-8})
    monkeypatch.setattr(TrainingConfig.model_fields["eps"], "default", 1e-6)
    monkeypatch.setattr(defaults, "VERSION", 2)
    Path("results/parent").mkdir(parents=True)
    Path("results/parent/experiment.yaml").write_text("defaults: 1\n")
    found = study()
    assert {name: one.training.eps for name, one in found.known.items()} == {
        "parent": 1e-8, "child": 1e-8,
    }  # fmt: skip
    assert owners(found) == dict.fromkeys(RUNS, "parent")


def test_trials_of_a_tuning_are_its_own(study):
    """Its parent's runs become others once what was found is used."""
    tuning = "tuning: {trials: 2, search: grid, ranges: {training.learning_rate: [3e-3]}}"
    found = owners(study(tuning))
    assert set(found) > set(RUNS)
    assert set(found.values()) == {"child"}
