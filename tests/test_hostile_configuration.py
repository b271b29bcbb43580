"""Whatever an experiment file says: it is read, or refused in short lines that name the key."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from selftrans.config import load_dataset, load_experiment, read_yaml
from selftrans.runtime.errors import UserError
from tests.support.experiments import tiny_values
from tests.support.hostile import VALUES, changed, leaves, part_of
from workflow.lib.study import Study


def with_everything() -> dict[str, Any]:
    """An experiment that uses what files may use."""
    values = tiny_values()
    values["grids"] = {
        "scales": {
            "run": "self-transcendence",
            "vary": {"alignment.guidance_scale": [1, 2]},
            "label": "w = {0}",
        }
    }
    return values


def refused_or_read(path: Path) -> None:
    try:
        load_experiment(path)
    except UserError as error:
        lines = str(error).splitlines()
        assert lines
        for line in lines:
            assert len(line) < 2500, line[:300]
            assert line.isprintable(), line
            assert path.name in line or "experiments/" in line, line


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES)
def test_every_key_with_a_hostile_value(tmp_path, value):
    values = with_everything()
    keys = list(leaves(values))
    assert len(keys) > 50
    path = tmp_path / "hostile.yaml"
    for place in keys:
        content = changed(values, place, VALUES[value])
        path.write_text(yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False))
        refused_or_read(path)


@pytest.mark.parametrize("value", ["infinity", "minus infinity", "nan"])
def test_no_number_is_infinite_or_none(tmp_path, value):
    values = with_everything()
    numbers = [
        keys
        for keys in leaves(values)
        if (part := part_of(values, keys)) is not None and type(part) in (int, float)
    ]
    assert len(numbers) > 20
    path = tmp_path / "hostile.yaml"
    for keys in numbers:
        path.write_text(yaml.dump(changed(values, keys, VALUES[value]), sort_keys=False))
        with pytest.raises(UserError, match=keys[-1] if isinstance(keys[-1], str) else None):
            load_experiment(path)


LAUGHS = (f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghijk"))
TEXTS = {
    "a billion laughs": "a: &a [x, x]\n" + "".join(LAUGHS),
    "a date": "a: 2024-12-13\n",
    "an anchor in itself": "a: &a [*a]\n",
    "a mapping in itself": "a: &a {b: *a}\n",
    "no date": "a: 2024-13-45\n",
    "no number": "a: !!int abc\n",
    "no float": "a: !!float abc\n",
    "no binary": "a: !!binary '%'\n",
    "a number of 5,000 digits": f"a: {'9' * 5000}\n",
    "a sequence as a key": "? [a, b]\n: c\n",
    "a python object": "a: !!python/object/apply:os.system [ls]\n",
    "a thousand brackets": "a: " + "[" * 1000 + "]" * 1000,
    "a thousand indentations": "".join(" " * n + "a:\n" for n in range(1000)),
    "a set": "a: !!set {1, 2}\n",
    "an omap": "a: !!omap [1]\n",
    "a null byte": "a: b\0c\n",
    "a tabulator": "a:\n\tb: c\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "a merge of nothing": "a:\n  <<: 3\n",
    "a duplicate": "a: 1\na: 2\n",
    "an alias of nothing": "a: *b\n",
    "no text": "",
    "ten megabytes": "a: " + "x" * 10_000_000,
    "a wrong byte": "a: \udcff\n",
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_texts_that_are_no_file_of_keys(tmp_path, text):
    path = tmp_path / "hostile.yaml"
    path.write_text(TEXTS[text], encoding="utf-8", errors="surrogateescape")
    for read in (read_yaml, load_experiment, load_dataset):
        with pytest.raises(UserError) as refused:
            read(path)
        lines = str(refused.value).splitlines()
        assert all(len(line) < 2500 and line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "base",
    [[".."], 3, "", {"a": 1}, True, "no/such", "x" * 300, "a\nb", "a\0b", "x" * 300 + ".yaml"],
)
def test_what_is_extended_is_a_name_or_a_path(tmp_path, base):
    path = tmp_path / "hostile.yaml"
    path.write_text(yaml.dump({"extends": base}))
    with pytest.raises(UserError) as refused:
        load_experiment(path)
    line = str(refused.value)
    assert line.isprintable()
    assert len(line) < 1500


def test_a_file_that_extends_itself_through_a_link(tmp_path):
    (tmp_path / "a.yaml").symlink_to(tmp_path / "b.yaml")
    (tmp_path / "b.yaml").symlink_to(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_experiment(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "config",
    [
        {"experiments": None}, {"experiments": []}, {"experiments": 3}, {"experiments": [3]},
        {"experiments": ["a\0b"]}, {"experiments": "x" * 300}, {"experiments": [["digits"]]},
        {"experiments": "digits", "data": {"digits": None}},
        {"experiments": "digits", "data": {"digits": []}},
        {"experiments": "digits", "data": {"digits": {"source": None}}},
        {"experiments": "digits", "data": {3: {}}},
        {"experiments": "digits", "resources": {"train": None}},
        {"experiments": "digits", "resources": {"train": {"gpu": -1}}},
        {"experiments": "digits", "resources": {"train": {"processes": math.inf}}},
        {"experiments": "digits", "rates": {"bf16": math.inf}},
        {"experiments": "digits", "rates": {"bf16": math.nan}},
        {"experiments": "digits", "retries": -1},
        {"experiments": "digits", "weights": {"inception": None}},
        {"experiments": "digits", "weights": []},
        {"experiments": "digits", "fetch_weights": "perhaps"},
    ],
)  # fmt: skip
def test_what_config_yaml_may_not_say(config):
    with pytest.raises(UserError) as refused:
        Study.load(config)
    for line in str(refused.value).splitlines():
        assert line.isprintable()
        assert len(line) < 1500


@pytest.mark.parametrize("word", ["true", "True", True])
def test_text_from_the_command_line_is_understood(word):
    """Snakemake hands over the text of ``--config fetch_weights=true``."""
    assert Study.load({"experiments": "digits", "fetch_weights": word}).settings.fetch_weights


@pytest.mark.parametrize("label", ["_hidden", "two\nlines", "a\tb", "", "  ", "x" * 101, "\0"])
def test_labels_that_no_figure_can_show_are_refused(tmp_path, label):
    values = tiny_values()
    values["runs"]["sit"] = {**(values["runs"]["sit"] or {}), "label": label}
    path = tmp_path / "hostile.yaml"
    path.write_text(yaml.dump(values))
    with pytest.raises(UserError, match=r"runs\.sit\.label: "):
        load_experiment(path)


def test_a_grid_of_14_000_runs_is_refused_at_once(tmp_path):
    values = with_everything()
    values["grids"]["scales"]["vary"] = {
        "alignment.guidance_scale": list(range(1, 121)),
        "training.learning_rate": [1e-4 * n for n in range(1, 121)],
    }
    path = tmp_path / "hostile.yaml"
    path.write_text(yaml.dump(values))
    with pytest.raises(UserError, match=r"grids\.scales\.vary: makes 14,400 runs \(allowed: 1,000"):
        load_experiment(path)


@pytest.mark.parametrize(
    "label",
    ["{0:9999999999}", "{0.real}", "{0.__class__.__mro__}", "{0:{1}}", "{", "{7}", "{0:>500}"],
)
def test_a_grids_label_formats_values_and_nothing_else(tmp_path, label):
    values = with_everything()
    values["grids"]["scales"]["label"] = label
    path = tmp_path / "hostile.yaml"
    path.write_text(yaml.dump(values))
    with pytest.raises(UserError, match=r"grids\.scales\.label: "):
        load_experiment(path)
