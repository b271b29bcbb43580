"""Command lines: what they say of themselves, and how they end on a mistake of their user."""

import subprocess
import sys

import pytest

from tests.support import REPOSITORY
from tests.support.programs import last_line, run_module

COMMANDS = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__main__")
    for path in (REPOSITORY / "selftrans").rglob("*.py")
    if "run_main(main)" in path.read_text()
)
"""All modules that are command lines."""
MODULES = {
    "selftrans.training": ("digits", "--run", "x", "--seed", 0, "--until", 1, "--latents", "x"),
    "selftrans.evaluation": ("nowhere.npz", "--reference", "nowhere.npz"),
    "selftrans.convert": ("import", "nowhere.pt", "--convention", "data-at-1"),
    "selftrans.sampling.generate": ("nowhere.safetensors", "--autoencoder", "x", "--settings", "{"),
    "selftrans.sampling.sample_grid": (
        "--checkpoint",
        "nowhere.safetensors",
        "--autoencoder",
        "x",
        "--classes",
        1,
    ),
    "selftrans.extraction.latents": ("nowhere.yaml", "--autoencoder", "x"),
}
"""A mistake for each, but for where its output goes."""
OUTPUTS = {
    "selftrans.training": "--directory",
    "selftrans.sampling.sample_grid": "--out",
}


def mistake(module, directory):
    output = directory / ("a.png" if module.endswith("grid") else "a.safetensors")
    return map(str, (*MODULES[module], OUTPUTS.get(module, "--output"), output))


@pytest.mark.parametrize("module", COMMANDS)
def test_help_is_given(module):
    ended = run_module(module, "--help")
    assert ended.returncode == 0
    assert f"usage: python -m {module}" in ended.stdout


@pytest.mark.parametrize("module", COMMANDS)
def test_an_unknown_option_is_a_usage_error(module):
    ended = run_module(module, "--nonsense")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"usage: python -m {module}")


@pytest.mark.parametrize("module", MODULES)
def test_a_mistake_is_one_line_and_leaves_nothing(module, tmp_path):
    line = last_line(run_module(module, *mistake(module, tmp_path)))
    assert line.startswith("error: ")
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in left if not path.name.startswith("failed-")]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["selftrans.training", "selftrans.evaluation"])
def test_a_process_ends_as_the_call_does(module, tmp_path):
    """Every other test of a mistake calls ``main`` within its own process."""
    words = list(mistake(module, tmp_path))
    command = [sys.executable, "-m", module, *words]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    called = run_module(module, *words)
    assert (process.returncode, process.stdout) == (called.returncode, called.stdout) == (1, "")
    assert last_line(process) == last_line(called)
    assert "Traceback" not in process.stderr
