"""What is drawn is what was measured, published and imported: read off the figure's own lines."""

import pandas as pd
import pytest

from selftrans.evaluation.tables import read_held_out
from selftrans.plotting.curves import convergence, losses
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
