"""What jobs ask for: the configuration first, then estimates, never above the profile's ceiling."""

import re
from types import SimpleNamespace

import pytest

from selftrans.config import JobResources, ResourcesConfig
from selftrans.runtime.errors import UserError
from selftrans.training.work import segment_work
from tests.support import REPOSITORY
from workflow.lib.memory import small_memory, statistics_memory, training_memory
from workflow.lib.resources import REQUESTS, Requests, attempt_number, time_ceiling
from workflow.lib.slurm import Slurm
from workflow.lib.study import Study
from workflow.lib.work import gpu_hours

SEGMENT = {"experiment": "imagenet256-b2", "run": "sit", "seed": "0", "step": "100000"}
SAMPLES = {**SEGMENT, "sampler": "sde", "number": "10000"}
STATISTICS = {**SAMPLES, "extractor": "inception"}
LATENTS = {"dataset": "imagenet256"}


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Load the study here; look for the state of its trainings where there is none."""

    def make(resources=None, **settings):
        monkeypatch.chdir(REPOSITORY)
        config = {"experiments": "imagenet256-b2", "resources": resources or {}, **settings}
        study = Study.load(config)
        monkeypatch.chdir(tmp_path)
        return study

    return make


@pytest.fixture
def requests(load):
    """What the rules ask for under a configuration and a ceiling."""

    def make(ceiling=None, in_job=False, **resources):
        return Requests(load(resources), ceiling, in_job)

    return make


def test_every_row_is_a_rule_and_every_rule_has_its_row():
    text = "\n".join(
        path.read_text() for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk"))
    )
    rules = set(re.findall(r"^(?:use )?rule (?:\w+ as )?(\w+)", text, re.MULTILINE))
    requested = set(re.findall(r'request\("(\w+)"\)', text))
    assert requested == set(REQUESTS)
    assert requested - {"plot"} <= rules


def test_what_the_configuration_says_is_requested(requests):
    train = {"gpu": 4, "nodes": 2, "threads": 6, "mem_mb": 1234, "runtime": 30, "batch_size": 3}
    segment = requests(train=train)("train_segment")
    resources = [
        segment.threads, segment.gpu, segment.nodes, segment.mem_mb(SEGMENT, attempt=3),
        segment.runtime(SEGMENT), segment.batch_size, segment.processes,
    ]  # fmt: skip
    assert resources == [6, 4, 2, 1234, 30, 3, 4]
    assert segment.device == "cuda"


def test_what_experiments_are_granted_differently_is_a_function_of_the_job(load):
    study = load({"train": {"gpu": 2}})
    study.resources["other"] = ResourcesConfig(train=JobResources(gpu=0, processes=3))
    segment, other = Requests(study)("train_segment"), {**SEGMENT, "experiment": "other"}
    for of, expected in (
        (segment.gpu, (2, 0)),
        (segment.device, ("cuda", "cpu")),
        (segment.processes, (2, 3)),
    ):
        assert (of(SEGMENT), of(other)) == expected
    assert segment.nodes == 1


def test_a_time_limit_is_estimated_on_gpus_with_headroom(requests, load):
    segment = requests(train={"gpu": 8})("train_segment")
    study = load({"train": {"gpu": 8}})
    experiment = study.experiments["imagenet256-b2"]
    work = segment_work(experiment, experiment.runs["sit"], 50_000, 100_000)
    minutes = 60 * gpu_hours(work, study.settings.rates.model_dump()) / 8
    assert segment.runtime(SEGMENT) == pytest.approx(10 + 1.5 * (minutes + 2), abs=2)
    faster = Requests(load({"train": {"gpu": 8}}, rates={"bf16": 1000.0}))("train_segment")
    assert faster.runtime(SEGMENT) < segment.runtime(SEGMENT) / 3


@pytest.mark.parametrize(
    ("rule", "job", "minutes"),
    [
        ("train_segment", SEGMENT, 60),
        ("reference_statistics", {**LATENTS, "extractor": "inception"}, 240),
        ("block_features", SEGMENT, 240),
        ("freeze_teacher", SEGMENT, 10),  # what light jobs have by default
        ("plot_similarity", SEGMENT, 60),
    ],
)
def test_a_job_on_cpus_has_a_stated_limit(requests, rule, job, minutes):
    none = {kind: {"gpu": 0} for kind in ("data", "train", "evaluate")}
    assert requests(**none)(rule).runtime(job) == minutes


def test_nobody_knows_how_long_an_unknown_number_of_images_takes(load):
    changes = {"imagenet256": {"images": None, "reference": None}}
    gpus = {"extract": {"gpu": 2}, "data": {"gpu": 2}}
    requests = Requests(load(gpus, data=changes))
    assert requests("extract_latents").runtime(LATENTS) == 60
    assert requests("reference_statistics").runtime({**LATENTS, "extractor": "inception"}) == 240
    fast = {"fp32": 1e6}  # decoding takes longer than encoding
    granted = {**gpus, "extract": {"gpu": 2, "threads": 2}}
    known = Requests(load(granted, rates=fast))("extract_latents")
    decoding = 1281167 / 100 / 2 / 60
    assert known.runtime(LATENTS) == pytest.approx(10 + 1.5 * decoding, abs=1)


@pytest.mark.parametrize(
    ("rule", "job", "ceiling", "limit"),
    [
        ("train_segment", SEGMENT, 60, 60),
        ("sample_statistics", STATISTICS, 25, 12),  # two jobs share it
        ("metrics", STATISTICS, 13, 6),
        ("freeze_teacher", SEGMENT, 60, 10),  # below it anyway
    ],
)
def test_no_limit_exceeds_the_ceiling_or_its_share(requests, rule, job, ceiling, limit):
    gpus = {"train": {"gpu": 1}, "evaluate": {"gpu": 1, "runtime": 500}}
    assert requests(ceiling, **gpus)(rule).runtime(job) == limit


def test_light_jobs_alone_ask_for_more_memory_at_every_attempt(requests):
    for rule, factor in (("freeze_teacher", 3), ("plot", 3), ("train_segment", 1)):
        request = requests()(rule)
        assert request.mem_mb(SEGMENT, attempt=3) == factor * request.mem_mb(SEGMENT, attempt=1)


def test_memory_is_estimated_by_the_job(requests, load):
    requested = requests(train={"gpu": 4, "nodes": 2})
    experiment = load({"train": {"gpu": 4, "nodes": 2}}).experiments["imagenet256-b2"]
    segment = training_memory(experiment, experiment.runs["sit"], 4, 2, True)
    assert requested("train_segment").mem_mb(SEGMENT, 1) == segment
    jobs = {
        "classifier": LATENTS, "extract_latents": LATENTS, "import_checkpoint": SEGMENT,
        "generate_samples": SAMPLES, "sample_statistics": STATISTICS,
    }  # fmt: skip
    for rule, job in jobs.items():
        assert requested(rule).mem_mb(job, 1) % 100 == 0
        assert requested(rule).mem_mb(job, 1) >= 1000
    assert requested("classifier").mem_mb(LATENTS, 1) in (small_memory(False), small_memory(True))


def test_features_that_are_probed_are_held_in_memory(make_study):
    study = make_study({"analysis": {"num_images": 1_000_000}})
    job = {"experiment": "tiny", "run": "sit", "seed": 0}
    requests = Requests(study)
    probes = requests("probe_blocks").mem_mb(job, 1)
    assert probes > 4 * 1.5 * 4 * 4 * 32  # times, blocks, hidden size, a million images
    assert requests("block_features").mem_mb(job, 1) > probes


@pytest.mark.parametrize(
    ("metrics", "kind"), [(["fid", "is"], "light"), (["fid", "recall"], "evaluate")]
)
def test_metrics_with_distances_are_heavy(make_study, metrics, kind):
    resources = {"light": {"threads": 1, "mem_mb": 1000}, "evaluate": {"threads": 4}}
    study = make_study({"evaluation.metrics": metrics, "resources": resources})
    job = {"experiment": "tiny", "run": "sit", "extractor": "classifier"}
    request = Requests(study)("metrics")
    if kind == "light":
        assert (request.threads(job), request.mem_mb(job, attempt=2)) == (1, 2000)
    else:
        memory = statistics_memory("classifier", 1, False, 1)
        assert (request.threads(job), request.mem_mb(job, attempt=2)) == (4, memory)


def test_as_many_attempts_as_time_limits_need(requests):
    """A segment of several hours within limits of an hour, ten minutes of which are the start."""
    gpus = {"train": {"gpu": 1}, "generate": {"gpu": 1}}
    unlimited, limited = requests(**gpus), requests(60, **gpus)
    assert unlimited("train_segment").retries([SEGMENT]) == 3  # as configured
    needed = limited("train_segment").retries([SEGMENT]) - 3
    minutes = unlimited("train_segment").runtime(SEGMENT) - 10
    assert needed == pytest.approx(minutes / 50, abs=1)
    assert limited("train_segment").retries([]) == 3
    assert unlimited("generate_samples").retries([SAMPLES]) is None  # what the command line says


def test_within_a_job_nothing_is_retried(requests):
    gpus = {"train": {"gpu": 1}, "generate": {"gpu": 1}}
    in_job = requests(60, in_job=True, **gpus)
    assert in_job("train_segment").retries([SEGMENT]) == 0
    assert in_job("generate_samples").retries([SAMPLES]) is None


def test_the_ceiling_is_the_profiles_longest_time():
    assert time_ceiling(None) is None
    assert time_ceiling({"slurm_account": SimpleNamespace(raw="me")}) is None
    assert time_ceiling({"max_runtime": SimpleNamespace(raw="1440")}) == 1440
    with pytest.raises(UserError, match="default-resources: max_runtime: 'a day' is not a number"):
        time_ceiling({"max_runtime": SimpleNamespace(raw="a day")})


def test_a_job_knows_its_attempt():
    assert attempt_number({}, 4) == 4


# -- SLURM


def test_a_training_is_warned_before_its_end(load):
    study = load({"train": {"runtime": 30}})
    slurm = Slurm(study, Requests(study)("train_segment"))
    assert slurm.warning(SEGMENT) > 60  # a minute, and its save
    assert slurm.options(SEGMENT) == f"--signal=USR1@{slurm.warning(SEGMENT)}"
    short = load({"train": {"runtime": 2}})
    assert Slurm(short, Requests(short)("train_segment")).warning(SEGMENT) == 40  # a third


def test_several_nodes_have_as_many_gpus_each_and_one_task(load):
    study = load({"train": {"gpu": 16, "nodes": 2, "threads": 12, "runtime": 600}})
    slurm = Slurm(study, Requests(study)("train_segment"))
    assert slurm.options(SEGMENT).endswith(" --gpus-per-node=8")
    launcher = slurm.launcher(SEGMENT)
    assert launcher.startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=12 ")
    assert launcher.endswith(" ")  # the command follows
