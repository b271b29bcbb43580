"""The project itself: pins, imports, README. Its static checks are those of `make check`."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import selftrans
from tests.support import HEAVY, REPOSITORY
from tests.support.programs import imported_by
from tests.support.trainings import words_of
from tests.support.workplace import copy_project
from workflow.lib.settings import WorkflowConfig


def pins():
    lines = (REPOSITORY / "pins.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


RUN_TIME_EXTRAS = ("hub", "text", "wandb")


def requirements(*extras):
    """What the package needs, by name in lower case, with those extras."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lists = [
        project["dependencies"],
        *(project["optional-dependencies"][extra] for extra in extras),
    ]
    named = [Requirement(text) for given in lists for text in given]
    return {one.name.lower(): one for one in named}


def test_bounds_are_the_lowest_versions_that_were_tried_and_admit_the_pins():
    pinned = {name.lower(): version for name, version in pins().items()}
    for name, requirement in requirements(*RUN_TIME_EXTRAS).items():
        (bound,) = requirement.specifier
        assert bound.operator == ">=", name
        assert requirement.specifier.contains(pinned[name]), name


def test_every_tool_is_pinned_in_the_one_place():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {*RUN_TIME_EXTRAS, "dev", "docs", "notebooks", "test"}
    named = [
        Requirement(text) for extra in set(extras) - set(RUN_TIME_EXTRAS) for text in extras[extra]
    ]
    tools = {one.name.lower(): one for one in named}
    everything = tools.pop("selftrans")
    assert everything.extras == set(extras) - {"dev"}
    assert not any(tool.specifier for tool in tools.values()), "versions stand in pins.txt alone"
    assert set(tools) <= {name.lower() for name in pins()}


def test_the_environments_have_the_same_pins():
    install = f"pip install -c pins.txt -e '.[{','.join(RUN_TIME_EXTRAS)}]'"
    for path in (REPOSITORY / "envs").glob("*.yaml"):
        *_, listed = yaml.safe_load(path.read_text())["dependencies"]
        given = dict(line.split("==") for line in listed["pip"])
        assert given.items() <= pins().items()
        assert set(requirements(*RUN_TIME_EXTRAS)) == {name.lower() for name in given}
        assert install in path.with_suffix(".post-deploy.sh").read_text()


def test_what_is_installed_is_what_is_pinned():
    installed = {
        part.metadata["Name"].lower().replace("_", "-"): part.version for part in distributions()
    }
    there = {
        name: pinned
        for name, pinned in pins().items()
        if name.lower().replace("_", "-") in installed
    }
    assert len(there) > 0.9 * len(pins())  # some are for other platforms
    found = {name: installed[name.lower().replace("_", "-")].split("+")[0] for name in there}
    assert found == there


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_package_knows_no_rule_and_no_layout_of_results():
    """Import contracts, part of make check, keep it from importing the workflow."""
    known = re.compile(r"results/|config\.yaml|[Ss]nakemake|train_segment|generate_samples")
    assert known.search("generate_samples")
    for path in (REPOSITORY / "selftrans").rglob("*.py"):
        if path.parent.name == "cli":
            continue  # its examples are for people
        assert not known.search(path.read_text()), path


def loaded_by(module):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("selftrans.config", set()),
        ("selftrans.flops", set()),
        ("selftrans.runs", set()),
        ("selftrans.training.definition", set()),
        ("selftrans.evaluation.metrics", {"scipy"}),
        ("selftrans.evaluation.tables", {"pandas"}),
        ("selftrans.plotting.curves", {"pandas", "matplotlib"}),
        ("selftrans.plotting.samples", {"matplotlib"}),
        ("selftrans.plotting.features", {"pandas", "matplotlib"}),
        ("selftrans.evaluation.comparison", {"pandas", "scipy"}),
        ("selftrans.evaluation.probes", {"pandas"}),
        ("selftrans.training.freeze", {"torch"}),
        ("selftrans.sampling.generate", {"torch"}),
        ("selftrans.models.sit", {"torch"}),
        ("selftrans.convert", {"torch"}),
        ("selftrans.evaluation.compute_statistics", {"torch", "scipy"}),
        ("selftrans.training.trainer", {"torch", "accelerate"}),
    ],
)
def test_nothing_imports_what_it_does_not_need(module, allowed):
    assert loaded_by(module) & HEAVY <= allowed


@pytest.mark.slow
def test_a_training_imports_no_more_than_it_needs(tiny, tmp_path, manifest, teacher):
    """From the command line to its checkpoint."""
    arm, directory = "self-transcendence", tmp_path / "run"
    words = words_of(tiny(), arm, directory, manifest, 4, teacher, "--device", "cpu")
    packages, _ = imported_by(*words[3:])
    assert (directory / "checkpoints/4/ema.safetensors").is_file()
    assert packages & HEAVY == {"torch", "accelerate"}


@pytest.mark.slow
def test_an_installed_package_has_its_types(tmp_path):
    """A type checker of somebody's own project, by a plain install."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    copy_project(tmp_path / "source", "pyproject.toml", "README.md", "LICENSE", "selftrans")
    subprocess.run([*pip, "--target", tmp_path / "site", tmp_path / "source"], check=True)
    (tmp_path / "mine.py").write_text(
        "from selftrans.config import load_experiment\n"
        'seeds: tuple[int, ...] = load_experiment("digits").seeds\n'
        "wrong: str = seeds\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "mine.py"],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": "", "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert 'mine.py:3: error: Incompatible types in assignment (expression has type "tuple[int' in (
        ended.stdout
    )
    assert "Found 1 error" in ended.stdout


def test_the_readme_opens_with_a_picture_and_the_two_commands():
    text = (REPOSITORY / "README.md").read_text()
    first = text.split("## ")[0]
    assert first.index("![") < first.index("make demo") < first.index("make test")
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        path = REPOSITORY / picture
        assert path.is_file(), picture
        assert path.stat().st_size < 400_000, picture


def test_the_readmes_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", (REPOSITORY / "README.md").read_text()):
        assert (REPOSITORY / target).exists(), target


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert cited["version"] == selftrans.__version__
    assert f"version = {{{cited['version']}}}" in (REPOSITORY / "README.md").read_text()
    assert cited["references"][0]["url"] in (REPOSITORY / "README.md").read_text()


def test_the_checks_of_a_change_are_makes():
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/check.yml").read_text())
    steps = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    assert steps == ["make check", "make test-fast"]
    assert {"check:", "test-fast:"} <= set(re.findall(r"^[\w-]+:", makefile(), re.MULTILINE))
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"][0][
        "hooks"
    ]
    for hook in hooks:
        assert f"$(run) {hook['entry'].split()[0]}" in makefile()


def makefile():
    return (REPOSITORY / "Makefile").read_text()


def test_the_catalogues_page_names_every_key_of_config_yaml():
    page = (REPOSITORY / "config/README.md").read_text()
    for key in WorkflowConfig.model_fields:
        assert f"`{key}`" in page


def test_make_and_ci_use_the_one_place():
    assert "-c pins.txt" in Path("Makefile").read_text()
    assert "make test" in Path(".ci/run").read_text()


def test_make_test_runs_the_static_checks():
    text = Path("Makefile").read_text()
    assert re.search(r"^test: check$", text, re.MULTILINE)
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[1]
    checks = (
        "ruff format --check .",
        "ruff check .",
        "mypy",
        "snakefmt --check",
        "snakemake --lint",
        "lint-imports",
    )
    assert all(f"$(run) {check}" in recipe for check in checks)
    assert "$(build-docs)" in recipe
    assert re.search(r"^build-docs = .*python -m mkdocs build --strict$", text, re.MULTILINE)


def imports_in(path):
    return {name for name in imports_of(path) if name.startswith("tests")}


def test_tests_share_only_what_stands_in_support():
    """No test imports from a test module or from a conftest."""
    for path in (REPOSITORY / "tests").rglob("*.py"):
        package = ".".join(path.relative_to(REPOSITORY).parent.parts)
        shared = ("tests.support", package) if package != "tests" else ("tests.support",)
        for name in imports_in(path):
            assert name.startswith(shared), f"{path}: {name}"
            assert not name.rpartition(".")[2].startswith(("test_", "conftest")), f"{path}: {name}"


@pytest.mark.parametrize("recipe", ["envs/Dockerfile", "envs/selftrans.def"])
def test_container_recipes_take_the_pins_and_name_no_version(recipe):
    text = (REPOSITORY / recipe).read_text()
    assert "pip install --no-cache-dir -c pins.txt '.[hub,text,wandb]'" in text
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for name in requirements(*RUN_TIME_EXTRAS):
        assert not re.search(rf"\b{re.escape(name)}\b\s*[=<>~]", text)
    copied = re.findall(r"^COPY (.+) \S+$|^    (\S+) /opt/selftrans/", text, re.MULTILINE)
    assert copied
    for names in copied:
        assert all(
            (REPOSITORY / name.removeprefix("./")).exists() for name in " ".join(names).split()
        ), names
    # What the wheel is built from lies in the image.
    for needed in (
        "pyproject.toml",
        project["readme"],
        *project["license-files"],
        "selftrans",
        "pins.txt",
    ):
        assert re.search(rf"(^|\s){re.escape(needed)}\s", text), needed
