"""Classes of the user's own: found, refused in one line, known by their tokens."""

import sys
import textwrap

import pytest

from selftrans.config.user_code import load_class, relative_to, source_digest, source_files

BODY = """
class Base:
    pass

class Own(dict):
    def value(self, x):
        if x > 1:
            x = x + 1
        return f"{x:>{3}} and {x!r}"
"""
SAME = [
    BODY + "\n\n\n",
    "# a comment\n" + BODY,
    BODY.replace(
        "        if x > 1:\n            x = x + 1",
        "        if x > 1:  # why\n\n            x = x + 1",
    ),
    BODY.replace("x + 1", "(x +\n                 1)").replace(
        "(x +\n                 1)", "x + 1"
    ),
    BODY.replace("    ", "  "),
]  # fmt: skip
DIFFERENT = [
    BODY.replace("x > 1", "x >= 1"),
    BODY.replace("x + 1", "x + 2"),
    BODY.replace(
        "            x = x + 1\n        return",
        "            x = x + 1\n            return",
    ),
    BODY.replace("{x:>{3}}", "{x:>{4}}"),
    BODY.replace(" and ", "  and "),
]  # fmt: skip


def written(directory, text, name="own.py"):
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(textwrap.dedent(text))
    return f"{directory / name}:Own"


def digest(directory, text):
    return source_digest(load_class(written(directory, text), dict))


@pytest.mark.parametrize("text", SAME)
def test_comments_and_layout_are_no_change(tmp_path, text):
    assert digest(tmp_path / "a", BODY) == digest(tmp_path / "b", text)


@pytest.mark.parametrize("text", DIFFERENT)
def test_another_token_is_a_change(tmp_path, text):
    assert digest(tmp_path / "a", BODY) != digest(tmp_path / "b", text)


def test_local_modules_are_part_of_it(tmp_path):
    text = "from helper_of_own import VALUE\n" + BODY
    (tmp_path / "helper_of_own.py").write_text("VALUE = 1\n")
    loaded = load_class(written(tmp_path, text), dict)
    assert list(source_files(loaded)) == ["helper_of_own.py", "own.py"]
    before = source_digest(loaded)
    (tmp_path / "helper_of_own.py").write_text("VALUE = 1  # the same\n")
    assert source_digest(loaded) == before
    (tmp_path / "helper_of_own.py").write_text("VALUE = 2\n")
    assert source_digest(loaded) != before
    del sys.modules["helper_of_own"]


def test_two_modules_of_one_name_are_not_taken_for_each_other(tmp_path):
    text = "import module_of_two\n" + BODY
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "module_of_two.py").write_text("VALUE = 1\n")
    load_class(written(tmp_path / "first", text), dict)
    with pytest.raises(ValueError, match=r"module 'module_of_two' is .*first.*, own\.py means"):
        load_class(written(tmp_path / "second", text), dict)
    del sys.modules["module_of_two"]


def test_a_package_is_found_by_its_module(tmp_path, monkeypatch):
    package = tmp_path / "package_of_own"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tools.py").write_text("VALUE = 1\n")
    written(package, "from . import tools\nfrom package_of_own.tools import VALUE\n" + BODY)
    monkeypatch.chdir(tmp_path)
    loaded = load_class("package_of_own.own:Own", dict)
    assert list(source_files(loaded)) == ["package_of_own/own.py", "package_of_own/tools.py"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "cannot be loaded (SyntaxError: "),
        ("raise RuntimeError('first\\nsecond')", "cannot be loaded (RuntimeError: first second)"),
        ("class Other: ...", "has no attribute 'Own'"),
        ("class Own: ...", "is not a subclass of builtins.dict"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=r"own\.py") as raised:
        load_class(written(tmp_path, text), dict)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_class(f"{tmp_path}/nowhere.py:Own", dict)


def test_a_file_is_found_beside_the_experiment(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/own.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert relative_to(tmp_path / "experiments", "own.py:Own") == "experiments/own.py:Own"
    # What a resolved experiment says is found from the working directory.
    assert relative_to(tmp_path / "results/x", "experiments/own.py:Own") == "experiments/own.py:Own"
    assert relative_to(tmp_path, "package.own:Own") == "package.own:Own"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert relative_to(tmp_path / "experiments", "own.py:Own").startswith("/")
