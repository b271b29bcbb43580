"""The documentation: every block of code is tried, and what is generated is complete."""

import ast
import os
import re
import subprocess
import tomllib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import click
import pytest
import yaml

import sitebuild.commands
from selftrans import api
from selftrans.cli.table import selftrans
from selftrans.config import load_dataset, load_experiment, validated
from selftrans.runtime.errors import ConfigError
from tests.support import REPOSITORY
from tests.support.documents import (
    DOCUMENTS,
    blocks,
    blocks_of,
    commands,
    commands_in_text,
    example_method,
)
from tests.support.projects import make_project
from tests.support.warm import warm_environment
from tests.support.workplace import Workplace
from workflow.lib.running import Call, write_changed
from workflow.lib.settings import WorkflowConfig

SHELL = [(block.place, words) for block in blocks("bash") for words in commands(block.text)]
FILE = re.compile(r"# (?:(?P<file>(?:experiments/\S+|config)\.yaml)|(?P<key>\w+):)\n")
OTHERS = {
    ".",
    "cd",
    "docker",
    "apptainer",
    "export",
    "git",
    "pip",
    "python3",
    "sbatch",
    "tensorboard",
}
"""Programs that are not ours."""


def of_program(*names):
    return [case for case in SHELL if case[1][0] in names]


def parse(words):
    """What a command line of ours is understood as: name of the command and its parameters.

    Nothing is run.
    """
    understood = []
    with mock.patch.object(click.Command, "invoke", lambda _, context: understood.append(context)):
        selftrans.main(words[1:], standalone_mode=False)
    return understood[-1].command.name, understood[-1].params


# -- commands


def test_every_block_has_a_language_that_is_tried():
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    languages = set(re.findall(r"^ *```(\w+)", text, re.MULTILINE))
    assert languages <= {"bash", "bibtex", "python", "text", "yaml"}
    programs = {words[0] for _, words in SHELL}
    assert programs <= {"make", "selftrans", "snakemake", *OTHERS}
    assert len(SHELL) > 40


@pytest.mark.parametrize(("place", "words"), of_program("selftrans"))
def test_every_command_of_ours_is_parsed(place, words):
    parse(words)


def test_the_examples_of_the_command_reference_are_parsed():
    examples = [
        words
        for block in blocks_of(sitebuild.commands.reference(), "commands")
        if block.language == "bash"
        for words in commands(block.text)
    ]
    assert len(examples) > 10
    for words in examples:
        end = next((i for i, word in enumerate(words) if word in "|>"), len(words))
        parse(words[:end])  # the shell's part is not ours


@pytest.mark.parametrize(
    "words", [["selftrans", "run", "digits", "--gpu", "1"], ["selftrans", "runs"]]
)
def test_a_broken_command_would_be_noticed(words):
    with pytest.raises(click.UsageError):
        parse(words)


@pytest.mark.parametrize(("place", "words"), of_program("make"))
def test_every_target_of_make_is_there(place, words):
    targets = re.findall(r"^([\w/.()$-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    named = [word for word in words[1:] if "=" not in word]
    assert {name.replace(".venv", "$(VENV)") for name in named} <= set(targets)


@pytest.mark.parametrize(("place", "words"), of_program("pip", "docker", "apptainer"))
def test_every_file_and_extra_of_an_installation_is_there(place, words):
    files = [word for word in words if re.match(r"envs/|pins\.txt", word)]
    assert all((REPOSITORY / name).is_file() for name in files), files
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(re.findall(r"\[(\w+)\]", " ".join(words))) <= set(extras)


# -- files


class Documented:
    """A copy of the project with the files that the documentation shows.

    A part of a file is headed by its key, for instance ``# runs:``, and becomes an experiment.
    """

    def __init__(self, directory):
        self.directory = Workplace(directory).directory
        (directory / "experiments/my_methods.py").write_text(example_method())
        (directory / "experiments/SiT-XL-2-256.pt").touch()  # what one of them imports
        self.configurations, self.files = {}, {}
        for number, block in enumerate(blocks("yaml")):
            head, values = FILE.match(block.text), yaml.safe_load(block.text)
            assert head or "extends" in values, f"{block.place}: names no file"
            if head and head["file"] == "config.yaml":
                self.configurations[block.place] = values
                continue
            file = head["file"] if head and head["file"] else f"experiments/block{number}.yaml"
            if head and head["key"]:
                values = {"extends": "imagenet256-b2", head["key"]: values}
            if (directory / file).exists():  # shown twice
                file = file.replace(".yaml", f"-{number}.yaml")
            name = {} if "/data/" in file else {"name": Path(file).stem}
            (directory / file).write_text(yaml.safe_dump({**values, **name}))
            self.files[block.place] = file


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Documented(tmp_path_factory.mktemp("documented"))


@pytest.fixture
def there(files, monkeypatch):
    monkeypatch.chdir(files.directory)
    return files


def test_every_file_that_is_shown_is_valid(there):
    assert len(there.files) > 15
    for place, file in there.files.items():
        try:
            (load_dataset if "/data/" in file else load_experiment)(file)
        except ConfigError as error:
            pytest.fail(f"{place}: {error}")


def test_every_configuration_that_is_shown_is_valid(there):
    assert len(there.configurations) > 3
    for place, values in there.configurations.items():
        settings = validated(WorkflowConfig, values, place)
        for name in settings.references():
            settings.job_kinds(load_experiment(name, settings.data))


def run_words(words):
    """Snakemake's words of a line of `selftrans run`; a changed experiment is written."""
    given = parse(words)[1]
    experiments = given["experiments"]
    if given["changes"]:
        path, _ = write_changed(*experiments, given["changes"], given["name"])
        experiments = (path.stem,)
    return Call(
        experiments, given["until"], given["cores"], given["gpus"], given["profile"],
        others=given["others"],
    ).words()  # fmt: skip


@dataclass
class Dry:
    """What the calls of one profile ask for, all together."""

    targets: set = field(default_factory=set)
    experiments: set = field(default_factory=set)
    config: dict = field(default_factory=dict)
    resources: set = field(default_factory=set)

    def words(self):
        names = f"experiments=[{','.join(sorted(self.experiments))}]"
        others = [f"{key}={value}" for key, value in self.config.items()]
        resources = ["--resources", *sorted(self.resources)] if self.resources else []
        return ["all", *sorted(self.targets), *resources, "--config", names, *others]


def dry_runs():
    """The calls of Snakemake, also those that `selftrans run` stands for, by profile."""
    from snakemake.cli import get_argument_parser

    cases = of_program("snakemake")
    cases += [(place, run_words(words)) for place, words in of_program("selftrans")
              if parse(words)[0] == "run"]  # fmt: skip
    for _, words in commands_in_text():
        if words[0] == "snakemake":
            get_argument_parser().parse_args(words[1:])
    calls = defaultdict(Dry)
    for place, words in cases:
        given = get_argument_parser().parse_args(words[1:])
        config = dict(entry.split("=", 1) for entry in given.config or () if entry is not None)
        call = calls[given.workflow_profile]
        names = re.findall(r"[\w./-]+", config.pop("experiments", ""))
        values = {key: yaml.safe_load(value) for key, value in config.items()}
        validated(WorkflowConfig, {"experiments": ["digits"], **values}, place)
        call.config.update(config)
        call.targets.update(given.targets)
        call.experiments.update(names)
        call.resources.update(word for word in words if re.fullmatch(r"gpu=\d+", word))
    return calls


@pytest.mark.slow
@pytest.mark.workflow
def test_every_call_of_snakemake_is_a_dry_run(there):
    """One for each profile, over all of its targets and experiments."""
    calls = dry_runs()
    assert set(calls) == {None, "workflow/profiles/slurm", "workflow/profiles/generic"}
    assert calls[None].resources
    for profile, call in calls.items():
        option = ["--workflow-profile", profile] if profile else ["--cores", "2"]
        command = ["snakemake", "-n", "--quiet", "all", *option]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **warm_environment()}
        ended = subprocess.run(
            [*command, *call.words()], cwd=there.directory, env=environment, capture_output=True,
            text=True,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]


def test_a_change_that_an_experiment_does_not_take_would_be_noticed(there):
    words = ["selftrans", "run", "digits", "--set", "runs.sit.training.learningrate=1"]
    with pytest.raises(ConfigError, match="learningrate"):
        run_words(words)


def test_every_command_in_the_text_is_there():
    """Whole ones are parsed; `selftrans plan` alone is a name."""
    seen = list(commands_in_text())
    assert len(seen) > 20
    for place, words in seen:
        if words[0] != "selftrans" or {"...", "COMMAND", "--help"} & set(words):
            continue
        assert words[1] in selftrans.list_commands(click.Context(selftrans)), place
        if len(words) > 2:
            parse(words)


def test_every_experiment_that_a_command_names_is_there(there):
    shipped = {path.stem for path in (REPOSITORY / "experiments").glob("*.yaml")}
    shown = {Path(file).stem for file in there.files.values() if "/data/" not in file}
    for place, words in of_program("selftrans"):
        named = parse(words)[1].get("experiments", ())
        assert set(named) <= shipped | shown, place


# -- Python


def test_every_python_block_is_code():
    for block in blocks("python"):
        ast.parse(block.text)


@pytest.mark.slow
def test_every_python_block_runs(
    tmp_path_factory, manifest, autoencoder, encoder, features, monkeypatch
):
    """On the results of a tiny experiment; metrics, which need a feature network, are left out."""
    folder = tmp_path_factory.mktemp("project")
    make_project(folder, manifest, autoencoder, encoder, features)
    monkeypatch.chdir(folder)
    api.load_run("tiny", "sit", step=4, device="cpu").export_pipeline("sit-digits")
    for block in blocks("python"):
        if "class " in block.text:
            exec(compile(block.text, block.place, "exec"), {})
            continue
        code = re.sub(r"\b3000\b", "4", block.text)
        code = re.sub(r'(\(|"extends": )"digits"', r'\1"tiny"', code)
        code = code.replace("results/digits", "results/tiny")
        code = re.sub(r"^.*\.metrics\(.*\n", "", code, flags=re.MULTILINE)
        names = {}
        exec(compile(code, block.place, "exec"), names)
        assert len(names) > 2
