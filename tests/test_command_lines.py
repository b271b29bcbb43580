"""The command: what it says of itself, and how it ends on a mistake of its user."""

import os
import re
import subprocess
import sys

import click
import pytest
from click.shell_completion import BashComplete

from selftrans.cli.table import COMMANDS, WORKFLOW, selftrans
from tests.support import HEAVY, REPOSITORY
from tests.support.programs import last_line, run_command


def leaves():
    """Every command, as words of a command line, and click's object."""
    context = click.Context(selftrans)
    for name in COMMANDS:
        command = selftrans.get_command(context, name)
        if isinstance(command, click.Group):
            yield from (((name, one), command.commands[one]) for one in command.commands)
        else:
            yield (name,), command


LEAVES = dict(leaves())
NAMES = [" ".join(words) for words in LEAVES]
NUMBERS = [
    (words, option.opts[0])
    for words, command in LEAVES.items()
    for option in command.params
    if option.type.name == "number" and option.type.__class__.__name__ == "WholeNumber"
]
"""Options that take a whole number, of every command."""
MISTAKES = {
    "train": ("digits", "--run", "x", "--seed", 0, "--until", 1, "--latents", "x", "--directory"),
    "evaluate": ("nowhere.npz", "--reference", "nowhere.npz", "--output"),
    "import": ("nowhere.pt", "--convention", "data-at-1", "--output"),
    "generate": ("nowhere.safetensors", "--autoencoder", "x", "--settings", "{", "--output"),
    "sample": ("nowhere.safetensors", "--autoencoder", "x", "--classes", 1, "--output"),
    "extract latents": ("nowhere.yaml", "--autoencoder", "x", "--output"),
}
"""A mistake for each, but for where its output goes."""


OWN_MEANING = {
    ("--weights", "import"),  # averaged or raw ones, of the two in a file
    ("--weights", "prefetch"),  # of a feature network, by its name
    ("--metrics", "export"),  # files of them
    ("--until", "run"),  # a target of the workflow, where a training has a step
    ("--encoder", "extract", "features"),  # one
}


def mistake(name, directory):
    output = directory / ("a.png" if name == "sample" else "a.safetensors")
    return [*name.split(), *map(str, MISTAKES[name]), str(output)]


@pytest.mark.parametrize("name", NAMES)
def test_help_is_given(name):
    ended = run_command(*name.split(), "--help")
    assert ended.returncode == 0
    assert ended.stdout.startswith(f"Usage: selftrans {name} ")
    assert max(map(len, ended.stdout.splitlines())) <= 100


def test_the_help_of_every_command_has_an_example():
    """Each of them is parsed, as the site's reference shows it, by ``test_documentation``."""
    epilogs = {" ".join(words): command.epilog or "" for words, command in LEAVES.items()}
    lacking = [name for name in NAMES if not re.search(rf" selftrans {name}\b", epilogs[name])]
    assert lacking == []


def test_the_table_of_commands_is_the_help():
    ended = run_command("--help")
    for name, entry in COMMANDS.items():
        assert f"  {name} " in ended.stdout
        assert entry.help in ended.stdout
    assert run_command().stdout == ended.stdout
    assert run_command("--version").stdout.startswith("selftrans, version ")


def test_one_naming_of_options():
    """An option that several commands have means the same: its type and letters are the same."""
    seen = {}
    for words, command in LEAVES.items():
        for option in command.params:
            if option.param_type_name == "option":
                kind = (type(option.type).__name__, option.opts, option.is_flag)
                known, first = seen.setdefault(option.opts[0], (kind, words))
                both = {(option.opts[0], *words), (option.opts[0], *first)}
                assert kind == known or both & OWN_MEANING, (words, first)


@pytest.mark.slow
def test_help_and_the_projects_commands_import_nothing_heavy():
    code = (
        "import sys\nfrom selftrans.cli import main\n"
        "for words in (['--help'], *([name, '--help'] for name in sys.argv[1:])):\n"
        "    main(words)\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, *COMMANDS],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    loaded = said.rpartition("LOADED")[2].split()
    assert "click" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.slow
def test_a_shell_completes_commands_and_options():
    shell = BashComplete(selftrans, {}, "selftrans", "_SELFTRANS_COMPLETE")
    assert {one.value for one in shell.get_completions([], "e")} == {
        "export", "evaluate", "extract", "encoder",
    }  # fmt: skip
    found = [one.value for one in shell.get_completions(["train"], "--un")]
    assert found == ["--until"]
    for name in ("bash", "zsh", "fish"):
        assert "_SELFTRANS_COMPLETE" in run_command("completion", name).stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_a_usage_error(name):
    ended = run_command(*name.split(), "--nonsense")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f"(see selftrans {name} --help)")


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "", "1e3", "9" * 30, "9" * 5000])
@pytest.mark.parametrize(("words", "option"), NUMBERS)
def test_a_number_that_is_none_is_one_line(words, option, number):
    ended = run_command(*words, f"{option}={number}")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {option}: ")
    assert len(line) < 300


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "No such command 'trian'"),
        (("freeze", "a.safetensors", "--output", "b.safetensors"), "--depth: is needed"),
        (("freeze",), "weights: is needed"),
        (("evaluate", "a", "--reference", "b", "--distances", "x"), "--distances: 'x' is unknown"),
        (("train", "digits", "--teacher", "x"), "--teacher: 'x' is not NAME=FILE"),
        (("generate", "a", "--worker", "3/2"), "--worker: '3/2' is no share"),
        (("sample", "a", "--scale", "nan"), "--scale: 'nan' is not allowed (allowed: 0 to 10000)"),
    ],
)
def test_a_slip_is_one_line_with_what_is_allowed(words, message):
    ended = run_command(*words)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {message}")


def test_the_projects_commands_say_where_they_look_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = last_line(run_command("plan", "digits"))
    assert line.startswith(f"error: {tmp_path}: is in no project (allowed: a folder with our")
    line = last_line(run_command("--project", tmp_path, "plan", "digits"))
    assert line == f"error: --project: {tmp_path} has no Snakefile of ours"
    assert run_command("--help").returncode == 0
    monkeypatch.chdir(REPOSITORY / "docs")
    assert run_command("plan", "digits").stdout.startswith("rule ")
    assert os.getcwd() == str(REPOSITORY / "docs")  # noqa: PTH109


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generate", "import"])
def test_an_output_that_is_the_input_or_a_directory_is_refused(name, tmp_path):
    path = tmp_path / ("a.npz" if name == "generate" else "a.safetensors")
    path.write_text("precious")
    words = [] if name == "import" else ["--autoencoder", "x", "--settings", "{}"]
    line = last_line(run_command(name, path, *words, "--output", path))
    assert line == f"error: --output: {path} is the input (allowed: another file)"
    assert path.read_text() == "precious"
    line = last_line(run_command(name, path, *words, "--output", tmp_path))
    assert line == f"error: --output: {tmp_path} is a directory (allowed: a file)"


def test_a_training_ends_at_a_checkpoint(tmp_path):
    words = ("digits", "--run", "sit", "--seed", 0, "--until", 500, "--latents", tmp_path / "none",
             "--directory", tmp_path / "run")  # fmt: skip
    line = last_line(run_command("train", *words))
    assert line.startswith("error: --until: 500 is no checkpoint of the run (allowed: 600, 1200,")
    line = last_line(run_command("train", *words, "--inserted", "--attempt", 1))
    assert line.startswith(f"error: {tmp_path / 'none'}: ")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(name, tmp_path):
    line = last_line(run_command(*mistake(name, tmp_path)))
    assert line.startswith("error: ")
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in left if not path.name.startswith("failed-")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_process_ends_as_the_call_does(name, tmp_path):
    """Every other test of a mistake calls ``main`` within its own process."""
    words = mistake(name, tmp_path)
    command = [sys.executable, "-m", "selftrans", *words]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    called = run_command(*words)
    assert (process.returncode, process.stdout) == (called.returncode, called.stdout) == (1, "")
    assert last_line(process) == last_line(called)
    assert "Traceback" not in process.stderr


def test_a_command_of_the_workflow_is_no_part_of_the_package():
    names = [name for name, entry in COMMANDS.items() if entry.module == WORKFLOW]
    assert {"plan", "prefetch", "run", "status", "new", "clean", "upload"} == set(names)
