"""The workflow, run by Snakemake: the whole lifecycle once with tiny numbers.

Then what reruns and what does not.
"""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
import yaml

from selftrans.runtime.tensors import load_tensors
from tests.support.documents import example_method
from tests.support.events import pictures, values
from tests.support.experiments import OTHER_METHODS
from tests.support.workplace import DATA, Workplace, copy_project

pytestmark = pytest.mark.workflow

SAMPLERS = {
    "ode": {"sampler": "euler", "num_steps": 2, "num_samples": 20},
    "heun": {
        "sampler": "heun",
        "num_steps": 2,
        "num_samples": 12,
        "checkpoints": "last",
        "guidance": {"scale": 1.5},
    },
}


LATER_KEYS = '''
    later: int = 0
    """A key of a later version."""
    label_dropout: UnitFloat = 0.3
'''


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workplace where everything was run once."""
    place = Workplace(tmp_path_factory.mktemp("finished"), **{"evaluation.samplers": SAMPLERS})
    place.write("tiny")
    place.configure("tiny")
    place.run()
    return place


@pytest.fixture
def place(finished, tmp_path):
    """A copy of the finished workplace, to change."""
    return finished.copied(tmp_path / "copy")


RUNS = ("sit", "vae-align", "self-transcendence")
FIGURES = {
    "plot_convergence", "plot_losses", "plot_samples", "plot_comparison", "plot_dynamics",
    "experiment_page",
}  # fmt: skip


def test_the_lifecycle_leaves_what_it_promises(finished):
    for run in RUNS:
        for step in (4, 8):
            directory = finished.path(f"tiny/runs/{run}/seed0/checkpoints/{step}")
            for weights in ("ema", "raw"):
                _, metadata = load_tensors(directory / f"{weights}.safetensors", "weights")
                assert (metadata["run"], metadata["step"]) == (run, step)
            record = json.loads((directory / "checkpoint.json").read_text())
            assert record["command"].startswith("selftrans train results/tiny/")
            assert f"--run {run} --seed 0 --until {step}" in record["command"]
            metrics = json.loads(
                (
                    finished.path(f"tiny/runs/{run}/seed0/samples/{step}/ode-n20/classifier.json")
                ).read_text()
            )
            assert metrics["num_samples"] == 20
            assert metrics["num_reference"] == 1797
            assert metrics["samples"]["sampler"] == "euler"
            assert metrics["samples"]["checkpoint"]["step"] == step
            assert metrics["extractor"]["name"] == "classifier"
            assert np.isfinite(list(metrics["metrics"].values())).all()
        events = finished.path(f"tiny/runs/{run}/seed0/tensorboard")
        assert set(values(events, "train/loss")) == {3, 6}
        fids = values(events / "evaluation", "ode-n20/classifier/fid")
        assert set(fids) == {4, 8}
        assert fids[8] == pytest.approx(metrics["metrics"]["fid"], rel=1e-6)
        assert set(pictures(events / "evaluation", "ode-n20/samples")) == {4, 8}
    reconstructions = finished.path("tiny/tensorboard/autoencoder")
    assert pictures(reconstructions, "autoencoder/reconstructions")[0].shape == (64, 256, 3)
    with np.load(finished.path("tiny/runs/sit/seed0/samples/8/heun-n12/samples.npz")) as archive:
        assert archive["arr_0"].shape == (12, 32, 32, 3)
        assert archive["arr_0"].dtype == np.uint8
    teacher, metadata = load_tensors(
        finished.path("tiny/runs/vae-align/seed0/teachers/4-raw-depth3.safetensors"), "teacher"
    )
    assert metadata["source"]["run"] == "vae-align"
    assert not any(name.startswith(("blocks.3", "final_layer")) for name in teacher)
    for figure in ("convergence", "losses", "samples"):
        for suffix, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
            assert finished.path(f"tiny/figures/{figure}.{suffix}").read_bytes().startswith(magic)
    page = finished.path("tiny/index.html").read_text()
    assert page.count('<figure class="still"') == len(
        list(finished.path("").glob("tiny/figures/*.png"))
    )
    resolved = yaml.safe_load(finished.path("tiny/experiment.yaml").read_text())
    assert resolved["runs"]["sit"]["training"]["clip_norm"] == 1.0


def test_the_table_has_every_set_of_samples(finished):
    table = pd.read_csv(finished.path("tiny/metrics.csv"))
    assert len(table) == 3 * (2 + 1)
    assert {
        "fid",
        "is",
        "extractor",
        "num_samples",
        "sampler",
        "guidance_scale",
        "checkpoint_digest",
    } <= set(table.columns)
    assert table[["fid", "is"]].notna().all().all()
    markdown = finished.path("tiny/metrics.md").read_text()
    assert "N = 20" in markdown
    assert "N = 12" in markdown


def test_nothing_is_left_to_do(finished):
    assert finished.planned() == {}


def test_every_job_has_a_log_and_a_benchmark(finished):
    logs = {path.stem for path in finished.path("").glob("**/logs/*.log")}
    assert logs == {path.stem for path in finished.path("").glob("**/benchmarks/*.tsv")}
    assert len(logs) > 15


def test_no_log_is_garbled_by_a_bar(finished):
    for log in finished.path("").glob("**/logs/*.log"):
        assert "\r" not in log.read_text(), log


def test_a_figure_setting_redraws_only(place):
    place.write("tiny", **{"figures.dpi": 90})
    assert set(place.planned()) == FIGURES


def test_a_label_redraws_and_tabulates_only(place):
    place.write("tiny", **{"runs.sit": {"label": "SiT"}})
    assert set(place.planned()) == FIGURES | {"table"}


def test_names_of_classes_redraw_only(place):
    """They refuse nothing, and no training, sample or number depends on them."""
    names = {"class_names": [f"class {label}" for label in range(10)]}
    data = place.directory / "experiments/data/tiny.yaml"
    data.write_text(yaml.safe_dump({**DATA, **names}))
    assert set(place.planned()) == {"plot_samples", "experiment_page"}


def test_any_samplers_images_are_drawn_on_request(place):
    assert place.planned("results/tiny/figures/samples-heun.png") == {"plot_samples_of_sampler": 1}


def test_another_guidance_scale_regenerates_that_sampler_only(place):
    changed = {**SAMPLERS, "heun": {**SAMPLERS["heun"], "guidance": {"scale": 2.0}}}
    place.write("tiny", **{"evaluation.samplers": changed})
    planned = place.planned()
    assert planned["generate_samples"] == planned["sample_statistics"] == planned["metrics"] == 3
    assert "train_segment" not in planned
    before = place.written("tiny/runs/*/*/samples/**/*")
    place.run("results/tiny/runs/sit/seed0/samples/8/heun-n12/classifier.json")
    rewritten = {
        path
        for path, at in place.written("tiny/runs/*/*/samples/**/*").items()
        if before.get(path) != at
    }
    assert {path.parent.name for path in rewritten} == {"heun-n12"}


def test_another_number_of_samples_leaves_the_old_ones(place):
    changed = {**SAMPLERS, "heun": {**SAMPLERS["heun"], "num_samples": 14}}
    place.write("tiny", **{"evaluation.samplers": changed})
    planned = place.planned()
    assert planned["generate_samples"] == 3
    assert "train_segment" not in planned


def test_another_metric_computes_numbers_only(place):
    place.write("tiny", **{"evaluation.metrics": ["fid"]})
    assert {"generate_samples", "sample_statistics", "train_segment"}.isdisjoint(place.planned())
    assert place.planned()["metrics"] == 9


def test_a_checkpoint_appended_and_one_inserted_train_no_more_than_needed(place):
    before = place.written("tiny/runs/**/*.safetensors") | place.written("tiny/runs/**/*.npz")
    place.write("tiny", **{
        "training.checkpoints": [4, 6, 8, 10],
        "runs.vae-align.training": {"checkpoints": [4, 8]},
        "runs.self-transcendence.training": {"checkpoints": [4, 8]},
    })  # fmt: skip
    assert place.planned("train") == {"train_segment": 2}
    place.run("train")
    sit = place.path("tiny/runs/sit/seed0")
    assert "resuming from step 4" in (sit / "logs/train-6.log").read_text()
    assert "resuming from step 8" in (sit / "logs/train-10.log").read_text()
    after = place.written("tiny/runs/**/*.safetensors") | place.written("tiny/runs/**/*.npz")
    untouched = {path: at for path, at in after.items() if path in before}
    assert untouched == before
    assert place.planned("train") == {}
    planned = place.planned()
    assert planned["generate_samples"] == 3  # ode at 6 and 10; heun at the new last checkpoint
    assert "train_segment" not in planned


def test_a_changed_teacher_is_another_definition_of_its_student(place):
    place.write("tiny", **{"runs.vae-align.training": {"weight_decay": 0.1}})
    shutil.rmtree(place.path("tiny/runs/vae-align"))
    ended = place.snakemake()
    assert ended.returncode != 0
    message = (ended.stdout + ended.stderr).strip().splitlines()[-1]
    assert message.startswith(
        "error: results/tiny/runs/self-transcendence/seed0: was trained under another definition"
    )
    assert "teachers.0.training.weight_decay (trained: 0.0, now: 0.1)" in message


def test_newer_latents_retrain_nothing(place):
    os.utime(place.path("data/tiny/latents/manifest.json"))
    assert place.planned("train") == {}


def test_an_experiment_file_may_move(place):
    (place.directory / "experiments/tiny.yaml").rename(place.directory / "mine.yaml")
    assert place.planned(experiments=("mine.yaml",)) == {"experiment_page": 1}  # which names it


def test_a_changed_definition_is_refused_with_its_keys_before_any_job(place):
    place.write("tiny", **{"training.learning_rate": 5e-4, "model.depth": 5})
    ended = place.snakemake()
    assert ended.returncode != 0
    message = (ended.stdout + ended.stderr).strip().splitlines()[-1]
    assert "training.learning_rate (trained: 0.001, now: 0.0005)" in message
    assert "model.depth (trained: 4, now: 5)" in message
    assert "rm -r results/tiny/runs/sit/seed0" in message


def test_evaluation_alone_works_on_a_finished_training(place):
    for run in RUNS:
        shutil.rmtree(place.path(f"tiny/runs/{run}/seed0/samples"))
    place.path("tiny/metrics.csv").unlink()
    planned = place.planned("evaluate")
    assert planned == {"generate_samples": 9, "sample_statistics": 9, "metrics": 9, "table": 1}


def test_processes_that_do_not_divide_the_batch_are_refused_before_any_job(place):
    (place.directory / "config.yaml").write_text(
        "experiments: [tiny]\nresources: {train: {gpu: 3}}\n"
    )
    ended = place.snakemake("-n")
    assert ended.returncode != 0
    assert "training.batch_size: 8 is not a multiple of 3 processes" in ended.stderr


def test_two_experiments_share_their_data_and_nothing_else(place):
    place.write("other", **{"training.learning_rate": 2e-3})
    both = ("tiny", "other")
    planned = place.planned(experiments=both)
    assert {"autoencoder", "classifier", "extract_latents", "reference_statistics"}.isdisjoint(
        planned
    )
    assert planned["train_segment"] == 6
    assert planned["plot_convergence"] == 1
    place.run("results/other/runs/sit/seed0/checkpoints/4/ema.safetensors", experiments=both)
    assert place.planned() == {}


def test_another_run_and_seed_add_jobs_and_nothing_else(place):
    place.write("tiny", **{"runs.longer": {}, "seeds": [0, 1]})
    planned = place.planned("train")
    assert planned == {"train_segment": 2 * 2 + 3 * 2, "freeze_teacher": 1}


def test_what_a_child_shares_is_made_once_whichever_comes_first(place):
    """The parent has its results, then a child adds a run, a seed and a checkpoint."""
    child = {
        "extends": "tiny",
        "name": "child",
        "seeds": [0, 1],
        "training": {"checkpoints": [4, 6, 8]},
        "runs": {"vae-align": None, "self-transcendence": None, "more": {"training": {"eps": 0.1}}},
    }
    (place.directory / "experiments/child.yaml").write_text(yaml.safe_dump(child))
    missing = {"train_segment": 1 + 3 + 2 * 3}  # sit at 6, its seed 1, both seeds of `more`
    for requested in (("child",), ("tiny", "child")):
        assert place.planned("train", experiments=requested) == missing
    before = place.written("tiny/runs/*/seed0/checkpoints/[48]/*")
    seed = "results/tiny/runs/sit/seed1/checkpoints/8/ema.safetensors"
    place.run("results/tiny/runs/sit/seed0/checkpoints/6/ema.safetensors", seed,
              experiments=("child",))  # fmt: skip
    assert place.written("tiny/runs/*/seed0/checkpoints/[48]/*") == before
    assert not place.path("child/runs/sit").exists()
    assert place.planned("train", experiments=("child",)) == {"train_segment": 2 * 3}
    assert place.planned() == {}


def test_what_a_child_made_is_there_for_its_parent(place):
    """The child comes first: what the parent's runs are is trained under the parent's name."""
    changes = {"training.checkpoints": [4], "figures.sample_checkpoints": [4]}
    place.write("parent", runs={"sit": {}}, **changes)
    (place.directory / "experiments/child.yaml").write_text(
        "extends: parent\nname: child\nruns: {more: {training: {eps: 0.1}}}\n"
    )
    assert place.planned("train", experiments=("child",)) == {"train_segment": 2}
    assert place.planned("train", experiments=("parent",)) == {"train_segment": 1}
    assert place.planned("train", experiments=("child", "parent")) == {"train_segment": 2}
    place.run("train", experiments=("child",))
    assert place.path("parent/runs/sit/seed0/checkpoints/4/ema.safetensors").exists()
    for requested in (("parent",), ("child",), ("child", "parent")):
        assert place.planned("train", experiments=requested) == {}, requested


def test_a_new_key_and_a_changed_default_rerun_and_refuse_nothing(place, monkeypatch):
    """A later package, whose training has a new key and another default, over finished results."""
    copy_project(place.directory, "selftrans")
    for file, old, new in (
        ("training", "    label_dropout: UnitFloat = 0.1\n", LATER_KEYS),
        ("defaults", "VERSION = 1\n", "VERSION = 2\n"),
        ("defaults", "Any]] = {}\n", 'Any]] = {"TrainingConfig.label_dropout": {1: 0.1}}\n'),
    ):
        path = place.directory / f"selftrans/config/{file}.py"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
    monkeypatch.setenv("PYTHONPATH", str(place.directory))
    place.warm = False  # the package is another one
    assert place.planned() == {}
    place.write("tiny", **{"runs.sit.training": {"checkpoints": [4, 8, 10]}})
    place.run("results/tiny/runs/sit/seed0/checkpoints/10/ema.safetensors")
    assert "resuming from step 8" in place.path("tiny/runs/sit/seed0/logs/train-10.log").read_text()
    resolved = yaml.safe_load(place.path("tiny/experiment.yaml").read_text())
    training = resolved["runs"]["sit"]["training"]
    assert (resolved["defaults"], training["label_dropout"], training["later"]) == (1, 0.1, 0)
    place.write("new", runs={"sit": {}})
    assert place.planned("train", experiments=("new",)) == {"train_segment": 2}
    resolved = yaml.safe_load(place.path("new/experiment.yaml").read_text())
    assert resolved["runs"]["sit"]["training"]["label_dropout"] == 0.3


def test_jobs_of_this_machine_are_forked_from_one_process(place):
    """What stands for a job has imported nothing, and what Snakemake measures of it is small."""
    place.write("forked", runs={"sit": {}})
    place.warm = False
    place.run("evaluate", experiments=("forked",))
    measured = list(place.path("forked/runs/sit/seed0/benchmarks").glob("[gt]*-*.tsv"))
    megabytes = [pd.read_csv(path, sep="\t")["max_rss"].max() for path in measured]
    assert len(megabytes) >= 3
    assert max(megabytes) < 100


def test_a_mistake_in_the_experiment_is_one_line_before_any_job(place):
    """One of many: the others are those of test_config.py, where they take no Snakemake."""
    place.write("tiny", **{"model.depth": "four"})
    ended = place.snakemake()
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    message = "experiments/tiny.yaml: model.depth: input should be a valid integer, found 'four'"
    assert [
        line for line in ended.stderr.splitlines() if line.startswith("error: ") and message in line
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("experiments: [tiny]\ngpus: 8", "config.yaml: gpus: unknown key"),
        (
            "experiments: [tiny]\ndata: {tinny: {images: 3}}",
            "config.yaml: data: 'tinny' is not a data file (allowed: ",
        ),
    ],
)
def test_a_mistake_in_config_yaml_is_one_line(place, config, message):
    """One that the package finds, and one that only the workflow can."""
    (place.directory / "config.yaml").write_text(config)
    ended = place.snakemake("-n")
    assert ended.returncode != 0
    assert message in ended.stderr.strip().splitlines()[-1]


def test_a_killed_job_resumes_from_its_last_saved_state(place):
    target = "results/slow/runs/sit/seed0/checkpoints/2000/ema.safetensors"
    place.write("slow", **{
        "training.checkpoints": [2000], "training.save_minutes": 0.005,
        "figures.sample_checkpoints": [2000], "runs": {"sit": {}},
    })  # fmt: skip
    command = place.command(target, experiments=("slow",))
    started = subprocess.Popen(
        command, cwd=place.directory, start_new_session=True, stderr=subprocess.DEVNULL
    )
    state = place.path("slow/runs/sit/seed0/state")
    deadline = time.monotonic() + 120
    while not list(state.glob("step-*.safetensors")):
        assert time.monotonic() < deadline, place.logs()
        assert started.poll() is None, place.logs()
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    place.write(
        "slow",
        **{
            "training.checkpoints": [2000],
            "figures.sample_checkpoints": [2000],
            "runs": {"sit": {}},
        },
    )
    saved = max(int(path.stem.removeprefix("step-")) for path in state.glob("step-*.safetensors"))
    assert saved < 2000
    place.run("--unlock", experiments=("slow",))
    place.run(target, experiments=("slow",))
    assert (
        f"resuming from step {saved}"
        in place.path("slow/runs/sit/seed0/logs/train-2000.log").read_text()
    )
    assert not (state / "owner.json").exists()


def test_a_nan_stops_the_retries_of_its_job_at_once(place):
    """Snakemake retries, as after a time limit; later attempts end before they train."""
    target = "results/diverging/runs/sit/seed0/checkpoints/8/ema.safetensors"
    place.write("diverging", **{"training.learning_rate": 1e30, "runs": {"sit": {}}})
    ended = place.snakemake(target, experiments=("diverging",))
    assert ended.returncode == 1
    assert (ended.stdout + ended.stderr).count("Trying to restart job") == 3
    log = place.path("diverging/runs/sit/seed0/logs/train-4.log").read_text()
    assert "loss or gradient is not finite at step" in log
    assert len(log.splitlines()) == 1
    place.write("diverging", runs={"sit": {}})
    place.run(target, experiments=("diverging",))


def test_a_sweep_whose_images_are_deleted_and_a_metric_that_is_added(place):
    """One set for each guidance scale and a figure of them.

    Images are deleted once evaluated, and later metrics need none.
    """
    ode = {"sampler": "euler", "num_steps": 2, "num_samples": 12, "checkpoints": "last"}
    samplers = {"ode": ode, "cfg": {**ode, "guidance": {"scale": [1.0, 2.25]}}}
    changes = {
        "runs": {"sit": {}}, "evaluation.samplers": samplers, "evaluation.keep_samples": False,
        "training.checkpoints": [4], "figures.sample_checkpoints": [4],
    }  # fmt: skip
    place.write("sweeping", **changes)
    place.run(experiments=("sweeping",))
    samples = place.path("sweeping/runs/sit/seed0/samples/4")
    names = {"ode-n12", "cfg-scale1.0-n12", "cfg-scale2.25-n12"}
    assert {path.name for path in samples.iterdir()} == names
    for name in names:
        assert not (samples / name / "samples.npz").exists()
        with np.load(samples / name / "first.npz") as first:
            assert first["arr_0"].shape == (12, 32, 32, 3)
    table = pd.read_csv(place.path("sweeping/metrics.csv"))
    assert sorted(table["guidance_scale"]) == [1, 1, 2.25]
    assert (
        table.set_index("samples")["fid"]["cfg-scale1.0"]
        == table.set_index("samples")["fid"]["ode"]
    )
    assert place.path("sweeping/figures/sweep-cfg.png").stat().st_size > 10_000
    assert place.path("sweeping/figures/losses.png").is_file()  # of plain SiT alone
    assert place.planned(experiments=("sweeping",)) == {}
    place.write(
        "sweeping", **changes, **{"evaluation.metrics": ["fid", "is", "precision", "recall", "kid"]}
    )
    assert place.planned("evaluate", experiments=("sweeping",)) == {"metrics": 3, "table": 1}
    place.run("evaluate", experiments=("sweeping",))
    table = pd.read_csv(place.path("sweeping/metrics.csv"))
    assert (
        ((table[["precision", "recall"]] >= 0) & (table[["precision", "recall"]] <= 1))
        .to_numpy()
        .all()
    )
    assert place.planned("evaluate", experiments=("sweeping",)) == {}
    samplers["cfg"]["guidance"]["scale"] = [1.0, 3.0]  # another scale draws that set only
    place.write("sweeping", **changes)
    assert place.planned("generate", experiments=("sweeping",))["generate_temporary_samples"] == 1


def test_weights_that_are_not_there_are_said_before_anything_is_trained(place, monkeypatch):
    monkeypatch.setenv("SELFTRANS_CACHE", str(place.directory / "cache"))
    place.write(
        "published",
        **{"evaluation.extractor": "inception", "evaluation.metrics": ["fid", "fd-dinov2"]},
    )
    ended = place.snakemake(experiments=("published",))
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2  # all of them at once, before the first job
    for line, name in zip(sorted(lines), ("dinov2", "inception"), strict=True):
        assert line.startswith(f"error: config.yaml: weights: {name}: {place.directory / 'cache'}")
    assert not place.path("extractors").exists()
    assert not place.path("published/runs").exists()
    wrong = place.directory / "weights.pth"
    wrong.write_bytes(b"other")
    place.configure("published", weights={"inception": str(wrong), "dinov2": str(wrong)})
    ended = place.snakemake("results/extractors/inception.json")
    assert ended.returncode == 1
    assert "weights.pth: has 5 bytes" in ended.stdout + ended.stderr  # the log, on the terminal
    place.configure("published")
    planned = place.planned(experiments=("published",))
    assert planned["extractor_weights"] == 2
    assert planned["reference_statistics"] == 2


def test_arms_are_tuned_and_the_report_follows(place):
    """`snakemake tune` writes the best trial of each arm, which the reporting run trains with."""
    tuning = {"trials": 2, "search": "grid", "ranges": {"training.learning_rate": [2e-3]}}
    values = {
        "runs": {"sit": {}}, "training.checkpoints": [4], "figures.sample_checkpoints": [4],
        "evaluation.samplers": {"ode": SAMPLERS["ode"]},
    }  # fmt: skip
    place.write("rates", **values, seeds=[9], tuning=tuning)
    place.run("tune", experiments=("rates",))
    assert place.planned("tune", experiments=("rates",)) == {}
    tuned = yaml.safe_load((place.directory / "experiments/tuned/rates.yaml").read_text())
    best = tuned["runs"]["sit"]
    measured = pd.read_csv(place.path("rates/metrics.csv")).set_index("run")["fid"]
    assert best["fids"] == pytest.approx([measured["sit"], measured["sit-trial1"]])
    assert best["trial"] == int(np.argmin(best["fids"]))
    log = place.path("rates/logs/tuned.log").read_text()
    assert "sit: training.learning_rate: the best, " in log  # of two, each is an edge
    place.write("report", **values, seeds=[0], tuned="rates")
    place.run(
        "results/report/runs/sit/seed0/checkpoints/4/ema.safetensors", experiments=("report",)
    )
    resolved = yaml.safe_load(place.path("report/experiment.yaml").read_text())
    rate = best["values"]["training.learning_rate"]
    assert resolved["runs"]["sit"]["training"]["learning_rate"] == rate


def test_other_methods_their_analysis_and_the_comparison(place):
    """REPA in a list of terms, two seeds: all figures and tables; new analysis trains nothing."""
    several = [OTHER_METHODS["repa"]["alignment"], *OTHER_METHODS["both"]["alignment"]]
    changes = {
        "runs": {"sit": {}, "several": {"alignment": several}}, "seeds": [0, 1],
        "training.checkpoints": [4], "figures.sample_checkpoints": [4],
        "evaluation.samplers": {"ode": SAMPLERS["ode"]}, "significance": {"resamples": 20},
    }  # fmt: skip
    analysis = {"encoder": "stand-in", "num_images": 300, "times": [0.3, 0.5], "shown_classes": 2}
    place.write("methods", **changes, analysis=analysis)
    place.run(experiments=("methods",))
    figures = {path.stem for path in place.path("methods/figures").glob("*.png")}
    assert figures == {
        "convergence", "losses", "samples", "comparison", "discriminability", "feature-maps",
        "similarity", "guiding-features", "dynamics-several", "significance",
    }  # fmt: skip
    comparison = pd.read_csv(place.path("methods/comparison.csv"))
    assert comparison["run"].tolist() == ["sit", "several"]
    assert comparison["fid_low"].notna().all()  # two seeds have an interval
    assert (comparison["hours"] > 0).all()
    tested = pd.read_csv(place.path("methods/significance.csv")).set_index("run").loc["several"]
    assert (tested["against"], tested["p"], tested["least_p"]) in [
        ("sit", p, 0.5) for p in (0.5, 1)
    ]
    assert tested["fid_low"] < tested["fid"] < tested["fid_high"]
    assert tested["seconds"] > comparison["hours"][1] * 3600  # the stand-in's time is counted
    paired = pd.read_csv(place.path("methods/paired.csv"))
    assert set(paired["metric"]) == {"fid", "is"}
    probes = pd.read_csv(place.path("methods/discriminability.csv"))
    blocks = probes[probes["kind"] == "block"]
    assert len(blocks) == 2 * 2 * 2 * 4  # runs, seeds, times, blocks
    assert blocks[["linear", "knn"]].min().min() >= 0
    assert set(probes[probes["kind"] == "guiding"]["name"]) == {
        "repa: REPA: stand-in", "layersync: LayerSync: block 3", "vae-alignment: VAE latents"
    }  # fmt: skip
    assert (probes["kind"] == "encoder").sum() == 1
    assert "stand-in encoder" in place.path("methods/discriminability.md").read_text()
    tables = list(place.path("methods").glob("*.md"))
    assert {path.stem for path in tables} == {
        "metrics", "comparison", "discriminability", "significance"
    }  # fmt: skip
    for path in tables:
        assert "trained here on the labels of" in path.read_text(), path.name
    assert place.planned(experiments=("methods",)) == {}
    place.write("methods", **changes, analysis={**analysis, "neighbours": 5})
    assert set(place.planned(experiments=("methods",))) == {
        "probe_blocks",
        "probe_encoder",
        "plot_discriminability",
        "experiment_page",
    }
    place.write("methods", **changes, analysis={**analysis, "num_images": 200})
    planned = place.planned(experiments=("methods",))
    assert planned["block_features"] == 4
    assert {"train_segment", "extract_features", "encoder"}.isdisjoint(planned)


def test_a_schedulers_warning_comes_as_long_before_as_saving_takes(place):
    """Three times the last save and a minute; before the first one, by the size of the state."""
    place.path("tiny/runs/sit/seed0/checkpoints/8/raw.safetensors").unlink()
    target = "results/tiny/runs/sit/seed0/checkpoints/8/raw.safetensors"
    saving = place.path("tiny/runs/sit/seed0/state/saving.json")
    assert json.loads(saving.read_text())["seconds"] < 30
    saving.write_text('{"seconds": 100}')
    assert "slurm_extra=--signal=USR1@360" in place.run("-n", target).stdout
    saving.write_text('{"seconds": 9000}')
    assert "slurm_extra=--signal=USR1@1200" in place.run("-n", target).stdout  # a third of an hour
    saving.unlink()
    assert "slurm_extra=--signal=USR1@61" in place.run("-n", target).stdout


def planned_resources(place, targets, *words, rate=100.0, **resources):
    """What Snakemake would request for jobs of imagenet256-b2, by rule."""
    rates = {"bf16": rate, "tf32": rate}
    place.configure("imagenet256-b2", rates=rates, resources=resources)
    named = [f"results/{target}" for target in targets.values()]
    planned = place.run("-n", *named, "--cores", "32", *words).stdout
    job = r"rule {}:\n(?:    .*\n)*?    output: .*{}.*\n(?:    .*\n)*?    resources: (.*)\n"
    lines = {
        rule: re.search(job.format(rule, re.escape(target)), planned)[1]
        for rule, target in targets.items()
    }
    return {
        rule: {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)(?:,|$)", line)}
        for rule, line in lines.items()
    }


B2_FORWARD = 46.1e9  # operations for one sample, DiT's paper (table 4)
SAMPLES = "imagenet256-b2/runs/sit/seed0/samples/50000/sde-n10000"
TARGETS = {
    "train_segment": "imagenet256-b2/runs/sit/seed0/checkpoints/50000/ema.safetensors",
    "freeze_teacher": "imagenet256-b2/runs/vae-align/seed0/teachers/200000-ema-depth8.safetensors",
    "generate_temporary_samples": f"{SAMPLES}/samples.npz",
    "sample_statistics": f"{SAMPLES}/inception.npz",
    "metrics": f"{SAMPLES}/inception.json",
    "extract_latents": "data/imagenet256/latents/manifest.json",
}


def test_resources_follow_from_the_work_and_stated_rates(place):
    """B/2 at 100 TFLOP/s for each GPU: half as much time again and ten minutes."""
    planned = planned_resources(place, TARGETS)
    runtime = {rule: requested["runtime"] for rule, requested in planned.items()}
    training = 10 + 1.5 * 50_000 * 256 * 3 * B2_FORWARD / 400e12 / 60
    assert runtime["train_segment"] == pytest.approx(training, rel=0.03)
    decoded = 10_000 * 9.5e6 * 256**2 / 12e12  # in fp32
    sampling = 10 + 1.5 * (10_000 * 250 * B2_FORWARD / 100e12 + decoded) / 60
    assert runtime["generate_temporary_samples"] == pytest.approx(sampling, abs=1)
    latents = 10 + 1.5 * 1281167 * 4.2e6 * 256**2 / 12e12 / 8 / 60
    assert runtime["extract_latents"] == pytest.approx(latents, abs=1)
    # Twice as fast, half the time, but for the last save, which takes two minutes either way.
    twice = planned_resources(place, TARGETS, rate=200.0)
    halved = (runtime["train_segment"] + 10 + 3) / 2
    assert twice["train_segment"]["runtime"] == pytest.approx(halved, abs=1.5)
    # Memory: weights, average and two moments of 131 million numbers in each of four processes.
    four = planned["train_segment"]["mem_mb"]
    assert four > 4 * 4 * 4 * 131
    # Light jobs get more memory at each attempt; the others are also retried after a time limit.
    third = planned_resources(place, TARGETS, "--attempt", "3")
    for rule, times in (("freeze_teacher", 3), ("train_segment", 1)):
        assert third[rule]["mem_mb"] == times * planned[rule]["mem_mb"]
    # What a user requests is taken as it is; memory is that of each node.
    only = {"train_segment": TARGETS["train_segment"]}
    two = planned_resources(place, only, train={"gpu": 2, "runtime": 30})["train_segment"]
    assert four == pytest.approx(2 * two["mem_mb"], rel=0.01)
    assert two["runtime"] == 30
    stated = planned_resources(place, only, train={"mem_mb": 1234})["train_segment"]
    assert stated["mem_mb"] == 1234
    spread = {"train_segment_on_nodes": TARGETS["train_segment"]}
    on_nodes = planned_resources(place, spread, train={"gpu": 4, "nodes": 2})
    assert on_nodes["train_segment_on_nodes"]["mem_mb"] == two["mem_mb"]


def test_time_limits_stay_below_a_ceiling(place):
    """A profile's; the limits of a group's jobs add up."""
    ceiling = ("--default-resources", "max_runtime=30")
    planned = planned_resources(place, TARGETS, *ceiling)
    assert planned["train_segment"]["runtime"] == 30
    assert planned["sample_statistics"]["runtime"] + planned["metrics"]["runtime"] <= 30


def test_a_profile_need_not_name_a_ceiling(place):
    only = {"train_segment": TARGETS["train_segment"]}
    account = ("--default-resources", "slurm_account=me")
    assert planned_resources(place, only, *account)["train_segment"]["runtime"] > 60
    command = ("-n", "train", "--default-resources", "max_runtime='a day'")
    refused = place.snakemake(*command)
    assert "error: default-resources: max_runtime: " in refused.stdout + refused.stderr


def test_as_many_attempts_as_a_ceiling_needs(place):
    """A job of 224 minutes by the stated rates, within limits of an hour.

    Ten minutes of each hour are the start.
    """
    (place.directory / "attempts.smk").write_text(
        'include: "Snakefile"\n'
        'print("ATTEMPTS", {rule.name: rule._restart_times for rule in workflow.rules})\n'
    )
    place.configure("imagenet256-b2")
    found = []
    for words in ([], ["--default-resources", "max_runtime=60"]):
        command = ["snakemake", "latents", "-n", "-s", "attempts.smk", "--cores", "8", *words]
        ended = subprocess.run(
            command, cwd=place.directory, capture_output=True, text=True, check=True
        )
        found.append(ast.literal_eval(re.search(r"ATTEMPTS (.*)", ended.stdout + ended.stderr)[1]))
    assert [one["train_segment"] for one in found] == [
        3,
        3 + 4,
    ]  # the longest segment: 100,000 steps
    assert [one["generate_samples"] for one in found] == [
        None,
        3 + 1,
    ]  # None: what the command line says


def test_what_a_training_runs_on_is_no_part_of_what_it_makes(place):
    """Another number of nodes, GPUs or threads retrains nothing."""
    for train in ({"nodes": 2, "processes": 2}, {"gpu": 2}, {"threads": 2, "mem_mb": 1234}):
        place.configure("tiny", resources={"train": train})
        assert place.planned() == {}, train


def test_a_method_in_an_own_file_is_trained_through_snakemake(place):
    """Its experiment extends a finished one: only its own run is trained and drawn."""
    code = example_method()
    (place.directory / "experiments/my_methods.py").write_text(code)
    arm = {
        "label": "mean teacher",
        "alignment": {"method": "my_methods.py:MeanTeacher", "depth": 2},
    }
    (place.directory / "experiments/mine.yaml").write_text(
        yaml.safe_dump({"extends": "tiny", "name": "mine", "runs": {"mean-teacher": arm}})
    )
    mine = ("mine",)
    assert place.planned("train", experiments=mine) == {"train_segment": 2}
    place.run("results/mine/figures/dynamics-mean-teacher.png", experiments=mine)
    run = place.path("mine/runs/mean-teacher/seed0")
    assert (run / "source/my_methods.py").read_text() == code
    assert not place.path("mine/runs/sit").exists()
    history = pd.read_csv(run / "checkpoints/8/history.csv")
    assert history["alignment"].abs().sum() > 0
    source = place.directory / "experiments/my_methods.py"
    source.write_text("# the same\n" + code)
    assert place.planned("train", experiments=mine) == {}
    source.write_text(code.replace("depths(self):", "depths(self):  # \n        1 + 1"))
    ended = place.snakemake("-n", "train", experiments=mine)
    assert ended.returncode == 1
    assert "alignment.0.source (trained: " in ended.stderr
