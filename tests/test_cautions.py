"""Numbers that cannot be trusted are marked wherever they stand."""

import pandas as pd
import pytest

from selftrans.evaluation.caption_table import WHOLE, caption_markdown, caption_table
from selftrans.evaluation.cautions import Footnotes, caution_texts, cautions
from selftrans.evaluation.headline import headline_markdown
from selftrans.evaluation.markdown import KID_NOTE, metrics_markdown
from selftrans.evaluation.tables import metrics_table, read_metrics
from selftrans.plotting.convergence import convergence
from tests.support.results import result
from workflow.lib.page.tables import metric_tables

LABELS = {"sit": "SiT", "ours": "Ours"}
SOUND = {
    "num_samples": 5000, "num_reference": 5000, "num_features": 2048, "moments": "images",
    "extractor_accuracy": 0.75,
}  # fmt: skip


def measured(run="sit", step=10, fid=9.5, seed=0, **changes):
    """A metrics file's content, of 5,000 images against as many."""
    numbers = {"num_samples": 5000, "num_reference": 5000, "num_features": 2048}
    content = {**result(run=run, step=step, seed=seed, fid=fid), **numbers, **changes}
    reference = {**content["reference"], "moments": "images"}
    return {**content, "reference": reference}


def table_of(*results):
    return metrics_table([("ode", one) for one in results])


def test_a_sound_number_and_one_of_an_earlier_version_need_no_caution():
    assert cautions(SOUND) == []
    assert cautions({"num_samples": 10, "num_reference": 5}) == []
    unknown = {"extractor_accuracy": None, "num_features": float("nan"), "moments": "soon"}
    assert cautions({**SOUND, **unknown}) == []


@pytest.mark.parametrize(
    ("change", "words", "metrics"),
    [
        ({"num_samples": 5001}, "5,001 samples are more than the 5,000 real images", {"is", "kid"}),
        ({"extractor_accuracy": 0.7499}, "75 % of held-out images (wanted: 75 %)", {"is", "kid"}),
        ({"num_samples": 2047}, "2,047 samples are fewer than the 2,048 features", {"fid"}),
        ({"num_reference": 9, "num_samples": 2048}, "9 real images are fewer", {"sfid"}),
    ],
)
def test_each_reason_is_said_of_the_metrics_that_it_concerns(change, words, metrics):
    found = cautions({**SOUND, **change})
    named = [one for one in found if words in one.text]
    assert len(named) == 1
    assert metrics <= named[0].metrics
    assert ("is" in named[0].metrics) == ("fewer" not in words)


def test_a_reader_that_misreads_real_scenes_is_said_to_be_weak():
    reader = {"extractor": "reader", "num_samples": 1000, "num_reference": 1000}
    assert cautions({**reader, "extractor_accuracy": 0.98}) == []
    (weak,) = cautions({**reader, "extractor_accuracy": 0.979})
    assert weak.text.startswith("the reader is weak: it reads 97.9 % of real scenes")
    assert weak.metrics >= {"caption-accuracy", "held-out-accuracy"}


def test_published_moments_are_of_more_images_than_lie_beside_them():
    """ADM's batch has 10,000 images and the moments of 1.28 million."""
    adm = {**SOUND, "num_samples": 50_000, "num_reference": 10_000}
    assert caution_texts([adm], ["fid"])
    assert not caution_texts([{**adm, "moments": "published"}], ["fid"])


def test_tables_mark_the_numbers_and_say_why_once():
    few = {"num_samples": 1000, "num_reference": 1000}
    table = table_of(measured(**few), measured(step=20, **few), measured("ours", step=20, **few))
    for text in (metrics_markdown(table, LABELS), headline_markdown(table, LABELS, [])):
        assert text.count("1,000 samples are fewer than the 2,048 features") == 1
        assert "9.50 ᵃᵇ" in text
        assert "0.7000 ᵃ" not in text  # precision compares no covariances
        assert "nan" not in text
    assert set(table["cautions"]) == {"; ".join(caution_texts(table.to_dict("records"), ["fid"]))}
    assert "ᵃ" not in metrics_markdown(table_of(measured()), LABELS)


def test_a_cell_that_does_not_exist_is_empty_and_kid_has_its_spread():
    kid = {"metrics": {"fid": 9.5, "kid": 0.0123}, "spreads": {"kid": 0.0004}}
    table = table_of(measured(**kid), measured(step=20, **kid), measured("ours", step=20, **kid))
    text = metrics_markdown(table, LABELS)
    (ours,) = [line for line in text.splitlines() if "Ours" in line and "0.01" in line]
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert cells == ["Ours", "", "0.0123 ± 0.0004"]
    assert "0.0123 ± 0.0004" in headline_markdown(table, LABELS, [])


def test_the_tables_of_a_page_have_the_same_marks_and_notes_and_kids_spread():
    few = {"num_samples": 1000, "num_reference": 1000}
    kid = {"metrics": {"fid": 9.5, "precision": 0.7, "kid": 0.0123}, "spreads": {"kid": 0.0004}}
    table = table_of(measured(**few, **kid), measured(step=20, **few, **kid),
                     measured("ours", step=20, **few, **kid))  # fmt: skip
    distances, shares, kids = metric_tables(table, LABELS)["ode"]
    assert distances.rows == [["SiT", "9.50 ᵃᵇ", "9.50 ᵃᵇ"], ["Ours", "", "9.50 ᵃᵇ"]]
    assert distances.numeric == [False, True, True]
    assert len(distances.notes) == 2
    assert all(note in metrics_markdown(table, LABELS) for note in distances.notes)
    assert shares.rows[0] == ["SiT", "0.7000", "0.7000"]
    assert kids.rows[1] == ["Ours", "", "0.0123 ± 0.0004"]
    assert (shares.notes, kids.notes) == ([], [KID_NOTE])


def test_of_several_seeds_a_page_has_the_deviation_and_of_kid_still_its_spread():
    def of_seed(seed, fid, kid):
        content = {"metrics": {"fid": fid, "kid": kid}, "spreads": {"kid": 0.0004}}
        return measured(**content, seed=seed)

    (table,) = metric_tables(table_of(of_seed(0, 8.0, 0.01), of_seed(1, 10.0, 0.03)), LABELS)["ode"]
    assert table.rows == [["SiT", "9.00 ± 1.41", "0.0200 ± 0.0004"]]
    assert table.notes == [KID_NOTE]


def test_more_notes_than_letters_have_marks_of_their_own():
    notes = Footnotes()
    marks = [notes.marks([f"reason {number}"]) for number in range(60)]
    assert len(set(marks)) == 60
    assert notes.marks(["reason 3"]) == marks[3]


def read_by(accuracy, **where):
    """A metrics file's content of a reader that reads this share of real scenes."""
    share = {"share": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1, "total": 100}
    found = {WHOLE: share, "colour": share}
    groups = {"all": found, "seen": found, "held_out": {}}
    own = {"reader_accuracy": accuracy, "reader_held_out_accuracy": accuracy}
    content = measured(**where, num_features=None, metrics={"caption-accuracy": 50.0})
    reader = {"name": "reader", "digest": "d" * 64, "held_out_accuracy": accuracy}
    return {**content, "extractor": reader, "accuracy": {**groups, **own}}


WEAK = "the reader is weak: it reads 97.9 % of real scenes without a mistake (wanted: 98 %)"


def test_what_a_weak_reader_reads_is_marked_in_table_and_figure():
    table = caption_table([("ode", read_by(0.979)), ("ode", read_by(0.98, run="ours"))])
    assert set(table["cautions"][table["run"] == "sit"]) == {WEAK}
    assert table["cautions"][table["run"] == "ours"].isna().all()
    text = caption_markdown(table, LABELS)
    assert text.count("| SiT | 10 | 50.0 ᵃ | 50.0 ᵃ |") == 2  # groups of captions
    assert text.count("| Ours | 10 | 50.0 | 50.0 |") == 2
    assert text.endswith(f"\nᵃ Not to be trusted: {WEAK}.\n")
    for accuracy, note in ((0.979, f"Caution: {WEAK}."), (0.98, "")):
        rows = table_of(
            measured(), measured(step=20), read_by(accuracy), read_by(accuracy, step=20)
        )
        assert convergence(rows, LABELS, 5.5).get_supxlabel() == note


def test_a_figure_says_it_below(tmp_path):
    table = table_of(measured(num_samples=5001), measured(step=20, num_samples=5001))
    table.to_csv(tmp_path / "metrics.csv", index=False)
    read = read_metrics(str(tmp_path / "metrics.csv"), ["ode"])
    assert isinstance(read, pd.DataFrame)
    note = convergence(read, LABELS, 5.5).get_supxlabel()
    assert note == "Caution: 5,001 samples are more than the 5,000 real images."
    assert convergence(table_of(measured()), LABELS, 5.5).get_supxlabel() == ""
