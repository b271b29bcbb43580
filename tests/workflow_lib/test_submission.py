"""What a job goes by is what was submitted, whatever is edited while it waits."""

import shutil
from pathlib import Path

import pytest
import yaml

from selftrans.config import load_experiment
from selftrans.runtime.errors import UserError
from tests.support import REPOSITORY
from tests.support.documents import example_method
from workflow.lib.paths import SUBMITTED
from workflow.lib.study import Study
from workflow.lib.submission import keep, study_of_job

JOB = {"experiment": "child", "run": "sit", "seed": 0, "step": 4}


@pytest.fixture
def project(tmp_path, monkeypatch, tiny) -> Path:
    """A folder with a workflow, an experiment and one that extends it."""
    for name in ("Snakefile", "workflow", "experiments"):
        source, copy = REPOSITORY / name, tmp_path / name
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    shutil.move(tiny(), tmp_path / "experiments/parent.yaml")
    content = yaml.safe_load((tmp_path / "experiments/parent.yaml").read_text())
    content["name"] = "parent"
    (tmp_path / "experiments/parent.yaml").write_text(yaml.safe_dump(content))
    write_child(tmp_path, 2e-3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_child(project, learning_rate):
    child = {"extends": "parent", "training": {"learning_rate": learning_rate}}
    (project / "experiments/child.yaml").write_text(yaml.safe_dump(child))


def submit(project, **settings) -> str:
    study = Study.load({"experiments": ["child"], **settings})
    study.write_resolved()
    return keep(study, project)


def test_a_job_sees_the_experiment_as_it_was(project):
    changes = {"digits": {"images": 1797}}
    digest = submit(project, data=changes, resources={"train": {"mem_mb": 4321}})
    write_child(project, 0.5)
    study = study_of_job(digest, project)
    assert study.known["child"].runs["sit"].training.learning_rate == 2e-3
    assert study.parents == {"child": "parent"}
    assert study.run_owner("child", "sit") == "child"
    assert study.resources["child"].train.mem_mb == 4321
    read = load_experiment(study.experiment_file(JOB))
    assert read == study.known["child"]
    assert Path(study.data_file(JOB)).parent == Path("results/data/digits")
    edited = Study.load({"experiments": ["child"]})
    assert edited.known["child"].runs["sit"].training.learning_rate == 0.5
    assert edited.experiment_file(JOB) == "results/child/experiment.yaml"


def test_equal_experiments_are_kept_once(project):
    assert submit(project) == submit(project)
    first = set(Path("results").rglob("*-*.yaml"))
    write_child(project, 0.5)
    assert submit(project) != submit(project, retries=7)
    assert len(set(Path("results").rglob("*-*.yaml")) - first) == 1


@pytest.mark.parametrize("file", ["Snakefile", "workflow/rules/train.smk", "workflow/lib/paths.py"])
def test_an_edited_workflow_stops_the_job(project, file):
    digest = submit(project)
    (project / file).write_text((project / file).read_text() + "# edited\n")
    with pytest.raises(UserError, match=rf"^{file}: was edited after this job was submitted"):
        study_of_job(digest, project)


def test_an_edited_method_of_the_users_own_stops_the_job(project):
    method = project / "experiments/my_methods.py"
    method.write_text(example_method())
    runs = {"own": {"alignment": {"method": "my_methods.py:MeanTeacher", "depth": 2}}}
    child = {"extends": "parent", "runs": runs}
    (project / "experiments/child.yaml").write_text(yaml.safe_dump(child))
    digest = submit(project)
    study_of_job(digest, project)
    text = method.read_text()
    method.write_text(text + "\nEDITED = True\n")
    with pytest.raises(UserError, match=r"^runs\.own of child: MeanTeacher: was edited"):
        study_of_job(digest, project)
    method.write_text(text + "\n# a comment\n")
    study_of_job(digest, project)


def test_what_was_kept_and_is_gone_stops_the_job(project):
    digest = submit(project)
    (project / SUBMITTED / f"{digest}.json").unlink()
    with pytest.raises(UserError, match="no such file"):
        study_of_job(digest, project)
