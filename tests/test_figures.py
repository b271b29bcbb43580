"""What is drawn is what was measured, published and imported: read off the figure's own lines."""

from itertools import pairwise

import pandas as pd
import pytest

from selftrans.evaluation.tables import read_held_out
from selftrans.plotting.convergence import convergence
from selftrans.plotting.curves import dynamics, losses
from selftrans.plotting.style import run_styles
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import sha256_of, write_json

LABELS = {"sit": "SiT", "ours": "Ours", "public": "SiT-XL/2"}
TABLE = pd.DataFrame(
    {
        "run": ["sit", "sit", "ours", "ours", "public"], "step": [10, 20, 10, 20, 7_000_000],
        "seed": 0, "fid": [90.0, 40.0, 70.0, 30.0, 8.3], "is": [2.0, 3.0, 4.0, 5.0, 6.0],
        "sampler": "euler-maruyama", "num_steps": 250, "guidance_scale": 1.0, "guidance_low": 0.0,
        "guidance_high": 1.0, "extractor": "inception", "num_samples": 10_000,
    }
)  # fmt: skip
PUBLISHED = {"metric": "fid", "curves": {"sit": [(10, 88.0), (20, 41.0)]}}


def test_published_curves_are_dashed_in_the_colour_of_their_run_and_only_under_their_metric():
    fid, score = convergence(TABLE[TABLE["run"] != "public"], LABELS, 5.5, PUBLISHED).get_axes()
    dashed = [
        line for line in fid.get_lines() if line.get_linestyle() == "--" and len(line.get_xdata())
    ]
    assert len(dashed) == 1
    solid = next(line for line in fid.get_lines() if list(line.get_ydata()) == [90.0, 40.0])
    assert dashed[0].get_color() == solid.get_color()
    assert list(dashed[0].get_ydata()) == [88.0, 41.0]
    assert dashed[0].get_zorder() < solid.get_zorder()
    assert not [line for line in score.get_lines() if line.get_linestyle() == "--"]
    names = [text.get_text() for text in fid.figure.legends[0].get_texts()]
    assert names == ["SiT", "Ours", "published"]


def test_an_imported_run_is_a_level_and_does_not_stretch_the_axis():
    fid, _ = convergence(TABLE, LABELS, 5.5, imported=["public"]).get_axes()
    level = next(line for line in fid.get_lines() if line.get_label().startswith("SiT-XL/2"))
    assert set(level.get_ydata()) == {8.3}
    assert level.get_label() == "SiT-XL/2 (7,000,000 steps)"
    assert fid.get_xlim()[1] < 30


def test_a_run_that_was_not_measured_is_left_out():
    unmeasured = TABLE.assign(fid=TABLE["fid"].where(TABLE["run"] != "public"))
    for table in (TABLE[TABLE["run"] != "public"], unmeasured):
        fid, _ = convergence(table, LABELS, 5.5, imported=["public"]).get_axes()
        assert not [
            line for line in fid.get_lines() if str(line.get_label()).startswith("SiT-XL/2")
        ]


def test_imported_runs_alone_are_levels():
    fid, _ = convergence(
        TABLE[TABLE["run"] == "public"], LABELS, 5.5, imported=["public"]
    ).get_axes()
    assert [set(line.get_ydata()) for line in fid.get_lines()] == [{8.3}]


HISTORY = pd.DataFrame(
    {"step": [1, 2], "denoising": [2.0, 1.0], "alignment": [0.5, 0.4], "gradient_norm": [1.0, 0.9]}
)
HELD_OUT = pd.DataFrame({"step": [2], "loss": [1.25]})


def panels(held_out):
    figure = losses([HISTORY, HISTORY], ["sit", "ours"], LABELS, 5.5, held_out)
    return {axis.get_ylabel(): axis for axis in figure.get_axes()}


def test_losses_on_held_out_images_are_one_more_panel():
    without = panels([None, None])
    assert list(without) == ["denoising loss", "alignment loss", "gradient norm"]
    drawn = panels([None, HELD_OUT])
    assert list(drawn) == [*without, "held-out\ndenoising loss"]
    (line,) = drawn["held-out\ndenoising loss"].get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([2], [1.25])
    assert line.get_color() == drawn["denoising loss"].get_lines()[1].get_color()  # that of "ours"


def test_losses_on_held_out_images_are_those_that_were_written(tmp_path):
    history, held_out = tmp_path / "history.csv", tmp_path / "held_out.csv"
    history.write_text("step,loss\n1,2.0\n")
    assert read_held_out(history) is None
    held_out.write_text("step,loss\n2,1.25\n")
    write_json(tmp_path / "checkpoint.json", {"digests": {"held_out": sha256_of(held_out)}})
    assert read_held_out(history).equals(HELD_OUT)
    held_out.write_text("step,loss\n2,1.05\n")
    with pytest.raises(UserError, match=r"held_out\.csv: damaged"):
        read_held_out(history)


def compared(*seeds, **fids):
    """Rows of runs at steps 10 and 20; a seed adds to all FIDs of a run but the baseline's."""
    rows = [
        {**TABLE.iloc[0], "run": run, "seed": seed, "step": step, "is": 1.0,
         "fid": fid + (seed if run != "sit" else 0)}
        for run, curve in fids.items()
        for seed in seeds
        for step, fid in zip((10, 20), curve, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_second_panel_shows_differences_from_the_baseline_and_the_speed_up():
    """Along log FID, from 80 at step 10 to 20 at step 20, 40 is reached half-way."""
    table = compared(0, sit=(90.0, 40.0), ours=(80.0, 20.0), public=(95.0, 50.0))
    figure = convergence(table, LABELS, 5.5, baseline="sit")
    fid, _, difference, _ = figure.get_axes()
    drawn = {tuple(line.get_ydata()) for line in difference.get_lines()}
    assert drawn == {(0, 0), (-10.0, -20.0), (5.0, 10.0)}
    circle = next(line for line in fid.get_lines() if line.get_markerfacecolor() == "white")
    assert (circle.get_xdata()[0], circle.get_ydata()[0]) == (pytest.approx(15), 40)
    words = " ".join(figure.get_supxlabel().split())
    assert "Ours 1.33x (15 steps); SiT-XL/2 not reached." in words
    assert "of one seed" in words


def test_intervals_are_students_over_pairs_and_cut_off_where_they_leave_the_frame():
    table = compared(0, 1, 2, sit=(90.0, 40.0), ours=(80.0, 20.0))
    band = convergence(table, LABELS, 5.5, baseline="sit").get_axes()[2].collections[0]
    mean, half = -9.0, 4.302653 * 1 / 3**0.5  # of differences -10, -9 and -8
    heights = {round(float(y), 4) for x, y in band.get_paths()[0].vertices if x == 10}
    assert heights == {round(mean - half, 4), round(mean + half, 4)}
    two = compared(0, 9, sit=(90.0, 40.0), ours=(80.0, 20.0))
    axis = convergence(two, LABELS, 5.5, baseline="sit").get_axes()[2]
    low, high = axis.get_ylim()
    assert -40 < low < -15 < 0 < high < 20  # 12.7 times the deviation would be hundreds


@pytest.mark.parametrize(
    ("seeds", "words"),
    [((0,), "of one seed"), ((0, 1), "over 2 pairs of the same seed"), ((7,), "no run has a step")],
)
def test_the_baselines_pairs_with_itself_are_not_counted(seeds, words):
    table = compared(0, 1, 2, sit=(90.0, 40.0), ours=(80.0, 20.0))
    others = compared(*seeds, ours=(80.0, 20.0))
    rows = pd.concat([table[table["run"] == "sit"], others])
    assert words in " ".join(convergence(rows, LABELS, 5.5, baseline="sit").get_supxlabel().split())


def test_kid_is_drawn_with_its_spread():
    table = TABLE.assign(kid=TABLE["fid"] / 1000, kid_std=0.004)
    kid = convergence(table[table["run"] != "public"], LABELS, 5.5).get_axes()[2]
    ends = [segment[:, 1] for lines in kid.collections for segment in lines.get_segments()]
    assert {round(float(high - low), 6) for low, high in ends} == {0.008}
    assert len(ends) == 4


@pytest.mark.parametrize("width", [3.3, 5.5])
@pytest.mark.parametrize("span", [(1.9, 2.4), (5, 200), (20, 160), (0.5, 5000)])
def test_ticks_stand_apart(width, span):
    table = TABLE.assign(fid=[*span, *span, 8.0]).drop(columns="is")
    figure = convergence(table[table["run"] != "public"], LABELS, width)
    figure.draw_without_rendering()
    axis = figure.get_axes()[0].yaxis
    low, high = sorted(figure.get_axes()[0].get_ylim())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = sorted(
        (tick.label1.get_window_extent() for tick in ticks), key=lambda box: float(box.y0)
    )
    assert len(boxes) >= 2
    assert all(below.y1 < above.y0 for below, above in pairwise(boxes))


@pytest.mark.parametrize(
    ("last", "labels"),
    [(3000, {"0", "1000", "3000"}), (15_000, {"0", "5k", "10k"}), (3_000_000, {"0", "1M", "3M"})],
)
def test_steps_have_one_unit(last, labels):
    table = TABLE[TABLE["run"] == "sit"].assign(step=[last // 2, last])
    figure = convergence(table, LABELS, 5.5)
    figure.draw_without_rendering()
    assert labels <= {tick.get_text() for tick in figure.get_axes()[0].get_xticklabels()}


@pytest.mark.parametrize(("cosines", "count"), [([0.1, 0.2], 3), ([float("nan")] * 2, 2)])
def test_a_run_that_follows_nothing_has_no_panel_of_the_cosine(cosines, count):
    gradients = {"denoising_gradient": [1.0, 0.9], "alignment_gradient": [0.3, 0.2]}
    history = HISTORY.assign(cosine=cosines, **gradients)
    axes = dynamics([history], run_styles(LABELS)["ours"], 5.5).get_axes()
    assert len(axes) == count
    assert list(axes[0].get_lines()[0].get_ydata()) == [0.5, 0.4]
    assert [list(line.get_ydata()) for line in axes[-1].get_lines()] == [[1.0, 0.9], [0.3, 0.2]]
