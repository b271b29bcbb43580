"""The workflow on a real SLURM: what it asks for, and what clusters do to jobs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
import yaml

from selftrans.runtime.tensors import load_tensors
from tests.conftest import REPOSITORY, tiny_values
from tests.test_workflow import DATA

PROFILE = "workflow/profiles/slurm"
FAST = [
    "--slurm-init-seconds-before-status-checks", "3", "--seconds-between-status-checks", "1", "--latency-wait", "10",
]  # fmt: skip
STEPS = 6000
SAMPLER = {"ode": {"sampler": "euler", "num_steps": 2, "num_samples": 20}}


class Workplace:
    """A copy of the workflow with tiny experiments, on a cluster."""

    def __init__(self, directory, cluster):
        self.directory, self.cluster = directory, cluster
        self.started = []
        for name in ("Snakefile", "workflow", "profiles", "experiments", "envs"):
            source = REPOSITORY / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, directory / name)
        (directory / "experiments/data/tiny.yaml").write_text(yaml.safe_dump(DATA))
        runs = {name: tiny_values()["runs"][name] for name in ("sit", "vae-align")}
        asked = {"train": {"mem_mb": 1500, "runtime": 7}, "generate": {"mem_mb": 1400}, "evaluate": {"mem_mb": 1300}}
        self.write("tiny", runs=runs, resources=asked, **{"evaluation.samplers": SAMPLER})
        slow = {"training.checkpoints": [STEPS], "figures.sample_checkpoints": [STEPS], "training.log_every": 500}
        for name in ("preempted", "warned", "cancelled", "interrupted", "abandoned"):
            self.write(name, runs={"sit": {}}, resources=asked, **slow)
        pair = {"train": {"nodes": 2, "processes": 2, "mem_mb": 1500}}
        self.write("pair", runs={"sit": {}}, resources=pair)

    def write(self, name, **changes):
        values = tiny_values(**{"data": "tiny", **changes})
        values["name"] = name
        (self.directory / f"experiments/{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def config(self, experiment, **settings):
        content = {"experiments": [experiment], **settings}
        (self.directory / "config.yaml").write_text(yaml.safe_dump(content))

    def start(self, *words):
        command = ["snakemake", *words, "--workflow-profile", PROFILE, *FAST]
        environment = {**os.environ, "SLURM_CONF": str(self.cluster.configuration)}
        environment.pop("OMP_NUM_THREADS", None)
        log = self.directory / "snakemake.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=self.directory, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        self.started.append(process)
        return process

    def end(self):
        """End what a failed test left running."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()

    def run(self, *words, seconds=400):
        return self.start(*words).wait(seconds)

    def said(self):
        return (self.directory / "snakemake.log").read_text()

    def state(self, experiment):
        return self.directory / f"results/{experiment}/runs/sit/seed0/state"

    def log(self, experiment, step=STEPS):
        return (self.directory / f"results/{experiment}/runs/sit/seed0/logs/train-{step}.log").read_text()

    def weights(self, experiment, step=STEPS):
        path = self.directory / f"results/{experiment}/runs/sit/seed0/checkpoints/{step}/raw.safetensors"
        return load_tensors(path, "weights")[0]

    def start_training(self, experiment, **settings):
        """Submit one training and wait until it is at work; Snakemake's process and the job."""
        self.config(experiment, **settings)
        shutil.rmtree(self.directory / f"results/{experiment}", ignore_errors=True)
        process = self.start(f"results/{experiment}/runs/sit/seed0/checkpoints/{STEPS}/ema.safetensors")
        self.cluster.wait_for(lambda: (self.state(experiment) / "owner.json").is_file() or process.poll() is not None)
        assert process.poll() is None, self.said()
        (job,) = self.cluster.jobs("RUNNING")
        time.sleep(4)  # some steps
        return process, job


@pytest.fixture(scope="module")
def place(cluster, tmp_path_factory):
    """A workplace where the whole lifecycle was run once."""
    made = Workplace(tmp_path_factory.mktemp("place"), cluster)
    made.config("tiny")
    try:
        ended = made.run()
        assert ended == 0, made.said()[-6000:]
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def undisturbed(place):
    """The weights of the slow run, trained without a cluster."""
    directory = place.directory / "undisturbed"
    words = [sys.executable, "-m", "selftrans.training", "experiments/preempted.yaml", "--run", "sit", "--seed", "0"]
    words += ["--until", STEPS, "--latents", "results/data/tiny/latents/manifest.json", "--directory", directory]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*map(str, words)], cwd=place.directory, env=environment, check=True, capture_output=True)
    return load_tensors(directory / f"checkpoints/{STEPS}/raw.safetensors", "weights")[0]


def assert_bit_equal(found, expected):
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_lifecycle_asks_for_what_the_rules_declare(place, cluster):
    assert len(pd.read_csv(place.directory / "results/tiny/metrics.csv")) == 4
    assert (place.directory / "results/tiny/figures/convergence.png").is_file()
    submitted = re.findall(r"SLURM jobid (\d+)", place.said())
    assert len(submitted) == len(set(submitted))
    asked = {}
    for line in cluster.say("squeue", "-h", "-t", "all", "-o", "%i|%k|%m|%l|%C|%P|%T").splitlines():
        number, comment, memory, limit, cpus, partition, state = line.split("|")
        if number in submitted:
            asked.setdefault(re.sub(r"^rule_|_wildcards.*$", "", comment), set()).add(
                (memory, limit, cpus, partition, state)
            )
    trained = next(found for rule, found in asked.items() if rule.startswith("train_segment"))
    assert trained == {("1500M", "7:00", "1", "cpu", "COMPLETED")}
    sampled = next(found for rule, found in asked.items() if rule.startswith("generate_samples"))
    assert sampled == {("1400M", "1:00:00", "1", "cpu", "COMPLETED")}
    # What draws and tabulates does not wait in a queue.
    assert not [rule for rule in asked if rule.startswith(("plot_", "table"))]
    # Autoencoder, classifier, latents, reference; four segments and sets of samples; features and metrics of a set are one.
    assert len(submitted) == 4 + 4 + 4 + 4


GPU_SNAKEFILE = """
rule all:
    input: expand("cards/{number}-{gpus}", zip, number=range(4), gpus=[1, 1, 2, 2])
rule card:
    output: "cards/{number}-{gpus}"
    resources: gpu=lambda wildcards: int(wildcards.gpus), mem_mb=500, runtime=5
    shell: "python -c 'from selftrans.runtime.devices import lease_gpus; lease_gpus({wildcards.gpus})'; "
           "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $SLURM_JOB_PARTITION $(date +%s.%N) > {output}.tmp; sleep 6; "
           "(cat {output}.tmp; date +%s.%N) > {output}; rm {output}.tmp"
"""


def test_gpus_are_those_that_slurm_leases(place, cluster):
    """Four concurrent jobs of one and two pretended cards, on two nodes with two each: never one card twice."""
    (place.directory / "cards.smk").write_text(GPU_SNAKEFILE)
    assert place.run("--snakefile", "cards.smk") == 0, place.said()
    used = []
    for path in sorted((place.directory / "cards").iterdir()):
        node, cards, partition, begun, ended = path.read_text().split()
        assert partition == "gpu"
        assert len(cards.split(",")) == int(path.name.split("-")[1])
        used += [((node, card), float(begun), float(ended)) for card in cards.split(",")]
    for place_1, (card, begun, ended) in enumerate(used):
        for other, begun_2, ended_2 in used[:place_1]:
            assert card != other or ended < begun_2 or ended_2 < begun


def test_two_nodes_train_as_one_job(place, cluster):
    place.config("pair")
    target = "results/pair/runs/sit/seed0/checkpoints/8/ema.safetensors"
    assert place.run(target) == 0, place.said() + place.log("pair", 4)
    numbers = re.findall(r"SLURM jobid (\d+)", place.said())
    assert "NumNodes=2" in cluster.say("scontrol", "show", "job", numbers[-1])
    alone = place.weights("tiny", 8)
    for name, tensor in place.weights("pair", 8).items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-5)


def test_gpus_of_two_nodes_are_shared_evenly(place, cluster):
    """What a training on two nodes with two GPUs would run: a task on each node, one card for each."""
    place.config("pair", resources={"train": {"gpu": 2, "nodes": 2}})
    ended = subprocess.run(
        ["snakemake", "-n", "--force", "--cores", "2", "results/pair/runs/sit/seed0/checkpoints/4/ema.safetensors"],
        cwd=place.directory, capture_output=True, text=True, check=True,
    )  # fmt: skip
    asked = re.search(r"slurm_extra=(.*?), (?:tasks_per_gpu|nodes)=", ended.stdout)[1]
    starts = re.search(r"launcher=(srun .*?)(?:, \w+=|$)", ended.stdout, re.MULTILINE)[1]
    words = ["sbatch", "--parsable", "--wait", "-p", "gpu", "--nodes=2", "--ntasks=2", "--gpus=2", *asked.split()]
    output = place.directory / "cards.txt"
    echo = "bash -c 'echo $SLURMD_NODENAME:$CUDA_VISIBLE_DEVICES'"
    cluster.say(*words, "-o", str(output), "--wrap", f"{starts} {echo}")
    cards = [line for line in output.read_text().splitlines() if re.fullmatch(r"n[12]:[01]", line)]  # one card for each
    assert sorted(line.split(":")[0] for line in cards) == ["n1", "n2"], output.read_text()


def test_a_preempted_job_is_requeued_and_ends_with_the_same_bits(place, cluster, undisturbed):
    process, job = place.start_training("preempted")
    urgent = cluster.say(
        "sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"
    )
    cluster.wait_for(lambda: [one for one in cluster.jobs("PENDING") if one["id"] == job["id"]])
    assert urgent.strip() != job["id"]
    cluster.wait_for(lambda: not [one for one in cluster.jobs() if one["partition"] == "urgent"])
    assert "SIGTERM" in place.log("preempted")
    cluster.say("scontrol", "update", f"JobId={job['id']}", "StartTime=now")  # it is held for two minutes
    assert process.wait(200) == 0, place.said()
    assert "Restarts=1" in cluster.say("scontrol", "show", "job", job["id"])
    assert_bit_equal(place.weights("preempted"), undisturbed)


def test_a_training_is_warned_before_its_time_is_up_and_goes_on_in_another_job(place, cluster, undisturbed):
    process, job = place.start_training("warned")
    cluster.say("scontrol", "update", f"JobId={job['id']}", "TimeLimit=1")
    cluster.wait_for(lambda: "SIGUSR1 at step" in place.log("warned"))  # before Snakemake begins the log anew
    assert process.wait(300) == 0, place.said()
    assert len(re.findall(r"SLURM jobid (\d+)", place.said())) == 2
    assert_bit_equal(place.weights("warned"), undisturbed)


def test_a_job_cancelled_from_outside_is_an_error_and_no_hang(place, cluster):
    process, job = place.start_training("cancelled", retries=0)
    cluster.say("scancel", job["id"])
    assert process.wait(60) != 0
    assert "Error in rule train_segment" in place.said()


def test_ctrl_c_cancels_the_jobs_and_the_next_call_finishes(place, cluster, undisturbed):
    process, _ = place.start_training("interrupted")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    cluster.wait_for(lambda: not cluster.jobs("RUNNING", "PENDING"))
    assert place.run(f"results/interrupted/runs/sit/seed0/checkpoints/{STEPS}/ema.safetensors") == 0, place.said()
    assert_bit_equal(place.weights("interrupted"), undisturbed)


def test_a_second_writer_is_locked_out(place, cluster, undisturbed):
    """Snakemake is killed, its job is not; a second one is told who writes there."""
    process, job = place.start_training("abandoned", retries=0)
    process.kill()
    process.wait()
    assert cluster.jobs("RUNNING") == [job]
    target = f"results/abandoned/runs/sit/seed0/checkpoints/{STEPS}/ema.safetensors"
    subprocess.run(["snakemake", "--unlock"], cwd=place.directory, check=True, capture_output=True)
    assert place.run(target) != 0
    assert "another training writes there (process" in place.log("abandoned")
    assert f"job {job['id']}" in place.log("abandoned")
    cluster.wait_for(lambda: not cluster.jobs("RUNNING"))
    assert place.run(target) == 0, place.said()
    assert_bit_equal(place.weights("abandoned"), undisturbed)
