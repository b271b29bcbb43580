"""Sets of samples, statistics and metrics: which there are, and where they lie."""

import json
from types import SimpleNamespace

import pytest

from tests.support.studies import IMPORTED, SharingStudy
from workflow.lib.evaluation import Evaluation

ODE = {"sampler": "euler", "num_steps": 2, "num_samples": 20}
SAMPLERS = {"evaluation.samplers": {"ode": ODE, "last": {**ODE, "checkpoints": "last"}}}
SET = {"experiment": "tiny", "run": "sit", "seed": 0, "step": 8, "sampler": "ode", "number": 20}
DIRECTORY = "results/tiny/runs/sit/seed0/samples/8/ode-n20"


def test_every_sampler_is_applied_to_its_checkpoints(make_study):
    evaluation = Evaluation(make_study({**SAMPLERS, "seeds": [0, 1]}))
    sets = evaluation.sample_sets("tiny")
    assert len(sets) == 3 * 2 * (2 + 1)
    assert SET in sets
    assert {samples["step"] for samples in evaluation.sample_sets("tiny", "last")} == {8}
    assert len(evaluation.sample_sets("tiny", "ode", (4,))) == 3 * 2


@pytest.mark.parametrize(
    ("keep", "targets"),
    [
        (True, [f"{DIRECTORY}/samples.npz"]),
        (False, [f"{DIRECTORY}/inception.npz", f"{DIRECTORY}/dinov2.npz"]),
    ],
)
def test_the_target_is_the_images_or_what_they_are_deleted_after(make_study, keep, targets):
    evaluation = Evaluation(
        make_study(
            {
                "runs": {"sit": {}},
                "training.checkpoints": [8],
                "figures.sample_checkpoints": [8],
                "evaluation.keep_samples": keep,
                "evaluation.extractor": "inception",
                "evaluation.metrics": ["fid", "fd-dinov2"],
            }
        )
    )
    assert evaluation.sample_targets() == targets


def test_samples_depend_on_neither_their_checkpoints_nor_their_sweep(make_study):
    guidance = {"guidance": {"scale": [1.0, 2.0]}, "checkpoints": "last"}
    changes = {"evaluation.samplers": {"ode": ODE, "cfg": {**ODE, **guidance}}}
    evaluation = Evaluation(make_study(changes))
    swept = json.loads(evaluation.sampler_definition({**SET, "sampler": "cfg-scale1.0"}))
    assert swept == json.loads(evaluation.sampler_definition(SET))
    other = json.loads(evaluation.sampler_definition({**SET, "sampler": "cfg-scale2.0"}))
    assert other["guidance"]["scale"] == 2.0


def test_the_sampler_chooses_the_weights(make_study):
    samplers = {"ode": ODE, "raw": {**ODE, "weights": "raw"}}
    evaluation = Evaluation(make_study({"evaluation.samplers": samplers}))
    checkpoint = "results/tiny/runs/sit/seed0/checkpoints/8"
    assert evaluation.weights_to_sample(SET) == f"{checkpoint}/ema.safetensors"
    raw = {**SET, "sampler": "raw"}
    assert evaluation.weights_to_sample(raw) == f"{checkpoint}/raw.safetensors"


def test_an_extractor_is_a_trained_classifier_or_a_record(make_study):
    evaluation = Evaluation(make_study(weights={"inception": "/data/my inception.pth"}))
    classifier, inception, dinov2 = (
        {**SET, "extractor": name} for name in ("classifier", "inception", "dinov2")
    )
    weights = "results/data/digits/extractors/classifier.safetensors"
    assert evaluation.extractor_of_experiment(classifier) == weights
    record = "results/extractors/inception.json"
    assert evaluation.extractor_of_experiment(inception) == record
    assert evaluation.extractor_of_data({"dataset": "d", "extractor": "inception"}) == record
    files = SimpleNamespace(extractor=weights)
    assert evaluation.weights_option(classifier, files) == f"--weights {weights}"
    assert evaluation.weights_option(inception, files) == "--weights '/data/my inception.pth'"
    assert evaluation.weights_option(dinov2, files) == ""  # in the cache
    assert evaluation.search_option(inception) == "--path '/data/my inception.pth'"
    assert evaluation.search_option(dinov2) == evaluation.fetch_option() == ""


def test_weights_are_downloaded_if_config_yaml_says_so(make_study):
    assert Evaluation(make_study(fetch_weights=True)).fetch_option() == "--fetch"


def test_metrics_go_to_the_extractor_that_they_need(make_study):
    changes = {
        "evaluation.extractor": "inception",
        "evaluation.metrics": ["fid", "fd-dinov2", "kid"],
        "evaluation.distances": "adm",
    }
    evaluation = Evaluation(make_study(changes))
    job = {**SET, "extractor": "inception"}
    assert evaluation.metrics_of_extractor(job) == ("fid", "kid")
    assert evaluation.metrics_of_extractor({**SET, "extractor": "dinov2"}) == ("fd-dinov2",)
    assert evaluation.distances(job) == "adm"
    assert evaluation.statistics(job) == f"{DIRECTORY}/inception.npz"
    assert evaluation.sample_features(job) == f"{DIRECTORY}/inception-features.npy"
    assert evaluation.description(job) == f"{DIRECTORY}/samples.json"
    assert len(evaluation.all_metrics({"experiment": "tiny"})) == 3 * 2 * 2


def test_the_tables_are_those_of_the_requested_experiments(make_study):
    evaluation = Evaluation(make_study({}, {"name": "b"}))
    assert evaluation.targets() == ["results/tiny/metrics.csv", "results/b/metrics.csv"]


def test_shared_samples_lie_with_their_owner(make_study):
    """The weights with the run's owner, the images with theirs, metrics with the experiment."""
    study = make_study({}, {"name": "child"}, kind=SharingStudy)
    study.owners = {"sit": "tiny"}
    evaluation, job = Evaluation(study), {**SET, "experiment": "child"}
    assert evaluation.weights_to_sample(job).startswith("results/tiny/runs/sit/")
    assert evaluation.statistics({**job, "extractor": "classifier"}).startswith("results/child/")
    study.owners["samples of sit"] = "tiny"
    assert evaluation.owned_samples(job) == SET
    assert evaluation.statistics({**job, "extractor": "classifier"}).startswith("results/tiny/")
    metrics = evaluation.all_metrics({"experiment": "child"})
    assert len(metrics) == 6
    assert all(path.startswith("results/child/") for path in metrics)
    assert len(evaluation.jobs()) == len(evaluation.sample_targets()) == 6 + 4


def test_the_only_checkpoint_of_an_imported_run_is_sampled(make_study):
    changes = {
        "runs": {"sit": {}, "public": {"imported": IMPORTED}},
        "figures.sample_checkpoints": [4, 5],
    }
    sets = Evaluation(make_study(changes)).sample_sets("tiny")
    assert [samples["step"] for samples in sets if samples["run"] == "public"] == [5]
