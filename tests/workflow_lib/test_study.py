"""The study: what is refused before any job, who owns what, which names rules are restricted to."""

import json
import re
import string
from pathlib import Path

import pytest
import yaml

from selftrans.config import run_definition
from selftrans.runtime.errors import UserError
from tests.support.studies import IMPORTED
from workflow.lib import paths
from workflow.lib.study import Study, one_of

TWO_SEEDS_IMPORTED = {"runs": {"public": {"imported": IMPORTED}}, "seeds": [0, 1]}
TWO_SEEDS_IMPORTED["figures.sample_checkpoints"] = [5]
ONE_IMPORTED = {"name": "other", "runs": {"sit": {"imported": IMPORTED}}}
ONE_IMPORTED["figures.sample_checkpoints"] = [5]


@pytest.mark.parametrize(
    ("experiments", "settings", "message"),
    [
        (({"name": "a"}, {"name": "a"}), {}, "config.yaml: experiments: 'a' is listed twice"),
        (
            (TWO_SEEDS_IMPORTED,),
            {},
            "runs.public.imported: a checkpoint has one seed, the experiment has 2",
        ),
        (({}, ONE_IMPORTED), {}, "run 'sit' is trained in one of them and imported in another"),
        (
            ({},),
            {"resources": {"train": {"gpu": 3}}},
            "training.batch_size: 8 is not a multiple of 3 processes",
        ),
        (({},), {"resources": {"train": {"gpu": "many"}}}, "config.yaml: resources: train.gpu: "),
        (
            ({},),
            {"data": {"digitz": {"images": 3}}},
            "config.yaml: data: 'digitz' is not a data file (allowed: ",
        ),
        (({},), {"gpus": 8}, "config.yaml: gpus: unknown key"),
        (({},), {"rates": {"bf16": 0}}, "config.yaml: rates.bf16: "),
        (({},), {"retries": -1}, "config.yaml: retries: "),
    ],
)
def test_what_cannot_be_done_is_one_line(make_study, experiments, settings, message):
    with pytest.raises(UserError) as refused:
        make_study(*experiments, **settings)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_name_for_two_data_sets_is_refused(make_study, tmp_path):
    values = {"source": {"kind": "digits"}, "image_size": 32, "autoencoder": {"kind": "trained"}}
    for size in (32, 64):
        (tmp_path / f"{size}").mkdir()
        path = tmp_path / f"{size}/same.yaml"
        path.write_text(yaml.safe_dump({**values, "image_size": size}))
    with pytest.raises(UserError, match="data: 'same' is defined otherwise by another experiment"):
        make_study(
            {"data": str(tmp_path / "32/same.yaml")}, {"data": str(tmp_path / "64/same.yaml")}
        )


def test_no_experiment_is_refused():
    with pytest.raises(UserError, match=r"config\.yaml: experiments"):
        Study.load({"experiments": ()})


def test_a_single_name_is_an_experiment():
    assert list(Study.load({"experiments": "digits"}).experiments) == ["digits"]


def test_a_run_trained_under_another_definition_is_refused(make_study, tmp_path, monkeypatch):
    study = make_study({"seeds": [0, 3]})
    monkeypatch.chdir(tmp_path)
    study.check_trained_runs()
    definition = run_definition(study.experiments["tiny"], "sit", 3)
    definition["training"]["learning_rate"] = 0.5
    definition |= {"inputs": {}, "precision": "fp32"}
    directory = tmp_path / "results/tiny/runs/sit/seed3"
    directory.mkdir(parents=True)
    (directory / "definition.json").write_text(json.dumps(definition))
    with pytest.raises(
        UserError, match=r"results/tiny/runs/sit/seed3: .*learning_rate \(trained: 0.5"
    ):
        study.check_trained_runs()


def test_resolved_files_are_written_once(make_study, tmp_path, monkeypatch):
    study = make_study()
    monkeypatch.chdir(tmp_path)
    study.write_resolved()
    written = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*.yaml")}
    assert {str(path) for path in written} == {
        "results/tiny/experiment.yaml", "results/data/digits/data.yaml"
    }  # fmt: skip
    study.write_resolved()
    assert written == {path: path.stat().st_mtime_ns for path in written}
    resolved = yaml.safe_load(Path("results/tiny/experiment.yaml").read_text())
    assert resolved["runs"]["sit"]["training"]["clip_norm"] == 1.0


def test_every_result_lies_with_its_experiment(make_study):
    study = make_study()
    assert study.run_owner("tiny", "sit") == "tiny"
    assert study.samples_owner("tiny", "sit", "ode") == "tiny"
    assert study.metrics_owner("tiny", "sit", "ode", "classifier") == "tiny"
    assert study.features_owner("tiny", "sit") == study.probes_owner("tiny", "sit") == "tiny"
    assert study.checkpoints_of("tiny", "sit") == (4, 8)
    assert study.seeds_of("tiny", "sit") == (0,)


@pytest.mark.parametrize(
    ("names", "admitted", "refused"),
    [
        (["sit", "a.b"], ["sit", "a.b"], ["sitt", "axb", ""]),
        ([], [], ["", "sit"]),
    ],
)
def test_a_constraint_admits_its_names_alone(names, admitted, refused):
    pattern = re.compile(f"(?:{one_of(names)})")
    assert all(pattern.fullmatch(name) for name in admitted)
    assert not any(pattern.fullmatch(name) for name in refused)


def test_every_wildcard_of_a_path_is_constrained(make_study):
    constraints = make_study().wildcard_constraints()
    templates = [value for value in vars(paths).values() if isinstance(value, str)]
    used = {
        field
        for template in templates
        if template.startswith("results/")
        for _, field, _, _ in string.Formatter().parse(template)
        if field
    }
    assert "sampler" in used
    assert used <= constraints.keys()


def test_constraints_name_what_the_experiments_have(make_study):
    vary = {"alignment.guidance_scale": [2, 5]}
    study = make_study({"grids": {"w": {"run": "self-transcendence", "vary": vary}}}, {"name": "b"})
    constraints = study.wildcard_constraints()
    assert re.fullmatch(constraints["run"], "w-5")
    assert re.fullmatch(constraints["grid"], "w")
    assert re.fullmatch(constraints["experiment"], "b")
    assert not re.fullmatch(constraints["sweep"], "w")


def test_experiments_are_told_apart_for_rules(make_study):
    study = make_study(
        {"evaluation.keep_samples": False},
        {"name": "b", "resources": {"train": {"processes": 2, "nodes": 2}}, "analysis": {}},
    )
    assert study.keeping_samples == ("b",)
    assert study.experiments_except(study.keeping_samples) == ("tiny",)
    assert study.on_one_node == ("tiny",)
    assert study.analysed == ("b",)
    assert study.imported_runs == ()
    assert "sit" in study.trained_runs


def test_a_job_asks_for_what_its_experiment_says(make_study):
    study = make_study(
        {"resources": {"data": {"threads": 2}}},
        {"name": "b", "resources": {"data": {"threads": 3}}},
    )
    assert study.resources_of({"experiment": "b", "run": "sit"}).data.threads == 3
    assert study.resources_of({"dataset": "digits"}).data.threads == 2  # the first that uses it


def test_config_yaml_changes_what_every_experiment_asks_for(make_study):
    study = make_study(
        {"resources": {"train": {"threads": 2}}}, resources={"train": {"threads": 5}}
    )
    assert study.resources["tiny"].train.threads == 5
