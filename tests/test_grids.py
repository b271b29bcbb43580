"""Grids that cannot be expanded, and what is left alone until its types are checked."""

import pytest

from selftrans.config.expand import Expansion

RUNS = {"sit": {"training": {"betas": (0.9, 0.95)}}, "other": {}}


def expanded(grid, runs=RUNS):
    return Expansion({"runs": runs, "grids": {"g": grid}}, lambda run, base: run == base)


def problems(grid, runs=RUNS):
    found = expanded(grid, runs).problems
    return [f"{'.'.join(problem.keys)}: {problem.message}" for problem in found]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"run": "x", "vary": {"a": [1]}}, "grids.g.run: 'x'"),
        ({"run": None, "vary": {"a": [1]}}, "grids.g.run: None"),
        ({"vary": {"a": [1]}}, "grids.g.run: None"),
        ({"run": "sit", "vary": {"a": 1}}, "grids.g.vary.a: 1"),
        ({"run": "sit", "vary": {"a": []}}, "grids.g.vary.a: []"),
        ({"run": "sit", "vary": {"a": "12"}}, "grids.g.vary.a: '12'"),
        ({"run": "sit", "vary": {"training.betas.2": [1]}}, "grids.g.vary.training.betas.2: '2'"),
        ({"run": "sit", "vary": {"training.betas.x": [1]}}, "grids.g.vary.training.betas.x: 'x'"),
        ({"run": "sit", "vary": {"a": [1, 1]}}, "grids.g: makes a run 'g-1'"),
        ({"run": "sit", "vary": {"a": [1]}, "label": "{1}"}, "grids.g.label: '{1}'"),
        ({"run": "sit", "vary": {"a": [1]}, "label": "{x}"}, "grids.g.label: '{x}'"),
        ({"run": "sit", "vary": {"a": ["x"]}, "label": "{0:d}"}, "grids.g.label: '{0:d}'"),
        ({"run": "sit", "vary": {"a": [1]}, "label": "{0"}, "grids.g.label: '{0'"),
    ],
)
def test_what_cannot_be_expanded_is_named(grid, message):
    assert [problem[: len(message)] for problem in problems(grid)] == [message]


def test_a_mapping_merges_into_a_part_of_a_run_and_replaces_below():
    runs = {"sit": {"alignment": {"method": "m", "a": 1, "t": {"low": 0.2, "high": 0.9}}}}
    cells = [{"a": 2, "t": {"low": 0.3}}, {"t": {"high": 0.5}}]
    found = expanded({"run": "sit", "vary": {"alignment": cells}}, runs).values["runs"]
    assert found["g-2"]["alignment"] == {"method": "m", "a": 2, "t": {"low": 0.3, "high": 0.9}}
    assert found["g-0.5"]["alignment"]["t"] == {"low": 0.2, "high": 0.5}
    below = {"run": "sit", "vary": {"alignment.t": [{"low": 0.4}]}}
    assert expanded(below, runs).values["runs"]["g-0.4"]["alignment"]["t"] == {"low": 0.4}


def test_a_cell_never_replaces_a_run():
    grid = {"run": "sit", "vary": {"a": [1]}}
    assert problems(grid, {**RUNS, "g-1": {}}) == [
        "grids.g: makes a run 'g-1', which exists already"
    ]


@pytest.mark.parametrize("grid", [None, 3, "text", {"run": "sit"}, {"run": "sit", "vary": [1]}])
def test_wrong_types_are_left_to_the_models(grid):
    assert expanded(grid).values["grids"] == {"g": grid}
    assert not problems(grid)


def test_an_expanded_file_comes_back_as_itself():
    once = expanded({"run": "sit", "vary": {"training.betas.1": [0.95, 0.99]}}).values
    assert once["grids"]["g"]["runs"] == ("sit", "g-0.99")
    assert once["runs"]["g-0.99"]["training"]["betas"] == (0.9, 0.99)
    assert Expansion(once, lambda run, base: run == base).values == once
