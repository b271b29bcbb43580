"""The page of an experiment: what it says is what the results say, and it holds all it shows."""

import base64
import contextlib
import hashlib
import io
import json
import re
import shlex
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from selftrans.config import load_experiment
from selftrans.runtime.errors import UserError
from selftrans.training.progress import HISTORY_COLUMNS
from tests.page.experiment import LABEL, SEEDS, STEPS, finish
from tests.support import REPOSITORY
from tests.support.experiments import tiny_values
from tests.support.finished import fid, seconds
from tests.support.studies import IMPORTED, SharingStudy
from workflow.lib.evaluation import Evaluation
from workflow.lib.figures import KINDS, Figures, figure_kind, figure_names
from workflow.lib.page.curves import HISTORY_NAMES, thinned
from workflow.lib.page.pictures import GAP, SIDE, caption, sample_sheet
from workflow.lib.page.records import weights_header
from workflow.lib.page.render import GROUPS, render_page
from workflow.lib.page.tables import duration, quantity
from workflow.lib.page.words import sampler_in_words, settings_in_words
from workflow.lib.pages import Pages
from workflow.lib.training import Training


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.in_script = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
            self.in_script = True

    def handle_endtag(self, tag):
        self.in_script = self.in_script and tag != "script"

    def handle_data(self, data):
        if self.in_script:
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def parsed(html):
    return Parsed(html)


@pytest.fixture(scope="module")
def data(parsed):
    return json.loads(parsed.scripts[0])


def series(data, chart, **wanted):
    (found,) = [
        one
        for one in data["charts"][chart]["series"]
        if all(one.get(key) == value for key, value in wanted.items())
    ]
    return found


# -- one file


def test_a_page_refers_to_nothing_outside_itself(parsed):
    for _, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), value
    policy = next(of["content"] for tag, of in parsed.tags if of.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_the_policy_admits_the_pages_own_script_and_no_other(parsed):
    policy = next(of["content"] for tag, of in parsed.tags if of.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [name for _, of in parsed.tags for name in of if name.startswith("on")]


def test_a_users_text_is_text(parsed, data, html):
    assert "b" not in {tag for tag, _ in parsed.tags}
    assert "i" not in {tag for tag, _ in parsed.tags}
    assert all(of["src"].startswith("data:image/") for tag, of in parsed.tags if tag == "img")
    assert len(parsed.scripts) == 2
    assert LABEL in {run["label"] for run in data["runs"]}
    assert "What is asked, &lt;i&gt;" in html


def test_every_heading_link_and_picture_is_labelled(parsed):
    identifiers = {of["id"] for _, of in parsed.tags if "id" in of}
    links = [of["href"][1:] for tag, of in parsed.tags if tag == "a"]
    assert len(links) > 8
    assert set(links) <= identifiers
    assert all(of["alt"] for tag, of in parsed.tags if tag == "img")


# -- what it says


def test_curves_are_those_of_the_results(data):
    for index, run in enumerate(("sit", "vae-align", "self-transcendence")):
        curve = series(data, "convergence", run=run, metric="fid", sampler="ode")
        values = [[fid(index, seed, step) for seed in SEEDS] for step in STEPS]
        assert curve["x"]["steps"] == list(STEPS)
        assert curve["mean"] == pytest.approx(list(map(fmean, values)), rel=1e-5)
        assert curve["low"] == pytest.approx(list(map(min, values)), rel=1e-5)
        assert curve["high"] == pytest.approx(list(map(max, values)), rel=1e-5)
    assert series(data, "convergence", run="sit", metric="is", sampler="cfg")["x"]["steps"] == [20]


def test_training_time_includes_the_teachers(data):
    choice = next(one for one in data["charts"]["convergence"]["choices"] if one["id"] == "x")
    assert choice["options"][1]["label"] == "Training time in minutes"
    curve = series(data, "convergence", run="self-transcendence", metric="fid", sampler="ode")
    expected = [(seconds(2, step) + seconds(1, 4)) / 60 for step in STEPS]  # stage 1 at step 4
    assert curve["x"]["time"] == pytest.approx(expected, rel=1e-3)


def test_runs_of_grids_wait_behind_the_main_ones(data):
    hidden = [run["hidden"] for run in data["runs"]]
    assert hidden == sorted(hidden)
    assert hidden.count(True) == 1


def test_a_run_without_alignment_has_no_curve_of_one(data):
    found = {
        one["run"] for one in data["charts"]["dynamics"]["series"] if one["metric"] == "cosine"
    }
    assert found == {"vae-align", "self-transcendence"}


def test_the_best_run_and_differences_are_named(html):
    best = re.search(r'<li class="best">.*?</li>', html, re.DOTALL)[0]
    assert "self-transcendence" in best
    mean = [fmean(fid(index, seed, 20) for seed in SEEDS) for index in (0, 2)]
    assert f"{mean[1]:.2f}" in best
    assert f"−{mean[0] - mean[1]:.2f} from SiT" in best
    assert f"ends with the lowest FID, {mean[1]:.2f} after 20 steps." in html


def cells(html, caption):
    """The rows of a table, by their first cell."""
    table = re.search(rf'<table aria-label="{caption}">(.*?)</table>', html, re.DOTALL)[1]
    rows = [re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", row) for row in table.split("</tr>")]
    head, *others = [row for row in rows if row]
    return [dict(zip(head, row, strict=True)) for row in others]


def test_tables_hold_means_and_deviations(html):
    row = cells(html, "FID by optimizer steps")[0]
    values = [fid(0, seed, 8) for seed in SEEDS]
    assert row["8"] == f"{fmean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert cells(html, "After 20 steps")[0].keys() == {"Run", "FID", "IS"}


def test_an_encoder_that_has_seen_labels_is_named_where_runs_are_compared(place, finished, html):
    note = "Encoder stand-in: a stand-in, trained here on the labels of digits."
    assert note not in html
    with contextlib.chdir(place):
        text = render_page(finished.inputs(), {**finished.settings(), "stand_ins": [note]})
    table = text.partition('<table aria-label="Last checkpoints, sampled with ode">')[2]
    assert note in table.partition("<table")[0]
    assert text.count(note) == 2  # and below the cards


def test_numbers_that_cannot_be_trusted_are_marked_on_the_whole_page(place, finished, html):
    reason = "1,000 samples are fewer than the 2,048 features: their covariance is singular"
    assert reason not in html
    with contextlib.chdir(place):
        inputs = finished.inputs()
        metrics, comparison = Path("few.csv"), Path("few-comparison.csv")
        few = pd.read_csv(inputs.metrics).assign(num_samples=1000, num_features=2048)
        few.to_csv(metrics, index=False)
        compared = pd.read_csv(inputs.comparison[0]).assign(fid_cautions=reason)
        compared.to_csv(comparison, index=False)
        inputs = replace(inputs, metrics=metrics, comparison=[comparison])
        text = render_page(inputs, finished.settings())
    titles = ("FID by optimizer steps", "After 20 steps", "Last checkpoints, sampled with ode")
    for title, column in zip(titles, ("8", "FID", "FID"), strict=True):
        assert all(row[column].endswith(" ᵃ") for row in cells(text, title))
        note = text.partition(f'<table aria-label="{title}">')[2].partition("<table")[0]
        assert note.count(f"ᵃ Not to be trusted: {reason}.") == 1
    assert not any("ᵃ" in row["8"] for row in cells(text, "IS by optimizer steps"))
    assert text.count(f"Caution: {reason}.") == 2  # of the cards, and of the chart


def test_cost_counts_what_was_recorded(html):
    row = cells(html, "What every run took")[0]
    assert row["Parameters"] == "17"  # of the weight file's shapes
    assert row["Time"] == "10 s"
    assert row["Images/s"] == "16"  # 20 steps of 8 images
    assert row["GPU-hours"] == f"{4 * seconds(0, 20) / 3600:.1f}"
    assert cells(html, "What every run took")[2]["With teachers"] == "34 s"


def test_provenance_names_versions_machines_and_commands(html):
    for text in ("selftrans 1.2.3", "torch 2.14.1", "node1: 4 × NVIDIA A100", "d" * 12,
                 "selftrans train --run sit --seed 2 --until 20"):  # fmt: skip
        assert text in html


def test_samples_are_there_for_each_run_checkpoint_and_sampler(parsed):
    pictures = [of for tag, of in parsed.tags if tag == "img" and "data-step" in of]
    assert len(pictures) == 3 * len(STEPS) + 3
    shown = [of["data-step"] for of in pictures if "hidden" not in of]
    assert shown == ["20"] * 6  # the last ones, also without JavaScript


def test_every_sampler_has_the_classes_of_its_own_samples_by_name(place, finished, html):
    rows = "Classes by row: 0, 1, 2, 3, 4; 5, 6, 7, 8, 9; 0, 1"
    assert html.count(rows) == 2  # samplers
    names = [f"digit <{label}>" for label in range(10)]
    with contextlib.chdir(place):
        text = render_page(finished.inputs(), {**finished.settings(), "class_names": names})
    assert text.count("Classes by row: digit &lt;0&gt;, digit &lt;1&gt;") == 2


# -- parts


def test_a_thinned_history_keeps_mean_and_end():
    history = pd.DataFrame({"step": range(1, 1001), "loss": np.sin(np.arange(1000.0))})
    few = thinned(history, "loss", points=50)
    assert len(few) == 50
    assert max(few) == 1000
    assert fmean(few.values()) == pytest.approx(history["loss"].mean())
    short = thinned(history.head(7), "loss", points=50)
    assert list(short.values()) == history["loss"].head(7).tolist()
    assert thinned(history.assign(loss=np.nan), "loss") == {}


def test_charts_know_every_column_of_a_history():
    assert {"step", *HISTORY_NAMES} == set(HISTORY_COLUMNS)


def test_a_sheet_shows_the_images_in_order():
    images = np.stack([np.full((8, 8, 3), 12 * index, np.uint8) for index in range(21)])
    uri, size = sample_sheet(images)
    sheet = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert sheet.size == size == (5 * SIDE + 4 * GAP, 4 * SIDE + 3 * GAP)
    pixels, pitch = np.asarray(sheet.convert("RGBA")).astype(int), SIDE + GAP
    for index in range(20):
        row, column = divmod(index, 5)
        middle = pixels[row * pitch + SIDE // 2, column * pitch + SIDE // 2]
        assert middle[:3] == pytest.approx([12 * index] * 3, abs=4)
        assert middle[3] == 255
    assert pixels[:, SIDE + 1 : SIDE + GAP - 1, 3].max() == 0


def test_every_figure_of_every_experiment_has_title_caption_and_heading():
    rules = (REPOSITORY / "workflow/rules/plot.smk").read_text()
    stated = dict(re.findall(
        r'FIGURES\}/([a-z-]+?)(?:-\{\{\w+\}\})?\.png",\s+category="[^"]+",\s+'
        r'caption="\.\./report/(\w+)\.rst"', rules
    ))  # fmt: skip
    assert stated == {name: kind.caption for name, kind in KINDS.items()}
    grouped = [kind for kinds in GROUPS.values() for kind in kinds]
    assert sorted(grouped) == sorted(KINDS)
    for path in (REPOSITORY / "experiments").glob("*.yaml"):
        for name in figure_names(load_experiment(path)):
            assert figure_kind(name)[0] in KINDS, name


def test_captions_are_the_reports(tmp_path):
    path = tmp_path / "caption.rst"
    path.write_text("Of **{{ snakemake.wildcards.run }}** with *{{ snakemake.params.sampler }}*.")
    text = caption(path, {"run": "sit"}, {"sampler": "ode"})
    assert "Of <strong>sit</strong> with <em>ode</em>." in text
    hostile = caption(path, {"run": "<b>x</b>"}, {"sampler": "ode"})
    assert "<b>" not in hostile


@pytest.mark.parametrize(
    ("value", "text"), [(1.03e6, "1.03 M"), (2.5e13, "25 T"), (17, "17 "), (None, "")]
)
def test_large_quantities_have_a_prefix(value, text):
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.25, "0.25 s"), (90, "1.5 min"), (7200, "2.0 h"), (3.6e6, "1,000.0 h")]
)
def test_durations_have_their_unit(value, text):
    assert duration(value) == text


def test_a_file_that_is_no_weight_file_is_refused(tmp_path):
    path = tmp_path / "ema.safetensors"
    path.write_bytes(b"no header")
    with pytest.raises(UserError, match="truncated or not a safetensors file"):
        weights_header(path)


def test_settings_in_words_name_what_matters():
    experiment = load_experiment(REPOSITORY / "experiments/imagenet256-b2.yaml")
    words = dict(settings_in_words(experiment))
    assert "256 × 256 pixels" in words["Data"]
    assert "4 × 32 × 32" in words["Latents"]
    assert "SiT-B/2: 12 blocks, hidden size 768" in words["Backbone"]
    assert "400,000 steps of 256 images" in words["Training"]
    sampler = sampler_in_words(experiment.evaluation.samplers["sde"])
    assert sampler.startswith("Euler-Maruyama (SDE), 250 steps, no guidance, 10,000 samples")


# -- other experiments


def test_a_page_reads_shared_runs_where_they_lie(tmp_path):
    path = tmp_path / "child.yaml"
    path.write_text(yaml.safe_dump(tiny_values(name="child")))
    study = SharingStudy.load({"experiments": (str(path),)})
    study.owners = {"sit": "tiny", "samples of sit": "tiny"}
    evaluation = Evaluation(study)
    pages = Pages(study, Figures(study, Training(study, str), evaluation), evaluation)
    child = {"experiment": "child"}
    for given in [*pages.weights(child), *pages.samples(child)]:
        assert given.startswith("results/tiny/runs/sit/" if "/sit/" in given else "results/child/")
    assert pages.targets() == ["results/child/index.html"]


def test_a_page_of_imported_runs_alone_has_no_training(tmp_path):
    with contextlib.chdir(tmp_path):
        finished = finish(
            tmp_path, **{"runs": {"public": {"imported": IMPORTED, "label": "Public"}},
                         "figures.sample_checkpoints": [5]}
        )  # fmt: skip
        text = render_page(finished.inputs(), finished.settings())
    charts = json.loads(Parsed(text).scripts[0])["charts"]
    assert set(charts) == {"convergence"}
    assert charts["convergence"]["series"][0]["level"]
    assert 'id="dynamics"' not in text


def test_a_damaged_result_is_named_and_nothing_is_rendered(place, finished):
    with contextlib.chdir(place):
        history = Path("results/tiny/runs/sit/seed0/checkpoints/20/history.csv")
        whole = history.read_text()
        history.write_text(whole.replace("1", "2", 1))
        try:
            with pytest.raises(UserError, match=r"history\.csv: damaged"):
                render_page(finished.inputs(), finished.settings())
        finally:
            history.write_text(whole)


def test_it_is_made_again_by_the_path_of_its_experiment(place, html):
    words = ["snakemake", "--cores", "all", "--config", f"experiments=[{place}/tiny.yaml]"]
    assert f"<code>{shlex.join(words)}</code>" in unescape(html)
