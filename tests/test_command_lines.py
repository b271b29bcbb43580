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


NUMBERS = {
    "selftrans.training": ("--seed", "--until", "--processes", "--gpus", "--nodes", "--attempt"),
    "selftrans.sampling.generate": ("--batch-size", "--gpus", "--processes"),
    "selftrans.sampling.sample_grid": ("--columns", "--seed", "--steps", "--gpus"),
    "selftrans.extraction.latents": ("--gpus", "--processes"),
    "selftrans.extraction.features": ("--gpus", "--processes"),
    "selftrans.evaluation": ("--batch-size", "--gpus"),
    "selftrans.evaluation.compute_statistics": ("--batch-size", "--gpus", "--processes"),
    "selftrans.evaluation.features": ("--seed", "--batch-size", "--gpus"),
    "selftrans.training.freeze": ("--depth",),
    "selftrans.convert": ("import --num-heads", "import --latent-size", "import --step"),
}
"""Options that take a whole number, of every command line."""


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
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f"(see python -m {module} --help)")


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "", "1e3", "9" * 30, "9" * 5000])
@pytest.mark.parametrize(("module", "options"), NUMBERS.items())
def test_a_number_that_is_none_is_one_line(module, options, number):
    for option in options:
        command, _, name = option.rpartition(" ")
        ended = run_module(module, *filter(None, [command]), f"{name}={number}")
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith(f"error: {name}: ")
        assert len(line) < 300


@pytest.mark.slow
@pytest.mark.parametrize("module", ["selftrans.sampling.generate", "selftrans.convert"])
def test_an_output_that_is_the_input_or_a_directory_is_refused(module, tmp_path):
    path = tmp_path / ("a.npz" if "generate" in module else "a.safetensors")
    path.write_text("precious")
    command = ["import"] if module.endswith("convert") else []
    words = [] if command else ["--autoencoder", "x", "--settings", "{}"]
    line = last_line(run_module(module, *command, path, *words, "--output", path))
    assert line == f"error: --output: {path} is the input (allowed: another file)"
    assert path.read_text() == "precious"
    line = last_line(run_module(module, *command, path, *words, "--output", tmp_path))
    assert line == f"error: --output: {tmp_path} is a directory (allowed: a file)"


def test_a_training_ends_at_a_checkpoint(tmp_path):
    words = ("digits", "--run", "sit", "--seed", 0, "--until", 500, "--latents", tmp_path / "none",
             "--directory", tmp_path / "run")  # fmt: skip
    line = last_line(run_module("selftrans.training", *words))
    assert line.startswith("error: --until: 500 is no checkpoint of the run (allowed: 600, 1200,")
    line = last_line(run_module("selftrans.training", *words, "--inserted", "--attempt", 1))
    assert line.startswith(f"error: {tmp_path / 'none'}: ")


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
