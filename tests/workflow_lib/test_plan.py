"""The plan: as many jobs as there are targets, and what is passed on to other programs."""

import json
import shlex

import pytest

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import write_json
from tests.support.experiments import OTHER_METHODS
from tests.support.studies import IMPORTED, SharingStudy
from workflow.lib.calls import Reports, prefetch_options
from workflow.lib.plan import Plan, parse_rates, report
from workflow.lib.rates import known_rates
from workflow.lib.settings import RatesConfig
from workflow.lib.study import Study


def jobs_of(study):
    return {rule: cost.jobs for rule, cost in Plan(study).costs.items() if cost.jobs}


def test_jobs_of_a_tiny_experiment_by_hand(make_study):
    assert jobs_of(make_study({"seeds": [0, 1]})) == {
        "autoencoder": 1, "classifier": 1, "extract_latents": 1, "reference_statistics": 1,
        "train_segment": 3 * 2 * 2, "freeze_teacher": 2, "class_examples": 1,
        "generate_samples": 3 * 2 * 2,
        "sample_statistics": 3 * 2 * 2, "metrics": 3 * 2 * 2, "tables, figures, pages": 2 + 5 + 2,
    }  # fmt: skip


def test_jobs_of_captions_are_those_that_snakemake_counts():
    found = jobs_of(Study.load({"experiments": ("scenes-tiny",)}))
    rules = ("train_reader", "extract_captions", "caption_metrics", "tables, figures, pages")
    assert [found[rule] for rule in rules] == [1, 1, 4 * 2, 3 + 11]
    assert sum(found.values()) == 73


def test_jobs_of_encoders_and_their_analysis(make_study):
    runs = {"sit": {}, "repa": OTHER_METHODS["repa"], "live": OTHER_METHODS["repa-on-images"]}
    found = jobs_of(make_study({"runs": runs, "analysis": {"encoder": "stand-in"}}))
    assert (found["encoder"], found["extract_features"]) == (1, 1)
    assert (found["block_features"], found["probe_blocks"], found["probe_encoder"]) == (3, 3, 1)


def test_an_imported_run_is_imported_for_samplers_and_students(make_study):
    teacher = {"run": "public", "step": 5, "weights": "raw"}
    student = {
        "method": "self-transcendence", "teacher": teacher, "student_depth": 2, "teacher_depth": 3,
    }  # fmt: skip
    runs = {"public": {"imported": IMPORTED}, "student": {"alignment": student}}
    found = jobs_of(make_study({"runs": runs, "figures.sample_checkpoints": [4]}))
    assert found["import_checkpoint"] == 2  # ema for the sampler, raw for the teacher
    assert (found["train_segment"], found["freeze_teacher"]) == (2, 1)


def test_two_experiments_share_their_data_in_the_plan(make_study):
    alone, both = jobs_of(make_study()), jobs_of(make_study({}, {"name": "b"}))
    assert both["extract_latents"] == both["autoencoder"] == 1
    assert both["train_segment"] == 2 * alone["train_segment"]


def test_a_shared_run_is_planned_once(make_study):
    study = make_study({}, {"name": "child"}, kind=SharingStudy)
    study.owners = {"sit": "tiny", "samples of sit": "tiny"}
    found = jobs_of(study)
    assert found["train_segment"] == 2 * 6 - 2
    assert found["generate_samples"] == found["sample_statistics"] == 2 * 6 - 2
    assert found["metrics"] == 2 * 6


def test_jobs_without_gpus_have_no_gpu_hours(make_study):
    assert Plan(make_study()).total.gpu_hours == 0
    plan = Plan(make_study(resources={"train": {"gpu": 1}}))
    assert plan.total.gpu_hours == plan.costs["train_segment"].gpu_hours > 0
    assert plan.total.bytes > 0


def test_kept_images_remain_on_the_disk(make_study):
    images = {"ode": {"sampler": "euler", "num_steps": 2, "num_samples": 1000}}
    kept, deleted = (
        Plan(make_study({"evaluation.samplers": images, "evaluation.keep_samples": keep}))
        .costs["generate_samples"]
        .bytes
        for keep in (True, False)
    )
    assert kept == 10 * deleted  # but for the first hundred


def test_the_table_says_what_its_hours_rest_on(make_study):
    lines = report(Plan(make_study())).splitlines()
    assert lines[0].split() == ["rule", "jobs", "PFLOP", "GPU", "hours", "GB"]
    assert any("at 100 in bf16, 50 in tf32, 12 in fp32 TFLOP/s" in line for line in lines)
    assert not [line for line in lines if line.startswith("import_checkpoint")]


@pytest.mark.parametrize("text", ["int8=3", "bf16", "bf16=fast", "bf16=0", "tf32=-1"])
def test_a_rate_is_a_number_of_a_known_arithmetic(text):
    with pytest.raises(UserError, match=f"--rates: '{text}' is not a rate"):
        parse_rates(text, RatesConfig())


def test_rates_go_over_the_stated_ones():
    rates = parse_rates("bf16=400,fp32=40", RatesConfig())
    assert rates == {"bf16": 400.0, "tf32": 50.0, "fp32": 40.0}


def test_what_is_passed_on(make_study):
    study = make_study(weights={"dinov2": "my file.pth"}, data={"digits": {"images": 1797}})
    words = shlex.split(prefetch_options(study))
    assert words == ["results/tiny/experiment.yaml", "--weights=dinov2=my file.pth"]
    (page,) = Reports(study).targets()
    assert page == "results/tiny/report.html"
    config = json.loads(Reports(study).config({"experiment": "tiny"}))
    assert config["data"] == {"digits": {"images": 1797}}
    assert config["experiments"] == list(study.references)


def write_check(path, **machines):
    """What ``selftrans check-gpu`` writes, as far as a plan reads it."""
    write_json(path, {"format": 1, "machines": machines})
    return path


def test_measured_rates_are_those_of_this_machines_card(tmp_path, make_study):
    stated, path = RatesConfig(), tmp_path / "gpu-check.json"
    assert known_rates(path, stated, ["A"]) == (stated, None)  # nothing was measured
    write_check(path, A={"rates": {"bf16": 400.0}}, B={"rates": {"bf16": 80.0, "fp32": 9.0}})
    values, card = known_rates(path, stated, ["C", "B"])
    assert (values.model_dump(), card) == ({"bf16": 80.0, "tf32": 50.0, "fp32": 9.0}, "B")
    assert known_rates(path, stated, ["C"]) == (stated, None)
    assert known_rates(path, stated, []) == (stated, None)  # one of two, and nobody knows which
    lines = report(Plan(make_study(), values.model_dump()), card)
    assert "at 80 in bf16, 50 in tf32, 9 in fp32 TFLOP/s for each GPU, as measured on B" in lines


def test_a_login_node_takes_the_rates_of_the_only_card_that_was_measured(tmp_path):
    miniature = {"miniature": True, "rates": {"bf16": 0.001}}
    path = write_check(tmp_path / "a.json", card={"rates": {"bf16": 400.0}}, cpu=miniature)
    assert known_rates(path, RatesConfig(), []).measured_on == "card"
    path = write_check(tmp_path / "b.json", cpu=miniature)
    assert known_rates(path, RatesConfig(), ["cpu"]).measured_on is None


@pytest.mark.parametrize("rates", [{"bf16": -1.0}, {"int8": 3.0}, {"bf16": "fast"}])
def test_a_damaged_rate_is_named(tmp_path, rates):
    path = write_check(tmp_path / "a.json", card={"rates": rates})
    with pytest.raises(UserError, match=r"a\.json: card: rates"):
        known_rates(path, RatesConfig(), ["card"])
