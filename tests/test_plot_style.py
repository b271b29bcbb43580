"""Colours and markers of runs, legends, and files of figures."""

from itertools import permutations

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from selftrans.plotting.style import COLOURS, MARKERS, legend_columns, run_styles, save


def luminance(colour):
    """Relative luminance (WCAG 2)."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in to_rgb(colour)
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("colour", COLOURS)
def test_a_line_is_seen_on_white(colour):
    assert 1.05 / (luminance(colour) + 0.05) > 2


def test_a_run_is_known_by_its_index_and_not_by_its_name():
    names = ("sit", "vae-align", "self-transcendence")
    for order in permutations(names):
        styles = run_styles({name: name.upper() for name in order})
        assert list(styles) == list(order)
        assert [style.label for style in styles.values()] == [name.upper() for name in order]
        looks = [(style.colour, style.marker) for style in styles.values()]
        assert looks == list(zip(COLOURS, MARKERS, strict=False))[:3]


@pytest.mark.parametrize(
    "label", ["$", "a $x^2 b", "$\\frac", "cost: $5", "$_$", "50 %", "{a}", "x|y"]
)
def test_any_label_is_drawn_as_it_is_written(tmp_path, label):
    """A dollar sign begins no formula, which might be none and end the drawing."""
    figure = Figure()
    axis = figure.subplots()
    axis.plot([0], [0], label=run_styles({"run": label})["run"].label)
    legend = axis.legend()
    save(figure, [tmp_path / "a.png", tmp_path / "a.pdf"], 50)
    (text,) = legend.get_texts()
    assert text.get_text().replace(r"\$", "$") == label


@pytest.mark.parametrize("count", range(1, 8))
def test_a_further_run_leaves_the_others_as_they_were(count):
    labels = {f"run{number}": "" for number in range(count + 1)}
    fewer = dict(list(labels.items())[:count])
    assert list(run_styles(labels).items())[:count] == list(run_styles(fewer).items())


def test_colour_and_marker_together_tell_many_runs_apart():
    styles = run_styles({f"run{number}": "" for number in range(56)}).values()
    assert len({(style.colour, style.marker) for style in styles}) == 56


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 3), (6, 3), (12, 3)]
)
def test_a_legend_is_one_line_or_lines_of_three(count, columns):
    assert (
        min(count, legend_columns(["+ Self-Transcendence"] * 2 + ["SiT"] * (count - 2))) == columns
    )


@pytest.mark.parametrize(("letters", "columns"), [(20, 3), (30, 2), (50, 1), (200, 1)])
def test_long_names_have_fewer_columns(letters, columns):
    assert legend_columns(["x" * letters] * 6) == columns


def drawn():
    figure = Figure(figsize=(2, 1.5))
    figure.add_subplot().plot([1, 2, 3], [1, 4, 2], label="a")
    return figure


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_equal_figures_are_equal_files(tmp_path, suffix):
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        save(drawn(), [path], dpi=50)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert b"CreationDate" not in first
    assert sorted(tmp_path.iterdir()) == paths


@pytest.mark.slow
def test_one_call_writes_every_format(tmp_path):
    save(drawn(), [str(tmp_path / "a.png"), tmp_path / "deep/a.pdf"], dpi=50)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "deep/a.pdf").read_bytes().startswith(b"%PDF")
